//! Schema changes of followed tables: each has its answer, and no other mapping waits for it.

use std::path::Path;
use std::time::{Duration, Instant};

use tidelock_scratch::Flavour;

use super::SOON;
use super::daemon::Daemon;
use super::snapshot::Side;

/// Two servers of different families, tables `item` and `other` on both, and a daemon between them.
pub(super) struct Pair {
    pub(super) source: Side,
    pub(super) target: Side,
    pub(super) daemon: Daemon,
    pub(super) text: String,
    pub(super) _folder: tempfile::TempDir,
    others: std::cell::Cell<u32>,
}

/// A mapping of a table with a first copy; `more` is put behind it.
pub(super) fn mapping(table: &str, more: &str) -> String {
    format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n{more}\n")
}

pub(super) const OTHER: &str =
    "CREATE TABLE other (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL)";

impl Pair {
    /// `setup` runs on both sides first, `fill` at the source.
    pub(super) async fn start(postgres: bool, setup: &[&str], fill: &str, mappings: &str) -> Pair {
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for sql in [&[OTHER], setup].concat() {
            source.sql(sql).await;
            target.sql(sql).await;
        }
        Pair::between(source, target, fill, mappings).await
    }

    pub(super) async fn between(source: Side, target: Side, fill: &str, mappings: &str) -> Pair {
        source
            .sql("INSERT INTO item (id, qty, note) VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')")
            .await;
        if !fill.is_empty() {
            source.sql(fill).await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let mut text = super::config(Path::new(folder.path()), &systems, &[]);
        text.push_str(mappings);
        if !mappings.contains('*') {
            text.push_str(&mapping("other", ""));
        }
        let daemon = Daemon::start(folder.path(), &text);
        let others = std::cell::Cell::new(0);
        let pair = Pair { source, target, daemon, text, _folder: folder, others };
        pair.streaming().await;
        pair
    }

    pub(super) async fn streaming(&self) {
        self.daemon.wait("streaming", SOON, |flows| flows[0]["state"] == "streaming").await;
    }

    pub(super) fn mapping(flows: &[serde_json::Value], name: &str) -> serde_json::Value {
        let mappings = flows[0]["mappings"].as_array().cloned().unwrap_or_default();
        mappings.into_iter().find(|m| m["name"] == name).unwrap_or_default()
    }

    /// Waits until a query gives the same on both sides, and this.
    pub(super) async fn equal(&self, query: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let (ours, theirs) = (self.source.one(query).await, self.target.one(query).await);
            if ours == theirs && ours == expected {
                return;
            }
            assert!(
                began.elapsed() < SOON,
                "{query}: {ours}, at the target {theirs}, expected {expected}\n{:#?}\n{}",
                self.daemon.flows(),
                self.daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a query at the target gives this.
    pub(super) async fn target_has(&self, query: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let theirs = self.target.one(query).await;
            if theirs == expected {
                return;
            }
            assert!(
                began.elapsed() < SOON,
                "{query}: {theirs} instead of {expected}\n{:#?}\n{}",
                self.daemon.flows(),
                self.daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The other mapping goes on.
    pub(super) async fn others_flow(&self) {
        let n = self.others.get() + 1;
        self.others.set(n);
        self.source.sql(&format!("INSERT INTO other VALUES ({n}, {n})")).await;
        self.equal("SELECT count(*) FROM other", &n.to_string()).await;
    }

    /// Waits until a mapping has stopped with this code, and answers its message and hint.
    pub(super) async fn stops(&self, name: &str, code: &str) -> String {
        let mut said = String::new();
        self.daemon
            .wait(&format!("{name} stopped by {code}"), SOON, |flows| {
                let found = Pair::mapping(flows, name);
                let error = &found["error"];
                said = format!("{} / {}", error["message"], error["hint"]);
                found["state"] == "stopped" && error["code"] == code
            })
            .await;
        self.others_flow().await;
        said
    }

    pub(super) fn resync(&self, name: &str) {
        let (code, said) = self.daemon.command(&["resync", name]);
        assert_eq!(code, 0, "{said}");
    }

    /// How often something was compared because of a change that was not logged.
    pub(super) fn compared(&self) -> usize {
        self.daemon.log().matches("are compared with the source").count()
    }
}

pub(super) const SUM: &str = "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty)) FROM item";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_alter_changed_without_logging_them_are_brought() {
    for postgres in [true, false] {
        let mut pair = Pair::start(
            postgres,
            &["ALTER TABLE item ADD COLUMN spare int"],
            "",
            &mapping("item", ""),
        )
        .await;
        pair.equal(SUM, "3 6 6").await;
        // Values of a column that stays: by a conversion, or by taking it away and giving it again.
        pair.source
            .sql(if postgres {
                "ALTER TABLE item ALTER COLUMN qty TYPE int USING qty * 10"
            } else {
                "ALTER TABLE item DROP COLUMN qty, ADD COLUMN qty int NOT NULL DEFAULT 20"
            })
            .await;
        pair.equal(SUM, "3 6 60").await;
        pair.others_flow().await;
        // The same while we are down, with rows of the older shape still in the log.
        pair.daemon.kill();
        let named = "INSERT INTO item (id, qty, note) VALUES";
        pair.source.sql(&format!("{named} (4, 40, 'before')")).await;
        pair.source.sql("DELETE FROM item WHERE id = 1").await;
        pair.source
            .sql(if postgres {
                "ALTER TABLE item ALTER COLUMN qty TYPE bigint USING qty + 1"
            } else {
                "ALTER TABLE item DROP COLUMN qty, ADD COLUMN qty bigint NOT NULL DEFAULT 7"
            })
            .await;
        pair.source.sql(&format!("{named} (5, 5, 'after')")).await;
        pair.daemon.start_again();
        pair.equal(SUM, if postgres { "4 14 98" } else { "4 14 26" }).await;
        pair.others_flow().await;
        // A column that the target has already, with a default for the rows that are there.
        pair.source.sql("ALTER TABLE item DROP COLUMN spare").await;
        pair.stops("item", "TL0201").await;
        pair.source.sql("ALTER TABLE item ADD COLUMN spare int DEFAULT 5").await;
        pair.resync("item");
        pair.equal("SELECT sum(spare) FROM item", "20").await;
        // And one that comes at the target first and at the source later.
        pair.target.sql("ALTER TABLE item ADD COLUMN more int").await;
        pair.source.sql("ALTER TABLE item ADD COLUMN more int DEFAULT 3").await;
        pair.equal("SELECT sum(more) FROM item", "12").await;
        pair.source.sql("UPDATE item SET more = 4 WHERE id = 5").await;
        pair.equal("SELECT sum(more) FROM item", "13").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_row_is_not_compared() {
    for postgres in [true, false] {
        let pair = Pair::start(postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        let harmless: &[&str] = if postgres {
            &[
                "VACUUM FULL item",
                "CLUSTER item USING item_pkey",
                "ALTER TABLE item ADD COLUMN unmapped int DEFAULT 5",
                "ALTER TABLE item ALTER COLUMN note TYPE varchar(300)",
                "ALTER TABLE item ALTER COLUMN qty SET STATISTICS 50",
                "CREATE INDEX i ON item (qty)",
            ]
        } else {
            &[
                "OPTIMIZE TABLE item",
                "ALTER TABLE item ENGINE = InnoDB",
                "ALTER TABLE item ADD COLUMN unmapped int DEFAULT 5",
                "ALTER TABLE item MODIFY note varchar(300)",
                "ALTER TABLE item MODIFY qty bigint NOT NULL",
                "CREATE INDEX i ON item (qty)",
            ]
        };
        for (n, sql) in harmless.iter().enumerate() {
            if postgres && n == 2 {
                // A rewrite and another change of the same column between two looks could not be told
                // from one statement that did both.
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
            pair.source.sql(sql).await;
            pair.source
                .sql(&format!("UPDATE item SET qty = qty + 1 WHERE id = {}", n % 3 + 1))
                .await;
        }
        // A change that is answered ends the wait: it is looked at after all of these.
        let note = |flows: &[serde_json::Value]| {
            Pair::mapping(flows, "item")["notes"].to_string().contains("unmapped")
        };
        pair.daemon.wait("noted", SOON, note).await;
        pair.source.sql("UPDATE item SET qty = 100 WHERE id = 1").await;
        pair.target_has("SELECT max(qty) FROM item WHERE id = 1", "100").await;
        if postgres {
            // Two looks later.
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
        pair.others_flow().await;
        assert_eq!(pair.compared(), 0, "{}", pair.daemon.log());
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_inside_a_transaction_and_kills_around_it_lose_nothing() {
    let mut pair =
        Pair::start(true, &["ALTER TABLE item ADD COLUMN spare int"], "", &mapping("item", ""))
            .await;
    pair.equal(SUM, "3 6 6").await;
    for round in 1..=4 {
        let id = round * 100;
        // Rows before and behind the change, in one transaction.
        let sql = format!(
            "BEGIN; INSERT INTO item (id, qty) VALUES ({id}, 1); \
             ALTER TABLE item ALTER COLUMN qty TYPE int USING qty + 1; \
             UPDATE item SET spare = {round} WHERE id = {id}; \
             INSERT INTO item (id, qty) VALUES ({id} + 1, 5); \
             INSERT INTO other VALUES ({id}, 1); COMMIT"
        );
        if round % 2 == 0 {
            pair.daemon.kill();
            pair.source.sql(&sql).await;
            pair.source.sql(&format!("DELETE FROM item WHERE id = {id} - 100")).await;
            pair.daemon.start_again();
        } else {
            pair.source.sql(&sql).await;
            pair.daemon.kill_and_start();
        }
        let sum = pair.source.one(SUM).await;
        pair.equal(SUM, &sum).await;
        pair.equal(
            "SELECT sum(id) FROM other",
            &pair.source.one("SELECT sum(id) FROM other").await,
        )
        .await;
    }
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enums_renamed_label_is_brought() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    source.sql(OTHER).await;
    target.sql(OTHER).await;
    source.sql("CREATE TYPE mood AS ENUM ('sad', 'ok')").await;
    source.sql("CREATE TABLE mooded (id bigint PRIMARY KEY, m mood)").await;
    target.sql("CREATE TABLE mooded (id bigint PRIMARY KEY, m varchar(20))").await;
    let fill = "INSERT INTO mooded VALUES (1, 'sad'), (2, 'ok')";
    let maps = mapping("item", "") + &mapping("mooded", "");
    let pair = Pair::between(source, target, fill, &maps).await;
    let text = "SELECT concat(min(m), ' ', max(m)) FROM mooded";
    pair.target_has(text, "ok sad").await;
    pair.source.sql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    pair.target_has(text, "blue ok").await;
    pair.source.sql("ALTER TYPE mood ADD VALUE 'new'").await;
    pair.source.sql("INSERT INTO mooded VALUES (3, 'new')").await;
    pair.target_has("SELECT max(m) FROM mooded WHERE id = 3", "new").await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_again_or_swapped_is_compared_and_a_drop_alone_empties_nothing() {
    for postgres in [true, false] {
        // Our own schema is the first in the role's search path.
        let schema = if postgres { "public" } else { "db" };
        let create = &format!(
            "CREATE TABLE {schema}.fresh (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL, note varchar(200))"
        );
        let mut pair = Pair::start(postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        // A drop alone.
        pair.source.sql("DROP TABLE item").await;
        pair.stops("item", "TL0209").await;
        assert_eq!(pair.target.one(SUM).await, "3 6 6", "the target was not emptied");
        pair.daemon.kill_and_start();
        pair.stops("item", "TL0209").await;
        // It comes back with other rows, and the mapping with it.
        pair.source.sql(&create.replace("fresh", "item")).await;
        pair.source.sql("INSERT INTO item VALUES (2, 22, 'two'), (7, 7, 'seven')").await;
        pair.equal(SUM, "2 9 29").await;
        pair.source.sql("INSERT INTO item VALUES (8, 1, 'followed')").await;
        pair.equal(SUM, "3 17 30").await;
        pair.others_flow().await;
        // Dropped and made in one go; a row of the new one before anybody looked.
        pair.source.sql("DROP TABLE item").await;
        pair.source.sql(&create.replace("fresh", "item")).await;
        pair.source.sql("INSERT INTO item VALUES (1, 5, 'again')").await;
        pair.equal(SUM, "1 1 5").await;
        pair.others_flow().await;
        // A foreign table takes the name.
        pair.source.sql(create).await;
        pair.source.sql("INSERT INTO fresh VALUES (10, 1, 'x'), (11, 1, 'x')").await;
        if postgres {
            pair.source
                .sql("BEGIN; ALTER TABLE item RENAME TO item_old; ALTER TABLE fresh RENAME TO item; COMMIT")
                .await;
        } else {
            pair.source.sql("RENAME TABLE item TO item_old, fresh TO item").await;
        }
        pair.source.sql("INSERT INTO item VALUES (12, 1, 'behind the swap')").await;
        pair.source.sql("INSERT INTO item_old VALUES (99, 1, 'not ours any more')").await;
        pair.equal(SUM, "3 33 3").await;
        pair.others_flow().await;
        // The same while we are down.
        pair.daemon.kill();
        pair.source.sql("DELETE FROM item WHERE id = 12").await;
        pair.source.sql("DROP TABLE item").await;
        pair.source.sql(&create.replace("fresh", "item")).await;
        pair.source.sql("INSERT INTO item VALUES (50, 5, 'down')").await;
        pair.daemon.start_again();
        pair.equal(SUM, "1 50 5").await;
        // Renamed away, then back.
        pair.source.sql("ALTER TABLE item RENAME TO away").await;
        pair.stops("item", "TL0209").await;
        pair.source.sql("UPDATE away SET qty = 6").await;
        pair.source.sql("ALTER TABLE away RENAME TO item").await;
        pair.equal(SUM, "1 50 6").await;
        pair.streaming().await;
        // Made again and empty: asks first.
        pair.source.sql("DROP TABLE item").await;
        pair.source.sql(&create.replace("fresh", "item")).await;
        let began = Instant::now();
        let said = loop {
            let flows = pair.daemon.flows();
            let found = Pair::mapping(&flows, "item");
            if found["error"]["code"] == "TL0205" {
                break found["error"].to_string();
            }
            assert!(began.elapsed() < SOON, "{flows:#?}\n{}", pair.daemon.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(
            said.contains("it is empty") && said.contains("`tidelock resync a:b/item`"),
            "{said}"
        );
        assert_eq!(pair.target.one(SUM).await, "1 50 6");
        pair.resync("item");
        pair.target_has("SELECT count(*) FROM item", "0").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn online_schema_changers_go_on_and_bring_what_they_changed() {
    let pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    for (shadow, old) in [("_item_gho", "_item_del"), ("_item_new", "_item_old")] {
        pair.source.sql(&format!("CREATE TABLE {shadow} LIKE item")).await;
        pair.source.sql(&format!("ALTER TABLE {shadow} ADD INDEX (note)")).await;
        pair.source.sql(&format!("INSERT INTO {shadow} SELECT * FROM item")).await;
        pair.source.sql(&format!("RENAME TABLE item TO {old}, {shadow} TO item")).await;
        pair.source.sql("UPDATE item SET qty = qty + 1 WHERE id = 3").await;
    }
    pair.equal(SUM, "3 6 8").await;
    assert_eq!(pair.compared(), 0, "{}", pair.daemon.log());
    // One that changes the values of a mapped column.
    pair.source.sql("CREATE TABLE _item_gho LIKE item").await;
    pair.source.sql("ALTER TABLE _item_gho MODIFY qty decimal(12, 0) NOT NULL").await;
    pair.source.sql("INSERT INTO _item_gho SELECT id, qty * 2, note FROM item").await;
    pair.source.sql("RENAME TABLE item TO _item_del2, _item_gho TO item").await;
    pair.equal(SUM, "3 6 16").await;
    pair.others_flow().await;
    // CREATE OR REPLACE, with rows in one statement, is another table; only MariaDB has it.
    if matches!(&pair.source, Side::My(server) if server.flavour() == Flavour::MySql) {
        return;
    }
    pair.source
        .sql("CREATE OR REPLACE TABLE item (PRIMARY KEY (id)) SELECT id, 9 AS qty, note FROM _item_del2 WHERE id > 1")
        .await;
    pair.equal(SUM, "2 5 18").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn type_and_key_changes_that_do_not_fit_stop_with_cause_and_cure() {
    for postgres in [true, false] {
        let pair = Pair::start(
            postgres,
            &["CREATE TABLE keyed (id bigint NOT NULL PRIMARY KEY, a int NOT NULL)"],
            "INSERT INTO keyed VALUES (1, 1)",
            &(mapping("item", "") + &mapping("keyed", "")),
        )
        .await;
        pair.equal("SELECT count(*) FROM keyed", "1").await;
        pair.source
            .sql(if postgres {
                "ALTER TABLE item ALTER COLUMN qty TYPE bytea USING '\\x01'"
            } else {
                "ALTER TABLE item MODIFY qty blob"
            })
            .await;
        let said = pair.stops("item", "TL0201").await;
        let target = if postgres { "int" } else { "integer" };
        let source = if postgres { "bytea" } else { "blob" };
        assert!(said.contains("qty") && said.contains(source) && said.contains(target), "{said}");
        // Mended, and back.
        pair.source.sql("ALTER TABLE item DROP COLUMN qty").await;
        pair.source.sql("ALTER TABLE item ADD COLUMN qty int NOT NULL DEFAULT 4").await;
        pair.resync("item");
        pair.equal("SELECT sum(qty) FROM item", "12").await;
        // The key goes, or moves to another column.
        if postgres {
            pair.source.sql("ALTER TABLE keyed DROP CONSTRAINT keyed_pkey").await;
            pair.source.sql("ALTER TABLE keyed ADD PRIMARY KEY (a)").await;
        } else {
            pair.source.sql("ALTER TABLE keyed DROP PRIMARY KEY, ADD PRIMARY KEY (a)").await;
        }
        let said = pair.stops("keyed", "TL0201").await;
        assert!(said.contains("key"), "{said}");
        pair.source
            .sql(if postgres {
                "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey"
            } else {
                "ALTER TABLE keyed DROP PRIMARY KEY"
            })
            .await;
        pair.source.sql("ALTER TABLE keyed ADD PRIMARY KEY (id)").await;
        pair.source.sql("INSERT INTO keyed VALUES (2, 2)").await;
        pair.resync("keyed");
        pair.equal("SELECT sum(a) FROM keyed", "3").await;
        pair.daemon.stop();
    }
}

/// A partitioned table of each server.
fn partitioned(postgres: bool) -> Vec<&'static str> {
    if postgres {
        vec![
            "CREATE TABLE part (id bigint NOT NULL PRIMARY KEY, a int) PARTITION BY RANGE (id)",
            "CREATE TABLE p1 PARTITION OF part FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE p2 PARTITION OF part FOR VALUES FROM (100) TO (200)",
        ]
    } else {
        vec![
            "CREATE TABLE part (id bigint NOT NULL PRIMARY KEY, a int) PARTITION BY RANGE (id) \
             (PARTITION p1 VALUES LESS THAN (100), PARTITION p2 VALUES LESS THAN (200))",
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_or_go_with_their_rows_are_followed() {
    for postgres in [true, false] {
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for sql in partitioned(postgres) {
            source.sql(sql).await;
        }
        target.sql("CREATE TABLE part (id bigint NOT NULL PRIMARY KEY, a int)").await;
        source.sql(OTHER).await;
        target.sql(OTHER).await;
        let maps = mapping("item", "") + &mapping("part", "on_truncate = \"delete\"");
        let fill = "INSERT INTO part VALUES (1, 1), (2, 2), (101, 1), (102, 2)";
        let mut pair = Pair::between(source, target, fill, &maps).await;
        let sum = "SELECT concat(count(*), ' ', coalesce(sum(id), 0)) FROM part";
        pair.equal(sum, "4 206").await;
        // One born as a partition brings no rows of its own.
        pair.source
            .sql(if postgres {
                "CREATE TABLE p3 PARTITION OF part FOR VALUES FROM (200) TO (300)"
            } else {
                "ALTER TABLE part ADD PARTITION (PARTITION p3 VALUES LESS THAN (300))"
            })
            .await;
        pair.source.sql("INSERT INTO part VALUES (201, 1)").await;
        pair.equal(sum, "5 407").await;
        pair.others_flow().await;
        if postgres {
            // At least one look has seen it.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        assert_eq!(pair.compared(), 0, "{}", pair.daemon.log());
        // With rows.
        pair.source.sql("CREATE TABLE loose (id bigint NOT NULL PRIMARY KEY, a int)").await;
        if postgres {
            pair.source.sql("INSERT INTO loose VALUES (301, 1), (302, 2)").await;
            pair.source
                .sql("ALTER TABLE part ATTACH PARTITION loose FOR VALUES FROM (300) TO (400)")
                .await;
            pair.equal(sum, "7 1010").await;
        } else {
            pair.source.sql("INSERT INTO loose VALUES (202, 1), (203, 2)").await;
            pair.source.sql("ALTER TABLE part EXCHANGE PARTITION p3 WITH TABLE loose").await;
            pair.equal(sum, "6 611").await;
        }
        pair.others_flow().await;
        // One is emptied, alone.
        pair.source
            .sql(if postgres { "TRUNCATE p1" } else { "ALTER TABLE part TRUNCATE PARTITION p1" })
            .await;
        pair.equal(sum, if postgres { "5 1007" } else { "4 608" }).await;
        // One goes, while we are down.
        pair.daemon.kill();
        pair.source
            .sql(if postgres {
                "ALTER TABLE part DETACH PARTITION p2"
            } else {
                "ALTER TABLE part DROP PARTITION p2"
            })
            .await;
        pair.daemon.start_again();
        pair.equal(sum, if postgres { "3 804" } else { "2 405" }).await;
        pair.others_flow().await;
        // The policy of TRUNCATE holds: by default the mapping stops and the target keeps the rows.
        let path = pair._folder.path().join("tidelock.toml");
        std::fs::write(&path, pair.text.replace("on_truncate = \"delete\"", "")).expect("config");
        let (code, said) = pair.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}");
        pair.streaming().await;
        pair.source
            .sql(if postgres { "DROP TABLE p3" } else { "ALTER TABLE part DROP PARTITION p3" })
            .await;
        let said = pair.stops("part", "TL0205").await;
        assert!(said.contains("`tidelock resync a:b/part`"), "{said}");
        assert_eq!(pair.target.one(sum).await, if postgres { "3 804" } else { "2 405" });
        pair.resync("part");
        pair.equal(sum, if postgres { "2 603" } else { "0 0" }).await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_at_the_source_is_noted_or_added() {
    for postgres in [true, false] {
        let maps = mapping("item", "schema_changes = \"add\"") + &mapping("noted", "");
        let create = "CREATE TABLE noted (id bigint NOT NULL PRIMARY KEY, a int)";
        let pair = Pair::start(postgres, &[create], "INSERT INTO noted VALUES (1, 1)", &maps).await;
        pair.equal("SELECT count(*) FROM noted", "1").await;
        for table in ["item", "noted"] {
            let sql = format!("ALTER TABLE {table} ADD COLUMN came varchar(20) DEFAULT 'filled'");
            pair.source.sql(&sql).await;
        }
        pair.source.sql("INSERT INTO item (id, qty, came) VALUES (9, 9, 'own')").await;
        let there = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'item' AND column_name = 'came'";
        pair.target_has(there, "1").await;
        pair.equal("SELECT count(came) FROM item", "4").await;
        assert_eq!(pair.target.one("SELECT came FROM item WHERE id = 1").await, "filled");
        assert_eq!(pair.target.one("SELECT came FROM item WHERE id = 9").await, "own");
        let mut note = String::new();
        pair.daemon
            .wait("noted", SOON, |flows| {
                note = Pair::mapping(flows, "noted")["notes"][0].as_str().unwrap_or("").to_owned();
                !note.is_empty()
            })
            .await;
        // What the note says takes it up.
        let sql = note.split("run at the target: ").nth(1).expect("a statement").to_owned();
        assert!(sql.starts_with("ALTER TABLE"), "{note}");
        let (code, said) = pair.daemon.command(&["status"]);
        assert!(code == 0 && said.contains(&note), "{code} {said}");
        pair.target.sql(sql.trim_end_matches(';')).await;
        pair.equal("SELECT count(came) FROM noted", "1").await;
        let gone = |flows: &[serde_json::Value]| {
            Pair::mapping(flows, "noted")["notes"].as_array().is_some_and(Vec::is_empty)
        };
        pair.daemon.wait("the note is gone", SOON, gone).await;
        pair.others_flow().await;
        // A type that only one kind of server has comes as its text or its bytes.
        let odd = if postgres { "point" } else { "geometry" };
        pair.source.sql(&format!("ALTER TABLE item ADD COLUMN place {odd}")).await;
        pair.target_has(&there.replace("'came'", "'place'"), "1").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_two_way_pipeline_ddl_stays_on_its_side_and_is_noted() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("INSERT INTO item VALUES (1, 1, 'one')").await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url()), ("b", b.url())];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]).replacen(
        "\"never\"",
        "\"initial\"",
        1,
    ) + "[defaults]\nschema_changes = \"add\"\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    b.sql("UPDATE item SET qty = 5").await;
    let has = async |side: &Side, sql: &str, expected: &str| {
        let began = Instant::now();
        while side.one(sql).await != expected {
            assert!(began.elapsed() < SOON, "{sql}\n{:#?}\n{}", daemon.flows(), daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    has(&a, "SELECT qty FROM item", "5").await;
    a.sql("ALTER TABLE item ADD COLUMN came int DEFAULT 3").await;
    a.sql("ALTER TABLE item ALTER COLUMN qty TYPE int USING qty * 10").await;
    daemon
        .wait("noted", SOON, |flows| {
            let notes = Pair::mapping(flows, "item")["notes"].to_string();
            notes.contains("came") && notes.contains("`tidelock resync a:b/item`")
        })
        .await;
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'item'";
    assert_eq!(b.one(columns).await, "3", "DDL is not forwarded");
    assert_eq!(b.one("SELECT qty FROM item").await, "5");
    b.sql("INSERT INTO item VALUES (2, 2, 'b')").await;
    a.sql("INSERT INTO item VALUES (3, 3, 'a')").await;
    has(&a, "SELECT count(*) FROM item", "3").await;
    has(&b, "SELECT count(*) FROM item", "3").await;
    let (code, said) = daemon.command(&["resync", "a:b/item"]);
    assert_eq!(code, 0, "{said}");
    has(&b, "SELECT qty FROM item WHERE id = 1", "50").await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_wildcard_that_goes_away_stops_its_mapping_and_comes_back() {
    for postgres in [true, false] {
        let schema = if postgres { "public" } else { "db" };
        let wildcard = if postgres { ("a.public.*", "b.*") } else { ("a.*", "b.public.*") };
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        let fill = "INSERT INTO other VALUES (1000, 1)";
        let maps = format!("[[mappings]]\nfrom = {:?}\nto = {:?}\n", wildcard.0, wildcard.1);
        let mut pair = Pair::between(source, target, fill, &maps).await;
        pair.equal(SUM, "3 6 6").await;
        pair.source.sql("DROP TABLE item").await;
        let gone =
            |flows: &[serde_json::Value]| Pair::mapping(flows, "item")["error"]["code"] == "TL0209";
        pair.daemon.wait("gone", SOON, gone).await;
        pair.daemon.kill_and_start();
        pair.daemon.wait("gone", SOON, gone).await;
        assert_eq!(pair.target.one(SUM).await, "3 6 6");
        let create = super::ITEM.replace("item", &format!("{schema}.item"));
        pair.source.sql(&create).await;
        pair.source.sql("INSERT INTO item VALUES (7, 7, 'seven')").await;
        pair.equal(SUM, "1 7 7").await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_whose_only_table_goes_away_is_not_halted_by_it() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source.sql("INSERT INTO item VALUES (1, 1, 'one')").await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = super::config(folder.path(), &systems, &[]) + &mapping("item", "");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    source.sql("DROP TABLE item").await;
    let state = |flows: &[serde_json::Value], state: &str| {
        flows[0]["state"] == "streaming" && Pair::mapping(flows, "item")["state"] == state
    };
    daemon.wait("stopped", SOON, |flows| state(flows, "stopped")).await;
    source.sql(&super::ITEM.replace("item", "public.item")).await;
    source.sql("INSERT INTO item VALUES (2, 2, 'two')").await;
    daemon.wait("back", SOON, |flows| state(flows, "streaming")).await;
    let began = Instant::now();
    while target.one("SELECT sum(id) FROM item").await != "2" {
        assert!(began.elapsed() < SOON, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_again_that_we_may_not_publish_stops_its_mapping_only() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    for side in [&source, &target] {
        side.sql(OTHER).await;
    }
    let mut pair = Pair::between(source, target, "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    pair.daemon.kill();
    // From here on as a role that owns neither tables nor publication.
    for sql in [
        "CREATE ROLE low LOGIN REPLICATION",
        "GRANT USAGE ON SCHEMA tidelock TO low",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidelock TO low",
        "GRANT SELECT ON item, other TO low",
    ] {
        pair.source.sql(sql).await;
    }
    let low = pair.text.replace("postgres://tidelock@", "postgres://low@");
    pair.daemon = Daemon::start(pair._folder.path(), &low);
    pair.streaming().await;
    pair.source.sql("DROP TABLE item").await;
    pair.source.sql(&super::ITEM.replace("item", "public.item")).await;
    pair.source.sql("INSERT INTO public.item VALUES (5, 5, 'new')").await;
    // It may not even be read: the flow goes on without it.
    let grant = "GRANT SELECT ON public.item TO low";
    let said = pair.stops("item", "TL0020").await;
    assert!(said.replace("\\\"", "").contains(grant), "{said}");
    pair.source.sql(grant).await;
    pair.resync("item");
    let add = "ALTER PUBLICATION tidelock_test_b ADD TABLE public.item";
    let says = |flows: &[serde_json::Value]| {
        let hint = Pair::mapping(flows, "item")["error"]["hint"].to_string();
        hint.replace("\\\"", "").contains(add)
    };
    pair.daemon.wait("not ours to publish", SOON, says).await;
    pair.source.sql(add).await;
    pair.resync("item");
    pair.equal(SUM, "1 5 5").await;
    pair.source.sql("INSERT INTO public.item VALUES (6, 6, 'followed')").await;
    pair.equal(SUM, "2 11 11").await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_between_transactions_and_kills_around_it_lose_nothing() {
    let mut pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    for round in 1..=4 {
        let id = round * 100;
        if round % 2 == 0 {
            pair.daemon.kill();
        }
        for sql in [
            &format!("INSERT INTO item (id, qty) VALUES ({id}, 1)"),
            &format!(
                "ALTER TABLE item DROP COLUMN qty, ADD COLUMN qty int NOT NULL DEFAULT {round}"
            ),
            &format!("INSERT INTO item (id, qty) VALUES ({id} + 1, 5)"),
            &format!("DELETE FROM item WHERE id = {id} - 100"),
            "ALTER TABLE item MODIFY note varchar(150)",
            &format!("UPDATE item SET note = 'round {round}' WHERE id = {id}"),
        ] {
            pair.source.sql(sql).await;
        }
        if round % 2 == 0 {
            pair.daemon.start_again();
        } else {
            pair.daemon.kill_and_start();
        }
        let digest = "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(char_length(note))) FROM item";
        let expected = pair.source.one(digest).await;
        pair.equal(digest, &expected).await;
        pair.others_flow().await;
    }
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn computed_columns_and_character_sets_that_change_rows_are_answered() {
    for postgres in [true, false] {
        let pair = Pair::start(postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        pair.target.sql("ALTER TABLE item ADD COLUMN g int").await;
        pair.source
            .sql("ALTER TABLE item ADD COLUMN g int GENERATED ALWAYS AS (qty + 1) STORED")
            .await;
        pair.source.sql("UPDATE item SET qty = 10 WHERE id = 3").await;
        pair.equal("SELECT sum(qty) FROM item", "13").await;
        let maria =
            matches!(&pair.source, Side::My(server) if server.flavour() == Flavour::MariaDb);
        if postgres || maria {
            // Not in the log, so not mapped, and nothing stops for it.
            pair.others_flow().await;
            tokio::time::sleep(Duration::from_secs(6)).await;
            pair.source.sql("UPDATE item SET qty = 11 WHERE id = 3").await;
            pair.equal("SELECT sum(qty) FROM item", "14").await;
        } else {
            pair.equal("SELECT sum(g) FROM item", "16").await;
            pair.source
                .sql("ALTER TABLE item MODIFY g int GENERATED ALWAYS AS (qty + 2) STORED")
                .await;
            pair.equal("SELECT sum(g) FROM item", "19").await;
        }
        if !postgres {
            let before = pair.compared();
            pair.source.sql("ALTER TABLE item CONVERT TO CHARACTER SET latin1").await;
            let began = Instant::now();
            while pair.compared() == before {
                assert!(began.elapsed() < SOON, "{}", pair.daemon.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        pair.source.sql("UPDATE item SET note = 'è' WHERE id = 3").await;
        pair.equal("SELECT max(note) FROM item WHERE id = 3", "è").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}
