//! What `information_schema.COLUMNS` says about a column, for what the binlog leaves out.

use crate::column_type::ColumnType;

/// One column as the server describes it now.
///
/// ```
/// use rowbust_binlog::SchemaColumn;
/// // SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS …
/// let stock = SchemaColumn::new("stock", "int", "int(10) unsigned", None);
/// assert!(stock.unsigned);
/// let size = SchemaColumn::new("size", "enum", "enum('S','M','L')", Some("utf8mb4"));
/// assert_eq!(size.labels, ["S", "M", "L"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaColumn {
    /// `COLUMN_NAME`.
    pub name: String,
    /// `DATA_TYPE`, lower case: `int`, `varchar`, `enum`, `uuid`.
    pub data_type: String,
    /// `COLUMN_TYPE` says `unsigned` (ZEROFILL implies it).
    pub unsigned: bool,
    /// `CHARACTER_SET_NAME`; `None` for what has none, as BLOB and INT.
    pub charset: Option<String>,
    /// The labels of ENUM and SET.
    pub labels: Vec<String>,
    /// The D of `FLOAT(M,D)` and `DOUBLE(M,D)`, which the server prints with D decimals.
    pub float_decimals: Option<u8>,
    /// Digits behind the point of TIME, DATETIME and TIMESTAMP.
    pub time_decimals: u8,
}

/// The table isn't the one that the binlog wrote about: it was altered since.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, SchemaColumn, SchemaMismatch};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.bare.binlog")?;
/// let mut decoder = Decoder::new();
/// for raw in FileEvents::new(&file)? {
///     if let Event::TableMap { slot, .. } = decoder.decode(&raw?)? {
///         // The table had more columns when the event was written.
///         let now = [SchemaColumn::new("id", "int", "int", None)];
///         let refused = decoder.table_mut(slot).complete(&now);
///         assert!(matches!(refused, Err(SchemaMismatch::ColumnCount { now: 1, .. })));
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaMismatch {
    /// Another number of columns.
    #[error("{table} has {now} columns now, {logged} in the binlog")]
    ColumnCount {
        /// `schema.table`.
        table: String,
        /// Columns in the binlog.
        logged: usize,
        /// Columns now.
        now: usize,
    },
    /// A column can't be the same one.
    #[error("{table}: column {column} is `{name}` {now} now, {logged} in the binlog")]
    Column {
        /// `schema.table`.
        table: String,
        /// Index of the column, from 0.
        column: usize,
        /// Its name now.
        name: String,
        /// Its type now.
        now: String,
        /// Its type or name in the binlog.
        logged: String,
    },
}

impl SchemaColumn {
    /// From the columns of `information_schema.COLUMNS` of these names.
    pub fn new(
        column_name: &str,
        data_type: &str,
        column_type: &str,
        character_set_name: Option<&str>,
    ) -> Self {
        let data_type = data_type.to_ascii_lowercase();
        let attributes = column_type.to_ascii_lowercase();
        let (mut labels, mut float_decimals, mut time_decimals) = (Vec::new(), None, 0);
        match data_type.as_str() {
            "enum" | "set" => labels = parse_labels(column_type),
            "float" | "double" => {
                float_decimals = attributes
                    .split_once(',')
                    .and_then(|(_, rest)| rest.split_once(')'))
                    .and_then(|(decimals, _)| decimals.trim().parse().ok());
            }
            "time" | "datetime" | "timestamp" => {
                time_decimals = attributes
                    .split_once('(')
                    .and_then(|(_, rest)| rest.split_once(')'))
                    .and_then(|(decimals, _)| decimals.trim().parse().ok())
                    .unwrap_or(0);
            }
            _ => {}
        }
        Self {
            name: column_name.to_owned(),
            unsigned: attributes.split_whitespace().any(|word| matches!(word, "unsigned" | "zerofill")),
            data_type,
            charset: character_set_name.map(str::to_ascii_lowercase),
            labels,
            float_decimals,
            time_decimals,
        }
    }

    /// Can a column of this `DATA_TYPE` be logged as `logged`? True where it can't be told.
    pub(crate) fn fits(&self, logged: ColumnType) -> bool {
        use ColumnType as T;
        match self.data_type.as_str() {
            "tinyint" => logged == T::Tiny,
            "smallint" => logged == T::Short,
            "mediumint" => logged == T::Int24,
            "int" => logged == T::Long,
            "bigint" => logged == T::LongLong,
            "float" => logged == T::Float,
            "double" => logged == T::Double,
            "decimal" => logged == T::NewDecimal,
            "date" => matches!(logged, T::Date | T::NewDate),
            "time" => matches!(logged, T::Time | T::Time2),
            "datetime" => matches!(logged, T::DateTime | T::DateTime2),
            "timestamp" => matches!(logged, T::Timestamp | T::Timestamp2),
            "year" => logged == T::Year,
            "bit" => logged == T::Bit,
            "enum" => logged == T::Enum,
            "set" => logged == T::Set,
            "char" | "binary" | "uuid" | "inet4" | "inet6" => logged == T::String,
            "varchar" | "varbinary" => matches!(logged, T::VarChar | T::VarCharCompressed),
            // MariaDB's JSON is LONGTEXT.
            "tinytext" | "text" | "mediumtext" | "longtext" | "tinyblob" | "blob" | "mediumblob"
            | "longblob" => {
                matches!(logged, T::Blob | T::BlobCompressed)
            }
            "json" => matches!(logged, T::Json | T::Blob),
            _ => true,
        }
    }
}

/// The labels in `enum('a','b')`: quotes are doubled, and control characters escaped by a backslash
/// (`append_unescaped` in the servers' `sql_show.cc`).
fn parse_labels(column_type: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut label: Option<String> = None;
    let mut chars = column_type.chars().peekable();
    while let Some(c) = chars.next() {
        match (&mut label, c) {
            (None, '\'') => label = Some(String::new()),
            (None, _) => {}
            (Some(text), '\'') => {
                if chars.next_if_eq(&'\'').is_some() {
                    text.push('\'');
                } else {
                    labels.extend(label.take());
                }
            }
            (Some(text), '\\') => match chars.next() {
                Some('0') => text.push('\0'),
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => {}
            },
            (Some(text), c) => text.push(c),
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_column_types() {
        let column = |data_type, column_type| SchemaColumn::new("c", data_type, column_type, None);
        assert!(column("int", "int(10) unsigned").unsigned);
        assert!(column("int", "int(10) unsigned zerofill").unsigned);
        assert!(!column("int", "int(11)").unsigned);
        assert_eq!(column("float", "float(10,2) unsigned").float_decimals, Some(2));
        assert_eq!(column("float", "float").float_decimals, None);
        assert_eq!(column("decimal", "decimal(10,2)").float_decimals, None);
        assert_eq!(column("TIME", "time(3)").time_decimals, 3);
        assert_eq!(column("time", "time").time_decimals, 0);
        assert_eq!(
            column("enum", "enum('a','b,c','it''s','x\\\\y','')").labels,
            ["a", "b,c", "it's", "x\\y", ""]
        );
        assert_eq!(column("set", "set('Unsigned')").labels, ["Unsigned"]);
        assert_eq!(column("enum", "enum('cut").labels, [""; 0]);
    }
}
