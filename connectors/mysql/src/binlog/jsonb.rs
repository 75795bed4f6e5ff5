//! MySQL's binary JSON as text, as the server itself writes it: keys in the stored order, numbers exact.

use std::fmt::Write;

use super::cell::decimal;
use super::{Buf, Damage, Decoded};

/// MySQL itself refuses documents deeper than this.
const DEPTH_MAX: usize = 100;
/// Offsets of a damaged document may point twice at the same place, and the text would grow without end. A sound one
/// grows most where a byte of text becomes `\u0001`; numbers, literals and separators grow less.
const TEXT_BYTES_A_BYTE: usize = 8;
/// And what an empty document needs.
const TEXT_BYTES_SPARE: usize = 64;

/// The document's text. No bytes at all stand for `null`.
pub(crate) fn text(bytes: &[u8]) -> Decoded<String> {
    let Some((&kind, body)) = bytes.split_first() else { return Ok("null".to_owned()) };
    let text_max = bytes.len().saturating_mul(TEXT_BYTES_A_BYTE).saturating_add(TEXT_BYTES_SPARE);
    let mut out = String::new();
    value(kind, body, (0, text_max), &mut out)?;
    Ok(out)
}

/// `limits` are the depth come to and the length that the text may have.
fn value(kind: u8, body: &[u8], limits: (usize, usize), out: &mut String) -> Decoded<()> {
    if limits.0 > DEPTH_MAX || out.len() > limits.1 {
        return Err(Damage("a JSON document is too deep or too large"));
    }
    let mut buf = Buf(body);
    match kind {
        0 => container(body, 2, true, limits, out)?,
        1 => container(body, 4, true, limits, out)?,
        2 => container(body, 2, false, limits, out)?,
        3 => container(body, 4, false, limits, out)?,
        4 => out.push_str(match buf.u8()? {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(Damage("a JSON literal is unknown")),
        }),
        5 => out.push_str(&(buf.le(2)? as i16).to_string()),
        6 => out.push_str(&buf.le(2)?.to_string()),
        7 => out.push_str(&(buf.le(4)? as i32).to_string()),
        8 => out.push_str(&buf.le(4)?.to_string()),
        9 => out.push_str(&(buf.le(8)? as i64).to_string()),
        10 => out.push_str(&buf.le(8)?.to_string()),
        11 => {
            let number = f64::from_bits(buf.le(8)?);
            if !number.is_finite() {
                return Err(Damage("a JSON number is none"));
            }
            double(number, out)?;
        }
        12 => {
            let n = varlen(&mut buf)?;
            string(buf.take(n)?, out)?;
        }
        15 => opaque(&mut buf, out)?,
        _ => return Err(Damage("a JSON value has an unknown type")),
    }
    Ok(())
}

fn container(
    body: &[u8],
    size: usize,
    object: bool,
    (depth, text_max): (usize, usize),
    out: &mut String,
) -> Decoded<()> {
    let mut head = Buf(body);
    let (count, _bytes) = (head.le(size)? as usize, head.le(size)?);
    let key_bytes = if object { count.checked_mul(size + 2) } else { Some(0) };
    let key_bytes = key_bytes.ok_or(Damage("a JSON object is too large"))?;
    let mut keys = Buf(head.take(key_bytes)?);
    out.push(if object { '{' } else { '[' });
    for i in 0..count {
        if i > 0 {
            out.push_str(", ");
        }
        if object {
            let (at, n) = (keys.le(size)? as usize, keys.le(2)? as usize);
            let key = at.checked_add(n).and_then(|end| body.get(at..end));
            string(key.ok_or(Damage("a JSON key lies outside"))?, out)?;
            out.push_str(": ");
        }
        let kind = head.u8()?;
        let slot = head.take(size)?;
        // Small values stand in the slot itself.
        let inline = matches!(kind, 4..=6) || (size == 4 && matches!(kind, 7 | 8));
        if inline {
            value(kind, slot, (depth + 1, text_max), out)?;
        } else {
            let at = Buf(slot).le(size)? as usize;
            // A value lies behind its container's head, so that following it always ends.
            if at < 2 * size {
                return Err(Damage("a JSON value points backwards"));
            }
            value(
                kind,
                body.get(at..).ok_or(Damage("a JSON value lies outside"))?,
                (depth + 1, text_max),
                out,
            )?;
        }
    }
    out.push(if object { '}' } else { ']' });
    Ok(())
}

fn varlen(buf: &mut Buf<'_>) -> Decoded<usize> {
    let mut n = 0usize;
    for shift in (0..35).step_by(7) {
        let byte = buf.u8()?;
        n |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Damage("a JSON length is too large"))
}

fn string(bytes: &[u8], out: &mut String) -> Decoded<()> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage("a JSON text is not UTF-8"))?;
    out.push_str(&serde_json::to_string(text).map_err(|_| Damage("a JSON text"))?);
    Ok(())
}

/// The shortest digits that are this number, with an exponent where the server writes one.
fn double(number: f64, out: &mut String) -> Decoded<()> {
    /// Digits of a double, beyond which the server counts places by an exponent.
    const PLACES_MAX: i32 = 15;
    const FAULT: Damage = Damage("a JSON number");
    let shortest = format!("{number:e}");
    let (mantissa, exponent) = shortest.split_once('e').ok_or(FAULT)?;
    // The point stands behind so many digits.
    let point = exponent.parse::<i32>().map_err(|_| FAULT)? + 1;
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    if point > PLACES_MAX && point >= digits as i32 || point <= -PLACES_MAX {
        out.push_str(&shortest);
        return Ok(());
    }
    // Without an exponent Rust writes the same digits, and no point where there is nothing behind it.
    let plain = format!("{number}");
    out.push_str(&plain);
    if !plain.contains('.') {
        out.push_str(".0");
    }
    Ok(())
}

/// Values of SQL types inside JSON: decimals as numbers, times as texts, all others as their bytes, as the server
/// prints them.
fn opaque(buf: &mut Buf<'_>, out: &mut String) -> Decoded<()> {
    let kind = buf.u8()?;
    let n = varlen(buf)?;
    let mut data = Buf(buf.take(n)?);
    match kind {
        246 => {
            let (precision, scale) = (data.u8()?, data.u8()?);
            let number = decimal(&mut data, precision, scale)?;
            out.push_str(std::str::from_utf8(number.as_bytes()).map_err(|_| Damage("a decimal"))?);
        }
        7 | 10 | 11 | 12 => {
            let packed = data.le(8)? as i64;
            let (micros, v) = (packed.unsigned_abs() & 0xff_ffff, packed.unsigned_abs() >> 24);
            let (hour, minute, second) = (v >> 12 & 0x3ff, v >> 6 & 63, v & 63);
            let clock = |hour| format!("{hour:02}:{minute:02}:{second:02}.{micros:06}");
            let ym = v >> 22;
            let day = format!("{:04}-{:02}-{:02}", ym / 13, ym % 13, v >> 17 & 31);
            let sign = if packed < 0 { "-" } else { "" };
            let text = match kind {
                10 => day,
                11 => format!("{sign}{}", clock(hour)),
                _ => format!("{day} {}", clock(hour & 31)),
            };
            string(text.as_bytes(), out)?;
        }
        _ => {
            // Writing to a String cannot fail.
            let _written = write!(out, "\"base64:type{kind}:");
            base64(data.0, out);
            out.push('"');
        }
    }
    Ok(())
}

/// Bytes in base64, in lines of so many characters as the server has them.
fn base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    /// Groups of four characters a line.
    const LINE: usize = 76 / 4;
    for (i, group) in bytes.chunks(3).enumerate() {
        if i > 0 && i.is_multiple_of(LINE) {
            out.push_str("\\n");
        }
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let six = (bits >> (18 - 6 * place) & 63) as usize;
            out.push(if place > group.len() {
                '='
            } else {
                char::from(ALPHABET.get(six).copied().unwrap_or(b'='))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_the_server_writes_them() {
        for (number, wanted) in [
            (1e-6, "0.000001"),
            (1.0, "1.0"),
            (1e14, "100000000000000.0"),
            (100_000_000_000_000.5, "100000000000000.5"),
            (1e15, "1e15"),
            (1_234_567_890_123_456.0, "1.234567890123456e15"),
            (123_456_789_012_345_678.0, "1.2345678901234568e17"),
            (1e-15, "0.000000000000001"),
            (1.5e-15, "0.0000000000000015"),
            (1.5e-16, "1.5e-16"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.5e300, "1.5e300"),
            (5e-324, "5e-324"),
        ] {
            let mut document = vec![11];
            document.extend(f64::to_le_bytes(number));
            assert_eq!(text(&document).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn bytes_in_a_document_are_written_as_the_server_writes_them() {
        assert_eq!(text(&[15, 16, 1, 1]).as_deref(), Ok(r#""base64:type16:AQ==""#));
        assert_eq!(
            text(&[15, 252, 3, b'a', b'b', b'c']).as_deref(),
            Ok(r#""base64:type252:YWJj""#)
        );
        let mut long = vec![15, 253, 60];
        long.extend([0xff; 60]);
        let wanted = format!(r#""base64:type253:{}\n////""#, "/".repeat(76));
        assert_eq!(text(&long).as_deref(), Ok(wanted.as_str()));
    }

    #[test]
    fn documents_are_read() {
        assert_eq!(text(&[4, 1]), Ok("true".into()));
        assert_eq!(text(&[12, 2, b'a', b'"']), Ok("\"a\\\"\"".into()));
        // {"a": -1}
        let doc = [0, 1, 0, 12, 0, 11, 0, 1, 0, 5, 0xff, 0xff, b'a'];
        assert_eq!(text(&doc), Ok("{\"a\": -1}".into()));
        // Five arrays, each of forty times the next: a hundred million elements in 620 bytes.
        let mut bomb = vec![2];
        for _ in 0..5 {
            bomb.extend([40, 0, 0, 0]);
            bomb.extend([2u8, 124, 0].repeat(40));
        }
        bomb.extend([0, 0, 0, 0]);
        assert!(text(&bomb).is_err());
        // [[…]] that points at itself.
        assert!(text(&[2, 1, 0, 7, 0, 2, 0, 0]).is_err());
    }
}
