//! Our values as the servers' programs print them: `log_event_print_value` in MariaDB's `log_event_client.cc` and MySQL's
//! `log_event.cc`.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use rowbust_binlog::{Column, ColumnType, Flavor, TableMap, Value};

/// The columns that an image has: number from 1, type, text.
pub(super) fn image(
    values: &[Value<'_>],
    map: &TableMap,
    flavor: Flavor,
) -> Result<Vec<(usize, ColumnType, Vec<u8>)>> {
    let mut image = Vec::new();
    for (index, (value, column)) in values.iter().zip(&map.columns).enumerate() {
        if !matches!(value, Value::Absent) {
            let text = print(value, column, flavor).with_context(|| format!("column {}", index + 1))?;
            image.push((index + 1, column.column_type, text));
        }
    }
    Ok(image)
}

/// Whether the program printed this; only a FLOAT is filled up with spaces.
pub(super) fn equal(column_type: ColumnType, ours: &[u8], printed: &[u8]) -> bool {
    if let Some(parts) = ours.strip_prefix(DIFF) {
        let mut rest = printed;
        return printed.starts_with(if parts.is_empty() { b"@" } else { b"JSON_" })
            && parts.split(|&byte| byte == 0).all(|part| match find(rest, part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            });
    }
    let padded = column_type == ColumnType::Float;
    ours == if padded { printed.trim_ascii_end() } else { printed }
}

fn print(value: &Value<'_>, column: &Column, flavor: Flavor) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match *value {
        Value::Null => out.extend(b"NULL"),
        Value::Int(n) => integer(n.cast_unsigned(), column.column_type, &mut out)?,
        Value::UInt(n) => integer(n, column.column_type, &mut out)?,
        Value::Float(n) => out.extend(general(f64::from(n), 6).into_bytes()),
        Value::Double(n) => out.extend(general(n, 20).into_bytes()),
        Value::Decimal { .. } => value.write_text(column, &mut out)?,
        Value::Date { year, month, day } => write!(out, "'{year:04}:{month:02}:{day:02}'")?,
        Value::Time { .. } | Value::DateTime { .. } => {
            out.push(b'\'');
            value.write_text(column, &mut out)?;
            out.push(b'\'');
        }
        Value::Timestamp { seconds, micros, decimals } => {
            write!(out, "{seconds}")?;
            if decimals > 0 {
                let digits = format!("{micros:06}");
                write!(out, ".{}", digits.get(..decimals.into()).context("more than 6 digits")?)?;
            }
        }
        Value::Year(year) => write!(out, "{}", year.max(1900))?,
        Value::Enum(index) => write!(out, "{index}")?,
        Value::Set(bits) => {
            out.extend(b"b'");
            for byte in &bits.to_le_bytes()[..usize::from(column.meta)] {
                write!(out, "{byte:08b}")?;
            }
            out.push(b'\'');
        }
        Value::Bit(bytes) => {
            let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
            let unused = bits.len().checked_sub(column.meta.into()).context("too few bits")?;
            write!(out, "b'{}'", &bits[unused..])?;
        }
        Value::Str(bytes) | Value::Bytes(bytes) | Value::Geometry(bytes) | Value::Compressed(bytes) => {
            quote(bytes, flavor, &mut out)
        }
        Value::Json(_) => {
            let mut text = Vec::new();
            value.write_text(column, &mut text)?;
            quote(&unquoted(text), flavor, &mut out);
        }
        Value::JsonDiff(diffs) => differences(diffs, column, &mut out)?,
        Value::Vector(bytes) => {
            let (numbers, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                bail!("a vector of {} bytes", bytes.len());
            }
            let numbers: Vec<String> = numbers.iter().map(|n| exponent(f32::from_le_bytes(*n))).collect();
            write!(out, "[{}]", numbers.join(","))?;
        }
        ref other => bail!("{other:?} is not known here"),
    }
    Ok(out)
}

/// Marks the paths and values of differences in a JSON document, which are printed as calls of functions.
const DIFF: &[u8] = b"\x01diff:";

/// Path and value of each difference, in order, zero bytes between. Written after MySQL's `json_diff.cc`, without our
/// decoder's help but for the values: operation (0 replace, 1 insert, 2 remove), length and path, length and value.
fn differences(mut diffs: &[u8], column: &Column, out: &mut Vec<u8>) -> Result<()> {
    out.extend(DIFF);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    while let Some((&operation, rest)) = diffs.split_first() {
        let (path, rest) = prefixed(rest)?;
        diffs = rest;
        parts.push([b"'", path, b"'"].concat());
        if operation != 2 {
            let (value, rest) = prefixed(diffs)?;
            diffs = rest;
            let mut text = Vec::new();
            Value::Json(value).write_text(column, &mut text)?;
            let text = unquoted(text);
            parts.push(text);
        }
    }
    out.extend(parts.join(&0));
    Ok(())
}

/// A document that is one string is printed without its quotes, and nothing in it is escaped.
fn unquoted(text: Vec<u8>) -> Vec<u8> {
    serde_json::from_slice::<String>(&text).map_or(text, String::into_bytes)
}

/// Bytes behind their length (up to 65535), and the rest.
fn prefixed(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (len, rest) = match bytes {
        [len @ 0..=250, rest @ ..] => (usize::from(*len), rest),
        [252, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        _ => bail!("no length"),
    };
    rest.split_at_checked(len).context("a length that is too long")
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() { Some(0) } else { text.windows(part.len()).position(|window| window == part) }
}

fn integer(bits: u64, column_type: ColumnType, out: &mut Vec<u8>) -> Result<()> {
    let unused = 64
        - match column_type {
            ColumnType::Tiny => 8,
            ColumnType::Short => 16,
            ColumnType::Int24 => 24,
            ColumnType::Long => 32,
            ColumnType::LongLong => 64,
            other => bail!("{other} is no integer"),
        };
    let signed = (bits << unused).cast_signed() >> unused;
    write!(out, "{signed}")?;
    if signed < 0 {
        write!(out, " ({})", bits << unused >> unused)?;
    }
    Ok(())
}

/// C's `%.{digits}g`.
fn general(n: f64, digits: usize) -> String {
    let text = format!("{n:.*e}", digits - 1);
    let Some((mantissa, power)) = text.split_once('e') else { return text };
    let power: i32 = power.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = match all.trim_end_matches('0') {
        "" => return format!("{sign}0"),
        some => some,
    };
    if power < -4 || usize::try_from(power).is_ok_and(|p| p >= digits) {
        let (first, rest) = significant.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let power_sign = if power < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{power_sign}{:02}", power.abs());
    }
    let Ok(before) = usize::try_from(power + 1) else {
        return format!("{sign}0.{}{significant}", "0".repeat(power.unsigned_abs() as usize - 1));
    };
    if before == 0 {
        return format!("{sign}0.{significant}");
    }
    let (whole, part) = all.split_at(before);
    let part = part.trim_end_matches('0');
    let point = if part.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{part}")
}

/// C's `%.5e`.
fn exponent(n: f32) -> String {
    let text = format!("{n:.5e}");
    let Some((mantissa, power)) = text.split_once('e') else { return text };
    let power: i32 = power.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

fn quote(bytes: &[u8], flavor: Flavor, out: &mut Vec<u8>) {
    out.push(b'\'');
    for &byte in bytes {
        let named = match byte {
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            b'\'' | b'\\' => byte,
            _ => 0,
        };
        match byte {
            _ if named != 0 && flavor == Flavor::MySql => out.extend([b'\\', named]),
            0..0x20 => out.extend(format!("\\x{byte:02x}").into_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_c_prints_them() {
        for (n, digits, text) in [
            (0.1, 20, "0.10000000000000000555"),
            (-1.5, 6, "-1.5"),
            (123_456_789.0, 6, "1.23457e+08"),
            (100_000.0, 6, "100000"),
            (0.0001, 6, "0.0001"),
            (0.00001, 6, "1e-05"),
            (-0.0, 6, "-0"),
            (12_345_678_901_234_567_000.0, 20, "12345678901234567168"),
            (1e300, 20, "1.0000000000000000525e+300"),
            (0.5, 6, "0.5"),
        ] {
            assert_eq!(general(n, digits), text);
        }
        assert_eq!(exponent(-0.001), "-1.00000e-03");
    }
}
