//! Templates of numbers: `FM999,990.00`.

use crate::expr::cell::Cell;
use crate::expr::decimal::Dec;
use crate::expr::error::Fail;

#[derive(Debug, Clone, PartialEq)]
enum Item {
    /// `9` or `0`.
    Digit {
        zero: bool,
    },
    /// `.` or `D`.
    Point,
    /// `,` or `G`.
    Group,
    /// `MI`: a minus or a blank.
    Minus,
    Literal(String),
}

/// Where the sign stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    /// A minus or a blank before the first digit.
    Usual,
    /// `S` before the digits, or behind.
    Before,
    After,
    /// `PR`: angle brackets around negative ones.
    Brackets,
    /// `MI` has it.
    Elsewhere,
}

/// A template of numbers.
#[derive(Debug)]
pub struct Digits {
    items: Vec<Item>,
    sign: Sign,
    /// `FM`: no blanks, no zeros at the end that are not asked for.
    trimmed: bool,
    before: usize,
    behind: usize,
    /// The first place before the point that is a zero rather than a blank, and the last behind it that stays.
    zero_from: Option<usize>,
    zero_to: usize,
}

impl Digits {
    pub fn parse(template: &str) -> Result<Digits, String> {
        let mut digits = Digits {
            items: Vec::new(),
            sign: Sign::Usual,
            trimmed: false,
            before: 0,
            behind: 0,
            zero_from: None,
            zero_to: 0,
        };
        let mut point = false;
        let mut rest = template;
        while let Some(c) = rest.chars().next() {
            let upper: String = rest.chars().take(4).collect::<String>().to_ascii_uppercase();
            let word = |word: &str| upper.starts_with(word);
            let mut taken = c.len_utf8();
            if word("FM") {
                digits.trimmed = true;
                taken = 2;
            } else if word("MI") {
                digits.items.push(Item::Minus);
                digits.sign = Sign::Elsewhere;
                taken = 2;
            } else if word("PR") {
                digits.sign = Sign::Brackets;
                taken = 2;
            } else if word("EEEE")
                || word("RN")
                || word("TH")
                || word("PL")
                || word("SG")
                || word("V")
                || word("L")
            {
                return Err(format!(
                    "the number template has {c}…, which is not supported (9 0 . , D G S MI PR FM are)"
                ));
            } else {
                match c.to_ascii_uppercase() {
                    '9' | '0' => {
                        let zero = c == '0';
                        if point {
                            digits.behind += 1;
                            if zero {
                                digits.zero_to = digits.behind;
                            }
                        } else {
                            if zero && digits.zero_from.is_none() {
                                digits.zero_from = Some(digits.before);
                            }
                            digits.before += 1;
                        }
                        digits.items.push(Item::Digit { zero });
                    }
                    '.' | 'D' if point => {
                        return Err("the number template has two points".to_owned());
                    }
                    '.' | 'D' => {
                        point = true;
                        digits.items.push(Item::Point);
                    }
                    ',' | 'G' => digits.items.push(Item::Group),
                    'S' => {
                        digits.sign = if digits.before + digits.behind == 0 {
                            Sign::Before
                        } else {
                            Sign::After
                        }
                    }
                    '"' => {
                        let inner = rest.get(1..).unwrap_or("");
                        let end = inner
                            .find('"')
                            .ok_or("the number template has a quote that does not end")?;
                        digits.items.push(Item::Literal(inner.get(..end).unwrap_or("").to_owned()));
                        taken = end + 2;
                    }
                    _ => digits.items.push(Item::Literal(c.to_string())),
                }
            }
            rest = rest.get(taken..).unwrap_or("");
        }
        if digits.before == 0 {
            return Err("the number template has no digit before the point".to_owned());
        }
        Ok(digits)
    }

    pub fn write(&self, cell: &Cell<'_>) -> Result<String, Fail> {
        let infinite = || Fail::argument("only finite numbers can be written by a template");
        // A float is written from its exact binary value, with no more digits than it is precise.
        let float = match cell {
            Cell::Real(f) => Some((f64::from(*f), 6)),
            Cell::Double(f) => Some((*f, 15)),
            _ => None,
        };
        let (text, negative, behind) = match float {
            Some((f, digits)) if f.is_finite() => {
                let whole = format!("{:.0}", f.abs()).len();
                let behind = self.behind.min(usize::saturating_sub(digits, whole));
                // It keeps its sign although it is rounded to zero.
                (format!("{:.behind$}", f.abs()), f.is_sign_negative(), behind)
            }
            Some(_) => return Err(infinite()),
            None => {
                let number = cell.dec().filter(Dec::is_finite).ok_or_else(infinite)?;
                let rounded = number.round(self.behind as i64)?;
                let negative = rounded.signum() < 0;
                (rounded.abs().text().to_string(), negative, self.behind)
            }
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let fits = whole.len() <= self.before;
        let whole: Vec<char> = if fits { whole.chars().collect() } else { vec!['#'; self.before] };
        let fraction: Vec<char> = if fits { fraction.chars().collect() } else { vec!['#'; behind] };
        // Where a float is not precise enough for any digit behind it, the point goes too.
        let pointed = !fits || behind > 0 || self.behind == 0;
        Ok(self.lay_out(&whole, &fraction, negative, pointed))
    }

    fn lay_out(&self, whole: &[char], fraction: &[char], negative: bool, pointed: bool) -> String {
        let blanks = self.before - whole.len();
        let first = self.zero_from.map_or(blanks, |zero| zero.min(blanks));
        // With FM zeros at the end go, except those that a 0 asks for.
        let significant = fraction.iter().rposition(|c| *c != '0').map_or(0, |at| at + 1);
        let shown = if self.trimmed { significant.max(self.zero_to) } else { fraction.len() };
        // A lone zero before the point is left away, unless nothing would be left.
        let lone = whole == ['0'] && self.zero_from.is_none() && self.behind > 0;
        let hidden = lone && !(self.trimmed && shown == 0);
        let mut out = String::new();
        let mut signed = self.sign == Sign::Elsewhere || self.sign == Sign::After;
        let (mut place, mut behind, mut point) = (0, 0, false);
        let mut begun = false;
        let sign = |out: &mut String| match (self.sign, negative) {
            (Sign::Before, true) | (Sign::Usual, true) => out.push('-'),
            (Sign::Before, false) => out.push('+'),
            (Sign::Brackets, true) => out.push('<'),
            (Sign::Usual | Sign::Brackets, false) if self.trimmed => {}
            (Sign::Usual | Sign::Brackets, false) => out.push(' '),
            (Sign::After | Sign::Elsewhere, _) => {}
        };
        for item in &self.items {
            match item {
                Item::Digit { .. } if !point => {
                    let blank = place < first || (hidden && place == self.before - 1);
                    if !blank && !signed {
                        sign(&mut out);
                        signed = true;
                    }
                    if blank {
                        if !self.trimmed {
                            out.push(' ');
                        }
                    } else {
                        out.push(
                            place
                                .checked_sub(blanks)
                                .and_then(|at| whole.get(at))
                                .copied()
                                .unwrap_or('0'),
                        );
                        begun = true;
                    }
                    place += 1;
                }
                Item::Digit { .. } => {
                    if behind < shown {
                        out.extend(fraction.get(behind));
                    }
                    behind += 1;
                }
                Item::Point => {
                    if !signed {
                        sign(&mut out);
                        signed = true;
                    }
                    point = true;
                    out.push_str(if pointed { "." } else { "" });
                }
                Item::Group if begun => out.push(','),
                Item::Group if self.trimmed => {}
                Item::Group => out.push(' '),
                Item::Minus if negative => out.push('-'),
                Item::Minus if self.trimmed => {}
                Item::Minus => out.push(' '),
                Item::Literal(text) => out.push_str(text),
            }
        }
        match (self.sign, negative) {
            (Sign::After, true) => out.push('-'),
            (Sign::After, false) => out.push('+'),
            (Sign::Brackets, true) => out.push('>'),
            (Sign::Brackets, false) if !self.trimmed => out.push(' '),
            _ => {}
        }
        out
    }
}
