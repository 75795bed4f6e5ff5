//! The table of functions: names, types of arguments and results. Functions with a syntax of their own (`substring(x
//! FROM 2)`) end here too; those whose arguments must be constants, or that do not evaluate all of them, are in
//! [`compile`](super::compile).

use super::cell::Cell;
use super::error::Fail;
use super::kind::Kind::{self, *};
use super::{datetime, json, number, text};

/// A function on arguments that are there: none is NULL unless the function is lax.
pub type Native = for<'a> fn(&mut [Cell<'a>]) -> Result<Cell<'a>, Fail>;

/// What may stand for an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Param {
    Is(Kind),
    Any,
}

/// One way to call a function.
pub struct Overload {
    pub params: &'static [Param],
    /// The last parameter may be given any number of times, also none.
    pub repeats: bool,
    pub result: Kind,
    pub run: Native,
    /// NULL arguments reach the function.
    pub lax: bool,
    /// May give NULL although no argument is.
    pub may_be_null: bool,
}

pub struct Function {
    pub name: &'static str,
    pub overloads: &'static [Overload],
}

const fn of(params: &'static [Param], result: Kind, run: Native) -> Overload {
    Overload { params, repeats: false, result, run, lax: false, may_be_null: false }
}

const fn nullable(params: &'static [Param], result: Kind, run: Native) -> Overload {
    Overload { params, repeats: false, result, run, lax: false, may_be_null: true }
}

const fn lax(params: &'static [Param], result: Kind, run: Native) -> Overload {
    Overload { params, repeats: true, result, run, lax: true, may_be_null: false }
}

macro_rules! params {
    ($($kind:ident),*) => { &[$(Param::Is($kind)),*] };
}

macro_rules! functions {
    ($($name:literal: $($overload:expr),+;)*) => {
        &[$(Function { name: $name, overloads: &[$($overload),+] }),*]
    };
}

/// Where several overloads fit equally well the first is taken, so they stand in PostgreSQL's order of preference:
/// integers round as floats do.
pub const FUNCTIONS: &[Function] = functions! {
    "abs": of(params![Int2], Int2, number::abs_int2), of(params![Int4], Int4, number::abs_int4),
        of(params![Int8], Int8, number::abs_int8), of(params![Double], Double, number::abs),
        of(params![Real], Real, number::abs), of(params![Numeric], Numeric, number::abs);
    "ascii": of(params![Text], Int4, text::ascii);
    "btrim": of(params![Text], Text, text::btrim), of(params![Text, Text], Text, text::btrim);
    "ceil": of(params![Double], Double, number::ceil_double), of(params![Numeric], Numeric, number::ceil);
    "ceiling": of(params![Double], Double, number::ceil_double), of(params![Numeric], Numeric, number::ceil);
    "char_length": of(params![Text], Int4, text::length);
    "character_length": of(params![Text], Int4, text::length);
    "chr": of(params![Int4], Text, text::chr);
    "concat": lax(&[Param::Any], Text, text::concat);
    "concat_ws": Overload { params: &[Param::Is(Text), Param::Any], may_be_null: true, ..lax(&[], Text, text::concat_ws) };
    "convert_from": of(params![Bytes, Text], Text, text::convert_from);
    "convert_to": of(params![Text, Text], Bytes, text::convert_to);
    "decode": of(params![Text, Text], Bytes, text::decode);
    "encode": of(params![Bytes, Text], Text, text::encode);
    "floor": of(params![Double], Double, number::floor_double), of(params![Numeric], Numeric, number::floor);
    "initcap": of(params![Text], Text, text::initcap);
    "json_array_length": of(params![Json], Int4, json::array_length);
    "jsonb_array_length": of(params![Json], Int4, json::array_length);
    "json_build_array": lax(&[Param::Any], Json, json::build_array);
    "jsonb_build_array": lax(&[Param::Any], Json, json::build_array);
    "json_build_object": lax(&[Param::Any], Json, json::json_build_object);
    "jsonb_build_object": lax(&[Param::Any], Json, json::jsonb_build_object);
    "json_extract_path": Overload { repeats: true, ..nullable(params![Json, Text], Json, json::path) };
    "jsonb_extract_path": Overload { repeats: true, ..nullable(params![Json, Text], Json, json::path) };
    "json_extract_path_text": Overload { repeats: true, ..nullable(params![Json, Text], Text, json::path_text) };
    "jsonb_extract_path_text": Overload { repeats: true, ..nullable(params![Json, Text], Text, json::path_text) };
    "json_typeof": of(params![Json], Text, json::type_of);
    "jsonb_typeof": of(params![Json], Text, json::type_of);
    "justify_hours": of(params![Interval], Interval, justify_hours);
    "left": of(params![Text, Int4], Text, text::left);
    "length": of(params![Text], Int4, text::length), of(params![Bytes], Int4, text::length);
    "lower": of(params![Text], Text, text::lower);
    "lpad": of(params![Text, Int4], Text, text::lpad), of(params![Text, Int4, Text], Text, text::lpad);
    "ltrim": of(params![Text], Text, text::ltrim), of(params![Text, Text], Text, text::ltrim);
    "make_date": of(params![Int4, Int4, Int4], Date, make_date);
    "md5": of(params![Text], Text, text::md5_hex), of(params![Bytes], Text, text::md5_hex);
    "mod": of(params![Int2, Int2], Int2, modulo_int), of(params![Int4, Int4], Int4, modulo_int),
        of(params![Int8, Int8], Int8, modulo_int), of(params![Numeric, Numeric], Numeric, modulo);
    "octet_length": of(params![Text], Int4, text::octet_length), of(params![Bytes], Int4, text::octet_length);
    "overlay": of(params![Text, Text, Int4], Text, text::overlay), of(params![Text, Text, Int4, Int4], Text, text::overlay);
    "pow": of(params![Double, Double], Double, number::power);
    "power": of(params![Double, Double], Double, number::power);
    "repeat": of(params![Text, Int4], Text, text::repeat);
    "replace": of(params![Text, Text, Text], Text, text::replace);
    "reverse": of(params![Text], Text, text::reverse);
    "right": of(params![Text, Int4], Text, text::right);
    "round": of(params![Double], Double, number::round_double), of(params![Numeric], Numeric, number::round),
        of(params![Numeric, Int4], Numeric, number::round_to);
    "rpad": of(params![Text, Int4], Text, text::rpad), of(params![Text, Int4, Text], Text, text::rpad);
    "rtrim": of(params![Text], Text, text::rtrim), of(params![Text, Text], Text, text::rtrim);
    "sha256": of(params![Bytes], Bytes, text::sha256);
    "sha256_hex": of(params![Text], Text, text::sha256_hex), of(params![Bytes], Text, text::sha256_hex);
    "sign": of(params![Double], Double, number::sign_double), of(params![Numeric], Numeric, number::sign);
    "split_part": of(params![Text, Text, Int4], Text, text::split_part);
    "sqrt": of(params![Double], Double, number::sqrt_double), of(params![Numeric], Numeric, number::sqrt);
    "starts_with": of(params![Text, Text], Bool, text::starts_with);
    "strpos": of(params![Text, Text], Int4, text::strpos);
    "substr": of(params![Text, Int4], Text, text::substring), of(params![Text, Int4, Int4], Text, text::substring);
    "substring": of(params![Text, Int4], Text, text::substring), of(params![Text, Int4, Int4], Text, text::substring);
    "to_hex": of(params![Int4], Text, text::to_hex_int4), of(params![Int8], Text, text::to_hex);
    "to_json": of(&[Param::Any], Json, json::to_json);
    "to_jsonb": of(&[Param::Any], Json, json::to_json);
    "translate": of(params![Text, Text, Text], Text, text::translate);
    "trunc": of(params![Double], Double, number::trunc_double), of(params![Numeric], Numeric, number::trunc),
        of(params![Numeric, Int4], Numeric, number::trunc_to);
    "upper": of(params![Text], Text, text::upper);
    "uuid_v5": of(params![Uuid, Text], Uuid, text::uuid_v5);
};

/// Names that [`compile`](super::compile) knows by itself.
pub const SPECIAL: &[&str] = &[
    "coalesce",
    "current_date",
    "current_timestamp",
    "date_part",
    "date_trunc",
    "dictionary",
    "extract",
    "greatest",
    "least",
    "localtimestamp",
    "lookup",
    "mask",
    "now",
    "nullif",
    "old",
    "position",
    "regexp_like",
    "regexp_replace",
    "timezone",
    "to_char",
    "to_timestamp",
    "today",
    "trim",
    "uuid_ns_dns",
    "uuid_ns_oid",
    "uuid_ns_url",
    "uuid_ns_x500",
];

/// Why a function of PostgreSQL is not here, for those that would do harm.
pub const REFUSED: &[(&str, &str)] = &[
    (
        "clock_timestamp",
        "it gives another value when a row is replayed; now() is one time for all of a row",
    ),
    ("crosswalk", "crosswalk is not in this version"),
    (
        "gen_random_uuid",
        "it gives another value when a row is replayed; uuid_v5(namespace, name) gives the same one",
    ),
    (
        "nextval",
        "it gives another value when a row is replayed; let the target's column have a default",
    ),
    ("random", "it gives another value when a row is replayed"),
    (
        "statement_timestamp",
        "it gives another value when a row is replayed; now() is one time for all of a row",
    ),
    (
        "timeofday",
        "it gives another value when a row is replayed; now() is one time for all of a row",
    ),
    (
        "uuid_generate_v4",
        "it gives another value when a row is replayed; uuid_v5(namespace, name) gives the same one",
    ),
];

pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

impl Overload {
    /// The parameter for argument number `at`.
    pub fn param(&self, at: usize) -> Option<Param> {
        match self.params.get(at) {
            Some(param) => Some(*param),
            None if self.repeats => self.params.last().copied(),
            None => None,
        }
    }

    pub fn takes(&self, count: usize) -> bool {
        let least = self.params.len() - usize::from(self.repeats);
        count >= least && (self.repeats || count <= self.params.len())
    }

    /// How well arguments of these types fit: the number of those that are exactly right.
    pub fn fit(&self, args: &[Kind]) -> Option<usize> {
        if !self.takes(args.len()) {
            return None;
        }
        let mut exact = 0;
        for (at, kind) in args.iter().enumerate() {
            match self.param(at)? {
                Param::Any if *kind == Kind::Raw => {}
                Param::Any => {}
                Param::Is(want) if want == *kind => exact += 1,
                Param::Is(want) if kind.becomes(want) => {}
                Param::Is(_) => return None,
            }
        }
        Some(exact)
    }

    /// `(text, integer)`
    pub fn written(&self) -> String {
        let mut names: Vec<String> = self
            .params
            .iter()
            .map(|p| match p {
                Param::Is(kind) => kind.to_string(),
                Param::Any => "any".to_owned(),
            })
            .collect();
        if self.repeats {
            names.push("…".to_owned());
        }
        format!("({})", names.join(", "))
    }
}

fn modulo_int<'a>(args: &mut [Cell<'a>]) -> Result<Cell<'a>, Fail> {
    match args {
        [a, b] => number::arithmetic(number::Op::Rem, Kind::Int8, a, b),
        _ => Err(Fail::unexpected()),
    }
}

fn modulo<'a>(args: &mut [Cell<'a>]) -> Result<Cell<'a>, Fail> {
    match args {
        [a, b] => number::arithmetic(number::Op::Rem, Kind::Numeric, a, b),
        _ => Err(Fail::unexpected()),
    }
}

fn justify_hours<'a>(args: &mut [Cell<'a>]) -> Result<Cell<'a>, Fail> {
    match args {
        [Cell::Interval(i)] => Ok(Cell::Interval(datetime::justify_hours(*i))),
        _ => Err(Fail::unexpected()),
    }
}

fn make_date<'a>(args: &mut [Cell<'a>]) -> Result<Cell<'a>, Fail> {
    let [Cell::Int(year), Cell::Int(month), Cell::Int(day)] = args else {
        return Err(Fail::unexpected());
    };
    // There is no year 0; years before Christ are negative.
    let astronomical = if *year < 0 { *year + 1 } else { *year };
    let date = (|| {
        tidelock_core::Date::from_ymd(
            i32::try_from(astronomical).ok()?,
            u32::try_from(*month).ok()?,
            u32::try_from(*day).ok()?,
        )
    })();
    let days = date.filter(|_| *year != 0).ok_or_else(|| Fail::range("there is no such date"))?;
    datetime::day_in_range(i64::from(days.0)).map(Cell::Date)
}
