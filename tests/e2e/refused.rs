//! What `check` refuses, with the place and the cure: what no row could do, or only wrongly.

use super::daemon::command;
use super::snapshot::Side;

const TARGET: &str = "CREATE TABLE goods (id int NOT NULL PRIMARY KEY, code varchar(5), mark varchar(64), place smallint, \
    born time, kind varchar(20))";
const CODES: &str =
    "CREATE TABLE codes (code varchar(20) NOT NULL PRIMARY KEY, meaning int NOT NULL)";

/// A part of a mapping that is refused, and words of what is said: the fault and its cure.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "where = \"old.qty < 3\"",
        &[
            "where: the row before the change is not known here",
            "[mappings.columns] outside the key",
        ],
    ),
    ("edge = \"old.qty < 3\"", &["edge: the row before the change is not known here"]),
    (
        "columns = { id = \"coalesce(old.id, id)\" }",
        &["column id is in the key, and its value depends on what the row was before"],
    ),
    (
        "columns = { id = \"id + extract(year from now())::int\" }",
        &[
            "column id is in the key, and its value changes as time passes",
            "of columns of the row alone",
        ],
    ),
    (
        "columns = { id = \"dictionary('codes', name, id)\" }",
        &["column id is in the key, and dictionary codes is a table, which may change"],
    ),
    (
        "columns = { id = \"id\", code = \"'customer'\" }",
        &["column code: db.goods.code", "varchar(5) takes"],
    ),
    ("columns = { id = \"id\", place = \"'70000'\" }", &["column place: db.goods.place"]),
    ("columns = { id = \"id\", place = \"70000\" }", &["column place: db.goods.place"]),
    ("columns = { id = \"id\", mood = \"'bogus'\" }", &["column mood: db.moods.mood"]),
    (
        "columns = { id = \"id\", code = \"name::varchar(5)\" }\non_delete = { set = { code = \"'customer'\" } }",
        &["on_delete, code: db.goods.code"],
    ),
    (
        "columns = { id = \"id\", kind = \"mask(name, 'hash')\" }",
        &["db.goods.kind (varchar(20)): it has 64 characters in every row"],
    ),
    (
        "columns = { id = \"id\", kind = \"to_date(name, 'IYYY-IW')::text\" }",
        &["the template has a pattern that can only be written; YYYY YY MM"],
    ),
    (
        "columns = { id = \"id\", kind = \"to_date(name, 'Day')::text\" }",
        &["the template has a pattern that can only be written"],
    ),
    (
        "columns = { id = \"id\", kind = \"encode(data, 'escape')\" }",
        &["encodings are 'hex' and 'base64'"],
    ),
    (
        "columns = { id = \"id\", kind = \"convert_from(data, 'LATIN1')\" }",
        &["the only encoding is 'UTF8'"],
    ),
    (
        "columns = { id = \"id\", kind = \"mask(ip, 'last4')\" }",
        &[FOREIGN, "take its text: (…)::text"],
    ),
    ("columns = { id = \"id\", kind = \"'ip ' || ip\" }", &[FOREIGN]),
    ("columns = { id = \"id\", kind = \"to_json(tags)::text\" }", &[FOREIGN]),
    ("columns = { id = \"id\", kind = \"jsonb_build_object('tags', tags)::text\" }", &[FOREIGN]),
];
const FOREIGN: &str = "this is of a type that only its own kind of server understands";

/// Parts of a mapping that are taken.
const TAKEN: &[&str] = &[
    "columns = { id = \"id\", code = \"coalesce(old.name, '-')::varchar(5)\" }",
    "validate = [{ rule = \"old.qty IS NULL OR qty >= old.qty\", says = \"less\" }]\ncolumns = { id = \"id\" }",
    "columns = { id = \"id + 1000\" }",
    "columns = { id = \"id\", code = \"'guest'\", mark = \"mask(name, 'hash')\", place = \"'7'\", kind = \"ip::text\" }",
    "columns = { id = \"id\", mood = \"'ok'\", year = \"extract(year FROM at)::int\" }",
    "columns = { id = \"id\", mood = \"'ok'\", year = \"extract(day FROM at)::int\" }",
];

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_what_no_row_could_do_or_only_wrongly() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TYPE mood AS ENUM ('sad', 'ok')").await;
    a.sql("CREATE TABLE goods (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, qty int, born time NOT NULL, \
        at timestamp NOT NULL, ip inet, tags int[], data bytea, doc json)").await;
    a.sql(CODES).await;
    a.sql("ALTER TABLE goods REPLICA IDENTITY FULL").await;
    b.sql(TARGET).await;
    b.sql("CREATE TABLE moods (id int NOT NULL PRIMARY KEY, mood enum('sad', 'ok') NOT NULL, year int NOT NULL DEFAULT 0)").await;
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("tidelock.toml");
    std::fs::write(folder.path().join("key"), "a key of masks").expect("key");
    let key = folder.path().join("key").display().to_string();
    let head = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]).replace(
        "name = \"test\"\n",
        &format!("name = \"test\"\nmask_key = {{ file = {key:?} }}\n"),
    );
    let check = |to: &str, part: &str| {
        let columns = if part.contains("columns =") { "" } else { "\ncolumns = { id = \"id\" }" };
        let text = format!(
            "{head}[[mappings]]\nfrom = \"a.goods\"\nto = \"b.{to}\"\n{part}{columns}\n\
             [dictionaries.codes]\ntable = \"a.codes\"\nkey = \"code\"\nvalue = \"meaning\"\n"
        );
        std::fs::write(&config, text).expect("config");
        command(&config, &["check"])
    };
    for (part, words) in REFUSED {
        let to = if part.contains("mood") { "moods" } else { "goods" };
        let (code, said) = check(to, part);
        assert_eq!(code, 1, "{part}\n{said}");
        for words in *words {
            assert!(said.contains(words), "{part}\n{words} not in\n{said}");
        }
    }
    for part in TAKEN {
        let to = if part.contains("mood") { "moods" } else { "goods" };
        let (code, said) = check(to, part);
        assert_eq!(code, 0, "{part}\n{said}");
    }
}
