//! Column names, signs, character sets and labels where the binlog doesn't have them.
//!
//! MariaDB's `binlog_row_metadata=NO_LOG` and MySQL's `MINIMAL`, both the defaults, log less than a key template needs.
//! Guarantees: asked only for tables that a mapping names; forgotten at each DDL event. What `information_schema` says
//! is of now, the event of then: [`rowbust_binlog::TableMap::complete`] compares both. May depend on `connect`.

use std::collections::HashMap;

use mysql_async::{Conn, prelude::Queryable};
use rowbust_binlog::SchemaColumn;

use super::{connect::Connector, error::SourceError};

/// The columns of tables, as the server describes them now.
#[derive(Debug)]
pub struct SchemaCache {
    connector: Connector,
    conn: Option<Conn>,
    tables: HashMap<(String, String), Vec<SchemaColumn>>,
}

type ColumnRow = (String, String, String, String, String, Option<String>);

impl SchemaCache {
    /// Nothing known yet; connects when first asked.
    pub fn new(connector: Connector) -> Self {
        Self { connector, conn: None, tables: HashMap::new() }
    }

    /// Some definition changed: everything is asked for again.
    pub fn forget(&mut self) {
        self.tables.clear();
    }

    /// The columns of a table; empty if it isn't there, or the account may not see it.
    pub async fn columns(&mut self, schema: &str, table: &str) -> Result<&[SchemaColumn], SourceError> {
        let key = (schema.to_owned(), table.to_owned());
        if !self.tables.contains_key(&key) {
            let columns = super::in_time(self.fetch(schema, table)).await?;
            self.tables.insert(key.clone(), columns);
        }
        Ok(self.tables.get(&key).map_or(&[], Vec::as_slice))
    }

    async fn fetch(&mut self, schema: &str, table: &str) -> Result<Vec<SchemaColumn>, SourceError> {
        // A connection that was idle for long may be gone: one more try on a new one.
        if let Some(mut conn) = self.conn.take()
            && let Ok(columns) = query(&mut conn, schema, table).await
        {
            self.conn = Some(conn);
            return Ok(columns);
        }
        // Not a first connection: an unreachable server is to be tried again, not an exit.
        let mut conn = self.connector.primary().await.map_err(|e| SourceError::Lost(e.to_string()))?;
        let columns = query(&mut conn, schema, table).await?;
        self.conn = Some(conn);
        Ok(columns)
    }
}

async fn query(conn: &mut Conn, schema: &str, table: &str) -> Result<Vec<SchemaColumn>, mysql_async::Error> {
    let rows: Vec<ColumnRow> = conn
        .exec(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
            (schema, table),
        )
        .await?;
    // The comparison there ignores letter case, table names need not.
    Ok(rows
        .iter()
        .filter(|row| row.0 == schema && row.1 == table)
        .map(|row| SchemaColumn::new(&row.2, &row.3, &row.4, row.5.as_deref()))
        .collect())
}
