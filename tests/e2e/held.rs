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

const LINES: [&str; 5] = [
    "CREATE TABLE line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, qty int NOT NULL)",
    "ALTER TABLE line REPLICA IDENTITY FULL",
    "CREATE VIEW sale_line AS SELECT sale, id, qty FROM line",
    MARK,
    "INSERT INTO line VALUES (1, 1, 10), (2, 1, 10), (3, 1, 10), (5, 2, 10)",
];
/// In the one a row may move from one group to another, in the other it is another row then.
const LINES_THERE: [&str; 4] = [
    "CREATE TABLE moving (id int NOT NULL PRIMARY KEY, sale int NOT NULL, qty int NOT NULL)",
    "CREATE TABLE staying (sale int NOT NULL, id int NOT NULL, qty int NOT NULL, PRIMARY KEY (sale, id))",
    "CREATE TABLE low (id int NOT NULL PRIMARY KEY, sale int NOT NULL, qty int NOT NULL)",
    MARK,
];

fn grouped(gate: &str) -> String {
    let mut text = "[[mappings]]\nfrom = \"a.mark\"\nto = \"b.mark\"\n".to_owned();
    for (table, gate) in [("moving", gate), ("staying", gate), ("low", "edge = \"qty < 10\"")] {
        text += &format!(
            "[[mappings]]\nname = \"{table}\"\nfrom = \"a.sale_line\"\nto = \"b.{table}\"\nkey = [\"sale\"]\nrow_key = [\"id\"]\n{gate}\n\
             columns = {{ sale = \"sale\", id = \"id\", qty = \"qty\" }}\ntracks = {{ 'a.line' = \"sale\" }}\n"
        );
    }
    text
}

/// Of a group each row rests by itself: its neighbours go on, rows come, go and move, and its last state is owed over crashes.
async fn rows_of_groups(postgres_source: bool) {
    let mapped = grouped("throttle = \"1h\"");
    let mut world = World::new(postgres_source, &LINES, &LINES_THERE, &mapped).await;
    let mut marks = 0;
    // The rows that the target has then, by their groups, in both tables; and those below the edge.
    let mut told = async |world: &World, sql: &[&str], rows: &str, low: &str| {
        for sql in sql {
            world.a.sql(sql).await;
        }
        marks += 1;
        world.a.sql(&format!("INSERT INTO mark VALUES ({marks})")).await;
        world.equal(MARKS, MARKS).await;
        for (table, rows) in [("moving", rows), ("staying", rows), ("low", low)] {
            let have =
                world.b.rows(&format!("SELECT sale, id, qty FROM {table} ORDER BY id, sale")).await;
            let have: Vec<String> = have
                .into_iter()
                .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("."))
                .collect();
            assert_eq!(have.join(" "), rows, "{table} after {sql:?}\n{}", world.daemon.log());
        }
    };
    let all = "1.1.10 1.2.10 1.3.10 2.5.10";
    told(&world, &[], all, all).await;
    // The first of each is sent, whatever its neighbours have had; the second is held.
    let first = "UPDATE line SET qty = 11 WHERE id = 1";
    told(&world, &[first], "1.1.11 1.2.10 1.3.10 2.5.10", all).await;
    let second = ["UPDATE line SET qty = 9 WHERE id = 1", "UPDATE line SET qty = 13 WHERE id = 3"];
    told(&world, &second, "1.1.11 1.2.10 1.3.13 2.5.10", "1.1.9 1.2.10 1.3.10 2.5.10").await;
    // One that comes and one that goes are not held up by it, nor is it sent with them.
    let others = ["INSERT INTO line VALUES (4, 1, 14)", "DELETE FROM line WHERE id = 2"];
    told(&world, &others, "1.1.11 1.3.13 1.4.14 2.5.10", "1.1.9 1.3.10 2.5.10").await;
    let third = ["UPDATE line SET qty = 8 WHERE id = 1", "UPDATE line SET qty = 7 WHERE id = 4"];
    let rows = "1.1.11 1.3.13 1.4.14 2.5.10";
    told(&world, &third, rows, "1.1.9 1.3.10 1.4.7 2.5.10").await;
    world.daemon.kill();
    std::fs::remove_dir_all(world.folder.path().join("checkpoint")).expect("checkpoint");
    world.daemon.start_again();
    told(&world, &[], rows, "1.1.9 1.3.10 1.4.7 2.5.10").await;
    // A row that is held and goes to another group comes there as it is; one that is held and goes does not come back.
    let moves = ["UPDATE line SET sale = 2 WHERE id = 1", "DELETE FROM line WHERE id = 4"];
    told(&world, &moves, "2.1.8 1.3.13 2.5.10", "2.1.8 1.3.10 2.5.10").await;
    // One that is as it was sent before its time has come owes nothing.
    let back = ["UPDATE line SET qty = 20 WHERE id = 3", "UPDATE line SET qty = 13 WHERE id = 3"];
    told(&world, &back, "2.1.8 1.3.13 2.5.10", "2.1.8 1.3.10 2.5.10").await;
    let last = ["UPDATE line SET qty = 21 WHERE id = 3", "UPDATE line SET qty = 1 WHERE id = 1"];
    told(&world, &last, "2.1.8 1.3.13 2.5.10", "2.1.8 1.3.10 2.5.10").await;
    world.reload(&grouped("throttle = \"1s\""));
    let want = "SELECT sale, id, qty FROM line ORDER BY id";
    for table in ["moving", "staying"] {
        world.equal(want, &format!("SELECT sale, id, qty FROM {table} ORDER BY id")).await;
    }
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_group_rest_by_themselves_from_postgres() {
    rows_of_groups(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_group_rest_by_themselves_from_mariadb() {
    rows_of_groups(false).await;
}

/// However often the rows of a group change, few states of each are sent, and the last is among them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_group_are_sent_once_a_period_and_their_last_state_comes() {
    let mut there = LINES_THERE.to_vec();
    there.extend([
        "CREATE TABLE seen (n bigserial, id int)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen (id) VALUES (NEW.id); RETURN NULL; END $$",
        "CREATE TRIGGER t AFTER INSERT OR UPDATE ON moving FOR EACH ROW EXECUTE FUNCTION note()",
    ]);
    let mapped = grouped("throttle = \"3s\"");
    let mut world = World::between((false, true), &LINES, &there, &mapped).await;
    let began = std::time::Instant::now();
    for n in 1..=150 {
        world.a.sql(&format!("UPDATE line SET qty = {n} WHERE id = {}", n % 2 + 1)).await;
        if n == 75 {
            world.daemon.kill_and_start();
        }
    }
    let want = "SELECT sale, id, qty FROM line ORDER BY id";
    for table in ["moving", "staying"] {
        world.equal(want, &format!("SELECT sale, id, qty FROM {table} ORDER BY id")).await;
    }
    let periods = began.elapsed().as_secs() / 3 + 2;
    for (id, least) in [(1, 2), (2, 2), (3, 1)] {
        let seen = world.b.one(&format!("SELECT count(*) FROM seen WHERE id = {id}")).await;
        let seen: u64 = seen.parse().expect("n");
        assert!(seen >= least && seen <= periods, "{seen} states of {id} in {periods} periods");
    }
    world.daemon.stop();
}
