//! The one error of decoding: which event, where in it, and what was wrong.

use crate::header::event_name;

/// Bytes that contradict the format. Never a lost connection: retrying the same bytes gives the same error.
///
/// ```
/// use rowbust_binlog::{DecodeError, DecodeErrorKind, FileEvents};
/// let error: DecodeError = FileEvents::new(b"no binlog").unwrap_err();
/// assert_eq!((error.event_type, error.offset), (0, 0));
/// assert!(matches!(error.kind, DecodeErrorKind::Invalid { what: "magic number", .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} event (type {event_type}), byte {offset}: {kind}", event_name(*event_type))]
pub struct DecodeError {
    /// Type of the event, 0 where not even the header could be read.
    pub event_type: u8,
    /// Byte offset within the event, counted from the first byte of its header.
    pub offset: usize,
    /// What was wrong.
    pub kind: DecodeErrorKind,
}

/// What was wrong in a [`DecodeError`].
///
/// Example: see [`DecodeError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The event ends before a field does.
    #[error("{what} needs {needed} bytes, {left} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are left in the event.
        left: usize,
    },
    /// The CRC32 at the end of the event is not that of its bytes.
    #[error("checksum is {stored:#010x}, the bytes give {computed:#010x}")]
    Checksum {
        /// As stored behind the event.
        stored: u32,
        /// As computed over header and body.
        computed: u32,
    },
    /// A field has a value that the format doesn't allow.
    #[error("{what} can't be {got}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// The value found.
        got: u64,
    },
    /// Bytes that must be text are not.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// A tag that isn't one.
    #[error("tag with letters that no tag has")]
    BadTag,
    /// Compressed bytes that can't be inflated.
    #[error("{reason}, {produced} bytes inflated")]
    Inflate {
        /// What is wrong.
        reason: &'static str,
        /// Bytes that came out before.
        produced: u64,
    },
    /// A file that the server has encrypted: only the server can read it.
    #[error("the file is encrypted from byte {position} on (read it from the server)")]
    Encrypted {
        /// Offset in the file.
        position: u64,
    },
    /// Row events refer to a table id that no table map of this transaction gave.
    #[error("no table map for table id {table_id} in this transaction")]
    NoTableMap {
        /// The table id.
        table_id: u64,
    },
    /// A row event and its table map disagree about the columns.
    #[error("{got} columns, but the table map has {expected}")]
    ColumnCount {
        /// Columns in the table map, or in the projection.
        expected: usize,
        /// Columns found.
        got: u64,
    },
    /// A column type whose length in a row isn't known, so that the row can't be walked.
    #[error("column {column} has type {type_code}, which is not supported yet")]
    ColumnType {
        /// Index of the column, from 0.
        column: usize,
        /// The type's code in the table map.
        type_code: u8,
    },
    /// One transaction has more tables than the decoder keeps maps for.
    #[error("more than {limit} tables in one transaction")]
    TooManyTables {
        /// The limit.
        limit: usize,
    },
    /// The event came before any format description event.
    #[error("no format description event yet")]
    NoFormatDescription,
}

impl DecodeError {
    /// An error at `offset` bytes from the start of an event of type `event_type`.
    #[cold]
    pub fn new(event_type: u8, offset: usize, kind: DecodeErrorKind) -> Self {
        Self { event_type, offset, kind }
    }
}
