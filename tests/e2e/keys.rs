//! Keys of the target that several rows of the source may have: the end of one of these is not the end of the key.

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::{Daemon, command};
use super::snapshot::Side;
use super::tracks::World;

fn mapped(folder: &std::path::Path, a: &Side, b: &Side, rules: &str) -> String {
    super::config(folder, &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nname = \"contacts\"\nfrom = \"a.person\"\nto = \"b.contact\"\nkey = [\"email\"]\n\
           columns = { email = \"email\" }\n"
        + rules
}

async fn sides(postgres_source: bool, postgres_target: bool) -> (Side, Side) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    let time = if postgres_source { "timestamptz" } else { "timestamp(6)" };
    a.sql(&format!(
        "CREATE TABLE person (id int NOT NULL PRIMARY KEY, email varchar(60) NOT NULL, due {time} NOT NULL, active int NOT NULL)"
    ))
    .await;
    if postgres_source {
        a.sql("ALTER TABLE person REPLICA IDENTITY FULL").await;
    }
    b.sql("CREATE TABLE contact (email varchar(60) NOT NULL PRIMARY KEY)").await;
    (a, b)
}

async fn emails(b: &Side) -> String {
    let rows = b.rows("SELECT email FROM contact ORDER BY email").await;
    rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(",")
}

async fn window(postgres_source: bool, postgres_target: bool) {
    let (a, b) = sides(postgres_source, postgres_target).await;
    let folder = tempfile::tempdir().expect("folder");
    let text = mapped(folder.path(), &a, &b, "where = \"due > now()\"\nrefresh = \"1s\"\n");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let at = |seconds: i32| match postgres_source {
        true => format!("now() + interval '{seconds} seconds'"),
        false => format!("now(6) + interval {seconds} second"),
    };
    a.sql(&format!(
        "INSERT INTO person VALUES (1, 'a', {soon}, 1), (2, 'a', {late}, 1), (3, 'b', {soon}, 1), (4, 'c', {soon}, 1)",
        soon = at(4),
        late = at(3_600),
    ))
    .await;
    wait_for("all are inside", SOON, "a,b,c".to_owned(), || emails(&b)).await.expect("all");
    let passed = async || a.one("SELECT count(*) FROM person WHERE due < now()").await;
    wait_for("three have left", SOON, "3".to_owned(), passed).await.expect("passed");
    a.sql("DELETE FROM person WHERE id = 4").await;
    wait_for("their keys are gone", SOON, "a".to_owned(), || emails(&b)).await.expect("a alone");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_row_in_the_window_has_goes_from_postgres_to_postgres() {
    window(true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_row_in_the_window_has_goes_from_mariadb_to_postgres() {
    window(false, true).await;
}

/// Rows outside the filter in a later piece than the row inside that has their key.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_keeps_the_keys_that_rows_inside_the_filter_have_and_no_others() {
    let (a, b) = sides(true, false).await;
    a.sql("INSERT INTO person VALUES (1, 'a', now(), 1), (9001, 'a', now(), 0), (9002, 'b', now(), 0)").await;
    a.sql("INSERT INTO person SELECT n, 'filler ' || n, now(), 1 FROM generate_series(10, 2500) n")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let text = mapped(folder.path(), &a, &b, "where = \"active = 1\"\n");
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    b.sql("INSERT INTO contact VALUES ('b'), ('nobody')").await;
    let marked = async || {
        let few = "SELECT count(*), sum(email = 'a'), sum(email IN ('b', 'nobody')) FROM contact";
        let rows = b.rows(few).await;
        rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(",")
    };
    assert_eq!(marked().await, "2494,1,2");
    for command in ["backfill", "resync"] {
        assert_eq!(daemon.command(&[command, "contacts"]).0, 0);
        let left = if command == "backfill" { "2494,1,2" } else { "2492,1,0" };
        daemon.streaming().await;
        wait_for(command, SOON, left.to_owned(), marked).await.expect(command);
    }
    daemon.stop();
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing keeps (email) unique in public.person"), "{said}");
}

/// A row that comes to the key of one that has ended and stayed is that row from then on, as if it had been inserted, and the row at its old key ends.
async fn revived(postgres_source: bool) {
    let source = [
        "CREATE TABLE part (id int NOT NULL PRIMARY KEY, qty int NOT NULL, note text)",
        "INSERT INTO part SELECT 1, 1, repeat('a', 5000) UNION ALL SELECT 2, 2, repeat('b', 5000) UNION ALL SELECT 3, 3, 'c' UNION ALL SELECT 4, 4, 'd' \
         UNION ALL SELECT 5, 5, 'e' UNION ALL SELECT 6, 6, 'f' UNION ALL SELECT 8, 8, 'h'",
    ];
    let target = [
        "CREATE TABLE marked (id int NOT NULL PRIMARY KEY, qty int NOT NULL, note text, gone int NOT NULL)",
        "CREATE TABLE kept (id int NOT NULL PRIMARY KEY, qty int NOT NULL, note text)",
    ];
    let mapped = "[[mappings]]\nname = \"marked\"\nfrom = \"a.part\"\nto = \"b.marked\"\non_delete = { set = { gone = \"1\" } }\n\
         columns = { id = \"id\", qty = \"qty\", note = \"note\", gone = \"0\" }\n\
         [[mappings]]\nname = \"kept\"\nfrom = \"a.part\"\nto = \"b.kept\"\non_delete = \"ignore\"\n";
    let mut world = World::new(postgres_source, &source, &target, mapped).await;
    if postgres_source {
        // What did not change of it is not in the log.
        world.a.sql("ALTER TABLE part ALTER note SET STORAGE EXTERNAL").await;
        world.a.sql("UPDATE part SET note = note || 'x' WHERE id < 3").await;
    }
    let live = "SELECT id, qty, note FROM part ORDER BY id";
    let settled = async |world: &World, marked: &str, kept: &str| {
        world.equal(live, "SELECT id, qty, note FROM marked WHERE gone = 0 ORDER BY id").await;
        let have = async |sql: &str| {
            let rows = world.b.rows(sql).await;
            rows.into_iter()
                .map(|r| r.into_iter().flatten().collect::<Vec<_>>().join("."))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let log = || world.daemon.log();
        assert_eq!(have("SELECT id, qty, gone FROM marked ORDER BY id").await, marked, "{}", log());
        assert_eq!(have("SELECT id, qty FROM kept ORDER BY id").await, kept, "{}", log());
        world
            .equal(
                live,
                &format!("SELECT id, qty, note FROM kept WHERE id IN ({}) ORDER BY id", {
                    let live = world.a.rows("SELECT id FROM part").await;
                    live.into_iter().flatten().flatten().collect::<Vec<_>>().join(", ")
                }),
            )
            .await;
    };
    world.a.sql("DELETE FROM part WHERE id = 2").await;
    settled(&world, "1.1.0 2.2.1 3.3.0 4.4.0 5.5.0 6.6.0 8.8.0", "1.1 2.2 3.3 4.4 5.5 6.6 8.8")
        .await;
    // In a batch of its own.
    world.a.sql("UPDATE part SET id = 2 WHERE id = 1").await;
    settled(&world, "1.1.1 2.1.0 3.3.0 4.4.0 5.5.0 6.6.0 8.8.0", "1.1 2.1 3.3 4.4 5.5 6.6 8.8")
        .await;
    // In one with the end, and with what becomes of the row behind it.
    world.a.sql("BEGIN; DELETE FROM part WHERE id = 3; UPDATE part SET id = 3, qty = 40 WHERE id = 4; UPDATE part SET qty = 41 WHERE id = 3; COMMIT").await;
    settled(&world, "1.1.1 2.1.0 3.41.0 4.4.1 5.5.0 6.6.0 8.8.0", "1.1 2.1 3.41 4.4 5.5 6.6 8.8")
        .await;
    // In transactions of their own that go out together: there, on to a free key, and back to its own.
    world.daemon.kill();
    for sql in [
        "DELETE FROM part WHERE id = 5",
        "UPDATE part SET id = 5, qty = 60 WHERE id = 6",
        "UPDATE part SET id = 7 WHERE id = 5",
        "UPDATE part SET id = 6 WHERE id = 7",
        "INSERT INTO part VALUES (7, 70, NULL)",
    ] {
        world.a.sql(sql).await;
    }
    world.daemon.start_again();
    settled(
        &world,
        "1.1.1 2.1.0 3.41.0 4.4.1 6.60.0 7.70.0 8.8.0",
        "1.1 2.1 3.41 4.4 6.60 7.70 8.8",
    )
    .await;
    // One that goes to a free key is the same row, as ever.
    world.a.sql("UPDATE part SET id = 9 WHERE id = 8").await;
    settled(
        &world,
        "1.1.1 2.1.0 3.41.0 4.4.1 6.60.0 7.70.0 9.8.0",
        "1.1 2.1 3.41 4.4 6.60 7.70 9.8",
    )
    .await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_to_the_key_of_one_that_ended_revives_it_from_postgres() {
    revived(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_to_the_key_of_one_that_ended_revives_it_from_mariadb() {
    revived(false).await;
}
