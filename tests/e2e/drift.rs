//! Schema changes whose answer must be about one mapping, and none must be passed over: keys that go, tables that leave the
//! publication, tables that a view is made of, partitions that come back, values that an `ALTER` changes.

use std::time::{Duration, Instant};

use super::SOON;
use super::schema::{OTHER, Pair, SUM, mapping};
use super::snapshot::Side;

/// Waits until the rows were compared so often because of a change that was not logged.
async fn compares(pair: &Pair, times: usize) {
    let began = Instant::now();
    while pair.compared() < times {
        assert!(began.elapsed() < SOON, "{}", pair.daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_wildcard_that_loses_its_key_stops_and_comes_back() {
    for postgres in [true, false] {
        let wildcard = if postgres { ("a.public.*", "b.*") } else { ("a.*", "b.public.*") };
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        source.sql("CREATE TABLE bare (a int)").await;
        let maps = format!("[[mappings]]\nfrom = {:?}\nto = {:?}\n", wildcard.0, wildcard.1);
        let mut pair = Pair::between(source, target, "", &maps).await;
        pair.equal(SUM, "3 6 6").await;
        assert!(pair.daemon.log().contains("bare has no usable key"), "{}", pair.daemon.log());
        let drop = if postgres {
            "ALTER TABLE item DROP CONSTRAINT item_pkey"
        } else {
            "ALTER TABLE item DROP PRIMARY KEY"
        };
        pair.source.sql(drop).await;
        let said = pair.stops("item", "TL0201").await;
        assert!(said.contains("key"), "{said}");
        pair.daemon.kill_and_start();
        pair.stops("item", "TL0201").await;
        // What goes meanwhile goes at the target when it comes back.
        if postgres {
            pair.source.sql("ALTER TABLE item REPLICA IDENTITY FULL").await;
        }
        pair.source.sql("DELETE FROM item WHERE id = 1").await;
        pair.source.sql("INSERT INTO item VALUES (4, 4, 'keyless')").await;
        pair.source.sql("ALTER TABLE item ADD PRIMARY KEY (id)").await;
        if postgres {
            pair.source.sql("ALTER TABLE item REPLICA IDENTITY DEFAULT").await;
        }
        pair.resync("item");
        pair.equal(SUM, "3 9 9").await;
        pair.source.sql("UPDATE item SET qty = 5 WHERE id = 4").await;
        pair.equal(SUM, "3 9 10").await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_goes_does_not_hide_one_that_comes() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    for sql in [
        "CREATE TABLE part (id bigint NOT NULL PRIMARY KEY, a int) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF part FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE p2 PARTITION OF part FOR VALUES FROM (100) TO (200)",
        "CREATE TABLE p3 (id bigint NOT NULL PRIMARY KEY, a int)",
        "INSERT INTO p3 VALUES (201, 1), (202, 2)",
    ] {
        source.sql(sql).await;
    }
    target.sql("CREATE TABLE part (id bigint NOT NULL PRIMARY KEY, a int)").await;
    for side in [&source, &target] {
        side.sql(OTHER).await;
    }
    let maps = mapping("item", "") + &mapping("part", "on_truncate = \"ignore\"");
    let fill = "INSERT INTO part VALUES (1, 1), (101, 1), (102, 2)";
    let pair = Pair::between(source, target, fill, &maps).await;
    let sum = "SELECT concat(count(*), ' ', sum(id), ' ', sum(a)) FROM part";
    pair.equal(sum, "3 204 4").await;
    pair.source
        .sql(
            "BEGIN; ALTER TABLE part DETACH PARTITION p1; \
              ALTER TABLE part ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300); COMMIT",
        )
        .await;
    // The row of the one that went is kept, as the mapping says; those of the other come.
    pair.target_has(sum, "5 607 7").await;
    // One that is taken out, changed and put back.
    pair.source
        .sql(
            "BEGIN; ALTER TABLE part DETACH PARTITION p2; UPDATE p2 SET a = a + 10; \
              ALTER TABLE part ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200); COMMIT",
        )
        .await;
    pair.target_has(sum, "5 607 27").await;
    pair.others_flow().await;
    // One whose rows no log tells of.
    pair.source.sql("ALTER TABLE p2 SET UNLOGGED").await;
    let said = pair.stops("part", "TL0201").await;
    assert!(said.contains("p2") && said.contains("SET LOGGED"), "{said}");
    pair.source.sql("UPDATE p2 SET a = a + 1").await;
    pair.source.sql("ALTER TABLE p2 SET LOGGED").await;
    pair.resync("part");
    pair.equal(sum, "4 606 28").await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_only_the_target_has_stay_where_no_first_copy_was_asked_for() {
    for postgres in [true, false] {
        let schema = if postgres { "public" } else { "db" };
        let create = super::ITEM.replace("item", &format!("{schema}.item"));
        let pair = Pair::start(postgres, &[], "", &mapping("item", "snapshot = \"never\"")).await;
        pair.target.sql("INSERT INTO item VALUES (1000, 1, 'its own')").await;
        pair.source.sql("INSERT INTO item VALUES (4, 4, 'followed')").await;
        pair.target_has(SUM, "2 1004 5").await;
        // Made again between two looks; and away for longer.
        pair.source.sql("DROP TABLE item").await;
        pair.source.sql(&create).await;
        pair.source.sql("INSERT INTO item VALUES (5, 5, 'again')").await;
        pair.target_has(SUM, "3 1009 10").await;
        pair.source.sql("DROP TABLE item").await;
        pair.stops("item", "TL0209").await;
        pair.source.sql(&create).await;
        pair.source.sql("INSERT INTO item VALUES (6, 6, 'back')").await;
        pair.target_has(SUM, "4 1015 16").await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_that_goes_stops_the_mapping_that_stands_on_it() {
    for postgres in [true, false] {
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        source
            .sql("CREATE TABLE sold (id bigint NOT NULL PRIMARY KEY, order_no int NOT NULL, qty int, CONSTRAINT uq UNIQUE (order_no))")
            .await;
        if postgres {
            source.sql("ALTER TABLE sold REPLICA IDENTITY FULL").await;
        }
        target.sql("CREATE TABLE sold (order_no int NOT NULL PRIMARY KEY, qty int)").await;
        let fill = "INSERT INTO sold VALUES (1, 100, 1), (2, 200, 2)";
        let maps = mapping("item", "") + &mapping("sold", "key = [\"order_no\"]");
        let pair = Pair::between(source, target, fill, &maps).await;
        let sum = "SELECT concat(count(*), ' ', sum(order_no)) FROM sold";
        pair.equal(sum, "2 300").await;
        for (n, drop) in
            ["ALTER TABLE sold DROP INDEX uq", "DROP INDEX uq ON sold"].iter().enumerate()
        {
            let drop = if postgres { "ALTER TABLE sold DROP CONSTRAINT uq" } else { drop };
            pair.source.sql(drop).await;
            let said = pair.stops("sold", "TL0201").await;
            assert!(said.contains("order_no"), "{said}");
            pair.source.sql("ALTER TABLE sold ADD CONSTRAINT uq UNIQUE (order_no)").await;
            let order = 300 + n;
            pair.source.sql(&format!("INSERT INTO sold VALUES ({order}, {order}, 3)")).await;
            pair.resync("sold");
            let all = pair.source.one(sum).await;
            pair.equal(sum, &all).await;
        }
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_of_the_only_mapping_does_not_hold_the_flow() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source.sql("INSERT INTO item VALUES (1, 1, 'one')").await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let listed = "[mappings.columns]\nid = \"id\"\nqty = \"qty\"\nnote = \"note\"";
    let text = super::config(folder.path(), &systems, &[]) + &mapping("item", listed);
    let mut daemon = super::daemon::Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    source.sql("ALTER TABLE item RENAME COLUMN note TO remark").await;
    let stopped = |flows: &[serde_json::Value]| {
        flows[0]["state"] == "streaming"
            && Pair::mapping(flows, "item")["error"]["code"] == "TL0201"
    };
    daemon.wait("stopped", SOON, stopped).await;
    daemon.kill_and_start();
    daemon.wait("stopped", SOON, stopped).await;
    // The source's log is not kept for it.
    source
        .sql("CREATE TABLE noise AS SELECT n, 'x' || n AS t FROM generate_series(1, 20000) n")
        .await;
    let end = source.one("SELECT pg_current_wal_lsn()").await;
    let passed =
        format!("SELECT bool_and(confirmed_flush_lsn >= '{end}') FROM pg_replication_slots");
    tidelock_scratch::wait_for("passed", SOON, "t".to_owned(), async || source.one(&passed).await)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    source.sql("ALTER TABLE item RENAME COLUMN remark TO note").await;
    source.sql("INSERT INTO item VALUES (2, 2, 'two')").await;
    assert_eq!(daemon.command(&["resync", "item"]).0, 0);
    let sum = async || target.one("SELECT sum(id) FROM item").await;
    tidelock_scratch::wait_for("back", SOON, "3".to_owned(), sum).await.expect("back");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_to_the_name_of_a_mapping_is_left_out_alone() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    for (side, schemas) in [(&source, ["s1", "s2"]), (&target, ["t1", "t2"])] {
        for schema in schemas {
            side.sql(&format!("CREATE SCHEMA {schema}")).await;
            let own = if schema.ends_with('1') { "first" } else { "second" };
            for table in ["shared", own] {
                if schema != "s2" || table != "shared" {
                    side.sql(&format!("CREATE TABLE {schema}.{table} (id bigint PRIMARY KEY)"))
                        .await;
                }
            }
        }
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let maps = "[[mappings]]\nfrom = \"a.s1.*\"\nto = \"b.t1.*\"\n\
                [[mappings]]\nfrom = \"a.s2.*\"\nto = \"b.t2.*\"\n";
    let text = super::config(folder.path(), &systems, &[]) + maps;
    let mut daemon = super::daemon::Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    source.sql("INSERT INTO s1.shared VALUES (1)").await;
    let has = async |daemon: &super::daemon::Daemon, table: &str, rows: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let rows = rows.to_owned();
        tidelock_scratch::wait_for(table, SOON, rows, async || target.one(&sql).await)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    };
    has(&daemon, "t1.shared", "1").await;
    source.sql("CREATE TABLE s2.shared (id bigint PRIMARY KEY)").await;
    source.sql("INSERT INTO s2.shared VALUES (50)").await;
    daemon.kill_and_start();
    daemon.streaming().await;
    for table in ["s1.shared", "s1.first", "s2.second"] {
        source.sql(&format!("INSERT INTO {table} VALUES (2)")).await;
    }
    has(&daemon, "t1.shared", "2").await;
    has(&daemon, "t1.first", "1").await;
    has(&daemon, "t2.second", "1").await;
    assert_eq!(target.one("SELECT count(*) FROM t2.shared").await, "0");
    assert!(daemon.log().contains("s2.shared is not mapped"), "{}", daemon.log());
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_may_not_do_stops_the_mapping_of_its_row() {
    let pair = {
        let (source, target) = (Side::new(false).await, Side::new(true).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        // It runs as a role that may do less than we may.
        for sql in [
            "CREATE ROLE weak",
            "CREATE TABLE audit (id bigint)",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
             $$ BEGIN IF NEW.id = 13 THEN INSERT INTO public.audit VALUES (NEW.id); END IF; RETURN NEW; END $$",
            "ALTER FUNCTION note() OWNER TO weak",
            "CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION note()",
        ] {
            target.sql(sql).await;
        }
        Pair::between(source, target, "", &mapping("item", "")).await
    };
    pair.equal(SUM, "3 6 6").await;
    pair.source.sql("INSERT INTO item VALUES (13, 1, 'refused')").await;
    let said = pair.stops("item", "TL0207").await;
    assert!(said.contains("audit"), "{said}");
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_an_alter_changed_are_brought_whatever_it_looks_like() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    for side in [&source, &target] {
        side.sql(OTHER).await;
        side.sql("CREATE TABLE rated (id bigint PRIMARY KEY)").await;
    }
    for sql in [
        "INSERT INTO rated VALUES (1), (2)",
        "ALTER TABLE rated ADD COLUMN rate numeric DEFAULT 1, ADD COLUMN kept numeric DEFAULT 7",
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN state AS mood",
        "CREATE TABLE mooded (id bigint PRIMARY KEY, many mood[], one state)",
    ] {
        source.sql(sql).await;
    }
    target.sql("ALTER TABLE rated ADD COLUMN rate numeric, ADD COLUMN kept numeric").await;
    target.sql("CREATE TABLE mooded (id bigint PRIMARY KEY, many text, one text)").await;
    let maps = mapping("item", "") + &mapping("rated", "") + &mapping("mooded", "");
    let fill = "INSERT INTO mooded VALUES (1, '{sad,ok}', 'sad')";
    let pair = Pair::between(source, target, fill, &maps).await;
    let rates = "SELECT sum(rate) || ' ' || sum(kept) FROM rated";
    pair.equal(rates, "2 14").await;
    pair.source.sql("ALTER TABLE rated ALTER rate TYPE numeric USING rate * 10").await;
    pair.equal(rates, "20 14").await;
    assert_eq!(pair.compared(), 1, "{}", pair.daemon.log());
    pair.source.sql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    pair.target_has("SELECT many || ' ' || one FROM mooded", "{blue,ok} blue").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_that_not_null_turned_into_zeros_are_brought() {
    let lax = ["ALTER TABLE item MODIFY qty int"];
    let pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    for sql in lax {
        pair.source.sql(sql).await;
    }
    pair.target.sql("ALTER TABLE item ALTER qty DROP NOT NULL").await;
    pair.source.sql("UPDATE item SET qty = NULL WHERE id = 3").await;
    pair.equal("SELECT concat(count(qty), ' ', sum(qty)) FROM item", "2 3").await;
    pair.source.sql("SET SESSION sql_mode = ''; ALTER TABLE item MODIFY qty int NOT NULL").await;
    pair.equal("SELECT concat(count(qty), ' ', sum(qty)) FROM item", "3 3").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_is_compared_or_stops_alone() {
    let mut pair = Pair::start(true, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    let publication = pair.source.one("SELECT pubname FROM pg_publication").await;
    // Its place there is on record from the second look on.
    let known = "SELECT count(*) FROM tidelock.snapshot WHERE mapping = 'item' \
                 AND `columns` REGEXP 'member[^0-9a-z]*[0-9]'";
    pair.target_has(known, "1").await;
    // Out and in again between two looks, with rows that no log tells of.
    pair.source
        .sql(&format!(
            "BEGIN; ALTER PUBLICATION {publication} DROP TABLE item; \
             INSERT INTO item VALUES (4, 4, 'unseen'); DELETE FROM item WHERE id = 1; COMMIT"
        ))
        .await;
    pair.source.sql(&format!("ALTER PUBLICATION {publication} ADD TABLE item")).await;
    compares(&pair, 1).await;
    pair.equal(SUM, "3 9 9").await;
    // And for longer, while we are down.
    pair.daemon.kill();
    pair.source.sql(&format!("ALTER PUBLICATION {publication} DROP TABLE item")).await;
    pair.source.sql("INSERT INTO item VALUES (5, 5, 'unseen')").await;
    pair.daemon.start_again();
    pair.equal(SUM, "4 14 14").await;
    pair.source.sql("INSERT INTO item VALUES (6, 6, 'followed')").await;
    pair.equal(SUM, "5 20 20").await;
    pair.others_flow().await;
    if pair.source.one("SELECT current_setting('server_version_num')::int >= 150000").await == "t" {
        pair.daemon.kill();
        pair.source
            .sql(&format!(
                "ALTER PUBLICATION {publication} DROP TABLE item; \
                 ALTER PUBLICATION {publication} ADD TABLE item WHERE (id > 3)"
            ))
            .await;
        pair.daemon.start_again();
        let said = pair.stops("item", "TL0108").await;
        assert!(said.contains("filters the rows"), "{said}");
        pair.source
            .sql(&format!(
                "ALTER PUBLICATION {publication} DROP TABLE item; \
                 ALTER PUBLICATION {publication} ADD TABLE item"
            ))
            .await;
        pair.source.sql("UPDATE item SET qty = 20 WHERE id = 2").await;
        pair.resync("item");
        pair.equal(SUM, "5 20 38").await;
    }
    pair.daemon.stop();
}

/// What a publication leaves out for a while is not in the log, whatever it says afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_left_changes_out_for_a_while_is_noticed() {
    let mut pair = Pair::start(true, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    let publication = pair.source.one("SELECT pubname FROM pg_publication").await;
    // From the first moment: what it says is on record before anything is read of it.
    let publishes =
        |what: &str| format!("ALTER PUBLICATION {publication} SET (publish = '{what}')");
    let all = publishes("insert, update, delete, truncate");
    pair.source.sql(&publishes("insert")).await;
    pair.source.sql("UPDATE item SET qty = 11 WHERE id = 1").await;
    pair.source.sql(&all).await;
    pair.equal(SUM, "3 6 16").await;
    pair.others_flow().await;
    // And while we are down.
    pair.daemon.kill();
    pair.source.sql(&publishes("insert")).await;
    pair.source.sql("DELETE FROM item WHERE id = 1").await;
    pair.source.sql(&all).await;
    pair.daemon.start_again();
    pair.equal(SUM, "2 5 5").await;
    pair.source.sql("INSERT INTO item VALUES (6, 6, 'followed')").await;
    pair.equal(SUM, "3 11 11").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

/// Goods in shelves, and a view of both.
const SHELVES: [&str; 3] = [
    "CREATE TABLE shelf (id int NOT NULL PRIMARY KEY, label varchar(40) NOT NULL)",
    "CREATE TABLE good (id int NOT NULL PRIMARY KEY, shelf int NOT NULL)",
    "CREATE VIEW placed AS SELECT g.id, s.label FROM good g JOIN shelf s ON s.id = g.shelf",
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_view_is_made_of_are_watched() {
    for postgres in [true, false] {
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        for sql in SHELVES {
            source.sql(sql).await;
        }
        source.sql("INSERT INTO shelf VALUES (1, 'one'), (2, 'two')").await;
        target
            .sql("CREATE TABLE placed (id int NOT NULL PRIMARY KEY, label varchar(40) NOT NULL)")
            .await;
        let tracks = "[mappings.tracks]\n'a.good' = \"id\"\n\
                      'a.shelf' = { keys = \"SELECT id FROM good WHERE shelf IN (:id)\" }\n";
        let maps = mapping("item", "") + &mapping("placed", tracks);
        let fill = "INSERT INTO good VALUES (1, 1), (2, 2)";
        let pair = Pair::between(source, target, fill, &maps).await;
        let all = "SELECT concat(count(*), ' ', min(label), ' ', max(label)) FROM placed";
        pair.equal(all, "2 one two").await;
        let schema = if postgres { "public" } else { "db" };
        let labels = format!(
            "CREATE TABLE {schema}.labels (id int NOT NULL PRIMARY KEY, label varchar(40) NOT NULL)"
        );
        pair.source.sql(&labels).await;
        pair.source.sql("INSERT INTO labels VALUES (1, 'first'), (2, 'second')").await;
        // Another table under its name, and the view made of that one.
        if postgres {
            pair.source
                .sql("BEGIN; DROP VIEW placed; ALTER TABLE shelf RENAME TO shelf_old; ALTER TABLE labels RENAME TO shelf; \
                      CREATE VIEW public.placed AS SELECT g.id, s.label FROM good g JOIN shelf s ON s.id = g.shelf; COMMIT")
                .await;
        } else {
            pair.source.sql("RENAME TABLE shelf TO shelf_old, labels TO shelf").await;
        }
        pair.equal(all, "2 first second").await;
        pair.source.sql("UPDATE shelf SET label = 'followed' WHERE id = 1").await;
        pair.equal(all, "2 followed second").await;
        pair.others_flow().await;
        // Values that a statement changed without a word in the log.
        if !postgres {
            pair.source
                .sql("ALTER TABLE shelf DROP COLUMN label, ADD COLUMN label varchar(40) NOT NULL DEFAULT 'filled'")
                .await;
            pair.equal(all, "2 filled filled").await;
            pair.others_flow().await;
        }
        // Away: what is made of it cannot be followed.
        pair.source.sql("ALTER TABLE shelf RENAME TO shelves").await;
        let stopped = |flows: &[serde_json::Value]| {
            flows[0]["state"] == "streaming" && Pair::mapping(flows, "placed")["state"] == "stopped"
        };
        pair.daemon.wait("stopped", SOON, stopped).await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}
