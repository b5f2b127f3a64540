//! Decoded column values. Two values of one column that are equal are the same value on the server. The reverse holds but for
//! [`Value::Compressed`], of which one text has several forms, and [`Value::JsonDiff`].

/// One column of one row image.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Not in this image (`binlog_row_image` MINIMAL or NOBLOB): not the same as NULL.
    Absent,
    /// NULL.
    Null,
    /// An integer with a sign, or one whose sign isn't known, which then has no text form.
    Int(i64),
    /// An integer without a sign.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL, in the server's binary form.
    Decimal {
        /// Binary form (`decimal2bin`).
        bytes: &'a [u8],
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// CHAR, VARCHAR, TEXT in the column's character set, or a column of which it isn't known whether it is one.
    Str(&'a [u8]),
    /// BINARY (without its trailing zero bytes), VARBINARY, BLOB.
    Bytes(&'a [u8]),
    /// DATE; parts may be 0.
    Date {
        /// 0 to 9999.
        year: u16,
        /// 0 to 12.
        month: u8,
        /// 0 to 31.
        day: u8,
    },
    /// TIME.
    Time {
        /// Below zero.
        negative: bool,
        /// 0 to 838.
        hours: u16,
        /// 0 to 59.
        minutes: u8,
        /// 0 to 59.
        seconds: u8,
        /// Microseconds.
        micros: u32,
        /// Digits behind the point, 0 to 6.
        decimals: u8,
    },
    /// DATETIME; parts may be 0.
    DateTime {
        /// 0 to 9999.
        year: u16,
        /// 0 to 12.
        month: u8,
        /// 0 to 31.
        day: u8,
        /// 0 to 23.
        hour: u8,
        /// 0 to 59.
        minute: u8,
        /// 0 to 59.
        second: u8,
        /// Microseconds.
        micros: u32,
        /// Digits behind the point, 0 to 6.
        decimals: u8,
    },
    /// TIMESTAMP, in UTC; 0 is the zero date.
    Timestamp {
        /// Seconds since 1970.
        seconds: u32,
        /// Microseconds.
        micros: u32,
        /// Digits behind the point, 0 to 6.
        decimals: u8,
    },
    /// YEAR: 0, or 1901 to 2155.
    Year(u16),
    /// ENUM: index from 1; 0 is the empty string of a wrong value.
    Enum(u16),
    /// SET: one bit per label, the first lowest.
    Set(u64),
    /// BIT, big-endian.
    Bit(&'a [u8]),
    /// MariaDB's COMPRESSED CHAR, TEXT and BLOB columns, as stored.
    Compressed(&'a [u8]),
    /// MySQL's binary JSON: [`crate::json::Document`].
    Json(&'a [u8]),
    /// What changed in a JSON column since the before image (`binlog_row_value_options=PARTIAL_JSON`): the vector of
    /// differences as the event has it, without the length in front. Empty: nothing changed.
    JsonDiff(&'a [u8]),
    /// SRID and WKB.
    Geometry(&'a [u8]),
    /// MySQL 9: VECTOR, 32-bit floats.
    Vector(&'a [u8]),
}
