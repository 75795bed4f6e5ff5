//! Values of other rows of the target.

use std::sync::Arc;

use tidelock_core::value::{Date, Interval, Timestamp};
use tidelock_core::{
    Code, CopyTable, ErrorKind, Key, KeyRange, LookupTarget, Position, TargetColumn, Value, WriteOp,
};

use crate::field::Field;
use crate::writer::{INT, batch, mark, started, target, text, wait_free};

async fn lookup(
    field: &Field,
    name: &str,
    by: &[&str],
    result: &str,
    with: &[&str],
) -> Arc<LookupTarget> {
    let table = target(field, name, false).await;
    let column = |name: &str| -> TargetColumn {
        table.columns.iter().find(|c| c.name == name).expect("column").clone()
    };
    Arc::new(LookupTarget {
        id: table.id,
        table: table.name.clone(),
        by: by.iter().copied().map(column).collect(),
        result: column(result),
        with: with.iter().copied().map(column).collect(),
    })
}

fn keys(keys: &[&[Value]]) -> Vec<Key> {
    keys.iter().map(|key| key.to_vec().into()).collect()
}

#[tokio::test]
async fn values_are_found_by_natural_keys_and_by_what_was_just_written() {
    let field = Field::new(
        "CREATE TABLE currency (id int PRIMARY KEY, code varchar(3) UNIQUE, area text, note text); \
         CREATE INDEX ON currency (area); \
         INSERT INTO currency VALUES (1, 'EUR', 'x', 'n'), (2, 'USD', 'y', NULL), (3, NULL, 'y', 'z')",
    )
    .await;
    let by_code = lookup(&field, "currency", &["code"], "id", &[]).await;
    let note = lookup(&field, "currency", &["code", "area"], "note", &[]).await;
    let by_area = lookup(&field, "currency", &["area"], "id", &[]).await;
    let mut open = started(&field).await;
    let wanted = keys(&[
        &[text("USD")],
        &[text("EURO")],
        &[Value::Null],
        &[text("EUR")],
        &[text("EUR")],
        &[text("CHF")],
    ]);
    let found = open.sink.lookup(&by_code, &wanted).await.expect("outside a transaction");
    assert_eq!(found, [Some(INT(2)), None, None, Some(INT(1)), Some(INT(1)), None]);
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let table = target(&field, "currency", false).await;
    let row = batch(&table, WriteOp::Upsert, &[0, 1, 2], &[&[INT(9), text("CHF"), text("x")]]);
    open.sink.write(&[row]).await.expect("write");
    let found = open.sink.lookup(&by_code, &wanted).await.expect("inside");
    assert_eq!(found[5], Some(INT(9)));
    let pairs =
        keys(&[&[text("EUR"), text("x")], &[text("USD"), text("y")], &[text("USD"), text("x")]]);
    let found = open.sink.lookup(&note, &pairs).await.expect("two columns");
    assert_eq!(found, [Some(text("n")), Some(Value::Null), None]);
    let many: Vec<Key> = (0..12_000)
        .map(|i| keys(&[&[text(if i == 11_111 { "USD" } else { "-" })]])[0].clone())
        .collect();
    let found = open.sink.lookup(&by_code, &many).await.expect("many");
    assert_eq!(found.iter().position(Option::is_some), Some(11_111));
    let error = open.sink.lookup(&by_area, &keys(&[&[text("y")]])).await.expect_err("two rows");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::LookupAmbiguous));
    assert!(
        error.message().contains("public.currency") && error.message().contains("area"),
        "{error}"
    );
}

#[tokio::test]
async fn a_value_is_found_as_a_copy_reads_it() {
    let columns = "b bool, i int, n numeric, c char(4), v varchar(5), t text, d date, ts timestamp, tz timestamptz, \
                   iv interval, u uuid, j jsonb, by bytea, f float8, a int[], m money, o oid, ip inet";
    let field = Field::new(&format!(
        "CREATE TABLE v (id int PRIMARY KEY, {columns}); \
         INSERT INTO v VALUES (1, true, -7, 1.50, 'ab', 'x ', '', 'infinity', '0044-03-15 12:00:00 BC', \
         '2024-02-29 23:59:59.000001+05', '1 mon -3 days', gen_random_uuid(), '{{\"a\": 1.0}}', '\\x00ff5c', 0.1, \
         '{{1,NULL}}', '-1234.5', 4000000000, '10.0.0.0/8'); INSERT INTO v (id) VALUES (2)",
    ))
    .await;
    field.sql("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Shanghai'; ALTER ROLE CURRENT_USER SET bytea_output = 'escape'").await;
    let table = target(&field, "v", false).await;
    let names: Vec<String> = table.columns.iter().map(|c| c.name.clone()).collect();
    let mut copier = field.connector.copier().await.expect("copier");
    let wanted = CopyTable {
        name: table.name.clone(),
        columns: names.clone(),
        key: vec!["id".into()],
        filter: None,
    };
    let all = KeyRange { after: None, upto: None };
    let piece = copier.read(&wanted, &all, 1 << 20).await.expect("read");
    let mut open = started(&field).await;
    let mut compared = 0;
    for (i, name) in names.iter().enumerate() {
        let target = lookup(&field, "v", &["id"], name, &[]).await;
        let found = open.sink.lookup(&target, &keys(&[&[INT(1)], &[INT(2)]])).await.expect(name);
        for (row, found) in piece.rows.iter().zip(found) {
            assert_eq!(found.as_ref(), row.0.get(i), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * names.len());
    // And every kind of key finds its row.
    for (i, name) in names.iter().enumerate() {
        let target = lookup(&field, "v", &[name], "id", &[]).await;
        let key = piece.rows[0].0[i].clone();
        if !matches!(name.as_str(), "j" | "a") {
            let found = open.sink.lookup(&target, &keys(&[&[key]])).await.expect(name);
            assert_eq!(found, [Some(INT(1))], "{name}");
        }
    }
    let _kinds = (Date(0), Timestamp(0), Interval { months: 0, days: 0, micros: 0 });
}

#[tokio::test]
async fn a_missing_row_is_added_once_whoever_adds_it() {
    let field = Field::new(
        "CREATE TABLE tag (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, \
         slug text UNIQUE, rank int NOT NULL)",
    )
    .await;
    let tags = lookup(&field, "tag", &["name"], "id", &["slug", "rank"]).await;
    let row =
        |name: &str, slug: &str| -> Box<[Value]> { vec![text(name), text(slug), INT(1)].into() };
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let rows = [row("a", "sa"), row("b", "sb"), row("a", "sa")];
    let found = open.sink.lookup_or_insert(&tags, &rows).await.expect("added");
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
    let again = open.sink.lookup_or_insert(&tags, &rows).await.expect("found");
    assert_eq!(again, found);
    open.sink.commit(&Position::new("0/1"), 0).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM tag").await, "2");

    // Another session adds the same row and has not committed when ours comes to it.
    let other = field.server.client("erp").await.expect("client");
    other
        .batch_execute("BEGIN; INSERT INTO tag (name, slug, rank) VALUES ('c', 'theirs', 7)")
        .await
        .expect("insert");
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    let ours = async {
        let rows = [row("c", "ours")];
        open.sink.lookup_or_insert(&tags, &rows).await
    };
    let theirs = async {
        crate::field::until(&field, "SELECT count(*) FROM pg_locks WHERE NOT granted", "1").await;
        other.batch_execute("COMMIT").await.expect("commit");
    };
    let (found, ()) = tokio::join!(ours, theirs);
    let id = field.one("SELECT id FROM tag WHERE slug = 'theirs'").await;
    assert_eq!(found.expect("theirs"), [INT(id.parse().expect("id"))]);

    // A conflict with another index is no row of ours.
    let clash = [row("d", "sd"), row("e", "sa")];
    let error = open.sink.lookup_or_insert(&tags, &clash).await.expect_err("another row");
    assert_eq!((error.code(), error.batch()), (Code::KeyConflict, Some(1)), "{error}");
    drop(open);
    wait_free(&field).await;
    let mut open = field.sink().await;
    let (epoch, seq) = open.progress.as_ref().map(|p| (p.epoch, p.seq)).expect("progress");
    open.sink.begin(&mark(epoch, seq + 1)).await.expect("begin");
    let nothing: [Box<[Value]>; 2] =
        [row("f", "sf"), vec![Value::Null, Value::Null, INT(1)].into()];
    let error = open.sink.lookup_or_insert(&tags, &nothing).await.expect_err("no key");
    assert_eq!((error.code(), error.batch()), (Code::Constraint, Some(1)), "{error}");
}
