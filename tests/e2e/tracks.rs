//! Views as sources where it is hard: keys that servers compare in their own ways, keys that are NULL or of several columns, tables that are
//! emptied, mappings that come and go, and very much at once.

use std::path::Path;
use std::time::Duration;

use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;
use super::{SOON, soaking};

/// Two servers and a daemon between them.
pub(super) struct World {
    pub a: Side,
    pub b: Side,
    pub folder: tempfile::TempDir,
    pub daemon: Daemon,
}

impl World {
    /// A source with these statements, a target with those, and a daemon that copies and streams.
    pub async fn new(
        postgres_source: bool,
        source: &[&str],
        target: &[&str],
        mapped: &str,
    ) -> World {
        World::between((postgres_source, !postgres_source), source, target, mapped).await
    }

    /// The same between servers of which each is a PostgreSQL or not.
    pub async fn between(
        (postgres_source, postgres_target): (bool, bool),
        source: &[&str],
        target: &[&str],
        mapped: &str,
    ) -> World {
        let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
        for sql in source {
            let of_postgres = sql.starts_with("ALTER TABLE") && sql.contains("REPLICA IDENTITY");
            if postgres_source || !of_postgres {
                a.sql(sql).await;
            }
        }
        for sql in target {
            b.sql(sql).await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let text = configured(folder.path(), &a, &b, mapped);
        let config = folder.path().join("tidelock.toml");
        std::fs::write(&config, &text).expect("config");
        let (code, said) = command(&config, &["check"]);
        assert_eq!(code, 0, "{said}");
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        World { a, b, folder, daemon }
    }

    /// Waits until both queries say the same.
    pub async fn equal(&self, source: &str, target: &str) {
        equal(&self.daemon, (&self.a, source), (&self.b, target)).await;
    }

    /// Takes up another list of mappings.
    pub fn reload(&self, mapped: &str) {
        let text = configured(self.folder.path(), &self.a, &self.b, mapped);
        std::fs::write(self.folder.path().join("tidelock.toml"), text).expect("config");
        let (code, said) = self.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}\n{}", self.daemon.log());
    }

    /// Waits until a mapping is in a state.
    pub async fn state(&self, mapping: &str, state: &str) {
        self.daemon.wait(state, SOON, |flows| is_in(flows, mapping, state)).await;
    }
}

fn configured(folder: &Path, a: &Side, b: &Side, mapped: &str) -> String {
    super::config(folder, &[("a", a.url()), ("b", b.url())], &[]) + mapped
}

fn is_in(flows: &[serde_json::Value], mapping: &str, state: &str) -> bool {
    let mut mappings = flows.iter().filter_map(|f| f["mappings"].as_array()).flatten();
    mappings.any(|m| m["name"] == mapping && m["state"] == state)
}

/// A view of its own rows, by a text.
const WORDS: &[&str] = &[
    "CREATE TABLE word (id int NOT NULL PRIMARY KEY, spelling varchar(40) NOT NULL, note varchar(40))",
    "ALTER TABLE word REPLICA IDENTITY FULL",
    "CREATE VIEW spelt AS SELECT spelling, max(note) AS note, count(*) AS n FROM word GROUP BY spelling",
];
const SPELT: &str = "CREATE TABLE spelt (spelling varchar(40) NOT NULL PRIMARY KEY, note varchar(40), n bigint NOT NULL)";
const BY_WORD: &str =
    "[[mappings]]\nfrom = \"a.spelt\"\nto = \"b.spelt\"\ntracks = { 'a.word' = \"spelling\" }\n";

async fn spelt(postgres_source: bool) {
    let world = World::new(postgres_source, WORDS, &[SPELT], BY_WORD).await;
    let by_bytes = |bytes: &str| format!("SELECT spelling, note, n FROM spelt ORDER BY {bytes}");
    let (postgres, mariadb) =
        (by_bytes("spelling COLLATE \"C\""), by_bytes("CAST(spelling AS binary)"));
    let (want, have) = if postgres_source { (postgres, mariadb) } else { (mariadb, postgres) };
    for sql in [
        "INSERT INTO word VALUES (1, 'strasse', 'a'), (2, 'Ähre', 'b'), (3, 'o''neill \\ x', 'c'), (4, '', 'd')",
        // A key that MariaDB takes for the same as the one that it was.
        "UPDATE word SET spelling = 'STRASSE' WHERE id = 1",
        "UPDATE word SET spelling = 'ähre', note = 'e' WHERE id = 2",
        "UPDATE word SET spelling = 'x' WHERE id = 4",
        "DELETE FROM word WHERE id = 3",
        "UPDATE word SET spelling = 'Strasse', note = 'f' WHERE id = 1",
        "DELETE FROM word WHERE id = 1",
        "INSERT INTO word VALUES (1, 'sTRASSE', 'g')",
    ] {
        world.a.sql(sql).await;
        world.equal(&want, &have).await;
    }
    // All of it in one batch, after a standstill.
    let World { a, b, folder: _folder, mut daemon } = world;
    daemon.kill();
    a.sql("UPDATE word SET spelling = 'StrassE', note = 'h' WHERE id = 1").await;
    a.sql("INSERT INTO word VALUES (9, 'y', NULL)").await;
    a.sql("UPDATE word SET spelling = 'Y' WHERE id = 9").await;
    daemon.start_again();
    equal(&daemon, (&a, &want), (&b, &have)).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_text_may_change_its_case_from_postgres_to_mariadb() {
    spelt(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_text_may_change_its_case_from_mariadb_to_postgres() {
    spelt(false).await;
}

/// Totals by two columns, of which rows may lack one; a filter over a column that goes nowhere.
async fn totals(postgres_source: bool) {
    let source = [
        "CREATE TABLE entry (id int NOT NULL PRIMARY KEY, region int, kind varchar(5), amount int NOT NULL)",
        "ALTER TABLE entry REPLICA IDENTITY FULL",
        "CREATE TABLE region (id int NOT NULL PRIMARY KEY, secret int NOT NULL)",
        "CREATE VIEW total AS SELECT e.region, e.kind, sum(e.amount) AS amount, max(r.secret) AS secret FROM entry e \
         JOIN region r ON r.id = e.region WHERE e.kind IS NOT NULL GROUP BY e.region, e.kind",
        "INSERT INTO region VALUES (1, 0), (2, 0), (3, 1)",
        "INSERT INTO entry VALUES (1, 1, 'a', 5), (2, NULL, 'a', 6), (3, 3, 'b', 7)",
    ];
    let target = "CREATE TABLE total (region int NOT NULL, kind varchar(5) NOT NULL, amount bigint NOT NULL, PRIMARY KEY (region, kind))";
    let mapped = "[[mappings]]\nfrom = \"a.total\"\nto = \"b.total\"\nwhere = \"secret = 0\"\n\
        columns = { region = \"region\", kind = \"kind\", amount = \"amount\" }\n\
        [mappings.tracks]\n'a.entry' = { columns = [\"region\", \"kind\"] }\n\
        'a.region' = { keys = \"SELECT region, kind FROM entry WHERE region IN (:id)\" }\n";
    let world = World::new(postgres_source, &source, &[target], mapped).await;
    let want = "SELECT region, kind, sum(amount) FROM entry WHERE region IN (SELECT id FROM region WHERE secret = 0) AND kind IS NOT NULL GROUP BY region, kind ORDER BY 1, 2";
    let have = "SELECT region, kind, amount FROM total ORDER BY 1, 2";
    for sql in [
        "UPDATE entry SET region = 2 WHERE id = 2",
        "UPDATE entry SET region = NULL WHERE id = 2",
        "UPDATE entry SET kind = NULL WHERE id = 1",
        "INSERT INTO entry VALUES (4, NULL, NULL, 1), (5, 1, 'a', 2), (6, 1, 'b', 3)",
        "UPDATE region SET secret = 1 WHERE id = 1",
        "UPDATE region SET secret = 1 - secret",
        "DELETE FROM entry WHERE id = 4",
        // Gone and back in one transaction, and gone for good in one.
        "BEGIN; DELETE FROM entry WHERE id = 3; INSERT INTO entry VALUES (3, 3, 'b', 8); COMMIT",
        "BEGIN; INSERT INTO entry VALUES (7, 3, 'c', 9); DELETE FROM entry WHERE id = 7; COMMIT",
        "BEGIN; DELETE FROM region WHERE id = 3; INSERT INTO region VALUES (3, 0); COMMIT",
        "DELETE FROM region WHERE id = 3",
    ] {
        world.a.sql(sql).await;
        world.equal(want, have).await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_columns_and_of_none_from_postgres() {
    totals(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_columns_and_of_none_from_mariadb() {
    totals(false).await;
}

/// A unique value that one row gives up and another takes: in one transaction, in several that are read again at once, with a row that
/// goes.
async fn used_again(postgres_source: bool) {
    let source = [
        "CREATE TABLE part (id int NOT NULL PRIMARY KEY, code varchar(20) NOT NULL, live int NOT NULL)",
        "CREATE VIEW offer AS SELECT id, code FROM part WHERE live = 1",
        "INSERT INTO part VALUES (1, 'x', 1), (2, 'y', 1)",
    ];
    let target =
        "CREATE TABLE offer (id int NOT NULL PRIMARY KEY, code varchar(20) NOT NULL UNIQUE)";
    let mapped =
        "[[mappings]]\nfrom = \"a.offer\"\nto = \"b.offer\"\ntracks = { 'a.part' = \"id\" }\n";
    let world = World::new(postgres_source, &source, &[target], mapped).await;
    let all = "SELECT id, code FROM offer ORDER BY id";
    for sql in [
        "BEGIN; UPDATE part SET live = 0 WHERE id = 1; INSERT INTO part VALUES (3, 'x', 1); COMMIT",
        "BEGIN; DELETE FROM part WHERE id = 2; UPDATE part SET code = 'y', live = 1 WHERE id = 1; COMMIT",
        "BEGIN; UPDATE part SET code = 'z' WHERE id = 3; INSERT INTO part VALUES (4, 'x', 1); COMMIT",
    ] {
        world.a.sql(sql).await;
        world.equal(all, all).await;
    }
    let World { a, b, folder: _folder, mut daemon } = world;
    for round in 0..4 {
        daemon.kill();
        // The first of these is read again with what the last of them wrote.
        for sql in [
            "UPDATE part SET live = live WHERE id = 3",
            "UPDATE part SET live = 1 - live WHERE id = 1",
            &format!("UPDATE part SET code = 'free {round}' WHERE id = 4"),
            "UPDATE part SET code = 'x' WHERE id = 3",
        ] {
            a.sql(sql).await;
        }
        daemon.start_again();
        equal(&daemon, (&a, all), (&b, all)).await;
        for sql in [
            "UPDATE part SET code = 'between' WHERE id = 3",
            "UPDATE part SET code = 'x' WHERE id = 4",
            "UPDATE part SET code = 'z' WHERE id = 3",
        ] {
            a.sql(sql).await;
        }
        equal(&daemon, (&a, all), (&b, all)).await;
    }
    daemon.wait("streaming", SOON, |flows| is_in(flows, "offer", "streaming")).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_may_be_used_again_at_mariadb() {
    used_again(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_may_be_used_again_at_postgres() {
    used_again(false).await;
}

/// Items in shelves, and a view of both.
const SHELVES: &[&str] = &[
    "CREATE TABLE shelf (id int NOT NULL PRIMARY KEY, label varchar(40) NOT NULL)",
    "CREATE TABLE good (id int NOT NULL PRIMARY KEY, shelf int NOT NULL, qty int NOT NULL, note text)",
    "CREATE INDEX good_shelf ON good (shelf)",
    "CREATE VIEW placed AS SELECT g.id, g.qty, s.label, g.note FROM good g JOIN shelf s ON s.id = g.shelf",
];
const PLACED: &str = "CREATE TABLE placed (id int NOT NULL PRIMARY KEY, qty int NOT NULL, label varchar(40) NOT NULL, note mediumtext)";
const PLACES: &str = "[[mappings]]\nfrom = \"a.placed\"\nto = \"b.placed\"\n[mappings.tracks]\n'a.good' = \"id\"\n\
    'a.shelf' = { keys = \"SELECT id FROM good WHERE shelf IN (:id)\" }\n";
const ALL_PLACED: &str = "SELECT id, qty, label, length(note) FROM placed ORDER BY id";

async fn shelves(postgres_source: bool, mapped: &str) -> World {
    let target =
        if postgres_source { PLACED.to_owned() } else { PLACED.replace("mediumtext", "text") };
    World::new(postgres_source, SHELVES, &[&target], mapped).await
}

/// A table that a view is made of is emptied.
async fn emptied(postgres_source: bool) {
    let world = shelves(postgres_source, PLACES).await;
    world.a.sql("INSERT INTO shelf VALUES (1, 'one')").await;
    world.a.sql("INSERT INTO good VALUES (1, 1, 1, NULL), (2, 1, 1, NULL)").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    for round in 0..4 {
        world.a.sql("TRUNCATE TABLE good").await;
        world.state("placed", "stopped").await;
        // Whether or not what stopped it is behind the next start already.
        if round % 2 == 0 {
            world
                .a
                .sql(&format!("INSERT INTO good VALUES (2, 1, 7, NULL), ({round}3, 1, 1, NULL)"))
                .await;
        }
        assert_eq!(world.daemon.command(&["resync", "placed"]).0, 0);
        world.equal(ALL_PLACED, ALL_PLACED).await;
        world.state("placed", "streaming").await;
    }
    world.a.sql("UPDATE shelf SET label = 'two'").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    world.state("placed", "streaming").await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracked_table_that_is_emptied_stops_the_mapping_until_a_resync() {
    emptied(true).await;
    emptied(false).await;
}

/// A mapping of a view that is taken out of the file and comes back, that is paused and resumed, that is resynced while its tables change.
async fn comes_and_goes(postgres_source: bool) {
    let other = "[[mappings]]\nfrom = \"a.item\"\nto = \"b.item\"\n";
    let world = shelves(postgres_source, other).await;
    world.a.sql("INSERT INTO shelf VALUES (1, 'one'), (2, 'two')").await;
    for n in 1..=50 {
        world.a.sql(&format!("INSERT INTO good VALUES ({n}, {}, {n}, 'note')", 1 + n % 2)).await;
    }
    let both = format!("{other}{PLACES}");
    world.reload(&both);
    world.equal(ALL_PLACED, ALL_PLACED).await;
    world.a.sql("UPDATE good SET qty = qty + 1 WHERE id < 10").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    world.reload(other);
    // What is remembered of its rows must not keep the new copy from being made.
    world.a.sql("DELETE FROM good WHERE id > 40").await;
    world.a.sql("UPDATE shelf SET label = 'three' WHERE id = 2").await;
    world.b.sql("DELETE FROM placed WHERE id < 5").await;
    world.b.sql("UPDATE placed SET label = 'spoilt' WHERE id BETWEEN 5 AND 10").await;
    world.b.sql("DELETE FROM placed WHERE id > 40").await;
    world.reload(&both);
    world.equal(ALL_PLACED, ALL_PLACED).await;
    let (code, said) = world.daemon.command(&["pause", "placed"]);
    assert_eq!(code, 0, "{said}");
    world.a.sql("UPDATE good SET qty = qty + 100").await;
    world.a.sql("DELETE FROM good WHERE id = 7").await;
    world.a.sql("INSERT INTO item VALUES (1, 1, 'passes')").await;
    world.equal(super::ITEMS, super::ITEMS).await;
    let kept = world.b.one("SELECT max(qty) FROM placed").await;
    assert!(kept.parse::<i32>().expect("qty") < 100, "{kept}");
    let (code, said) = world.daemon.command(&["resume", "placed"]);
    assert_eq!(code, 0, "{said}");
    world.equal(ALL_PLACED, ALL_PLACED).await;
    // Resyncs and a backfill in the middle of changes.
    for round in 0..3 {
        world.b.sql("UPDATE placed SET label = 'spoilt'").await;
        let command: &[&str] =
            if round == 1 { &["backfill", "placed"] } else { &["resync", "placed"] };
        // What is being copied is not copied anew.
        world.state("placed", "streaming").await;
        let (code, said) = world.daemon.command(command);
        assert_eq!(code, 0, "{said}");
        for n in 1..=40 {
            world
                .a
                .sql(&format!("UPDATE good SET shelf = 3 - shelf, qty = qty + 1 WHERE id = {n}"))
                .await;
            if n % 5 == 0 {
                world.a.sql(&format!("DELETE FROM good WHERE id = {n}")).await;
                world.a.sql(&format!("INSERT INTO good VALUES ({n}, 1, {round}, NULL)")).await;
            }
        }
        world.equal(ALL_PLACED, ALL_PLACED).await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_comes_and_goes_from_postgres() {
    comes_and_goes(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_comes_and_goes_from_mariadb() {
    comes_and_goes(false).await;
}

/// One change that touches thousands of keys, rows that are too wide to be read together, the source away in between, a transaction of very many changes.
async fn much_at_once(postgres_source: bool) {
    let world = shelves(postgres_source, PLACES).await;
    world.a.sql("INSERT INTO shelf VALUES (1, 'one'), (2, 'two')").await;
    let goods = |from: u32, to: u32, shelf: u32| {
        let rows: Vec<String> = (from..=to).map(|n| format!("({n}, {shelf}, 1, NULL)")).collect();
        format!("INSERT INTO good VALUES {}", rows.join(", "))
    };
    world.a.sql(&goods(1, 10_000, 1)).await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    world.a.sql("UPDATE shelf SET label = 'renamed' WHERE id = 1").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    // Each fits into a question, two thousand of them do not.
    world.a.sql(&goods(20_001, 21_000, 2)).await;
    world.a.sql("UPDATE good SET note = repeat('wide ', 8000) WHERE shelf = 2").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    // The source goes away and comes back while they are read, twice.
    for label in ["again", "and again"] {
        world.a.sql(&format!("UPDATE shelf SET label = '{label}'")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.a.crash().await;
    }
    world.a.sql("UPDATE good SET qty = 3 WHERE id = 1").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    let before = world.daemon.peak_rss_kb();
    world.a.sql(&goods(100_001, if soaking() { 300_000 } else { 120_000 }, 2)).await;
    world
        .equal("SELECT count(*), sum(qty) FROM placed", "SELECT count(*), sum(qty) FROM placed")
        .await;
    world.a.sql("UPDATE good SET qty = qty + 1").await;
    world
        .equal("SELECT count(*), sum(qty) FROM placed", "SELECT count(*), sum(qty) FROM placed")
        .await;
    let peak = world.daemon.peak_rss_kb();
    println!("peak {peak} kB, before {before} kB");
    assert!(peak < 320 << 10, "peak {peak} kB, before {before} kB");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn much_at_once_from_postgres() {
    much_at_once(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_at_once_from_mariadb() {
    much_at_once(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_views_and_of_tables_are_refused_where_they_would_be_passed_over() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    for sql in SHELVES {
        a.sql(sql).await;
    }
    b.sql(PLACED).await;
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("tidelock.toml");
    for (mapped, words) in [
        (
            PLACES.replacen("[mappings.tracks]", "on_change = [\"qty\"]\n[mappings.tracks]", 1),
            "on_change is for tables",
        ),
        (
            "[[mappings]]\nfrom = \"a.item\"\nto = \"b.item\"\nrow_key = [\"id\"]\n".to_owned(),
            "row_key is for views",
        ),
        (
            "[[mappings]]\nfrom = \"a.item\"\nto = \"b.item\"\nfrom_key = [\"id\"]\n".to_owned(),
            "from_key is for views",
        ),
    ] {
        std::fs::write(&config, configured(folder.path(), &a, &b, &mapped)).expect("config");
        let (code, said) = command(&config, &["check"]);
        assert!(code == 1 && said.contains(words) && said.contains("^^"), "{said}");
    }
}

/// A routine cannot be told that all is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_emptied_stops_the_mapping_to_a_routine() {
    let source = ["CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)"];
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE PROCEDURE put_o(p_id int, p_name varchar(20)) INSERT INTO o VALUES (p_id, p_name) ON DUPLICATE KEY UPDATE name = p_name",
        "CREATE PROCEDURE remove_o(p_id int) DELETE FROM o WHERE id = p_id",
    ];
    let mapped = "[[mappings]]\nfrom = \"a.p\"\nto = { call = \"b.put_o\", delete = \"b.remove_o\" }\nkey = [\"id\"]\non_truncate = \"delete\"\n";
    let world = World::new(true, &source, &target, mapped).await;
    let (want, have) = ("SELECT id, name FROM p ORDER BY id", "SELECT id, name FROM o ORDER BY id");
    world.a.sql("INSERT INTO p VALUES (1, 'a'), (2, 'b')").await;
    world.equal(want, have).await;
    world.a.sql("UPDATE p SET id = 3 WHERE id = 1").await;
    world.equal(want, have).await;
    world.a.sql("TRUNCATE p").await;
    world.state("p", "stopped").await;
    let flows = world.daemon.flows();
    let error = &flows[0]["mappings"][0]["error"];
    assert_eq!(error["code"], "TL0205", "{flows:#?}");
    world.daemon.stop();
}

/// Deletes that are not seen while a mapping is paused: of a routine, of a group for a routine, of rows that are marked.
async fn unseen(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, team int NOT NULL, name varchar(20) NOT NULL)",
        "ALTER TABLE p REPLICA IDENTITY FULL",
        "CREATE VIEW v AS SELECT id, team, name FROM p",
        "INSERT INTO p VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c'), (4, 3, 'd')",
    ];
    let mut target = vec![
        "CREATE TABLE one (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE team (id int NOT NULL PRIMARY KEY, members int NOT NULL)",
        "CREATE TABLE marked (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, gone int NOT NULL)",
    ];
    target.extend(match postgres_source {
        true => [
            "CREATE PROCEDURE put_one(p_id int, p_name varchar(20)) INSERT INTO one VALUES (p_id, p_name) ON DUPLICATE KEY UPDATE name = p_name",
            "CREATE PROCEDURE remove_one(p_id int) DELETE FROM one WHERE id = p_id",
            "CREATE PROCEDURE put_team(p_team int, p_rows longtext) BEGIN DELETE FROM team WHERE id = p_team; \
             INSERT INTO team SELECT p_team, JSON_LENGTH(p_rows) FROM (SELECT 1 AS x) y WHERE JSON_LENGTH(p_rows) > 0; END",
        ],
        false => [
            "CREATE PROCEDURE put_one(p_id int, p_name varchar) LANGUAGE sql AS $$ INSERT INTO public.one VALUES (p_id, p_name) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name $$",
            "CREATE PROCEDURE remove_one(p_id int) LANGUAGE sql AS $$ DELETE FROM public.one WHERE id = p_id $$",
            "CREATE PROCEDURE put_team(p_team int, p_rows jsonb) LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.team WHERE id = p_team; \
             INSERT INTO public.team SELECT p_team, jsonb_array_length(p_rows) WHERE jsonb_array_length(p_rows) > 0; END $$",
        ],
    });
    let mapped = "[[mappings]]\nname = \"ones\"\nfrom = \"a.v\"\nto = { call = \"b.put_one\", delete = \"b.remove_one\" }\nkey = [\"id\"]\n\
        columns = { id = \"id\", name = \"name\" }\ntracks = { 'a.p' = \"id\" }\n\
        [[mappings]]\nname = \"teams\"\nfrom = \"a.v\"\nto = { call = \"b.put_team\", rows = \"p_rows\" }\non_delete = \"ignore\"\nkey = [\"team\"]\n\
        row_key = [\"id\"]\ncolumns = { team = \"team\", id = \"id\", name = \"name\" }\ntracks = { 'a.p' = \"team\" }\n\
        [[mappings]]\nname = \"marks\"\nfrom = \"a.v\"\nto = \"b.marked\"\non_delete = { set = { gone = \"1\" } }\n\
        columns = { id = \"id\", name = \"name\", gone = \"0\" }\ntracks = { 'a.p' = \"id\" }\n";
    let world = World::new(postgres_source, &source, &target, mapped).await;
    let all = [
        ("SELECT id, name FROM p ORDER BY id", "SELECT id, name FROM one ORDER BY id"),
        (
            "SELECT team, count(*) FROM p GROUP BY team ORDER BY team",
            "SELECT id, members FROM team ORDER BY id",
        ),
        (
            "SELECT id, name FROM p ORDER BY id",
            "SELECT id, name FROM marked WHERE gone = 0 ORDER BY id",
        ),
    ];
    for sql in
        ["UPDATE p SET name = 'x' WHERE id = 1", "DELETE FROM p WHERE id > 1", "DELETE FROM p"]
    {
        for (want, have) in all {
            world.equal(want, have).await;
        }
        for mapping in ["ones", "teams", "marks"] {
            world.state(mapping, "streaming").await;
            assert_eq!(world.daemon.command(&["pause", mapping]).0, 0);
        }
        world.a.sql(sql).await;
        for mapping in ["ones", "teams", "marks"] {
            assert_eq!(world.daemon.command(&["resume", mapping]).0, 0);
        }
    }
    for (want, have) in all {
        world.equal(want, have).await;
    }
    assert_eq!(world.b.one("SELECT count(*) FROM marked WHERE gone = 1").await, "4");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_unseen_is_taken_from_routines_and_marked_at_mariadb() {
    unseen(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_unseen_is_taken_from_routines_and_marked_at_postgres() {
    unseen(false).await;
}

/// Rows of a view swap unique values between two readings. Nothing that hangs on them is lost.
async fn swapped(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, mail varchar(40) NOT NULL, nick varchar(10), slot int NOT NULL)",
        "CREATE VIEW v AS SELECT id, mail, nick, slot FROM p",
        "INSERT INTO p VALUES (1, 'a@x', 'a', 1), (2, 'b@x', 'b', 2), (3, 'c@x', NULL, 3), (4, 'd@x', 'd', 4)",
    ];
    let target = [
        "CREATE TABLE v (id int NOT NULL PRIMARY KEY, mail varchar(40) NOT NULL UNIQUE, nick varchar(10) UNIQUE, slot int NOT NULL UNIQUE, own varchar(9))",
        "CREATE TABLE below (id int NOT NULL PRIMARY KEY, v int NOT NULL, FOREIGN KEY (v) REFERENCES v (id) ON DELETE CASCADE)",
    ];
    let mapped = "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\ntracks = { 'a.p' = \"id\" }\n\
        columns = { id = \"id\", mail = \"mail\", nick = \"nick\", slot = \"slot\" }\n";
    let world = World::new(postgres_source, &source, &target, mapped).await;
    let all = "SELECT id, mail, nick, slot FROM %t ORDER BY id";
    let (want, have) = (all.replace("%t", "p"), all.replace("%t", "v"));
    world.equal(&want, &have).await;
    world.b.sql("INSERT INTO below VALUES (1, 1), (2, 2), (3, 3), (4, 4)").await;
    world.b.sql("UPDATE v SET own = 'kept'").await;
    for sql in [
        "UPDATE p SET mail = CASE id WHEN 1 THEN 'b@x' ELSE 'a@x' END WHERE id < 3",
        "UPDATE p SET nick = CASE id WHEN 1 THEN 'b' WHEN 2 THEN 'd' ELSE 'a' END WHERE id IN (1, 2, 4)",
        "UPDATE p SET slot = 5 - slot, mail = concat('m', 5 - id, '@x')",
        // A circle, and a row that comes beside it.
        "UPDATE p SET mail = concat('m', 5 - id, '@y'), slot = slot % 4 + 1; INSERT INTO p VALUES (5, 'm1@x', 'e', 5)",
    ] {
        world.a.sql(sql).await;
        world.equal(&want, &have).await;
    }
    world.state("v", "streaming").await;
    assert_eq!(world.b.one("SELECT count(*) FROM below").await, "4");
    assert_eq!(world.b.one("SELECT count(*) FROM v WHERE own = 'kept'").await, "4");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_unique_values_of_a_view_arrive_at_mariadb() {
    swapped(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_unique_values_of_a_view_arrive_at_postgres() {
    swapped(false).await;
}

/// What was deleted, or left the filter, while a mapping of a table was paused is marked at its end.
async fn marked_unseen(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e')",
    ];
    let target = [
        "CREATE TABLE marked (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, gone int NOT NULL)",
    ];
    let mapped = "[[mappings]]\nname = \"marks\"\nfrom = \"a.p\"\nto = \"b.marked\"\non_delete = { set = { gone = \"1\" } }\n\
        where = \"name <> 'x'\"\ncolumns = { id = \"id\", name = \"name\", gone = \"0\" }\n";
    let world = World::new(postgres_source, &source, &target, mapped).await;
    let (all, inside) = (
        "SELECT id, name FROM p WHERE name <> 'x' ORDER BY id",
        "SELECT id, name FROM marked WHERE gone = 0 ORDER BY id",
    );
    world.equal(all, inside).await;
    for sql in [
        "DELETE FROM p WHERE id = 1",
        "UPDATE p SET name = 'x' WHERE id = 2",
        "DELETE FROM p WHERE id = 3; INSERT INTO p VALUES (6, 'f')",
    ] {
        world.state("marks", "streaming").await;
        assert_eq!(world.daemon.command(&["pause", "marks"]).0, 0);
        world.a.sql(sql).await;
        assert_eq!(world.daemon.command(&["resume", "marks"]).0, 0);
        world.equal(all, inside).await;
    }
    world.a.sql("UPDATE p SET name = 'back' WHERE id = 2").await;
    world.equal(all, inside).await;
    assert_eq!(world.b.one("SELECT count(*) FROM marked").await, "6");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_unseen_are_marked_at_mariadb() {
    marked_unseen(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_unseen_are_marked_at_postgres() {
    marked_unseen(false).await;
}

/// A table that a view is made of is emptied, alone and among other changes: the view is compared by itself.
async fn emptied_and_compared(postgres_source: bool) {
    let mapped = PLACES.replacen("[[mappings]]\n", "[[mappings]]\non_truncate = \"delete\"\n", 1);
    assert_ne!(mapped, PLACES);
    let mut world = shelves(postgres_source, &mapped).await;
    world.a.sql("INSERT INTO shelf VALUES (1, 'one')").await;
    for round in 0..4 {
        world
            .a
            .sql(&format!(
                "INSERT INTO good VALUES (1, 1, {round}, NULL), (2, 1, 1, NULL), ({round}7, 1, 1, NULL)"
            ))
            .await;
        world.equal(ALL_PLACED, ALL_PLACED).await;
        match (round, postgres_source) {
            (0, _) => world.a.sql("TRUNCATE TABLE good").await,
            (1, true) => {
                world.a.sql("BEGIN; INSERT INTO good VALUES (8, 1, 1, NULL); TRUNCATE TABLE good; INSERT INTO good VALUES (9, 1, 1, NULL); COMMIT").await;
                world.equal(ALL_PLACED, ALL_PLACED).await;
                world.a.sql("DELETE FROM good").await;
            }
            (2, _) => {
                world.daemon.kill();
                world.a.sql("TRUNCATE TABLE good").await;
                world.daemon.start_again();
            }
            _ => {
                world.a.sql("TRUNCATE TABLE good").await;
                world.daemon.kill_and_start();
            }
        }
        world.equal(ALL_PLACED, ALL_PLACED).await;
    }
    world.a.sql("INSERT INTO good VALUES (1, 1, 3, NULL)").await;
    world.a.sql("UPDATE shelf SET label = 'two'").await;
    world.equal(ALL_PLACED, ALL_PLACED).await;
    world.state("placed", "streaming").await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_whose_table_was_emptied_is_compared_by_itself_from_postgres() {
    emptied_and_compared(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_whose_table_was_emptied_is_compared_by_itself_from_mariadb() {
    emptied_and_compared(false).await;
}

/// One transaction brings, and one takes away, more rows of a view than keys are kept, and what they point to: all of it takes effect at
/// once, in its order, though the process dies meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_rows_of_a_view_come_and_go_with_what_they_point_to_and_at_once() {
    let source = [
        "CREATE TABLE box (id int NOT NULL PRIMARY KEY)",
        "CREATE TABLE thing (id int NOT NULL PRIMARY KEY, box int NOT NULL)",
        "CREATE VIEW v AS SELECT id, box FROM thing",
    ];
    let target = [
        "CREATE TABLE box (id int NOT NULL PRIMARY KEY)",
        "CREATE TABLE v (id int NOT NULL PRIMARY KEY, box int NOT NULL, FOREIGN KEY (box) REFERENCES box (id))",
    ];
    let mapped = "[[mappings]]\nfrom = \"a.box\"\nto = \"b.box\"\n\
        [[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\ntracks = { 'a.thing' = \"id\" }\n";
    let mut world = World::new(true, &source, &target, mapped).await;
    let count = "SELECT concat(count(*), ' ', coalesce(sum(id % 1009), 0), ' ', coalesce(sum(box), 0)) FROM v";
    let boxes = "SELECT id FROM box ORDER BY id";
    for sql in [
        "INSERT INTO box SELECT generate_series(1, 9); INSERT INTO thing SELECT n, 2 + n % 7 FROM generate_series(1, 110000) n",
        "DELETE FROM thing; DELETE FROM box WHERE id > 1; INSERT INTO thing VALUES (7, 1)",
    ] {
        let before = world.b.one(count).await;
        world.a.sql(&format!("BEGIN; {sql}; COMMIT")).await;
        let after = world.a.one(count).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.daemon.kill_and_start();
        let began = std::time::Instant::now();
        loop {
            let seen = world.b.one(count).await;
            if seen == after {
                break;
            }
            assert_eq!(seen, before, "a part of it\n{}", world.daemon.log());
            assert!(
                began.elapsed() < 4 * SOON,
                "{:#?}\n{}",
                world.daemon.flows(),
                world.daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        world.equal(boxes, boxes).await;
    }
    let waits = "SELECT count(*) FROM tidelock.memory WHERE substr(`key`, 16, 1) = 'p'";
    assert_eq!(world.b.one(waits).await, "0");
    for mapping in ["box", "v"] {
        world.state(mapping, "streaming").await;
    }
    world.daemon.stop();
}
