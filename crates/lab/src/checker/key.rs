//! The operations of one key.

use rustc_hash::FxHashMap;

use super::{Impossible, Report, Stale, Totals};
use crate::history::{Kind, Nanos, Op, Outcome, Version};

/// Buffers that are used again for the next key.
#[derive(Default)]
pub(super) struct Scratch {
    /// By version.
    writes: Vec<Op>,
    /// When a version was surely visible, by time.
    visible: Vec<(Nanos, Version)>,
    /// By version: the first time at which it, or a later one, was surely visible.
    first_visible: Vec<(Version, Nanos)>,
    /// Version and start of reads, by version; the start is the last one of this version and those below.
    last_read: Vec<(Version, Nanos)>,
    sessions: FxHashMap<u32, Session>,
}

/// What a client knows of the key.
#[derive(Default)]
struct Session {
    wrote: Version,
    read: Version,
}

impl Scratch {
    /// `ops` are those of one key, by start.
    pub(super) fn judge(
        &mut self,
        ops: &[Op],
        initial: Version,
        report: &mut Report,
        totals: &mut Totals<'_>,
    ) -> Result<(), Impossible> {
        self.gather(ops, initial)?;
        self.reads(ops, initial, report, totals)?;
        self.contradictions(ops, totals);
        for op in ops {
            totals.count(op, report);
        }
        Ok(())
    }

    /// Writes in order, and when each version was surely visible.
    fn gather(&mut self, ops: &[Op], initial: Version) -> Result<(), Impossible> {
        self.writes.clear();
        self.writes.extend(ops.iter().filter(|op| op.kind == Kind::Write));
        self.writes.sort_unstable_by_key(|op| (op.version, certainty(op.outcome), op.start));
        let mut twice = None;
        // The database gives a version again that was never committed: then the one that was counts.
        self.writes.dedup_by(|again, kept| {
            let same = again.version == kept.version;
            if same && again.outcome == Outcome::Ok {
                twice = Some(Impossible::Twice(*kept, *again));
            }
            if same {
                kept.start = kept.start.min(again.start);
            }
            same
        });
        if let Some(twice) = twice {
            return Err(twice);
        }
        let mut latest: Option<&Op> = None;
        for write in self.writes.iter().filter(|w| w.outcome == Outcome::Ok) {
            if write.version <= initial {
                return Err(Impossible::NotNew(*write));
            }
            if let Some(lower) = latest
                && write.end < lower.start
            {
                return Err(Impossible::Order(*write, *lower));
            }
            latest = latest.filter(|l| l.start >= write.start).or(Some(write));
        }

        self.visible.clear();
        let proves = |op: &&Op| op.outcome == Outcome::Ok && op.kind != Kind::Hit;
        self.visible.extend(ops.iter().filter(proves).map(|op| (op.end, op.version)));
        self.visible.sort_unstable();

        self.first_visible.clear();
        self.first_visible.extend(self.visible.iter().map(|(time, version)| (*version, *time)));
        self.first_visible.sort_unstable();
        let mut earliest = Nanos::MAX;
        for (_, time) in self.first_visible.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        Ok(())
    }

    fn reads(
        &mut self,
        ops: &[Op],
        initial: Version,
        report: &mut Report,
        totals: &mut Totals<'_>,
    ) -> Result<(), Impossible> {
        self.sessions.clear();
        let mut visible = self.visible.iter().peekable();
        let mut newest = initial;
        for op in ops.iter().filter(|op| op.outcome == Outcome::Ok) {
            while let Some((_, version)) = visible.next_if(|(time, _)| *time < op.start) {
                newest = newest.max(*version);
            }
            let session = self.sessions.entry(op.process).or_default();
            if op.kind == Kind::Write {
                session.wrote = session.wrote.max(op.version);
                continue;
            }
            if op.version > 0 && op.version != initial {
                let made = self.writes.binary_search_by_key(&op.version, |w| w.version);
                match made.ok().and_then(|place| self.writes.get(place)) {
                    Some(write) if write.start <= op.end => match (write.outcome, op.kind) {
                        (Outcome::Failed, Kind::Load) => return Err(Impossible::Uncommitted(*op)),
                        (Outcome::Failed, _) => report.dirty_reads += 1,
                        _ => {}
                    },
                    _ => return Err(Impossible::Unwritten(*op)),
                }
            }
            report.own_write_missed += u64::from(op.version < session.wrote);
            report.went_back += u64::from(op.version < session.read);
            session.read = session.read.max(op.version);
            if op.version < newest {
                let next = self.first_visible.partition_point(|(version, _)| *version <= op.version);
                let since = self.first_visible.get(next).map_or(op.start, |(_, time)| *time);
                let stale = Stale {
                    key: op.key,
                    process: op.process,
                    start: op.start,
                    version: op.version,
                    newest,
                    staleness: op.start.saturating_sub(since),
                };
                totals.stale(stale, report);
            }
        }
        Ok(())
    }

    /// Until when reads gave something older than each acknowledged write.
    fn contradictions(&mut self, ops: &[Op], totals: &mut Totals<'_>) {
        self.last_read.clear();
        let reads = ops.iter().filter(|op| op.kind.is_read() && op.outcome == Outcome::Ok);
        self.last_read.extend(reads.map(|op| (op.version, op.start)));
        self.last_read.sort_unstable();
        let mut reads = self.last_read.iter().peekable();
        let mut last = 0;
        for write in self.writes.iter().filter(|w| w.outcome == Outcome::Ok) {
            while let Some((_, start)) = reads.next_if(|(version, _)| *version < write.version) {
                last = last.max(*start);
            }
            if last > write.end {
                totals.contradicted.push(last - write.end);
            }
        }
    }
}

fn certainty(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Unknown => 1,
        Outcome::Failed => 2,
    }
}
