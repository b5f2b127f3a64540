//! Table maps: the columns of a table as the row events behind them store them.

use crate::column_type::ColumnType;
use crate::error::DecodeError;
use crate::schema::{SchemaColumn, SchemaMismatch};

/// One column of a table map.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// The real type: ENUM and SET are told apart from CHAR, which the raw type code does not.
    pub column_type: ColumnType,
    /// What the type's length depends on: see [`Column::decimals`] and its neighbours.
    pub meta: u16,
    /// May be NULL.
    pub nullable: bool,
    /// Its name, with `binlog_row_metadata=FULL` or after [`TableMap::complete`].
    pub name: Option<String>,
    /// Integers and decimals: has no sign. MySQL always tells, MariaDB not by default.
    pub unsigned: Option<bool>,
    /// Strings: the collation's id; 63 is binary.
    pub collation: Option<u16>,
    /// ENUM and SET: the labels in UTF-8, with metadata FULL or after [`TableMap::complete`].
    pub labels: Vec<String>,
    /// `DATA_TYPE` after [`TableMap::complete`]: MariaDB logs UUID, INET4 and INET6 as BINARY.
    pub data_type: Option<String>,
    /// The D of `FLOAT(M,D)`, after [`TableMap::complete`].
    pub float_decimals: Option<u8>,
    /// Part of the primary key: only with metadata FULL, else false.
    pub primary_key: bool,
}

/// A table as one TABLE_MAP event describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableMap {
    /// The server's id of this version of the table; another one after each ALTER or restart.
    pub table_id: u64,
    /// Schema (database).
    pub schema: String,
    /// Table.
    pub table: String,
    /// Columns, in the table's order.
    pub columns: Vec<Column>,
}

impl TableMap {
    /// Adds what `information_schema` says where the binlog's metadata is silent. `columns`: all columns of the
    /// table, by `ORDINAL_POSITION`.
    ///
    /// Fails, and changes nothing, if the columns can't be those that were logged: the table was altered in
    /// between.
    pub fn complete(&mut self, columns: &[SchemaColumn]) -> Result<(), SchemaMismatch> {
        let _ = columns;
        todo!()
    }

    /// Everything that a text form needs is known: [`TableMap::complete`] would add nothing to column `index`.
    pub fn is_complete(&self, index: usize) -> bool {
        let _ = index;
        todo!()
    }

    /// The index of the column with this name, compared as the server compares: letter case doesn't count.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        let _ = name;
        todo!()
    }

    pub(crate) fn parse(body: &[u8], event_type: u8, id_len: usize) -> Result<Self, DecodeError> {
        let _ = (body, event_type, id_len);
        todo!()
    }
}
