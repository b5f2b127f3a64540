//! Column names, signs, character sets and labels where the binlog doesn't have them.
//!
//! MariaDB's `binlog_row_metadata=NO_LOG` and MySQL's `MINIMAL`, both the defaults, log less than a key template needs.
//! What `information_schema` says is of now, the event of then. So a definition is remembered with the place at which the
//! server stood when it was asked. A statement that changes the table and lies before that place shows that the
//! definition may have been of later than the rows it was used for: [`SchemaCache::altered`] names such tables. With
//! `binlog_row_metadata=FULL` the names are those of the event, and nothing is remembered.
//! Guarantees: never another name than the event's in silence; asked only for tables that a mapping names. May depend on `connect` and `position`.

mod history;

use std::collections::HashMap;

use mysql_async::{Conn, prelude::Queryable};
use rowbust_binlog::{GtidState, SchemaColumn, TableMap};

use history::{Asked, StoredColumn, TableName};
pub use history::{History, Keeper};

use super::{
    connect::Connector,
    error::SourceError,
    position::Coordinates,
    preflight::{Preflight, latest_statement},
    statement::{Ddl, Targets},
};

/// The columns of tables, by place.
#[derive(Debug)]
pub struct SchemaCache {
    connector: Connector,
    conn: Option<Conn>,
    history: History,
    /// Definitions that only add to names which the event itself has.
    named: HashMap<TableName, Vec<SchemaColumn>>,
    /// Which server it is, and how it is asked where it stands.
    server: String,
    latest: &'static str,
    /// Where reading began, or a statement that may have changed any table.
    origin: String,
}

/// Why a table's columns aren't known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undefined(pub String);

type ColumnRow = (String, String, String, String, String, Option<String>);

impl SchemaCache {
    /// Connects when first asked.
    pub fn new(connector: Connector, history: History) -> Self {
        Self {
            connector,
            conn: None,
            history,
            named: HashMap::new(),
            server: String::new(),
            latest: "SHOW MASTER STATUS",
            origin: String::new(),
        }
    }

    /// This server answers now.
    pub fn connected(&mut self, server: &Preflight) {
        self.server.clone_from(&server.identity);
        self.latest = latest_statement(server.flavor, &server.version);
        self.conn = None;
    }

    /// Reading begins where these are done.
    pub fn begins(&mut self, done: &GtidState) {
        self.origin = done.to_string();
    }

    /// The log is another one: what was known is of the old one.
    ///
    /// # Errors
    /// It can't be made durable.
    pub fn clear(&mut self) -> Result<(), SourceError> {
        self.named.clear();
        self.history.clear();
        self.save()
    }

    /// A statement that may have changed tables: `at` is its end, `gtid` its transaction, behind `done`. Returns those whose
    /// earlier rows may have been read under names that they only got here.
    ///
    /// # Errors
    /// It can't be made durable.
    pub fn altered(
        &mut self,
        ddl: &Ddl,
        at: &Coordinates,
        gtid: Option<String>,
        done: &GtidState,
        is_mapped: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<TableName>, SourceError> {
        let gtid = gtid.unwrap_or_else(|| done.to_string());
        let mut tables: Vec<TableName> = match &ddl.tables {
            Targets::Unknown => self.history.tables().cloned().collect(),
            Targets::Schema(schema) => {
                let lower = schema.to_lowercase();
                self.history.tables().filter(|(s, _)| *s == *schema || *s == lower).cloned().collect()
            }
            Targets::Tables(names) => {
                // With `lower_case_table_names` the server means the lower-case name but logs what was typed.
                let both = names.iter().flat_map(|name| {
                    let schema = name.schema.clone().unwrap_or_default();
                    let lower = (schema.to_lowercase(), name.table.to_lowercase());
                    [(schema, name.table.clone()), lower]
                });
                both.filter(|(schema, table)| is_mapped(schema, table)).collect()
            }
        };
        tables.sort_unstable();
        tables.dedup();
        if ddl.tables == Targets::Unknown {
            self.origin.clone_from(&gtid);
            self.named.clear();
        }
        let mut suspicious = Vec::new();
        for table in tables.iter() {
            self.named.remove(table);
            let used = self.history.at(table, done);
            if used.is_some_and(|entry| entry.columns.is_some() && entry.may_have(at, &self.server)) {
                suspicious.push(table.clone());
            }
            self.history.altered(table, done, &gtid);
        }
        if let Targets::Schema(schema) = &ddl.tables {
            self.named.retain(|(s, _), _| !s.eq_ignore_ascii_case(schema));
        }
        if !tables.is_empty() {
            self.save()?;
        }
        Ok(suspicious)
    }

    /// Adds to a table map what the binlog leaves out. `done`: before the transaction that it stands in.
    ///
    /// # Errors
    /// The server can't be asked, or the answer can't be made durable.
    pub async fn complete(
        &mut self,
        map: &mut TableMap,
        done: &GtidState,
    ) -> Result<Result<(), Undefined>, SourceError> {
        let key = (map.schema.clone(), map.table.clone());
        if map.columns.iter().all(|column| column.name.is_some()) {
            return self.complete_named(map, key).await;
        }
        if let Some(columns) = self.history.at(&key, done).and_then(history::Entry::schema_columns)
            && map.complete(&columns).is_ok()
        {
            return Ok(Ok(()));
        }
        let (columns, asked) = super::in_time(self.ask(&key)).await?;
        if columns.is_empty() {
            return Ok(Err(nowhere(&key)));
        }
        let converted: Vec<_> = columns.iter().map(schema_column).collect();
        if let Err(mismatch) = map.complete(&converted) {
            return Ok(Err(Undefined(mismatch.to_string())));
        }
        self.history.record(&key, done, &self.origin, columns, asked);
        self.save()?;
        Ok(Ok(()))
    }

    /// The names are known: what is added are types that the binlog doesn't tell apart. A table that was altered since is
    /// matched by them.
    async fn complete_named(
        &mut self,
        map: &mut TableMap,
        key: TableName,
    ) -> Result<Result<(), Undefined>, SourceError> {
        if !self.named.contains_key(&key) {
            let (columns, _) = super::in_time(self.ask(&key)).await?;
            self.named.insert(key.clone(), columns.iter().map(schema_column).collect());
        }
        let columns = self.named.get(&key).map_or(&[][..], Vec::as_slice);
        if columns.is_empty() {
            return Ok(Err(nowhere(&key)));
        }
        if map.complete(columns).is_err() {
            map.complete_by_name(columns);
        }
        Ok(Ok(()))
    }

    fn save(&self) -> Result<(), SourceError> {
        // Nothing is read meanwhile: what would be used must be known to be provisional after a crash too.
        self.history
            .save()
            .map_err(|e| SourceError::Lost(format!("the schema history can't be written: {e}")))
    }

    async fn ask(&mut self, table: &TableName) -> Result<(Vec<StoredColumn>, Asked), SourceError> {
        // A connection that was idle for long may be gone: one more try on a new one.
        if let Some(mut conn) = self.conn.take()
            && let Ok(answer) = self.query(&mut conn, table).await
        {
            self.conn = Some(conn);
            return Ok(answer);
        }
        // Not a first connection: an unreachable server is to be tried again, not an exit.
        let mut conn = self.connector.primary().await.map_err(|e| SourceError::Lost(e.to_string()))?;
        let answer = self.query(&mut conn, table).await?;
        self.conn = Some(conn);
        Ok(answer)
    }

    /// First the columns, then the place: a change that shows in the columns is logged before that place, for both servers
    /// write a definition statement to the binlog before it can be seen.
    async fn query(
        &self,
        conn: &mut Conn,
        (schema, table): &TableName,
    ) -> Result<(Vec<StoredColumn>, Asked), SourceError> {
        let rows: Vec<ColumnRow> = conn
            .exec(
                "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
                (schema, table),
            )
            .await?;
        let row: Option<mysql_async::Row> = conn.query_first(self.latest).await?;
        let place = row
            .as_ref()
            .and_then(|row| Some((row.get_opt::<String, _>(0)?.ok()?, row.get_opt::<u64, _>(1)?.ok()?)));
        let Some((file, position)) = place else {
            return Err(SourceError::Lost("the server shows no binlog position".into()));
        };
        // The comparison there ignores letter case, table names need not.
        let columns = rows.into_iter().filter(|row| row.0 == *schema && row.1 == *table);
        let columns = columns.map(|row| StoredColumn {
            name: row.2,
            data_type: row.3,
            column_type: row.4,
            charset: row.5,
        });
        Ok((columns.collect(), Asked { server: self.server.clone(), file, position }))
    }
}

fn nowhere((schema, table): &TableName) -> Undefined {
    Undefined(format!(
        "the columns of {schema}.{table} aren't known: the table is gone, or the account may not see it"
    ))
}

fn schema_column(column: &StoredColumn) -> SchemaColumn {
    SchemaColumn::new(&column.name, &column.data_type, &column.column_type, column.charset.as_deref())
}
