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
