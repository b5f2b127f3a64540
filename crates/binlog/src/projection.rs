//! Which columns to take out of a row image, and how to pass over all others, compiled once per table version.

use crate::table_map::TableMap;

/// Columns that can't be projected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// No such column.
    #[error("column {index}, but the table has {columns}")]
    NoColumn {
        /// The index asked for, from 0.
        index: usize,
        /// Columns of the table.
        columns: usize,
    },
    /// Not in ascending order, or one twice.
    #[error("columns must be in ascending order, each once")]
    Order,
    /// MariaDB COMPRESSED columns.
    #[error("column {index} is {column_type}: not supported yet")]
    Unsupported {
        /// The index asked for, from 0.
        index: usize,
        /// Its type.
        column_type: crate::ColumnType,
    },
}

/// A compiled walk over the row images of one table map.
#[derive(Debug, Clone)]
pub struct Projection {
    taken: Vec<usize>,
}

impl Projection {
    /// Takes `columns`: indices into [`TableMap::columns`], ascending. Made again when a slot is `fresh`, and after
    /// [`TableMap::complete`].
    pub fn new(map: &TableMap, columns: &[usize]) -> Result<Self, ProjectionError> {
        let _ = (map, columns);
        todo!()
    }

    /// The columns taken: position `i` of [`crate::RowSlots`] is column `columns()[i]`.
    pub fn columns(&self) -> &[usize] {
        &self.taken
    }
}
