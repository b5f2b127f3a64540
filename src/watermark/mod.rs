//! When a commit is visible at every server that fills read from, so that its keys' second removal may run.
//!
//! A server sends an event to replicas before readers see the row, and a replica that readers use may lag. Each server has
//! a [`Witness`]: something that it says about what is visible. Each witness was raced against readers, see
//! `integration-tests/tests/source/witness.rs`; where none is sound a delay takes its place, and is reported as one.
//!
//! Guarantees: [`Watermark::visible_since`] answers only for what a sample of *every* server holds; a server that can't be
//! asked holds everything up. Positions of different servers are never compared. May depend on `config` and
//! `source::{connect, position, preflight}`.

mod sample;
mod sampler;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rowbust_binlog::Flavor;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config},
    source::{
        Preflight,
        connect::Connector,
        position::{CommitSpan, Coordinates},
    },
};
use sample::{Received, Ring};

/// What is waited for where nothing can be known.
pub const DELAY: Duration = Duration::from_secs(1);

/// Samples come this often when nothing waits, so that a backlog is known to be long visible when it is read.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

/// And this often when something waits.
const DEMAND_INTERVAL: Duration = Duration::from_millis(10);

/// How a server's visible commits are known. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Witness {
    /// MySQL: `gtid_executed` has the commit. Sound with any `binlog_order_commits`.
    GtidExecuted = 1,
    /// MariaDB primary: `binlog_snapshot_file` and `_position` are past the commit; sound with
    /// `binlog_optimize_thread_scheduling=ON`, and for a newer file only past its first transaction.
    BinlogSnapshot = 2,
    /// MariaDB replica: `MASTER_GTID_WAIT`.
    GtidWait = 3,
    /// A row that the daemon commits: what was received before is visible when the COMMIT returns. Sound with
    /// `binlog_order_commits=ON` (MySQL) and `binlog_optimize_thread_scheduling=ON` (MariaDB).
    HeartbeatRow = 4,
    /// No proof: [`DELAY`] after the commit was received.
    Delay = 5,
}

impl Witness {
    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::GtidExecuted,
            2 => Self::BinlogSnapshot,
            3 => Self::GtidWait,
            4 => Self::HeartbeatRow,
            _ => Self::Delay,
        }
    }

    /// For logs, metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GtidExecuted => "gtid_executed",
            Self::BinlogSnapshot => "binlog_snapshot",
            Self::GtidWait => "gtid_wait",
            Self::HeartbeatRow => "heartbeat_row",
            Self::Delay => "delay",
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One server that fills read from.
struct Server {
    address: String,
    host: String,
    port: u16,
    primary: bool,
    ring: Mutex<Ring>,
    witness: AtomicU8,
    demand: AtomicBool,
    wake: Notify,
    samples: AtomicU64,
    failures: AtomicU64,
    /// Times that the delay stood in for the witness.
    delays: AtomicU64,
    /// The oldest commits that were asked about and aren't visible here, and since when.
    held: Mutex<Option<(CommitSpan, Instant)>>,
}

impl Server {
    fn new(address: (String, u16), primary: bool) -> Self {
        let (host, port) = address;
        Self {
            address: format!("{host}:{port}"),
            host,
            port,
            primary,
            ring: Mutex::new(Ring::default()),
            witness: AtomicU8::new(Witness::Delay as u8),
            demand: AtomicBool::new(false),
            wake: Notify::new(),
            samples: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            delays: AtomicU64::new(0),
            held: Mutex::new(None),
        }
    }

    fn hold(&self, span: &CommitSpan) {
        lock(&self.held).get_or_insert_with(|| (span.clone(), Instant::now()));
    }

    fn held_for(&self) -> Option<Duration> {
        let mut held = lock(&self.held);
        let (span, since) = held.as_ref()?;
        let is_visible = lock(&self.ring).since(span).is_some();
        if is_visible {
            *held = None;
            return None;
        }
        Some(since.elapsed())
    }
}

/// Which servers count for the visibility of one Redis target's keys: see `published::pool`.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    /// Bit by server: it doesn't count.
    left: AtomicU64,
}

impl Gate {
    /// From now on commits may be visible. Says whether it was closed.
    pub fn open(&self) -> bool {
        !self.open.swap(true, Relaxed)
    }

    /// Whether `server` counts from now on. Those behind the 64th always do.
    pub fn count(&self, server: usize, counts: bool) {
        let bit = u32::try_from(server).ok().and_then(|server| 1_u64.checked_shl(server)).unwrap_or(0);
        if counts {
            self.left.fetch_and(!bit, Ordering::SeqCst);
        } else {
            self.left.fetch_or(bit, Ordering::SeqCst);
        }
    }

    fn counts(&self, server: usize) -> bool {
        let bit = u32::try_from(server).ok().and_then(|server| 1_u64.checked_shl(server)).unwrap_or(0);
        self.left.load(Ordering::SeqCst) & bit == 0
    }
}

struct Inner {
    connector: Connector,
    heartbeat: Option<(String, String)>,
    server_id: u32,
    flavor: Flavor,
    forced: Option<Witness>,
    interval: Duration,
    servers: Vec<Server>,
    received: Mutex<Received>,
    version: watch::Sender<u64>,
}

/// Tells what is visible everywhere. Cheap to clone; the clones share everything but what [`Watermark::changed`] has seen.
#[derive(Clone)]
pub struct Watermark {
    inner: Arc<Inner>,
    gate: Option<Arc<Gate>>,
    seen: watch::Receiver<u64>,
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watermark").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// One server, for `/status` and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// `host:port`.
    pub address: String,
    /// How its visible commits are known now.
    pub witness: Witness,
    /// Answers taken.
    pub samples: u64,
    /// Times that it couldn't be asked.
    pub failures: u64,
    /// Times that the delay stood in for the witness, as after a rotation on a quiet MariaDB without a heartbeat row.
    pub delays: u64,
    /// Age of the newest sample; `None` before the first.
    pub age: Option<Duration>,
    /// How long the oldest commits that wait for it have waited; zero: none does.
    pub held: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seen_by_gtid<'a>(
    mut servers: impl Iterator<Item = &'a Server>,
    span: &CommitSpan,
    grace: Duration,
    now: Instant,
    settled: bool,
) -> bool {
    servers.all(|server| {
        let ring = lock(&server.ring);
        match Witness::from_u8(server.witness.load(Relaxed)) {
            Witness::GtidExecuted | Witness::GtidWait => {
                ring.since(span).is_some_and(|since| since + grace <= now)
            }
            Witness::BinlogSnapshot | Witness::HeartbeatRow | Witness::Delay => {
                settled || ring.newest().is_some()
            }
        }
    })
}

impl Watermark {
    /// For the primary and `source.replicas`; asks nobody before [`Watermark::run`].
    pub fn new(config: &Config, server: &Preflight) -> Self {
        Self::with_witness(&config.source, server, None, DEMAND_INTERVAL)
    }

    /// With a witness of choice where the server has it, and another pace than one sample in 10 ms when something waits:
    /// for tests that race each witness.
    pub fn with_witness(
        source: &config::Source,
        server: &Preflight,
        forced: Option<Witness>,
        interval: Duration,
    ) -> Self {
        let primary = Server::new((source.host.clone(), source.port), true);
        let replicas = source.replicas.iter().map(|address| Server::new(address.clone(), false));
        let (version, seen) = watch::channel(0);
        let inner = Inner {
            connector: Connector::new(source),
            heartbeat: source.heartbeat.clone(),
            server_id: server.server_id,
            flavor: server.flavor,
            forced,
            interval,
            servers: std::iter::once(primary).chain(replicas).collect(),
            received: Mutex::new(Received::default()),
            version,
        };
        Self { inner: Arc::new(inner), gate: None, seen }
    }

    /// Since when the commits are known to be visible at every server; `None`: not known yet. By the monotonic clock, and
    /// never earlier than the truth. Asked again later the answer may be later, because samples are thinned out as they
    /// age: keep the first one where that matters.
    pub fn visible_since(&self, span: &CommitSpan) -> Option<Instant> {
        if self.gate.as_ref().is_some_and(|gate| !gate.open.load(Relaxed)) {
            return None;
        }
        let mut latest = None;
        let mut everywhere = true;
        for (at, server) in self.inner.servers.iter().enumerate() {
            if self.gate.as_ref().is_some_and(|gate| !gate.counts(at)) {
                continue;
            }
            // Not in the scrutinee: the lock would be held while `held` is taken.
            let since = lock(&server.ring).since(span);
            let since = match since {
                Some(since) => since,
                // A witness by GTID can't speak about transactions without one, nor one by coordinates about a position that was
                // only given by its GTIDs.
                None if self.cant_speak(server, span) => {
                    let since = lock(&self.inner.received).delayed(&span.last, DELAY)?;
                    server.delays.fetch_add(1, Relaxed);
                    since
                }
                None => {
                    // The others are looked at too: each is to be known that holds something up.
                    server.hold(span);
                    everywhere = false;
                    continue;
                }
            };
            latest = latest.max(Some(since));
        }
        if !everywhere {
            return None;
        }
        if span.by_delay {
            let since = lock(&self.inner.received).delayed(&span.last, DELAY)?;
            self.inner.servers.iter().for_each(|server| _ = server.delays.fetch_add(1, Relaxed));
            latest = latest.max(Some(since));
        }
        latest
    }

    /// Whether commits of a server that is followed no more have been visible for `grace` at every server that can tell: by its GTIDs, for
    /// its coordinates mean nothing here. `settled`: whoever was not asked until now has no witness.
    pub fn is_seen_by_gtid(&self, span: &CommitSpan, grace: Duration, now: Instant, settled: bool) -> bool {
        let counts = |at: usize| self.gate.as_ref().is_none_or(|gate| gate.counts(at));
        let servers = self.inner.servers.iter().enumerate().filter(|(at, _)| counts(*at));
        self.gate.as_ref().is_none_or(|gate| gate.open.load(Relaxed))
            && seen_by_gtid(servers.map(|(_, server)| server), span, grace, now, settled)
    }

    fn cant_speak(&self, server: &Server, span: &CommitSpan) -> bool {
        let by_gtid = matches!(self.witness_of(server), Witness::GtidExecuted | Witness::GtidWait);
        (span.is_anonymous() && self.witness_of(server) != Witness::BinlogSnapshot)
            || (span.last.file.is_empty() && !by_gtid)
    }

    /// Everything up to `last` ([`CommitSpan::last`]) has been received. To be called for each batch, in order: the
    /// heartbeat row and the delay speak about what was received.
    pub fn received(&self, last: &Coordinates) {
        lock(&self.inner.received).push(last, Instant::now());
    }

    /// The same, for a target whose keys are filled from what `gate` lets count.
    pub fn behind(&self, gate: Arc<Gate>) -> Self {
        Self { gate: Some(gate), ..self.clone() }
    }

    /// `host:port` of every server, the primary first, as in the config.
    pub fn addresses(&self) -> Vec<String> {
        self.inner.servers.iter().map(|server| server.address.clone()).collect()
    }

    /// How many servers there are; at least one.
    pub fn servers(&self) -> usize {
        self.inner.servers.len()
    }

    /// How long a server has held something up; `None`: it doesn't.
    pub fn held_for(&self, server: usize) -> Option<Duration> {
        self.inner.servers.get(server)?.held_for()
    }

    /// Whether a server is known to show all of these.
    pub fn has(&self, server: usize, span: &CommitSpan) -> bool {
        self.inner.servers.get(server).is_some_and(|server| lock(&server.ring).since(span).is_some())
    }

    /// The newest place that was received.
    pub fn newest_received(&self) -> Option<Coordinates> {
        lock(&self.inner.received).newest()
    }

    /// Wakes who waits for visibility: what it depends on has changed.
    pub fn touch(&self) {
        self.inner.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Something waits: sample soon. Holds for the next sample.
    pub fn demand(&self) {
        for server in &self.inner.servers {
            if !server.demand.swap(true, Relaxed) {
                server.wake.notify_one();
            }
        }
    }

    /// Waits for a sample newer than those that this clone has seen.
    pub async fn changed(&mut self) {
        // The sender lives in `inner`, so this can't fail.
        let _ = self.seen.changed().await;
    }

    /// The weakest witness among the servers: what a report must call the proof.
    pub fn witness(&self) -> Witness {
        self.inner.servers.iter().map(|s| self.witness_of(s)).max().unwrap_or(Witness::Delay)
    }

    fn witness_of(&self, server: &Server) -> Witness {
        Witness::from_u8(server.witness.load(Relaxed))
    }

    /// Each server's state.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.inner
            .servers
            .iter()
            .map(|s| {
                let held = s.held_for().unwrap_or_default();
                let newest = lock(&s.ring).newest();
                ServerStatus {
                    address: s.address.clone(),
                    witness: self.witness_of(s),
                    samples: s.samples.load(Relaxed),
                    failures: s.failures.load(Relaxed),
                    delays: s.delays.load(Relaxed),
                    age: newest.map(|at| at.elapsed()),
                    held,
                }
            })
            .collect()
    }

    /// Samples every server until `shutdown`; reconnects by itself.
    pub async fn run(self, shutdown: CancellationToken) {
        let servers =
            (0..self.inner.servers.len()).map(|i| sampler::run(self.inner.clone(), i, shutdown.clone()));
        futures_util::future::join_all(servers).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{sample::Visible, *};

    fn server(witness: Witness) -> Server {
        let server = Server::new(("h".into(), 3306), false);
        server.witness.store(witness as u8, Relaxed);
        server
    }

    /// After a failover: what the old primary committed is asked for by its GTIDs, also at a replica that lags.
    #[test]
    fn commits_of_another_server_are_asked_for_by_gtid() {
        let gtids = |upto: u32| format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-{upto}").parse().unwrap();
        let of_old = Coordinates { file: "old.000007".into(), position: 900 };
        let span = CommitSpan::parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:9", of_old).unwrap();
        let (now, grace) = (Instant::now(), Duration::from_secs(1));
        let servers = [server(Witness::GtidExecuted), server(Witness::GtidExecuted)];
        let seen = |now| seen_by_gtid(servers.iter(), &span, grace, now, true);
        assert!(!seen(now));
        lock(&servers[0].ring).push(now, Visible::Gtids(gtids(20)));
        lock(&servers[1].ring).push(now, Visible::Gtids(gtids(8)));
        assert!(!seen(now + grace), "the replica lags");
        lock(&servers[1].ring).push(now + grace, Visible::Gtids(gtids(9)));
        assert!(!seen(now + grace), "within the grace");
        assert!(seen(now + grace * 2));
        // Who is asked by coordinates can't tell; who wasn't asked yet may.
        let others = [server(Witness::BinlogSnapshot), server(Witness::Delay)];
        assert!(seen_by_gtid(others.iter(), &span, grace, now, true));
        assert!(!seen_by_gtid(others.iter(), &span, grace, now, false));
    }
}
