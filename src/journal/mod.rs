//! The newest removals, in memory: for `rowbust why`, for `/events`, and for the counts of the state.
//!
//! Guarantees: memory is bounded ([`CAPACITY`] removals per target, 24 bytes each, and as much for each batch); recording allocates
//! nothing once it is full and waits for nobody but a reader of the journal. It holds hashes of keys, no keys, so nothing in it can be
//! listed: one has to know the key to ask for it. It begins empty at each start of the process. May depend on `pipeline`'s batches.
//!
//! What it costs stands in `benches/journal.rs`.

mod feed;
mod latency;
mod ring;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rowbust_binlog::Gtid;

use self::ring::{Note, Ring, Transactions};
pub use self::{
    feed::{Feed, Listener, Said},
    latency::{BUCKETS, Latency, Quantiles},
    ring::Removed,
};
use crate::{
    pipeline::{
        Batch, Segment,
        batch::{RowPlace, hash_key},
    },
    retry::Record,
};

/// Removals that are remembered per target.
pub const CAPACITY: usize = 1 << 16;

/// Who has acknowledged a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Redis, the first of two.
    First,
    /// Redis, the last that was owed.
    Last,
    /// The retry queue: it is owed there.
    Queue,
    /// Redis, when the retry queue's consumer asked.
    Retry,
}

impl By {
    /// As it is written in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::Queue => "queued",
            Self::Retry => "retried",
        }
    }
}

/// All targets' journals. Outlives a new beginning of the daemon.
#[derive(Debug, Default)]
pub struct Journal {
    targets: Mutex<BTreeMap<String, Arc<TargetJournal>>>,
    transactions: Mutex<Transactions>,
    feed: Arc<Feed>,
}

/// Of one target.
#[derive(Debug)]
pub struct TargetJournal {
    name: String,
    ring: Mutex<Ring>,
    feed: Arc<Feed>,
    first: AtomicU64,
    last: AtomicU64,
    queued: AtomicU64,
    retried: AtomicU64,
    /// From receipt, and from the commit, of first removals.
    receipt: Latency,
    commit: Latency,
}

/// Keys that were acknowledged since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// First removals of two.
    pub first: u64,
    /// Removals that were the last owed.
    pub last: u64,
    /// Removals that the retry queue took.
    pub queued: u64,
    /// Removals of the retry queue's consumer that were the last owed.
    pub retried: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since 1970.
fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

impl Journal {
    /// The journal of a target; made when it is first asked for.
    pub fn target(&self, name: &str) -> Arc<TargetJournal> {
        let mut targets = lock(&self.targets);
        let of_target = targets.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(TargetJournal {
                name: name.to_owned(),
                ring: Mutex::default(),
                feed: Arc::clone(&self.feed),
                first: AtomicU64::new(0),
                last: AtomicU64::new(0),
                queued: AtomicU64::new(0),
                retried: AtomicU64::new(0),
                receipt: Latency::default(),
                commit: Latency::default(),
            })
        });
        Arc::clone(of_target)
    }

    /// What listeners are told.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Transactions of which keys are handed on, in the order of the log: where each begins in `file`, and its GTID. Empties `begun`.
    pub fn begun(&self, file: &Arc<str>, begun: &mut Vec<(u64, Option<Gtid>)>) {
        if !begun.is_empty() {
            lock(&self.transactions).add(file, begun.drain(..));
        }
    }

    /// The newest removals of a key, newest first, at most `limit` of each target.
    pub fn find(&self, key: &[u8], limit: usize) -> Vec<Removed> {
        let hash = hash_key(key);
        let targets: Vec<Arc<TargetJournal>> = lock(&self.targets).values().map(Arc::clone).collect();
        let mut found: Vec<Removed> =
            targets.iter().flat_map(|target| lock(&target.ring).find(hash, limit, &target.name)).collect();
        found.sort_by_key(|removed| std::cmp::Reverse(removed.at_micros));
        let transactions = lock(&self.transactions);
        for removed in found.iter_mut().filter(|removed| removed.gtid.is_none()) {
            removed.gtid = transactions.gtid(&removed.file, removed.position).map(|gtid| gtid.to_string());
        }
        found
    }

    /// Microseconds since 1970 of the oldest removal that is remembered of each target; `None`: all since the start are.
    pub fn oldest(&self) -> Option<u64> {
        lock(&self.targets).values().filter_map(|target| lock(&target.ring).oldest()).max()
    }
}

impl TargetJournal {
    /// A batch was acknowledged, but for the keys at the places `but`, in order, which the queue has; `first`: for the first time.
    pub fn acknowledged(&self, batch: &Batch, but: &[usize], by: By, first: bool, acked: Instant) {
        let (segment, keys) = (&batch.segment, &batch.keys);
        if keys.is_empty() {
            // A note without removals would be kept until the ring is full.
            return;
        }
        let now = now_micros();
        let waited = acked.saturating_duration_since(segment.received);
        let since_commit = now.saturating_sub(segment.commit_micros);
        let all = 0..keys.len();
        if but.is_empty() {
            self.note(batch, by, now, waited, all);
        } else {
            self.note(batch, by, now, waited, all.filter(|at| but.binary_search(at).is_err()));
            self.note(batch, By::Queue, now, waited, but.iter().copied());
        }
        if first {
            self.receipt.add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
            self.commit.add(since_commit);
        }
        if self.feed.is_heard()
            && let (Some(removal), Some(place)) = (keys.get(0), keys.place(0))
        {
            self.feed.removal(&self.name, removal, place, &segment.file, by, waited);
        }
    }

    fn note(&self, batch: &Batch, by: By, now: u64, waited: Duration, places: impl Iterator<Item = usize>) {
        let (segment, keys) = (&batch.segment, &batch.keys);
        let note = Note {
            file: &segment.file,
            gtid: None,
            at_micros: now,
            commit_micros: segment.commit_micros,
            waited,
            by,
        };
        let mut noted = 0;
        {
            let mut ring = lock(&self.ring);
            for at in places {
                if let (Some(removal), Some(place)) = (keys.get(at), keys.place(at)) {
                    if noted == 0 {
                        ring.note(note);
                    }
                    noted += 1;
                    ring.push(hash_key(removal.key), place.position, place.row, removal.field.is_some());
                }
            }
        }
        let count = match by {
            By::First => &self.first,
            By::Last => &self.last,
            By::Queue => &self.queued,
            By::Retry => &self.retried,
        };
        count.fetch_add(noted, Relaxed);
    }

    /// A sweep has removed these keys, of a prefix or a set that the change at `place` names.
    pub fn swept<'k>(
        &self,
        segment: &Segment,
        place: RowPlace,
        by: By,
        keys: impl Iterator<Item = &'k [u8]>,
    ) {
        let mut keys = keys.peekable();
        if keys.peek().is_none() {
            return;
        }
        let mut ring = lock(&self.ring);
        ring.note(Note {
            file: &segment.file,
            gtid: None,
            at_micros: now_micros(),
            commit_micros: segment.commit_micros,
            waited: segment.received.elapsed(),
            by,
        });
        keys.for_each(|key| ring.push(hash_key(key), place.position, place.row, false));
    }

    /// The retry queue's consumer has removed what a record stands for.
    pub fn retried(&self, record: &Record) {
        self.retried.fetch_add(1, Relaxed);
        let origin = &record.origin;
        let mut ring = lock(&self.ring);
        ring.note(Note {
            file: &origin.file,
            gtid: Some(&origin.gtid),
            at_micros: now_micros(),
            commit_micros: u64::from(origin.commit_time) * 1_000_000,
            waited: Duration::ZERO,
            by: By::Retry,
        });
        ring.push(hash_key(&record.key), origin.position, origin.row, record.op.field().is_some());
    }

    /// Keys acknowledged since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            first: self.first.load(Relaxed),
            last: self.last.load(Relaxed),
            queued: self.queued.load(Relaxed),
            retried: self.retried.load(Relaxed),
        }
    }

    /// From the receipt of a row to its first acknowledged removal, by batch.
    pub fn receipt(&self) -> &Latency {
        &self.receipt
    }

    /// From the commit, by the server's clock, to the first acknowledged removal, by batch.
    pub fn commit(&self) -> &Latency {
        &self.commit
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
