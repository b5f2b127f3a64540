//! MySQL and MariaDB binlog bytes → events, table maps, row images, GTID sets.
//!
//! Guarantees: no I/O, no panic on any input, and no allocation whose size the input dictates (lengths are
//! checked against the bytes at hand first; what is inflated grows a buffer by what was really there, up to
//! [`MAX_EVENT`]). What is kept between events: [`decoder::MAX_TABLES`] table maps of at most 16 MiB, and one event's
//! buffers in [`PayloadReader`] and [`Inflater`] each, which are let go when they are larger than 16 MiB. Whatever can't be decoded exactly is an error with its offset, or
//! an [`Event::Unsupported`]; nothing is skipped in silence. Depends on nothing else of this project.
//!
//! The parts, in the order in which an event passes them:
//! - [`mod@file`]: the events of a binlog file image; over the network the source frames them itself.
//! - [`header`]: the common header, event types, the CRC32 ([`RawEvent`]).
//! - [`inflate`]: MariaDB's compressed events, each into the plain one.
//! - [`decoder`]: the format description, table ids and their maps; one [`Event`] per raw event.
//! - [`payload`]: MySQL's compressed transactions, event by event.
//! - [`table_map`] and [`schema`]: columns as the binlog describes them, completed from `information_schema`.
//! - [`projection`] and [`rows`]: a precompiled walk over row images that decodes only the columns asked for.
//! - [`value`] and [`text`]: decoded values, and the server's own text form of each.
//! - [`json`]: JSON documents, paths into them, partial updates.
//! - [`xid`]: ids of XA transactions.
//! - [`gtid`]: GTIDs, GTID sets and positions of both flavours.

pub mod charset;
pub mod column_type;
pub mod decoder;
pub mod error;
pub mod event;
pub mod file;
pub mod flavor;
pub mod gtid;
pub mod header;
pub mod inflate;
pub mod json;
pub mod payload;
pub mod projection;
pub mod rows;
pub mod schema;
pub mod table_map;
pub mod text;
pub mod value;
pub mod xid;

mod compressed;
mod crc;
mod decimal;
mod metadata;
mod reader;
mod temporal;
mod varlen;

pub use column_type::ColumnType;
pub use decoder::Decoder;
pub use error::{DecodeError, DecodeErrorKind};
pub use event::{Event, FormatDescription, GtidEvent, Query, XaPhase, XaPrepare};
pub use file::FileEvents;
pub use flavor::Flavor;
pub use gtid::{Gtid, GtidParseError, GtidSet, GtidState, MariaGtid, MariaGtidPos, Tag, Tsid, Uuid};
pub use header::{Header, MAX_EVENT, RawEvent, event_name, event_type};
pub use inflate::Inflater;
pub use payload::{Payload, PayloadReader};
pub use projection::{Projection, ProjectionError};
pub use rows::{RowCursor, RowKind, RowSlots, Rows};
pub use schema::{SchemaColumn, SchemaMismatch};
pub use table_map::{Column, TableMap};
pub use text::TextError;
pub use value::Value;
pub use xid::{Xid, XidBuf};
