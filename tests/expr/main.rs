//! Expressions mean what they mean in PostgreSQL: the same expressions over the same rows, there and here.
//!
//! Each expression is prepared and run by a real server. Its type, and for each row its value or the class of its error,
//! must be ours. First come those that were picked by hand, then random ones of right types; the seed of those is printed
//! and can be set by `TIDELOCK_EXPR_SEED`.

mod edges;
mod picked;
mod random;
mod rows;

use std::fmt::Write as _;

use rows::{COLUMNS, fields, rows};
use tidelock::expr::{
    Env, EvalErrorKind, Expr, Fault, Field, Input, NoDictionaries, Scope, compile,
    compile_condition,
};
use tidelock_core::{DataType, Instant, Repertoire, Value, form};
use tidelock_scratch::{Postgres, tokio_postgres};

/// What one side makes of an expression and a row.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Null,
    Text(String),
    /// The class of the error.
    Error(&'static str),
}

struct Server {
    _postgres: Postgres,
    client: tokio_postgres::Client,
}

/// Gives the answers for all rows; if that fails, row by row.
const TRY: &str = "
CREATE FUNCTION try_all(expr text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE answers text[]; answer text; n int;
BEGIN
  BEGIN
    EXECUTE format('SELECT array_agg(coalesce(''='' || (%s)::text, ''0'') ORDER BY rid) FROM rows', expr) INTO answers;
    RETURN answers;
  EXCEPTION WHEN OTHERS THEN
    answers := '{}';
    FOR n IN SELECT rid FROM rows ORDER BY rid LOOP
      BEGIN
        EXECUTE format('SELECT coalesce(''='' || (%s)::text, ''0'') FROM rows WHERE rid = %s', expr, n) INTO answer;
      EXCEPTION WHEN OTHERS THEN
        answer := '!' || SQLSTATE;
      END;
      answers := answers || answer;
    END LOOP;
    RETURN answers;
  END;
END $$";

impl Server {
    async fn start() -> Server {
        let postgres = Postgres::start().await.expect("a server");
        let create = "CREATE DATABASE expr TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'";
        postgres.sql("postgres", create).await.expect("a database");
        let client = postgres.client("expr").await.expect("a session");
        let columns: Vec<String> =
            COLUMNS.iter().map(|(name, sql, ..)| format!("{name} {sql}")).collect();
        let mut setup = format!(
            "SET TimeZone = 'UTC'; SET plan_cache_mode = 'force_generic_plan'; SET jit = off;
             CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
             CREATE TABLE rows (rid int, {});",
            columns.join(", ")
        );
        for (rid, row) in rows().iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(COLUMNS)
                .map(|(value, (_, sql, ..))| match form::text(value) {
                    None => "NULL".to_owned(),
                    Some(text) => format!("'{}'::{sql}", text.replace('\'', "''")),
                })
                .collect();
            let _written = write!(setup, "INSERT INTO rows VALUES ({rid}, {});", cells.join(", "));
        }
        client.batch_execute(&setup).await.expect("rows");
        client.batch_execute(TRY).await.expect("a function");
        Server { _postgres: postgres, client }
    }

    /// The type of an expression; the class of the error if it is refused.
    async fn type_of(&self, text: &str) -> Result<String, String> {
        match self.client.prepare(&format!("SELECT ({text}) FROM rows")).await {
            Ok(statement) => Ok(statement.columns()[0].type_().name().to_owned()),
            Err(error) => Err(error
                .as_db_error()
                .map_or_else(|| error.to_string(), |e| e.message().to_owned())),
        }
    }

    async fn answers(&self, texts: &[String]) -> Vec<Vec<Answer>> {
        let query =
            "SELECT try_all(x) FROM unnest($1::text[]) WITH ORDINALITY AS e(x, n) ORDER BY n";
        let rows = self.client.query(query, &[&texts]).await.expect("answers");
        rows.iter()
            .map(|row| {
                let answers: Vec<Option<String>> = row.get(0);
                answers
                    .into_iter()
                    .map(|answer| {
                        let answer = answer.expect("no answer is NULL");
                        match answer.split_at(1) {
                            ("=", text) => Answer::Text(text.to_owned()),
                            ("!", state) => Answer::Error(class(state)),
                            _ => Answer::Null,
                        }
                    })
                    .collect()
            })
            .collect()
    }
}

fn class(state: &str) -> &'static str {
    match state {
        "22012" => "division by zero",
        "22003" | "22008" | "22015" | "54000" | "0A000" => "out of range",
        "22P02" | "22007" | "22P03" | "22021" => "invalid text",
        state if state.starts_with("22") || state.starts_with("2201") => "invalid argument",
        _ => "refused",
    }
}

fn ours(kind: &EvalErrorKind) -> &'static str {
    match kind {
        EvalErrorKind::DivisionByZero => "division by zero",
        EvalErrorKind::OutOfRange => "out of range",
        EvalErrorKind::InvalidText => "invalid text",
        EvalErrorKind::InvalidArgument => "invalid argument",
        other => panic!("an error that no row here may give: {other:?}"),
    }
}

/// PostgreSQL's name of a type of ours.
fn type_name(expr: &Expr) -> &'static str {
    if expr.literal().is_some() {
        return "text";
    }
    match expr.data_type() {
        DataType::Bool => "bool",
        DataType::Int { bits: 16, .. } => "int2",
        DataType::Int { bits: 32, .. } => "int4",
        DataType::Int { .. } => "int8",
        DataType::Decimal { .. } => "numeric",
        DataType::Float32 => "float4",
        DataType::Float64 => "float8",
        DataType::Text { padded: true, .. } => "bpchar",
        DataType::Text { .. } => "text",
        DataType::Bytes { .. } => "bytea",
        DataType::Date => "date",
        DataType::Time { .. } => "time",
        DataType::Timestamp { .. } => "timestamp",
        DataType::Instant { .. } => "timestamptz",
        DataType::Interval { .. } => "interval",
        DataType::Uuid => "uuid",
        DataType::Json => "json",
        DataType::Enum { .. } => "mood",
        other => panic!("{other:?}"),
    }
}

fn same_type(ours: &str, theirs: &str) -> bool {
    let plain = |name: &str| match name {
        "varchar" | "bpchar" => "text".to_owned(),
        "jsonb" => "json".to_owned(),
        other => other.to_owned(),
    };
    plain(ours) == plain(theirs)
}

/// Our answers for all rows, after checking what the plan promised of them.
fn evaluate(text: &str, expr: &Expr) -> Vec<Answer> {
    let env = Env { now: Instant(0), dictionaries: &NoDictionaries, mask_key: None };
    rows()
        .iter()
        .map(|row| {
            let input = Input { new: row, old: None, lookups: &[], env: &env };
            match expr.eval(&input) {
                Ok(Value::Null) => {
                    if expr.nullable() {
                        Answer::Null
                    } else {
                        Answer::Error("NULL although it cannot be")
                    }
                }
                Ok(value) => {
                    if let (
                        DataType::Decimal { precision: Some(p), scale: Some(s) },
                        Value::Decimal(digits),
                    ) = (expr.data_type(), &value)
                        && !matches!(&**digits, "NaN" | "Infinity" | "-Infinity")
                    {
                        let digits = digits.trim_start_matches('-');
                        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                        let whole = whole.trim_start_matches('0').len();
                        if fraction.len() > usize::from(*s)
                            || whole > usize::from(p.saturating_sub(*s))
                        {
                            return Answer::Text(format!("{digits}, more than numeric({p},{s})"));
                        }
                    }
                    if let (DataType::Text { chars_max: Some(most), .. }, Value::Text(t)) =
                        (expr.data_type(), &value)
                        && expr.as_column().is_none()
                        && t.chars().count() as u64 > *most
                    {
                        return Answer::Text(format!("{t}, more than {most} characters"));
                    }
                    let text = form::text(&value).expect("a value has a text").into_owned();
                    Answer::Text(
                        if matches!(expr.data_type(), DataType::Text { padded: true, .. }) {
                            text.trim_end_matches(' ').to_owned()
                        } else {
                            text
                        },
                    )
                }
                Err(error) => {
                    assert!(error.span.end <= text.len(), "{text}: {error:?}");
                    Answer::Error(ours(&error.kind))
                }
            }
        })
        .collect()
}

fn compiled(text: &str) -> Result<Expr, Fault> {
    let fields = fields();
    let result = compile(text, &Scope::of(&fields));
    if let Err(fault) = &result {
        assert!(
            text.get(fault.span.clone()).is_some(),
            "{text}: the span {:?} is not of it",
            fault.span
        );
    }
    result
}

/// Compares both sides; gives what differs.
async fn differences(server: &Server, texts: &[String], strict: bool) -> Vec<String> {
    let mut found = Vec::new();
    let answers = server.answers(texts).await;
    for (text, theirs) in texts.iter().zip(answers) {
        match compiled(text) {
            Err(fault) => {
                // An error in a constant part is one of every row that comes to it, which in a random one may be none.
                if !strict && fault.hint.contains("same for every row") {
                    continue;
                }
                if !theirs.iter().all(|a| matches!(a, Answer::Error(_))) {
                    found.push(format!(
                        "{text}\n    here: {} ({})\n    there: {:?}",
                        fault.message, fault.hint, theirs
                    ));
                }
            }
            Ok(expr) => {
                match server.type_of(text).await {
                    Ok(theirs) if !same_type(type_name(&expr), &theirs) => {
                        found.push(format!(
                            "{text}\n    type here: {}, there: {theirs}",
                            type_name(&expr)
                        ));
                    }
                    Ok(_) => {}
                    Err(message) => {
                        found.push(format!("{text}\n    accepted here, there: {message}"));
                        continue;
                    }
                }
                for (at, (ours, theirs)) in
                    evaluate(text, &expr).into_iter().zip(theirs).enumerate()
                {
                    let equal = match (&ours, &theirs) {
                        (Answer::Error(a), Answer::Error(b)) => !strict || a == b,
                        // A float may be written with different digits that mean the same.
                        (Answer::Text(a), Answer::Text(b))
                            if type_name(&expr).starts_with("float") =>
                        {
                            a == b || a.parse::<f64>().ok() == b.parse::<f64>().ok()
                        }
                        (a, b) => a == b,
                    };
                    if !equal {
                        found.push(format!(
                            "{text}\n    row {at} here: {ours:?}\n    row {at} there: {theirs:?}"
                        ));
                        break;
                    }
                }
            }
        }
    }
    found
}

/// What reading a row costs: nothing is allocated to decide, nor to hand on a part of a text.
#[test]
fn conditions_and_parts_of_texts_allocate_nothing() {
    let fields = fields();
    let scope = Scope::of(&fields);
    let env = Env { now: Instant(0), dictionaries: &NoDictionaries, mask_key: None };
    let rows = rows();
    let conditions = [
        "i4 < i8 AND t = 'Hello World'",
        "n2 * 1.19 > 10 OR n2 + i4 < 0",
        "u IN ('a', 'b', 'world') OR t LIKE 'H%'",
        "coalesce(k, 0) / 2 > 3 AND ts > '2020-01-01'",
        "CASE WHEN b THEN d > 1 ELSE trim(u) = '10' END",
        "da + 14 > '2024-01-01' AND j ->> 'a' = '1'",
    ];
    for text in conditions {
        let condition = compile_condition(text, &scope).expect(text);
        let judge = || {
            for row in rows {
                let input = Input { new: row, old: None, lookups: &[], env: &env };
                let _truth = condition.test(&input);
            }
        };
        // A text that owns its bytes alone allocates once, when it is first shared.
        judge();
        let used = allocation_counter::measure(judge);
        assert_eq!(used.count_total, 0, "{text} allocated");
    }
}

/// What characters are, whatever version of Unicode a server's or our own tables are of.
const SETTLED: [std::ops::RangeInclusive<u32>; 8] = [
    1..=0x19a,
    0x370..=0x481,
    0x1f00..=0x2027,
    0x3000..=0x31e3,
    0x3400..=0x9fff,
    0xac00..=0xd7a3,
    0xff00..=0xffef,
    0x1f600..=0x1f64f,
];
/// Characters that came later than the older of the two tables, at most.
const LATER: usize = 8_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_character_has_the_case_and_the_class_that_it_has_in_postgresql() {
    let server = Server::start().await;
    let data_type = DataType::Text {
        chars_max: None,
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: false,
    };
    let fields = [Field::new("t", data_type, false)];
    let env = Env { now: Instant(0), dictionaries: &NoDictionaries, mask_key: None };
    let classes = [
        "alpha", "upper", "lower", "digit", "alnum", "punct", "space", "graph", "print", "cntrl",
        "blank", "xdigit",
    ];
    let classes = classes.map(|class| format!("t ~ '[[:{class}:]]'"));
    let others = ["upper(t)", "lower(t)", r"t ~ '\w'", r"t ~ '\s'", r"t ~ '\d'"];
    for of in others.into_iter().chain(classes.iter().map(String::as_str)) {
        // Neither halves of pairs, nor the two that end lines and paragraphs, which we can print.
        let query = format!(
            "SELECT i, ({of})::text FROM (SELECT i, chr(i) AS t FROM generate_series(1, 195101) i \
             WHERE i NOT BETWEEN 55296 AND 57343 AND i NOT IN (8232, 8233)) c"
        );
        let expr = compile(of, &Scope::of(&fields)).expect(of);
        let mut later = 0;
        for row in server.client.query(&query, &[]).await.expect(of) {
            let (code, theirs): (i32, String) = (row.get(0), row.get(1));
            let code = u32::try_from(code).expect("a character");
            let one = char::from_u32(code).expect("a character");
            let cells = [Value::Text(one.to_string().into())];
            let input = Input { new: &cells, old: None, lookups: &[], env: &env };
            let value = expr.eval(&input).expect(of);
            let ours = form::text(&value).expect("a text");
            if ours != theirs {
                let settled = SETTLED.iter().any(|range| range.contains(&code));
                assert!(!settled, "{of} of U+{code:04X} is {ours} here, {theirs} there");
                later += 1;
            }
        }
        assert!(later <= LATER, "{of} is another for {later} characters");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_mean_what_they_mean_in_postgresql() {
    let server = Server::start().await;
    let picked: Vec<String> = [picked::EXPRESSIONS, edges::EXPRESSIONS]
        .into_iter()
        .flat_map(str::lines)
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with("--"))
        .map(str::to_owned)
        .collect();
    assert!(picked.len() > 300, "only {} were picked", picked.len());
    let mut found = differences(&server, &picked, true).await;
    let seed = std::env::var("TIDELOCK_EXPR_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    println!("TIDELOCK_EXPR_SEED={seed}");
    let count =
        std::env::var("TIDELOCK_EXPR_COUNT").ok().and_then(|s| s.parse().ok()).unwrap_or(3_000);
    let random = random::expressions(seed, count);
    let refused = random.iter().filter(|text| compiled(text).is_err()).count();
    assert!(
        refused * 4 < random.len(),
        "{refused} of {} random expressions are refused here",
        random.len()
    );
    // Which of two parts is evaluated first, and whether at all, is not promised where one of them fails: PostgreSQL
    // leaves out what it can before it runs. That may differ now and then; values may not.
    let (order, values): (Vec<String>, Vec<String>) =
        differences(&server, &random, false).await.into_iter().partition(|difference| {
            difference.contains(" here: Error(") != difference.contains(" there: Error(")
        });
    println!("{} differ in what fails first:\n{}", order.len(), order.join("\n"));
    assert!(
        order.len() * 500 <= random.len(),
        "too many differ in what fails:\n{}",
        order.join("\n")
    );
    found.extend(values);
    assert!(
        found.is_empty(),
        "{} differ (seed {seed}):\n{}",
        found.len(),
        found.iter().take(400).cloned().collect::<Vec<_>>().join("\n")
    );
}
