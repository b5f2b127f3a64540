//! The server's own text form of a value.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::charset::Charset;
use crate::column_type::ColumnType;
use crate::gtid::Uuid;
use crate::json::{self, Document, Found, Path};
use crate::table_map::Column;
use crate::value::Value;
use crate::{compressed, decimal, temporal};

/// A value that has no text form here.
///
/// ```
/// use rowbust_binlog::{TextError, charset::Charset};
/// assert_eq!(Charset::Utf8.decode(b"\xff"), Err(TextError::Malformed("UTF-8")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The binlog doesn't say enough about the column.
    #[error("{what} of the column is not known: set binlog_row_metadata=FULL, or let its schema be read")]
    Unknown {
        /// What is missing.
        what: &'static str,
    },
    /// The value isn't in the row image.
    #[error("the column is not in the row image: set binlog_row_image=FULL")]
    Absent,
    /// NULL has no text.
    #[error("the value is NULL")]
    Null,
    /// Only the difference from the value before is known.
    #[error(
        "the row image holds a JSON document's changes only, and no document before: set binlog_row_image=FULL"
    )]
    NoDocument,
    /// A path into a column that is neither JSON nor text.
    #[error("the column is no JSON")]
    NotJson,
    /// No conversion from this character set.
    #[error("character set {0} is not supported yet")]
    Charset(String),
    /// The bytes are not text in the column's character set.
    #[error("the value is not valid {0}")]
    Malformed(&'static str),
    /// The value contradicts the column.
    #[error("{what} {value} is out of range")]
    OutOfRange {
        /// What.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

impl Value<'_> {
    /// Appends the text that `SELECT column` gives on a utf8mb4 connection with `time_zone='+00:00'`, as UTF-8
    /// (`CONCAT(column)` too, but for FLOAT on MySQL, which shortens it to 12 characters). Two exceptions: ZEROFILL is not
    /// applied (the binlog doesn't tell it), and binary strings, BIT, GEOMETRY and VECTOR give their bytes as they are,
    /// BINARY(n) filled up with zero bytes as the server does.
    ///
    /// # Errors
    /// NULL, absent values and [`Value::JsonDiff`] have no text; nothing is appended on an error.
    pub fn write_text(&self, column: &Column, out: &mut Vec<u8>) -> Result<(), TextError> {
        let at = out.len();
        let result = self.append(column, out);
        if result.is_err() {
            out.truncate(at);
        }
        result
    }

    fn append(&self, column: &Column, out: &mut Vec<u8>) -> Result<(), TextError> {
        match *self {
            Self::Absent => return Err(TextError::Absent),
            Self::Null => return Err(TextError::Null),
            Self::Int(n) => {
                if column.unsigned.is_none() && n < 0 {
                    return Err(TextError::Unknown { what: "the sign" });
                }
                if n < 0 {
                    out.push(b'-');
                }
                digits(n.unsigned_abs(), 1, out);
            }
            Self::UInt(n) => digits(n, 1, out),
            Self::Float(n) => match column.float_decimals {
                Some(decimals) => fixed(f64::from(n), decimals, out),
                None => float(n, out),
            },
            Self::Double(n) => match column.float_decimals {
                Some(decimals) => fixed(n, decimals, out),
                None => double(n, out),
            },
            Self::Decimal { bytes, precision, scale } => {
                if !decimal::write(bytes, precision, scale, out) {
                    return Err(TextError::Malformed("DECIMAL"));
                }
            }
            Self::Str(bytes) => string(bytes, column, out)?,
            Self::Bytes(bytes) => binary(bytes, column, out)?,
            Self::Date { year, month, day } => date(year.into(), month.into(), day.into(), out),
            Self::Time { negative, hours, minutes, seconds, micros, decimals } => {
                if negative {
                    out.push(b'-');
                }
                time(hours.into(), minutes.into(), seconds.into(), out);
                fraction(micros, decimals, out);
            }
            Self::DateTime { year, month, day, hour, minute, second, micros, decimals } => {
                date(year.into(), month.into(), day.into(), out);
                out.push(b' ');
                time(hour.into(), minute.into(), second.into(), out);
                fraction(micros, decimals, out);
            }
            Self::Timestamp { seconds, micros, decimals } => {
                if seconds == 0 && micros == 0 {
                    out.extend_from_slice(b"0000-00-00 00:00:00");
                } else {
                    let ((year, month, day), of_day) = (temporal::civil(seconds), seconds % 86_400);
                    date(year.into(), month.into(), day.into(), out);
                    out.push(b' ');
                    time((of_day / 3600).into(), (of_day / 60 % 60).into(), (of_day % 60).into(), out);
                }
                fraction(micros, decimals, out);
            }
            Self::Year(year) => digits(year.into(), 4, out),
            Self::Enum(index) => label(column, index, out)?,
            Self::Set(bits) => labels(column, bits, out)?,
            Self::Bit(bytes) => out.extend_from_slice(bytes),
            Self::Compressed(bytes) => {
                let at = out.len();
                compressed::inflate(bytes, out)?;
                if column.is_binary() != Some(true) {
                    let charset = charset(column)?;
                    if charset != Charset::Utf8
                        || std::str::from_utf8(out.get(at..).unwrap_or_default()).is_err()
                    {
                        let text = out.split_off(at);
                        charset.append(&text, out)?;
                    }
                }
            }
            Self::Json(document) => Document::new(document).write_text(out)?,
            Self::JsonDiff(_) => return Err(TextError::NoDocument),
            Self::Geometry(bytes) | Self::Vector(bytes) => out.extend_from_slice(bytes),
        }
        Ok(())
    }

    /// Appends what stands at a path of a JSON document: of MySQL's JSON type as [`Document::extract`], of a text column
    /// (MariaDB's JSON is one) as [`json::extract_text`].
    ///
    /// # Errors
    /// As [`Value::write_text`], and if the column holds no JSON; nothing is appended.
    pub fn write_path(
        &self,
        column: &Column,
        path: &Path,
        unquote: bool,
        out: &mut Vec<u8>,
    ) -> Result<Found, TextError> {
        match *self {
            Self::Json(document) => Document::new(document).extract(path, unquote, out),
            Self::Str(text) if charset(column)? == Charset::Utf8 => {
                json::extract_text(text, path, unquote, out)
            }
            Self::Str(_) | Self::Compressed(_) if column.is_binary() == Some(false) => {
                let mut text = Vec::new();
                self.append(column, &mut text)?;
                json::extract_text(&text, path, unquote, out)
            }
            Self::Absent => Err(TextError::Absent),
            Self::Null => Err(TextError::Null),
            Self::JsonDiff(_) => Err(TextError::NoDocument),
            _ => Err(TextError::NotJson),
        }
    }
}

/// Writing to a vector can't fail.
pub(crate) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// A number with at least `width` digits.
fn digits(mut n: u64, width: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 20];
    let mut used = 0;
    for place in text.iter_mut().rev() {
        if n == 0 {
            break;
        }
        *place = b'0' + (n % 10) as u8;
        n /= 10;
        used += 1;
    }
    out.extend_from_slice(text.get(text.len() - used.max(width)..).unwrap_or_default());
}

fn date(year: u64, month: u64, day: u64, out: &mut Vec<u8>) {
    digits(year, 4, out);
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
}

fn time(hour: u64, minute: u64, second: u64, out: &mut Vec<u8>) {
    digits(hour, 2, out);
    out.push(b':');
    digits(minute, 2, out);
    out.push(b':');
    digits(second, 2, out);
}

/// Digits behind the second's point.
fn fraction(micros: u32, decimals: u8, out: &mut Vec<u8>) {
    if decimals > 0 {
        let width = decimals.min(6);
        out.push(b'.');
        digits((micros / 10_u32.pow(u32::from(6 - width))).into(), width.into(), out);
    }
}

/// A short text without an allocation. What doesn't fit is cut off: no number's text is that long.
#[derive(Default)]
struct Short {
    bytes: [u8; 32],
    len: usize,
}

impl Short {
    fn of(text: std::fmt::Arguments<'_>) -> Self {
        let mut short = Self::default();
        let _ = std::fmt::Write::write_fmt(&mut short, text);
        short
    }

    fn push(&mut self, text: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.len).zip(text) {
            *place = *byte;
            self.len += 1;
        }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl std::fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// FLOAT: six significant digits at most (`FLT_DIG`), as `Field_float::val_str` prints it.
fn float(n: f32, out: &mut Vec<u8>) {
    scientific(&Short::of(format_args!("{:.5e}", f64::from(n))), out);
}

/// DOUBLE: the shortest digits that give the same number.
pub(crate) fn double(n: f64, out: &mut Vec<u8>) {
    scientific(&Short::of(format_args!("{n:e}")), out);
}

/// Digits and exponent → the servers' choice of form (`my_gcvt` in `strings/dtoa.c`): with an exponent below 10⁻¹⁵
/// and for whole numbers from 10¹⁵ (`DBL_DIG`) on, else without.
fn scientific(text: &Short, out: &mut Vec<u8>) {
    let text = std::str::from_utf8(text.get()).unwrap_or_default();
    let Some((mantissa, exponent)) = text.split_once('e') else {
        // The servers store neither infinity nor NaN.
        out.extend_from_slice(text.as_bytes());
        return;
    };
    let mantissa = match mantissa.strip_prefix('-') {
        Some(mantissa) => {
            out.push(b'-');
            mantissa
        }
        None => mantissa,
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let rest = rest.trim_end_matches('0');
    let mut digits = Short::default();
    digits.push(first.as_bytes());
    digits.push(rest.as_bytes());
    let digits = digits.get();
    let zeros = |n: usize, out: &mut Vec<u8>| out.extend(std::iter::repeat_n(b'0', n));
    if digits == b"0" {
        // Keeps the sign: the servers print -0 for it.
        out.push(b'0');
        return;
    }
    let point = exponent + 1;
    match point {
        -14..=0 => {
            out.extend_from_slice(b"0.");
            zeros(point.unsigned_abs() as usize, out);
            out.extend_from_slice(digits);
        }
        1..=16 if point <= 15 || digits.len() > 16 => {
            let point = point.unsigned_abs() as usize;
            match digits.split_at_checked(point) {
                Some((whole, part)) => {
                    out.extend_from_slice(whole);
                    if !part.is_empty() {
                        out.push(b'.');
                        out.extend_from_slice(part);
                    }
                }
                None => {
                    out.extend_from_slice(digits);
                    zeros(point - digits.len(), out);
                }
            }
        }
        _ if rest.is_empty() => put(out, format_args!("{first}e{exponent}")),
        _ => put(out, format_args!("{first}.{rest}e{exponent}")),
    }
}

/// `FLOAT(M,D)`, `DOUBLE(M,D)`: D decimals (`my_fcvt`).
fn fixed(n: f64, decimals: u8, out: &mut Vec<u8>) {
    put(out, format_args!("{n:.*}", usize::from(decimals)));
}

fn string(bytes: &[u8], column: &Column, out: &mut Vec<u8>) -> Result<(), TextError> {
    match charset(column)? {
        Charset::Binary => binary(bytes, column, out),
        charset => charset.append(bytes, out),
    }
}

fn charset(column: &Column) -> Result<Charset, TextError> {
    let collation = column.collation.ok_or(TextError::Unknown { what: "the character set" })?;
    Charset::from_collation(collation).ok_or_else(|| TextError::Charset(format!("of collation {collation}")))
}

fn binary(bytes: &[u8], column: &Column, out: &mut Vec<u8>) -> Result<(), TextError> {
    if column.column_type != ColumnType::String {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    // The binlog has it without its trailing zero bytes: `Field_string::pack`.
    match column.data_type.as_deref() {
        Some("uuid") => put(out, format_args!("{}", Uuid(filled(bytes, "UUID")?))),
        Some("inet4") => put(out, format_args!("{}", Ipv4Addr::from(filled(bytes, "INET4")?))),
        Some("inet6") => inet6(Ipv6Addr::from(filled(bytes, "INET6")?), out),
        _ => {
            out.extend_from_slice(bytes);
            out.extend(std::iter::repeat_n(0, usize::from(column.meta).saturating_sub(bytes.len())));
        }
    }
    Ok(())
}

/// Trailing zero bytes put back.
fn filled<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], TextError> {
    let mut all = [0; N];
    all.get_mut(..bytes.len()).ok_or(TextError::Malformed(what))?.copy_from_slice(bytes);
    Ok(all)
}

/// As `Inet6::to_string` in MariaDB's `sql_type_inet.cc`: unlike RFC 5952 it prints IPv4-compatible addresses with
/// points, and makes `::` of a single zero too.
fn inet6(address: Ipv6Addr, out: &mut Vec<u8>) {
    let words = address.segments();
    // The longest run of zeros, the first of several.
    let (mut gap, mut from) = (0..0, 0);
    for to in 0..=words.len() {
        if words.get(to) != Some(&0) {
            if to - from > gap.len() {
                gap = from..to;
            }
            from = to + 1;
        }
    }
    if gap.start == 0 && (gap.end == 6 || gap.end == 5 && words[5] == 0xffff) {
        let [.., a, b, c, d] = address.octets();
        let prefix = if gap.end == 6 { "::" } else { "::ffff:" };
        return put(out, format_args!("{prefix}{}", Ipv4Addr::new(a, b, c, d)));
    }
    for (i, word) in words.iter().enumerate() {
        if gap.contains(&i) {
            if i == gap.start {
                out.extend_from_slice(b"::");
            }
            continue;
        }
        if i > 0 && i != gap.end {
            out.push(b':');
        }
        put(out, format_args!("{word:x}"));
    }
}

fn label(column: &Column, index: u16, out: &mut Vec<u8>) -> Result<(), TextError> {
    if index == 0 {
        return Ok(());
    }
    if column.labels.is_empty() {
        return Err(TextError::Unknown { what: "the labels" });
    }
    match column.labels.get(usize::from(index) - 1) {
        Some(label) => out.extend_from_slice(label.as_bytes()),
        None => return Err(TextError::OutOfRange { what: "ENUM index", value: index.into() }),
    }
    Ok(())
}

fn labels(column: &Column, bits: u64, out: &mut Vec<u8>) -> Result<(), TextError> {
    if bits == 0 {
        return Ok(());
    }
    if column.labels.is_empty() {
        return Err(TextError::Unknown { what: "the labels" });
    }
    let mut first = true;
    for i in (0..64).filter(|i| bits >> i & 1 != 0) {
        let Some(label) = column.labels.get(i) else {
            return Err(TextError::OutOfRange { what: "SET bits", value: bits });
        };
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(label.as_bytes());
    }
    Ok(())
}
