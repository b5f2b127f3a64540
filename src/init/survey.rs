//! What tables there are, with their keys.
//!
//! May depend on `source`.

use std::collections::BTreeMap;

use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::Flavor;

use crate::{
    config::Config,
    source::{SourceError, connect::Connector, preflight},
};

/// A table as `information_schema` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Names and types (`varchar`), in order.
    pub columns: Vec<(String, String)>,
    /// Columns of the primary key, in order; empty: it has none.
    pub primary: Vec<String>,
    /// Other unique keys, by name, with whether none of their columns can be NULL.
    pub uniques: Vec<(String, Vec<String>, bool)>,
    /// Foreign keys.
    pub foreign: Vec<Foreign>,
    /// Rows, as the server estimates them.
    pub rows: u64,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Columns of this table.
    pub columns: Vec<String>,
    /// The parent's schema.
    pub schema: String,
    /// The parent's name.
    pub table: String,
    /// The parent's columns.
    pub referenced: Vec<String>,
}

pub(super) struct Found {
    pub(super) version: String,
    /// As it stands in a GRANT.
    pub(super) account: String,
    pub(super) server_id: u32,
    pub(super) server_id_note: &'static str,
    pub(super) tables: Vec<Table>,
}

const SYSTEM: &str = "TABLE_SCHEMA NOT IN ('mysql','sys','information_schema','performance_schema')";

pub(super) async fn survey(connector: &Connector, config: &Config) -> Result<Found, SourceError> {
    let mut conn = connector.primary().await?;
    let version: String = conn.query_first("SELECT VERSION()").await?.unwrap_or_default();
    let flavor = Flavor::from_version(&version);
    preflight::check_version(flavor, &version)?;
    let account: String = conn.query_first("SELECT CURRENT_USER()").await?.unwrap_or_default();
    let (server_id, server_id_note) = free_server_id(&mut conn, config, flavor, &version).await?;
    let tables = tables(&mut conn).await?;
    conn.disconnect().await.ok();
    let version = if version.contains("MariaDB") { version } else { format!("{flavor} {version}") };
    let account = preflight::quote_account(&account);
    Ok(Found { version, account, server_id, server_id_note, tables })
}

async fn free_server_id(
    conn: &mut Conn,
    config: &Config,
    flavor: Flavor,
    version: &str,
) -> Result<(u32, &'static str), SourceError> {
    let vars = preflight::global_variables(conn, &["server_id"]).await?;
    let mut id = preflight::server_id(config, vars.get("server_id"), &mut Vec::new())?;
    let statement = match flavor {
        Flavor::MySql => preflight::replicas_statement(version),
        Flavor::MariaDb => "SHOW SLAVE HOSTS",
    };
    if preflight::denied(conn, statement).await? {
        return Ok((id, "the account may not list the replicas: must be another one than theirs"));
    }
    let rows: Vec<Row> = conn.query(statement).await?;
    let own = vars.get("server_id").and_then(|own| own.parse::<u32>().ok());
    let taken: Vec<u32> = rows.iter().filter_map(|row| row.get_opt::<u32, _>(0)?.ok()).chain(own).collect();
    while taken.contains(&id) {
        id = id.checked_add(1).unwrap_or(1);
    }
    Ok((id, "no other replica had it when this was written"))
}

async fn tables(conn: &mut Conn) -> Result<Vec<Table>, SourceError> {
    let mut found: BTreeMap<(String, String), Table> = BTreeMap::new();
    let rows: Vec<(String, String, Option<u64>)> = conn
        .query(format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES \
             WHERE {SYSTEM} AND TABLE_TYPE LIKE 'BASE%'"
        ))
        .await?;
    for (schema, name, rows) in rows {
        let table =
            Table { schema: schema.clone(), name: name.clone(), rows: rows.unwrap_or(0), ..Table::default() };
        found.insert((schema, name), table);
    }
    let mut nullable: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let rows: Vec<(String, String, String, String, String)> = conn
        .query(format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, IS_NULLABLE FROM information_schema.COLUMNS \
             WHERE {SYSTEM} ORDER BY 1, 2, ORDINAL_POSITION"
        ))
        .await?;
    for (schema, name, column, data_type, null) in rows {
        let key = (schema, name);
        if null.eq_ignore_ascii_case("YES") {
            nullable.entry(key.clone()).or_default().push(column.clone());
        }
        if let Some(table) = found.get_mut(&key) {
            table.columns.push((column, data_type.to_ascii_lowercase()));
        }
    }
    // An index over an expression has no column, one over a part of a column isn't unique by the column.
    type Index = (String, String, String, Option<String>, Option<u64>);
    let rows: Vec<Index> = conn
        .query(format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
             WHERE {SYSTEM} AND NON_UNIQUE = 0 ORDER BY 1, 2, 3, SEQ_IN_INDEX"
        ))
        .await?;
    let mut indexes: BTreeMap<(String, String, String), Option<Vec<String>>> = BTreeMap::new();
    for (schema, name, index, column, part) in rows {
        let columns = indexes.entry((schema, name, index)).or_insert_with(|| Some(Vec::new()));
        match (columns.as_mut(), column, part) {
            (Some(columns), Some(column), None) => columns.push(column),
            _ => *columns = None,
        }
    }
    for ((schema, name, index), columns) in indexes {
        let key = (schema, name);
        let (Some(columns), Some(table)) = (columns, found.get_mut(&key)) else { continue };
        if index == "PRIMARY" {
            table.primary = columns;
        } else {
            let null = nullable.get(&key).is_some_and(|null| columns.iter().any(|c| null.contains(c)));
            table.uniques.push((index, columns, !null));
        }
    }
    type Reference = (String, String, String, String, String, String, String);
    let rows: Vec<Reference> = conn
        .query(format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME, \
             REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE \
             WHERE {SYSTEM} AND REFERENCED_TABLE_NAME IS NOT NULL ORDER BY 1, 2, 3, ORDINAL_POSITION"
        ))
        .await?;
    let mut last = (String::new(), String::new(), String::new());
    for (schema, name, constraint, column, parent_schema, parent, parent_column) in rows {
        let this = (schema, name, constraint);
        let Some(table) = found.get_mut(&(this.0.clone(), this.1.clone())) else { continue };
        if this != last {
            table.foreign.push(Foreign { schema: parent_schema, table: parent, ..Foreign::default() });
            last = this;
        }
        if let Some(foreign) = table.foreign.last_mut() {
            foreign.columns.push(column);
            foreign.referenced.push(parent_column);
        }
    }
    Ok(found.into_values().collect())
}
