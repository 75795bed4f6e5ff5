//! Views, tracks and gates that break or are changed while the flow runs.

use tidelock_scratch::wait_for;

use super::tracks::World;
use super::{SOON, soaking};

const OTHERS: &str = "SELECT id FROM q ORDER BY id";
const Q: &str = "CREATE TABLE q (id int NOT NULL PRIMARY KEY)";
const MAPPED_Q: &str = "[[mappings]]\nfrom = \"a.q\"\nto = \"b.q\"\n";

async fn beside(world: &World, id: u32) {
    world.a.sql(&format!("INSERT INTO q VALUES ({id})")).await;
    world.equal(OTHERS, OTHERS).await;
}

/// A row over which the view's own SQL fails stops its mapping alone, with words that tell no value, until it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_divides_by_zero_stops_alone_and_comes_back() {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, amount int NOT NULL, n int NOT NULL)",
        "CREATE VIEW v AS SELECT id, amount / n AS share FROM p",
        Q,
    ];
    let target = ["CREATE TABLE v (id int NOT NULL PRIMARY KEY, share int NOT NULL)", Q];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\ntracks = {{ 'a.p' = \"id\" }}\n{MAPPED_Q}"
    );
    let mut world = World::new(true, &source, &target, &mapped).await;
    let all = "SELECT id, share FROM v ORDER BY id";
    world.a.sql("INSERT INTO p VALUES (1, 10, 2), (2, 10, 5)").await;
    world.equal(all, all).await;
    world.a.sql("INSERT INTO p VALUES (3, 4711, 0)").await;
    beside(&world, 1).await;
    world.state("v", "stopped").await;
    let error = world.daemon.flows()[0]["mappings"][1]["error"].to_string();
    assert!(error.contains("divides by zero") && !error.contains("4711"), "{error}");
    world.daemon.kill_and_start();
    world.a.sql("UPDATE p SET n = 3 WHERE id = 3").await;
    beside(&world, 2).await;
    let (code, said) = world.daemon.command(&["resync", "v"]);
    assert_eq!(code, 0, "{said}");
    world.equal(all, all).await;
    world.state("v", "streaming").await;
    world.daemon.stop();
}

/// Keys of fixed length are the same whatever blanks a server shows behind them.
async fn padded(postgres_source: bool) {
    let source = [
        "CREATE TABLE code (code char(6) NOT NULL PRIMARY KEY, name varchar(20))",
        "CREATE TABLE used (id int NOT NULL PRIMARY KEY, code varchar(6) NOT NULL, n int NOT NULL)",
        "ALTER TABLE used REPLICA IDENTITY FULL",
        "CREATE VIEW v AS SELECT c.code, c.name, (SELECT sum(u.n) FROM used u WHERE u.code = c.code) AS n FROM code c",
        Q,
    ];
    let target = [
        "CREATE TABLE v (code char(6) NOT NULL PRIMARY KEY, name varchar(20), n decimal(20,0))",
        Q,
    ];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\ntracks = {{ 'a.code' = \"code\", 'a.used' = \"code\" }}\n{MAPPED_Q}"
    );
    let mut world = World::new(postgres_source, &source, &target, &mapped).await;
    let all = "SELECT concat('<', rtrim(code), '>'), name, n FROM v ORDER BY 1";
    for sql in [
        "INSERT INTO code VALUES ('ab', 'x'), ('abcdef', 'y')",
        "INSERT INTO used VALUES (1, 'ab', 3), (2, 'abcdef', 4), (3, 'ab', 5)",
        "UPDATE used SET n = 7 WHERE id = 1",
        "UPDATE used SET code = 'abcdef' WHERE id = 1",
        "DELETE FROM used WHERE id = 3",
        "UPDATE code SET code = 'abc' WHERE code = 'ab'",
        "INSERT INTO used VALUES (4, 'abc', 1)",
        "DELETE FROM code WHERE code = 'abc'",
        "INSERT INTO code VALUES ('abc', 'z')",
    ] {
        world.a.sql(sql).await;
        world.equal(all, all).await;
    }
    world.daemon.kill_and_start();
    world.a.sql("DELETE FROM code WHERE code = 'abcdef'").await;
    world.equal(all, all).await;
    world.state("v", "streaming").await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_fixed_length_lead_to_their_rows_from_postgres() {
    padded(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_fixed_length_lead_to_their_rows_from_mariadb() {
    padded(false).await;
}

/// A table is emptied that a view is made of whose rows and groups go to routines.
async fn emptied(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, team int NOT NULL, name varchar(20) NOT NULL)",
        "ALTER TABLE p REPLICA IDENTITY FULL",
        "CREATE VIEW v AS SELECT id, team, name FROM p",
        Q,
    ];
    let mut target = vec![
        "CREATE TABLE one (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE team (id int NOT NULL PRIMARY KEY, members int NOT NULL)",
        Q,
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
    let mapped = format!(
        "[[mappings]]\nname = \"ones\"\nfrom = \"a.v\"\nto = {{ call = \"b.put_one\", delete = \"b.remove_one\" }}\nkey = [\"id\"]\non_truncate = \"delete\"\n\
         columns = {{ id = \"id\", name = \"name\" }}\ntracks = {{ 'a.p' = \"id\" }}\n\
         [[mappings]]\nname = \"teams\"\nfrom = \"a.v\"\nto = {{ call = \"b.put_team\", rows = \"p_rows\" }}\non_delete = \"ignore\"\nkey = [\"team\"]\non_truncate = \"delete\"\n\
         row_key = [\"id\"]\ncolumns = {{ team = \"team\", id = \"id\", name = \"name\" }}\ntracks = {{ 'a.p' = \"team\" }}\n{MAPPED_Q}"
    );
    let mut world = World::new(postgres_source, &source, &target, &mapped).await;
    let all = [
        ("SELECT id, name FROM p ORDER BY id", "SELECT id, name FROM one ORDER BY id"),
        (
            "SELECT team, count(*) FROM p GROUP BY team ORDER BY team",
            "SELECT id, members FROM team ORDER BY id",
        ),
    ];
    for round in 0..3 {
        world
            .a
            .sql(&format!(
                "INSERT INTO p VALUES (1, 1, 'a{round}'), (2, 1, 'b'), ({round}9, 2, 'c')"
            ))
            .await;
        for (want, have) in all {
            world.equal(want, have).await;
        }
        if round == 1 {
            world.daemon.kill();
        }
        world.a.sql("TRUNCATE TABLE p").await;
        world.a.sql("INSERT INTO p VALUES (7, 3, 'd')").await;
        match round {
            1 => world.daemon.start_again(),
            2 => world.daemon.kill_and_start(),
            _ => {}
        }
        for (want, have) in all {
            world.equal(want, have).await;
        }
        world.a.sql("DELETE FROM p").await;
        for (want, have) in all {
            world.equal(want, have).await;
        }
    }
    for mapping in ["ones", "teams"] {
        world.state(mapping, "streaming").await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn routines_of_a_view_take_away_what_was_emptied_at_mariadb() {
    emptied(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routines_of_a_view_take_away_what_was_emptied_at_postgres() {
    emptied(false).await;
}

/// The table whose rows push a key is altered: what it pushes is pushed, or its mapping stops, and never less.
async fn pushing(postgres_source: bool) {
    let source = [
        "CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL)",
        "CREATE TABLE line (id int NOT NULL PRIMARY KEY, product_id int NOT NULL, qty int NOT NULL)",
        Q,
    ];
    let target = source;
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < 0\"\npush_when = {{ 'a.line' = \"product_id\" }}\n\
         [[mappings]]\nfrom = \"a.line\"\nto = \"b.line\"\ncolumns = {{ id = \"id\", qty = \"qty\" }}\n{MAPPED_Q}"
    )
    .replace("columns = { id = \"id\", qty = \"qty\" }", "columns = { id = \"id\", product_id = \"7\", qty = \"qty\" }");
    let world = World::new(postgres_source, &source, &target, &mapped).await;
    let all = "SELECT product, qty FROM stock ORDER BY product";
    let (a, mut id) = (&world.a, 0);
    let mut push = async |column: &str, extra: &str| {
        id += 1;
        a.sql(&format!("UPDATE stock SET qty = {id} WHERE product = 1")).await;
        a.sql(&format!(
            "INSERT INTO line (id, {column}, qty{extra}) VALUES ({id}, 1, 1{})",
            if extra.is_empty() { "" } else { ", 5" }
        ))
        .await;
    };
    a.sql("INSERT INTO stock VALUES (1, 100)").await;
    push("product_id", "").await;
    world.equal(all, all).await;
    // Another column in front of it, and behind.
    a.sql("ALTER TABLE line ADD COLUMN note int").await;
    push("product_id", ", note").await;
    world.equal(all, all).await;
    // A wider type.
    match postgres_source {
        true => a.sql("ALTER TABLE line ALTER COLUMN product_id TYPE bigint").await,
        false => a.sql("ALTER TABLE line MODIFY COLUMN product_id bigint NOT NULL").await,
    }
    push("product_id", "").await;
    world.equal(all, all).await;
    a.sql("TRUNCATE TABLE line").await;
    // The column goes away under another name: what it pushes cannot be told any more.
    match postgres_source {
        true => a.sql("ALTER TABLE line RENAME COLUMN product_id TO product").await,
        false => a.sql("ALTER TABLE line CHANGE COLUMN product_id product bigint NOT NULL").await,
    }
    push("product", "").await;
    beside(&world, 1).await;
    world.state("stock", "stopped").await;
    match postgres_source {
        true => a.sql("ALTER TABLE line RENAME COLUMN product TO product_id").await,
        false => a.sql("ALTER TABLE line CHANGE COLUMN product product_id bigint NOT NULL").await,
    }
    for mapping in ["stock", "line"] {
        let (code, said) = world.daemon.command(&["resync", mapping]);
        assert_eq!(code, 0, "{said}\n{}", world.daemon.log());
    }
    world.equal(all, all).await;
    push("product_id", "").await;
    world.equal(all, all).await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushing_table_may_be_altered_at_postgres() {
    pushing(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushing_table_may_be_altered_at_mariadb() {
    pushing(false).await;
}

/// Whatever becomes of a row while a state of it is held: nothing is left of it that should not be, and nothing lost.
async fn meanwhile(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "ALTER TABLE p REPLICA IDENTITY FULL",
        "CREATE VIEW v AS SELECT id, name FROM p",
        Q,
    ];
    let target = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE v (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        Q,
    ];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.p\"\nto = \"b.p\"\nthrottle = \"1h\"\non_truncate = \"delete\"\nwhere = \"name <> 'out'\"\n\
         [[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\nthrottle = \"1h\"\non_truncate = \"delete\"\nwhere = \"name <> 'out'\"\ntracks = {{ 'a.p' = \"id\" }}\n{MAPPED_Q}"
    );
    let mut world = World::new(postgres_source, &source, &target, &mapped).await;
    let want = "SELECT id, name FROM p WHERE name <> 'out' ORDER BY id";
    let have = ["SELECT id, name FROM p ORDER BY id", "SELECT id, name FROM v ORDER BY id"];
    let ends = [
        "DELETE FROM p WHERE id = 1",
        "UPDATE p SET name = 'out' WHERE id = 1",
        "UPDATE p SET id = 11 WHERE id = 1",
        "TRUNCATE TABLE p",
    ];
    let mut beside_id = 0;
    for end in ends {
        for kill in [false, true] {
            world.a.sql("DELETE FROM p").await;
            world.a.sql("INSERT INTO p VALUES (1, 'a'), (2, 'b')").await;
            for have in have {
                world.equal(want, have).await;
            }
            world.a.sql("UPDATE p SET name = 'held' WHERE id = 1").await;
            beside_id += 1;
            beside(&world, beside_id).await;
            for have in have {
                assert_eq!(world.b.rows(have).await[0][1].as_deref(), Some("a"), "it is held");
            }
            if kill {
                world.daemon.kill();
            }
            world.a.sql(end).await;
            if kill {
                world.daemon.start_again();
            }
            for have in have {
                world.equal(want, have).await;
            }
        }
    }
    // What brings everything brings what is held.
    world.a.sql("INSERT INTO p VALUES (5, 'a')").await;
    for have in have {
        world.equal(want, have).await;
    }
    world.a.sql("UPDATE p SET name = 'b' WHERE id = 5").await;
    beside(&world, 100).await;
    for (mapping, command) in [("p", "backfill"), ("v", "resync")] {
        world.state(mapping, "streaming").await;
        let (code, said) = world.daemon.command(&[command, mapping]);
        assert_eq!(code, 0, "{said}");
    }
    for have in have {
        world.equal(want, have).await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_row_while_it_rests_is_what_counts_from_postgres() {
    meanwhile(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_row_while_it_rests_is_what_counts_from_mariadb() {
    meanwhile(false).await;
}

const TAGGED: [&str; 7] = [
    "CREATE TABLE tag (id int NOT NULL PRIMARY KEY, name varchar(700) NOT NULL, worth int NOT NULL)",
    "CREATE INDEX tag_name ON tag (name)",
    "ALTER TABLE tag REPLICA IDENTITY FULL",
    "CREATE TABLE thing (id int NOT NULL PRIMARY KEY, name varchar(700) NOT NULL)",
    "CREATE INDEX thing_name ON thing (name)",
    "CREATE VIEW v AS SELECT t.id, (SELECT sum(g.worth) FROM tag g WHERE g.name = t.name) AS worth FROM thing t",
    Q,
];

async fn tagged(postgres_source: bool) -> World {
    let target = ["CREATE TABLE v (id int NOT NULL PRIMARY KEY, worth decimal(20,0))", Q];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\n[mappings.tracks]\n'a.thing' = \"id\"\n\
         'a.tag' = {{ keys = \"SELECT id FROM {}.thing WHERE name IN (:name)\" }}\n{MAPPED_Q}",
        if postgres_source { "public" } else { "db" }
    );
    World::new(postgres_source, &TAGGED, &target, &mapped).await
}

/// One transaction asks a track's query with more than a statement may hold.
async fn asked(postgres_source: bool) {
    let mut world = tagged(postgres_source).await;
    let words = 30_000;
    let numbers = match postgres_source {
        true => format!("(SELECT generate_series(1, {words}) AS n) s"),
        false => {
            let digits = |upto: u32| {
                let all: Vec<String> = (0..upto).map(|d| format!("SELECT {d} AS d")).collect();
                format!("({})", all.join(" UNION ALL "))
            };
            let (ten, tens) = (digits(10), digits(words / 10_000));
            format!(
                "(SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d AS n \
                 FROM {ten} a, {ten} b, {ten} c, {ten} e, {tens} f) s"
            )
        }
    };
    let name = |n: &str| format!("concat(repeat('x', 690), {n})");
    let (first, last) = (name("7"), name(&words.to_string()));
    let things = format!("INSERT INTO thing VALUES (1, {first}), (2, {last}), (3, 'rare')");
    world.a.sql(&things).await;
    let all = "SELECT id, worth FROM v ORDER BY id";
    world.equal(all, all).await;
    world.a.sql(&format!("INSERT INTO tag SELECT n, {}, n FROM {numbers}", name("n"))).await;
    world.equal(all, all).await;
    world.a.sql("UPDATE tag SET worth = worth + 1").await;
    world.daemon.kill_and_start();
    world.equal(all, all).await;
    world.state("v", "streaming").await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_asked_with_very_many_values_of_postgres() {
    asked(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_asked_with_very_many_values_of_mariadb() {
    asked(false).await;
}

/// One transaction touches more than is kept here, by keys and by a query, and one value of a query leads to more keys than that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_query_is_asked_with_and_gives_beyond_what_is_kept_takes_effect_at_once() {
    let world = tagged(true).await;
    let rows = if soaking() { 101_000 } else { 51_000 };
    world
        .a
        .sql(&format!(
            "BEGIN; INSERT INTO thing SELECT n, 'n' || n % 25000 FROM generate_series(1, {rows}) n; \
             INSERT INTO tag SELECT n, 'n' || n % 25000, n % 7 FROM generate_series(1, {rows}) n; COMMIT"
        ))
        .await;
    let sum = "SELECT concat(count(*), ' ', sum(worth), ' ', sum(id % 1009)) FROM v";
    let arrives = async || {
        let want = world.a.one(sum).await;
        wait_for("all of it", 4 * SOON, want, async || world.b.one(sum).await).await.expect("all");
    };
    arrives().await;
    if soaking() {
        world.a.sql("UPDATE thing SET name = 'common'").await;
        arrives().await;
        world.a.sql("INSERT INTO tag VALUES (0, 'common', 5)").await;
        arrives().await;
    }
    let left = "SELECT count(*) FROM tidelock.memory WHERE substr(`key`, 16, 1) IN ('p', 'q')";
    assert_eq!(world.b.one(left).await, "0");
    world.state("v", "streaming").await;
    world.daemon.stop();
}

/// A tracked table gives its name to another one with other rows, as tools that alter a table beside the work do.
#[tokio::test(flavor = "multi_thread")]
async fn a_tracked_table_that_is_swapped_for_another_is_compared() {
    let p = "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)";
    let source = [p, "CREATE VIEW v AS SELECT id, name FROM p", Q];
    let target = ["CREATE TABLE v (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)", Q];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\ntracks = {{ 'a.p' = \"id\" }}\n{MAPPED_Q}"
    );
    let mut world = World::new(false, &source, &target, &mapped).await;
    let all = "SELECT id, name FROM v ORDER BY id";
    world.a.sql("INSERT INTO p VALUES (1, 'a'), (2, 'b')").await;
    world.equal(all, all).await;
    for round in 0..3 {
        world.a.sql("CREATE TABLE p_new LIKE p").await;
        world.a.sql("ALTER TABLE p_new ADD COLUMN extra int").await;
        world
            .a
            .sql(&format!("INSERT INTO p_new VALUES (1, 'x{round}', 1), ({round}7, 'c', 1)"))
            .await;
        if round == 1 {
            world.daemon.kill();
        }
        world.a.sql("RENAME TABLE p TO p_old, p_new TO p").await;
        world.a.sql("ALTER TABLE p DROP COLUMN extra").await;
        world.a.sql(&format!("INSERT INTO p VALUES ({round}8, 'd')")).await;
        match round {
            1 => world.daemon.start_again(),
            2 => world.daemon.kill_and_start(),
            _ => {}
        }
        world.equal(all, all).await;
        world.a.sql("DROP TABLE p_old").await;
        world.a.sql("UPDATE p SET name = 'e' WHERE id = 1").await;
        world.equal(all, all).await;
    }
    world.state("v", "streaming").await;
    world.daemon.stop();
}

/// A window over a view whose rows rest: what enters, leaves, changes and stands still while nobody runs.
async fn windowed(postgres_source: bool) {
    let at = |seconds: i32| match postgres_source {
        true => format!("now() + interval '{seconds} seconds'"),
        false => format!("now(6) + interval {seconds} second"),
    };
    // With a default, because MariaDB before 10.10 gives the first timestamp without one an ON UPDATE.
    let kind = match postgres_source {
        true => ["timestamptz", "timestamp(6) NOT NULL DEFAULT now(6)"],
        false => ["timestamp(6) NOT NULL DEFAULT now(6)", "timestamptz"],
    };
    let source = [
        format!("CREATE TABLE p (id int NOT NULL PRIMARY KEY, due {}, qty int NOT NULL)", kind[0]),
        "ALTER TABLE p REPLICA IDENTITY FULL".to_owned(),
        "CREATE VIEW v AS SELECT id, due, qty FROM p".to_owned(),
        Q.to_owned(),
    ];
    let target = [
        format!("CREATE TABLE v (id int NOT NULL PRIMARY KEY, due {}, qty int NOT NULL)", kind[1]),
        Q.to_owned(),
    ];
    let mapped = format!(
        "[[mappings]]\nfrom = \"a.v\"\nto = \"b.v\"\nthrottle = \"2s\"\nrefresh = \"1s\"\nwhere = \"due > now()\"\ntracks = {{ 'a.p' = \"id\" }}\n{MAPPED_Q}"
    );
    let source: Vec<&str> = source.iter().map(String::as_str).collect();
    let target: Vec<&str> = target.iter().map(String::as_str).collect();
    let mut world = World::new(postgres_source, &source, &target, &mapped).await;
    let want = "SELECT id, qty FROM p WHERE due > now() ORDER BY id";
    let have = "SELECT id, qty FROM v ORDER BY id";
    world
        .a
        .sql(&format!(
            "INSERT INTO p VALUES (1, {}, 1), (2, {}, 1), (3, {}, 1), (4, {}, 1)",
            at(3),
            at(8),
            at(1000),
            at(-5)
        ))
        .await;
    world.equal(want, have).await;
    for qty in 2..9 {
        world.a.sql(&format!("UPDATE p SET qty = {qty}")).await;
    }
    world.daemon.kill();
    world.a.sql(&format!("UPDATE p SET due = {} WHERE id = 4", at(1000))).await;
    world.a.sql(&format!("UPDATE p SET due = {} WHERE id = 2", at(1))).await;
    world.a.sql("UPDATE p SET qty = 77 WHERE id = 3").await;
    world.daemon.start_again();
    world.equal(want, have).await;
    world.equal("SELECT count(*) FROM p WHERE due > now()", "SELECT count(*) FROM v").await;
    world.equal("SELECT id, qty FROM p WHERE id IN (3, 4) ORDER BY id", have).await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_over_a_view_that_rests_moves_from_postgres() {
    windowed(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_over_a_view_that_rests_moves_from_mariadb() {
    windowed(false).await;
}
