//! Why a table or a row can't be turned into keys.

use std::fmt;

use rowbust_binlog::{ColumnType, ProjectionError, TextError};

use super::RowImage;

/// A table or row that can't be turned into keys. But for [`RouteErrorKind::NeedsSchema`] it must stop the daemon
/// with the event's coordinates, which the caller adds: going on would leave stale keys behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteError {
    /// `schema.table`.
    pub table: String,
    /// Where in the config: index of the mapping, its line, and the part of it. `None` if it isn't about one.
    pub place: Option<Place>,
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
    /// A column of this type has no text form, so it can't stand in a key or in `when`.
    NoText {
        /// The column.
        column: String,
        /// Its type.
        column_type: ColumnType,
    },
    /// The column can't be taken out of the row.
    Projection(ProjectionError),
    /// The row images don't hold the column, and it can't be inferred.
    MissingColumn {
        /// The column.
        column: String,
        /// The image whose value is needed.
        image: RowImage,
    },
    /// The value has no text form.
    Text {
        /// The column.
        column: String,
        /// Why.
        source: TextError,
    },
    /// The key or field would be longer than [`rowbust_protocol::template::MAX_KEY_BYTES`].
    TooLong,
}

impl RouteError {
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
            RouteErrorKind::NoText { .. } => "use another column, or a generated column made from it".into(),
            RouteErrorKind::Projection(_) => "use another column".into(),
            RouteErrorKind::MissingColumn { .. } => {
                "set binlog_row_image=FULL on the source, for every session that writes".into()
            }
            RouteErrorKind::Text { .. } => "use another column, or exclude the table".into(),
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
            RouteErrorKind::NoText { column, column_type } => {
                write!(f, "column `{column}` is {column_type}, which has no text form")?;
            }
            RouteErrorKind::Projection(error) => error.fmt(f)?,
            RouteErrorKind::MissingColumn { column, image } => {
                write!(f, "the row image does not tell the value of `{column}` {image} the change")?;
            }
            RouteErrorKind::Text { column, source } => write!(f, "column `{column}`: {source}")?,
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
