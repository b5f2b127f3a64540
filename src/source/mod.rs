//! The binlog of one server, from connecting to the end of each transaction.
//!
//! Guarantees: every row event of a mapped table is handed to the [`Sink`] between its transaction's begin and commit, in
//! the binlog's order, or the daemon stops with the event's coordinates; the position moves only at a transaction's end. A
//! transaction may be handed on again in full after [`Sink::abandon`], never in part.
//! May depend on `config`, `rowbust-binlog`, and a MySQL driver for queries (only here and in `watermark`).
//!
//! The parts: [`connect`] and [`preflight`] (is this server one that can be followed?), [`start`] (where to begin),
//! [`stream`] (bytes of events) on [`wire`] (packets, login, TLS), [`follow`] (transactions), [`statement`] (what a logged statement does), [`schema`]
//! (what the binlog leaves out), [`position`] (places), [`stats`] (counters); `cdc` (another driver).

mod anchor;
#[cfg(feature = "mysql-cdc")]
mod cdc;
pub mod connect;
pub mod error;
pub mod follow;
pub mod policy;
pub mod position;
pub mod preflight;
pub mod schema;
mod seam;
pub mod start;
pub mod statement;
pub mod stats;
pub mod stream;
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
pub use error::{Halt, Refusal, SourceError};
pub use preflight::Preflight;
pub use seam::{Prepared, Scope, Sink, Transaction};
pub use stats::SourceStats;

#[cfg(feature = "mysql-cdc")]
use crate::config::Driver;
use crate::config::{Config, Policy};
use connect::Connector;
use follow::{Ended, Follower};
use policy::PolicyTable;
use position::{Anchor, Position};
use schema::{History, SchemaCache};
use stream::{EventStream, StreamError};

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
        Self { position, identity, anchor: None, gap: None, rewound: false, forgotten: None }
    }
}

/// How reading goes on somewhere else than it ended.
enum Change {
    /// Another server that has everything.
    Moved,
    /// This is lost.
    Gap(String),
}

struct Opened {
    server: Preflight,
    begin: start::Begin,
    stream: EventStream,
    change: Option<Change>,
}

/// The most decode errors at one place before the daemon stops: the bytes won't get better.
const MAX_DECODE_ERRORS: u32 = 3;

/// After the first connection, an error number that isn't known here is tried again so often without a transaction in
/// between: a running daemon shouldn't end because of what passes.
const MAX_UNKNOWN_ERRORS: u32 = 5;

/// This many clashes of server ids within [`CLASH_WINDOW`] end the daemon: both replicas would kick each other for ever.
const MAX_CLASHES: usize = 5;
const CLASH_WINDOW: Duration = Duration::from_secs(120);

/// Follows one server.
#[derive(Debug)]
pub struct Source {
    config: Arc<Config>,
    connector: Connector,
    stats: Arc<SourceStats>,
}

impl Source {
    /// For `source:` of the config; connects to nothing yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self::with_stats(config, Arc::default())
    }

    /// With counters that go on.
    pub fn with_stats(config: Arc<Config>, stats: Arc<SourceStats>) -> Self {
        let connector = Connector::new(&config.source);
        Self { config, connector, stats }
    }

    /// The follower's counters.
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Connects and checks the server; nothing is read. For `check --live`, and for what must be known before the start.
    ///
    /// # Errors
    /// [`SourceError::Connect`], [`SourceError::Refused`], [`SourceError::Lost`].
    pub async fn preflight(&self) -> Result<Preflight, SourceError> {
        in_time(async {
            let mut conn = self.connector.primary().await?;
            let found = preflight::preflight(&mut conn, &self.config, self.connector.uses_tls()).await?;
            conn.disconnect().await.ok();
            Ok(found)
        })
        .await
    }

    /// Follows the binlog until `shutdown`, which is the only end that is no error. After a lost connection it goes on
    /// behind the last transaction that was *read* to its end, not behind the checkpoint: the keys of what was read are in
    /// the pipeline, and only a crash loses them. A transaction that was cut off is read again from its begin, because its
    /// table maps went with the connection.
    ///
    /// `on_ready` is called with what the server is, after each successful connect.
    ///
    /// # Errors
    /// See [`SourceError`]. A first connection that fails ends it; later it tries again for ever.
    pub async fn run<S: Sink>(
        &self,
        resume: Option<Resume>,
        sink: &mut S,
        shutdown: &CancellationToken,
        mut on_ready: impl FnMut(&Preflight) + Send,
    ) -> Result<(), SourceError> {
        let mut place = resume;
        let history = History::open(&self.config.checkpoint.path).map_err(|why| {
            let help = "restore the file, or remove it: columns are then asked for anew";
            Refusal::new("source.schema_history", why, help)
        })?;
        let mut schema = SchemaCache::new(self.connector.clone(), history);
        if place.is_none() {
            // Without a checkpoint it is of another life, or of another server.
            schema.clear()?;
        }
        let mut follower = Follower::new(schema, PolicyTable::new(&self.config), self.stats.clone());
        if place.is_none() {
            follower.covers_from(now());
        }
        let mut backoff = backoff();
        let mut connected_once = false;
        let mut decode_errors = (0, None);
        let mut unknown_errors = 0;
        let mut clashes: VecDeque<Instant> = VecDeque::new();
        loop {
            let opened = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                opened = in_time(self.open(place.as_ref(), !connected_once)) => opened,
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
                        && let Some((place, forgotten)) = place.as_ref().and_then(|p| Some((p, p.forgotten.as_ref()?)))
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
                        place = Some(Resume { anchor, ..Resume::new(position.clone(), identity) });
                    }
                    if self.stats.transactions() != before {
                        backoff = self::backoff();
                        unknown_errors = 0;
                    }
                    match ended {
                        Ended::Shutdown => return Ok(()),
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
                SourceError::Connect(_) | SourceError::Lost(_) if connected_once => {
                    warn!(%error, "source lost, reconnecting");
                }
                _ if connected_once && error.is_unknown() && unknown_errors < MAX_UNKNOWN_ERRORS => {
                    unknown_errors += 1;
                    warn!(%error, count = unknown_errors, "source refused, trying again");
                }
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
            let pause = backoff.next().unwrap_or(MAX_PAUSE);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// `first`: nothing was read yet. Later another server, or a gap, is a reason to begin anew.
    async fn open(&self, place: Option<&Resume>, first: bool) -> Result<Opened, SourceError> {
        let mut conn = self.connector.primary().await?;
        let server = preflight::preflight(&mut conn, &self.config, self.connector.uses_tls()).await?;
        let Some(place) = place else {
            let begin = start::first_start(&mut conn, &server, &self.config.source.start).await?;
            conn.disconnect().await.ok();
            let stream = self.followed(&server, &begin.request).await?;
            return Ok(Opened { server, begin, stream, change: None });
        };
        let moved = place.identity != server.identity;
        let (begin, change) = match self.go_on(&mut conn, &server, place, moved).await {
            Ok(_) if moved && !first => {
                let why =
                    format!("another server answers: {}, before it was {}", server.identity, place.identity);
                return Err(SourceError::Anew { why, gap: false });
            }
            Ok(begin) => (begin, moved.then_some(Change::Moved)),
            // The position is taken before anything is removed: what changes meanwhile is read.
            Err(SourceError::Gap { what, .. })
                if first && !place.rewound && self.config.source.policies.on_gap == Policy::Flush =>
            {
                (start::latest(&mut conn, &server).await?, Some(Change::Gap(what)))
            }
            Err(error) => return Err(error),
        };
        conn.disconnect().await.ok();
        let stream = self.followed(&server, &begin.request).await?;
        Ok(Opened { server, begin, stream, change })
    }

    /// Whether everything behind `place` is still there, and how it is asked for.
    async fn go_on(
        &self,
        conn: &mut mysql_async::Conn,
        server: &Preflight,
        place: &Resume,
        moved: bool,
    ) -> Result<start::Begin, SourceError> {
        if let Some(what) = &place.gap {
            return Err(SourceError::gap(what.clone()));
        }
        let position = &place.position;
        if moved {
            // Its files are others.
            let elsewhere = Position { gtids: position.gtids.clone(), at: start::nowhere() };
            if position.gtids.is_empty() {
                return Err(SourceError::gap(format!(
                    "another server answers: {}, and without GTIDs nothing tells what it has",
                    server.identity
                )));
            }
            let begin = start::resume(conn, server, &elsewhere, false).await?;
            if !self.config.source.policies.lossless {
                return Err(SourceError::gap(format!(
                    "another server answers: {}, before it was {}. It has everything that was read, but the old one may have lost \
                     commits that readers saw (`source.lossless: true` says that it can't)",
                    server.identity, place.identity
                )));
            }
            return Ok(begin);
        }
        let logs = start::binary_logs(conn).await?;
        let mut verified = false;
        if let Some(request) = anchor::request(&logs, &position.at, place.anchor)?
            && let Some(anchor) = place.anchor
        {
            let closed = logs.last().is_some_and(|(name, _)| **name != *position.at.file);
            let crashed =
                anchor::compare(self.stream(server, &request).await?, &position.at, anchor, closed).await?;
            verified = true;
            if crashed && !server.durable {
                return Err(follow::lost(&position.at));
            }
        }
        start::resume(conn, server, position, verified).await
    }

    /// The stream that is followed, by the driver of the config.
    async fn followed(
        &self,
        server: &Preflight,
        request: &start::Request,
    ) -> Result<EventStream, SourceError> {
        #[cfg(feature = "mysql-cdc")]
        if self.config.source.driver == Driver::MysqlCdc {
            let account = self.connector.plain_account().await?;
            return match cdc::open(account, server.server_id, request, stream::HEARTBEAT).await {
                Ok(stream) => Ok(stream),
                Err(error) => Err(self.explain(error, server).await),
            };
        }
        self.stream(server, request).await
    }

    /// Refuses settings that the driver of the config can't follow, and gives the columns that it can't decode.
    #[cfg(feature = "mysql-cdc")]
    async fn undecodable_columns(&self) -> Result<Vec<cdc::limits::UndecodableColumn>, SourceError> {
        if self.config.source.driver != Driver::MysqlCdc {
            return Ok(Vec::new());
        }
        let mut conn = self.connector.primary().await?;
        cdc::limits::refuse_settings(&mut conn).await?;
        let columns = cdc::limits::undecodable_columns(&mut conn).await?;
        conn.disconnect().await.ok();
        Ok(columns)
    }

    async fn stream(&self, server: &Preflight, request: &start::Request) -> Result<EventStream, SourceError> {
        match EventStream::open(self.connector.stream().await?, server, request).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(self.explain(error, server).await),
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

    /// The dump itself tells that the account may not (MariaDB with roles): say which GRANT is missing.
    async fn explain(&self, error: StreamError, server: &Preflight) -> SourceError {
        if let StreamError::Server { code: 1227 | 1045, .. } = error
            && let Ok(mut conn) = self.connector.primary().await
            && let Ok(refusal) = preflight::grants_refusal(&mut conn, server.flavor).await
        {
            return refusal.into();
        }
        follow::stream_error(error, start::nowhere())
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

/// Unix seconds, as the server's clock should show them too.
fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// The longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(10);

fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_PAUSE)
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
