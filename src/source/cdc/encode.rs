//! The crate's values back to a row event's bytes.
//!
//! Guarantees: every value that is handed on is, byte by byte, the one that the event had. A column of which the crate gives less
//! (microseconds) is taken out of the event's images; an event that it gets wrong otherwise, or can't read, becomes one whose
//! first row can't be decoded: who needs the column or the row stops there, and nobody else.

use mysql_cdc::events::{
    binlog_event::BinlogEvent,
    row_events::{mysql_value::MySqlValue, row_data::RowData},
    table_map_event::TableMapEvent,
};
use rowbust_binlog::Header;
use tracing::debug;

/// One row event.
pub(super) struct Encoder<'a> {
    payload: &'a [u8],
    checksum: bool,
}

/// An image: which columns it has, and their values.
type Image<'r> = (&'r [bool], &'r RowData);

/// An event taken apart: what stands before the number of columns, and what stands behind the bitmaps of columns.
struct Parts<'a> {
    header: Header,
    head: &'a [u8],
    columns: usize,
    bitmaps: &'a [u8],
    rows: &'a [u8],
}

impl<'a> Encoder<'a> {
    pub(super) fn new(payload: &'a [u8], checksum: bool) -> Self {
        Self { payload, checksum }
    }

    /// The payload to hand on: `event` encoded again, or one that can't be decoded.
    pub(super) fn rows(&self, event: Option<&BinlogEvent>, table: Option<&TableMapEvent>) -> Vec<u8> {
        let Some(parts) = self.parts() else { return self.payload.to_vec() };
        event.zip(table).and_then(|(event, table)| self.encode(&parts, event, table)).unwrap_or_else(|| {
            debug!(end_position = parts.header.log_pos, "a row event that mysql_cdc can't give in full");
            // NULL nowhere, and no value: whoever looks at the first row finds it cut off.
            let nulls = vec![0; parts.columns.div_ceil(8).max(1)];
            let body = [parts.head, parts.bitmaps, &nulls[..1]].concat();
            super::event(parts.header, &body, self.checksum)
        })
    }

    fn parts(&self) -> Option<Parts<'a>> {
        let event = self.payload.get(1..)?;
        let header = Header::parse(event).ok()?;
        let end = event.len().checked_sub(if self.checksum { 4 } else { 0 })?;
        let body = event.get(Header::LEN..end)?;
        let v2 = header.event_type >= rowbust_binlog::event_type::WRITE_ROWS_V2;
        // Table id, flags; in version 2 a length that counts itself, and what it counts.
        let mut at = 8;
        if v2 {
            at += usize::from(u16::from_le_bytes(*body.get(at..)?.first_chunk()?));
        }
        let (columns, len) = match *body.get(at..)? {
            [n @ 0..=250, ..] => (usize::from(n), 1),
            [252, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 3),
            _ => return None,
        };
        at += len;
        use rowbust_binlog::event_type as t;
        let update = matches!(header.event_type, t::UPDATE_ROWS_V1 | t::UPDATE_ROWS_V2);
        let bitmaps = columns.div_ceil(8) * if update { 2 } else { 1 };
        Some(Parts {
            header,
            head: body.get(..at)?,
            columns,
            bitmaps: body.get(at..at + bitmaps)?,
            rows: body.get(at + bitmaps..)?,
        })
    }

    fn encode(&self, parts: &Parts<'_>, event: &BinlogEvent, table: &TableMapEvent) -> Option<Vec<u8>> {
        let images: Vec<Image<'_>> = match event {
            BinlogEvent::WriteRowsEvent(e) => e.rows.iter().map(|r| (&*e.columns_present, r)).collect(),
            BinlogEvent::DeleteRowsEvent(e) => e.rows.iter().map(|r| (&*e.columns_present, r)).collect(),
            BinlogEvent::UpdateRowsEvent(e) => e
                .rows
                .iter()
                .flat_map(|r| {
                    [
                        (&*e.columns_before_update, &r.before_update),
                        (&*e.columns_after_update, &r.after_update),
                    ]
                })
                .collect(),
            _ => return None,
        };
        let types: Vec<Type> = table
            .column_types
            .iter()
            .zip(&table.column_metadata)
            .map(|(code, meta)| Type::new(*code, *meta))
            .collect::<Option<_>>()?;
        if types.len() != parts.columns {
            return None;
        }
        let less = compare(&types, &images, parts.rows)?;
        // Columns of which the crate gives less are left out of every image.
        let mut bitmaps = parts.bitmaps.to_vec();
        for (index, byte) in bitmaps.iter_mut().enumerate() {
            for bit in 0..8 {
                let column = index % parts.columns.div_ceil(8) * 8 + bit;
                if less.get(column) == Some(&true) {
                    *byte &= !(1 << bit);
                }
            }
        }
        let mut body = [parts.head, &bitmaps].concat();
        for (present, row) in images {
            let kept: Vec<usize> =
                (0..types.len()).filter(|&i| present.get(i) == Some(&true) && !less[i]).collect();
            nulls(kept.iter().map(|&i| row.cells.get(i).is_none_or(Option::is_none)), &mut body);
            for i in kept {
                if let Some(Some(value)) = row.cells.get(i) {
                    types[i].encode(value, &mut body)?;
                }
            }
        }
        Some(super::event(parts.header, &body, self.checksum))
    }
}

/// Compares every value with the bytes that it came from. Which columns the crate gives less of; `None` if anything else differs.
fn compare(types: &[Type], images: &[Image<'_>], mut rows: &[u8]) -> Option<Vec<bool>> {
    let mut less = vec![false; types.len()];
    let mut bytes = Vec::new();
    for (present, row) in images {
        let columns: Vec<usize> = (0..types.len()).filter(|&i| present.get(i) == Some(&true)).collect();
        let len = columns.len().div_ceil(8);
        let (stored, rest) = rows.split_at_checked(len)?;
        rows = rest;
        for (nth, &i) in columns.iter().enumerate() {
            let null = stored[nth / 8] >> (nth % 8) & 1 != 0;
            let cell = row.cells.get(i)?.as_ref();
            if null != cell.is_none() {
                return None;
            }
            let Some(value) = cell else { continue };
            bytes.clear();
            types[i].encode(value, &mut bytes)?;
            let (stored, rest) = rows.split_at_checked(bytes.len())?;
            rows = rest;
            if stored != bytes {
                if !types[i].has_fraction() {
                    return None;
                }
                less[i] = true;
            }
        }
    }
    rows.is_empty().then_some(less)
}

fn nulls(values: impl ExactSizeIterator<Item = bool>, out: &mut Vec<u8>) {
    let mut bitmap = vec![0; values.len().div_ceil(8)];
    for (i, null) in values.enumerate() {
        bitmap[i / 8] |= u8::from(null) << (i % 8);
    }
    out.extend(bitmap);
}

/// A column's real type and what its length depends on.
#[derive(Debug, Clone, Copy)]
struct Type {
    code: u8,
    meta: u16,
}

/// Type codes of the servers' `enum_field_types`.
mod code {
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const TIME: u8 = 11;
    pub(super) const DATETIME: u8 = 12;
    pub(super) const TIMESTAMP2: u8 = 17;
    pub(super) const DATETIME2: u8 = 18;
    pub(super) const TIME2: u8 = 19;
    pub(super) const STRING: u8 = 254;
}

impl Type {
    /// The crate's metadata of a CHAR, ENUM or SET is the real type and the length, of which two bits stand in the type.
    fn new(code: u8, meta: u16) -> Option<Self> {
        if code != code::STRING {
            return Some(Self { code, meta });
        }
        let [real, len] = meta.to_be_bytes();
        Some(Self { code: real | 0x30, meta: u16::from(len) | u16::from((real & 0x30) ^ 0x30) << 4 })
    }

    fn has_fraction(self) -> bool {
        matches!(self.code, code::TIMESTAMP2 | code::DATETIME2 | code::TIME2)
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the bytes are compared with those that the value came from"
    )]
    fn encode(self, value: &MySqlValue, out: &mut Vec<u8>) -> Option<()> {
        use MySqlValue as V;
        match value {
            V::TinyInt(n) => out.push(*n),
            V::SmallInt(n) => out.extend(n.to_le_bytes()),
            V::MediumInt(n) => out.extend(&n.to_le_bytes()[..3]),
            V::Int(n) => out.extend(n.to_le_bytes()),
            V::BigInt(n) => out.extend(n.to_le_bytes()),
            V::Float(n) => out.extend(n.to_le_bytes()),
            V::Double(n) => out.extend(n.to_le_bytes()),
            V::Decimal(text) => {
                let [precision, scale] = self.meta.to_le_bytes();
                decimal(text, precision.into(), scale.into(), out)?;
            }
            V::String(text) => {
                let len = text.len().to_le_bytes();
                out.extend(&len[..if self.meta > 255 { 2 } else { 1 }]);
                out.extend(text.as_bytes());
            }
            V::Blob(bytes) => {
                out.extend(bytes.len().to_le_bytes().get(..self.meta.into())?);
                out.extend(bytes);
            }
            V::Bit(bits) => {
                let number = bits.iter().fold(0_u64, |n, &bit| n << 1 | u64::from(bit));
                let len = bits.len().div_ceil(8);
                out.extend(number.to_be_bytes().get(8 - len.min(8)..)?);
            }
            V::Enum(n) => out.extend(n.to_le_bytes().get(..self.meta.into())?),
            V::Set(n) => out.extend(n.to_le_bytes().get(..self.meta.into())?),
            V::Year(year) => out.push(year.checked_sub(1900)? as u8),
            V::Date(d) => {
                let n = u32::from(d.year) << 9 | u32::from(d.month) << 5 | u32::from(d.day);
                out.extend(&n.to_le_bytes()[..3]);
            }
            V::Time(time) => {
                let hour = u32::try_from(time.hour).ok()?;
                let (minute, second) = (u32::from(time.minute), u32::from(time.second));
                if self.code == code::TIME {
                    out.extend(&(hour * 10_000 + minute * 100 + second).to_le_bytes()[..3]);
                } else {
                    let n = 0x80_0000 | hour << 12 | minute << 6 | second;
                    out.extend(&n.to_be_bytes()[1..]);
                    self.fraction(time.millis, out)?;
                }
            }
            V::DateTime(t) => {
                let [year, month, day]: [u64; 3] = [t.year.into(), t.month.into(), t.day.into()];
                let [hour, minute, second]: [u64; 3] = [t.hour.into(), t.minute.into(), t.second.into()];
                if self.code == code::DATETIME {
                    let date = year * 10_000 + month * 100 + day;
                    out.extend((date * 1_000_000 + hour * 10_000 + minute * 100 + second).to_le_bytes());
                } else {
                    let date = (year * 13 + month) << 5 | day;
                    let n = 0x80_0000_0000 | date << 17 | hour << 12 | minute << 6 | second;
                    out.extend(&n.to_be_bytes()[3..]);
                    self.fraction(t.millis, out)?;
                }
            }
            V::Timestamp(millis) => {
                let seconds = u32::try_from(millis / 1000).ok()?;
                if self.code == code::TIMESTAMP {
                    out.extend(seconds.to_le_bytes());
                } else {
                    out.extend(seconds.to_be_bytes());
                    self.fraction((millis % 1000) as u32, out)?;
                }
            }
        }
        Some(())
    }

    /// Digits behind the second's point: two for each byte.
    fn fraction(self, millis: u32, out: &mut Vec<u8>) -> Option<()> {
        let len = usize::from(self.meta.div_ceil(2));
        let unit = *[1, 10_000, 100, 1].get(len)?;
        out.extend(&(millis * 1000 / unit).to_be_bytes()[4 - len..]);
        Some(())
    }
}

/// `decimal2bin` in the servers' `strings/decimal.c`: groups of nine digits from the point on, the first byte's highest bit
/// turned over; below zero all of it inverted.
fn decimal(text: &str, precision: usize, scale: usize, out: &mut Vec<u8>) -> Option<()> {
    /// Bytes of so many digits.
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = precision.checked_sub(scale)?;
    let whole = whole.trim_start_matches('0');
    if whole.len() > digits
        || part.len() != scale
        || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let whole = format!("{whole:0>digits$}");
    let from = out.len();
    let mut group = |digits: &str| -> Option<()> {
        let n: u32 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        out.extend(&n.to_be_bytes()[4 - BYTES.get(digits.len())?..]);
        Some(())
    };
    let (first, groups) = whole.split_at(digits % 9);
    group(first)?;
    for nine in groups.as_bytes().chunks(9) {
        group(std::str::from_utf8(nine).ok()?)?;
    }
    for nine in part.as_bytes().chunks(9) {
        group(std::str::from_utf8(nine).ok()?)?;
    }
    *out.get_mut(from)? ^= 0x80;
    if negative {
        out[from..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn decimals_as_the_server_stores_them() {
        let encode = |text, precision, scale| {
            let mut out = Vec::new();
            decimal(text, precision, scale, &mut out).map(|()| out)
        };
        // The manual's example of `decimal2bin`: 1234567890.1234 as DECIMAL(14,4).
        assert_eq!(encode("1234567890.1234", 14, 4).unwrap(), [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2]);
        assert_eq!(encode("-1234567890.1234", 14, 4).unwrap(), [0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d]);
        assert_eq!(encode("0.5", 1, 1).unwrap(), [0x85]);
        assert_eq!(encode("123", 2, 0), None);
        assert_eq!(encode("1.x", 2, 1), None);
    }

    #[test]
    fn what_the_crate_cuts_off_is_left_out() {
        let types = [Type::new(8, 0).unwrap(), Type::new(code::DATETIME2, 6).unwrap()];
        let time = |millis| {
            MySqlValue::DateTime(mysql_cdc::events::row_events::mysql_value::DateTime {
                year: 2024,
                month: 2,
                day: 29,
                hour: 12,
                minute: 34,
                second: 56,
                millis,
            })
        };
        let row = RowData::new(vec![Some(MySqlValue::BigInt(7)), Some(time(789))]);
        let stored = |micros: u32| {
            let mut bytes = vec![0];
            types[0].encode(&MySqlValue::BigInt(7), &mut bytes).unwrap();
            types[1].encode(&time(0), &mut bytes).unwrap();
            let at = bytes.len() - 3;
            bytes.truncate(at);
            bytes.extend(&micros.to_be_bytes()[1..]);
            bytes
        };
        let images = [(&[true, true][..], &row)];
        assert_eq!(compare(&types, &images, &stored(789_000)).unwrap(), [false, false]);
        assert_eq!(compare(&types, &images, &stored(789_012)).unwrap(), [false, true]);
        let mut wrong = stored(789_000);
        wrong[1] = 8;
        assert_eq!(compare(&types, &images, &wrong), None);
        assert_eq!(compare(&types, &images, &[stored(789_000), vec![0]].concat()), None);
    }
}
