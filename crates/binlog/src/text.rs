//! The server's own text form of a value.

use crate::table_map::Column;
use crate::value::Value;

/// A value that has no text form here.
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
    /// No text form yet.
    #[error("no text form of {0} yet")]
    NotYet(&'static str),
    /// No conversion from this character set.
    #[error("character set {0} is not supported")]
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
    /// Appends the text that `SELECT CONCAT(column)` gives on a utf8mb4 connection with `time_zone='+00:00'`, as
    /// UTF-8. Two exceptions: ZEROFILL is not applied (the binlog doesn't tell it), and binary strings and BIT
    /// give their bytes as they are.
    ///
    /// # Errors
    /// NULL and absent values have no text; nothing is appended on an error.
    pub fn write_text(&self, column: &Column, out: &mut Vec<u8>) -> Result<(), TextError> {
        let _ = (column, out);
        todo!()
    }
}
