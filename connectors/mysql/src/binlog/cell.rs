//! One cell of a row image, by type.

use std::net::{Ipv4Addr, Ipv6Addr};

use tidelock_core::value::{Date, Instant, Time, Timestamp, Value};
use tidelock_core::{ByteString, Bytes};

use super::arena::Arena;
use super::{Buf, Damage, Decoded, jsonb};
use crate::charset::Charset;

/// How the bytes of a column are read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Length prefix of so many bytes, then text.
    Text {
        prefix: u8,
        charset: Charset,
    },
    Json {
        prefix: u8,
        charset: Charset,
    },
    /// Length prefix, then bytes, filled up with zeros that the server cut off.
    Bytes {
        prefix: u8,
        pad: usize,
    },
    Uuid {
        prefix: u8,
    },
    Jsonb {
        prefix: u8,
    },
    OldDate,
    OldTime,
    OldDateTime,
    OldTimestamp,
    Time {
        fsp: u8,
    },
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    Enum {
        bytes: u8,
        labels: Vec<ByteString>,
    },
    Set {
        bytes: u8,
        labels: Vec<ByteString>,
    },
    Bits {
        bytes: u8,
        length: u64,
    },
    Year,
    /// An address that the server keeps in so many bytes, zeros at the end cut off.
    Address {
        prefix: u8,
        bytes: usize,
    },
    /// Not carried: so many bytes are passed over.
    Skip {
        bytes: usize,
    },
    /// Not carried: a length prefix and that many bytes are passed over.
    SkipPrefixed {
        prefix: u8,
    },
}

fn foreign(text: impl Into<String>) -> Value {
    Value::Foreign(ByteString::from(text.into()))
}

impl Cell {
    pub fn decode(&self, buf: &mut Buf<'_>, arena: &mut Arena) -> Decoded<Value> {
        Ok(match self {
            Cell::Int { bytes, unsigned } => {
                let raw = buf.le(usize::from(*bytes))?;
                if *unsigned {
                    Value::UInt(raw)
                } else {
                    let shift = 64 - 8 * u32::from(*bytes);
                    Value::Int(((raw << shift) as i64) >> shift)
                }
            }
            Cell::Float => Value::Float32(f32::from_bits(buf.le(4)? as u32)),
            Cell::Double => Value::Float64(f64::from_bits(buf.le(8)?)),
            Cell::Decimal { precision, scale } => {
                let number = decimal(buf, *precision, *scale)?;
                Value::Decimal(arena.text(number.as_bytes()).ok_or(Damage("a decimal"))?)
            }
            Cell::Text { prefix, charset } => match text(buf, *prefix, charset, arena)? {
                Some(text) => Value::Text(text),
                None => foreign(UNDEFINED_TEXT),
            },
            Cell::Json { prefix, charset } => match text(buf, *prefix, charset, arena)? {
                Some(text) => Value::Json(text),
                None => foreign(UNDEFINED_TEXT),
            },
            Cell::Bytes { prefix, pad } => {
                let bytes = prefixed(buf, *prefix)?;
                if bytes.len() < *pad {
                    let mut padded = bytes.to_vec();
                    padded.resize(*pad, 0);
                    Value::Bytes(Bytes::from(padded))
                } else {
                    Value::Bytes(arena.bytes(bytes))
                }
            }
            Cell::Uuid { prefix } => uuid(prefixed(buf, *prefix)?)?,
            // What is damaged or newer than this version concerns whoever reads the column, and nobody else.
            Cell::Jsonb { prefix } => match jsonb::text(prefixed(buf, *prefix)?) {
                Ok(text) => Value::Json(text.into()),
                Err(Damage(_)) => foreign(UNDEFINED_TEXT),
            },
            Cell::OldDate => {
                let v = buf.le(3)?;
                date((v >> 9) as i32, (v >> 5 & 15) as u32, (v & 31) as u32)
            }
            Cell::OldTime => {
                let raw = ((buf.le(3)? << 40) as i64) >> 40;
                let v = raw.abs();
                let seconds = v / 10_000 * 3600 + v / 100 % 100 * 60 + v % 100;
                Value::Time(Time(seconds * 1_000_000 * raw.signum()))
            }
            Cell::OldDateTime => {
                let v = buf.le(8)? as i64;
                let (d, t) = (v / 1_000_000, v % 1_000_000);
                datetime(
                    (d / 10_000) as i32,
                    (d / 100 % 100) as u32,
                    (d % 100) as u32,
                    (t / 10_000, t / 100 % 100, t % 100, 0),
                    0,
                )
            }
            Cell::OldTimestamp => timestamp(buf.le(4)? as i64, 0, 0),
            Cell::Time { fsp } => Value::Time(Time(time2(buf, *fsp)?)),
            Cell::DateTime { fsp } => {
                let v = buf.be(5)? as i64 - 0x80_0000_0000;
                let micros = fraction(buf, *fsp)?;
                let (ymd, hms) = (v >> 17, v & 0x1ffff);
                let (ym, day) = (ymd >> 5, ymd & 31);
                let clock = (hms >> 12, hms >> 6 & 63, hms & 63, micros);
                datetime((ym / 13) as i32, (ym % 13) as u32, day as u32, clock, *fsp)
            }
            Cell::Timestamp { fsp } => {
                let seconds = buf.be(4)? as i64;
                timestamp(seconds, fraction(buf, *fsp)?, *fsp)
            }
            Cell::Enum { bytes, labels } => {
                let i = buf.le(usize::from(*bytes))? as usize;
                match i.checked_sub(1) {
                    // Index 0 is the empty text that stands for an invalid value.
                    None => foreign(""),
                    Some(i) => Value::Enum(
                        labels.get(i).cloned().ok_or(Damage("an enum has no such label"))?,
                    ),
                }
            }
            Cell::Set { bytes, labels } => {
                let mask = buf.le(usize::from(*bytes))?;
                if mask.checked_shr(labels.len() as u32).unwrap_or(0) != 0 {
                    return Err(Damage("a set has no such label"));
                }
                let is_on = |i: usize| {
                    u32::try_from(i)
                        .ok()
                        .and_then(|i| mask.checked_shr(i))
                        .is_some_and(|m| m & 1 == 1)
                };
                let on = labels.iter().enumerate().filter(|(i, _)| is_on(*i));
                let on: Vec<&str> = on.map(|(_, label)| &**label).collect();
                Value::Text(on.join(",").into())
            }
            Cell::Bits { bytes, length } => {
                Value::Text(bits(buf.be(usize::from(*bytes))?, *length))
            }
            Cell::Year => match buf.u8()? {
                0 => Value::Int(0),
                year => Value::Int(1900 + i64::from(year)),
            },
            Cell::Address { prefix, bytes } => {
                let mut whole = prefixed(buf, *prefix)?.to_vec();
                if whole.len() < *bytes {
                    whole.resize(*bytes, 0);
                }
                Value::Text(address(&whole).ok_or(Damage("an address has another length"))?)
            }
            Cell::Skip { bytes } => {
                buf.take(*bytes)?;
                foreign("")
            }
            Cell::SkipPrefixed { prefix } => {
                prefixed(buf, *prefix)?;
                foreign("")
            }
        })
    }
}

fn prefixed<'a>(buf: &mut Buf<'a>, prefix: u8) -> Decoded<&'a [u8]> {
    let n = usize::try_from(buf.le(usize::from(prefix))?).map_err(|_| Damage("a length"))?;
    buf.take(n)
}

/// A text; `None` where its bytes mean nothing. What is UTF-8 already is copied once, and looked at once.
fn text(
    buf: &mut Buf<'_>,
    prefix: u8,
    charset: &Charset,
    arena: &mut Arena,
) -> Decoded<Option<ByteString>> {
    let bytes = prefixed(buf, prefix)?;
    Ok(if charset.is_utf8() { arena.text(bytes) } else { charset.decode(bytes) })
}

/// Stands for a text whose bytes mean nothing in its character set, or a document whose bytes mean nothing. It has no
/// canonical form.
pub(crate) const UNDEFINED_TEXT: &str = "bytes without meaning in the column's character set";

/// The digits of a bit string, the highest first.
pub(crate) fn bits(number: u64, length: u64) -> ByteString {
    let length = usize::try_from(length.min(64)).unwrap_or(64);
    if length == 0 {
        return ByteString::new();
    }
    format!("{number:0length$b}").into()
}

/// An address as MariaDB writes it, from its bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<ByteString> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).to_string().into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string().into())
}

/// MariaDB stores time-based UUIDs (versions 1 to 5, RFC variant) with their segments turned round,
/// so that they sort by time; all others as they are.
fn uuid(bytes: &[u8]) -> Decoded<Value> {
    let mut m = [0u8; 16];
    m.get_mut(..bytes.len()).ok_or(Damage("a uuid is too long"))?.copy_from_slice(bytes);
    // Memory order: node(6) clock(2) time_hi(2) time_mid(2) time_low(4).
    let [a0, a1, a2, a3, a4, a5, b0, b1, c0, c1, d0, d1, e0, e1, e2, e3] = m;
    let turned = b0 & 0x80 != 0 && (1..=5).contains(&(c0 >> 4));
    Ok(Value::Uuid(if turned {
        [e0, e1, e2, e3, d0, d1, c0, c1, b0, b1, a0, a1, a2, a3, a4, a5]
    } else {
        m
    }))
}

/// Microseconds of the fraction that follows a temporal value.
fn fraction(buf: &mut Buf<'_>, fsp: u8) -> Decoded<i64> {
    Ok(match fsp {
        0 => 0,
        1 | 2 => buf.be(1)? as i64 * 10_000,
        3 | 4 => buf.be(2)? as i64 * 100,
        5 | 6 => buf.be(3)? as i64,
        _ => return Err(Damage("a time has more than six digits")),
    })
}

fn time2(buf: &mut Buf<'_>, fsp: u8) -> Decoded<i64> {
    // The whole value, fraction included, is one biased number: a negative time borrows from its
    // seconds.
    let size = usize::from(fsp.div_ceil(2));
    if size > 3 {
        return Err(Damage("a time has more than six digits"));
    }
    let bits = 24 + 8 * size as u32;
    let value = buf.be(3 + size)? as i64 - (1i64 << (bits - 1));
    let (sign, v) = (value.signum(), value.abs());
    let frac_bits = 8 * size as u32;
    let (hms, frac) = (v >> frac_bits, v & ((1i64 << frac_bits) - 1));
    let micros = match size {
        1 => frac * 10_000,
        2 => frac * 100,
        _ => frac,
    };
    let seconds = (hms >> 12 & 1023) * 3600 + (hms >> 6 & 63) * 60 + (hms & 63);
    Ok(sign * (seconds * 1_000_000 + micros))
}

fn date(year: i32, month: u32, day: u32) -> Value {
    match Date::from_ymd(year, month, day).filter(|_| year > 0) {
        Some(date) => Value::Date(date),
        None => foreign(format!("{year:04}-{month:02}-{day:02}")),
    }
}

fn clock_text((h, m, s, micros): (i64, i64, i64, i64), fsp: u8) -> String {
    let mut text = format!("{h:02}:{m:02}:{s:02}");
    if fsp > 0 {
        let digits = format!("{micros:06}");
        text.push('.');
        text.push_str(digits.get(..usize::from(fsp.min(6))).unwrap_or("0"));
    }
    text
}

fn datetime(year: i32, month: u32, day: u32, clock: (i64, i64, i64, i64), fsp: u8) -> Value {
    let (h, m, s, micros) = clock;
    let time = Time((h * 3600 + m * 60 + s) * 1_000_000 + micros);
    match Date::from_ymd(year, month, day).filter(|_| year > 0) {
        Some(date) => match Timestamp::new(date, time) {
            Some(timestamp) => Value::Timestamp(timestamp),
            None => foreign(format!("{year:04}-{month:02}-{day:02} {}", clock_text(clock, fsp))),
        },
        None => foreign(format!("{year:04}-{month:02}-{day:02} {}", clock_text(clock, fsp))),
    }
}

fn timestamp(seconds: i64, micros: i64, fsp: u8) -> Value {
    if seconds == 0 && micros == 0 {
        return foreign(format!("0000-00-00 {}", clock_text((0, 0, 0, 0), fsp)));
    }
    Value::Instant(Instant(seconds * 1_000_000 + micros))
}

/// The digits of an exact number, with sign and point.
pub(super) struct Digits {
    text: [u8; DIGITS_MAX + 3],
    length: usize,
}

/// No server has longer ones.
const DIGITS_MAX: usize = 65;

impl Digits {
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    /// The `n` digits of a group; before the point, zeros at the front are left out.
    fn group(&mut self, mut value: u64, n: usize, leading: bool) -> Decoded<()> {
        let mut digits = [b'0'; 9];
        let digits = digits.get_mut(..n).ok_or(Damage("a decimal's group"))?;
        for place in digits.iter_mut().rev() {
            *place = b'0' + (value % 10) as u8;
            value /= 10;
        }
        if value > 0 {
            return Err(Damage("a decimal has too many digits"));
        }
        let empty = self.text.get(..self.length).is_none_or(|t| t.is_empty() || t == b"-");
        let zeros =
            if leading && empty { digits.iter().take_while(|d| **d == b'0').count() } else { 0 };
        for digit in digits.iter().skip(zeros) {
            self.push(*digit);
        }
        Ok(())
    }
}

/// An exact number: groups of nine digits in four bytes, the odd digits before and after in fewer,
/// the sign in the first bit, negatives inverted.
pub(super) fn decimal(buf: &mut Buf<'_>, precision: u8, scale: u8) -> Decoded<Digits> {
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let whole = usize::from(precision.checked_sub(scale).ok_or(Damage("a decimal's scale"))?);
    if usize::from(precision) > DIGITS_MAX {
        return Err(Damage("a decimal has too many digits"));
    }
    let scale = usize::from(scale);
    let size_of = |digits: usize| digits / 9 * 4 + BYTES.get(digits % 9).copied().unwrap_or(0);
    let taken = buf.take(size_of(whole) + size_of(scale))?;
    let mut bytes = [0; DIGITS_MAX];
    let bytes = bytes.get_mut(..taken.len()).ok_or(Damage("a decimal's size"))?;
    bytes.copy_from_slice(taken);
    let negative = bytes.first().is_some_and(|b| b & 0x80 == 0);
    if let Some(first) = bytes.first_mut() {
        *first ^= 0x80;
    }
    if negative {
        bytes.iter_mut().for_each(|b| *b = !*b);
    }
    let zero = bytes.iter().all(|b| *b == 0);
    let mut rest = Buf(bytes);
    let mut group = |n: usize| rest.be(BYTES.get(n).copied().unwrap_or(4));
    let mut out = Digits { text: [0; DIGITS_MAX + 3], length: 0 };
    if negative && !zero {
        out.push(b'-');
    }
    let sign = out.length;
    if whole % 9 > 0 {
        out.group(group(whole % 9)?, whole % 9, true)?;
    }
    for _ in 0..whole / 9 {
        out.group(group(9)?, 9, true)?;
    }
    if out.length == sign {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
    }
    for _ in 0..scale / 9 {
        out.group(group(9)?, 9, false)?;
    }
    if scale % 9 > 0 {
        out.group(group(scale % 9)?, scale % 9, false)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], precision: u8, scale: u8) -> Decoded<String> {
        let digits = decimal(&mut Buf(bytes), precision, scale)?;
        Ok(String::from_utf8(digits.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn exact_numbers_are_written_without_needless_zeros_and_with_all_that_count() {
        // The manual's own example, and its negative.
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(number(&bytes, 14, 4), Ok("1234567890.1234".into()));
        let inverted = bytes.map(|b| !b);
        assert_eq!(number(&inverted, 14, 4), Ok("-1234567890.1234".into()));
        assert_eq!(number(&[0x80, 0, 5], 6, 2), Ok("0.05".into()));
        assert_eq!(number(&[0x7f, 0xfa], 4, 2), Ok("-0.05".into()));
        assert_eq!(number(&[0x80, 0], 4, 2), Ok("0.00".into()));
        // All bits inverted is a zero with a sign: it has none here.
        assert_eq!(number(&[0x7f, 0xff], 4, 2), Ok("0.00".into()));
        assert_eq!(number(&[0x80, 0, 0, 0, 7], 10, 0), Ok("7".into()));
        assert_eq!(number(&[0xe4], 2, 0), Err(Damage("a decimal has too many digits")));
        let many = "123456789".repeat(8)[..65].to_owned();
        let mut longest = vec![0x80 | 12];
        for group in many.as_bytes()[2..].chunks(9) {
            let group = std::str::from_utf8(group).unwrap().parse::<u32>().unwrap();
            longest.extend(group.to_be_bytes());
        }
        assert_eq!(number(&longest, 65, 0), Ok(many));
        assert_eq!(number(&[0x80; 120], 66, 2), Err(Damage("a decimal has too many digits")));
    }
}
