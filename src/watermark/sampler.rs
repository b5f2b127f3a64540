//! Asks one server, again and again, what is visible there.
//!
//! Guarantees: a witness is used only while the variables that it needs are as it needs them; a lost connection or an
//! error gives no sample. May depend on `sample` and `source::connect`.
//!
//! What a configured heartbeat row is for: on MariaDB it is the witness where the server doesn't tell its binlog snapshot,
//! and after a rotation on a quiet server one beat is the new file's first transaction, so that the snapshot decides at once
//! instead of by the delay. The snapshot is preferred where it is sound because it needs no write; the row needs the same
//! variable as it (and `binlog_order_commits` on MySQL, whose `gtid_executed` needs none), so where the snapshot isn't sound
//! the row isn't either, and the delay is left. Replicas can't be written to.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use mysql_async::{Conn, prelude::Queryable};
use rowbust_binlog::{Flavor, MariaGtidPos};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{DELAY, IDLE_INTERVAL, Inner, Server, Witness, lock, sample::Visible};
use crate::source::{position::Coordinates, preflight::global_variables, start::quote};

/// The variables that a witness depends on are looked at this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An answer that takes longer counts as a lost connection.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum SampleError {
    #[error("{0}")]
    Connect(#[from] crate::source::connect::ConnectError),
    #[error("{0}")]
    Statement(#[from] mysql_async::Error),
    #[error("{0}")]
    Answer(String),
}

/// Samples server `index` until `shutdown`.
pub(super) async fn run(inner: Arc<Inner>, index: usize, shutdown: CancellationToken) {
    let Some(server) = inner.servers.get(index) else { return };
    let mut pause = Duration::from_millis(100);
    loop {
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            ended = session(&inner, server) => ended,
        };
        let Err((error, sampled)) = ended;
        server.failures.fetch_add(1, Relaxed);
        pause = if sampled { Duration::from_millis(100) } else { (pause * 2).min(Duration::from_secs(5)) };
        warn!(server = %server.address, %error, "visibility unknown, reconnecting");
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One connection. Ends only by an error; true: there were samples before it.
async fn session(inner: &Inner, server: &Server) -> Result<std::convert::Infallible, (SampleError, bool)> {
    let mut conn = inner.connector.connect(&server.host, server.port).await.map_err(|e| (e.into(), false))?;
    let mut sampler = Sampler::new(inner, server);
    let mut sampled = false;
    loop {
        let began = Instant::now();
        match tokio::time::timeout(ANSWER_DEADLINE, sampler.sample(&mut conn)).await {
            Ok(Ok(())) => sampled = true,
            Ok(Err(error)) => return Err((error, sampled)),
            Err(_) => return Err((SampleError::Answer("no answer in time".into()), sampled)),
        }
        let pause = inner.interval.saturating_sub(began.elapsed());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if !server.demand.load(Relaxed) {
            let idle = IDLE_INTERVAL.saturating_sub(began.elapsed());
            let _ = tokio::time::timeout(idle, server.wake.notified()).await;
        }
    }
}

/// What the choice of a witness depends on.
#[derive(Debug, Clone, Copy)]
struct Choice {
    flavor: Flavor,
    primary: bool,
    /// `binlog_order_commits` or `binlog_optimize_thread_scheduling`.
    ordered: bool,
    /// The server tells its binlog snapshot (MariaDB).
    snapshot: bool,
    /// A row is configured.
    heartbeat: bool,
    /// By a test.
    forced: Option<Witness>,
}

fn choose(choice: &Choice) -> Witness {
    let beat = choice.primary && choice.ordered && choice.heartbeat;
    match (choice.forced, choice.flavor) {
        (Some(Witness::HeartbeatRow), _) if beat => Witness::HeartbeatRow,
        (Some(Witness::Delay), _) => Witness::Delay,
        (_, Flavor::MySql) => Witness::GtidExecuted,
        (_, Flavor::MariaDb) if !choice.primary => Witness::GtidWait,
        (_, Flavor::MariaDb) if choice.ordered && choice.snapshot => Witness::BinlogSnapshot,
        _ if beat => Witness::HeartbeatRow,
        _ => Witness::Delay,
    }
}

struct Sampler<'a> {
    inner: &'a Inner,
    server: &'a Server,
    witness: Witness,
    checked: Option<Instant>,
    /// Ordered by `binlog_order_commits` or `binlog_optimize_thread_scheduling`.
    ordered: bool,
    /// The server has no `binlog_snapshot_file`.
    no_snapshot: bool,
    beats: u64,
    file: Option<NewFile>,
}

/// The file of the last snapshot.
struct NewFile {
    name: String,
    since: Instant,
    /// Where its first transaction begins, once there is one.
    first: Option<u64>,
    /// A beat was tried in it, or isn't to be.
    beaten: bool,
}

impl<'a> Sampler<'a> {
    fn new(inner: &'a Inner, server: &'a Server) -> Self {
        // Another server may answer now: samples of the old one say nothing about it.
        lock(&server.ring).clear();
        Self {
            inner,
            server,
            witness: Witness::Delay,
            checked: None,
            ordered: false,
            no_snapshot: false,
            beats: 0,
            file: None,
        }
    }

    /// Takes one sample, or none where nothing new is to be known.
    async fn sample(&mut self, conn: &mut Conn) -> Result<(), SampleError> {
        if self.checked.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            self.check(conn).await?;
        }
        let demanded = self.server.demand.swap(false, Relaxed);
        let visible = match self.witness {
            Witness::GtidExecuted => Some(gtid_executed(conn).await?),
            Witness::BinlogSnapshot => self.binlog_snapshot(conn, demanded).await?,
            Witness::GtidWait => gtid_wait(conn).await?,
            // Each beat is a write: only when somebody waits.
            Witness::HeartbeatRow if demanded => self.heartbeat(conn).await?,
            Witness::HeartbeatRow => None,
            Witness::Delay => lock(&self.inner.received)
                .older_than(DELAY, Instant::now())
                .map(|at| Visible::UpTo { at: at.clone(), older_files: true }),
        };
        if let Some(visible) = visible {
            lock(&self.server.ring).push(Instant::now(), visible);
            self.server.samples.fetch_add(1, Relaxed);
        }
        // Also without news: who waits for a delay or a grace is woken to look at the clock.
        self.inner.version.send_modify(|v| *v = v.wrapping_add(1));
        Ok(())
    }

    /// Chooses the witness by what the server is and has set now.
    async fn check(&mut self, conn: &mut Conn) -> Result<(), SampleError> {
        let vars =
            global_variables(conn, &["binlog_order_commits", "binlog_optimize_thread_scheduling"]).await?;
        let on = |name: &str| vars.get(name).is_some_and(|v| v == "ON");
        self.ordered = match self.inner.flavor {
            Flavor::MySql => on("binlog_order_commits"),
            Flavor::MariaDb => on("binlog_optimize_thread_scheduling"),
        };
        let witness = choose(&Choice {
            flavor: self.inner.flavor,
            primary: self.server.primary,
            ordered: self.ordered,
            snapshot: !self.no_snapshot,
            heartbeat: self.inner.heartbeat.is_some(),
            forced: self.inner.forced,
        });
        if self.checked.is_none() || witness != self.witness {
            if self.checked.is_some() {
                warn!(server = %self.server.address, from = %self.witness, to = %witness, "witness of visibility changed");
            } else {
                info!(server = %self.server.address, %witness, "witness of visibility");
            }
            lock(&self.server.ring).clear();
            self.witness = witness;
            self.server.witness.store(witness as u8, Relaxed);
        }
        self.checked = Some(Instant::now());
        Ok(())
    }

    /// MariaDB updates these in the order in which commits become visible, but a rotation sets them at once.
    async fn binlog_snapshot(
        &mut self,
        conn: &mut Conn,
        demanded: bool,
    ) -> Result<Option<Visible>, SampleError> {
        let Some((mut name, mut position)) = snapshot(conn).await? else {
            // Chosen again right away, without it.
            self.no_snapshot = true;
            self.checked = None;
            return Ok(None);
        };
        let mut older_files = self.older_files(conn, &name, position, demanded).await?;
        if !older_files && demanded && self.may_beat() {
            if let Some(file) = &mut self.file {
                file.beaten = true;
            }
            match self.beat(conn).await {
                // The beat stands in the newest file: the snapshot is behind that file's first transaction now.
                Ok(()) => {
                    if let Some(now) = snapshot(conn).await? {
                        (name, position) = now;
                        older_files = self.older_files(conn, &name, position, true).await?;
                    }
                }
                Err(mysql_async::Error::Server(error)) => {
                    warn!(server = %self.server.address, %error, "no heartbeat row, waiting instead");
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Where a beat can still tell, who waits asks for it.
        if !older_files
            && !self.may_beat()
            && self.file.as_ref().is_some_and(|file| file.since.elapsed() >= DELAY)
        {
            older_files = true;
            self.server.delays.fetch_add(1, Relaxed);
        }
        Ok(Some(Visible::UpTo { at: Coordinates { file: name.as_str().into(), position }, older_files }))
    }

    fn may_beat(&self) -> bool {
        self.inner.heartbeat.is_some() && self.file.as_ref().is_some_and(|file| !file.beaten)
    }

    /// Whether a snapshot at `position` of the file `name` proves what older files hold.
    async fn older_files(
        &mut self,
        conn: &mut Conn,
        name: &str,
        position: u64,
        demanded: bool,
    ) -> Result<bool, SampleError> {
        if self.file.as_ref().is_none_or(|file| file.name != name) {
            self.file =
                Some(NewFile { name: name.to_owned(), since: Instant::now(), first: None, beaten: false });
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        if file.first.is_none() && (demanded || file.since.elapsed() < DELAY) {
            file.first = first_transaction(conn, name).await?;
        }
        // A snapshot stands between transactions: past the first one's begin it is past its end.
        Ok(file.first.is_some_and(|begin| position > begin))
    }

    /// Commits the heartbeat row.
    async fn beat(&mut self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        let Some((schema, table)) = &self.inner.heartbeat else { return Ok(()) };
        self.beats += 1;
        let name = |s: &str| s.replace('`', "``");
        conn.query_drop(format!(
            "REPLACE INTO `{}`.`{}` (id, beat) VALUES ({}, {})",
            name(schema),
            name(table),
            self.inner.server_id,
            self.beats
        ))
        .await
    }

    async fn heartbeat(&mut self, conn: &mut Conn) -> Result<Option<Visible>, SampleError> {
        let Some(received) = lock(&self.inner.received).newest() else { return Ok(None) };
        if self.inner.heartbeat.is_none() {
            return Ok(None);
        }
        self.beat(conn).await?;
        // The order of commits can be switched off at any time; then this beat proves nothing.
        self.check(conn).await?;
        if self.witness != Witness::HeartbeatRow || !self.ordered {
            return Ok(None);
        }
        Ok(Some(Visible::UpTo { at: received, older_files: true }))
    }
}

/// MariaDB's newest file and position up to which commits are visible; `None`: the server doesn't tell.
async fn snapshot(conn: &mut Conn) -> Result<Option<(String, u64)>, SampleError> {
    let rows: Vec<(String, String)> = conn.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
    let value = |name: &str| rows.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let file = value("binlog_snapshot_file").map(str::to_owned);
    Ok(file.zip(value("binlog_snapshot_position").and_then(|position| position.parse().ok())))
}

async fn gtid_executed(conn: &mut Conn) -> Result<Visible, SampleError> {
    let text: Option<String> = conn.query_first("SELECT @@global.gtid_executed").await?;
    let text = text.unwrap_or_default();
    text.parse().map(Visible::Gtids).map_err(|e| SampleError::Answer(format!("gtid_executed: {e}")))
}

/// The position read first is only a guess at what to ask for; the wait is what proves it.
async fn gtid_wait(conn: &mut Conn) -> Result<Option<Visible>, SampleError> {
    let text: Option<String> = conn.query_first("SELECT @@global.gtid_slave_pos").await?;
    let text = text.unwrap_or_default();
    let position: MariaGtidPos =
        text.parse().map_err(|e| SampleError::Answer(format!("gtid_slave_pos: {e}")))?;
    if position.is_empty() {
        return Ok(None);
    }
    let reached: Option<Option<i64>> =
        conn.query_first(format!("SELECT MASTER_GTID_WAIT({}, 0)", quote(&position.to_string()))).await?;
    Ok((reached.flatten() == Some(0)).then_some(Visible::MariaPos(position)))
}

/// Where a file's first transaction begins.
async fn first_transaction(conn: &mut Conn, file: &str) -> Result<Option<u64>, SampleError> {
    let shown: Result<Vec<mysql_async::Row>, _> =
        conn.query(format!("SHOW BINLOG EVENTS IN {} LIMIT 20", quote(file))).await;
    let rows = match shown {
        Ok(rows) => rows,
        // Rotated away and purged in between, or not allowed: the delay will do.
        Err(mysql_async::Error::Server(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(rows.iter().find_map(|row| {
        let kind: String = row.get_opt(2)?.ok()?;
        let begin: u64 = row.get_opt(1)?.ok()?;
        kind.eq_ignore_ascii_case("Gtid").then_some(begin)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_sound_witness_is_chosen() {
        use Flavor::{MariaDb, MySql};
        let choice = Choice {
            flavor: MariaDb,
            primary: true,
            ordered: true,
            snapshot: true,
            heartbeat: true,
            forced: None,
        };
        let cases = [
            (Choice { flavor: MySql, ordered: false, ..choice }, Witness::GtidExecuted),
            (choice, Witness::BinlogSnapshot),
            (Choice { snapshot: false, ..choice }, Witness::HeartbeatRow),
            (Choice { snapshot: false, heartbeat: false, ..choice }, Witness::Delay),
            // What makes the snapshot unsound makes the row unsound.
            (Choice { ordered: false, ..choice }, Witness::Delay),
            (Choice { primary: false, snapshot: false, ..choice }, Witness::GtidWait),
            (Choice { forced: Some(Witness::HeartbeatRow), ..choice }, Witness::HeartbeatRow),
            (
                Choice { forced: Some(Witness::HeartbeatRow), flavor: MySql, ordered: false, ..choice },
                Witness::GtidExecuted,
            ),
            (Choice { forced: Some(Witness::Delay), ..choice }, Witness::Delay),
        ];
        for (choice, expected) in cases {
            assert_eq!(choose(&choice), expected, "{choice:?}");
        }
    }
}
