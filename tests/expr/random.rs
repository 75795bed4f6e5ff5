//! Random expressions of right types.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Bool,
    Int,
    Numeric,
    Double,
    Text,
    Date,
    Stamp,
    Interval,
}

const TYPES: &[Type] = &[
    Type::Bool,
    Type::Int,
    Type::Numeric,
    Type::Double,
    Type::Text,
    Type::Date,
    Type::Stamp,
    Type::Interval,
];

/// With summer time and without, at the day's change, off by parts of hours.
const ZONES: &[&str] = &[
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Shanghai",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
];

struct Maker {
    rng: StdRng,
}

pub fn expressions(seed: u64, count: usize) -> Vec<String> {
    let mut maker = Maker { rng: StdRng::seed_from_u64(seed) };
    (0..count)
        .map(|_| {
            let of = maker.pick(TYPES);
            let depth = maker.rng.random_range(1..5);
            maker.make(of, depth)
        })
        .collect()
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("something to pick")
    }

    fn leaf(&mut self, of: Type) -> String {
        let text = match of {
            Type::Bool => self.pick(&["b", "b", "true", "false", "NULL::boolean"]),
            Type::Int => self.pick(&[
                "i2",
                "i4",
                "i8",
                "k",
                "0",
                "1",
                "-3",
                "7",
                "100",
                "2147483647",
                "NULL::int",
            ]),
            Type::Numeric => self.pick(&[
                "n",
                "n2",
                "1.50",
                "0.0",
                "-2.5",
                "1000000.001",
                "3::numeric",
                "NULL::numeric",
            ]),
            Type::Double => self.pick(&["d", "r", "0.5::float8", "-2::float8", "1e10::float8"]),
            Type::Text => self.pick(&[
                "t",
                "u",
                "c::text",
                "'abc'::text",
                "''::text",
                "'a b'::text",
                "'ÄÖ'::text",
                "'中文 a'::text",
                "U&'e\\0301\\+01F600'::text",
                "NULL::text",
            ]),
            Type::Date => {
                self.pick(&["da", "date '2024-02-29'", "date '1999-12-31'", "NULL::date"])
            }
            Type::Stamp => self.pick(&[
                "ts",
                "timestamp '2024-02-29 12:34:56.789'",
                "timestamp '1969-12-31 23:59:59'",
                "timestamp '2024-03-31 02:30'",
                "timestamp '2024-10-27 02:30'",
                "timestamp '0001-01-01 00:00 BC'",
            ]),
            Type::Interval => self.pick(&[
                "iv",
                "interval '1 day'",
                "interval '1 mon -2 days 03:04:05'",
                "interval '90 minutes'",
            ]),
        };
        text.to_owned()
    }

    fn make(&mut self, of: Type, depth: u32) -> String {
        if depth == 0 || self.rng.random_ratio(1, 8) {
            return self.leaf(of);
        }
        let deeper = depth - 1;
        if self.rng.random_ratio(1, 5) {
            return self.any(of, deeper);
        }
        match of {
            Type::Bool => self.truth(deeper),
            Type::Int => {
                let (a, b) = (self.make(Type::Int, deeper), self.make(Type::Int, deeper));
                match self.rng.random_range(0..9) {
                    0 => format!("({a} + {b})"),
                    1 => format!("({a} - {b})"),
                    2 => format!("({a} * {b})"),
                    3 => format!("({a} / {b})"),
                    4 => format!("({a} % {b})"),
                    5 => format!("(- {a})"),
                    6 => format!("abs({a})"),
                    7 => format!("length({})", self.make(Type::Text, deeper)),
                    _ => format!("({})::int", self.make(Type::Numeric, deeper)),
                }
            }
            Type::Numeric => {
                let (a, b) = (self.make(Type::Numeric, deeper), self.make(Type::Numeric, deeper));
                let small = self.rng.random_range(-3..6);
                match self.rng.random_range(0..14) {
                    0 => format!("({a} + {b})"),
                    1 => format!("({a} - {b})"),
                    2 => format!("({a} * {b})"),
                    3 => format!("({a} / {b})"),
                    4 => format!("({a} % {b})"),
                    5 => format!("round({a}, {small})"),
                    6 => format!("trunc({a}, {small})"),
                    7 => format!("floor({a})"),
                    8 => format!("ceil({a})"),
                    9 => format!("({})::numeric", self.make(Type::Int, deeper)),
                    10 => format!("({a})::numeric(12,3)"),
                    11 => format!("(- {a})"),
                    12 => format!("({a} * {})", self.make(Type::Int, deeper)),
                    _ => format!(
                        "extract({} from {})",
                        self.pick(&["year", "month", "day", "second", "epoch", "week", "quarter"]),
                        self.make(Type::Stamp, deeper)
                    ),
                }
            }
            Type::Double => {
                let (a, b) = (self.make(Type::Double, deeper), self.make(Type::Double, deeper));
                match self.rng.random_range(0..8) {
                    0 => format!("({a} + {b})"),
                    1 => format!("({a} - {b})"),
                    2 => format!("({a} * {b})"),
                    3 => format!("({a} / {b})"),
                    4 => format!("round(({a})::float8)"),
                    5 => format!("({})::float8", self.make(Type::Numeric, deeper)),
                    6 => format!("floor(({a})::float8)"),
                    _ => format!("({a} + {})", self.make(Type::Int, deeper)),
                }
            }
            Type::Text => self.text(deeper),
            Type::Date => {
                let a = self.make(Type::Date, deeper);
                match self.rng.random_range(0..4) {
                    0 => format!("({a} + {})", self.pick(&["1", "-40", "i2", "k", "length(t)"])),
                    1 => format!("({a} - {})", self.pick(&["1", "366", "i2", "k"])),
                    2 => format!("({})::date", self.make(Type::Stamp, deeper)),
                    _ => format!("({a})"),
                }
            }
            Type::Stamp => {
                let a = self.make(Type::Stamp, deeper);
                match self.rng.random_range(0..9) {
                    0 => format!("({a} + {})", self.make(Type::Interval, deeper)),
                    1 => format!("({a} - {})", self.make(Type::Interval, deeper)),
                    2 => format!(
                        "({} + {})",
                        self.make(Type::Date, deeper),
                        self.make(Type::Interval, deeper)
                    ),
                    3 => format!(
                        "date_trunc('{}', {a})",
                        self.pick(&[
                            "year", "quarter", "month", "week", "day", "hour", "second", "decade",
                            "century"
                        ])
                    ),
                    4 => format!("({})::timestamp", self.make(Type::Date, deeper)),
                    5 => format!(
                        "(({a} AT TIME ZONE '{}') AT TIME ZONE '{}')",
                        self.pick(ZONES),
                        self.pick(ZONES)
                    ),
                    6 => format!(
                        "(date_trunc('{}', tz, '{}') AT TIME ZONE 'UTC')",
                        self.pick(&["year", "month", "week", "day", "hour", "minute"]),
                        self.pick(ZONES)
                    ),
                    7 => format!("(to_timestamp({})::timestamp)", self.leaf(Type::Double)),
                    _ => format!("(tz AT TIME ZONE '{}')", self.pick(ZONES)),
                }
            }
            Type::Interval => {
                let a = self.make(Type::Interval, deeper);
                match self.rng.random_range(0..5) {
                    0 => format!("({a} + {})", self.make(Type::Interval, deeper)),
                    1 => format!("({a} - {})", self.make(Type::Interval, deeper)),
                    2 => format!(
                        "({} - {})",
                        self.make(Type::Stamp, deeper),
                        self.make(Type::Stamp, deeper)
                    ),
                    3 => format!("({a} * {})", self.pick(&["2", "1.5", "k", "-0.1"])),
                    _ => format!("({a} / {})", self.pick(&["2", "3", "0.7", "k"])),
                }
            }
        }
    }

    /// What there is for every type.
    fn any(&mut self, of: Type, depth: u32) -> String {
        let (a, b) = (self.make(of, depth), self.make(of, depth));
        match self.rng.random_range(0..5) {
            0 => format!("coalesce({a}, {b})"),
            1 => format!("nullif({a}, {b})"),
            2 => format!("CASE WHEN {} THEN {a} ELSE {b} END", self.make(Type::Bool, depth)),
            3 => format!(
                "CASE {} WHEN {} THEN {a} WHEN {} THEN {b} END",
                self.make(Type::Int, depth),
                self.make(Type::Int, depth),
                self.leaf(Type::Int)
            ),
            _ => format!("{}({a}, {b})", self.pick(&["greatest", "least"])),
        }
    }

    fn truth(&mut self, depth: u32) -> String {
        let of = self.pick(TYPES);
        let (a, b) = (self.make(of, depth), self.make(of, depth));
        match self.rng.random_range(0..14) {
            0 => format!("({} AND {})", self.make(Type::Bool, depth), self.make(Type::Bool, depth)),
            1 => format!("({} OR {})", self.make(Type::Bool, depth), self.make(Type::Bool, depth)),
            2 => format!("(NOT {})", self.make(Type::Bool, depth)),
            3 => format!(
                "(({}) IS {})",
                self.make(Type::Bool, depth),
                self.pick(&["TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN"])
            ),
            4 => format!("({a} IS {}NULL)", self.pick(&["", "NOT "])),
            5 => format!("({a} IS {}DISTINCT FROM {b})", self.pick(&["", "NOT "])),
            6 => format!("({a} {}IN ({b}, {}))", self.pick(&["", "NOT "]), self.leaf(of)),
            7 => format!("({a} {}BETWEEN {b} AND {})", self.pick(&["", "NOT "]), self.leaf(of)),
            8 => format!(
                "({} {}LIKE {})",
                self.text_leaf(),
                self.pick(&["", "NOT "]),
                self.pick(&["'%a%'", "'a_c'", "'%o W%'", "u", "''", "'%\\%%'"])
            ),
            9 => format!(
                "({} ~ {})",
                self.text_leaf(),
                self.pick(&["'[a-z]+'", "'^a'", "'o.*d$'", "'\\d'", "'^$'"])
            ),
            _ => format!("({a} {} {b})", self.pick(&["=", "<>", "<", "<=", ">", ">="])),
        }
    }

    /// Text that is never of a fixed length, whose blanks PostgreSQL treats in several ways.
    fn text_leaf(&mut self) -> &'static str {
        self.pick(&["t", "u", "'abc'::text", "''::text"])
    }

    fn text(&mut self, depth: u32) -> String {
        let a = self.make(Type::Text, depth);
        let n: i32 = self.rng.random_range(-3..8);
        match self.rng.random_range(0..29) {
            0 => format!("({a} || {})", self.make(Type::Text, depth)),
            1 => format!("upper({a})"),
            2 => format!("lower({a})"),
            3 => format!("trim({a})"),
            4 => format!("substring({a} from {n})"),
            5 => format!("substring({a}, {n}, {})", n.abs()),
            6 => format!("left({a}, {n})"),
            7 => format!("right({a}, {n})"),
            8 => format!("replace({a}, {}, 'xy')", self.pick(&["'a'", "'ab'", "''", "u"])),
            9 => format!("lpad({a}, {}, {})", n + 4, self.pick(&["'.'", "'xy'", "''"])),
            10 => format!("rpad({a}, {})", n + 4),
            11 => format!(
                "split_part({a}, {}, {})",
                self.pick(&["','", "' '", "'a'", "''"]),
                self.pick(&["1", "2", "3", "-1", "-2"])
            ),
            12 => format!(
                "concat({a}, {}, {})",
                self.make(Type::Int, depth),
                self.make(Type::Bool, depth)
            ),
            13 => format!(
                "concat_ws('-', {a}, {}, {})",
                self.leaf(Type::Numeric),
                self.leaf(Type::Date)
            ),
            14 => format!("reverse({a})"),
            15 => {
                // The text of a float half way between two may have more digits there.
                let of = self.pick(TYPES);
                let of = if of == Type::Double { Type::Int } else { of };
                format!("({})::text", self.make(of, depth))
            }
            16 => format!("initcap({a})"),
            17 => format!("translate({a}, 'abc', 'xy')"),
            18 => format!("regexp_replace({a}, '[a-m]', '<\\&>', 'g')"),
            19 => format!(
                "regexp_replace({a}, {}, {}, {})",
                self.pick(&[
                    "'o*'",
                    "'[[:punct:]]'",
                    "'\\s*'",
                    "'(\\w)(\\d)?'",
                    "'$'",
                    "'^'",
                    "''"
                ]),
                self.pick(&["''", "'-'", "'\\1\\1'", "'[\\&]'"]),
                self.pick(&["'g'", "''", "'gi'", "'gn'"])
            ),
            20 => format!("(strpos({a}, {})::text)", self.leaf(Type::Text)),
            21 => format!("overlay({a} placing {} from {})", self.leaf(Type::Text), n.abs() + 1),
            22 => format!("encode(convert_to({a}, 'UTF8'), {})", self.pick(&["'hex'", "'base64'"])),
            23 => format!("md5({a})"),
            24 => format!(
                "to_char({}, {})",
                self.make(Type::Stamp, depth),
                self.pick(&[
                    "'YYYY-MM-DD HH24:MI:SS.US'",
                    "'FMDD. FMMonth YYYY'",
                    "'IYYY-IW-ID Dy'",
                    "'HH12 AM Q WW'",
                    "'J DDD CC'"
                ])
            ),
            25 => format!(
                "substring({a} from {})",
                self.pick(&["'\\w+'", "'(.)$'", "'[^ ]*'", "'中.'"])
            ),
            26 => format!(
                "(j #>> {})",
                self.pick(&["'{a}'", "'{b,c}'", "'{b,c,0}'", "'{中,0}'", "'{-1}'", "'{}'"])
            ),
            27 => format!("(to_jsonb({a})::text)"),
            _ => format!("repeat({a}, 2)"),
        }
    }
}
