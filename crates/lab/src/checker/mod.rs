//! Judges a history: which reads were stale, by how much, and what is wrong for good.
//!
//! Example: see [`check`].
//!
//! Guarantees: no read is called stale that could have been right. A version counts as visible from the end of its acknowledged write,
//! or of a read of the database that gave it: both are later than the commit. A write without an answer counts only once it was read
//! there. A history that no run can produce is refused. Time is that of sorting, memory a small multiple of the history's.
//! Depends on [`crate::history`] alone: it touches no server.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::history::{Kind, Nanos, Op, Outcome, Version};

mod key;
mod quantiles;
#[cfg(test)]
mod tests;

pub use quantiles::Quantiles;

/// What is looked for.
///
/// ```
/// use rowbust_lab::checker::Settings;
/// let settings = Settings { samples: 20, ..Settings::default() };
/// assert_eq!((settings.initial, settings.bucket), (1, 100_000_000));
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    /// The version of every key before the first operation. Default: 1.
    pub initial: Version,
    /// Of each: how many writes were contradicted later than that, in nanoseconds. Default: 0, 1 ms, 10 ms … 10 s.
    pub after: Vec<Nanos>,
    /// Length of a bucket of the timeline. Default: 100 ms.
    pub bucket: Nanos,
    /// The most of each anomaly that is kept as an example, the gravest. Default: 5.
    pub samples: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initial: 1,
            after: (6..=10).map(|power| 10_u64.pow(power)).rev().chain([0]).rev().collect(),
            bucket: 100_000_000,
            samples: 5,
        }
    }
}

/// A key when all was over: writes had stopped, every queue was empty, every reader had ended.
///
/// Example: see [`check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// The row, by number.
    pub key: u32,
    /// What the cache holds.
    pub cached: Option<Version>,
    /// What the database holds.
    pub database: Version,
}

/// A history that no run can produce: the harness is wrong, and nothing that it shows counts.
///
/// ```
/// use rowbust_lab::{
///     checker::{Impossible, Settings, check},
///     history::{Kind, Op, Outcome},
/// };
/// // Nobody has written version 9.
/// let read = Op { start: 0, end: 5, version: 9, key: 7, process: 1, kind: Kind::Hit, outcome: Outcome::Ok };
/// let refused = check(&mut [read], &[], &Settings::default());
/// assert_eq!(refused, Err(Impossible::Unwritten(read)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// An answer before its question.
    #[error("{0:?} ends before it starts")]
    Backwards(Op),
    /// Two operations of one client at a time.
    #[error("client {} has two operations at a time: {_0:?} and {_1:?}", .0.process)]
    Overlap(Op, Op),
    /// Two acknowledged writes made one version.
    #[error("two writes of one version: {0:?} and {1:?}")]
    Twice(Op, Op),
    /// A later write made a lower version.
    #[error("versions of a key must increase: {0:?} came before {1:?}")]
    Order(Op, Op),
    /// A write made a version that was there at the beginning.
    #[error("{0:?} makes no new version")]
    NotNew(Op),
    /// Nobody wrote what was read, or only later.
    #[error("{0:?} gives a version that no write had begun to make")]
    Unwritten(Op),
    /// The database gave what was never committed.
    #[error("{0:?} gives from the database what was certainly not committed")]
    Uncommitted(Op),
    /// The same key twice in the final state.
    #[error("key {0} is twice in the final state")]
    FinalTwice(u32),
}

/// What a history shows.
///
/// ```
/// use rowbust_lab::checker::{Report, Settings, check};
/// let nothing: Report = check(&mut [], &[], &Settings::default())?;
/// assert!(nothing.stale_reads == 0 && nothing.permanently_stale.is_empty());
/// # Ok::<(), rowbust_lab::checker::Impossible>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Reads that had a value.
    pub reads: u64,
    /// Of them from the cache.
    pub hits: u64,
    /// Reads that had none.
    pub failed_reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Writes without effect.
    pub failed_writes: u64,
    /// Writes without an answer.
    pub unknown_writes: u64,
    /// From asking to the answer, in nanoseconds.
    pub read_latency: Quantiles,
    /// The same of acknowledged writes.
    pub write_latency: Quantiles,
    /// Reads of a version when a newer one had been visible before they began.
    pub stale_reads: u64,
    /// Of the stale ones: from when the next version was surely visible to the read's start, in nanoseconds.
    pub staleness: Quantiles,
    /// The same as shares: this many of the stale ones were at most so stale. A hundred steps.
    pub staleness_shares: Vec<(Nanos, f64)>,
    /// A client read less than it had written itself.
    pub own_write_missed: u64,
    /// A client read less than it had read before.
    pub went_back: u64,
    /// The cache gave what was certainly not committed.
    pub dirty_reads: u64,
    /// By [`Settings::after`].
    pub nines: Vec<Nines>,
    /// When all was over: the cache had another version than the database. The keys, the most outdated first.
    pub permanently_stale: Vec<Final>,
    /// When all was over: the cache had nothing.
    pub absent: u64,
    /// When all was over: cache and database agreed.
    pub right: u64,
    /// [`Settings::bucket`].
    pub bucket: Nanos,
    /// Buckets that hold anything, by number.
    pub timeline: BTreeMap<u64, Bucket>,
    /// The stalest reads.
    pub stalest: Vec<Stale>,
}

/// A stretch of time; operations count where they start.
///
/// ```
/// use rowbust_lab::checker::{Bucket, Report};
/// let mut report = Report { bucket: 100_000_000, ..Report::default() };
/// report.timeline.insert(3, Bucket { reads: 500, stale: 2, writes: 40 });
/// // From 0.3 s on.
/// let starts: Vec<u64> = report.timeline.keys().map(|number| number * report.bucket).collect();
/// assert_eq!(starts, [300_000_000]);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Reads that had a value.
    pub reads: u64,
    /// The stale ones.
    pub stale: u64,
    /// Acknowledged writes.
    pub writes: u64,
}

/// A read that gave too old a version.
///
/// ```
/// use rowbust_lab::{
///     checker::{Settings, Stale, check},
///     history::{Kind, Op, Outcome},
/// };
/// let op = |process, kind, version, start, end| Op { start, end, version, key: 7, process, kind, outcome: Outcome::Ok };
/// let mut ops = [op(2, Kind::Write, 2, 12, 20), op(1, Kind::Hit, 1, 50, 51)];
/// let report = check(&mut ops, &[], &Settings::default())?;
/// assert_eq!(report.stalest, [Stale { key: 7, process: 1, start: 50, version: 1, newest: 2, staleness: 30 }]);
/// # Ok::<(), rowbust_lab::checker::Impossible>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The row, by number.
    pub key: u32,
    /// The client.
    pub process: u32,
    /// The read's start.
    pub start: Nanos,
    /// What it gave.
    pub version: Version,
    /// What had been visible before.
    pub newest: Version,
    /// For how long the next version had been.
    pub staleness: Nanos,
}

/// How many writes were still contradicted after a while, by a read that began then and gave an older version.
///
/// ```
/// use rowbust_lab::{
///     checker::{Nines, Settings, check},
///     history::{Kind, Op, Outcome},
/// };
/// let write = Op { start: 12, end: 20, version: 2, key: 7, process: 2, kind: Kind::Write, outcome: Outcome::Ok };
/// let settings = Settings { after: vec![1_000_000], ..Settings::default() };
/// let report = check(&mut [write], &[], &settings)?;
/// // One write without a contradiction says nothing yet: up to 100 % may have one.
/// assert_eq!(report.nines, [Nines { after: 1_000_000, inconsistent: 0, nines: None, at_most: Some(1.0) }]);
/// # Ok::<(), rowbust_lab::checker::Impossible>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Nines {
    /// The while, in nanoseconds.
    pub after: Nanos,
    /// Writes that were.
    pub inconsistent: u64,
    /// −log10 of their share; none if there were none.
    pub nines: Option<f64>,
    /// Upper bound of the share with 95 % confidence where none was seen: 3 / writes (the rule of three).
    pub at_most: Option<f64>,
}

/// Judges `ops`, which it sorts, and the final state.
///
/// # Errors
/// See [`Impossible`].
///
/// ```
/// use rowbust_lab::{
///     checker::{Final, Settings, check},
///     history::{Kind, Op, Outcome},
/// };
/// let op = |process, kind, version, start, end| Op { start, end, version, key: 7, process, kind, outcome: Outcome::Ok };
/// let mut ops = [
///     op(1, Kind::Load, 1, 0, 10),
///     op(2, Kind::Write, 2, 12, 20),
///     // Begun 30 ns after version 2 was committed.
///     op(1, Kind::Hit, 1, 50, 51),
/// ];
/// let end = [Final { key: 7, cached: Some(1), database: 2 }];
///
/// let report = check(&mut ops, &end, &Settings::default())?;
/// assert_eq!((report.reads, report.stale_reads, report.staleness.max), (2, 1, 30));
/// assert_eq!(report.permanently_stale, end);
/// # Ok::<(), rowbust_lab::checker::Impossible>(())
/// ```
pub fn check(ops: &mut [Op], finals: &[Final], settings: &Settings) -> Result<Report, Impossible> {
    let mut report = Report::default();
    if let Some(op) = ops.iter().find(|op| op.end < op.start) {
        return Err(Impossible::Backwards(*op));
    }
    sequential(ops)?;
    ops.sort_unstable_by_key(|op| (op.key, op.start, op.end));
    let mut totals = Totals::new(settings);
    let mut scratch = key::Scratch::default();
    for ops in ops.chunk_by(|a, b| a.key == b.key) {
        scratch.judge(ops, settings.initial, &mut report, &mut totals)?;
    }
    totals.finish(&mut report);
    judge_final(finals, &mut report)?;
    Ok(report)
}

/// A client's operations follow one another. Sorts by client.
fn sequential(ops: &mut [Op]) -> Result<(), Impossible> {
    ops.sort_unstable_by_key(|op| (op.process, op.start, op.end));
    for pair in ops.windows(2) {
        if let [a, b] = pair
            && a.process == b.process
            && b.start < a.end
        {
            return Err(Impossible::Overlap(*a, *b));
        }
    }
    Ok(())
}

fn judge_final(finals: &[Final], report: &mut Report) -> Result<(), Impossible> {
    let mut seen = std::collections::HashSet::with_capacity(finals.len());
    for state in finals {
        if !seen.insert(state.key) {
            return Err(Impossible::FinalTwice(state.key));
        }
        match state.cached {
            None => report.absent += 1,
            Some(version) if version == state.database => report.right += 1,
            Some(_) => report.permanently_stale.push(*state),
        }
    }
    let distance = |f: &Final| f.cached.map_or(0, |cached| cached.abs_diff(f.database));
    report.permanently_stale.sort_by_key(|f| (Reverse(distance(f)), f.key));
    Ok(())
}

/// What is gathered over all keys.
struct Totals<'a> {
    settings: &'a Settings,
    read_latencies: Vec<Nanos>,
    write_latencies: Vec<Nanos>,
    staleness: Vec<Nanos>,
    /// Of each write that was ever contradicted: until how long after it.
    contradicted: Vec<Nanos>,
}

impl<'a> Totals<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            read_latencies: Vec::new(),
            write_latencies: Vec::new(),
            staleness: Vec::new(),
            contradicted: Vec::new(),
        }
    }

    /// Counts an operation as such.
    fn count(&mut self, op: &Op, report: &mut Report) {
        let bucket = || op.start / self.settings.bucket.max(1);
        match (op.kind, op.outcome) {
            (Kind::Write, Outcome::Ok) => {
                report.writes += 1;
                report.timeline.entry(bucket()).or_default().writes += 1;
                self.write_latencies.push(op.end - op.start);
            }
            (Kind::Write, Outcome::Failed) => report.failed_writes += 1,
            (Kind::Write, Outcome::Unknown) => report.unknown_writes += 1,
            (kind, Outcome::Ok) => {
                report.reads += 1;
                report.hits += u64::from(kind == Kind::Hit);
                report.timeline.entry(bucket()).or_default().reads += 1;
                self.read_latencies.push(op.end - op.start);
            }
            (_, Outcome::Failed | Outcome::Unknown) => report.failed_reads += 1,
        }
    }

    fn stale(&mut self, stale: Stale, report: &mut Report) {
        report.stale_reads += 1;
        report.timeline.entry(stale.start / self.settings.bucket.max(1)).or_default().stale += 1;
        self.staleness.push(stale.staleness);
        let gravest = &mut report.stalest;
        let place = gravest.partition_point(|s| s.staleness >= stale.staleness);
        if place < self.settings.samples {
            gravest.truncate(self.settings.samples - 1);
            gravest.insert(place, stale);
        }
    }

    fn finish(mut self, report: &mut Report) {
        report.read_latency = Quantiles::of(&mut self.read_latencies);
        report.write_latency = Quantiles::of(&mut self.write_latencies);
        report.staleness = Quantiles::of(&mut self.staleness);
        report.staleness_shares = quantiles::shares(&mut self.staleness);
        report.bucket = self.settings.bucket.max(1);
        self.contradicted.sort_unstable();
        let writes = report.writes;
        report.nines = self.settings.after.iter().map(|after| self.nines(*after, writes)).collect();
    }

    #[allow(clippy::cast_precision_loss)]
    fn nines(&self, after: Nanos, writes: u64) -> Nines {
        let within = self.contradicted.partition_point(|until| *until <= after);
        let inconsistent = (self.contradicted.len() - within) as u64;
        let share = inconsistent as f64 / writes as f64;
        Nines {
            after,
            inconsistent,
            nines: (inconsistent > 0).then(|| -share.log10()),
            at_most: (inconsistent == 0 && writes > 0).then(|| (3.0 / writes as f64).min(1.0)),
        }
    }
}
