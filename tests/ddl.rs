//! Every type that a connector carries has a column in a new table of each target, and every value's way
//! there is open.

use tidelock::mapping::convert::{Rule, compatible};
use tidelock_core::{
    Column, Creation, DataType, Dialect, Generated, NewColumn, NewTable, Repertoire, TableName,
    Uncarried,
};
use tidelock_mysql::Flavour;
use tidelock_mysql::ddl::MySqlDialect;
use tidelock_postgres::ddl::PgDialect;

fn column(name: &str, data_type: DataType, native: &str) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        native: native.to_owned(),
        nullable: true,
        has_default: false,
        generated: Generated::No,
        default: None,
        collation: None,
        logged: true,
    }
}

fn text(chars_max: Option<u64>, bytes_max: Option<u64>, unicode: bool, padded: bool) -> DataType {
    let repertoire = if unicode { Repertoire::Unicode } else { Repertoire::Unknown };
    DataType::Text { chars_max, bytes_max, repertoire, padded }
}

/// Every canonical type as each kind of source has it, with its native spelling there.
fn types(mysql: bool) -> Vec<(DataType, String)> {
    use DataType as T;
    let labels = T::Enum { labels: vec!["a".to_owned(), "it's".to_owned()].into() };
    let native = |words: &str| words.to_owned();
    let mut types = vec![
        (T::Date, native("date")),
        (T::Float32, native(if mysql { "float" } else { "real" })),
        (T::Float64, native(if mysql { "double" } else { "double precision" })),
        (T::Uuid, native("uuid")),
        (T::Json, native("json")),
        (labels, native(if mysql { "enum('a','it''s')" } else { "public.mood" })),
    ];
    for fsp in 0..=6 {
        let zone = if mysql { "timestamp" } else { "timestamptz" };
        let civil = if mysql { "datetime" } else { "timestamp" };
        types.push((T::Time { fsp, span: mysql }, format!("time({fsp})")));
        types.push((T::Timestamp { fsp }, format!("{civil}({fsp})")));
        types.push((T::Instant { fsp, narrow: mysql }, format!("{zone}({fsp})")));
    }
    if mysql {
        for (bits, word) in
            [(8, "tinyint"), (16, "smallint"), (24, "mediumint"), (32, "int"), (64, "bigint")]
        {
            types.push((T::Int { bits, unsigned: false }, native(word)));
            types.push((T::Int { bits, unsigned: true }, format!("{word} unsigned")));
        }
        for (p, s) in [(1, 0), (10, 2), (65, 30), (65, 0), (38, 38)] {
            let decimal = T::Decimal { precision: Some(p), scale: Some(s) };
            types.push((decimal, format!("decimal({p},{s})")));
        }
        for double in [false, true] {
            let name = if double { "double(8,2)" } else { "float(8,2)" }.to_owned();
            types.push((T::RoundedFloat { double, name: name.clone() }, name));
        }
        for n in [1, 40, 255] {
            types.push((text(Some(n), Some(n), false, true), format!("char({n})")));
            types.push((text(Some(n), Some(4 * n), true, true), format!("char({n})")));
        }
        for n in [0, 1, 40, 255, 16_383, 65_532] {
            types.push((text(Some(n), Some(n), false, false), format!("varchar({n})")));
            types.push((text(Some(n), Some(4 * n), true, false), format!("varchar({n})")));
            let bytes = T::Bytes { bytes_max: Some(n), fixed: None };
            types.push((bytes, format!("varbinary({n})")));
        }
        let fixed = T::Bytes { bytes_max: Some(4), fixed: Some(4) };
        types.push((fixed, native("binary(4)")));
        for (bytes, kind) in
            [(255, "tiny"), (65_535, ""), (16_777_215, "medium"), (4_294_967_295, "long")]
        {
            types.push((text(None, Some(bytes), true, false), format!("{kind}text")));
            types.push((text(None, Some(bytes), false, false), format!("{kind}text")));
            let blob = T::Bytes { bytes_max: Some(bytes), fixed: None };
            types.push((blob, format!("{kind}blob")));
        }
        types.push((T::Year, native("year")));
        let labels = ["a".to_owned(), "b".to_owned()].into();
        types.push((T::Set { labels }, native("set('a','b')")));
        for n in [1, 9, 64] {
            types.push((T::Bits { length: Some(n), varying: false }, format!("bit({n})")));
        }
        types.push((T::Address { v4: false, v6: true, network: false }, native("inet6")));
        for name in ["geometry", "point", "vector(3)"] {
            types.push((T::Opaque { name: native(name) }, native(name)));
        }
        return types;
    }
    for n in [1, 64, 65, 1000] {
        types.push((T::Bits { length: Some(n), varying: false }, format!("bit({n})")));
        types.push((T::Bits { length: Some(n), varying: true }, format!("bit varying({n})")));
    }
    types.push((T::Bits { length: None, varying: true }, native("bit varying")));
    types.push((T::Interval { fsp: 6 }, native("interval")));
    types.push((T::Address { v4: true, v6: true, network: true }, native("inet")));
    for name in ["integer[]", "int4range", "xml", "time with time zone"] {
        types.push((T::Native { name: native(name), modifier: -1 }, native(name)));
    }
    types.push((T::Bool, native("boolean")));
    for (bits, word) in [(16, "smallint"), (32, "integer"), (64, "bigint")] {
        types.push((T::Int { bits, unsigned: false }, native(word)));
    }
    types.push((T::Decimal { precision: None, scale: None }, native("numeric")));
    for (p, s) in [(12, 2), (65, 38), (65, 30), (100, 50), (1000, 0), (1000, 1000)] {
        let decimal = T::Decimal { precision: Some(p), scale: Some(s) };
        types.push((decimal, format!("numeric({p},{s})")));
    }
    for n in [1, 40, 255, 256, 768, 16_383, 16_384, 10_485_760] {
        types.push((text(Some(n), None, true, false), format!("character varying({n})")));
        types.push((text(Some(n), None, true, true), format!("character({n})")));
    }
    types.push((text(None, None, true, false), native("text")));
    types.push((text(None, Some(63), true, false), native("name")));
    types.push((T::Bytes { bytes_max: None, fixed: None }, native("bytea")));
    // Domains: the canonical type alone counts.
    types.push((T::Int { bits: 32, unsigned: false }, native("public.posint")));
    types.push((T::Json, native("public.doc")));
    types
}

fn dialects() -> Vec<(&'static str, bool, Box<dyn Dialect>)> {
    let my = |flavour, version| -> Box<dyn Dialect> {
        Box::new(MySqlDialect::new(flavour, version, ["t".to_owned()], []))
    };
    vec![
        ("MariaDB 10.11", true, my(Flavour::MariaDb, "10.11.6-MariaDB-log")),
        ("MariaDB 10.5", true, my(Flavour::MariaDb, "10.5.29-MariaDB")),
        ("MySQL 9.7", true, my(Flavour::MySql, "9.7.4-2")),
        ("PostgreSQL", false, Box::new(PgDialect::new(["t".to_owned()], []))),
    ]
}

/// A table whose first column is its key.
fn make(
    dialect: &mut dyn Dialect,
    columns: Vec<Column>,
    same_family: bool,
) -> Result<Creation, Vec<Uncarried>> {
    let key = vec![columns[0].name.clone()];
    let columns =
        columns.into_iter().map(|from| NewColumn { name: from.name.clone(), from }).collect();
    dialect.create_table(&NewTable { name: TableName::new("t", "t"), columns, key, same_family })
}

#[test]
fn every_type_has_a_column_that_takes_it_in_each_target() {
    let id = || column("id", DataType::Int { bits: 32, unsigned: false }, "int");
    for (target, target_mysql, dialect) in dialects() {
        for source_mysql in [true, false] {
            let same_family = target_mysql == source_mysql;
            for (data_type, native) in types(source_mysql) {
                let from = column("c", data_type.clone(), &native);
                let columns = vec![id(), from.clone()];
                let made = make(&mut *dialect.boxed(), columns, same_family)
                    .unwrap_or_else(|e| panic!("{native} to {target}: {e:?}"));
                let to = &made.table.columns[1];
                let open = compatible(&data_type, &to.data_type, &Rule::default());
                assert_eq!(open, Ok(()), "{native} to {target}: {}", to.native);
                if !made.notes.is_empty() {
                    continue;
                }
                // Where nothing is told, nothing may be narrower.
                if let (
                    DataType::Text { chars_max, .. },
                    DataType::Text { chars_max: Some(most), .. },
                ) = (&data_type, &to.data_type)
                {
                    let bytes = matches!(data_type, DataType::Text { bytes_max: Some(b), .. } if b <= *most);
                    assert!(chars_max.is_some_and(|n| n <= *most) || bytes, "{native} to {target}");
                }
                // As a key, where a type can be one at all.
                let keyed = make(&mut *dialect.boxed(), vec![from.clone(), id()], same_family);
                match keyed {
                    Ok(keyed) => {
                        let to = &keyed.table.columns[0];
                        assert_eq!(
                            compatible(&data_type, &to.data_type, &Rule::default()),
                            Ok(()),
                            "{native}"
                        );
                        assert!(!to.nullable);
                    }
                    Err(_) => assert!(
                        matches!(data_type, DataType::Json | DataType::Opaque { .. }),
                        "{native} to {target}"
                    ),
                }
            }
        }
    }
}

#[test]
fn a_type_that_is_not_carried_is_named() {
    for (target, mysql, mut dialect) in dialects() {
        let name = "hyperlog".to_owned();
        let columns = vec![column("c", DataType::Unsupported { name }, "hyperlog")];
        for same_family in [mysql, !mysql] {
            let refused = make(&mut *dialect, columns.clone(), same_family).expect_err(target);
            assert_eq!(refused[0].column.as_deref(), Some("c"));
            assert!(refused[0].why.contains("hyperlog"), "{target}");
        }
    }
}

#[test]
fn keys_of_texts_share_what_a_key_of_innodb_may_hold() {
    let (_, _, mut maria) = dialects().remove(0);
    let key: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let columns = [Some(700), Some(600), None]
        .into_iter()
        .zip(&key)
        .map(|(n, name)| NewColumn {
            name: name.clone(),
            from: column(name, text(n, None, true, false), "text"),
        })
        .collect();
    let table = NewTable { name: TableName::new("t", "t"), columns, key, same_family: false };
    let made = maria.create_table(&table).expect("made");
    let lengths: Vec<&str> = made.table.columns.iter().map(|c| c.native.as_str()).collect();
    assert_eq!(lengths, ["varchar(256)", "varchar(256)", "varchar(255)"].map(|v| v), "{made:?}");
    assert_eq!(made.notes.len(), 3);
}

#[test]
fn what_one_table_makes_the_next_uses() {
    let (_, _, mut postgres) = dialects().pop().expect("postgres");
    let labels = DataType::Enum { labels: vec!["x".to_owned()].into() };
    let table = |name: &str| NewTable {
        name: TableName::new("fresh", name),
        columns: vec![NewColumn {
            name: "m".to_owned(),
            from: column("m", labels.clone(), "sale.mood"),
        }],
        key: vec!["m".to_owned()],
        same_family: true,
    };
    let first = postgres.create_table(&table("one")).expect("one");
    assert_eq!(
        first.statements[..2],
        ["CREATE SCHEMA \"fresh\";", "CREATE TYPE \"fresh\".\"mood\" AS ENUM ('x');"]
    );
    let second = postgres.create_table(&table("two")).expect("two");
    assert_eq!(second.statements.len(), 1, "{second:?}");
    // A table is a type too.
    assert!(postgres.create_table(&table("mood")).is_err());
}

#[test]
fn names_that_a_target_cannot_keep_apart_are_refused() {
    let int = || DataType::Int { bits: 32, unsigned: false };
    let (_, _, mut maria) = dialects().remove(0);
    let columns = vec![column("Id", int(), "integer"), column("id", int(), "integer")];
    let refused = make(&mut *maria, columns, false).expect_err("case");
    assert!(refused[0].why.contains("only in case"));
    let (_, _, mut postgres) = dialects().pop().expect("postgres");
    let refused = make(&mut *postgres, vec![column(&"ü".repeat(40), int(), "int")], false);
    assert!(refused.expect_err("long")[0].why.contains("80 bytes long"));
}
