//! Removals that failed: kept durably and retried until they work.
//!
//! Guarantees: an `Ok` of [`Queue::enqueue`] means that every record survives kill -9 (disk: committed with fsync; Kafka: acknowledged by
//! all in-sync replicas). A record leaves the queue only after the handler said [`Verdict::Done`], or after its successor
//! (next attempt, or dead letter) was acknowledged. No attempt is made before a record's time. Duplicates happen.
//! There is no dead letter without a log line at error level and a count in [`Stats`].
//!
//! May depend on `config` (the model) and on nothing else of ours but what stands in this folder.

pub mod codec;
pub mod disk;
pub mod filter;
#[cfg(feature = "kafka")]
pub mod kafka;
mod policy;
pub mod record;
mod shelf;
pub mod show;
mod store;
mod tables;
#[cfg(test)]
mod testing;

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use filter::{Filter, Matcher};
pub use policy::Clock;
pub use record::{Op, Origin, Record};

/// Most records that the handler gets at once.
pub const BATCH: usize = 512;

/// What became of one record's removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Removed, after the commit was visible and the grace had passed.
    Done,
    /// The key's own fault (WRONGTYPE…): uses up an attempt.
    KeyError(String),
    /// The target's fault (down, LOADING, READONLY…): uses up none; the target's records wait for it.
    TargetError(String),
    /// The commit isn't visible at every read source yet, or the grace hasn't passed: try again shortly, no attempt used.
    NotYet,
}

/// What the queue hands due records to. Implemented by the invalidate part.
pub trait Handler: Send + Sync + 'static {
    /// Removes the records' keys; one verdict per record, in order.
    fn remove<'a>(&'a self, records: &'a [Record])
    -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>>;

    /// Completes when `target` takes removals (its breaker is closed), or isn't known. Its retries pause until then.
    fn ready<'a>(&'a self, target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// Names of all targets.
    fn targets(&self) -> Vec<String>;
}

/// Why the queue can't be used at all. None of these heals by waiting.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// Another process has the file open.
    #[error(
        "the retry queue {path} is in use by another process: while the daemon runs, ask it through its admin address"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file fails its checksums. It is left as it is.
    #[error(
        "the retry queue {path} is damaged: {detail}. It holds removals that are still owed, so it is not dropped: restore it from a copy, \
         or move it away and flush the cached keys"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the store found.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "the retry queue {path} has schema version {found}, this version knows {known}: run the newer version again"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Newest version that is understood.
        known: u64,
    },
    /// The file can't be opened or created.
    #[error("the retry queue {path} can't be opened: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A read or write failed for now (a full disk). Only what commands ask for reports it; it heals by itself.
    #[error("the retry queue is unavailable: {0}")]
    Unavailable(String),
    /// The brokers can't be reached.
    #[error("kafka at {brokers} can't be reached: {detail}")]
    Unreachable {
        /// `host:port` of the brokers, with commas.
        brokers: String,
        /// librdkafka's words.
        detail: String,
    },
    /// The client's configuration, or a refusal by the brokers.
    #[error("kafka refuses: {0}")]
    Refused(String),
    /// Kafka: another requeue or drop of dead letters is at work, in whatever process.
    #[error(
        "another requeue or drop of dead letters is still at work after {seconds} s: try again when it is done"
    )]
    Busy {
        /// How long it was waited for.
        seconds: u64,
    },
    /// Kafka: this requeue or drop stood still for so long that the brokers let another one begin.
    #[error(
        "this requeue or drop of dead letters stood still for so long that another one could begin: some letters may be there twice; look \
         what is left, and run it again if it is still wanted"
    )]
    Overtaken,
    /// A filter's glob can't be parsed.
    #[error("{0}")]
    Filter(String),
    /// [`Queue::run`] runs already.
    #[error("the retry queue's consumer runs already")]
    AlreadyRunning,
    /// The queue's thread has ended.
    #[error("the retry queue is closed")]
    Closed,
}

/// Why records could not be made durable. The caller holds them and tries again: both classes may heal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    /// Disk full, brokers down or slow: heals by itself.
    #[error("the retry queue is unavailable: {0}")]
    Unavailable(String),
    /// The queue says no (topic missing, not authorized, record too large, file damaged): somebody has to act.
    #[error("the retry queue refuses: {0}")]
    Refused(String),
}

/// A cheap snapshot for metrics. The counts are since the start of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records that wait for a removal. Kafka: what the consumer group has not passed yet, counted each second;
    /// `None` before the first count.
    pub pending: Option<u64>,
    /// Age of the oldest first failure among the pending ones. Kafka: among the heads of the partitions that this process reads.
    pub oldest_age: Option<Duration>,
    /// Dead letters that are there now, those from before the start too. Kafka: counted each second; `None` before the first count.
    pub letters: Option<u64>,
    /// Dead letters written.
    pub dead: u64,
    /// Records made durable by [`Queue::enqueue`].
    pub produced: u64,
    /// Records that left the queue because their removal worked.
    pub acked: u64,
    /// Records that were filed again for a next attempt.
    pub forwarded: u64,
    /// Records that couldn't be decoded; each is a dead letter too.
    pub poison: u64,
    /// Dead letters that were sent back to the first tier.
    pub requeued: u64,
    /// Dead letters that were dropped.
    pub dropped: u64,
    /// Kafka: records of a target that is down that were filed again, so that others behind them are reached.
    pub parked: u64,
}

/// What the queue still owes to a target; see [`Queue::owed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// Records that wait, dead letters not among them. Kafka: an upper bound unless `exact`; [`u64::MAX`] before the first count.
    pub records: u64,
    /// Age of the oldest first failure among those that are known.
    pub oldest: Option<Duration>,
    /// Whether `records` is the target's own count. On Kafka records that haven't been read yet may be any target's.
    pub exact: bool,
}

impl Owed {
    /// Whether it is sure that nothing is owed.
    pub fn is_nothing(&self) -> bool {
        self.records == 0
    }
}

/// What one step of a long change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Letters that it moved or dropped.
    pub letters: u64,
    /// There may be more: ask again.
    pub more: bool,
}

/// Which part of the queue to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Records that wait for their next attempt.
    Pending,
    /// Dead letters that haven't been requeued.
    Dead,
}

/// One line of `retry ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Place in the queue. Disk: the sequence number. Kafka: `topic/partition/offset`.
    pub id: String,
    /// The record; `None`: it can't be decoded.
    pub record: Option<Record>,
    /// The bytes of a record that can't be decoded; empty otherwise.
    pub raw: Vec<u8>,
    /// Why it is a dead letter; empty for pending ones.
    pub reason: String,
    /// Unix time in milliseconds at which it became a dead letter.
    pub died_ms: Option<u64>,
    /// Kafka: topic, partition, offset and time (Unix, milliseconds) of the record that died.
    pub original: Option<(String, i32, i64, i64)>,
}

/// The durable queue of removals that are owed.
#[derive(Debug)]
pub enum Queue {
    /// One file of this machine.
    Disk(disk::DiskQueue),
    /// Kafka topics.
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaQueue),
}

impl Queue {
    /// Opens the queue that the config names. Disk: checks the whole file. Kafka: doesn't wait for a broker.
    ///
    /// # Errors
    /// The file is damaged, in use or can't be created; the client's configuration is refused.
    pub async fn open(cfg: &crate::config::Retry) -> Result<Self, RetryError> {
        match cfg {
            crate::config::Retry::Disk { path, policy } => {
                Ok(Self::Disk(disk::DiskQueue::open(path, *policy, Clock::system()).await?))
            }
            #[cfg(feature = "kafka")]
            crate::config::Retry::Kafka { brokers, prefix, properties, policy } => Ok(Self::Kafka(
                kafka::KafkaQueue::open(brokers, prefix, properties, *policy, Clock::system()).await?,
            )),
            #[cfg(not(feature = "kafka"))]
            crate::config::Retry::Kafka { .. } => {
                Err(RetryError::Refused("this build has no Kafka: build with the feature `kafka`".into()))
            }
        }
    }

    /// Makes `records` durable; `Ok` means all of them are. Concurrent callers share one commit.
    ///
    /// The queue sets `not_before_ms` (now and the tier's delay, by its own clock, so that due times only grow) and, where it
    /// is 0, `first_failed_ms`.
    ///
    /// # Errors
    /// Within a bounded time, and some of the records may have been written: the caller holds all and tries again,
    /// duplicates are harmless.
    pub async fn enqueue(&self, records: Vec<Record>) -> Result<(), EnqueueError> {
        match self {
            Self::Disk(queue) => queue.enqueue(records).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.enqueue(records).await,
        }
    }

    /// The consumer: hands due records to `handler` until `shutdown`. Reconnects and backs off by itself.
    ///
    /// # Errors
    /// Only what can't heal: a damaged file, a second consumer in this process, a refused client configuration.
    pub async fn run(
        &self,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Result<(), RetryError> {
        match self {
            Self::Disk(queue) => queue.run(handler, shutdown).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.run(handler, shutdown).await,
        }
    }

    /// Counts for metrics; reads memory only.
    pub fn stats(&self) -> Stats {
        match self {
            Self::Disk(queue) => queue.stats(),
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.stats(),
        }
    }

    /// The first `limit` records or dead letters, oldest first. Changes nothing.
    ///
    /// # Errors
    /// The queue can't be read.
    pub async fn list(&self, which: Which, limit: usize) -> Result<Vec<Listed>, RetryError> {
        self.find(which, &Filter::default(), limit).await
    }

    /// The first `limit` records or dead letters that `filter` means, oldest first. Changes nothing.
    ///
    /// # Errors
    /// The queue can't be read, or the filter's glob is none.
    pub async fn find(&self, which: Which, filter: &Filter, limit: usize) -> Result<Vec<Listed>, RetryError> {
        let matcher = self.matcher(filter)?;
        match self {
            Self::Disk(queue) => queue.find(which, matcher, limit).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.find(which, matcher, limit).await,
        }
    }

    /// Sends up to `limit` dead letters that `filter` means back to the first tier, with attempt 0 and their first failure kept. Letters
    /// that can't be requeued stay ([`Listed::can_be_requeued`]).
    ///
    /// # Errors
    /// The queue can't be read or written; some may have been requeued, and a second call goes on. Kafka: another call, in whatever
    /// process, doesn't end ([`RetryError::Busy`]): one is at work at a time.
    pub async fn requeue(&self, filter: &Filter, limit: usize) -> Result<Swept, RetryError> {
        let matcher = self.matcher(filter)?;
        match self {
            Self::Disk(queue) => queue.requeue(matcher, limit).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.requeue(matcher, limit).await,
        }
    }

    /// Drops up to `limit` dead letters that `filter` means, for good.
    ///
    /// # Errors
    /// As [`Queue::requeue`].
    pub async fn drop_letters(&self, filter: &Filter, limit: usize) -> Result<Swept, RetryError> {
        let matcher = self.matcher(filter)?;
        match self {
            Self::Disk(queue) => queue.drop_letters(matcher, limit).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.drop_letters(matcher, limit).await,
        }
    }

    /// Files a dead letter for what can't even be tried ([`Op::Row`]); `Ok` means that it is durable. Logged and counted.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn bury(&self, record: Record, reason: String) -> Result<(), EnqueueError> {
        match self {
            Self::Disk(queue) => queue.bury(record, reason).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.bury(record, reason).await,
        }
    }

    /// What is still owed to `target`, dead letters not among it. Reads memory only.
    pub fn owed(&self, target: &str) -> Owed {
        match self {
            Self::Disk(queue) => queue.owed(target),
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.owed(target),
        }
    }

    /// Unix time in milliseconds, by the queue's clock: what [`Filter::died_before_ms`] is compared with.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::Disk(queue) => queue.now_ms(),
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.now_ms(),
        }
    }

    fn matcher(&self, filter: &Filter) -> Result<Matcher, RetryError> {
        filter.matcher(self.now_ms()).map_err(RetryError::Filter)
    }

    /// Closes the queue and waits for its thread, so that the file can be opened again. Dropping does the same later.
    pub async fn close(self) {
        match self {
            Self::Disk(queue) => queue.close().await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.close().await,
        }
    }
}

/// That a consumer runs, until it is dropped: a task may be ended from outside.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    fn begin(flag: &'a AtomicBool) -> Result<Self, RetryError> {
        if flag.swap(true, Ordering::AcqRel) { Err(RetryError::AlreadyRunning) } else { Ok(Self(flag)) }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// [`Counters::letters`] that nobody has counted yet.
const UNKNOWN: u64 = u64::MAX;

/// What [`Stats`] is read from.
#[derive(Debug, Default)]
struct Counters {
    /// Of the disk queue.
    pending: AtomicU64,
    /// 0: nothing pending.
    oldest_ms: AtomicU64,
    /// [`UNKNOWN`] before the first count.
    letters: AtomicU64,
    /// Disk: how many wait, and the oldest first failure. Kafka: of those that are in memory.
    by_target: Mutex<BTreeMap<String, (u64, u64)>>,
    dead: AtomicU64,
    produced: AtomicU64,
    acked: AtomicU64,
    forwarded: AtomicU64,
    poison: AtomicU64,
    requeued: AtomicU64,
    dropped: AtomicU64,
    parked: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn snapshot(&self, now_ms: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let oldest_age = match get(&self.oldest_ms) {
            0 => None,
            at => Some(Duration::from_millis(now_ms.saturating_sub(at))),
        };
        Stats {
            pending: Some(get(&self.pending)),
            oldest_age,
            letters: Some(get(&self.letters)).filter(|letters| *letters != UNKNOWN),
            dead: get(&self.dead),
            produced: get(&self.produced),
            acked: get(&self.acked),
            forwarded: get(&self.forwarded),
            poison: get(&self.poison),
            requeued: get(&self.requeued),
            dropped: get(&self.dropped),
            parked: get(&self.parked),
        }
    }

    /// From [`Counters::by_target`] alone.
    fn owed(&self, target: &str, now_ms: u64) -> Owed {
        let by_target = self.by_target.lock().unwrap_or_else(PoisonError::into_inner);
        let (records, oldest) = by_target.get(target).copied().unzip();
        let oldest = oldest.map(|at| Duration::from_millis(now_ms.saturating_sub(at)));
        Owed { records: records.unwrap_or(0), oldest, exact: true }
    }
}

/// There is no dead letter without this line.
fn log_dead(record: &Record, reason: &str) {
    tracing::error!(
        target_name = %record.target,
        key = %record.key.escape_ascii(),
        code = %record.error_code,
        attempts = record.attempt,
        source = %record.origin.source,
        gtid = %record.origin.gtid,
        file = %record.origin.file,
        position = record.origin.position,
        row = record.origin.row,
        reason,
        "removal gave up, dead letter written"
    );
}
