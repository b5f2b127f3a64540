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
#[cfg(feature = "kafka")]
pub mod kafka;
mod policy;
pub mod record;
pub mod show;
mod store;
#[cfg(test)]
mod testing;

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

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
    /// A read or write failed for now (a full disk). Only `list` and `requeue` report it; it heals by itself.
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
    /// Age of the oldest first failure among the pending ones. Kafka: among the heads of the partitions.
    pub oldest_age: Option<Duration>,
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

/// Which dead letters to requeue. The default is all that can be decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this target.
    pub target: Option<String>,
    /// Only keys that begin so.
    pub key_prefix: Option<Vec<u8>>,
    /// Only with this code of the newest error.
    pub error_code: Option<String>,
}

impl Filter {
    /// Whether `record` is meant.
    pub fn matches(&self, record: &Record) -> bool {
        self.target.as_ref().is_none_or(|t| *t == record.target)
            && self.key_prefix.as_ref().is_none_or(|p| record.key.starts_with(p))
            && self.error_code.as_ref().is_none_or(|c| *c == record.error_code)
    }
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
        match self {
            Self::Disk(queue) => queue.list(which, limit).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.list(which, limit).await,
        }
    }

    /// Sends the dead letters that `filter` means back to the first tier, with attempt 0 and their first failure kept. Returns their
    /// number. Letters that can't be decoded stay.
    ///
    /// # Errors
    /// The queue can't be read or written; some may have been requeued, and a second call goes on.
    pub async fn requeue(&self, filter: Filter) -> Result<u64, RetryError> {
        match self {
            Self::Disk(queue) => queue.requeue(filter).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(queue) => queue.requeue(filter).await,
        }
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

/// [`Counters::pending`] that nobody has counted yet.
const UNKNOWN: u64 = u64::MAX;

/// What [`Stats`] is read from.
#[derive(Debug, Default)]
struct Counters {
    /// [`UNKNOWN`] before the first count.
    pending: AtomicU64,
    /// 0: nothing pending.
    oldest_ms: AtomicU64,
    dead: AtomicU64,
    produced: AtomicU64,
    acked: AtomicU64,
    forwarded: AtomicU64,
    poison: AtomicU64,
    requeued: AtomicU64,
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
            pending: Some(get(&self.pending)).filter(|pending| *pending != UNKNOWN),
            oldest_age,
            dead: get(&self.dead),
            produced: get(&self.produced),
            acked: get(&self.acked),
            forwarded: get(&self.forwarded),
            poison: get(&self.poison),
            requeued: get(&self.requeued),
        }
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
