//! A process of the application: reads and writes through the client library, and records what it was given.
//!
//! Guarantees: each is a thread with a runtime and connections of its own, so that one that stands still stands still as a whole; every
//! value that it writes is unique; every operation is recorded, with its outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use rowbust_client::{BoxError, CallOptions, Change, Client, Origin, ReadSource, Stats};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    LiveError, barrier,
    clock::Clock,
    db::{Link, is_refusal},
    error::LiveError as Error,
    stage::Stage,
    world::Connector,
};
use crate::history::{Kind, Nanos, Outcome};

/// A process that touches several cells at once counts as so many in the history, where operations of one follow one another.
pub(super) const LANES: u32 = 16;
/// Operations that one process records at most: 300 MB.
const MOST: usize = 5_000_000;

/// What stands at a key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item {
    /// Unique in the run.
    pub(super) val: u64,
    /// What makes it as long as values are.
    pub(super) pad: String,
}

impl Item {
    pub(super) fn new(val: u64) -> Self {
        Self { val, pad: "x".repeat(100) }
    }
}

/// One operation on one cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub(super) start: Nanos,
    /// A write's commit was acknowledged, a read had its answer.
    pub(super) end: Nanos,
    /// The call came back.
    pub(super) done: Nanos,
    /// What was written or read; 0: there is no row.
    pub(super) val: u64,
    /// What the database says that its version is; 0: not known here.
    pub(super) version: u64,
    pub(super) cell: u32,
    pub(super) process: u32,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
}

/// What a process leaves behind.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) ops: Vec<Raw>,
    pub(super) stats: Stats,
    /// It had more to record than it may.
    pub(super) is_cut: bool,
}

/// Reader or writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Reader,
    Writer,
}

/// When to end, and what was done so far.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stop_writers: AtomicBool,
    pub(super) stop_readers: AtomicBool,
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
}

impl Shared {
    pub(super) fn stop_all(&self) {
        self.stop_writers.store(true, Relaxed);
        self.stop_readers.store(true, Relaxed);
    }
}

/// Who a process is.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) role: Role,
    /// Unique in the run, from 0.
    pub(super) number: u32,
    /// Meets barriers.
    pub(super) slow: bool,
    pub(super) seed: u64,
    pub(super) clock: Clock,
}

/// The application's side, for workloads.
#[derive(Debug)]
pub(super) struct App {
    pub(super) stage: Arc<Stage>,
    pub(super) rng: StdRng,
    client: Client,
    hooks: Arc<barrier::Process>,
    primary: Link,
    replica: Option<Link>,
    connector: Connector,
    raw: Option<MultiplexedConnection>,
    record: Record,
    shared: Arc<Shared>,
    spec: Spec,
    written: u64,
}

/// Starts a process. What comes is its record.
pub(super) fn spawn(
    spec: Spec,
    stage: Arc<Stage>,
    connector: Connector,
    shared: Arc<Shared>,
) -> Result<oneshot::Receiver<Result<Record, LiveError>>, LiveError> {
    let (sender, receiver) = oneshot::channel();
    let name = format!("{:?}-{}", spec.role, spec.number).to_lowercase();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let record = match runtime {
            Ok(runtime) => runtime.block_on(live(spec, stage, connector, shared)),
            Err(error) => Err(Error::server("starting a process of the application", error)),
        };
        // Nobody waits any more: the run is given up.
        let _ = sender.send(record);
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|e| Error::server("starting a process of the application", e))?;
    Ok(receiver)
}

async fn live(
    spec: Spec,
    stage: Arc<Stage>,
    connector: Connector,
    shared: Arc<Shared>,
) -> Result<Record, LiveError> {
    let hooks = Arc::new(barrier::Process::new(stage.barriers.clone(), spec.slow));
    let client = stage.client(connector.redis().await?, Some(hooks.clone()))?;
    let (reads, writes) = stage.workload.pauses();
    let mut app = App {
        rng: StdRng::seed_from_u64(spec.seed ^ (u64::from(spec.number) << 32)),
        client,
        hooks,
        primary: Link::new(connector.primary.clone()),
        replica: connector.replica.clone().filter(|_| stage.reads_replica).map(Link::new),
        raw: None,
        connector,
        record: Record::default(),
        shared,
        spec,
        written: 0,
        stage,
    };
    let workload = app.stage.workload.clone();
    let pause = if app.spec.role == Role::Reader { reads } else { writes };
    while !app.is_over() {
        match app.spec.role {
            Role::Reader => workload.read(&mut app).await,
            Role::Writer => workload.write(&mut app).await,
        }
        tokio::time::sleep(app.jittered(pause)).await;
    }
    app.record.stats = app.client.stats();
    Ok(app.record)
}

impl App {
    /// Whether it is to end.
    pub(super) fn is_over(&self) -> bool {
        let stop = match self.spec.role {
            Role::Reader => &self.shared.stop_readers,
            Role::Writer => &self.shared.stop_writers,
        };
        stop.load(Relaxed) || self.record.is_cut
    }

    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.5..1.5))
    }

    /// A connection to Redis for what the client library has no part in.
    pub(super) async fn raw(&mut self) -> Option<&mut MultiplexedConnection> {
        if self.raw.is_none() {
            self.raw =
                self.connector.raw().await.inspect_err(|error| tracing::debug!(%error, "no redis")).ok();
        }
        self.raw.as_mut()
    }

    /// Gives that connection up.
    pub(super) fn forget(&mut self) {
        self.raw = None;
    }

    /// Locks lost so far, and fills refused.
    fn losses(&self) -> u64 {
        let stats = self.client.stats();
        stats.locks_lost + stats.refused
    }

    fn add(&mut self, raw: Raw) {
        if self.record.ops.len() >= MOST {
            self.record.is_cut = true;
            return;
        }
        self.record.ops.push(raw);
    }

    /// Where a load reads. Strategies without a pool are an application that shares its reads among all servers.
    fn source<'a>(
        primary: &'a Link,
        replica: Option<&'a Link>,
        pooled: bool,
        coin: bool,
        source: &ReadSource,
    ) -> (&'a Link, bool) {
        let from_replica = if pooled { !source.is_primary() } else { coin };
        match replica {
            Some(replica) if from_replica => (replica, true),
            _ => (primary, false),
        }
    }

    /// Reads a cell. `sql` gives its version and value.
    pub(super) async fn read(&mut self, cell: u32, sql: &str) {
        let key = self.stage.key(cell);
        let coin = self.rng.random::<bool>();
        let (primary, replica, stage) = (&self.primary, self.replica.as_ref(), &self.stage);
        let (version, losses) = (AtomicU64::new(0), self.losses());
        let start = self.spec.clock.now();
        let load = async |source: ReadSource| {
            let (link, is_replica) = Self::source(primary, replica, stage.is_pooled(), coin, &source);
            let row: Option<(u64, u64)> = link.first(sql).await?;
            if let Some((found, _)) = row {
                version.store(found, Relaxed);
                if is_replica {
                    stage.barriers.loads(cell, found);
                }
            }
            Ok::<_, mysql_async::Error>(row.map(|(_, val)| Item::new(val)))
        };
        let loaded = self.client.get_or_load_with::<Item, _, _, _>(&key, &CallOptions::default(), load).await;
        let end = self.spec.clock.now();
        self.hooks.over(self.losses() > losses);
        let (kind, outcome, val) = match loaded {
            Ok(loaded) => {
                let kind = if loaded.origin == Origin::Cache { Kind::Hit } else { Kind::Load };
                (kind, Outcome::Ok, loaded.value.map_or(0, |item| item.val))
            }
            Err(error) => {
                tracing::debug!(%error, key, "a read failed");
                (Kind::Load, Outcome::Failed, 0)
            }
        };
        // What a load found counts for what it gave, and for nothing else.
        let version = if kind == Kind::Load { version.into_inner() } else { 0 };
        let process = self.spec.number * LANES;
        self.add(Raw { start, end, done: end, val, version, cell, process, kind, outcome });
        self.shared.reads.fetch_add(1, Relaxed);
    }

    /// Reads several cells at once. `sql` gives the cell, version and value of those asked for, given as a list with commas between.
    pub(super) async fn read_many(&mut self, cells: &[u32], sql: impl Fn(&str) -> String + Send + Sync) {
        let keys: Vec<String> = cells.iter().map(|cell| self.stage.key(*cell)).collect();
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let coin = self.rng.random::<bool>();
        let (primary, replica, stage) = (&self.primary, self.replica.as_ref(), &self.stage);
        let versions = std::sync::Mutex::new(std::collections::HashMap::new());
        let losses = self.losses();
        let start = self.spec.clock.now();
        let load = async |source: ReadSource, missing: Vec<String>| {
            let (link, is_replica) = Self::source(primary, replica, stage.is_pooled(), coin, &source);
            let numbers: Vec<String> = cells
                .iter()
                .zip(&keys)
                .filter(|(_, key)| missing.contains(key))
                .map(|(cell, _)| cell.to_string())
                .collect();
            let rows: Vec<(u32, u64, u64)> = link.all(&sql(&numbers.join(","))).await?;
            let mut found = versions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut items = std::collections::HashMap::new();
            for (cell, version, val) in rows {
                if is_replica {
                    stage.barriers.loads(cell, version);
                }
                found.insert(cell, version);
                items.insert(stage.key(cell), Item::new(val));
            }
            Ok::<_, mysql_async::Error>(items)
        };
        let loaded = self.client.get_many::<Item, _, _, _>(&asked, load).await;
        let end = self.spec.clock.now();
        self.hooks.over(self.losses() > losses);
        let versions = versions.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = &loaded {
            tracing::debug!(%error, "a read of several keys failed");
        }
        for ((cell, key), lane) in cells.iter().zip(&keys).zip(0..) {
            let (outcome, val) = match &loaded {
                Ok(items) => (Outcome::Ok, items.get(key).map_or(0, |item| item.val)),
                Err(_) => (Outcome::Failed, 0),
            };
            let version = versions.get(cell).copied();
            let kind = if version.is_some() || outcome == Outcome::Failed { Kind::Load } else { Kind::Hit };
            let process = self.spec.number * LANES + lane;
            let version = version.unwrap_or(0);
            self.add(Raw { start, end, done: end, val, version, cell: *cell, process, kind, outcome });
        }
        self.shared.reads.fetch_add(1, Relaxed);
    }

    /// A number that nobody was given before, above 2^32.
    pub(super) fn number(&mut self) -> u64 {
        self.written += 1;
        (u64::from(self.spec.number) + 1) << 32 | self.written
    }

    /// Writes cells: `update` puts the value into the database, and says which version that made; 0: it changed nothing. What came of it in the
    /// database.
    pub(super) async fn write(
        &mut self,
        cells: &[u32],
        update: impl for<'l> FnOnce(&'l Link, u64) -> BoxFuture<'l, mysql_async::Result<u64>> + Send,
    ) -> Outcome {
        let val = self.number();
        let change = match self.change(cells, val) {
            Ok(Some(change)) => change,
            Ok(None) => return Outcome::Failed,
            Err(error) => {
                tracing::error!(%error, "a value can't be encoded");
                return Outcome::Failed;
            }
        };
        let (stage, clock, primary) = (&self.stage, self.spec.clock, &self.primary);
        let losses = self.losses();
        // When, and which version.
        let (committed, version, unknown) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        cells.iter().for_each(|cell| stage.barriers.asks(*cell));
        let start = clock.now();
        let run = async || {
            let updated = update(primary, val).await;
            match &updated {
                Ok(0) => {}
                Ok(made) => {
                    version.store(*made, Relaxed);
                    committed.store(clock.now().max(1), Relaxed);
                    cells.iter().for_each(|cell| stage.barriers.commits(*cell, *made));
                }
                Err(error) => unknown.store(!is_refusal(error), Relaxed),
            }
            // For the strategy that is an update that failed.
            let changed = |made| if made == 0 { Err("nothing to change".into()) } else { Ok(()) };
            updated.map_err(BoxError::from).and_then(changed)
        };
        let written = self.client.write(&change, run).await;
        let done = clock.now();
        self.hooks.over(self.losses() > losses);
        if let Err(error) = written.and_then(rowbust_client::Written::into_result) {
            tracing::debug!(%error, "a write failed, or what it does in the cache");
        }
        let (committed, version) = (committed.into_inner(), version.into_inner());
        let outcome = match (committed > 0, unknown.into_inner()) {
            (true, _) => Outcome::Ok,
            (false, true) => Outcome::Unknown,
            (false, false) => Outcome::Failed,
        };
        let end = if committed > 0 { committed } else { done };
        for (cell, lane) in cells.iter().zip(0..) {
            let process = self.spec.number * LANES + lane;
            self.add(Raw {
                start,
                end,
                done,
                val,
                version,
                cell: *cell,
                process,
                kind: Kind::Write,
                outcome,
            });
        }
        self.shared.writes.fetch_add(1, Relaxed);
        outcome
    }

    fn change(&self, cells: &[u32], val: u64) -> Result<Option<Change>, rowbust_client::Error> {
        let mut change: Option<Change> = None;
        for cell in cells {
            let key = self.stage.key(*cell);
            let next = match change {
                None => Change::of(key),
                Some(change) => change.also(key),
            };
            change = Some(match self.stage.strategy.writes_values() {
                true => next.value(&Item::new(val))?,
                false => next,
            });
        }
        Ok(change)
    }
}
