//! The formats that a binlog can hold, produced by real servers, each followed by the daemon and decoded by others.
//!
//! - [`columns`]: every column type · [`cases`]: everything else, by name
//! - [`run`]: all of it on one server, with one daemon

pub mod cases;
pub mod columns;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};

use crate::daemon::Daemon;
use crate::db::{Db, Flavor, Server, USER};
use crate::differential::{self, Compared};
use crate::shop;
use crate::stage::Stage;
use cases::Case;
use columns::{ColumnCase, Form};

/// Every kind of server.
pub const ALL: &[Server] = &Server::ALL;
/// MySQL alone.
pub const MYSQL: &[Server] = &[Server::MySql];
/// MariaDB in both versions.
pub const MARIA: &[Server] = &[Server::MariaDb, Server::MariaDb118];
/// Only the newer MariaDB.
pub const MARIA118: &[Server] = &[Server::MariaDb118];

/// In place of a statement: the rest runs on a new connection, under what SET GLOBAL has changed.
pub const CONNECT: &str = "CONNECT";

/// Whether the variable `MATRIX` (names with commas between) leaves this one out: to look at one case alone.
fn wanted(name: &str) -> bool {
    std::env::var("MATRIX").map_or(true, |names| names.split(',').any(|n| n == name))
}

/// Makes the tables, starts the daemon, makes all changes, compares what was removed with what had to be, and compares every
/// binlog file with what other decoders make of it.
///
/// # Errors
/// The first difference.
pub async fn run(stage: &Stage, server: Server, cases: &[Case], columns: &[ColumnCase]) -> Result<Compared> {
    let cases: Vec<&Case> = cases.iter().filter(|c| c.on.contains(&server) && wanted(c.name)).collect();
    let columns: Vec<&ColumnCase> =
        columns.iter().filter(|c| c.on.contains(&server) && wanted(&c.table())).collect();
    let mut conn = prepare(stage).await?;
    for case in &cases {
        if !case.table.is_empty() {
            let close = if case.table.contains("ENGINE=") { "" } else { ")" };
            let sql = format!("CREATE TABLE {} ({}{close}", case.name, case.table);
            conn.query_drop(&sql).await.with_context(|| sql.clone())?;
        }
        statements(stage, &mut conn, case.before).await.with_context(|| case.name)?;
    }
    for column in &columns {
        for sql in column.statements() {
            conn.query_drop(&sql).await.with_context(|| sql.clone())?;
        }
    }
    let mut expected: HashMap<String, BTreeSet<String>> = HashMap::new();
    for case in &cases {
        expected.insert(case.name.into(), case.keys.iter().map(|k| format!("{}:{k}", case.name)).collect());
    }
    for column in &columns {
        expected.insert(column.table(), keys_of(&mut conn, column).await?);
    }
    cache(stage, expected.iter()).await?;

    let mut daemon = stage.start().await?;
    let from = stage.removals.total();
    for case in &cases {
        flush_logs(&mut conn).await?;
        let mut conn = stage.sql().await?;
        statements(stage, &mut conn, case.run).await.with_context(|| case.name)?;
        conn.disconnect().await?;
    }
    // Twice, as the binlog tells everything about columns, or the least that it can.
    let least = if server.flavor() == Flavor::MySql { "MINIMAL" } else { "NO_LOG" };
    for metadata in ["FULL", least] {
        conn.query_drop(format!("SET GLOBAL binlog_row_metadata={metadata}")).await?;
        flush_logs(&mut conn).await?;
        for column in &columns {
            conn.query_drop(format!("UPDATE {} SET tail=tail-1", column.table())).await?;
            if metadata == least {
                conn.query_drop(format!("DELETE FROM {}", column.table())).await?;
            }
        }
    }
    conn.query_drop("SET GLOBAL binlog_row_metadata=FULL").await?;
    stage.quiet(&daemon).await.with_context(|| format!("{server:?}"))?;

    let removed: BTreeSet<String> = stage.removals.since(from).into_keys().collect();
    check(&cases, &expected, &removed).map_err(|e| daemon.explain(&e))?;
    check_cache(stage, &expected).await?;
    let status = daemon.sigterm(std::time::Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    flush_logs(&mut conn).await?;
    compare(&stage.db)
}

/// A connection to the stage's schema, made anew, without any SQL mode: edge values are stored.
///
/// # Errors
/// When the server refuses.
pub async fn prepare(stage: &Stage) -> Result<Conn> {
    let mut conn = stage.db.connect().await?;
    for sql in [
        format!("CREATE DATABASE {} CHARACTER SET utf8mb4", stage.schema),
        format!("USE {}", stage.schema),
        // Where the binlog doesn't tell all about a column.
        format!("GRANT SELECT ON {}.* TO '{USER}'@'127.0.0.1'", stage.schema),
        "SET SESSION sql_mode='', time_zone='+00:00'".into(),
        "SET NAMES utf8mb4".into(),
    ] {
        conn.query_drop(&sql).await.with_context(|| sql.clone())?;
    }
    Ok(conn)
}

/// Runs statements; in them `{dir}` is the stage's folder and `{schema}` its schema. See [`CONNECT`].
///
/// # Errors
/// The first error, with its statement.
pub async fn statements(stage: &Stage, conn: &mut Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        if *statement == CONNECT {
            *conn = stage.sql().await?;
            continue;
        }
        let sql =
            statement.replace("{dir}", &stage.dir().display().to_string()).replace("{schema}", &stage.schema);
        conn.query_drop(&sql).await.with_context(|| format!("{sql:.300}"))?;
    }
    Ok(())
}

/// The next event begins a file: each case has its own, so that what one decoder can't read hides nothing of the others.
async fn flush_logs(conn: &mut Conn) -> Result<()> {
    Ok(conn.query_drop("FLUSH BINARY LOGS").await?)
}

/// `mappings:` for these cases and columns.
#[must_use]
pub fn mappings(schema: &str, server: Server, cases: &[Case], columns: &[ColumnCase]) -> String {
    let mut text = String::new();
    let mut mapping = |table: &str, key: &str| {
        _ = write!(
            text,
            "\n  - table: {schema}.{table}\n    fill_grace: 100ms\n    keys: [\"{table}:{key}\"]\n"
        );
    };
    for case in cases.iter().filter(|c| c.on.contains(&server) && wanted(c.name)) {
        mapping(case.name, case.key);
    }
    for column in columns.iter().filter(|c| c.on.contains(&server) && wanted(&c.table())) {
        let key = if column.form == Form::IdOnly { "{id}" } else { "{id}:{v|hex}" };
        mapping(&column.table(), key);
    }
    text
}

/// The keys of a column's rows, by what the server says of each value.
async fn keys_of(conn: &mut Conn, column: &ColumnCase) -> Result<BTreeSet<String>> {
    let table = column.table();
    let value = match column.form {
        Form::Text => "v",
        Form::Number => "v+0",
        Form::IdOnly => "id",
    };
    let rows: Vec<Row> = conn.query(format!("SELECT id, {value} FROM {table}")).await?;
    ensure!(rows.len() == column.values.len() + 1, "{table}: {} rows", rows.len());
    let mut keys = BTreeSet::new();
    for row in rows {
        let id: u32 = row.get(0).context("no id")?;
        match row.as_ref(1) {
            // A NULL makes no key.
            Some(Value::NULL) => {}
            _ if column.form == Form::IdOnly => _ = keys.insert(format!("{table}:{id}")),
            Some(Value::Bytes(text)) => {
                let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
                keys.insert(format!("{table}:{id}:{hex}"));
            }
            other => anyhow::bail!("{table}: {other:?} is no text"),
        }
    }
    Ok(keys)
}

/// Puts every key into the cache, and one beside it per table that nothing names.
async fn cache(stage: &Stage, keys: impl Iterator<Item = (&String, &BTreeSet<String>)>) -> Result<()> {
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut all = redis::pipe();
    for (name, keys) in keys {
        all.set(format!("{name}:control"), 1).ignore();
        for key in keys {
            all.set(key, 1).ignore();
        }
    }
    Ok(all.query_async(&mut cache).await?)
}

async fn check_cache(stage: &Stage, expected: &HashMap<String, BTreeSet<String>>) -> Result<()> {
    let mut cache = shop::redis(stage.redis.port()).await?;
    let left = shop::cached(&mut cache).await?;
    let mut control: Vec<String> = expected.keys().map(|name| format!("{name}:control")).collect();
    control.sort();
    ensure!(left == control, "left in the cache: {left:?}, not {control:?}");
    Ok(())
}

fn check(
    cases: &[&Case],
    expected: &HashMap<String, BTreeSet<String>>,
    removed: &BTreeSet<String>,
) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, keys) in expected {
        let prefix = format!("{name}:");
        let removed: BTreeSet<String> = removed.iter().filter(|k| k.starts_with(&prefix)).cloned().collect();
        let also: BTreeSet<String> = cases
            .iter()
            .filter(|c| c.name == name)
            .flat_map(|c| c.also)
            .map(|k| format!("{prefix}{k}"))
            .collect();
        let missing: Vec<_> = keys.difference(&removed).collect();
        let odd: Vec<_> = removed.difference(keys).filter(|k| !also.contains(*k)).collect();
        if !missing.is_empty() || !odd.is_empty() {
            wrong.push(format!("{name}: not removed: {missing:?}, removed by nothing: {odd:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Compares every binlog file of a server; see [`differential`].
///
/// # Errors
/// The first difference; that there was nothing to compare.
pub fn compare(db: &Db) -> Result<Compared> {
    let mut compared = Compared::default();
    for file in db.binlogs()? {
        compared.add(differential::compare_any(db.binlog_program(), &file)?);
    }
    ensure!(compared.rows > 0, "no row was compared");
    Ok(compared)
}

/// A stage on a server of its own, with these mappings; `None` where a server can't be had.
///
/// # Errors
/// When something doesn't come up.
pub async fn stage(
    server: Server,
    name: &str,
    args: &[&str],
    cases: &[Case],
    columns: &[ColumnCase],
) -> Result<Option<Stage>> {
    if rowbust_servers::require(&[server.need(), rowbust_servers::Need::Redis]).is_none() {
        return Ok(None);
    }
    let mut stage = Stage::on(Arc::new(Db::start(server, args).await?), name).await?;
    stage.settings.mappings = Some(mappings(name, server, cases, columns));
    Ok(Some(stage))
}

/// Whether the daemon ended as it says it does when it can't go on: the exit status, and the text in its log.
///
/// # Errors
/// When it doesn't end, or otherwise.
pub async fn halted(daemon: &mut Daemon, words: &[&str]) -> Result<()> {
    let status = daemon.exited(std::time::Duration::from_secs(30)).await?;
    let log = daemon.log_text();
    ensure!(status.code().is_some_and(|code| code != 0), "{status}\n{}", daemon.log_tail());
    for word in words {
        ensure!(log.contains(word), "the log doesn't name {word}\n{}", daemon.log_tail());
    }
    Ok(())
}
