//! The paper of `check --exposure` against what is found at the target: every source field holds a mark of its own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;

const PERSON: [&str; 12] = [
    "id", "plain", "upper", "hashed", "tail", "nothing", "filter", "valid", "dead", "unread",
    "coded", "other",
];
const NOTE: [&str; 3] = ["nid", "person", "note"];
/// A dictionary of the source.
const WORD: [&str; 3] = ["code", "meaning", "rest"];

/// What a field holds: nothing else does.
fn mark(field: &str) -> String {
    format!("mark-{field}-xyzzy-{}", field.len())
}

fn columns(names: &[&str]) -> String {
    let column = |name: &&str| format!("{name} varchar(60) NOT NULL");
    names.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn marks(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{}'", mark(name))).collect::<Vec<_>>().join(", ")
}

const MAPPED: &str = r#"
[[mappings]]
name = "persons"
from = "a.person"
to = "b.person"
where = "filter LIKE 'mark%'"
validate = [{ rule = "valid <> ''", says = "valid" }]
on_delete = { set = { last = "'gone ' || dead" } }
[mappings.columns]
id = "id"
plain = "plain"
loud = "upper(upper)"
hashed = "mask(hashed, 'hash')"
tail = "mask(tail, 'last4')"
nothing = "coalesce(mask(nothing, 'null'), '-')"
last = "'alive'"
word = "dictionary('words', coded, '-')"
kind = "dictionary('kinds', 'none', other)"
[dictionaries.words]
table = "a.word"
key = "code"
value = "meaning"
[dictionaries.kinds]
table = "b.kind"
key = "code"
value = "meaning"
[[mappings]]
name = "notes"
from = "a.noted"
to = "b.noted"
key = ["digest"]
from_key = ["person"]
columns = { digest = "digest", notes = "notes" }
[mappings.tracks]
'a.note' = "person"
"#;

/// All that is in the target's databases, ours among them, as text and as digits of bytes.
async fn everything(side: &Side) -> String {
    let (tables, value) = match side {
        Side::Pg(_) => (
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE schemaname IN ('public', 'tidelock')".to_owned(),
            None,
        ),
        Side::My(_) => (
            "SELECT concat('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables WHERE table_schema IN ('db', 'tidelock')".to_owned(),
            Some("SELECT concat('hex(cast(`', column_name, '` AS binary))') FROM information_schema.columns WHERE concat('`', table_schema, '`.`', table_name, '`') = "),
        ),
    };
    let mut all = String::new();
    for table in side.rows(&tables).await.into_iter().flatten().flatten() {
        let cells = match value {
            None => "t::text".to_owned(),
            Some(names) => {
                let names = side.rows(&format!("{names}'{table}'")).await;
                names.into_iter().flatten().flatten().collect::<Vec<_>>().join(", ")
            }
        };
        for cell in side.rows(&format!("SELECT {cells} FROM {table} t")).await.into_iter().flatten()
        {
            all.push_str(&cell.unwrap_or_default().to_lowercase());
            all.push('\n');
        }
    }
    all
}

fn holds(all: &str, text: &str) -> bool {
    let text = text.to_lowercase();
    // The case of letters is lost in text, not in digits.
    let digits = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let ways = [text.clone(), digits(&text), digits(&text.to_uppercase())];
    ways.iter().any(|way| all.contains(way))
}

/// The last parts of fields of a section of the paper.
fn section(mapping: &Value, name: &str, takes: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let list = mapping[name].as_array().expect(name);
    let last = |field: &Value| {
        let field = field.as_str().or_else(|| field["field"].as_str()).expect("field");
        field.rsplit('.').next().expect("column").to_owned()
    };
    list.iter().filter(|field| takes(field)).map(last).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn told(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    a.sql(&format!("CREATE TABLE person ({}, PRIMARY KEY (id))", columns(&PERSON))).await;
    a.sql(&format!("CREATE TABLE word ({}, PRIMARY KEY (code))", columns(&WORD))).await;
    let word = marks(&WORD).replace(&mark("code"), &mark("coded"));
    a.sql(&format!("INSERT INTO word VALUES ({word})")).await;
    b.sql(
        "CREATE TABLE kind (code varchar(20) NOT NULL PRIMARY KEY, meaning varchar(60) NOT NULL)",
    )
    .await;
    a.sql(&format!("CREATE TABLE note ({}, PRIMARY KEY (nid))", columns(&NOTE))).await;
    let digest = if postgres_source { "md5(person)" } else { "left(sha2(person, 224), 32)" };
    a.sql(&format!("CREATE VIEW noted AS SELECT person, {digest} AS digest, count(*) AS notes FROM note GROUP BY person")).await;
    if let Side::Pg(_) = &a {
        a.sql("ALTER TABLE person REPLICA IDENTITY FULL").await;
        a.sql("ALTER TABLE note REPLICA IDENTITY FULL").await;
    }
    b.sql("CREATE TABLE person (id varchar(60) NOT NULL PRIMARY KEY, plain varchar(60), loud varchar(60), hashed varchar(64), tail varchar(60), nothing varchar(60), last varchar(80), word varchar(60), kind varchar(60))").await;
    b.sql("CREATE TABLE noted (digest varchar(40) NOT NULL PRIMARY KEY, notes bigint)").await;
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("key"), "a key of masks").expect("key");
    let key = folder.path().join("key").display().to_string();
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]).replace(
        "name = \"test\"\n",
        &format!("name = \"test\"\nmask_key = {{ file = {key:?} }}\n"),
    ) + MAPPED;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check", "--exposure", "--json"]);
    let paper: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        (&paper["pipeline"], &paper["config_hash"].as_str().map(str::len)),
        (&"test".into(), &Some(16))
    );
    let (persons, notes) = (&paper["mappings"][0], &paper["mappings"][1]);
    let open = section(persons, "sent", |sent| sent["masked"].is_null());
    let masked = section(persons, "sent", |sent| !sent["masked"].is_null());
    let any = |_: &Value| true;
    assert_eq!(open, set(&["id", "plain", "upper", "dead", "meaning", "other", "coded"]), "{said}");
    assert_eq!(masked, set(&["hashed", "tail"]));
    assert_eq!(
        section(persons, "read_not_sent", any),
        set(&["filter", "nothing", "valid", "code"])
    );
    assert_eq!(section(persons, "not_read", any), set(&["unread", "rest"]));
    assert_eq!(section(notes, "sent", any), set(&["digest", "notes"]));
    assert_eq!(section(notes, "kept_as_key", any), set(&["person"]));
    assert_eq!(section(notes, "not_read", any), set(&["nid", "note"]));

    // One row is copied, one follows, one is deleted again.
    a.sql(&format!("INSERT INTO person VALUES ({})", marks(&PERSON))).await;
    a.sql(&format!("INSERT INTO note VALUES ({})", marks(&NOTE))).await;
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let gone = marks(&PERSON).replace(&mark("id"), &format!("{}-2", mark("id")));
    a.sql(&format!("INSERT INTO person VALUES ({gone})")).await;
    a.sql(&format!("DELETE FROM person WHERE id = '{}-2'", mark("id"))).await;
    a.sql(&format!("UPDATE note SET note = '{}' WHERE 1 = 1", mark("note"))).await;
    a.sql(&format!("INSERT INTO note VALUES ('n2', '{}', 'x')", mark("person"))).await;
    let deleted = format!("SELECT 'gone {}', 2", mark("dead"));
    let found = "SELECT (SELECT max(last) FROM person), (SELECT max(notes) FROM noted)";
    equal(&daemon, (&a, &deleted), (&b, found)).await;
    let all = everything(&b).await;
    // A code counts as sent: what it stands for tells it, though it does not stand there itself.
    for column in PERSON.into_iter().filter(|column| *column != "coded") {
        assert_eq!(holds(&all, &mark(column)), open.contains(column), "{column}\n{all}");
    }
    // Four characters of it, and no more.
    let tail = mark("tail");
    assert!(holds(&all, tail.get(tail.len() - 4..).expect("tail")));
    for column in ["nid", "note"] {
        assert!(!holds(&all, &mark(column)), "{column}");
    }
    assert!(holds(&all, &mark("meaning")) && !holds(&all, &mark("rest")));
    let log = daemon.log();
    for column in PERSON.iter().chain(&NOTE) {
        assert!(!log.contains(&mark(column)), "{column}");
    }
    daemon.stop();

    let (code, said) = command(&config, &["check", "--exposure"]);
    let (ours, theirs) = if postgres_source { ("public", "db") } else { ("db", "public") };
    assert_eq!(code, 0, "{said}");
    for words in [
        "Exposure of pipeline test\nconfiguration  ".to_owned(),
        format!(
            "a -> b  mapping persons\n  from table {ours}.person at a to table {theirs}.person at b\n  sent\n"
        ),
        format!(
            "    {ours}.person.hashed  -> {theirs}.person.hashed  mask(hashed, 'hash')  masked: keyed hash\n"
        ),
        format!("    {ours}.person.plain   -> {theirs}.person.plain   as it is\n"),
        format!(
            "    {ours}.person.dead    -> {theirs}.person.last    on_delete: 'gone ' || dead\n"
        ),
        format!("    {ours}.person.filter   where\n"),
        format!("    {ours}.note.person  tracks\n"),
        format!("  not read\n    {ours}.person.unread\n    {ours}.word.rest\n"),
        "A column of a view holds what the view's own query takes from other tables.".to_owned(),
    ] {
        assert!(said.contains(&words), "{words} not in\n{said}");
    }
    // The same paper again, and none that is whole where a mapping cannot run.
    assert_eq!(command(&config, &["check", "--exposure"]).1, said);
    std::fs::write(&config, text.replace("upper(upper)", "uper(upper)")).expect("config");
    let (code, said) = command(&config, &["check", "--exposure"]);
    assert!(code == 1 && said.contains("NOT TOLD: mapping persons of flow a:b"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_paper_says_is_what_is_found_at_the_target_from_postgres() {
    told(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_paper_says_is_what_is_found_at_the_target_from_mariadb() {
    told(false).await;
}
