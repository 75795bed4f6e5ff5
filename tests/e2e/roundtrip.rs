//! Columns that go both ways and do not come back as they went.

use super::daemon::command;
use super::snapshot::Side;

async fn said(ours: &str, theirs: &str) -> (i32, String) {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(30) NOT NULL, price numeric(12,4) NOT NULL, state varchar(20) NOT NULL, note varchar(20))").await;
    b.sql("CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(30) NOT NULL, price decimal(12,4) NOT NULL, state varchar(20) NOT NULL, note varchar(20))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + &format!(
            r#"
[[mappings]]
from = "a.party"
to = "b.party"
columns = {{ id = "id", {ours} }}
[[mappings]]
from = "b.party"
to = "a.party"
snapshot = "never"
columns = {{ id = "id", {theirs} }}
[dictionaries.there]
won = "confirmed"
lost = "cancelled"
[dictionaries.back]
confirmed = "won"
cancelled = "lost"
[dictionaries.many]
won = "done"
lost = "done"
"#
        );
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    a.sql("INSERT INTO party (id, name, price, state) VALUES (1, 'Ada', 1.25, 'won'), (2, 'BOB', 1, 'lost')").await;
    command(&config, &["check", "--sample", "10"])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_back_is_told_with_a_value_that_shows_it() {
    let plain = "name = \"name\", price = \"price\", state = \"state\"";
    let (code, text) = said(plain, plain).await;
    assert!(code == 0 && !text.contains("does not come back"), "{text}");
    let (_, text) = said(
        "name = \"upper(name)\", price = \"round(price, 2)\", state = \"dictionary('many', state, 'open')\"",
        "name = \"name\", price = \"price\", state = \"state\"",
    )
    .await;
    for column in ["name", "price", "state"] {
        assert!(text.contains(&format!("public.party.{column} does not come back")), "{text}");
    }
    assert!(
        text.contains("public.party.state does not come back as it went: 'a' comes back as 'open'"),
        "{text}"
    );
    assert!(text.contains("in 1 of 2 rows public.party.name does not come back"), "{text}");
    assert!(!text.contains("Ada"), "{text}");
    // NULL that becomes a text, texts and numbers that are cut, and a filter that the simplest row does not meet.
    let (_, text) = said(
        "name = \"left(name, 9)\", price = \"price::real::numeric(12,4)\", state = \"state\", note = \"coalesce(note, '')\" }\nwhere = \"price > 30 AND state <> 'a'\"\n#",
        "name = \"name\", price = \"price\", state = \"state\", note = \"note\"",
    )
    .await;
    for words in ["price does not", "name does not", "note does not come back as it went: NULL"] {
        assert!(text.contains(&format!("public.party.{words}")), "{words}: {text}");
    }
    assert!(!text.contains("public.party.state does not"), "{text}");
    // Each other's inverse, where they have an answer at all.
    let (_, text) = said(
        "name = \"name\", price = \"price * 2\", state = \"dictionary('there', state)\"",
        "name = \"name\", price = \"price / 2\", state = \"dictionary('back', state)\"",
    )
    .await;
    assert!(!text.contains("does not come back"), "{text}");
    // With a default, two codes may become one.
    let (_, text) = said(
        "name = \"'x' || name\", price = \"price\", state = \"dictionary('there', state, state)\"",
        "name = \"substring(name from 2)\", price = \"price\", state = \"dictionary('back', state, state)\"",
    )
    .await;
    assert!(text.contains("'cancelled' comes back as 'lost'"), "{text}");
    assert!(text.contains("db.party.name does not come back"), "{text}");
    assert!(!text.contains("public.party.name does not come back"), "{text}");
}
