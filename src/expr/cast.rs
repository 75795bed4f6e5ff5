//! One value turned into another type: the casts that are written, and those that happen by themselves.

use tidelock_core::value::{DAY_MICROS, Interval};
use tidelock_core::{Bytes, DataType};

use super::cell::{Cell, Text};
use super::datetime;
use super::decimal::Dec;
use super::error::Fail;
use super::json;
use super::kind::{self, Kind};
use super::number::fit;

/// What a type is restricted to (`varchar(10)`, `numeric(12,2)`, `timestamp(0)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    None,
    Digits {
        precision: u16,
        scale: u16,
    },
    Chars(u64),
    Fraction(u8),
    /// Documents are kept in the normal form of `jsonb`.
    Normal,
    /// Of numbers: only the same number. One that the type does not have stays as it is: nothing of that type is equal to it.
    Exact,
}

/// A type to cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub kind: Kind,
    pub limit: Limit,
}

impl Target {
    pub fn plain(kind: Kind) -> Target {
        Target { kind, limit: Limit::None }
    }

    pub fn data_type(self) -> DataType {
        match (self.kind, self.limit) {
            (Kind::Numeric, Limit::Digits { precision, scale }) => {
                DataType::Decimal { precision: Some(precision), scale: Some(scale) }
            }
            (Kind::Text | Kind::Char, Limit::Chars(n)) => kind::text(Some(n)),
            (Kind::Time, Limit::Fraction(fsp)) => DataType::Time { fsp, span: false },
            (Kind::Stamp, Limit::Fraction(fsp)) => DataType::Timestamp { fsp },
            (Kind::Instant, Limit::Fraction(fsp)) => DataType::Instant { fsp, narrow: false },
            (Kind::Interval, Limit::Fraction(fsp)) => DataType::Interval { fsp },
            (kind, _) => kind.data_type(),
        }
    }

    /// The type as it is written.
    pub fn written(self) -> String {
        match self.limit {
            Limit::Digits { precision, scale } => format!("{}({precision},{scale})", self.kind),
            Limit::Chars(n) => format!("{}({n})", self.kind),
            Limit::Fraction(n) => format!("{}({n})", self.kind),
            Limit::Normal => "jsonb".to_owned(),
            Limit::Exact => format!("{} exactly", self.kind),
            Limit::None => self.kind.to_string(),
        }
    }
}

type Out<'a> = Result<Cell<'a>, Fail>;

fn invalid(kind: Kind) -> Fail {
    Fail::text(format!("the text is no valid {kind}"))
}

/// The cell as a value of the target type. NULL and what is not in the log stay what they are.
pub fn convert<'a>(cell: Cell<'a>, from: Kind, to: Target) -> Out<'a> {
    if cell.is_null() || cell.is_unchanged() {
        return Ok(cell);
    }
    if matches!(cell, Cell::Raw(_)) && to.kind != Kind::Text {
        return Err(no_form());
    }
    if to.limit == Limit::Exact {
        return Ok(exactly(cell, to.kind));
    }
    match to.kind {
        Kind::Unknown | Kind::Raw => Ok(cell),
        Kind::Int2 | Kind::Int4 | Kind::Int8 => integer(cell, from, to.kind),
        Kind::Numeric => {
            let number = exact(cell)?;
            Ok(Cell::Dec(match to.limit {
                Limit::Digits { precision, scale } => number.fitted(precision, scale)?,
                _ => number,
            }))
        }
        Kind::Real | Kind::Double => float(cell, to.kind),
        Kind::Bool => boolean(cell, from),
        Kind::Text | Kind::Char | Kind::Label | Kind::Bits => characters(cell, to),
        Kind::Bytes => match cell {
            Cell::Text(text) => bytes(&text).map(Cell::Bytes),
            Cell::Bytes(_) => Ok(cell),
            _ => Err(Fail::unexpected()),
        },
        Kind::Uuid => match cell {
            Cell::Text(text) => uuid(&text).map(Cell::Uuid).ok_or_else(|| invalid(Kind::Uuid)),
            Cell::Uuid(_) => Ok(cell),
            _ => Err(Fail::unexpected()),
        },
        Kind::Json => document(cell, to.limit),
        Kind::Date => match cell {
            Cell::Date(_) => Ok(cell),
            Cell::Stamp(t) | Cell::Instant(t) => Ok(Cell::Date(datetime::day(t))),
            Cell::Text(text) => {
                datetime::date(&text).map(Cell::Date).ok_or_else(|| invalid(Kind::Date))
            }
            _ => Err(Fail::unexpected()),
        },
        Kind::Time | Kind::Stamp | Kind::Instant | Kind::Interval => moment(cell, to),
    }
}

pub fn no_form() -> Fail {
    Fail::new(
        super::error::EvalErrorKind::NoCanonicalForm,
        "the value has no form outside its own kind of server",
    )
}

fn integer<'a>(cell: Cell<'a>, from: Kind, to: Kind) -> Out<'a> {
    let out_of_range = || Fail::range(format!("{to} out of range"));
    let whole = match cell {
        Cell::Int(i) => i,
        Cell::Dec(d) => d.to_i64().ok_or_else(out_of_range)?,
        Cell::Bool(b) => i64::from(b),
        Cell::Real(_) | Cell::Double(_) => {
            let f = cell.double().unwrap_or(f64::NAN).round_ties_even();
            // The upper bound itself is one too many, and is exact in double precision.
            if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&f) {
                return Err(out_of_range());
            }
            f as i64
        }
        Cell::Text(text) if from == Kind::Bits => u64::from_str_radix(&text, 2)
            .ok()
            .and_then(|u| i64::try_from(u).ok())
            .ok_or_else(out_of_range)?,
        Cell::Text(text) => {
            let plain = blanks(&text);
            let digits = plain.strip_prefix(['+', '-']).unwrap_or(plain);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid(to));
            }
            plain.parse().map_err(|_| out_of_range())?
        }
        Cell::Json(text) => match json::scalar(&text)? {
            None => return Ok(Cell::Null),
            Some(number) => {
                Dec::parse(number).ok_or_else(|| invalid(to))?.to_i64().ok_or_else(out_of_range)?
            }
        },
        _ => return Err(Fail::unexpected()),
    };
    fit(to, Some(whole)).map(Cell::Int)
}

/// A number as one of another type if that has it, else one that is equal to none of it.
fn exactly(cell: Cell<'_>, to: Kind) -> Cell<'_> {
    match (&cell, to) {
        (Cell::Int(_) | Cell::Dec(_), Kind::Int2 | Kind::Int4 | Kind::Int8) => {
            let whole = match &cell {
                Cell::Dec(d) => d.to_i64().filter(|i| Dec::from(*i).compare(d).is_eq()),
                Cell::Int(i) => Some(*i),
                _ => None,
            };
            whole.and_then(|whole| fit(to, Some(whole)).ok()).map_or(cell, Cell::Int)
        }
        (Cell::Real(_) | Cell::Double(_), Kind::Int2 | Kind::Int4 | Kind::Int8) => {
            let whole = cell.double().filter(|f| f.fract() == 0.0 && f.abs() < 2f64.powi(63));
            let whole = whole.and_then(|f| fit(to, Some(f as i64)).ok());
            let none = || Dec::parse("NaN").map(Cell::Dec);
            whole.map(Cell::Int).or_else(none).unwrap_or(cell)
        }
        // The shortest digits that mean this number and no other.
        (Cell::Real(f), Kind::Numeric) => Dec::parse(&f.to_string()).map_or(cell, Cell::Dec),
        (Cell::Double(f), Kind::Numeric) => Dec::parse(&f.to_string()).map_or(cell, Cell::Dec),
        // What has no such digits in binary is looked for by the nearest that has.
        (Cell::Int(_) | Cell::Dec(_), Kind::Real | Kind::Double) => {
            float(cell.clone(), to).unwrap_or(cell)
        }
        (Cell::Int(i), Kind::Numeric) => Cell::Dec(Dec::from(*i)),
        (Cell::Real(f), Kind::Double) => Cell::Double(f64::from(*f)),
        _ => cell,
    }
}

/// Blanks around a number do not count.
fn blanks(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}'])
}

fn exact(cell: Cell<'_>) -> Result<Dec, Fail> {
    match cell {
        Cell::Int(i) => Ok(Dec::from(i)),
        Cell::Dec(d) => Ok(d),
        Cell::Real(f) => {
            Dec::from_f64(f64::from(f), 6).ok_or_else(|| Fail::range("the number is too large"))
        }
        Cell::Double(f) => {
            Dec::from_f64(f, 15).ok_or_else(|| Fail::range("the number is too large"))
        }
        Cell::Text(text) => Dec::parse(blanks(&text)).ok_or_else(|| invalid(Kind::Numeric)),
        Cell::Json(text) => match json::scalar(&text)? {
            Some(number) => Dec::parse(number).ok_or_else(|| invalid(Kind::Numeric)),
            None => Err(Fail::argument("the json document is null")),
        },
        _ => Err(Fail::unexpected()),
    }
}

fn float<'a>(cell: Cell<'a>, to: Kind) -> Out<'a> {
    if let (Cell::Real(_), Kind::Real) | (Cell::Double(_), Kind::Double) = (&cell, to) {
        return Ok(cell);
    }
    let out_of_range = || Fail::range(format!("{to} out of range"));
    let exact = match &cell {
        Cell::Text(text) => Some(parse_float(blanks(text)).ok_or_else(|| invalid(to))?),
        Cell::Json(text) => match json::scalar(text)? {
            None => return Ok(Cell::Null),
            Some(number) => Some(parse_float(number).ok_or_else(|| invalid(to))?),
        },
        _ => None,
    };
    let (wide, written) = match exact {
        Some((wide, text)) => (wide, Some(text)),
        None => {
            (cell.double().ok_or_else(Fail::unexpected)?, cell.dec().map(|d| d.text().to_string()))
        }
    };
    let infinite = match &cell {
        Cell::Real(f) => f.is_infinite(),
        Cell::Double(f) => f.is_infinite(),
        Cell::Dec(d) => !d.is_finite(),
        _ => written.as_deref().is_some_and(|t| t.to_ascii_lowercase().contains("inf")),
    };
    if wide.is_infinite() && !infinite {
        return Err(out_of_range());
    }
    let digits = |text: &String| {
        text.split(['e', 'E'])
            .next()
            .is_some_and(|m| m.contains(|c: char| ('1'..='9').contains(&c)))
    };
    if wide == 0.0 && written.as_ref().is_some_and(digits) {
        return Err(out_of_range());
    }
    if to == Kind::Double {
        return Ok(Cell::Double(wide));
    }
    // From the digits themselves where there are any: by way of double precision it could be rounded twice.
    let narrow = written.and_then(|text| text.parse::<f32>().ok()).unwrap_or(wide as f32);
    if (narrow.is_infinite() && !infinite) || (narrow == 0.0 && wide != 0.0) {
        return Err(out_of_range());
    }
    Ok(Cell::Real(narrow))
}

fn parse_float(text: &str) -> Option<(f64, String)> {
    let plain = text.strip_prefix(['+', '-']).unwrap_or(text);
    let word = plain.eq_ignore_ascii_case("infinity")
        || plain.eq_ignore_ascii_case("inf")
        || text.eq_ignore_ascii_case("nan");
    if !word && !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    Some((text.parse().ok()?, text.to_owned()))
}

fn boolean<'a>(cell: Cell<'a>, from: Kind) -> Out<'a> {
    let truth = match &cell {
        Cell::Bool(b) => *b,
        Cell::Int(i) => *i != 0,
        Cell::Text(text) if from == Kind::Bits => text.contains('1'),
        Cell::Text(text) => parse_bool(text).ok_or_else(|| invalid(Kind::Bool))?,
        Cell::Json(text) => match json::scalar(text)? {
            None => return Ok(Cell::Null),
            Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(Fail::argument("the json document is no truth value")),
        },
        _ => return Err(Fail::unexpected()),
    };
    Ok(Cell::Bool(truth))
}

/// Any beginning of `true`, `yes`, `on`, `1` and their opposites that leaves no doubt.
fn parse_bool(text: &str) -> Option<bool> {
    let word = blanks(text).to_ascii_lowercase();
    let begins = |whole: &str, least: usize| word.len() >= least && whole.starts_with(&word);
    if word == "1" || begins("true", 1) || begins("yes", 1) || word == "on" {
        return Some(true);
    }
    (word == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2)).then_some(false)
}

fn characters<'a>(cell: Cell<'a>, to: Target) -> Out<'a> {
    let text = match cell {
        Cell::Text(text) => text,
        other => other.form().ok_or_else(Fail::unexpected)?,
    };
    let text = match to.limit {
        Limit::Chars(n) => {
            let end = text
                .char_indices()
                .nth(usize::try_from(n).unwrap_or(usize::MAX))
                .map_or(text.len(), |(at, _)| at);
            text.part(text.get(..end).unwrap_or(""))
        }
        _ => text,
    };
    if to.kind == Kind::Char {
        return Ok(Cell::Text(text.part(text.trim_end_matches(' '))));
    }
    Ok(Cell::Text(text))
}

/// `\x0aff`, or characters with `\\` and `\ooo`.
fn bytes(text: &str) -> Result<Bytes, Fail> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return hex::decode(digits).map(Bytes::from).map_err(|_| invalid(Kind::Bytes));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let octal =
            |b: Option<u8>, most: u8| b.filter(|b| (b'0'..=most).contains(b)).map(|b| b - b'0');
        match rest.next() {
            Some(b'\\') => out.push(b'\\'),
            first => {
                let digits =
                    (octal(first, b'3'), octal(rest.next(), b'7'), octal(rest.next(), b'7'));
                let (Some(a), Some(b), Some(c)) = digits else { return Err(invalid(Kind::Bytes)) };
                out.push(a * 64 + b * 8 + c);
            }
        }
    }
    Ok(out.into())
}

/// With or without hyphens and braces.
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let text = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut digits = String::with_capacity(32);
    for (at, c) in text.char_indices() {
        match c {
            '-' if digits.len().is_multiple_of(4) && at > 0 && !digits.is_empty() => {}
            c if c.is_ascii_hexdigit() => digits.push(c),
            _ => return None,
        }
    }
    let mut id = [0; 16];
    if text.ends_with('-') || text.contains("--") {
        return None;
    }
    hex::decode_to_slice(digits, &mut id).ok()?;
    Some(id)
}

fn document<'a>(cell: Cell<'a>, limit: Limit) -> Out<'a> {
    let text = match cell {
        Cell::Json(text) => text,
        Cell::Text(text) => {
            if limit != Limit::Normal {
                json::check(&text)?;
            }
            text
        }
        _ => return Err(Fail::unexpected()),
    };
    Ok(Cell::Json(if limit == Limit::Normal {
        Text::Own(json::normal(&text)?.into())
    } else {
        text
    }))
}

fn moment<'a>(cell: Cell<'a>, to: Target) -> Out<'a> {
    let digits = match to.limit {
        Limit::Fraction(digits) => digits,
        _ => 6,
    };
    let round = |micros: i64| datetime::rounded(micros, digits);
    let point = |micros: i64| datetime::rounded_point(micros, digits);
    let clock = |micros: i64| micros.rem_euclid(DAY_MICROS);
    Ok(match (to.kind, cell) {
        (Kind::Time, Cell::Text(text)) => {
            Cell::Time(round(datetime::time(&text).ok_or_else(|| invalid(Kind::Time))?))
        }
        (Kind::Time, Cell::Time(t)) => Cell::Time(round(t)),
        (Kind::Time, Cell::Stamp(t) | Cell::Instant(t)) if datetime::infinite(t) => Cell::Null,
        (Kind::Time, Cell::Stamp(t) | Cell::Instant(t)) => Cell::Time(round(clock(t))),
        (Kind::Time, Cell::Interval(i)) => Cell::Time(round(clock(i.micros))),
        (Kind::Stamp, Cell::Text(text)) => {
            Cell::Stamp(point(datetime::stamp(&text, false).ok_or_else(|| invalid(Kind::Stamp))?))
        }
        (Kind::Instant, Cell::Text(text)) => Cell::Instant(point(
            datetime::stamp(&text, true).ok_or_else(|| invalid(Kind::Instant))?,
        )),
        (Kind::Stamp, Cell::Date(d)) => Cell::Stamp(datetime::midnight(d)?),
        (Kind::Instant, Cell::Date(d)) => Cell::Instant(datetime::midnight(d)?),
        (Kind::Stamp, Cell::Stamp(t) | Cell::Instant(t)) => Cell::Stamp(point(t)),
        (Kind::Instant, Cell::Stamp(t) | Cell::Instant(t)) => Cell::Instant(point(t)),
        (Kind::Interval, Cell::Text(text)) => {
            let i = datetime::interval(&text).ok_or_else(|| invalid(Kind::Interval))?;
            Cell::Interval(Interval { micros: round(i.micros), ..i })
        }
        (Kind::Interval, Cell::Interval(i)) => {
            Cell::Interval(Interval { micros: round(i.micros), ..i })
        }
        (Kind::Interval, Cell::Time(t)) => {
            Cell::Interval(Interval { months: 0, days: 0, micros: round(t) })
        }
        _ => return Err(Fail::unexpected()),
    })
}
