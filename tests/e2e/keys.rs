//! Keys of the target that several rows of the source may have: the end of one of these is not the end of the key.

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::{Daemon, command};
use super::snapshot::Side;

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
