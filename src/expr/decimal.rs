//! Exact numbers with the rules of PostgreSQL's `numeric`.
//!
//! A number is an integer and a count of digits behind the point. Nearly all numbers of business fit 128 bits and are
//! computed there; what does not fit goes on in an integer of any size. Nothing passes through a float.

use std::cmp::Ordering;
use std::fmt::Write;

use num_bigint::{BigInt, Sign};
use tidelock_core::ByteString;

/// Digits behind the point that a division gives at least in significant digits, and at most at all.
const SIGNIFICANT_MIN: i64 = 16;
const SCALE_MAX: i64 = 1_000;
/// Digits before and after the point that PostgreSQL keeps.
const WHOLE_MAX: i64 = 131_072;
const FRACTION_MAX: u32 = 16_383;

/// An exact number, or one of the three that are none.
#[derive(Debug, Clone, PartialEq)]
pub enum Dec {
    /// `m / 10^s`.
    Small {
        m: i128,
        s: u32,
    },
    /// The same, larger than 128 bits.
    Big(Box<(BigInt, u32)>),
    NaN,
    Inf,
    NegInf,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecFault {
    DivisionByZero,
    OutOfRange,
}

type Result<T = Dec> = std::result::Result<T, DecFault>;

fn power(n: u32) -> Option<i128> {
    10i128.checked_pow(n)
}

fn big_power(n: u32) -> BigInt {
    BigInt::from(10u8).pow(n)
}

/// The quotient rounded half away from zero.
fn round_div(m: i128, by: i128) -> i128 {
    let (q, r) = (m / by, (m % by).abs());
    if r >= by - r { q + m.signum() } else { q }
}

fn big_round_div(m: &BigInt, by: &BigInt) -> BigInt {
    let q = m / by;
    let twice: BigInt = (m % by) * 2;
    if twice.magnitude() >= by.magnitude() {
        let away: i8 = if (m.sign() == Sign::Minus) == (by.sign() == Sign::Minus) { 1 } else { -1 };
        q + away
    } else {
        q
    }
}

impl From<i64> for Dec {
    fn from(i: i64) -> Dec {
        Dec::Small { m: i128::from(i), s: 0 }
    }
}

impl From<u64> for Dec {
    fn from(u: u64) -> Dec {
        Dec::Small { m: i128::from(u), s: 0 }
    }
}

impl Dec {
    pub const ZERO: Dec = Dec::Small { m: 0, s: 0 };

    fn big(m: BigInt, s: u32) -> Dec {
        match i128::try_from(&m) {
            Ok(m) => Dec::Small { m, s },
            Err(_) => Dec::Big(Box::new((m, s))),
        }
    }

    /// Mantissa and scale in the larger form; `None` for what is no number.
    fn parts(&self) -> Option<(BigInt, u32)> {
        match self {
            Dec::Small { m, s } => Some((BigInt::from(*m), *s)),
            Dec::Big(b) => Some((b.0.clone(), b.1)),
            Dec::NaN | Dec::Inf | Dec::NegInf => None,
        }
    }

    /// A text in plain notation, with an exponent too, or one of `NaN`, `Infinity`, `inf` in any case.
    pub fn parse(text: &str) -> Option<Dec> {
        let bytes = text.as_bytes();
        let (negative, start) = match bytes.first()? {
            b'-' => (true, 1),
            b'+' => (false, 1),
            _ => (false, 0),
        };
        let (mut m, mut scale, mut digits, mut point, mut at) = (0i128, 0u32, 0u32, false, start);
        let (mut overflow, mut short) = (false, 0u64);
        while let Some(byte) = bytes.get(at) {
            match byte {
                // So many digits fit 64 bits.
                b'0'..=b'9' if digits < 18 => {
                    short = short * 10 + u64::from(byte - b'0');
                    m = i128::from(short);
                    digits += 1;
                    scale += u32::from(point);
                }
                b'0'..=b'9' => {
                    match m.checked_mul(10).and_then(|m| m.checked_add(i128::from(byte - b'0'))) {
                        Some(next) => m = next,
                        None => overflow = true,
                    }
                    digits += 1;
                    scale += u32::from(point);
                }
                b'.' if !point => point = true,
                b'e' | b'E' if digits > 0 => break,
                _ => return Dec::parse_word(text, start, negative),
            }
            at += 1;
        }
        if digits == 0 {
            return None;
        }
        let exponent: i64 = match text.get(at..) {
            Some("") | None => 0,
            Some(rest) => {
                let rest = rest.get(1..)?;
                let plain = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                rest.parse().ok()?
            }
        };
        let value = if overflow {
            let plain: Vec<u8> =
                bytes.get(start..at)?.iter().copied().filter(u8::is_ascii_digit).collect();
            let m = BigInt::parse_bytes(&plain, 10)?;
            Dec::big(if negative { -m } else { m }, scale)
        } else {
            Dec::Small { m: if negative { -m } else { m }, s: scale }
        };
        if exponent == 0 { Some(value) } else { value.shifted(exponent) }
    }

    fn parse_word(text: &str, start: usize, negative: bool) -> Option<Dec> {
        let word = text.get(start..)?;
        if word.eq_ignore_ascii_case("nan") {
            return (start == 0).then_some(Dec::NaN);
        }
        let infinite = word.eq_ignore_ascii_case("infinity") || word.eq_ignore_ascii_case("inf");
        infinite.then_some(if negative { Dec::NegInf } else { Dec::Inf })
    }

    /// Times ten to a power, as an exponent in a text means it.
    fn shifted(self, exponent: i64) -> Option<Dec> {
        let (m, s) = self.parts()?;
        let scale = i64::from(s) - exponent;
        if scale >= 0 {
            let scale = u32::try_from(scale).ok().filter(|s| *s <= FRACTION_MAX)?;
            return Some(Dec::big(m, scale));
        }
        if -scale > WHOLE_MAX {
            return None;
        }
        Some(Dec::big(m * big_power(u32::try_from(-scale).ok()?), 0))
    }

    /// The canonical text.
    pub fn text(&self) -> ByteString {
        match self {
            Dec::Small { m, s } => {
                let digits = m.unsigned_abs();
                let sign = if *m < 0 { "-" } else { "" };
                // Most numbers fit 64 bits, where division is cheap.
                if let (Ok(digits), Some(unit)) = (u64::try_from(digits), 10u64.checked_pow(*s)) {
                    let mut out = String::with_capacity(24);
                    // Writing to a String cannot fail.
                    let _whole = write!(out, "{sign}{}", digits / unit);
                    if *s > 0 {
                        let _rest = write!(out, ".{:0width$}", digits % unit, width = *s as usize);
                    }
                    return out.into();
                }
                match 10u128.checked_pow(*s) {
                    _ if *s == 0 => format!("{sign}{digits}").into(),
                    Some(unit) => format!(
                        "{sign}{}.{:0width$}",
                        digits / unit,
                        digits % unit,
                        width = *s as usize
                    )
                    .into(),
                    None => plain(sign, &digits.to_string(), *s).into(),
                }
            }
            Dec::Big(b) => {
                let sign = if b.0.sign() == Sign::Minus { "-" } else { "" };
                plain(sign, &b.0.magnitude().to_string(), b.1).into()
            }
            Dec::NaN => ByteString::from_static("NaN"),
            Dec::Inf => ByteString::from_static("Infinity"),
            Dec::NegInf => ByteString::from_static("-Infinity"),
        }
    }

    /// Digits behind the point.
    pub fn scale(&self) -> u32 {
        match self {
            Dec::Small { s, .. } => *s,
            Dec::Big(b) => b.1,
            Dec::NaN | Dec::Inf | Dec::NegInf => 0,
        }
    }

    pub fn is_finite(&self) -> bool {
        matches!(self, Dec::Small { .. } | Dec::Big(_))
    }

    /// -1, 0, 1; NaN counts as positive, being the greatest.
    pub fn signum(&self) -> i8 {
        match self {
            Dec::Small { m, .. } => m.signum() as i8,
            Dec::Big(b) if b.0.sign() == Sign::Minus => -1,
            Dec::NegInf => -1,
            Dec::Big(_) | Dec::Inf | Dec::NaN => 1,
        }
    }

    pub fn negated(self) -> Dec {
        match self {
            Dec::Small { m, s } => match m.checked_neg() {
                Some(m) => Dec::Small { m, s },
                None => Dec::big(-BigInt::from(m), s),
            },
            Dec::Big(b) => Dec::big(-b.0, b.1),
            Dec::NaN => Dec::NaN,
            Dec::Inf => Dec::NegInf,
            Dec::NegInf => Dec::Inf,
        }
    }

    pub fn abs(self) -> Dec {
        if self.signum() < 0 { self.negated() } else { self }
    }

    fn checked(self) -> Result {
        match &self {
            Dec::Big(b)
                if b.0.bits() as f64 * std::f64::consts::LOG10_2 - f64::from(b.1)
                    > WHOLE_MAX as f64 =>
            {
                Err(DecFault::OutOfRange)
            }
            _ => Ok(self),
        }
    }

    pub fn add(&self, other: &Dec) -> Result {
        if let (Dec::Small { m: a, s: sa }, Dec::Small { m: b, s: sb }) = (self, other) {
            let s = (*sa).max(*sb);
            let scaled = |m: i128, from: u32| {
                if from == s { Some(m) } else { power(s - from)?.checked_mul(m) }
            };
            if let (Some(a), Some(b)) = (scaled(*a, *sa), scaled(*b, *sb))
                && let Some(m) = a.checked_add(b)
            {
                return Ok(Dec::Small { m, s });
            }
        }
        match (self, other) {
            (Dec::NaN, _) | (_, Dec::NaN) | (Dec::Inf, Dec::NegInf) | (Dec::NegInf, Dec::Inf) => {
                Ok(Dec::NaN)
            }
            (Dec::Inf, _) | (_, Dec::Inf) => Ok(Dec::Inf),
            (Dec::NegInf, _) | (_, Dec::NegInf) => Ok(Dec::NegInf),
            _ => {
                let (a, b, s) = self.aligned(other).ok_or(DecFault::OutOfRange)?;
                Dec::big(a + b, s).checked()
            }
        }
    }

    pub fn sub(&self, other: &Dec) -> Result {
        self.add(&other.clone().negated())
    }

    pub fn mul(&self, other: &Dec) -> Result {
        if let (Dec::Small { m: a, s: sa }, Dec::Small { m: b, s: sb }) = (self, other)
            && let Some(m) = a.checked_mul(*b)
            && sa + sb <= FRACTION_MAX
        {
            return Ok(Dec::Small { m, s: sa + sb });
        }
        match (self.parts(), other.parts()) {
            (Some((a, sa)), Some((b, sb))) => {
                let product = Dec::big(a * b, sa + sb);
                if sa + sb > FRACTION_MAX {
                    product.round(i64::from(FRACTION_MAX))
                } else {
                    product.checked()
                }
            }
            _ if matches!(self, Dec::NaN) || matches!(other, Dec::NaN) => Ok(Dec::NaN),
            _ => Ok(match self.signum() * other.signum() {
                0 => Dec::NaN,
                1 => Dec::Inf,
                _ => Dec::NegInf,
            }),
        }
    }

    /// The power of 10,000 of the first digit of that base, and that digit: what PostgreSQL chooses the scale of a
    /// quotient by.
    fn leading(m: &BigInt, s: u32) -> (i64, u32) {
        if m.sign() == Sign::NoSign {
            return (0, 0);
        }
        let digits = m.magnitude().to_string();
        let top = digits.len() as i64 - 1 - i64::from(s);
        let weight = top.div_euclid(4);
        let count = usize::try_from(top.rem_euclid(4) + 1).unwrap_or(1);
        let first = digits.get(..count.min(digits.len())).unwrap_or("0");
        (weight, format!("{first:0<count$}").parse().unwrap_or(0))
    }

    pub fn div(&self, other: &Dec) -> Result {
        if matches!(self, Dec::NaN) || matches!(other, Dec::NaN) {
            return Ok(Dec::NaN);
        }
        if other.signum() == 0 {
            return Err(DecFault::DivisionByZero);
        }
        let (Some((a, sa)), Some((b, sb))) = (self.parts(), other.parts()) else {
            return Ok(match (self.is_finite(), other.is_finite()) {
                (false, false) => Dec::NaN,
                (true, _) => Dec::ZERO,
                (false, true) if self.signum() * other.signum() > 0 => Dec::Inf,
                (false, true) => Dec::NegInf,
            });
        };
        let ((wa, da), (wb, db)) = (Dec::leading(&a, sa), Dec::leading(&b, sb));
        let weight = wa - wb - i64::from(da <= db);
        let scale = (SIGNIFICANT_MIN - weight * 4)
            .max(i64::from(sa))
            .max(i64::from(sb))
            .clamp(0, SCALE_MAX);
        let scale = u32::try_from(scale).map_err(|_| DecFault::OutOfRange)?;
        // a / 10^sa / (b / 10^sb) * 10^scale
        let up = i64::from(scale) + i64::from(sb) - i64::from(sa);
        let q = match u32::try_from(up) {
            Ok(up) => big_round_div(&(a * big_power(up)), &b),
            Err(_) => big_round_div(&a, &(b * big_power(u32::try_from(-up).unwrap_or(0)))),
        };
        Dec::big(q, scale).checked()
    }

    pub fn rem(&self, other: &Dec) -> Result {
        match (self, other) {
            (Dec::NaN, _) | (_, Dec::NaN) => return Ok(Dec::NaN),
            (_, b) if b.signum() == 0 => return Err(DecFault::DivisionByZero),
            (Dec::Inf | Dec::NegInf, _) => return Ok(Dec::NaN),
            (a, Dec::Inf | Dec::NegInf) => return Ok(a.clone()),
            _ => {}
        }
        let (a, b, s) = self.aligned(other).ok_or(DecFault::OutOfRange)?;
        Ok(Dec::big(a % b, s))
    }

    fn aligned(&self, other: &Dec) -> Option<(BigInt, BigInt, u32)> {
        let ((a, sa), (b, sb)) = (self.parts()?, other.parts()?);
        let s = sa.max(sb);
        Some((a * big_power(s - sa), b * big_power(s - sb), s))
    }

    /// NaN is equal to itself and greater than all.
    pub fn compare(&self, other: &Dec) -> Ordering {
        if let (Dec::Small { m: a, s: sa }, Dec::Small { m: b, s: sb }) = (self, other) {
            if sa == sb {
                return a.cmp(b);
            }
            let s = (*sa).max(*sb);
            let scaled = |m: i128, from: u32| power(s - from)?.checked_mul(m);
            if let (Some(a), Some(b)) = (scaled(*a, *sa), scaled(*b, *sb)) {
                return a.cmp(&b);
            }
        }
        let rank = |d: &Dec| match d {
            Dec::NegInf => 0,
            Dec::Small { .. } | Dec::Big(_) => 1,
            Dec::Inf => 2,
            Dec::NaN => 3,
        };
        match self.aligned(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => rank(self).cmp(&rank(other)),
        }
    }

    /// Takes digits away behind place `n` (before the point if negative), or adds zeros; `whole` decides what
    /// becomes of the digits taken away.
    fn cut(self, n: i64, whole: fn(&BigInt, &BigInt) -> BigInt) -> Result {
        let n = n.clamp(-WHOLE_MAX, i64::from(FRACTION_MAX));
        let Some((m, s)) = self.parts() else { return Ok(self) };
        let away = i64::from(s) - n;
        if away <= 0 {
            let up = u32::try_from(-away).map_err(|_| DecFault::OutOfRange)?;
            return Dec::big(m * big_power(up), s + up).checked();
        }
        let unit = big_power(u32::try_from(away).map_err(|_| DecFault::OutOfRange)?);
        let q = whole(&m, &unit);
        match u32::try_from(n) {
            Ok(n) => Ok(Dec::big(q, n)),
            Err(_) => Ok(Dec::big(q * big_power(u32::try_from(-n).unwrap_or(0)), 0)),
        }
    }

    /// Half away from zero, to `n` digits behind the point.
    pub fn round(self, n: i64) -> Result {
        if let Dec::Small { m, s } = self
            && let Ok(n) = u32::try_from(n)
        {
            if n == s {
                return Ok(self);
            }
            if n < s
                && let Some(unit) = power(s - n)
            {
                return Ok(Dec::Small { m: round_div(m, unit), s: n });
            }
            if n > s
                && let Some(m) = power(n - s).and_then(|unit| m.checked_mul(unit))
                && n <= FRACTION_MAX
            {
                return Ok(Dec::Small { m, s: n });
            }
        }
        self.cut(n, big_round_div)
    }

    /// Towards zero.
    pub fn trunc(self, n: i64) -> Result {
        self.cut(n, |m, unit| m / unit)
    }

    pub fn floor(self) -> Result {
        self.cut(0, |m, unit| {
            let q = m / unit;
            if m.sign() == Sign::Minus && (m % unit).sign() != Sign::NoSign { q - 1 } else { q }
        })
        .map(Dec::whole)
    }

    pub fn ceil(self) -> Result {
        self.negated().floor().map(Dec::negated)
    }

    fn whole(self) -> Dec {
        match self {
            Dec::Small { m, .. } => Dec::Small { m, s: 0 },
            other => other,
        }
    }

    pub fn sqrt(&self) -> Result {
        let Some((m, s)) = self.parts() else { return Ok(self.clone()) };
        let (weight, _) = Dec::leading(&m, s);
        let digits = (weight + 1) * 4 / 2 - 1;
        let scale = (SIGNIFICANT_MIN - digits).max(i64::from(s)).clamp(0, SCALE_MAX);
        let scale = u32::try_from(scale).map_err(|_| DecFault::OutOfRange)?;
        // One digit more than asked for, so that it can be rounded.
        let up = 2 * (scale + 1) - s.min(2 * (scale + 1));
        Dec::big((m * big_power(up)).sqrt(), scale + 1).round(i64::from(scale))
    }

    pub fn to_f64(&self) -> f64 {
        match self {
            // Both exact in double precision, so the quotient is rounded once.
            Dec::Small { m, s } if m.unsigned_abs() < 1 << 53 && *s <= 22 => {
                *m as f64 / 10f64.powi(*s as i32)
            }
            Dec::NaN => f64::NAN,
            Dec::Inf => f64::INFINITY,
            Dec::NegInf => f64::NEG_INFINITY,
            Dec::Small { .. } | Dec::Big(_) => self.text().parse().unwrap_or(f64::NAN),
        }
    }

    /// With so many significant digits: 15 for double precision, 6 for single.
    pub fn from_f64(value: f64, digits: usize) -> Option<Dec> {
        if value.is_nan() {
            return Some(Dec::NaN);
        }
        if value.is_infinite() {
            return Some(if value > 0.0 { Dec::Inf } else { Dec::NegInf });
        }
        let text = format!("{value:.width$e}", width = digits.saturating_sub(1));
        let (mantissa, exponent) = text.split_once('e')?;
        let mantissa = if mantissa.contains('.') {
            mantissa.trim_end_matches('0').trim_end_matches('.')
        } else {
            mantissa
        };
        Dec::parse(mantissa)?.shifted(exponent.parse().ok()?)
    }

    /// Rounded half away from zero; `None` if it is out of range or no number.
    pub fn to_i64(&self) -> Option<i64> {
        match self.clone().round(0) {
            Ok(Dec::Small { m, .. }) => i64::try_from(m).ok(),
            _ => None,
        }
    }

    /// As `numeric(precision, scale)` takes it: rounded, and refused if too large.
    pub fn fitted(self, precision: u16, scale: u16) -> Result {
        match self {
            Dec::NaN => return Ok(Dec::NaN),
            Dec::Inf | Dec::NegInf => return Err(DecFault::OutOfRange),
            Dec::Small { .. } | Dec::Big(_) => {}
        }
        let rounded = self.round(i64::from(scale))?;
        let bound = Dec::big(big_power(u32::from(precision)), u32::from(scale));
        if rounded.clone().abs().compare(&bound) == Ordering::Less {
            Ok(rounded)
        } else {
            Err(DecFault::OutOfRange)
        }
    }
}

/// Digits with the point put in.
fn plain(sign: &str, digits: &str, scale: u32) -> String {
    let scale = scale as usize;
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at_checked(digits.len() - scale).unwrap_or((&digits, ""));
    format!("{sign}{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dec(text: &str) -> Dec {
        Dec::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn quotients_have_the_digits_that_postgresql_gives_them() {
        for (a, b, q) in [
            ("1", "3", "0.33333333333333333333"),
            ("10", "3", "3.3333333333333333"),
            ("2", "3", "0.66666666666666666667"),
            ("1.00", "1", "1.00000000000000000000"),
            ("100000", "3", "33333.333333333333"),
            ("-7", "2.5", "-2.8000000000000000"),
            ("0", "5", "0.00000000000000000000"),
            ("1e40", "7", "1428571428571428571428571428571428571429"),
        ] {
            assert_eq!(
                dec(a).div(&dec(b)).map(|q| q.text().to_string()),
                Ok(q.to_owned()),
                "{a}/{b}"
            );
        }
        assert_eq!(dec("1").div(&dec("0.00")), Err(DecFault::DivisionByZero));
    }

    #[test]
    fn rounding_goes_half_away_from_zero() {
        for (a, n, r) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("1.005", 2, "1.01"),
            ("1.5", 3, "1.500"),
            ("1450", -2, "1500"),
            ("-1450", -2, "-1500"),
            ("49", -2, "0"),
            (
                "99999999999999999999999999999999999999999.5",
                0,
                "100000000000000000000000000000000000000000",
            ),
        ] {
            assert_eq!(dec(a).round(n).map(|q| q.text().to_string()), Ok(r.to_owned()), "{a}");
        }
        assert_eq!(dec("-1.5").floor().map(|q| q.text().to_string()), Ok("-2".to_owned()));
        assert_eq!(dec("-1.5").ceil().map(|q| q.text().to_string()), Ok("-1".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn sums_and_products_agree_whatever_form_they_are_computed_in(
            a: i128, sa in 0u32..40, b: i128, sb in 0u32..40,
        ) {
            let (x, y) = (Dec::Small { m: a, s: sa }, Dec::Small { m: b, s: sb });
            let s = sa.max(sb);
            let (bx, by) = (BigInt::from(a) * big_power(s - sa), BigInt::from(b) * big_power(s - sb));
            proptest::prop_assert_eq!(x.add(&y), Ok(Dec::big(&bx + &by, s)));
            proptest::prop_assert_eq!(x.compare(&y), bx.cmp(&by));
            proptest::prop_assert_eq!(x.mul(&y), Ok(Dec::big(BigInt::from(a) * b, sa + sb)));
            proptest::prop_assert_eq!(Dec::parse(&x.text()), Some(x));
        }
    }
}
