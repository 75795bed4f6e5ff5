//! What no server can be asked: cells that are not in the log, what comes from outside of the row, faults and their
//! places. What expressions mean is compared with a real PostgreSQL in `tests/expr`.

use tidelock_core::Timestamp;

use super::*;

struct World;

impl Dictionaries for World {
    fn get(&self, name: &str) -> Option<DictionaryShape> {
        let (index, arity) = match name {
            "status" => (0, 1),
            "place" => (1, 2),
            _ => return None,
        };
        Some(DictionaryShape {
            index,
            arity,
            result: kind::text(Some(9)),
            result_nullable: false,
            types: Vec::new(),
            sought: None,
        })
    }

    fn names(&self) -> Vec<String> {
        vec!["status".to_owned(), "place".to_owned()]
    }
}

impl Contents for World {
    fn get(&self, dictionary: usize, code: &[&str]) -> Option<Value> {
        let found = match (dictionary, code) {
            (0, ["won" | "1"]) => "confirmed",
            (1, ["de", "1"]) => "Berlin",
            _ => return None,
        };
        Some(Value::Text(found.into()))
    }
}

impl Lookups for World {
    fn shape(&self, names: LookupNames<'_>) -> Result<LookupShape, LookupFault> {
        let LookupNames { table, columns, result, insert } = names;
        let fault = |part, message: &str| {
            Err(LookupFault { part, message: message.to_owned(), hint: String::new() })
        };
        if table != "crm.currency" {
            return fault(LookupPart::Table, "there is no such table");
        }
        if let Some(at) = columns.iter().position(|c| c != "code" && c != "country") {
            return fault(LookupPart::Column(at), "there is no such column");
        }
        if result != "id" {
            return fault(LookupPart::Result, "there is no such column");
        }
        if let Some(at) = insert.and_then(|all| all.iter().position(|c| c != "name")) {
            return fault(LookupPart::Insert(at), "there is no such column");
        }
        let columns = columns.iter().map(|_| kind::text(None)).collect();
        Ok(LookupShape { columns, result: INT8, result_nullable: false })
    }
}

const INT4: DataType = DataType::Int { bits: 32, unsigned: false };
const INT8: DataType = DataType::Int { bits: 64, unsigned: false };

fn fields() -> Vec<Field> {
    let label = DataType::Enum { labels: vec!["won".to_owned(), "lost".to_owned()].into() };
    vec![
        Field::new("id", INT4, false),
        Field::new("qty", INT4, true),
        Field::new("price", DataType::Decimal { precision: Some(12), scale: Some(2) }, false),
        Field::new("Name", kind::text(Some(40)), true),
        Field { case_insensitive: true, ..Field::new("email", kind::text(Some(80)), true) },
        Field::new("state", label, false),
        Field::new("big", DataType::Int { bits: 64, unsigned: true }, true),
        Field::new("span", DataType::Time { fsp: 0, span: true }, true),
        Field::new("day", DataType::Date, true),
        Field::new("net", DataType::Address { v4: true, v6: true, network: false }, true),
        Field::new("flag", DataType::Bits { length: Some(1), varying: false }, true),
        Field::new("QTY2", INT4, true),
        Field::new("qty2", INT4, true),
        Field::new("doc", DataType::Json, true),
    ]
}

fn row() -> Vec<Value> {
    vec![
        Value::Int(1),
        Value::Int(5),
        Value::Decimal("12.50".into()),
        Value::Text("Ada".into()),
        Value::Text("Ada@Example.org".into()),
        Value::Enum("won".into()),
        Value::UInt(u64::MAX),
        Value::Time(tidelock_core::Time(-3_600_000_000)),
        Value::Foreign("0000-00-00".into()),
        Value::Text("10.0.0.1".into()),
        Value::Text("1".into()),
        Value::Int(1),
        Value::Int(2),
        Value::Unchanged,
    ]
}

fn scope(fields: &[Field]) -> Scope<'_> {
    Scope {
        fields,
        old: true,
        dictionaries: &World,
        lookups: &World,
        mask_key: true,
        finite: false,
    }
}

fn compiled(text: &str) -> Expr {
    let fields = fields();
    compile(text, &scope(&fields)).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
}

/// The fault of a text, and the part of it that it underlines.
fn fault(text: &str) -> (Fault, String) {
    let fields = fields();
    match compile(text, &scope(&fields)) {
        Ok(expr) => panic!("{text} was taken: {expr:?}"),
        Err(fault) => {
            let part = text.get(fault.span.clone()).unwrap_or_else(|| panic!("{text}: {fault:?}"));
            let part = part.to_owned();
            (fault, part)
        }
    }
}

fn with<T>(
    cells: &[Value],
    old: Option<&[Value]>,
    lookups: &[Answer],
    run: impl FnOnce(&Input<'_>) -> T,
) -> T {
    let key = MaskKey::new(b"key");
    let now = Instant(1_709_210_096_789_000);
    let env = Env { now, dictionaries: &World, mask_key: Some(&key) };
    run(&Input { new: cells, old, lookups, env: &env })
}

fn value(text: &str, cells: &[Value]) -> Value {
    let result = with(cells, None, &[], |input| compiled(text).eval(input));
    result.unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn failure(text: &str, cells: &[Value]) -> EvalError {
    match with(cells, None, &[], |input| compiled(text).eval(input)) {
        Ok(value) => panic!("{text} gave {value:?}"),
        Err(error) => error,
    }
}

#[test]
fn a_cell_that_is_not_in_the_log_counts_only_where_the_result_depends_on_it() {
    let mut cells = row();
    cells[1] = Value::Unchanged;
    for unknown in [
        "qty",
        "qty + 1",
        "qty = 5",
        "qty IS NULL",
        "qty IS NOT NULL",
        "(qty = 5) IS TRUE",
        "qty IS DISTINCT FROM 5",
        "qty IN (1, 5)",
        "id IN (2, qty)",
        "qty BETWEEN 1 AND 9",
        "NOT qty = 5",
        "true AND qty = 5",
        "qty = 5 AND id = 1",
        "qty = 5 OR id = 2",
        "NULL AND qty = 5",
        "coalesce(qty, 0)",
        "greatest(qty, 1)",
        "nullif(qty, 1)",
        "CASE WHEN qty = 5 THEN 1 ELSE 2 END",
        "CASE id WHEN qty THEN 1 END",
        "\"Name\" || qty",
        "concat(\"Name\", qty)",
        "qty::text",
        "doc ->> 'a'",
        "dictionary('status', qty::text)",
        "mask(qty, 'hash')",
    ] {
        assert_eq!(value(unknown, &cells), Value::Unchanged, "{unknown}");
    }
    for (known, is) in [
        ("id = 2 AND qty = 5", Value::Bool(false)),
        ("qty = 5 AND id = 2", Value::Bool(false)),
        ("id = 1 OR qty = 5", Value::Bool(true)),
        ("qty = 5 OR id = 1", Value::Bool(true)),
        ("id IN (qty, 1)", Value::Bool(true)),
        ("coalesce(id, qty)", Value::Int(1)),
        ("CASE WHEN id = 1 THEN 7 ELSE qty END", Value::Int(7)),
        ("CASE WHEN id = 2 THEN qty ELSE 7 END", Value::Int(7)),
        ("NULL::int + qty", Value::Null),
        ("mask(qty, 'null')", Value::Null),
    ] {
        assert_eq!(value(known, &cells), is, "{known}");
    }
}

#[test]
fn a_condition_tells_what_it_does_not_know_for_want_of_the_log_from_null() {
    let fields = fields();
    let test = |text: &str, cells: &[Value]| {
        let condition = compile_condition(text, &scope(&fields)).expect(text);
        with(cells, None, &[], |input| condition.test(input)).expect(text)
    };
    let mut cells = row();
    assert_eq!(test("qty > 1", &cells), Truth::True);
    assert_eq!(test("qty > 9", &cells), Truth::False);
    cells[1] = Value::Null;
    assert_eq!(test("qty > 1", &cells), Truth::Null);
    cells[1] = Value::Unchanged;
    assert_eq!(test("qty > 1", &cells), Truth::NotInLog);
    assert_eq!(test("qty > 1 AND id = 2", &cells), Truth::False);
    assert_eq!(test("NULL", &cells), Truth::Null);
    let refused = compile_condition("qty", &scope(&fields)).expect_err("a number is no condition");
    assert_eq!(refused.span, 0..3);
}

#[test]
fn the_old_row_is_read_where_there_is_one() {
    let expr = compiled("old.qty <> qty");
    assert_eq!((expr.fields(), expr.old_fields()), ([1].as_slice(), [1].as_slice()));
    let (new, mut old) = (row(), row());
    old[1] = Value::Int(4);
    let test = |old: Option<&[Value]>| with(&new, old, &[], |input| expr.test(input));
    assert_eq!(test(Some(&old)), Ok(Truth::True));
    assert_eq!(test(Some(&new)), Ok(Truth::False));
    assert_eq!(test(None), Ok(Truth::Null));
    old[1] = Value::Unchanged;
    assert_eq!(test(Some(&old)), Ok(Truth::NotInLog));
    assert!(compiled("old.id").nullable());
    assert_eq!(compiled("old.id").as_column(), None);
    let fields = fields();
    let fault = compile("old.qty > 1", &Scope { old: false, ..scope(&fields) });
    assert_eq!(fault.expect_err("no old row here").span, 0..7);
}

#[test]
fn values_of_other_kinds_of_server_have_a_meaning() {
    let cells = row();
    for (text, is) in [
        ("big", Value::UInt(u64::MAX)),
        ("big + 1", Value::Decimal("18446744073709551616".into())),
        ("big > 9223372036854775807", Value::Bool(true)),
        ("span + interval '2 hours' = interval '1 hour'", Value::Bool(true)),
        ("state", Value::Enum("won".into())),
        ("state = 'won'", Value::Bool(true)),
        ("upper(state)", Value::Text("WON".into())),
        ("coalesce(state, 'lost')", Value::Text("won".into())),
        ("net", Value::Text("10.0.0.1".into())),
        ("net::text", Value::Text("10.0.0.1".into())),
        ("coalesce(net, NULL)", Value::Text("10.0.0.1".into())),
        ("flag::boolean", Value::Bool(true)),
        ("flag::int", Value::Int(1)),
        ("day", Value::Foreign("0000-00-00".into())),
        ("day IS NULL", Value::Bool(false)),
        ("coalesce(day, day)", Value::Foreign("0000-00-00".into())),
        ("day::text", Value::Text("0000-00-00".into())),
    ] {
        assert_eq!(value(text, &cells), is, "{text}");
    }
    for text in ["day + 1", "day > '2024-01-01'", "extract(year from day)", "day::timestamp"] {
        assert_eq!(failure(text, &cells).kind, EvalErrorKind::NoCanonicalForm, "{text}");
    }
}

#[test]
fn names_are_found_as_their_table_spells_them_or_by_the_only_one_that_fits() {
    assert_eq!(compiled("name").as_column(), Some(3));
    assert_eq!(compiled("NAME").as_column(), Some(3));
    assert_eq!(compiled("\"Name\"").as_column(), Some(3));
    assert_eq!(compiled("qty2").as_column(), Some(12));
    assert_eq!(compiled("(id)").as_column(), Some(0));
    assert!(fault("Qty2").0.message.contains("\"QTY2\", \"qty2\""));
    assert_eq!(fault("\"name\"").0.hint, "the table spells it \"Name\"");
}

#[test]
fn faults_underline_their_part_and_say_the_cure() {
    for (text, part, message, hint) in [
        ("qty + prise", "prise", "there is no column prise", "did you mean price?"),
        ("1 + uper(name)", "uper(name)", "there is no function uper", "did you mean upper?"),
        (
            "lower(name, 1) = 'x'",
            "lower(name, 1)",
            "cannot be called with 2 arguments",
            "it is lower(text)",
        ),
        ("id = 1 AND left(name, 'x') = 'y'", "'x'", "no valid integer", ""),
        ("upper(qty + 1)", "qty + 1", "this is integer, upper takes text here", "cast it"),
        (
            "id = 1 AND name > qty",
            "name > qty",
            "text and integer cannot be compared",
            "cast one of them",
        ),
        ("name + 1", "name + 1", "there is no + for text and integer", "|| joins texts"),
        ("'a' + 'b'", "'a' + 'b'", "there is no +", "|| joins texts"),
        ("id || qty", "id || qty", "there is no || for integer and integer", "cast one of them"),
        ("CASE WHEN qty THEN 1 END", "qty", "a condition must be boolean", "x <> 0"),
        ("CASE WHEN id = 1 THEN 'a' ELSE qty END", "'a'", "no valid integer", ""),
        (
            "CASE WHEN id = 1 THEN name ELSE qty END",
            "qty",
            "what stands before it in CASE is text",
            "cast",
        ),
        ("qty / 0", "qty / 0", "", ""),
        ("id = 1 AND 1 / 0 = 1", "1 / 0", "division by zero", "same for every row"),
        ("day + '1 day'", "day + '1 day'", "there is no + for date", "interval '1 day'"),
        ("qty::blob", "qty::blob", "there is no type blob", ""),
        ("CAST(qty AS uuid)", "CAST(qty AS uuid)", "integer cannot be cast to uuid", ""),
        ("'x'::int + 1", "'x'", "no valid integer", ""),
        ("price > 'abc'", "'abc'", "no valid numeric", ""),
        ("name ~ '('", "'('", "this pattern is not valid", ""),
        ("name ~ email", "email", "the pattern must be a text literal", ""),
        (
            "extract(fortnight from day)",
            "extract(fortnight from day)",
            "there is no part fortnight",
            "",
        ),
        ("extract(hour from day)", "day", "which has no hour", ""),
        ("date_trunc('moon', day)", "'moon'", "there is no part moon", ""),
        ("day AT TIME ZONE 'CET'", "'CET'", "time zone CET is not known", "full name"),
        ("to_char(price, '99V9')", "'99V9'", "which is not supported", ""),
        ("to_char(day, 'foo')", "'foo'", "which is no pattern", ""),
        ("dictionary('stats', state)", "'stats'", "there is no dictionary stats", "'status'"),
        ("dictionary('place', state)", "state", "a tuple of 2 values, not 1", ""),
        ("lookup('x', 'code', name, 'id')", "'x'", "there is no such table", ""),
        ("lookup('crm.currency', ('code', 'y'), (name, email), 'id')", "'y'", "no such column", ""),
        ("lookup('crm.currency', 'code', name, 'z')", "'z'", "no such column", ""),
        ("lookup('crm.currency', 'code', qty, 'id')", "qty", "column code is text", ""),
        (
            "lookup('crm.currency', 'code', name, 'id', insert => ('z', 1))",
            "'z'",
            "no such column",
            "",
        ),
        (
            "lookup('crm.currency', 'code', name, 'id', insert => false)",
            "false",
            "columns and their values",
            "insert => true",
        ),
        ("upper(insert => 'x')", "upper(insert => 'x')", "takes values only", ""),
        ("mask(email, 'rot13')", "'rot13'", "there is no way rot13 to mask", "'last4'"),
        ("crosswalk(id)", "crosswalk(id)", "crosswalk is not supported", "not in this version"),
        ("random() < 1", "random()", "random is not supported", "replayed"),
        ("orders.qty", "orders.qty", "without their table", "write qty"),
        ("id = (SELECT 1)", "(SELECT 1)", "queries are not supported", ""),
        ("id = ANY(ARRAY[1])", "", "", ""),
        ("count(*)", "count(*)", "", ""),
        ("doc = doc", "doc = doc", "json documents cannot be compared", "->>"),
        ("state < 'won'", "state < 'won'", "no order", "::text"),
        ("id < qty < 3", "id < qty < 3", "cannot be chained", "AND"),
        ("id = 1 id", "id", "unexpected id", ""),
        ("", "", "empty", ""),
        ("id +", "", "", ""),
        ("upper(name", "", "", ""),
        ("'open", "'open", "", ""),
        ("x'0a'", "x'0a'", "bit strings", "bytea"),
        ("name = \"Ada\"", "\"Ada\"", "there is no column Ada", "single quotes"),
        ("id IN (1, 'two')", "'two'", "no valid integer", ""),
        ("NOT (id = 1 OR (name))", "(name)", "a condition must be boolean", ""),
    ] {
        if part.is_empty() || text == "qty / 0" || text.starts_with("to_char(day") {
            let fields = fields();
            let result = compile(text, &scope(&fields));
            assert!(text == "qty / 0" || result.is_err(), "{text}");
            continue;
        }
        let (fault, underlined) = fault(text);
        assert!(fault.message.contains(message), "{text}: {fault:?}");
        assert!(fault.hint.contains(hint), "{text}: {fault:?}");
        assert_eq!(underlined, part, "{text}: {fault:?}");
    }
    let (fault, part) = fault("name = 'ä'\n  AND qtty = 2");
    assert_eq!((part.as_str(), fault.hint.as_str()), ("qtty", "did you mean qty?"));
}

#[test]
fn an_error_of_a_row_names_its_place_and_no_value() {
    let cells = row();
    for (text, part, kind) in [
        ("id + 100 / (qty - 5)", "100 / (qty - 5)", EvalErrorKind::DivisionByZero),
        ("1 + name::int", "name::int", EvalErrorKind::InvalidText),
        ("id + qty * 2147483647", "qty * 2147483647", EvalErrorKind::OutOfRange),
        ("chr(qty - 5) || 'x'", "chr(qty - 5)", EvalErrorKind::OutOfRange),
        ("price::numeric(3,2) + 1", "price::numeric(3,2)", EvalErrorKind::OutOfRange),
    ] {
        let error = failure(text, &cells);
        assert_eq!(error.kind, kind, "{text}");
        assert_eq!(text.get(error.span.clone()), Some(part), "{text}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("Ada") && !shown.contains("12.50"), "{shown}");
    }
}

#[test]
fn types_and_nullability_are_known_before_a_row_moves() {
    let numeric = |p, s| DataType::Decimal { precision: Some(p), scale: Some(s) };
    for (text, data_type, nullable) in [
        ("id", INT4, false),
        ("qty", INT4, true),
        ("coalesce(qty, 0)", INT4, false),
        ("qty IS NULL", DataType::Bool, false),
        ("id > 1", DataType::Bool, false),
        ("qty > 1", DataType::Bool, true),
        ("CASE WHEN id = 1 THEN 1 ELSE 2 END", INT4, false),
        ("CASE WHEN id = 1 THEN 1 END", INT4, true),
        ("nullif(id, 1)", INT4, true),
        ("price + 1", numeric(13, 2), false),
        ("price * 1.19", numeric(15, 4), false),
        ("round(price * 1.19, 2)", numeric(14, 2), false),
        ("price::numeric(10,1)", numeric(10, 1), false),
        ("id::numeric", numeric(10, 0), false),
        ("upper(name)", kind::text(Some(40)), true),
        ("name || '-' || email", kind::text(Some(121)), true),
        ("name::varchar(10)", kind::text(Some(10)), true),
        ("'CRM'", kind::text(Some(3)), false),
        ("concat(name, qty)", kind::text(None), false),
        ("md5(id::text)", kind::text(Some(32)), false),
        ("doc ->> 'a'", kind::text(None), true),
        ("now()", DataType::Instant { fsp: 6, narrow: false }, false),
        ("date_trunc('day', now())", DataType::Instant { fsp: 0, narrow: false }, false),
        ("day - day", INT4, true),
        ("dictionary('status', state)", kind::text(Some(9)), false),
        ("dictionary('status', name, 'none')", kind::text(Some(9)), true),
        ("lookup('crm.currency', 'code', state, 'id')", INT8, false),
        ("mask(name, 'hash')", kind::text(Some(64)), true),
        ("mask(id, 'null')", INT4, true),
    ] {
        let expr = compiled(text);
        assert_eq!((expr.data_type(), expr.nullable()), (&data_type, nullable), "{text}");
    }
}

#[test]
fn a_bare_literal_becomes_a_value_of_its_column() {
    let literal = compiled("'2024-02-29'");
    assert_eq!(literal.literal(), Some("2024-02-29"));
    let as_date = literal.literal_as(&DataType::Date);
    assert_eq!(as_date, Some(Ok(Value::Date(tidelock_core::Date(19_782)))));
    let as_stamp = literal.literal_as(&DataType::Timestamp { fsp: 0 });
    assert!(matches!(as_stamp, Some(Ok(Value::Timestamp(Timestamp(_))))));
    let misfit = literal.literal_as(&INT4).and_then(Result::err).map(|fault| fault.span);
    assert_eq!(misfit, Some(0..12));
    assert_eq!(compiled("'a' || 'b'").literal(), None);
    assert_eq!(compiled("1").literal_as(&INT4), None);
}

#[test]
fn dictionaries_are_asked_by_the_text_of_their_codes() {
    let cells = row();
    for (text, is) in [
        ("dictionary('status', state)", Value::Text("confirmed".into())),
        ("dictionary('status', id)", Value::Text("confirmed".into())),
        ("dictionary('place', ('de', id))", Value::Text("Berlin".into())),
        ("dictionary('status', NULL)", Value::Null),
        ("dictionary('status', name, 'none')", Value::Text("none".into())),
        ("dictionary('status', name, NULL)", Value::Null),
        ("dictionary('status', state, (1 / (id - 1))::text)", Value::Text("confirmed".into())),
    ] {
        assert_eq!(value(text, &cells), is, "{text}");
    }
    let error = failure("dictionary('status', name)", &cells);
    let EvalErrorKind::DictionaryMissing { dictionary, code_hash } = &error.kind else {
        panic!("{error:?}")
    };
    assert_eq!((dictionary.as_str(), code_hash.len()), ("status", 12));
    assert!(error.message.contains(code_hash) && !error.message.contains("Ada"), "{error}");
    assert_eq!(compiled("dictionary('status', state)").dictionaries(), ["status"]);
}

#[test]
fn lookups_are_collected_and_answered_from_outside() {
    let expr = compiled(
        "coalesce(lookup('crm.currency', ('code', 'country'), (lower(name), 'de'), 'id'), 0) + 1",
    );
    let [lookup] = expr.lookups() else { panic!("{expr:?}") };
    assert_eq!(lookup.table, "crm.currency");
    assert_eq!(
        (lookup.columns.as_slice(), lookup.result.as_str()),
        (["code".to_owned(), "country".to_owned()].as_slice(), "id")
    );
    let mut cells = row();
    let key = with(&cells, None, &[], |input| expr.lookup_row(0, input)).expect("keys");
    assert_eq!(key, [Value::Text("ada".into()), Value::Text("de".into())]);
    let run = |cells: &[Value], answers: &[Answer]| {
        with(cells, None, answers, |input| expr.run(input)).expect("no error")
    };
    let value = |value| Outcome::Value(value);
    assert_eq!(run(&cells, &[Answer::Found(Value::Int(7))]), value(Value::Int(8)));
    assert_eq!(run(&cells, &[Answer::Found(Value::Null)]), value(Value::Int(1)));
    // Within coalesce a row that is missing is NULL.
    assert_eq!(run(&cells, &[Answer::Missing]), value(Value::Int(1)));
    assert_eq!(run(&cells, &[]), Outcome::Asks(0));
    assert_eq!(run(&cells, &[Answer::Open]), Outcome::Asks(0));
    cells[3] = Value::Null;
    assert_eq!(run(&cells, &[]), value(Value::Int(1)));
    cells[3] = Value::Unchanged;
    assert_eq!(run(&cells, &[]), value(Value::Unchanged));
}

#[test]
fn a_lookup_is_asked_for_where_a_row_comes_to_it_and_missing_where_nothing_else_is_said() {
    let cells = row();
    let run = |text: &str, answers: &[Answer]| {
        let expr = compiled(text);
        with(&cells, None, answers, |input| expr.run(input))
    };
    let bare = "lookup('crm.currency', 'code', state, 'id')";
    assert!(compiled(bare).is_lookup() && !compiled(bare).nullable());
    let missing = run(bare, &[Answer::Missing]).expect_err("no row");
    assert!(matches!(missing.kind, EvalErrorKind::LookupMissing { .. }), "{missing:?}");
    // The last of coalesce has nothing behind it.
    let last = format!("coalesce(qty - qty + NULL, {bare})");
    assert!(run(&last, &[Answer::Missing]).is_err());
    assert!(compiled(&format!("coalesce({bare}, NULL)")).nullable());
    let tested = format!("CASE WHEN {bare} IS NULL THEN 0 ELSE {bare} END");
    assert_eq!(run(&tested, &[Answer::Missing]), Ok(Outcome::Value(Value::Int(0))));
    let both = [Answer::Found(Value::Int(5)), Answer::Open];
    assert_eq!(run(&tested, &both), Ok(Outcome::Asks(1)));
    // What no row comes to is not asked for, nor are its arguments computed.
    let beside = "CASE WHEN id > 1 THEN lookup('crm.currency', 'code', (1 / (id - 1))::text, 'id') ELSE 9 END";
    assert_eq!(run(beside, &[]), Ok(Outcome::Value(Value::Int(9))));
    let adds = "lookup('crm.currency', 'code', state, 'id', insert => ('name', upper(name)))";
    let expr = compiled(&format!("coalesce({adds}, 0)"));
    let [lookup] = expr.lookups() else { panic!("{expr:?}") };
    assert_eq!((lookup.insert.as_deref(), lookup.given.len()), (Some(&["name".to_owned()][..]), 2));
    let given = with(&cells, None, &[], |input| expr.lookup_row(0, input)).expect("cells");
    assert_eq!(given, [Value::Text("won".into()), Value::Text("ADA".into())]);
    let plain = compiled("lookup('crm.currency', 'code', state, 'id', insert => true)");
    assert_eq!(plain.lookups()[0].insert.as_deref(), Some(&[][..]));
    let two =
        "lookup('crm.currency', 'code', state, 'id', insert => (('name', name), ('name', 'x')))";
    assert_eq!(compiled(two).lookups()[0].given.len(), 3);
}

#[test]
fn masks_hide_and_stay_the_same() {
    let cells = row();
    let hash = value("mask(name, 'hash')", &cells);
    // HMAC-SHA256 of "Ada" with the key "key".
    assert_eq!(hash, Value::Text(MaskKey::new(b"key").hash(b"Ada").into()));
    assert_ne!(hash, Value::Text(MaskKey::new(b"other").hash(b"Ada").into()));
    assert_eq!(value("mask(email, 'last4')", &cells), Value::Text("***********.org".into()));
    assert_eq!(value("mask(name, 'last4')", &cells), Value::Text("***".into()));
    assert_eq!(value("mask(name, 'null')", &cells), Value::Null);
    let fields = fields();
    let expr = compile("mask('x', 'hash')", &scope(&fields)).expect("a constant may be masked");
    let env = Env { now: Instant(0), dictionaries: &World, mask_key: None };
    let input = Input { new: &cells, old: None, lookups: &[], env: &env };
    assert_eq!(expr.eval(&input).expect_err("no key").kind, EvalErrorKind::Unexpected);
    assert_eq!(format!("{:?}", MaskKey::new(b"key")), "MaskKey");
}

#[test]
fn names_give_the_same_uuid_again_and_the_clock_is_the_callers() {
    let cells = row();
    let id = value("uuid_v5(uuid_ns_dns(), 'www.example.com')", &cells);
    assert_eq!(
        tidelock_core::form::text(&id).as_deref(),
        Some("2ed6657d-e927-568b-95e1-2665a8aea6a2")
    );
    assert_eq!(
        value("uuid_v5('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'www.example.com')", &cells),
        id
    );
    assert_eq!(value("now() = timestamptz '2024-02-29 12:34:56.789Z'", &cells), Value::Bool(true));
    assert_eq!(value("today()", &cells), value("current_date", &cells));
    assert_eq!(value("today() = '2024-02-29'", &cells), Value::Bool(true));
    assert_eq!(value("current_timestamp - now() = interval '0'", &cells), Value::Bool(true));
    assert!(compiled("day < today() + 14").uses_clock());
    assert!(!compiled("day < date '2024-01-01'").uses_clock());
    let sha = value("sha256_hex('abc')", &cells);
    assert_eq!(sha, value("encode(sha256('abc'), 'hex')", &cells));
}

#[test]
fn what_deserves_a_word_is_said() {
    let warned = |text: &str| compiled(text).warnings().len();
    assert_eq!(warned("email = 'a@b'"), 1);
    assert_eq!(warned("email IN ('a', 'b')"), 1);
    assert_eq!(warned("email LIKE 'a%'"), 1);
    assert_eq!(warned("email ILIKE 'a%'"), 0);
    assert_eq!(warned("lower(email) = 'a@b'"), 0);
    assert_eq!(warned("name = 'x'"), 0);
    assert_eq!(warned("state = 'wom'"), 1);
    assert_eq!(compiled("state = 'wom'").warnings()[0].hint, "did you mean 'won'?");
}

#[test]
fn no_text_exhausts_the_stack() {
    let fields = fields();
    let scope = scope(&fields);
    let long = vec!["id = 1"; 900].join(" AND ");
    let condition = compile_condition(&long, &scope).expect("a long chain is no deep one");
    assert_eq!(with(&row(), None, &[], |input| condition.test(input)), Ok(Truth::True));
    let chain = compile(&vec!["id"; 90].join(" + "), &scope).expect("a chain");
    assert_eq!(with(&row(), None, &[], |input| chain.eval(input)), Ok(Value::Int(90)));
    for hostile in [
        "(".repeat(5_000),
        format!("{}1{}", "(".repeat(1_900), ")".repeat(1_900)),
        vec!["1"; 1_900].join(" + "),
        vec!["id"; 1_900].join(" || "),
        vec!["id = 1"; 9_000].join(" AND "),
        "NOT ".repeat(3_000) + "true",
        "- ".repeat(3_000) + "1",
        "CASE WHEN ".repeat(1_500),
        "'x'::".repeat(1_500),
        "coalesce(".repeat(1_500) + "1" + &")".repeat(1_500),
    ] {
        assert!(compile(&hostile, &scope).is_err());
    }
}

#[test]
fn a_plan_is_shared_by_tasks() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&compiled("upper(name) ~ '^A' AND day < today()"));
}

#[test]
fn the_plan_can_be_read() {
    let plan = compiled("CASE WHEN upper(name) LIKE 'A%' THEN price * 2 ELSE dictionary('status', state)::numeric END").explain(&fields());
    let expected = "\
numeric, never NULL
  CASE
    WHEN
      LIKE
        upper
          Name (text)
        'A%'
    THEN
      * (numeric)
        price (numeric)
        2
    ELSE
      cast text to numeric
        dictionary 'status'
          state (enum)
";
    assert_eq!(plan, expected);
}

#[test]
fn a_column_is_masked_only_if_every_way_of_it_into_the_result_is() {
    for (text, expected) in [
        ("name", "Name Open"),
        ("upper(name) || state", "Name Open, state Open"),
        ("mask(name, 'hash')", "Name Hash"),
        ("mask(upper(name), 'last4')", "Name Last4"),
        ("mask(name, 'null')", "Name Nothing"),
        ("mask(name, 'hash') || mask(name, 'last4')", "Name Last4"),
        ("mask(mask(name, 'last4'), 'hash')", "Name Hash"),
        ("mask(name, 'hash') || name", "Name Open"),
        ("CASE WHEN qty > 5 THEN mask(name, 'hash') ELSE 'few' END", "qty Open, Name Hash"),
        ("mask(old.name, 'hash')", "Name Hash"),
        ("coalesce(mask(name, 'hash'), dictionary('status', state, '-'))", "Name Hash, state Open"),
        ("CASE WHEN false THEN name ELSE 'x' END", "Name Nothing"),
        ("lookup('crm.currency', 'code', name, 'id')", "Name Open"),
        ("'x'", ""),
    ] {
        let fields = fields();
        let shows = compiled(text).shows();
        let told: Vec<String> =
            shows.iter().map(|s| format!("{} {:?}", fields[s.field].name, s.veil)).collect();
        assert_eq!(told.join(", "), expected, "{text}");
    }
}

#[test]
fn untouched_text_is_not_copied() {
    // A part of a text shares the memory of the whole.
    let mut cells = row();
    let whole = ByteString::from("  Ada Lovelace, Countess  ".to_owned());
    let start = whole.as_ptr() as usize;
    let range = start..start + whole.len();
    cells[3] = Value::Text(whole);
    for text in
        ["name", "trim(name)", "left(name, 5)", "split_part(name, ',', 1)", "coalesce(name, 'x')"]
    {
        let Value::Text(part) = value(text, &cells) else { panic!("{text}") };
        assert!(range.contains(&(part.as_ptr() as usize)), "{text} was copied");
    }
}

#[test]
fn every_documented_function_is_there_and_every_function_is_documented() {
    let docs = include_str!("../../docs/EXPRESSIONS.md");
    let mut checked = 0;
    let tables = docs.split_once("## Operators").map_or("", |(_, tables)| tables);
    for line in tables.lines().filter(|line| line.starts_with("| `")) {
        let line = line.replace("\\|", "\u{1}");
        let example = line.split('`').nth(1).unwrap_or_default().replace('\u{1}', "|");
        let example = example.as_str();
        let expected = line.split('|').rev().nth(1).unwrap_or_default().trim().trim_matches('`');
        let cells = row();
        let shown = match value(example, &cells) {
            Value::Null => "NULL".to_owned(),
            other => tidelock_core::form::text(&other).expect("a text").into_owned(),
        };
        assert_eq!(shown, expected, "{example}");
        checked += 1;
    }
    assert!(checked > 100, "only {checked} examples");
    for name in
        functions::FUNCTIONS.iter().map(|f| f.name).chain(functions::SPECIAL.iter().copied())
    {
        assert!(docs.contains(name), "docs/EXPRESSIONS.md does not have {name}");
    }
}

#[test]
fn what_tells_its_columns_apart_is_seen() {
    for (text, told) in [
        ("id", &[0][..]),
        ("'E' || id", &[0]),
        ("id + 1000", &[0]),
        ("7 - id * 10", &[0]),
        ("CAST(id AS varchar)", &[0]),
        ("CAST(big AS numeric)", &[6]),
        ("mask(\"Name\", 'hash')", &[3]),
        ("\"Name\" || '/' || id", &[3, 0]),
        ("id || '-' || qty || 'x'", &[0, 1]),
        ("lower(\"Name\")", &[]),
        ("id * 0", &[]),
        ("id / 10", &[]),
        ("id % 10", &[]),
        ("id::text || qty", &[]),
        ("id || '1' || qty", &[]),
        ("\"Name\" || '/' || email", &[]),
        ("CAST(\"Name\" AS varchar(3))", &[]),
        ("CAST(\"Name\" AS integer)", &[]),
        ("CAST(price AS integer)", &[]),
        ("old.id", &[]),
        ("dictionary('status', state)", &[]),
        ("CASE WHEN qty > 1 THEN id ELSE 0 END", &[]),
    ] {
        assert_eq!(compiled(text).tells(), told, "{text}");
    }
}
