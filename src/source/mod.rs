//! The binlog of one server, from connecting to the end of each transaction.
//!
//! Guarantees: every row event of a mapped table is handed to the [`Sink`] between its transaction's begin and commit, in
//! the binlog's order, or the daemon stops with the event's coordinates; the position moves only at a transaction's end. A
//! transaction may be handed on again in full after [`Sink::abandon`], never in part.
//! May depend on `config`, `rowbust-binlog`, and a MySQL driver for queries (only here and in `watermark`).
//!
//! The parts: [`connect`] and [`preflight`] (is this server one that can be followed?), [`lease`] (which of several daemons follows it),
//! [`start`] (where to begin), [`locate`] (where a place is), `open` (all of it),
//! `anchor` (is the log behind it still the one that was read), [`stream`] (bytes of events) on [`wire`] (packets, login, TLS), [`follow`]
//! (transactions), `tail` (crashes of the server), [`statement`] (what a logged statement does), [`schema`]
//! (what the binlog leaves out), [`position`] (places), [`stats`] (counters), [`retention`] (how long the server keeps what is behind the
//! checkpoint); `cdc` (another driver).

mod anchor;
pub mod behind;
#[cfg(feature = "mysql-cdc")]
mod cdc;
pub mod connect;
pub mod error;
pub mod follow;
pub mod lease;
pub mod locate;
mod open;
pub mod pause;
pub mod policy;
pub mod position;
pub mod preflight;
pub mod retention;
pub mod schema;
mod seam;
pub mod start;
pub mod statement;
pub mod stats;
pub mod stream;
mod tail;
pub mod wire;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What the driver `mysql_cdc` can't do, in words.
#[cfg(feature = "mysql-cdc")]
pub use cdc::limits::LIMITS as CDC_LIMITS;
#[cfg(feature = "mysql-cdc")]
pub(crate) use cdc::limits::refuse_settings as cdc_refuses;
pub use error::{Halt, Refusal, SourceError};
pub use pause::Pause;
pub use preflight::Preflight;
pub use seam::{Prepared, Scope, Sink, Transaction};
pub use stats::SourceStats;

use crate::config::{Config, Policy};
use connect::Connector;
use follow::{Ended, Follower};
use lease::Gate;
use open::{Change, Opened};
use policy::PolicyTable;
use position::{Anchor, Position};
use schema::{History, Keeper, SchemaCache};

/// Where to go on after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The checkpoint's position.
    pub position: Position,
    /// The server that it was written for: [`Preflight::identity`].
    pub identity: String,
    /// The event that ends there.
    pub anchor: Option<Anchor>,
    /// It is known that something behind the checkpoint is lost, and what.
    pub gap: Option<String>,
    /// When following began (Unix seconds): what was lost before concerns nobody.
    pub since: u32,
    /// This is an earlier place than the checkpoint's. If it can't be had any more, that is [`SourceError::OutOfReach`].
    pub rewound: bool,
    /// Redis servers that have forgotten nobody knows how much.
    pub forgotten: Option<Forgotten>,
}

/// Redis servers whose keyspaces are to be flushed, because what was removed there may be back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Indices into [`Config::redis`].
    pub targets: Vec<usize>,
    /// For the log and the status.
    pub why: String,
}

impl Resume {
    /// At a position about whose events nothing is known.
    pub fn new(position: Position, identity: String) -> Self {
        Self { position, identity, anchor: None, gap: None, since: 0, rewound: false, forgotten: None }
    }
}

/// The most decode errors at one place before the daemon stops: the bytes won't get better.
const MAX_DECODE_ERRORS: u32 = 3;

/// After the first connection, an error number that isn't known here is tried again so often without a transaction in
/// between: a running daemon shouldn't end because of what passes. The same holds, from the first connection on, for a server that can't
/// send its log. With the pauses between, half a minute.
const MAX_PASSING_ERRORS: u32 = 8;

/// This many clashes of server ids within [`CLASH_WINDOW`] end the daemon: both replicas would kick each other for ever.
const MAX_CLASHES: usize = 5;
const CLASH_WINDOW: Duration = Duration::from_secs(120);

/// Follows one server.
#[derive(Debug)]
pub struct Source {
    config: Arc<Config>,
    connector: Connector,
    stats: Arc<SourceStats>,
    pause: Pause,
    gate: Option<Gate>,
    keeper: Option<Arc<dyn Keeper>>,
    running: bool,
}

impl Source {
    /// For `source:` of the config; connects to nothing yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self::with_stats(config, Arc::default())
    }

    /// With counters that go on.
    pub fn with_stats(config: Arc<Config>, stats: Arc<SourceStats>) -> Self {
        let connector = Connector::new(&config.source);
        Self { config, connector, stats, pause: Pause::default(), running: false, gate: None, keeper: None }
    }

    /// Reading stops at a transaction's end while `pause` holds it, and the connection is closed meanwhile.
    #[must_use]
    pub fn pausing(self, pause: Pause) -> Self {
        Self { pause, ..self }
    }

    /// Connects for the stream only while the lease is held: another daemon may have the same `server_id`.
    #[must_use]
    pub fn gated(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Keeps the schema history there and not beside the checkpoint's file.
    #[must_use]
    pub fn keeping(self, keeper: Option<Arc<dyn Keeper>>) -> Self {
        Self { keeper, ..self }
    }

    /// Of a daemon that runs already: no failed connection ends it, not the first one either.
    pub fn running(mut self, running: bool) -> Self {
        self.running = running;
        self
    }

    /// The follower's counters.
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Connects and checks the server; nothing is read. For `check --live`, and for what must be known before the start. Of a daemon
    /// that is [`Source::running`] it tries as [`Source::run`] does, until the server answers.
    ///
    /// # Errors
    /// [`SourceError::Connect`], [`SourceError::Refused`], [`SourceError::Lost`].
    pub async fn preflight(&self) -> Result<Preflight, SourceError> {
        let (mut pauses, mut passing_errors) = (backoff(MAX_PAUSE), 0);
        loop {
            let found = in_time(async {
                let mut conn = self.connector.primary().await?;
                let found = preflight::preflight(&mut conn, &self.config, self.connector.uses_tls()).await?;
                conn.disconnect().await.ok();
                Ok(found)
            });
            match found.await {
                Err(error) if may_pass(&error, self.running, &mut passing_errors) => {
                    self.stats.reconnect();
                    tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
                }
                found => return found,
            }
        }
    }

    /// Follows the binlog until `shutdown`, which is the only end that is no error. After a lost connection it goes on
    /// behind the last transaction that was *read* to its end, not behind the checkpoint: the keys of what was read are in
    /// the pipeline, and only a crash loses them. A transaction that was cut off is read again from its begin, because its
    /// table maps went with the connection.
    ///
    /// `on_ready` is called with what the server is, after each successful connect.
    ///
    /// # Errors
    /// See [`SourceError`]. A first connection that fails ends it, unless the daemon is [`Source::running`]; later it tries again for ever.
    pub async fn run<S: Sink>(
        &self,
        resume: Option<Resume>,
        sink: &mut S,
        shutdown: &CancellationToken,
        mut on_ready: impl FnMut(&Preflight) + Send,
    ) -> Result<(), SourceError> {
        let mut place = resume;
        let history = match &self.keeper {
            Some(keeper) => History::kept(Arc::clone(keeper)),
            None => History::open(&self.config.checkpoint.path).map_err(|why| {
                let help = "restore the file, or remove it: columns are then asked for anew";
                Refusal::new("source.schema_history", why, help)
            })?,
        };
        let mut schema = SchemaCache::new(self.connector.clone(), history);
        if place.is_none() {
            // Without a checkpoint it is of another life, or of another server.
            schema.clear()?;
        }
        let mut follower = Follower::new(schema, PolicyTable::new(&self.config), self.stats.clone())
            .pausing(self.pause.clone());
        let since = place.as_ref().map_or_else(now, |place| place.since);
        follower.covers_from(since);
        let mut pauses = backoff(MAX_PAUSE);
        let mut connected_once = false;
        let mut decode_errors = (0, None);
        let mut passing_errors = 0;
        let mut clashes: VecDeque<Instant> = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = self.pause.goes_on() => {}
            }
            let opened = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                opened = async {
                    if let Some(gate) = self.gate.as_ref().filter(|gate| !gate.is_open()) {
                        // A server that is away is no reason to wait for the lease.
                        in_time(async { Ok(self.connector.primary().await?) }).await?;
                        gate.open().await;
                    }
                    in_time(self.open(place.as_ref(), !connected_once)).await
                } => opened,
            };
            #[cfg(feature = "mysql-cdc")]
            let opened = match opened {
                Ok(opened) => in_time(self.undecodable_columns()).await.and_then(|columns| {
                    cdc::limits::refuse(columns, |schema, table| sink.is_mapped(schema, table))?;
                    Ok(opened)
                }),
                error => error,
            };
            let error = match opened {
                Ok(Opened { server, begin, stream, change }) => {
                    if !connected_once {
                        for warning in &server.warnings {
                            warn!(warning, "source");
                        }
                    }
                    info!(
                        server = %self.connector.primary_address(), version = %server.version, tls = server.tls,
                        server_id = server.server_id, position = %begin.position, "following binlog"
                    );
                    on_ready(&server);
                    follower.connected(&server);
                    if let (Some(change), Some(old)) = (change, &place) {
                        self.change(change, old, &server, &begin.position, &mut follower, sink)?;
                    }
                    if !connected_once
                        && let Some((place, forgotten)) =
                            place.as_ref().and_then(|p| Some((p, p.forgotten.as_ref()?)))
                    {
                        self.flush_forgotten(place, forgotten, &server, &mut follower, sink)?;
                    }
                    let identity = server.identity.clone();
                    connected_once = true;
                    self.stats.connected(true);
                    let before = self.stats.transactions();
                    let ended = follower.follow(&begin, stream, sink, shutdown).await;
                    self.stats.connected(false);
                    if let Some(position) = follower.position() {
                        let anchor = follower.anchor();
                        let unmoved = place.as_ref().filter(|place| place.position == *position);
                        let anchor = anchor.or_else(|| unmoved.and_then(|place| place.anchor));
                        place = Some(Resume { anchor, since, ..Resume::new(position.clone(), identity) });
                    }
                    if self.stats.transactions() != before {
                        pauses = backoff(MAX_PAUSE);
                        passing_errors = 0;
                    }
                    match ended {
                        Ended::Shutdown => return Ok(()),
                        Ended::Held => {
                            sink.flush().await.map_err(|e| SourceError::Sink(Box::new(e)))?;
                            continue;
                        }
                        Ended::Error(error @ SourceError::Sink(_)) => return Err(error),
                        Ended::Error(error) => {
                            // What was read to its end is handed on, however long it takes to go on, and if never.
                            sink.flush().await.map_err(|e| SourceError::Sink(Box::new(e)))?;
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            match error {
                SourceError::Gap { what, .. } if place.as_ref().is_some_and(|place| place.rewound) => {
                    return Err(SourceError::OutOfReach(what));
                }
                // A first start has no place behind which anything could be lost.
                SourceError::Gap { what, .. }
                    if place.is_some() && self.config.source.policies.on_gap == Policy::Flush =>
                {
                    return Err(SourceError::Anew { why: what, gap: true });
                }
                ref passing if may_pass(passing, connected_once || self.running, &mut passing_errors) => {}
                SourceError::Clash(_) => {
                    self.stats.clash();
                    let now = Instant::now();
                    clashes.push_back(now);
                    while clashes.front().is_some_and(|&at| now.duration_since(at) > CLASH_WINDOW) {
                        clashes.pop_front();
                    }
                    warn!(%error, count = clashes.len(), "server_id clash");
                    if clashes.len() >= MAX_CLASHES {
                        return Err(error);
                    }
                }
                SourceError::Decode { ref at, .. } => {
                    self.stats.decode_error();
                    if decode_errors.1.as_ref() == Some(at) {
                        decode_errors.0 += 1;
                    } else {
                        decode_errors = (1, Some(at.clone()));
                    }
                    if decode_errors.0 >= MAX_DECODE_ERRORS {
                        return Err(error);
                    }
                    warn!(%error, "event can't be decoded, reading it again");
                }
                fatal => return Err(fatal),
            }
            self.stats.reconnect();
            let pause = pauses.next().unwrap_or(MAX_PAUSE);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tells the sink that reading goes on elsewhere than at `old`.
    fn change<S: Sink>(
        &self,
        change: Change,
        old: &Resume,
        server: &Preflight,
        position: &Position,
        follower: &mut Follower,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        sink.started(&old.position);
        match change {
            Change::Moved => {
                self.stats.server_change();
                warn!(
                    from = old.identity, to = server.identity, %position,
                    "another server answers and has everything that was read: going on there. What the old one committed and sent to \
                     nobody is taken for never seen by readers, as with a lossless failover"
                );
                follower.adopt(position.clone(), false)?;
                sink.moved(position, &server.identity);
                Ok(())
            }
            Change::Gap(what) => {
                self.stats.gap();
                self.stats.widen(policy::Cause::Gap);
                tracing::error!(
                    what, from = %old.position, to = %position, server = server.identity,
                    "gap in the binlog: removing every key that the mappings could make"
                );
                follower.adopt(position.clone(), true)?;
                sink.gap(position, &server.identity, &what).map_err(SourceError::from)
            }
        }
    }

    /// Redis has forgotten what it was told: its keyspaces are flushed, and reading goes on where it stands.
    fn flush_forgotten<S: Sink>(
        &self,
        place: &Resume,
        forgotten: &Forgotten,
        server: &Preflight,
        follower: &mut Follower,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let position = match follower.position() {
            // Moved there, or behind a gap: then this comes on top.
            Some(position) => position.clone(),
            None => {
                sink.started(&place.position);
                follower.adopt(place.position.clone(), false)?;
                place.position.clone()
            }
        };
        self.stats.widen(policy::Cause::Rollback);
        tracing::error!(
            why = forgotten.why, %position,
            "redis has forgotten removals: removing every key that the mappings of these targets could make"
        );
        let cause = format!("rollback: {}", forgotten.why);
        sink.forgotten(&position, &server.identity, &forgotten.targets, &cause).map_err(SourceError::from)
    }
}

/// Everything outside of the stream ends within this: connecting and what is asked before the stream, and each question for
/// a table's columns.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// A server that doesn't answer is a lost connection.
async fn in_time<T>(answer: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    tokio::time::timeout(ANSWER_DEADLINE, answer).await.unwrap_or_else(|_| {
        Err(SourceError::Lost(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())))
    })
}

/// Whether to try again; says so in the log. `running`: there was a connection before.
fn may_pass(error: &SourceError, running: bool, passing_errors: &mut u32) -> bool {
    match error {
        SourceError::Connect(_) | SourceError::Lost(_) if running => {
            warn!(%error, "source lost, reconnecting");
            true
        }
        SourceError::Dump(_) | SourceError::Refused(_)
            if *passing_errors < MAX_PASSING_ERRORS
                && (matches!(error, SourceError::Dump(_)) || running && error.is_unknown()) =>
        {
            *passing_errors += 1;
            warn!(%error, count = *passing_errors, "source refused, trying again");
            true
        }
        _ => false,
    }
}

/// Unix seconds, as the server's clock should show them too.
pub fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// The longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between tries: from 100 ms up to `most`, with jitter.
fn backoff(most: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(most)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_lost() {
        let error = in_time(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert!(matches!(&error, SourceError::Lost(reason) if reason == "no answer within 30 s"), "{error}");
        assert_eq!(error.exit_code(), 69);
    }
}
