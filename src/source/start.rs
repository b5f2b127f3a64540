//! Where a stream begins, and how the server is asked for it.
//!
//! Guarantees: what is asked for reaches back to everything that isn't done, or the answer is a [`SourceError::Gap`].
//! May depend on `preflight` and `position`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_async::{Conn, prelude::Queryable};
use rowbust_binlog::{Flavor, GtidSet, GtidState, MariaGtidPos};

use super::{
    error::{Refusal, SourceError},
    position::{Coordinates, Position},
    preflight::{Preflight, latest_statement},
};
use crate::config::Start;

/// The first byte behind a file's magic number.
pub const FIRST_EVENT: u64 = 4;

/// What the dump thread is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Everything that these GTIDs lack.
    Gtid(GtidState),
    /// A file from its first event. Nothing before `skip_to` is handed on, but its GTIDs are counted: only the file's
    /// head tells which transactions lie before it. (And `COM_BINLOG_DUMP` has no more than 32 bits for a position.)
    File {
        /// The file.
        file: Arc<str>,
        /// The first byte that counts.
        skip_to: u64,
    },
    /// A file from the event that begins there: to look at that one event.
    At {
        /// The file.
        file: Arc<str>,
        /// Where the event begins. MariaDB's command has 32 bits for it: see [`Request::can_begin_at`].
        position: u64,
    },
    /// A file from its first event. Nothing that these GTIDs have is handed on. As [`Request::Gtid`], but the server skips nothing in
    /// silence, so that positions behind 4 GiB can be counted.
    Behind {
        /// The file.
        file: Arc<str>,
        /// What is done.
        gtids: GtidState,
    },
}

impl Request {
    /// Whether a server of this kind can be asked for an event that begins there. MySQL has 64 bits for it in `COM_BINLOG_DUMP_GTID`.
    pub fn can_begin_at(flavor: Flavor, position: u64) -> bool {
        flavor == Flavor::MySql || u32::try_from(position).is_ok()
    }
}

/// A place to begin at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// What is asked for.
    pub request: Request,
    /// Where that is. In a [`Request::File`] the GTIDs are only known once the stream is there.
    pub position: Position,
}

impl Begin {
    fn gtid(gtids: GtidState, at: Coordinates) -> Self {
        Self { request: Request::Gtid(gtids.clone()), position: Position { gtids, at } }
    }

    fn file(flavor: Flavor, file: Arc<str>, skip_to: u64) -> Self {
        let at = Coordinates { file: file.clone(), position: skip_to };
        Self {
            request: Request::File { file, skip_to },
            position: Position { gtids: GtidState::empty(flavor), at },
        }
    }
}

/// Before anything is known of the files.
pub(crate) fn nowhere() -> Coordinates {
    Coordinates { file: "".into(), position: FIRST_EVENT }
}

/// Where `source.start` points to.
pub async fn first_start(conn: &mut Conn, server: &Preflight, start: &Start) -> Result<Begin, SourceError> {
    match start {
        Start::Latest => latest(conn, server).await,
        Start::Earliest => earliest(conn, server).await,
        Start::Gtid(text) => {
            let gtids = start_gtids(server.flavor, text)?;
            // Where all is done the place is known, and with it whether the server crashes behind it.
            let newest = latest(conn, server).await?.position;
            let at = if newest.gtids == gtids { newest.at } else { nowhere() };
            resume(conn, server, &Position { gtids, at }, false).await
        }
        Start::Position { file, position } => at_position(conn, server, file, *position).await,
    }
}

/// `source.start.gtid`. No MariaDB server takes an empty one as its oldest event.
fn start_gtids(flavor: Flavor, text: &str) -> Result<GtidState, Refusal> {
    let gtids = GtidState::parse(flavor, text).map_err(|e| {
        Refusal::new(
            "source.start_gtid",
            format!("`source.start.gtid`: {e}"),
            format!("the server is {flavor}"),
        )
    })?;
    if matches!(&gtids, GtidState::MariaDb(pos) if pos.is_empty()) {
        return Err(Refusal::new("source.start_gtid", "`source.start.gtid` is empty", "use `earliest`"));
    }
    Ok(gtids)
}

/// Behind a position that was reached before.
///
/// `verified`: the last event that was read stands in this server's log, so it lacks nothing, though a commit may not count as
/// executed yet (MySQL with semi-synchronous AFTER_SYNC, while no replica answers). What it does lack its dump thread refuses.
pub async fn resume(
    conn: &mut Conn,
    server: &Preflight,
    position: &Position,
    verified: bool,
) -> Result<Begin, SourceError> {
    match (&position.gtids, server.flavor) {
        (GtidState::MySql(done), Flavor::MySql) => {
            check_mysql(conn, done, verified).await?;
            Ok(Begin::gtid(position.gtids.clone(), position.at.clone()))
        }
        (GtidState::MariaDb(done), Flavor::MariaDb) if !done.is_empty() => {
            check_mariadb(conn, done).await?;
            Ok(Begin::gtid(position.gtids.clone(), position.at.clone()))
        }
        (GtidState::MariaDb(_), Flavor::MariaDb) => {
            let logs = binary_logs(conn).await?;
            let Some(&(_, size)) = logs.iter().find(|(name, _)| **name == *position.at.file) else {
                return Err(SourceError::gap(format!("the file {} is gone", position.at.file)));
            };
            if position.at.position > size {
                return Err(SourceError::gap(format!(
                    "{} ends at {size}, before {}",
                    position.at.file, position.at
                )));
            }
            Ok(Begin::file(server.flavor, position.at.file.clone(), position.at.position))
        }
        (gtids, flavor) => Err(Refusal::new(
            "source.flavor",
            format!("the position {gtids} is of {}, the server is {flavor}", gtids.flavor()),
            "another server answers at `source.url`; if that is meant, remove the checkpoint",
        )
        .into()),
    }
}

/// A commit is logged before the server counts it as executed, and a replica that was just made the primary may still apply
/// what it had received: what is missing must be missing for so long.
const SETTLED: Duration = Duration::from_secs(3);

/// purged ⊆ done ⊆ executed, or something is lost.
async fn check_mysql(conn: &mut Conn, done: &GtidSet, verified: bool) -> Result<(), SourceError> {
    let done = quote(&done.to_string());
    let began = Instant::now();
    loop {
        let row: Option<(String, String)> = conn
            .query_first(format!(
                "SELECT GTID_SUBTRACT(@@global.gtid_purged, {done}), GTID_SUBTRACT({done}, @@global.gtid_executed)"
            ))
            .await?;
        let (purged, missing) = row.unwrap_or_default();
        let (purged, missing) = (purged.replace('\n', ""), missing.replace('\n', ""));
        if !purged.is_empty() {
            return Err(SourceError::gap(format!("the server has purged {purged}, which was not read yet")));
        }
        if missing.is_empty() || verified {
            return Ok(());
        }
        if began.elapsed() >= SETTLED {
            return Err(SourceError::gap(format!(
                "the server lacks {missing}, which was read: it has lost transactions, or is another one"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each domain must have come as far as what was read. What lies behind, the server checks itself.
async fn check_mariadb(conn: &mut Conn, done: &MariaGtidPos) -> Result<(), SourceError> {
    let text: Option<String> = conn.query_first("SELECT @@global.gtid_binlog_pos").await?;
    let Ok(now) = text.unwrap_or_default().parse::<MariaGtidPos>() else { return Ok(()) };
    let missing: Vec<String> = done
        .iter()
        .filter(|read| now.get(read.domain).is_none_or(|last| last.seq < read.seq))
        .map(|read| read.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(SourceError::gap(format!(
        "the server's binlog is at {now} and lacks {}, which was read: it has lost transactions, or is another one",
        missing.join(",")
    )))
}

async fn mysql_sets(conn: &mut Conn) -> Result<(GtidSet, GtidSet), SourceError> {
    let row: Option<(String, String)> =
        conn.query_first("SELECT @@global.gtid_purged, @@global.gtid_executed").await?;
    let (purged, executed) = row.unwrap_or_default();
    Ok((parse_set(&purged)?, parse_set(&executed)?))
}

fn parse_set(text: &str) -> Result<GtidSet, SourceError> {
    text.parse().map_err(|e| {
        Refusal::new("source.gtid_set", format!("the server's GTID set: {e}"), super::follow::BUG).into()
    })
}

pub(crate) async fn latest(conn: &mut Conn, server: &Preflight) -> Result<Begin, SourceError> {
    let row: Option<mysql_async::Row> =
        conn.query_first(latest_statement(server.flavor, &server.version)).await?;
    let (file, position) = row
        .as_ref()
        .and_then(|row| Some((row.get_opt::<String, _>(0)?.ok()?, row.get_opt::<u64, _>(1)?.ok()?)))
        .ok_or_else(|| {
            Refusal::new("source.binlog_off", "the server shows no binlog position", "set `log_bin`")
        })?;
    let at = Coordinates { file: file.as_str().into(), position };
    match server.flavor {
        Flavor::MySql => {
            let text = row.and_then(|row| row.get_opt::<String, _>(4)?.ok()).unwrap_or_default();
            Ok(Begin::gtid(GtidState::MySql(parse_set(&text)?), at))
        }
        Flavor::MariaDb => maria_at(conn, at).await,
    }
}

async fn earliest(conn: &mut Conn, server: &Preflight) -> Result<Begin, SourceError> {
    let logs = binary_logs(conn).await?;
    let Some((first, _)) = logs.into_iter().next() else {
        return Err(
            Refusal::new("source.binlog_off", "the server lists no binlog file", "set `log_bin`").into()
        );
    };
    match server.flavor {
        Flavor::MySql => {
            let (purged, _) = mysql_sets(conn).await?;
            Ok(Begin::gtid(
                GtidState::MySql(purged),
                Coordinates { file: first.into(), position: FIRST_EVENT },
            ))
        }
        Flavor::MariaDb => Ok(Begin::file(server.flavor, first.into(), FIRST_EVENT)),
    }
}

async fn at_position(
    conn: &mut Conn,
    server: &Preflight,
    file: &str,
    position: u64,
) -> Result<Begin, SourceError> {
    let logs = binary_logs(conn).await?;
    let Some(&(_, size)) = logs.iter().find(|(name, _)| name == file) else {
        return Err(Refusal::new(
            "source.start_file",
            format!("the server has no binlog file `{file}`"),
            "SHOW BINARY LOGS lists what it has",
        )
        .into());
    };
    if position > size {
        return Err(Refusal::new(
            "source.start_position",
            format!("`{file}` ends at {size}, before `source.start.position` {position}"),
            "choose the end of a transaction, as SHOW BINLOG EVENTS shows it",
        )
        .into());
    }
    match server.flavor {
        Flavor::MySql => Ok(Begin::file(server.flavor, file.into(), position)),
        Flavor::MariaDb => maria_at(conn, Coordinates { file: file.into(), position }).await,
    }
}

/// MariaDB tells the GTIDs of a position, which saves reading the file up to it.
async fn maria_at(conn: &mut Conn, at: Coordinates) -> Result<Begin, SourceError> {
    let text: Option<Option<String>> =
        conn.query_first(format!("SELECT BINLOG_GTID_POS({}, {})", quote(&at.file), at.position)).await?;
    let gtids: Option<MariaGtidPos> = text.flatten().and_then(|text| text.parse().ok());
    match gtids {
        Some(gtids) if !gtids.is_empty() => Ok(Begin::gtid(GtidState::MariaDb(gtids), at)),
        _ => Ok(Begin::file(Flavor::MariaDb, at.file, at.position)),
    }
}

pub(crate) async fn binary_logs(conn: &mut Conn) -> Result<Vec<(String, u64)>, SourceError> {
    let rows: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
    Ok(rows
        .iter()
        .filter_map(|row| Some((row.get_opt::<String, _>(0)?.ok()?, row.get_opt::<u64, _>(1)?.ok()?)))
        .collect())
}

/// A string literal for any `sql_mode` but NO_BACKSLASH_ESCAPES, in which it holds no backslash anyway.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_gtid_is_refused_where_it_means_nothing() {
        let refused = |flavor, text| start_gtids(flavor, text).err().map(|r| r.to_string());
        for text in ["", " "] {
            assert_eq!(
                refused(Flavor::MariaDb, text).as_deref(),
                Some("`source.start.gtid` is empty (source.start_gtid); use `earliest`")
            );
        }
        assert_eq!(refused(Flavor::MariaDb, "0-1-5"), None);
        // Everything that the server ever had.
        assert_eq!(refused(Flavor::MySql, ""), None);
    }
}
