//! Dates and times in rows: the forms before MySQL 5.6 (types 7, 11, 12) and since (17, 18, 19), as in the servers'
//! `my_time.cc` (`my_datetime_packed_to_binary` and its neighbours).

use crate::value::Value;

/// Digits behind the point → bytes of the fraction.
pub(crate) fn fraction_len(decimals: u8) -> usize {
    usize::from(decimals.div_ceil(2))
}

/// A big-endian number of up to eight bytes.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// A little-endian number of up to eight bytes.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// The fraction's bytes → microseconds: one byte holds hundredths, two 10⁻⁴, three 10⁻⁶.
fn micros(fraction: &[u8]) -> u64 {
    match fraction.len() {
        0 => 0,
        1 => be(fraction) * 10_000,
        2 => be(fraction) * 100,
        _ => be(fraction),
    }
}

/// `n` as a smaller integer, or no value.
fn small<T: TryFrom<u64>>(n: u64) -> Option<T> {
    T::try_from(n).ok()
}

/// DATE: day 5 bits, month 4, year 15.
pub(crate) fn date<'a>(bytes: &[u8]) -> Option<Value<'a>> {
    let n = le(bytes);
    Some(Value::Date { year: small(n >> 9)?, month: small(n >> 5 & 15)?, day: small(n & 31)? })
}

/// TIME before 5.6: ±HHMMSS as a number.
pub(crate) fn time<'a>(bytes: &[u8]) -> Option<Value<'a>> {
    let n = le(bytes);
    let negative = n & 0x80_0000 != 0;
    let n = if negative { 0x100_0000 - n } else { n };
    Some(Value::Time {
        negative,
        hours: small(n / 10_000)?,
        minutes: small(n / 100 % 100)?,
        seconds: small(n % 100)?,
        micros: 0,
        decimals: 0,
    })
}

/// TIME: 24 bits (sign 1, unused 1, hours 10, minutes 6, seconds 6) plus the fraction, as one number that is
/// offset by 2²³ of its upper part.
pub(crate) fn time2<'a>(bytes: &[u8], decimals: u8) -> Option<Value<'a>> {
    let fraction = bytes.len().checked_sub(3)?;
    let shift = 8 * fraction;
    let n = be(bytes);
    let zero = 0x80_0000_u64 << shift;
    let negative = n < zero;
    let n = n.abs_diff(zero);
    let (whole, part) = (n >> shift, n & ((1 << shift) - 1));
    let scale = [1, 10_000, 100, 1].get(fraction)?;
    Some(Value::Time {
        negative,
        hours: small(whole >> 12 & 0x3ff)?,
        minutes: small(whole >> 6 & 63)?,
        seconds: small(whole & 63)?,
        micros: if fraction == 0 { 0 } else { small(part * scale)? },
        decimals,
    })
}

/// DATETIME before 5.6: YYYYMMDDhhmmss as a number.
pub(crate) fn datetime<'a>(bytes: &[u8]) -> Option<Value<'a>> {
    let n = le(bytes);
    let (date, time) = (n / 1_000_000, n % 1_000_000);
    Some(Value::DateTime {
        year: small(date / 10_000)?,
        month: small(date / 100 % 100)?,
        day: small(date % 100)?,
        hour: small(time / 10_000)?,
        minute: small(time / 100 % 100)?,
        second: small(time % 100)?,
        micros: 0,
        decimals: 0,
    })
}

/// DATETIME: 40 bits (sign 1, year × 13 + month 17, day 5, hour 5, minute 6, second 6), then the fraction.
pub(crate) fn datetime2<'a>(bytes: &[u8], decimals: u8) -> Option<Value<'a>> {
    let (whole, fraction) = bytes.split_first_chunk::<5>()?;
    let n = be(whole).checked_sub(0x80_0000_0000)?;
    let (ymd, hms) = (n >> 17, n & 0x1_ffff);
    let ym = ymd >> 5;
    Some(Value::DateTime {
        year: small(ym / 13)?,
        month: small(ym % 13)?,
        day: small(ymd & 31)?,
        hour: small(hms >> 12)?,
        minute: small(hms >> 6 & 63)?,
        second: small(hms & 63)?,
        micros: small(micros(fraction))?,
        decimals,
    })
}

/// TIMESTAMP before 5.6: seconds, little-endian.
pub(crate) fn timestamp<'a>(bytes: &[u8]) -> Option<Value<'a>> {
    Some(Value::Timestamp { seconds: small(le(bytes))?, micros: 0, decimals: 0 })
}

/// TIMESTAMP: seconds, big-endian, then the fraction.
pub(crate) fn timestamp2<'a>(bytes: &[u8], decimals: u8) -> Option<Value<'a>> {
    let (whole, fraction) = bytes.split_first_chunk::<4>()?;
    Some(Value::Timestamp { seconds: u32::from_be_bytes(*whole), micros: small(micros(fraction))?, decimals })
}

/// Unix seconds → year, month, day of the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).
pub(crate) fn civil(seconds: u32) -> (u32, u32, u32) {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + u32::from(month <= 2), month, day)
}
