//! Constraints of a PostgreSQL target that are checked at the commit, as every table of a Django application has them.

use super::SOON;
use super::schema::{Pair, mapping};
use super::snapshot::Side;

const LATE: &str = "DEFERRABLE INITIALLY DEFERRED";

/// Parents and children from this source; only the target's tables have the foreign key and the unique value.
async fn families(postgres: bool) -> Pair {
    let (source, target) = (Side::new(postgres).await, Side::new(true).await);
    for side in [&source, &target] {
        side.sql(super::schema::OTHER).await;
    }
    let parent = "CREATE TABLE parent (id bigint NOT NULL PRIMARY KEY, code int";
    let child = "CREATE TABLE child (id bigint NOT NULL PRIMARY KEY, parent bigint";
    source.sql(&format!("{parent})")).await;
    source.sql(&format!("{child})")).await;
    target.sql(&format!("{parent} UNIQUE {LATE})")).await;
    target.sql(&format!("{child} REFERENCES parent (id) {LATE})")).await;
    let maps = mapping("item", "") + &mapping("parent", "") + &mapping("child", "");
    let fill = "INSERT INTO parent VALUES (1, 1), (2, 2)";
    Pair::between(source, target, fill, &maps).await
}

const PARENTS: &str = "SELECT concat(count(*), ' ', sum(id)) FROM parent";
const CHILDREN: &str = "SELECT concat(count(*), ' ', sum(id)) FROM child";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_commit_stops_its_mapping_alone() {
    for postgres in [true, false] {
        let pair = families(postgres).await;
        pair.source.sql("INSERT INTO child VALUES (1, 1)").await;
        pair.equal(PARENTS, "2 3").await;
        pair.equal(CHILDREN, "1 1").await;
        // In one transaction a child may come before its parent.
        pair.source
            .sql("BEGIN; INSERT INTO child VALUES (3, 3); INSERT INTO parent VALUES (3, 3); COMMIT")
            .await;
        pair.equal(CHILDREN, "2 4").await;
        pair.equal(PARENTS, "3 6").await;
        // An orphan, with changes of other tables around it.
        pair.source
            .sql("BEGIN; INSERT INTO parent VALUES (4, 4); INSERT INTO child VALUES (9, 99); INSERT INTO parent VALUES (5, 5); COMMIT")
            .await;
        pair.stops("child", "TL0210").await;
        pair.equal(PARENTS, "5 15").await;
        pair.source.sql("DELETE FROM child WHERE id = 9").await;
        pair.resync("child");
        pair.equal(CHILDREN, "2 4").await;
        // A parent that goes while its child stays.
        pair.source
            .sql("BEGIN; UPDATE child SET parent = 2 WHERE id = 3; DELETE FROM parent WHERE id = 1; COMMIT")
            .await;
        pair.stops("parent", "TL0210").await;
        pair.target_has("SELECT parent FROM child WHERE id = 3", "2").await;
        pair.source.sql("INSERT INTO parent VALUES (1, 1)").await;
        pair.resync("parent");
        pair.equal(PARENTS, "5 15").await;
        // A unique value that two rows have at the commit; swapping it within a transaction is fine.
        pair.source.sql("UPDATE parent SET code = 9 - code WHERE id IN (4, 5)").await;
        pair.equal("SELECT code FROM parent WHERE id = 4", "5").await;
        pair.source
            .sql("BEGIN; UPDATE parent SET code = 2 WHERE id = 3; INSERT INTO child VALUES (4, 4); COMMIT")
            .await;
        pair.stops("parent", "TL0208").await;
        pair.equal(CHILDREN, "3 8").await;
        let halted = pair.daemon.log().contains("halted");
        assert!(!halted, "{}", pair.daemon.log());
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_copied_whatever_the_order_of_its_keys() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    let node = "CREATE TABLE node (id bigint NOT NULL PRIMARY KEY, parent bigint";
    source.sql(&format!("{node})")).await;
    target.sql(&format!("{node} REFERENCES node (id) {LATE})")).await;
    // Each comes long before the one that it points to.
    source
        .sql("INSERT INTO node SELECT n, CASE WHEN n <= 6000 THEN n + 6000 END FROM generate_series(1, 12000) n")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = super::config(folder.path(), &systems, &[])
        + &mapping("node", "")
        + "[defaults]\nsnapshot_rows_per_second = 20000\n";
    let daemon = super::daemon::Daemon::start(folder.path(), &text);
    let all = "SELECT concat(count(*), ' ', sum(parent)) FROM node";
    let expected = source.one(all).await;
    tidelock_scratch::wait_for("all", SOON, expected, async || target.one(all).await)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    daemon.streaming().await;
    assert!(!daemon.log().contains("halted"), "{}", daemon.log());
    daemon.stop();
}

/// What a trigger raises in its own words is about its row, whatever the code says that it chose, and whenever it is checked.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_raises_stops_its_mapping_alone() {
    for (to, codes) in [(true, ["42501", "28000", "55P03"]), (false, ["1142", "1231", "1049"])] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql(super::schema::OTHER).await;
            for table in ["parent", "child"] {
                side.sql(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)")).await;
            }
        }
        if to {
            for table in ["parent", "child"] {
                let raise =
                    |n: usize| format!("RAISE EXCEPTION 'no' USING ERRCODE = '{}'", codes[n]);
                target
                    .sql(&format!(
                        "CREATE FUNCTION check_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                         IF TG_TABLE_NAME = 'child' AND NEW.id >= 10 THEN \
                         IF NEW.id = 10 THEN {}; ELSIF NEW.id = 11 THEN {}; ELSE {}; END IF; END IF; RETURN NULL; END $$",
                        raise(0), raise(1), raise(2)
                    ))
                    .await;
                target
                    .sql(&format!(
                        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} {LATE} FOR EACH ROW EXECUTE FUNCTION check_{table}()"
                    ))
                    .await;
            }
        } else {
            let raise = |n: usize| {
                format!(
                    "SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'no'",
                    codes[n]
                )
            };
            target
                .sql(&format!(
                    "CREATE TRIGGER late BEFORE INSERT ON child FOR EACH ROW BEGIN \
                     IF NEW.id = 10 THEN {}; ELSEIF NEW.id = 11 THEN {}; ELSEIF NEW.id = 12 THEN {}; END IF; END",
                    raise(0), raise(1), raise(2)
                ))
                .await;
        }
        let maps = mapping("item", "") + &mapping("parent", "") + &mapping("child", "");
        let pair = Pair::between(source, target, "", &maps).await;
        for (n, id) in (10..13).enumerate() {
            pair.source
                .sql(&format!("BEGIN; INSERT INTO parent VALUES ({id}); INSERT INTO child VALUES ({id}); COMMIT"))
                .await;
            pair.stops("child", "TL0207").await;
            pair.equal("SELECT count(*) FROM parent", &(n + 1).to_string()).await;
            pair.source.sql(&format!("DELETE FROM child WHERE id = {id}")).await;
            pair.resync("child");
            pair.source.sql(&format!("INSERT INTO child VALUES ({n})")).await;
            pair.equal("SELECT count(*) FROM child", &(n + 1).to_string()).await;
        }
        let halted = pair.daemon.log().contains("halted");
        assert!(!halted, "{}", pair.daemon.log());
        pair.daemon.stop();
    }
}
