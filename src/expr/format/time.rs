//! Templates of dates and times: `YYYY-MM-DD HH24:MI:SS`.

use std::fmt::Write;

use tidelock_core::value::{DAY_MICROS, Date, Time, Timestamp};

use crate::expr::datetime::{MICROS, day_in_range, in_range, iso_week};
use crate::expr::error::Fail;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// How letters are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    Upper,
    Capital,
    Lower,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Field {
    Year(u32),
    YearComma,
    IsoYear(u32),
    Century,
    Month,
    MonthName(Case),
    MonthShort(Case),
    Quarter,
    Day,
    DayOfYear,
    DayOfWeek,
    IsoDayOfWeek,
    IsoDayOfYear,
    DayName(Case),
    DayShort(Case),
    Week,
    WeekOfMonth,
    IsoWeek,
    Hour24,
    Hour12,
    Minute,
    Second,
    SecondOfDay,
    Milli,
    Micro,
    Fraction(usize),
    Half { dots: bool, case: Case },
    Era { dots: bool, case: Case },
    Julian,
    Zone(Case),
    Offset,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Field { field: Field, trimmed: bool, ordinal: Option<Case> },
    Literal(char),
}

/// A template of dates and times.
#[derive(Debug)]
pub struct Template(Vec<Item>);

/// Longer words first.
const WORDS: &[(&str, Field)] = &[
    ("Y,YYY", Field::YearComma),
    ("YYYY", Field::Year(4)),
    ("YYY", Field::Year(3)),
    ("YY", Field::Year(2)),
    ("Y", Field::Year(1)),
    ("IYYY", Field::IsoYear(4)),
    ("IYY", Field::IsoYear(3)),
    ("IY", Field::IsoYear(2)),
    ("IW", Field::IsoWeek),
    ("IDDD", Field::IsoDayOfYear),
    ("ID", Field::IsoDayOfWeek),
    ("I", Field::IsoYear(1)),
    ("CC", Field::Century),
    ("MI", Field::Minute),
    ("MM", Field::Month),
    ("MS", Field::Milli),
    ("Q", Field::Quarter),
    ("DDD", Field::DayOfYear),
    ("DD", Field::Day),
    ("D", Field::DayOfWeek),
    ("WW", Field::Week),
    ("W", Field::WeekOfMonth),
    ("HH24", Field::Hour24),
    ("HH12", Field::Hour12),
    ("HH", Field::Hour12),
    ("SSSSS", Field::SecondOfDay),
    ("SSSS", Field::SecondOfDay),
    ("SS", Field::Second),
    ("US", Field::Micro),
    ("FF1", Field::Fraction(1)),
    ("FF2", Field::Fraction(2)),
    ("FF3", Field::Fraction(3)),
    ("FF4", Field::Fraction(4)),
    ("FF5", Field::Fraction(5)),
    ("FF6", Field::Fraction(6)),
    ("J", Field::Julian),
    ("OF", Field::Offset),
];

/// The field that a template goes on with, and its length.
fn field(rest: &str) -> Option<(Field, usize)> {
    let begins = |word: &str| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
    let case = || {
        let mut letters = rest.chars().filter(char::is_ascii_alphabetic);
        match (
            letters.next().is_some_and(|c| c.is_ascii_uppercase()),
            letters.next().is_some_and(|c| c.is_ascii_uppercase()),
        ) {
            (true, true) => Case::Upper,
            (true, false) => Case::Capital,
            (false, _) => Case::Lower,
        }
    };
    let named: [(&str, Field); 13] = [
        ("MONTH", Field::MonthName(case())),
        ("MON", Field::MonthShort(case())),
        ("DAY", Field::DayName(case())),
        ("DY", Field::DayShort(case())),
        ("A.M.", Field::Half { dots: true, case: case() }),
        ("P.M.", Field::Half { dots: true, case: case() }),
        ("AM", Field::Half { dots: false, case: case() }),
        ("PM", Field::Half { dots: false, case: case() }),
        ("B.C.", Field::Era { dots: true, case: case() }),
        ("A.D.", Field::Era { dots: true, case: case() }),
        ("BC", Field::Era { dots: false, case: case() }),
        ("AD", Field::Era { dots: false, case: case() }),
        ("TZ", Field::Zone(case())),
    ];
    let found = |words: &[(&'static str, Field)]| {
        words.iter().find(|(word, _)| begins(word)).map(|(word, field)| (*field, word.len()))
    };
    found(&named).or_else(|| found(WORDS))
}

impl Template {
    /// Reads a template; `Err` says what is wrong with it.
    pub fn parse(template: &str) -> Result<Template, String> {
        let mut items = Vec::new();
        let mut rest = template;
        let mut trimmed = false;
        while let Some(c) = rest.chars().next() {
            if rest.get(..2).is_some_and(|r| r.eq_ignore_ascii_case("fm")) {
                trimmed = true;
                rest = rest.get(2..).unwrap_or("");
                continue;
            }
            if let Some((field, length)) = field(rest) {
                rest = rest.get(length..).unwrap_or("");
                let ordinal = match rest.get(..2) {
                    Some("TH") => Some(Case::Upper),
                    Some("th") => Some(Case::Lower),
                    _ => None,
                };
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or("");
                }
                items.push(Item::Field { field, trimmed, ordinal });
                trimmed = false;
                continue;
            }
            let mut length = c.len_utf8();
            match c {
                '"' => {
                    let inner = rest.get(1..).unwrap_or("");
                    let end =
                        inner.find('"').ok_or("the template has a quote that does not end")?;
                    items.extend(inner.get(..end).unwrap_or("").chars().map(Item::Literal));
                    length = end + 2;
                }
                c if c.is_ascii_alphabetic() => {
                    return Err(format!(
                        "the template has {c}, which is no pattern; put text into double quotes"
                    ));
                }
                c => items.push(Item::Literal(c)),
            }
            rest = rest.get(length..).unwrap_or("");
        }
        Ok(Template(items))
    }

    /// A finite moment as text; `zoned` if it has a zone, which is UTC.
    pub fn write(&self, micros: i64, zoned: bool) -> Result<String, Fail> {
        let at = Parts::of(micros);
        let mut out = String::new();
        for item in &self.0 {
            match item {
                Item::Literal(c) => out.push(*c),
                Item::Field { field, trimmed, ordinal } => {
                    let start = out.len();
                    at.write(*field, *trimmed, zoned, &mut out);
                    if let Some(case) = ordinal {
                        let suffix = ordinal_suffix(out.get(start..).unwrap_or(""));
                        out.push_str(&cased(suffix, *case));
                    }
                }
            }
        }
        Ok(out)
    }
}

fn ordinal_suffix(number: &str) -> &'static str {
    let teens = number.as_bytes().iter().rev().nth(1) == Some(&b'1');
    match number.as_bytes().last() {
        Some(b'1') if !teens => "st",
        Some(b'2') if !teens => "nd",
        Some(b'3') if !teens => "rd",
        _ => "th",
    }
}

fn cased(text: &str, case: Case) -> String {
    match case {
        Case::Upper => text.to_ascii_uppercase(),
        Case::Capital => text.to_owned(),
        Case::Lower => text.to_ascii_lowercase(),
    }
}

struct Parts {
    date: Date,
    clock: i64,
    /// As users count: no year 0, and before Christ backwards.
    year: i64,
    christian: bool,
    month: usize,
    day: i64,
    of_year: i64,
    sunday_based: usize,
}

impl Parts {
    fn of(micros: i64) -> Parts {
        let (date, Time(clock)) = Timestamp(micros).split();
        let (year, month, day) = date.to_ymd();
        let first = Date::from_ymd(year, 1, 1).map_or(date.0, |d| d.0);
        Parts {
            date,
            clock,
            year: if year > 0 { i64::from(year) } else { 1 - i64::from(year) },
            christian: year > 0,
            month: month as usize,
            day: i64::from(day),
            of_year: i64::from(date.0 - first) + 1,
            sunday_based: usize::try_from((i64::from(date.0) + 4).rem_euclid(7)).unwrap_or(0),
        }
    }

    fn write(&self, field: Field, trimmed: bool, zoned: bool, out: &mut String) {
        let fraction = matches!(field, Field::Milli | Field::Micro | Field::Fraction(_));
        let mut number = |value: i64, width: usize| {
            // Zeros behind the point mean something.
            let width = if trimmed && !fraction { 0 } else { width };
            // Writing to a String cannot fail.
            let _written = write!(out, "{value:0width$}");
        };
        let hour = self.clock / (3_600 * MICROS);
        let second = self.clock / MICROS;
        let fraction = self.clock % MICROS;
        let month = MONTHS.get(self.month.wrapping_sub(1)).copied().unwrap_or("");
        let day = DAYS.get(self.sunday_based).copied().unwrap_or("");
        let short = |name: &'static str| name.get(..3).unwrap_or(name);
        let half = if hour % 24 >= 12 { "PM" } else { "AM" };
        let era = if self.christian { "AD" } else { "BC" };
        let dotted = |word: &str, dots: bool| -> String {
            if dots { word.chars().flat_map(|c| [c, '.']).collect() } else { word.to_owned() }
        };
        let (iso_year, iso_week) = iso_week(self.date.0);
        match field {
            Field::Year(4) => number(self.year, 4),
            Field::Year(n) => number(self.year % 10i64.pow(n), n as usize),
            Field::YearComma => {
                let _written = write!(out, "{},{:03}", self.year / 1_000, self.year % 1_000);
            }
            Field::IsoYear(n) => {
                let year = if iso_year > 0 { i64::from(iso_year) } else { 1 - i64::from(iso_year) };
                number(if n == 4 { year } else { year % 10i64.pow(n) }, n as usize);
            }
            Field::Century => {
                out.push_str(if self.christian { "" } else { "-" });
                let _written = write!(
                    out,
                    "{:0width$}",
                    (self.year + 99) / 100,
                    width = if trimmed { 0 } else { 2 }
                );
            }
            Field::Month => number(self.month as i64, 2),
            Field::Quarter => number((self.month as i64 - 1) / 3 + 1, 1),
            Field::Day => number(self.day, 2),
            Field::DayOfYear => number(self.of_year, 3),
            Field::DayOfWeek => number(self.sunday_based as i64 + 1, 1),
            Field::IsoDayOfWeek => {
                number(if self.sunday_based == 0 { 7 } else { self.sunday_based as i64 }, 1)
            }
            Field::IsoDayOfYear => {
                let of_week = (self.sunday_based as i64 + 6) % 7;
                number((iso_week - 1) * 7 + of_week + 1, 3)
            }
            Field::Week => number((self.of_year - 1) / 7 + 1, 2),
            Field::WeekOfMonth => number((self.day - 1) / 7 + 1, 1),
            Field::IsoWeek => number(iso_week, 2),
            Field::Hour24 => number(hour, 2),
            Field::Hour12 => number((hour + 11) % 12 + 1, 2),
            Field::Minute => number(second / 60 % 60, 2),
            Field::Second => number(second % 60, 2),
            Field::SecondOfDay => number(second, 0),
            Field::Milli => number(fraction / 1_000, 3),
            Field::Micro => number(fraction, 6),
            Field::Fraction(n) => number(fraction / 10i64.pow(6 - n as u32), n),
            Field::Julian => number(i64::from(self.date.0) + 2_440_588, 0),
            Field::MonthName(case) | Field::DayName(case) => {
                let name =
                    cased(if matches!(field, Field::MonthName(_)) { month } else { day }, case);
                let width = if trimmed { 0 } else { 9 };
                let _written = write!(out, "{name:width$}");
            }
            Field::MonthShort(case) => out.push_str(&cased(short(month), case)),
            Field::DayShort(case) => out.push_str(&cased(short(day), case)),
            Field::Half { dots, case } => out.push_str(&cased(&dotted(half, dots), case)),
            Field::Era { dots, case } => out.push_str(&cased(&dotted(era, dots), case)),
            Field::Zone(case) if zoned => out.push_str(&cased("UTC", case)),
            Field::Zone(_) => {}
            Field::Offset => out.push_str("+00"),
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Found {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    of_year: Option<i64>,
    hour: i64,
    half: Option<bool>,
    twelve: bool,
    micros: i64,
}

fn invalid() -> Fail {
    Fail::text("the text does not follow the template")
}

impl Template {
    /// Whether texts can be read by it; `Err` says what stands in the way.
    pub fn readable(&self) -> Result<(), String> {
        let known = |field: &Field| {
            matches!(
                field,
                Field::Year(_)
                    | Field::Month
                    | Field::MonthName(_)
                    | Field::MonthShort(_)
                    | Field::Day
                    | Field::DayOfYear
                    | Field::Hour24
                    | Field::Hour12
                    | Field::Minute
                    | Field::Second
                    | Field::Milli
                    | Field::Micro
                    | Field::Half { .. }
            )
        };
        let refused = |item: &Item| match item {
            Item::Field { field, ordinal, .. } => !known(field) || ordinal.is_some(),
            Item::Literal(_) => false,
        };
        match self.0.iter().any(refused) {
            true => Err("the template has a pattern that can only be written; YYYY YY MM MON MONTH DD DDD HH24 HH12 MI SS MS US AM can be read".to_owned()),
            false => Ok(()),
        }
    }

    /// The moment that a text tells by this template.
    pub fn read(&self, text: &str) -> Result<i64, Fail> {
        let mut found = Found::default();
        let mut rest = text;
        for (at, item) in self.0.iter().enumerate() {
            match item {
                Item::Literal(c) => {
                    let separator = |c: char| !c.is_alphanumeric();
                    // One sign between parts may stand for another.
                    if separator(*c) {
                        rest = rest.trim_start();
                        if rest.starts_with(separator) && !rest.starts_with(['+', '-'])
                            || rest.starts_with(*c)
                        {
                            rest = rest
                                .get(rest.chars().next().map_or(0, char::len_utf8)..)
                                .unwrap_or("");
                        } else if rest.starts_with('-') && *c != '+' {
                            rest = rest.get(1..).unwrap_or("");
                        }
                    } else {
                        rest = rest.strip_prefix(*c).ok_or_else(invalid)?;
                    }
                }
                Item::Field { field, .. } => {
                    // Digits that follow at once belong to the next field.
                    let joined = matches!(self.0.get(at + 1), Some(Item::Field { .. }));
                    rest = found.read(*field, rest.trim_start(), joined)?;
                }
            }
        }
        if !rest.trim().is_empty() {
            return Err(invalid());
        }
        found.moment()
    }
}

impl Found {
    fn read<'t>(&mut self, field: Field, text: &'t str, joined: bool) -> Result<&'t str, Fail> {
        let number = |most: usize| -> Result<(i64, usize, &'t str), Fail> {
            let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
            let (number, rest) = text.split_at_checked(digits).ok_or_else(invalid)?;
            Ok((number.parse().map_err(|_| invalid())?, digits, rest))
        };
        let name = |names: &[&'static str], whole: bool| -> Result<(i64, &'t str), Fail> {
            names
                .iter()
                .enumerate()
                .find_map(|(at, name)| {
                    let name = if whole { name } else { name.get(..3)? };
                    let start = text.get(..name.len())?;
                    start
                        .eq_ignore_ascii_case(name)
                        .then(|| (at as i64 + 1, text.get(name.len()..).unwrap_or("")))
                })
                .ok_or_else(invalid)
        };
        let (slot, (value, rest)) = match field {
            Field::Year(4) => {
                let (year, _, rest) = number(if joined { 4 } else { 6 })?;
                (&mut self.year, (year, rest))
            }
            Field::Year(n) => {
                let (year, digits, rest) = number(if joined { n as usize } else { 6 })?;
                // The year nearest to 2020 that ends so.
                let century = match (digits, year) {
                    (4.., _) => 0,
                    (_, ..70 | 100..520) => 2_000,
                    (_, 70..100) => 1_900,
                    (_, 520..1_000) => 1_000,
                    _ => 0,
                };
                (&mut self.year, (year + century, rest))
            }
            Field::Month => {
                let (month, _, rest) = number(2)?;
                (&mut self.month, (month, rest))
            }
            Field::MonthName(_) => (&mut self.month, name(&MONTHS, true)?),
            Field::MonthShort(_) => (&mut self.month, name(&MONTHS, false)?),
            Field::Day => {
                let (day, _, rest) = number(2)?;
                (&mut self.day, (day, rest))
            }
            Field::DayOfYear => {
                let (day, _, rest) = number(3)?;
                (&mut self.of_year, (day, rest))
            }
            Field::Hour24 | Field::Hour12 => {
                let (hour, _, rest) = number(2)?;
                self.twelve = field == Field::Hour12;
                if hour > 23 || (self.twelve && !(1..=12).contains(&hour)) {
                    return Err(invalid());
                }
                self.hour = hour;
                return Ok(rest);
            }
            Field::Minute | Field::Second => {
                let (count, _, rest) = number(2)?;
                if count > 59 {
                    return Err(invalid());
                }
                self.micros += count * if field == Field::Minute { 60 * MICROS } else { MICROS };
                return Ok(rest);
            }
            Field::Milli | Field::Micro => {
                let most = if field == Field::Milli { 3 } else { 6 };
                let (count, digits, rest) = number(most)?;
                self.micros += count * 10i64.pow(6 - digits as u32);
                return Ok(rest);
            }
            Field::Half { dots, .. } => {
                let length = if dots { 4 } else { 2 };
                let word = text.get(..length).ok_or_else(invalid)?.to_ascii_lowercase();
                self.half = Some(match word.chars().next() {
                    Some('a') => false,
                    Some('p') => true,
                    _ => return Err(invalid()),
                });
                return Ok(text.get(length..).unwrap_or(""));
            }
            _ => return Err(Fail::argument("the template has a pattern that cannot be read")),
        };
        *slot = Some(value);
        Ok(rest)
    }

    fn moment(self) -> Result<i64, Fail> {
        let out_of_range = || Fail::range("there is no such date");
        let year = i32::try_from(self.year.unwrap_or(1)).map_err(|_| out_of_range())?;
        let part =
            |value: Option<i64>| u32::try_from(value.unwrap_or(1)).map_err(|_| out_of_range());
        let date =
            Date::from_ymd(year, part(self.month)?, part(self.day)?).ok_or_else(out_of_range)?;
        let date = match self.of_year {
            Some(day) => {
                let first = Date::from_ymd(year, 1, 1).ok_or_else(out_of_range)?;
                let date = Date(day_in_range(i64::from(first.0) + day - 1)?);
                // There is no day 366 in most years, and no day 0 in any.
                if date.to_ymd().0 != year {
                    return Err(out_of_range());
                }
                date
            }
            None => date,
        };
        let hour = match self.half {
            Some(afternoon) => self.hour % 12 + if afternoon { 12 } else { 0 },
            None => self.hour,
        };
        in_range(i64::from(date.0) * DAY_MICROS + hour * 3_600 * MICROS + self.micros)
    }
}
