//! What is held back, and must come all the same: rows of a mapping whose file changes meanwhile.

use super::tracks::World;

const STOCK: &str = "CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL)";
const MARK: &str = "CREATE TABLE mark (id int NOT NULL PRIMARY KEY)";
const ALL: &str = "SELECT product, qty FROM stock ORDER BY product";
const MARKS: &str = "SELECT id FROM mark ORDER BY id";

fn mapped(gate: &str) -> String {
    format!(
        "[[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\n{gate}\n[[mappings]]\nfrom = \"a.mark\"\nto = \"b.mark\"\n"
    )
}

/// What a throttle holds is sent when the file has a shorter one, or none any more.
async fn let_go(postgres_source: bool) {
    let (source, target) = ([STOCK, MARK], [STOCK, MARK]);
    let world = World::new(postgres_source, &source, &target, &mapped("throttle = \"1h\"")).await;
    world.a.sql("INSERT INTO stock VALUES (1, 1), (2, 1)").await;
    world.equal(ALL, ALL).await;
    for (gate, n) in [("throttle = \"1s\"", 2), ("", 3), ("edge = \"qty < 0\"", 4)] {
        world.a.sql(&format!("UPDATE stock SET qty = {n}0 WHERE product = 1")).await;
        world.a.sql(&format!("UPDATE stock SET qty = {n}1 WHERE product = 1")).await;
        world.a.sql(&format!("INSERT INTO mark VALUES ({n})")).await;
        world.equal(MARKS, MARKS).await;
        world.reload(&mapped(gate));
        world.equal(ALL, ALL).await;
        world.reload(&mapped("throttle = \"1h\""));
        world.daemon.streaming().await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_comes_though_the_throttle_goes_away_from_postgres() {
    let_go(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_comes_though_the_throttle_goes_away_from_mariadb() {
    let_go(false).await;
}

/// A key that was below the old edge crosses the new one, though it did not come back above the old one in between.
async fn other_edge(postgres_source: bool) {
    let edge = |below: u32| mapped(&format!("edge = \"qty < {below}\""));
    let (source, target) = ([STOCK, MARK], [STOCK, MARK]);
    let mut world = World::new(postgres_source, &source, &target, &edge(10)).await;
    world.a.sql("INSERT INTO stock VALUES (1, 50), (2, 8)").await;
    let second = "SELECT product, qty FROM stock WHERE product = 2";
    world.equal(second, second).await;
    world.reload(&edge(5));
    world.a.sql("UPDATE stock SET qty = 3 WHERE product = 2").await;
    world.equal(second, second).await;
    // It is told once, also by whoever comes next.
    world.daemon.kill_and_start();
    world.a.sql("UPDATE stock SET qty = 2 WHERE product = 2").await;
    world.a.sql("UPDATE stock SET qty = 1 WHERE product = 1").await;
    let first = "SELECT product, qty FROM stock WHERE product = 1";
    world.equal(first, first).await;
    assert_eq!(world.b.one("SELECT qty FROM stock WHERE product = 2").await, "3");
    let notes = world.daemon.flows()[0]["mappings"][1]["notes"].to_string();
    assert!(notes.contains("columns or conditions changed"), "{notes}");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_the_file_changes_is_told_anew_from_postgres() {
    other_edge(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_the_file_changes_is_told_anew_from_mariadb() {
    other_edge(false).await;
}
