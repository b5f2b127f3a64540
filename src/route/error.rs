//! Why a table or a row can't be turned into keys.

use std::fmt;

use rowbust_binlog::{ColumnType, ProjectionError, TextError};

use super::RowImage;

/// A table or row that can't be turned into keys. But for [`RouteErrorKind::NeedsSchema`], and for
/// [`RouteErrorKind::Undecodable`] if the table's whole keyspace is removed instead, it must stop the daemon with the event's
/// coordinates, which the caller adds: going on would leave stale keys behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteError {
    /// `schema.table`.
    pub table: String,
    /// Where in the config: index of the mapping, its line, and the part of it. `None` if it isn't about one.
    pub place: Option<Box<Place>>,
    /// What is wrong.
    pub kind: RouteErrorKind,
}

/// The part of the config that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index into [`crate::config::Config::mappings`].
    pub mapping: usize,
    /// Line in the config's file.
    pub line: usize,
    /// `when`, `when_changed`, or the template.
    pub part: String,
}

/// What is wrong in a [`RouteError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteErrorKind {
    /// The table map lacks the columns' names or types: complete it from `information_schema` and plan again.
    NeedsSchema,
    /// The mapping names a column that the table lacks.
    UnknownColumn {
        /// The name in the config.
        column: String,
        /// A column of the table with a similar name.
        similar: Option<String>,
    },
    /// A template has a path into a column that is neither JSON nor text.
    NotJson {
        /// The column.
        column: String,
        /// Its type.
        column_type: ColumnType,
    },
    /// A template has a path into a text column of MySQL.
    TextPath {
        /// The column.
        column: String,
    },
    /// The column can't be taken out of the row.
    Projection(ProjectionError),
    /// A value that a key or a condition needs can't be had from this row.
    Undecodable {
        /// The column, with its path.
        column: String,
        /// The image whose value is needed.
        image: RowImage,
        /// Why.
        why: Undecodable,
    },
    /// The key or field would be longer than [`rowbust_protocol::template::MAX_KEY_BYTES`].
    TooLong,
}

/// Why a value can't be had from a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecodable {
    /// The row images leave the column out (`binlog_row_image` MINIMAL or NOBLOB), and it can't be inferred.
    Absent,
    /// The value has no text form.
    Text(TextError),
}

impl RouteError {
    /// Whether only this row's keys can't be known, while those of other rows can: all keys of its mappings may be removed
    /// instead.
    pub fn is_undecodable(&self) -> bool {
        matches!(self.kind, RouteErrorKind::Undecodable { .. })
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match &self.kind {
            RouteErrorKind::NeedsSchema => {
                "set binlog_row_metadata=FULL, or grant SELECT on the table so that its columns can be read"
                    .into()
            }
            RouteErrorKind::UnknownColumn { similar: Some(similar), .. } => {
                format!("write `{similar}`, or narrow the mapping's `table`")
            }
            RouteErrorKind::UnknownColumn { similar: None, .. } => {
                "name a column of the table, or narrow the mapping's `table`".into()
            }
            RouteErrorKind::NotJson { .. } => "write the path behind a JSON or text column".into(),
            RouteErrorKind::TextPath { .. } => {
                "make it a JSON column, or put a generated column in the key, such as `sku VARCHAR(40) AS (JSON_VALUE(doc, '$.sku'))`".into()
            }
            RouteErrorKind::Projection(_) => "use another column".into(),
            RouteErrorKind::Undecodable {
                why: Undecodable::Absent | Undecodable::Text(TextError::NoDocument),
                ..
            } => "set binlog_row_image=FULL on the source, for every session that writes; a generated column, which MariaDB \
                  11.8 leaves out even so, can't be part of a key"
                .into(),
            RouteErrorKind::Undecodable { .. } => "use another column, or exclude the table".into(),
            RouteErrorKind::TooLong => "use a shorter column, such as a digest kept beside it".into(),
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.table)?;
        match &self.kind {
            RouteErrorKind::NeedsSchema => {
                f.write_str("the binlog does not tell the columns' names or types")?
            }
            RouteErrorKind::UnknownColumn { column, .. } => write!(f, "the table has no column `{column}`")?,
            RouteErrorKind::NotJson { column, column_type } => {
                write!(f, "column `{column}` is {column_type}, which is no JSON")?;
            }
            RouteErrorKind::TextPath { column } => write!(
                f,
                "column `{column}` is text, in which MySQL doesn't find a path as it is written: of members with one key the last \
                 counts, and numbers are printed anew"
            )?,
            RouteErrorKind::Projection(error) => error.fmt(f)?,
            RouteErrorKind::Undecodable { column, image, why: Undecodable::Absent } => {
                write!(f, "the row image does not tell the value of `{column}` {image} the change")?;
            }
            RouteErrorKind::Undecodable { column, image, why: Undecodable::Text(why) } => {
                write!(f, "column `{column}` {image} the change: {why}")?;
            }
            RouteErrorKind::TooLong => {
                write!(f, "a key is longer than {} bytes", rowbust_protocol::template::MAX_KEY_BYTES)?;
            }
        }
        match &self.place {
            Some(place) => write!(f, " (mappings[{}], line {}: {})", place.mapping, place.line, place.part),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RouteError {}
