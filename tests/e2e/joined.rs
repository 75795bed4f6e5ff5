//! Columns and rules that look at several columns of a row, where the log leaves out what did not change.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SOON;
use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;

const MAPPED: &str = r#"
[[mappings]]
from = "a.book"
to = "b.book"
validate = [{ rule = "title <> 'forbidden' OR length(body) < 100", says = "title and body" }, { rule = "note <> 'bad'", says = "note" }]
[mappings.columns]
id = "id"
title = "title"
label = "title || ': ' || body"
other = "other"
"#;
const WANT: &str = "SELECT id, title, concat(title, ': ', body), other FROM book ORDER BY id";
const WANT_FEW: &str =
    "SELECT id, title, concat(title, ': ', body), other FROM book WHERE other < 25 ORDER BY id";
const HAVE: &str = "SELECT id, title, label, other FROM book ORDER BY id";

/// A statement whose log leaves out what it does not change: on PostgreSQL long values do, as they are kept out of line.
async fn sparsely(side: &Side, image: &str, sql: &str) {
    match side {
        Side::Pg(_) => side.sql(sql).await,
        Side::My(_) => side.sql(&format!("SET SESSION binlog_row_image = {image}; {sql}")).await,
    }
}

async fn books(postgres_source: bool) -> (Side, Side) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    let body = if postgres_source { "text" } else { "longtext" };
    a.sql(&format!("CREATE TABLE book (id int NOT NULL PRIMARY KEY, title varchar(40) NOT NULL, body {body} NOT NULL, other int, note varchar(20))")).await;
    if postgres_source {
        a.sql("ALTER TABLE book ALTER COLUMN body SET STORAGE EXTERNAL").await;
    }
    let label = if postgres_source { "longtext" } else { "text" };
    b.sql(&format!("CREATE TABLE book (id int NOT NULL PRIMARY KEY, title varchar(40) NOT NULL, label {label} NOT NULL, other int)")).await;
    for id in 1..20 {
        a.sql(&format!("INSERT INTO book VALUES ({id}, 'first', repeat('{id} ', 3000), 0, '')"))
            .await;
    }
    (a, b)
}

async fn made_of_both(postgres_source: bool, filter: bool) {
    let (a, b) = books(postgres_source).await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]) + MAPPED;
    let (text, want) = match filter {
        true => {
            (text.replace("to = \"b.book\"", "to = \"b.book\"\nwhere = \"other < 25\""), WANT_FEW)
        }
        false => (text, WANT),
    };
    // Where rows come and go, the log tells on which side they were.
    let image = if filter { "NOBLOB" } else { "MINIMAL" };
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    equal(&daemon, (&a, want), (&b, HAVE)).await;
    sparsely(&a, image, "UPDATE book SET title = 'second' WHERE id = 1").await;
    equal(&daemon, (&a, want), (&b, HAVE)).await;
    // Keys that move, and rows that are gone by the time that they are read.
    sparsely(&a, image, "UPDATE book SET title = 'third' WHERE id = 2; UPDATE book SET id = 32 WHERE id = 2; UPDATE book SET other = 7 WHERE id = 32; UPDATE book SET title = 'fourth', id = 33 WHERE id = 3; DELETE FROM book WHERE id = 33").await;
    equal(&daemon, (&a, want), (&b, HAVE)).await;
    let seed = 40 + u64::from(postgres_source);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..4 {
        if round % 2 == 1 {
            daemon.kill();
        }
        for n in 0..50 {
            let (id, to) = (random.random_range(1..25), random.random_range(1..25));
            let sql = match random.random_range(0..8) {
                0 | 1 => format!("UPDATE book SET title = 'title {n}' WHERE id = {id}"),
                2 => format!("UPDATE book SET body = repeat('{n} ', 3000) WHERE id = {id}"),
                3 => format!("UPDATE book SET other = {n} WHERE id = {id}"),
                4 => format!("UPDATE book SET note = '{n}' WHERE id = {id}"),
                5 => format!("DELETE FROM book WHERE id = {id}"),
                6 => format!(
                    "INSERT INTO book SELECT {id}, 'new {n}', repeat('{id} ', 3000), 0, '' FROM (SELECT 1 AS x) one WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM book) o WHERE o.id = {id})"
                ),
                _ => format!(
                    "UPDATE book SET id = {to} WHERE id = {id} AND {to} NOT IN (SELECT id FROM (SELECT id FROM book) o)"
                ),
            };
            sparsely(&a, image, &sql).await;
        }
        if round % 2 == 1 {
            daemon.start_again();
        }
        equal(&daemon, (&a, want), (&b, HAVE)).await;
    }
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_made_of_what_the_log_leaves_out_is_current_from_postgres() {
    made_of_both(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_made_of_what_the_log_leaves_out_is_current_from_mariadb() {
    made_of_both(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_made_of_what_the_log_leaves_out_is_current_where_rows_come_and_go_from_mariadb() {
    made_of_both(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_made_of_what_the_log_leaves_out_is_current_where_rows_come_and_go_from_postgres()
{
    made_of_both(true, true).await;
}

/// Rules are judged of rows of which the log carries a part, and what is neither true nor false does not pass.
async fn judged(postgres_source: bool) {
    let (a, b) = books(postgres_source).await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]) + MAPPED;
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    equal(&daemon, (&a, WANT), (&b, HAVE)).await;
    for (breach, mend, says) in [
        ("title = 'forbidden'", "title = 'first'", "title and body"),
        ("note = NULL", "note = ''", "note"),
    ] {
        sparsely(&a, "MINIMAL", &format!("UPDATE book SET {breach} WHERE id = 4")).await;
        daemon
            .wait(says, SOON, |flows| {
                let mapping = &flows[0]["mappings"][0];
                let message = mapping["error"]["message"].to_string();
                mapping["state"] == "stopped"
                    && mapping["error"]["code"] == "TL0213"
                    && message.contains(&format!("is not valid: {says}"))
            })
            .await;
        sparsely(&a, "MINIMAL", &format!("UPDATE book SET {mend} WHERE id = 4")).await;
        assert_eq!(daemon.command(&["resync", "book"]).0, 0);
        equal(&daemon, (&a, WANT), (&b, HAVE)).await;
        daemon.streaming().await;
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_over_what_the_log_leaves_out_are_judged_from_postgres() {
    judged(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_over_what_the_log_leaves_out_are_judged_from_mariadb() {
    judged(false).await;
}
