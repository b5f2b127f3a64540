//! From what processes recorded to a history that the checker judges.
//!
//! Guarantees: versions are those that the database gave, in the order of its commits; a value that was certainly not committed has a
//! version above all that were.

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use super::{
    LiveError,
    actor::Record,
    finals::{Cached, State},
};
use crate::{
    checker::{self, Final, Quantiles, Report, Settings},
    history::{Nanos, Op, Outcome, Version},
    summary::Run,
};

/// One strategy's run, judged.
///
/// Example: see [`run`](super::run).
#[derive(Debug)]
pub struct Finished {
    /// What is kept of it.
    pub run: Run,
    /// The history, sorted by the checker.
    pub ops: Vec<Op>,
    /// How long reads took, in nanoseconds.
    pub(super) read_latency: Histogram<u64>,
    /// How long writes took, with what they do in the cache.
    pub(super) write_latency: Histogram<u64>,
    /// What the daemon logged; empty without one.
    pub daemon_log: String,
    /// The daemon's config; empty without one.
    pub daemon_config: String,
}

/// What a run left behind.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) records: Vec<Record>,
    /// By cell.
    pub(super) cached: Vec<Cached>,
    pub(super) state: State,
    /// The value that each cell began with.
    pub(super) firsts: Vec<u64>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) ops: Vec<Op>,
    pub(super) report: Report,
    pub(super) read_latency: Histogram<u64>,
    pub(super) write_latency: Histogram<u64>,
}

/// Which version each value is.
struct Versions {
    known: FxHashMap<u64, Version>,
    /// Of values that no commit is known of: by cell and value.
    unknown: FxHashMap<(u32, u64), Version>,
    highest: FxHashMap<u32, Version>,
}

impl Versions {
    fn of(evidence: &Evidence) -> Self {
        let mut known: FxHashMap<u64, Version> = evidence.firsts.iter().map(|val| (*val, 1)).collect();
        let mut highest = FxHashMap::default();
        let ops = evidence.records.iter().flat_map(|record| &record.ops);
        for op in ops.filter(|op| op.version > 0) {
            known.insert(op.val, op.version);
            let highest = highest.entry(op.cell).or_insert(1);
            *highest = op.version.max(*highest);
        }
        for (cell, (version, val)) in &evidence.state {
            known.insert(*val, *version);
            let highest = highest.entry(*cell).or_insert(1);
            *highest = (*version).max(*highest);
        }
        Self { known, unknown: FxHashMap::default(), highest }
    }

    fn get(&mut self, cell: u32, val: u64) -> Version {
        if val == 0 {
            return 0;
        }
        if let Some(version) = self.known.get(&val) {
            return *version;
        }
        let highest = self.highest.entry(cell).or_insert(1);
        *self.unknown.entry((cell, val)).or_insert_with(|| {
            *highest += 1;
            *highest
        })
    }
}

/// Judges a run.
///
/// # Errors
/// When the history is one that no run can produce.
pub(super) fn judge(evidence: &Evidence) -> Result<Judged, LiveError> {
    let mut versions = Versions::of(evidence);
    let mut latency = [Vec::new(), Vec::new()];
    let mut ops = Vec::with_capacity(evidence.records.iter().map(|record| record.ops.len()).sum());
    for raw in evidence.records.iter().flat_map(|record| &record.ops) {
        if raw.outcome == Outcome::Ok {
            latency[usize::from(!raw.kind.is_read())].push(raw.done - raw.start);
        }
        ops.push(Op {
            start: raw.start,
            end: raw.end,
            version: versions.get(raw.cell, raw.val),
            key: raw.cell,
            process: raw.process,
            kind: raw.kind,
            outcome: raw.outcome,
        });
    }
    let finals = (0..).zip(&evidence.cached).map(|(cell, cached)| Final {
        key: cell,
        cached: match cached {
            Cached::Absent => None,
            Cached::Null => Some(0),
            Cached::Value(val) => Some(versions.get(cell, *val)),
            // Nobody wrote this.
            Cached::Foreign => Some(Version::MAX),
        },
        database: evidence.state.get(&cell).map_or(0, |(version, _)| *version),
    });
    let finals: Vec<Final> = finals.collect();
    let mut report = checker::check(&mut ops, &finals, &Settings::default())?;
    let [reads, mut writes] = latency;
    // The history has a write end with its commit; its caller waits for the cache too.
    report.write_latency = Quantiles::of(&mut writes);
    Ok(Judged { ops, report, read_latency: histogram(&reads), write_latency: histogram(&writes) })
}

fn histogram(values: &[Nanos]) -> Histogram<u64> {
    // Two significant digits, of any size.
    let mut histogram = Histogram::new(2).unwrap_or_else(|_| unreachable!("2 is a number of digits"));
    for value in values {
        histogram.saturating_record(*value);
    }
    histogram
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{history::Kind, live::actor::Raw};

    fn raw(process: u32, (start, end): (u64, u64), kind: Kind, (val, version): (u64, u64)) -> Raw {
        let outcome = if kind == Kind::Write && version == 0 { Outcome::Failed } else { Outcome::Ok };
        Raw { start, end, done: end + 1, val, version, cell: 0, process, kind, outcome }
    }

    fn judged(ops: Vec<Raw>, cached: Cached, now: (u64, u64)) -> Judged {
        let record = Record { ops, ..Record::default() };
        let evidence = Evidence {
            records: vec![record],
            cached: vec![cached],
            state: [(0, now)].into(),
            firsts: vec![7],
        };
        judge(&evidence).unwrap()
    }

    #[test]
    fn values_become_the_databases_versions() {
        let ops = vec![
            raw(0, (0, 5), Kind::Load, (7, 1)),
            raw(16, (10, 20), Kind::Write, (100, 2)),
            // From the cache: only the value is known.
            raw(0, (30, 35), Kind::Hit, (7, 0)),
            raw(0, (40, 45), Kind::Hit, (100, 0)),
        ];
        let judged = judged(ops, Cached::Value(7), (2, 100));
        assert_eq!((judged.report.stale_reads, judged.report.staleness.max), (1, 10));
        assert_eq!(
            judged.report.permanently_stale,
            [Final { key: 0, cached: Some(1), database: 2 }],
            "{:?}",
            judged.ops
        );
        assert_eq!(judged.report.write_latency.max, 11);
    }

    #[test]
    fn what_was_not_committed_is_above_all_that_was() {
        let ops = vec![
            raw(16, (10, 20), Kind::Write, (100, 2)),
            raw(32, (10, 20), Kind::Write, (200, 0)),
            raw(0, (30, 35), Kind::Hit, (200, 0)),
        ];
        let report = judged(ops, Cached::Value(200), (2, 100)).report;
        assert_eq!((report.dirty_reads, report.failed_writes), (1, 1));
        assert_eq!(report.permanently_stale, [Final { key: 0, cached: Some(3), database: 2 }]);
    }

    #[test]
    fn the_same_and_nothing() {
        assert_eq!(judged(Vec::new(), Cached::Value(7), (1, 7)).report.right, 1);
        assert_eq!(judged(Vec::new(), Cached::Absent, (1, 7)).report.absent, 1);
        assert_eq!(judged(Vec::new(), Cached::Null, (1, 7)).report.permanently_stale.len(), 1);
        assert_eq!(judged(Vec::new(), Cached::Foreign, (1, 7)).report.permanently_stale.len(), 1);
    }
}
