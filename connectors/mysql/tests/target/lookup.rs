//! Values of other rows of the target.

use std::sync::Arc;

use tidelock_core::{
    Code, CopyTable, ErrorKind, Key, KeyRange, LookupTarget, TargetColumn, Value, WriteOp,
};

use crate::field::{Field, INT, batch, text};

async fn lookup(
    field: &Field,
    name: &str,
    by: &[&str],
    result: &str,
    with: &[&str],
) -> Arc<LookupTarget> {
    let table = field.target(name).await;
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
        "CREATE TABLE currency (id int PRIMARY KEY, code varchar(3) COLLATE utf8mb4_general_ci UNIQUE, \
         area varchar(9) COLLATE utf8mb4_general_ci, note varchar(9), KEY (area)); \
         INSERT INTO currency VALUES (1, 'EUR', 'x', 'n'), (2, 'USD', 'y', NULL), (3, NULL, 'y', 'z'), \
         (4, 'A', 'Za', ''), (5, 'B', 'zA', ''), (6, 'C', 'Zz', ''), (7, 'D', 'zZ', '')",
    )
    .await;
    let by_code = lookup(&field, "currency", &["code"], "id", &[]).await;
    let note = lookup(&field, "currency", &["code", "area"], "note", &[]).await;
    let by_area = lookup(&field, "currency", &["area"], "id", &[]).await;
    let mut held = field.hold().await;
    let wanted = keys(&[
        &[text("USD")],
        &[text("EURO")],
        &[Value::Null],
        &[text("EUR")],
        &[text("EUR")],
        &[text("CHF")],
    ]);
    let found = held.open.sink.lookup(&by_code, &wanted).await.expect("outside a transaction");
    assert_eq!(found, [Some(INT(2)), None, None, Some(INT(1)), Some(INT(1)), None]);
    // By the column's own equality; the same to the byte where several are equal.
    let found =
        held.open.sink.lookup(&by_code, &keys(&[&[text("usd")]])).await.expect("other case");
    assert_eq!(found, [Some(INT(2))]);
    let found = held.open.sink.lookup(&by_area, &keys(&[&[text("zA")], &[text("Za")]])).await;
    assert_eq!(found.expect("exact"), [Some(INT(5)), Some(INT(4))]);
    held.begin().await;
    let table = Arc::new(field.target("currency").await);
    let row = vec![vec![INT(9), text("CHF"), text("x")]];
    held.open.sink.write(&[batch(&table, WriteOp::Upsert, &[0, 1, 2], row)]).await.expect("write");
    let found = held.open.sink.lookup(&by_code, &wanted).await.expect("inside");
    assert_eq!(found[5], Some(INT(9)));
    let pairs =
        keys(&[&[text("EUR"), text("x")], &[text("USD"), text("y")], &[text("USD"), text("x")]]);
    let found = held.open.sink.lookup(&note, &pairs).await.expect("two columns");
    assert_eq!(found, [Some(text("n")), Some(Value::Null), None]);
    let many: Vec<Key> =
        (0..1_000).map(|i| vec![text(if i == 777 { "USD" } else { "-" })].into()).collect();
    let found = held.open.sink.lookup(&by_code, &many).await.expect("many");
    assert_eq!((found.len(), found.iter().position(Option::is_some)), (1_000, Some(777)));
    held.commit().await;
    for area in ["y", "ZZ"] {
        let wanted = keys(&[&[text(area)]]);
        let error = held.open.sink.lookup(&by_area, &wanted).await.expect_err("two rows");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::LookupAmbiguous));
        let message = error.message();
        assert!(message.contains("crm.currency") && message.contains("area"), "{error}");
        drop(held);
        held = field.hold().await;
    }
}

#[tokio::test]
async fn a_value_is_found_as_a_copy_reads_it() {
    let columns = "i int, u bigint unsigned, n decimal(30,4), c char(4), v varchar(5), l varchar(9) CHARACTER SET latin1, \
                   t text, d date, ts datetime(3), tz timestamp(6) NULL, ti time(2), y year, b bit(12), e enum('', 'x', 'y'), \
                   s set('p', 'q'), bi binary(3), vb varbinary(9), f float, g double, j json";
    let field = Field::new(&format!(
        "CREATE TABLE v (id int PRIMARY KEY, {columns}); \
         INSERT INTO v VALUES (1, -7, 18446744073709551615, 12345678901234567890.1200, 'ab', 'xé', 'äö', '', \
         '2024-02-29', '2024-02-29 23:59:59.123', '2024-02-29 23:59:59.000001', '-34:22:59.50', 1999, 5, '', 'p,q', \
         'a', 0x00ff, 0.1, 0.1, '{{\"a\": 1.0}}'); INSERT INTO v (id) VALUES (2)",
    ))
    .await;
    let names: Vec<String> =
        field.target("v").await.columns.iter().map(|c| c.name.clone()).collect();
    let mut copier = field.connector.copier().await.expect("copier");
    let wanted = CopyTable {
        name: tidelock_core::TableName::new("crm", "v"),
        columns: names.clone(),
        key: vec!["id".into()],
        filter: None,
    };
    let all = KeyRange { after: None, upto: None };
    let piece = copier.read(&wanted, &all, 1 << 20).await.expect("read");
    let mut held = field.hold().await;
    for (i, name) in names.iter().enumerate() {
        let target = lookup(&field, "v", &["id"], name, &[]).await;
        // One key goes alone, more go together.
        for count in [1, 9] {
            let wanted: Vec<Key> = (1..=count).map(|id| vec![INT(id)].into()).collect();
            let found = held.open.sink.lookup(&target, &wanted).await.expect(name);
            for (row, found) in piece.rows.iter().zip(&found) {
                assert_eq!(found.as_ref(), row.0.get(i), "{name} of {count}");
            }
            assert!(found.iter().skip(2).all(Option::is_none));
        }
        // And every kind of key finds its row; floats have no decimal notation that is equal to them.
        if !matches!(name.as_str(), "f" | "j") {
            let target = lookup(&field, "v", &[name], "id", &[]).await;
            let key = piece.rows[0].0[i].clone();
            let found = held.open.sink.lookup(&target, &keys(&[&[key]])).await.expect(name);
            assert_eq!(found, [Some(INT(1))], "{name}");
        }
    }
}

#[tokio::test]
async fn a_missing_row_is_added_once_whoever_adds_it() {
    let field = Field::new(
        "CREATE TABLE tag (id int AUTO_INCREMENT PRIMARY KEY, name varchar(20) NOT NULL UNIQUE, \
         slug varchar(20) UNIQUE, place int NOT NULL, tiny varchar(2)); \
         CREATE TABLE loose (id int AUTO_INCREMENT PRIMARY KEY, name varchar(20))",
    )
    .await;
    let tags = lookup(&field, "tag", &["name"], "id", &["slug", "place"]).await;
    let row =
        |name: &str, slug: &str| -> Box<[Value]> { vec![text(name), text(slug), INT(1)].into() };
    let mut held = field.hold().await;
    held.begin().await;
    let rows = [row("a", "sa"), row("b", "sb"), row("a", "sa")];
    let found = held.open.sink.lookup_or_insert(&tags, &rows).await.expect("added");
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
    let again = held.open.sink.lookup_or_insert(&tags, &rows).await.expect("found");
    assert_eq!(again, found);
    held.commit().await;
    assert_eq!(field.one("SELECT count(*) FROM tag").await, "2");

    // Another session adds the same row and has not committed when ours comes to it.
    let mut other = field.server.conn("crm").await.expect("connection");
    use tidelock_scratch::mysql_async::prelude::Queryable;
    other
        .query_drop("BEGIN; INSERT INTO tag (name, slug, place) VALUES ('c', 'theirs', 7)")
        .await
        .expect("insert");
    held.begin().await;
    let ours = async {
        let rows = [row("c", "ours")];
        held.open.sink.lookup_or_insert(&tags, &rows).await
    };
    let theirs = async {
        let waits =
            "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
        while field.one(waits).await == "0" {
            // A view that is asked more often than every tenth of a second never changes.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        other.query_drop("COMMIT").await.expect("commit");
    };
    let (found, ()) = tokio::join!(ours, theirs);
    let id = field.one("SELECT id FROM tag WHERE slug = 'theirs'").await;
    assert_eq!(found.expect("theirs"), [INT(id.parse().expect("id"))]);
    held.commit().await;
    assert_eq!(field.one("SELECT CONCAT(slug, place) FROM tag WHERE name = 'c'").await, "theirs7");

    let loose = lookup(&field, "loose", &["name"], "id", &[]).await;
    let tiny = lookup(&field, "tag", &["name"], "id", &["tiny", "place"]).await;
    let clash: &[Box<[Value]>] = &[row("d", "sd"), row("e", "sa")];
    let no_key: &[Box<[Value]>] = &[row("f", "sf"), vec![Value::Null, text("x"), INT(1)].into()];
    let long: &[Box<[Value]>] = &[row("f", "ab"), row("g", "abc")];
    let none: &[Box<[Value]>] = &[vec![text("x")].into()];
    for (target, rows, code, batch) in [
        // A conflict with another index is no row of ours.
        (&tags, clash, Code::KeyConflict, Some(1)),
        (&tags, no_key, Code::Constraint, Some(1)),
        (&tiny, long, Code::NotRepresentable, Some(1)),
        (&loose, none, Code::Catalog, None),
    ] {
        held.begin().await;
        let error = held.open.sink.lookup_or_insert(target, rows).await.expect_err("refused");
        assert_eq!((error.code(), error.batch()), (code, batch), "{error}");
        drop(held);
        held = field.hold().await;
    }
    assert_eq!(field.one("SELECT count(*) FROM tag").await, "3");
}
