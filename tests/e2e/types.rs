//! Every type, there and back: a first copy and the log bring each value into the other kind of server and
//! from there into a third database of the source's kind, where its text must be the same to the byte.
//!
//! The two phases are compared with each other as well: each value is in the table before the first copy and
//! inserted again while the log is followed.

use std::collections::BTreeSet;
use std::fmt::Write;

use tidelock::mapping::convert::{Rule, compatible};
use tidelock_core::{DataType, Repertoire, Secret, SystemConfig, Tls, TlsMode};
use tidelock_scratch::{Flavour, Mysql, MysqlOptions, Postgres};

use super::SOON;
use super::daemon::Daemon;

/// A type, the column that carries it on the other side, and values of it as literals of its own server.
struct Case {
    own: &'static str,
    other: &'static str,
    values: &'static [&'static str],
    /// Whether the other column's values can be written to the own one.
    returns: bool,
}

const fn case(own: &'static str, other: &'static str, values: &'static [&'static str]) -> Case {
    Case { own, other, values, returns: true }
}

/// A text on the other side that is no text of the own type's to the mapping: it does not come back.
const fn one_way(own: &'static str, other: &'static str, values: &'static [&'static str]) -> Case {
    Case { own, other, values, returns: false }
}

const LONG: &str = "repeat('0123456789', 8000)";

/// PostgreSQL's types and where MariaDB or MySQL keep them.
const POSTGRES: &[Case] = &[
    case("boolean", "tinyint(1)", &["true", "false"]),
    case("boolean", "bit(1)", &["true", "false"]),
    case("smallint", "smallint", &["-32768", "0", "32767"]),
    case("integer", "int", &["-2147483648", "2147483647"]),
    case("bigint", "bigint", &["-9223372036854775808", "9223372036854775807"]),
    case("bigint", "decimal(20)", &["-9223372036854775808", "9223372036854775807"]),
    case("oid", "int unsigned", &["0", "4294967295"]),
    case("numeric(12,2)", "decimal(12,2)", &["0.00", "-9999999999.99", "1.5"]),
    case(
        "numeric(65,30)",
        "decimal(65,30)",
        &["-1e-30", "12345678901234567890123456789012345.123456789012345678901234567890"],
    ),
    one_way("numeric", "longtext", &["'NaN'", "1e40", "0.100", "-12345678901234567890.0000000001"]),
    one_way("numeric(2,-3)", "varchar(20)", &["99000", "-1000"]),
    case("numeric(3,5)", "decimal(5,5)", &["0.00999", "-0.00001"]),
    case("money", "decimal(19,2)", &["'$1,234.50'", "'-92233720368547758.08'", "0"]),
    case("real", "float", &["1.1", "3.4028235e38", "1e-45", "16777216"]),
    case("real", "double", &["1.1", "-0.1", "3.4028235e38"]),
    case("double precision", "double", &["0.1", "1e300", "5e-324", "1.7976931348623157e308"]),
    one_way(
        "double precision",
        "varchar(40)",
        &["'NaN'", "'-Infinity'", "1e300", "0.30000000000000004"],
    ),
    case(
        "text",
        "longtext",
        &[
            "''",
            "' a '",
            "'zwölf Boxkämpfer 中文 😀'",
            LONG,
            "E'a\\tb\\nc\\\\d'",
            "'é'",
            "'e\u{301}'",
        ],
    ),
    case(
        "varchar(20)",
        "varchar(20)",
        &["''", "'NULL'", "'\\N'", "'a  '", "'12345678901234567890'"],
    ),
    case("char(5)", "char(5)", &["'ab'", "''", "'  ab'"]),
    case("text", "varchar(50) CHARACTER SET gbk", &["'中文 abc'"]),
    case("text", "varchar(50) CHARACTER SET latin1", &["'Grüße €'", "''"]),
    case("text", "varchar(50) CHARACTER SET utf8mb3", &["'中文'"]),
    case("name", "varchar(63)", &["'customer'"]),
    case("bytea", "longblob", &["''", "'\\x00ff5c0a'", "decode(repeat('00', 70000), 'hex')"]),
    case("bytea", "binary(3)", &["'\\x010000'", "'\\x000000'"]),
    case("date", "date", &["'0001-01-01'", "'2024-02-29'", "'9999-12-31'"]),
    one_way("date", "varchar(20)", &["'2024-02-29'"]),
    case("time", "time(6)", &["'00:00:00'", "'23:59:59.999999'", "'24:00:00'"]),
    case("time(3)", "time(3)", &["'12:34:56.789'"]),
    case(
        "timestamp",
        "datetime(6)",
        &["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.5'"],
    ),
    case(
        "timestamptz",
        "timestamp(6)",
        &["'2024-03-31 02:30:00.000001+02'", "'2038-01-19 03:14:07+00'"],
    ),
    one_way("timestamptz", "varchar(40)", &["'2024-03-31 02:30:00.000001+02'"]),
    case(
        "interval",
        "varchar(80)",
        &["'1 year -2 mons +3 days -04:05:06.789'", "'0'", "'-178000000 years'"],
    ),
    case("interval", "time(6)", &["'-838:59:59'", "'00:00:00.000001'", "'100:00:00'"]),
    one_way("interval year to month", "varchar(40)", &["'1 year 2 mons'"]),
    case("uuid", "char(36)", &["'0e37df36-f698-11e6-8dd4-cb9ced3df976'"]),
    case(
        "json",
        "longtext",
        &["'{\"b\": 1, \"a\": 1.0, \"a\": 2, \"big\": 12345678901234567890}'", "'null'"],
    ),
    case("json", "json", &["'{\"a\": [1, 2.5, \"x\"]}'", "'\"\"'"]),
    case("jsonb", "json", &["'{\"a\": 1, \"bb\": [true, null]}'"]),
    case("mood", "enum('sad','so, so','it''s')", &["'sad'", "'so, so'", "'it''s'"]),
    case("mood", "varchar(10)", &["'sad'"]),
    case("positive", "int", &["1"]),
    case("bit(9)", "bit(9)", &["B'100000001'", "B'000000000'"]),
    case("bit varying(12)", "varchar(12)", &["B''", "B'0101'"]),
    case(
        "inet",
        "varchar(50)",
        &["'10.0.0.1'", "'10.0.0.0/8'", "'2001:db8::1'", "'::ffff:1.2.3.4'"],
    ),
    case("cidr", "varchar(50)", &["'10.0.0.0/8'"]),
    case("macaddr", "varchar(50)", &["'08:00:2b:01:02:03'"]),
    case("timetz", "varchar(30)", &["'04:05:06.789+05:30'"]),
    case("xml", "longtext", &["'<a b=\"1\">x &amp; y</a>'"]),
    case("tsvector", "longtext", &["'''a'':1A ''cat'':5'"]),
    case("tsquery", "longtext", &["'''fat'' & ''rat'''"]),
    case("integer[]", "longtext", &["'{1,NULL,3}'", "'{}'", "'[0:2]={1,2,3}'", "'{{1,2},{3,4}}'"]),
    case("text[]", "longtext", &["'{\"NULL\",NULL,\"\",\"a,b\",\"q\\\"\"}'"]),
    one_way("numeric(5,2)[]", "longtext", &["'{1.50,2}'"]),
    case("mood[]", "longtext", &["'{sad,\"so, so\"}'"]),
    case("int4range", "longtext", &["'[1,5)'", "'empty'", "'(,5)'"]),
    case("tstzrange", "longtext", &["'[2024-01-01 00:00:00+00,)'"]),
    case("address", "longtext", &["ROW('Main \"St\"', 5)::address", "ROW(NULL, 5)::address"]),
    case("point", "longtext", &["'(1.5,-2)'"]),
    case("polygon", "longtext", &["'((0,0),(1,1),(1,0))'"]),
    case("pg_lsn", "varchar(20)", &["'16/B374D848'"]),
    case("\"char\"", "varchar(4)", &["'x'"]),
    case("jsonpath", "longtext", &["'$.\"a\"[*]'"]),
];

/// MariaDB's and MySQL's types and where PostgreSQL keeps them.
const MYSQL: &[Case] = &[
    case("tinyint", "smallint", &["-128", "127"]),
    case("tinyint unsigned", "smallint", &["255"]),
    case("tinyint(1)", "boolean", &["0", "1"]),
    case("smallint unsigned", "integer", &["65535"]),
    case("mediumint", "integer", &["-8388608", "8388607"]),
    case("mediumint unsigned", "integer", &["16777215"]),
    case("int unsigned", "bigint", &["4294967295"]),
    case("bigint", "bigint", &["-9223372036854775808"]),
    case("bigint unsigned", "numeric(20)", &["18446744073709551615", "0"]),
    case(
        "decimal(65,30)",
        "numeric(65,30)",
        &["-99999999999999999999999999999999999.999999999999999999999999999999", "-1e-30", "0"],
    ),
    case("decimal(10,0)", "numeric", &["-5"]),
    one_way("decimal(10,2) zerofill", "text", &["5", "0.5", "12345678.25"]),
    case("float", "real", &["1.1", "-3.40282e38", "16777216"]),
    case(
        "double",
        "double precision",
        &["0.1", "-1.7976931348623157e308", "2.2250738585072014e-308"],
    ),
    case("bit(1)", "boolean", &["b'0'", "b'1'"]),
    case("bit(9)", "bit(9)", &["b'100000001'", "b'1'"]),
    case("bit(64)", "bit(64)", &["0xffffffffffffffff", "0"]),
    case("bit(12)", "integer", &["4095"]),
    case("year", "integer", &["1901", "2155", "0"]),
    case("year", "smallint", &["2026"]),
    case("char(5)", "char(5)", &["'ab'", "''"]),
    case("varchar(20)", "varchar(20)", &["'a  '", "''", "'NULL'", "'😀中文'"]),
    case("varchar(20) CHARACTER SET latin1", "text", &["'Grüße €'"]),
    case("varchar(20) CHARACTER SET gbk", "text", &["'中文，订单？'", "'abc?'"]),
    case("varchar(20) CHARACTER SET big5", "text", &["'中文訂單？'"]),
    case("varchar(20) CHARACTER SET gb2312", "text", &["'中文'"]),
    case("varchar(20) CHARACTER SET sjis", "text", &["'注文ｱ表\\\\'"]),
    case("varchar(20) CHARACTER SET ujis", "text", &["'注文'"]),
    case("varchar(20) CHARACTER SET euckr", "text", &["'주문'"]),
    case("varchar(20) CHARACTER SET cp1251", "text", &["'Заказ'"]),
    case("varchar(20) CHARACTER SET latin2", "text", &["'Zażółć'"]),
    case("varchar(20) CHARACTER SET utf8mb3", "text", &["'中'"]),
    case("varchar(20) CHARACTER SET ucs2", "text", &["'中a'"]),
    case("varchar(20) CHARACTER SET utf16", "text", &["'😀a'"]),
    case("varchar(20) CHARACTER SET utf16le", "text", &["'😀a'"]),
    case("varchar(20) CHARACTER SET utf32", "text", &["'😀a'"]),
    case("char(8) CHARACTER SET gbk", "text", &["'中文'"]),
    case("text CHARACTER SET gbk", "text", &["'中文'"]),
    case("tinytext", "text", &["'x'"]),
    case("longtext", "text", &["repeat('ab', 40000)"]),
    case("binary(8)", "bytea", &["x'0100000000000000'", "x'0000000000000000'"]),
    case("varbinary(8)", "bytea", &["x'0100'", "''"]),
    case("longblob", "bytea", &["repeat(x'00', 70000)", "x'5c27'"]),
    case("date", "date", &["'1000-01-01'", "'9999-12-31'", "'2024-02-29'"]),
    case("time(6)", "interval", &["'-838:59:59'", "'838:59:59'", "'00:00:00.000001'"]),
    case("time(3)", "time(3)", &["'23:59:59.999'"]),
    one_way("time(3)", "text", &["'-34:22:59.500'"]),
    case("datetime(6)", "timestamp", &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'"]),
    case("datetime", "timestamp(0)", &["'2024-02-29 12:00:00'"]),
    case("timestamp(6)", "timestamptz", &["'2024-03-31 02:30:00.000001'", "'1970-01-02 00:00:01'"]),
    case("enum('a','b,c','d''e','')", "text", &["'a'", "'b,c'", "'d''e'", "''"]),
    case("enum('sad','so, so','it''s')", "mood", &["'so, so'"]),
    case("set('a','b','c')", "text", &["''", "'a,c'", "'a,b,c'"]),
    case("set('一','二') CHARACTER SET gbk", "text", &["'二'", "'一,二'"]),
    case("json", "json", &["'{\"a\": [1, 2.5, null], \"中\": \"x\"}'", "'[]'"]),
    case("json", "text", &["'{\"a\": 12345678901234567890}'"]),
    case("point", "bytea", &["ST_GeomFromText('POINT(1 -2.5)')"]),
    case(
        "geometry",
        "bytea",
        &["ST_GeomFromText('POLYGON((0 0,1 1,1 0,0 0))')", "ST_GeomFromText('POINT(0 0)', 4326)"],
    ),
];

const MARIADB: &[Case] = &[
    case(
        "uuid",
        "uuid",
        &["'0e37df36-f698-11e6-8dd4-cb9ced3df976'", "'12345678-1234-4678-9234-567812345600'"],
    ),
    case(
        "inet6",
        "inet",
        &["'::'", "'::1'", "'2001:db8::'", "'::ffff:1.2.3.4'", "'fe80::1.2.3.4'"],
    ),
    case("inet6", "text", &["'2001:db8::'"]),
];

const MYSQL_ONLY: &[Case] = &[
    case("varchar(20) CHARACTER SET gb18030", "text", &["'中文😀𠀀€'"]),
    case("vector(3)", "bytea", &["to_vector('[1,2.5,-3]')"]),
];

const PG_TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'so, so', 'it''s'); \
    CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE address AS (street text, number int)";

/// Each value once with a number, and NULL.
fn inserts(table: &str, case: &Case, from: usize) -> String {
    let mut sql = format!("INSERT INTO {table} (id, v) VALUES ({from}, NULL)");
    for (i, value) in case.values.iter().enumerate() {
        // Writing to a String cannot fail.
        let _written = write!(sql, ", ({}, {value})", from + i + 1);
    }
    sql
}

async fn of_postgres(server: &Postgres, db: &str, table: &str) -> Vec<(String, String)> {
    let sql = format!("SELECT id::text, coalesce(v::text, 'NULL') FROM {table} ORDER BY id");
    pairs(server.rows(db, &sql).await.expect(table))
}

async fn of_mysql(server: &Mysql, db: &str, table: &str, own: &str) -> Vec<(String, String)> {
    // A number's HEX is that of its whole part, and a float's text has fewer digits than it.
    let text = match own {
        "float" | "double" => "CAST(v AS DOUBLE)",
        "vector(3)" => "HEX(v)",
        _ => "HEX(CONCAT('', v))",
    };
    let sql = format!("SELECT CAST(id AS CHAR), {text} FROM {table} ORDER BY id");
    pairs(server.rows(db, &sql).await.expect(table))
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> Vec<(String, String)> {
    rows.into_iter()
        .map(|row| {
            let mut cells = row.into_iter().map(|c| c.unwrap_or_else(|| "NULL".into()));
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
        })
        .collect()
}

/// That the rows of the first copy and those of the log hold the same values.
fn phases_agree(table: &str, case: &Case, rows: &[(String, String)]) {
    let of = |from: usize| -> Vec<&String> {
        rows.iter()
            .filter(|(id, _)| id.parse::<usize>().is_ok_and(|id| (from..from + 100).contains(&id)))
            .map(|(_, value)| value)
            .collect()
    };
    assert_eq!(of(100).len(), case.values.len() + 1, "{table} {}", case.own);
    assert_eq!(of(100), of(200), "{table}: copy and log differ for {}", case.own);
}

/// Four databases: `db` of each server is written by hand, and what becomes of it goes on to `there` of the
/// other server and from there to `back` of its own.
struct Round {
    pg: Postgres,
    my: Mysql,
    folder: tempfile::TempDir,
    cases: Vec<(String, bool, &'static Case)>,
}

impl Round {
    async fn new() -> Round {
        let pg = Postgres::start().await.expect("postgres");
        let my = MysqlOptions::of_matrix().start().await.expect("mysql");
        for db in ["db", "there", "back"] {
            pg.create_database(db).await.expect(db);
            pg.sql(db, PG_TYPES).await.expect("types");
            my.create_database(db).await.expect(db);
        }
        let maria = my.flavour() == Flavour::MariaDb;
        let only = if maria { MARIADB } else { MYSQL_ONLY };
        let mut cases = Vec::new();
        let version = pg.one("db", "SHOW server_version_num").await.expect("version");
        let odd_scales = version.parse::<u32>().is_ok_and(|version| version >= 150_000);
        for (i, case) in POSTGRES.iter().enumerate() {
            if !odd_scales && matches!(case.own, "numeric(2,-3)" | "numeric(3,5)") {
                continue;
            }
            cases.push((format!("p{i}"), true, case));
        }
        for (i, case) in MYSQL.iter().chain(only).enumerate() {
            cases.push((format!("m{i}"), false, case));
        }
        for (table, from_pg, case) in &cases {
            let of = |data_type: &str| {
                format!("CREATE TABLE {table} (id int NOT NULL PRIMARY KEY, v {data_type} NULL)")
            };
            let fill = inserts(table, case, 100);
            if *from_pg {
                pg.sql("db", &of(case.own)).await.expect(case.own);
                pg.sql("db", &fill).await.expect(&fill);
                my.sql("there", &of(case.other)).await.expect(case.other);
                pg.sql("back", &of(case.own)).await.expect(case.own);
            } else {
                my.sql("db", &of(case.own)).await.expect(case.own);
                my.sql("db", &fill).await.expect(&fill);
                pg.sql("there", &of(case.other)).await.expect(case.other);
                my.sql("back", &of(case.own)).await.expect(case.own);
            }
        }
        Round { pg, my, folder: tempfile::tempdir().expect("folder"), cases }
    }

    fn config(&self) -> String {
        let (pg, my) = (&self.pg, &self.my);
        let systems = [
            ("pg", pg.url("db")),
            ("my_there", my.url("there")),
            ("pg_back", pg.url("back")),
            ("my", my.url("db")),
            ("pg_there", pg.url("there")),
            ("my_back", my.url("back")),
        ];
        let mut text = super::config(self.folder.path(), &systems, &[]);
        for (from, to) in [
            ("pg", "my_there"),
            ("my_there", "pg_back"),
            ("my", "pg_there"),
            ("pg_there", "my_back"),
        ] {
            let schema = |system: &str| match system {
                "pg" | "pg_there" | "pg_back" => format!("{system}.public.*"),
                _ => format!("{system}.*"),
            };
            let _written = write!(
                text,
                "[[mappings]]\nfrom = \"{}\"\nto = \"{}\"\n",
                schema(from),
                schema(to)
            );
            if matches!(from, "my_there" | "pg_there") {
                let once = self.cases.iter().filter(|(_, _, case)| !case.returns);
                let once: Vec<&String> = once.map(|(table, ..)| table).collect();
                let _written = writeln!(text, "exclude = {once:?}");
            }
        }
        // All on one server: the pipeline's own tables of each database stay apart.
        for system in ["my_there", "my", "my_back"] {
            text = text.replace(
                &format!("[systems.{system}]\n"),
                &format!("[systems.{system}]\nmeta_schema = \"tidelock_{system}\"\n"),
            );
        }
        text
    }

    async fn insert_again(&self) {
        for (table, from_pg, case) in &self.cases {
            let sql = inserts(table, case, 200);
            if *from_pg {
                self.pg.sql("db", &sql).await.expect(&sql);
            } else {
                self.my.sql("db", &sql).await.expect(&sql);
            }
        }
    }

    /// Where a value has gone another way, by type.
    async fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (table, from_pg, case) in self.cases.iter().filter(|(_, _, case)| case.returns) {
            let (first, last) = if *from_pg {
                (
                    of_postgres(&self.pg, "db", table).await,
                    of_postgres(&self.pg, "back", table).await,
                )
            } else {
                (
                    of_mysql(&self.my, "db", table, case.own).await,
                    of_mysql(&self.my, "back", table, case.own).await,
                )
            };
            if first != last {
                faults.push(format!(
                    "{table} {} by {}: {first:?}\n -> {last:?}",
                    case.own, case.other
                ));
            }
        }
        faults
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_every_type_comes_back_as_it_was_by_the_copy_and_by_the_log() {
    let round = Round::new().await;
    let daemon = Daemon::start(round.folder.path(), &round.config());
    daemon
        .wait("copied", SOON, |flows| {
            flows.iter().all(|f| {
                f["mappings"].as_array().is_some_and(|mappings| {
                    mappings
                        .iter()
                        .all(|m| m["state"] == "stopped" || m["snapshot"]["phase"] == "done")
                })
            })
        })
        .await;
    round.insert_again().await;
    let began = std::time::Instant::now();
    let faults = loop {
        let faults = round.faults().await;
        if faults.is_empty() || began.elapsed() > SOON {
            break faults;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    let stopped: Vec<String> = daemon
        .flows()
        .iter()
        .flat_map(|f| f["mappings"].as_array().cloned().unwrap_or_default())
        .filter(|m| m["state"] != "streaming")
        .map(|m| m.to_string())
        .collect();
    assert!(
        faults.is_empty() && stopped.is_empty(),
        "{}\n{stopped:#?}\n{}",
        faults.join("\n"),
        daemon.log()
    );
    for (table, from_pg, case) in &round.cases {
        if *from_pg {
            phases_agree(table, case, &of_mysql(&round.my, "there", table, case.other).await);
        } else {
            phases_agree(table, case, &of_postgres(&round.pg, "there", table).await);
        }
    }
    daemon.stop();
}

/// A type in a word or two, as the table of types has it.
fn canonical(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Bool => "bool".into(),
        T::Int { bits, unsigned } => {
            format!("{}int {bits}", if *unsigned { "unsigned " } else { "" })
        }
        T::Decimal { precision: Some(p), scale } => format!("decimal {p},{}", scale.unwrap_or(0)),
        T::Decimal { .. } => "decimal".into(),
        T::Float32 => "float 32".into(),
        T::Float64 => "float 64".into(),
        T::Text { repertoire, chars_max, padded, .. } => {
            let of = if *repertoire == Repertoire::Unicode {
                String::new()
            } else {
                format!(" of {repertoire:?}")
            };
            let most = chars_max.map_or(String::new(), |n| format!(" {n}"));
            format!("text{most}{}{of}", if *padded { " padded" } else { "" }).to_lowercase()
        }
        T::Bytes { fixed, .. } => fixed.map_or("bytes".into(), |n| format!("{n} bytes")),
        T::Date => "date".into(),
        T::Time { span, .. } => if *span { "time span" } else { "time of day" }.into(),
        T::Timestamp { .. } => "civil time".into(),
        T::Instant { narrow, .. } => if *narrow { "instant to 2038" } else { "instant" }.into(),
        T::Interval { .. } => "interval".into(),
        T::Year => "year".into(),
        T::Uuid => "uuid".into(),
        T::Json => "json".into(),
        T::Enum { .. } => "enum".into(),
        T::Set { .. } => "set".into(),
        T::Bits { length, varying } => {
            let most = length.map_or(String::new(), |n| format!(" {n}"));
            format!("bits{most}{}", if *varying { " at most" } else { "" })
        }
        T::Address { v4, v6, network } => match (v4, v6, network) {
            (true, true, true) => "address or network".into(),
            (true, ..) => "address v4".into(),
            _ => "address v6".into(),
        },
        T::Opaque { .. } => "its bytes".into(),
        T::Native { .. } => "its text".into(),
        T::RoundedFloat { .. } => "float, only read".into(),
        T::Unsupported { .. } => "not carried".into(),
    }
}

/// The kinds of columns that values of a type may be written to.
fn targets(from: &DataType) -> String {
    use DataType as T;
    let labels = || ["a".to_owned()].into();
    let bits = match from {
        T::Bits { length, .. } => *length,
        _ => Some(64),
    };
    let kinds = [
        ("bool", T::Bool),
        ("int", T::Int { bits: 64, unsigned: false }),
        ("decimal", T::Decimal { precision: None, scale: None }),
        ("float 32", T::Float32),
        ("float 64", T::Float64),
        (
            "text",
            T::Text {
                chars_max: None,
                bytes_max: None,
                repertoire: Repertoire::Unicode,
                padded: false,
            },
        ),
        ("bytes", T::Bytes { bytes_max: None, fixed: None }),
        ("date", T::Date),
        ("time", T::Time { fsp: 6, span: true }),
        ("civil time", T::Timestamp { fsp: 6 }),
        ("instant", T::Instant { fsp: 6, narrow: false }),
        ("interval", T::Interval { fsp: 6 }),
        ("year", T::Year),
        ("uuid", T::Uuid),
        ("json", T::Json),
        ("enum", T::Enum { labels: labels() }),
        ("set", T::Set { labels: labels() }),
        ("bits", T::Bits { length: bits, varying: false }),
        ("address", T::Address { v4: true, v6: true, network: true }),
    ];
    let mut found: Vec<String> = kinds
        .iter()
        .filter(|(_, to)| compatible(from, to, &Rule::default()).is_ok())
        .map(|(name, _)| (*name).to_owned())
        .collect();
    if matches!(from, T::Opaque { .. } | T::Native { .. }) {
        found.push("its own type".into());
    }
    if matches!(from, T::Text { .. }) {
        found.push("types known by their text".into());
    }
    if matches!(from, T::Bytes { .. }) {
        found.push("geometries, vectors".into());
    }
    if matches!(from, T::Timestamp { .. }) {
        found.push("instant by `time_zone`".into());
    }
    if matches!(from, T::Instant { .. }) {
        found.push("civil time by `time_zone`".into());
    }
    found.join(", ")
}

/// The table of types as the catalogs of the servers and the rules of the mapping have it.
async fn table_of_types(url: String, cases: &[(String, &Case)], other: &str) -> String {
    let config = SystemConfig {
        name: "a".into(),
        url: Secret::new(url),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    };
    let connector = tidelock::registry::connector(&config).expect("connector");
    let schema = connector.default_schema().to_owned();
    let tables = connector.catalog(&[schema]).await.expect("catalog");
    let mut text = format!(
        "| type | canonical | may be written to | tested there and back as ({other}) |\n|---|---|---|---|\n"
    );
    let mut done = BTreeSet::new();
    for (name, case) in cases {
        if !done.insert(case.own) {
            continue;
        }
        let table = tables.iter().find(|t| &t.name.name == name).expect(name);
        let data_type = &table.column("v").expect("v").data_type;
        let of_type = |returns| {
            let others = cases.iter().filter(|(_, c)| c.own == case.own && c.returns == returns);
            others.map(|(_, c)| format!("`{}`", c.other)).collect::<Vec<_>>().join(", ")
        };
        let (back, there) = (of_type(true), of_type(false));
        let one_way = match (back.is_empty(), there.is_empty()) {
            (_, true) => String::new(),
            (true, false) => format!("one way: {there}"),
            (false, false) => format!("; one way: {there}"),
        };
        let _written = writeln!(
            text,
            "| `{}` | {} | {} | {back}{one_way} |",
            case.own.replace('|', "\\|"),
            canonical(data_type),
            targets(data_type)
        );
    }
    text
}

/// With `TIDELOCK_WRITE_DOCS` set, the tables are written instead.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_types_are_those_of_the_code() {
    if std::env::var_os("TIDELOCK_MATRIX").is_some() {
        // The documents are of the versions that every machine has.
        return;
    }
    let round = Round::new().await;
    let of = |from_pg: bool| -> Vec<(String, &Case)> {
        let ours = round.cases.iter().filter(|(_, pg, _)| *pg == from_pg);
        ours.map(|(table, _, case)| (table.clone(), *case)).collect()
    };
    for (folder, text) in [
        ("postgres", table_of_types(round.pg.url("db"), &of(true), "MariaDB, MySQL").await),
        ("mysql", table_of_types(round.my.url("db"), &of(false), "PostgreSQL").await),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("connectors")
            .join(folder)
            .join("TYPES.md");
        let document = std::fs::read_to_string(&path).expect("TYPES.md");
        let (begin, end) = ("<!-- types: begin -->\n", "<!-- types: end -->");
        let (before, rest) = document.split_once(begin).expect(begin);
        let (block, after) = rest.split_once(end).expect(end);
        if std::env::var_os("TIDELOCK_WRITE_DOCS").is_some() {
            std::fs::write(&path, format!("{before}{begin}{text}{end}{after}")).expect("written");
            continue;
        }
        assert!(
            block == text,
            "{} is not what the code says; TIDELOCK_WRITE_DOCS=1 writes it anew:\n{text}",
            path.display()
        );
    }
}
