//! Prefixes and sets between arrival and their second removal.
//!
//! Guarantees: a ticket is settled only when a sweep that began after its commits were visible everywhere and the fill grace had passed
//! has worked (or the first, where one is enough), or by the queue's acknowledgement of a record for each prefix or set that
//! failed. What waits when a sweep begins is done by it together, so that many different prefixes cost one iteration; what comes
//! while it runs waits for one of its own, for keys that it has passed may be filled again. May depend on `pipeline`,
//! `watermark`, `retry` and the rest of `invalidate`.
//!
//! A task of its own for each target, kind and pace: exact keys never wait for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    LONGEST_PAUSE, backoff,
    classify::Failure,
    prefixes::Prefixes,
    second::{SecondQueue, one_is_enough},
    sweep::{Sweeper, Swept, Tell},
    worker::{Shared, record},
};
use crate::{
    journal::By,
    pipeline::{Batch, batch::RowPlace, pace::Paces},
    route::Kind,
};

/// The task.
#[derive(Debug)]
pub struct Slices {
    sweeper: Arc<Sweeper>,
    shared: Arc<Shared>,
    paces: Paces,
}

/// A batch, and whether its next removal is its second.
type Job = (Batch, bool);

/// The row change that names a prefix or a set.
#[derive(Clone, Copy)]
struct Origin<'a> {
    batch: &'a Batch,
    place: RowPlace,
    /// No further removal is owed.
    last: bool,
}

impl<'a> Origin<'a> {
    fn of(batch: &'a Batch, at: usize, last: bool) -> Option<Self> {
        Some(Self { batch, place: batch.keys.place(at)?, last })
    }
}

/// What became of prefixes or sets.
type Failures<'a> = HashMap<&'a [u8], Failure>;

impl Slices {
    /// `paces`: beside that of all sweeps of the target.
    pub fn new(sweeper: Arc<Sweeper>, shared: Arc<Shared>, paces: Paces) -> Self {
        Self { sweeper, shared, paces }
    }

    /// Does what `requests` bring, all of one kind, until it is closed and everything is settled.
    pub async fn run(self, mut requests: mpsc::UnboundedReceiver<Batch>) {
        let mut ready: Vec<Job> = Vec::new();
        let mut second = SecondQueue::new(self.shared.watermark.clone());
        let mut open = true;
        let mut pauses = backoff(LONGEST_PAUSE);
        while open || !ready.is_empty() || !second.is_empty() {
            while let Ok(batch) = requests.try_recv() {
                self.sweeper.stats.waiting.fetch_add(batch.keys.len(), Relaxed);
                ready.push((batch, false));
            }
            loop {
                let due = second.take_due();
                if due.is_empty() {
                    break;
                }
                ready.extend(due.into_iter().map(|batch| (batch, true)));
            }
            if ready.is_empty() {
                tokio::select! {
                    batch = requests.recv(), if open => match batch {
                        Some(batch) => {
                            self.sweeper.stats.waiting.fetch_add(batch.keys.len(), Relaxed);
                            ready.push((batch, false));
                        }
                        None => open = false,
                    },
                    () = second.ready(), if !second.is_empty() => {}
                }
                continue;
            }
            ready = self.sweep(std::mem::take(&mut ready), &mut second).await;
            if ready.is_empty() {
                pauses = backoff(LONGEST_PAUSE);
            } else {
                pauses.wait().await;
            }
        }
    }

    /// One sweep for all of these. Returns what is owed still, as neither Redis nor the queue took it.
    async fn sweep(&self, jobs: Vec<Job>, second: &mut SecondQueue) -> Vec<Job> {
        // Asked before the sweep begins: a commit that becomes visible meanwhile may have a late fill behind it.
        let begun = Instant::now();
        let watermark = &self.shared.watermark;
        let last: Vec<bool> = jobs
            .iter()
            .map(|(batch, is_second)| {
                *is_second || one_is_enough(&batch.lane, &batch.segment, watermark, begun)
            })
            .collect();
        let failures: Vec<Vec<(usize, Failure)>> = {
            let failures = self.remove(&jobs, &last).await;
            let of = |(batch, _): &Job| {
                let failed = batch.keys.iter().enumerate();
                failed.filter_map(|(at, removal)| Some((at, failures.get(removal.key)?.clone()))).collect()
            };
            jobs.iter().map(of).collect()
        };
        let done = Instant::now();
        let mut owed = Vec::new();
        for (((batch, is_second), last), failed) in jobs.into_iter().zip(last).zip(failures) {
            // A record stands for both removals.
            let by_queue = failed.len() == batch.keys.len();
            if !self.enqueue(&batch, &failed).await {
                owed.push((batch, is_second));
            } else if last || by_queue {
                self.settle(batch);
            } else {
                second.push(batch, done);
            }
        }
        owed
    }

    /// Puts what failed into the retry queue. Whether that is acknowledged.
    async fn enqueue(&self, batch: &Batch, failed: &[(usize, Failure)]) -> bool {
        if failed.is_empty() {
            return true;
        }
        let (target, gtid) = (&self.sweeper.target, batch.segment.span.gtid_text());
        let records: Vec<_> = failed
            .iter()
            .filter_map(|(at, failure)| record(target, &self.shared, batch, &gtid, *at, failure))
            .collect();
        let count = records.len();
        match self.shared.queue.enqueue(records).await {
            Ok(()) => {
                self.shared.metrics.queued(target.name(), count);
                true
            }
            Err(error) => {
                self.shared.metrics.queue_refused(target.name());
                tracing::warn!(%error, keys = count, target = target.name(), "retry queue refuses removals, holding them");
                false
            }
        }
    }

    /// For `rowbust why`.
    fn note(&self, origin: Option<Origin<'_>>, keys: Swept<'_>) {
        if let Some(Origin { batch, place, last }) = origin {
            let by = if last { By::Last } else { By::First };
            self.shared.journal.swept(&batch.segment, place, by, keys.iter().map(|(_, key)| *key));
        }
    }

    fn settle(&self, batch: Batch) {
        self.sweeper.stats.waiting.fetch_sub(batch.keys.len(), Relaxed);
        batch.settle();
    }

    /// What failed.
    async fn remove<'a>(&self, jobs: &'a [Job], last: &[bool]) -> Failures<'a> {
        let keys = || jobs.iter().flat_map(|(batch, _)| batch.keys.iter().map(|removal| removal.key));
        let mut failures = Failures::new();
        match jobs.first().map(|(batch, _)| batch.kind) {
            Some(Kind::Prefix) => {
                let wanted = Prefixes::new(keys());
                let at = |place: usize| {
                    let of = |batch: &Batch| {
                        let found =
                            batch.keys.iter().position(|removal| wanted.of(removal.key) == Some(place))?;
                        let row = batch.keys.place(found)?;
                        Some(format!("{}:{} row {}", batch.segment.file, row.position, row.row))
                    };
                    jobs.iter().find_map(|(batch, _)| of(batch)).unwrap_or_default()
                };
                // The first change that names each.
                let mut origins: Vec<Option<Origin<'_>>> = vec![None; wanted.len()];
                for (job, last) in jobs.iter().zip(last) {
                    for place in 0..job.0.keys.len() {
                        let Some(origin) = Origin::of(&job.0, place, *last) else { continue };
                        let at = job.0.keys.get(place).and_then(|removal| wanted.of(removal.key));
                        if let Some(known) = at.and_then(|at| origins.get_mut(at)) {
                            known.get_or_insert(origin).last |= last;
                        }
                    }
                }
                let removed = |keys: Swept<'_>| {
                    for of_one in keys.chunk_by(|a, b| a.0 == b.0) {
                        let origin = of_one.first().and_then(|(place, _)| *origins.get(*place)?);
                        self.note(origin, of_one);
                    }
                };
                let tell = Tell { at: &at, removed: &removed };
                let results = self.sweeper.prefixes(&wanted, &self.paces, tell).await;
                for key in keys() {
                    if let Some(Err(failure)) = wanted.of(key).and_then(|place| results.get(place)) {
                        failures.insert(key, failure.clone());
                    }
                }
            }
            Some(Kind::MembersOf) => {
                // The last one of any of them is a last one.
                let mut sets: BTreeMap<&[u8], (bool, Option<Origin<'_>>)> = BTreeMap::new();
                for ((batch, _), last) in jobs.iter().zip(last) {
                    for (place, removal) in batch.keys.iter().enumerate() {
                        let known = sets.entry(removal.key).or_default();
                        known.0 |= last;
                        known.1 = known.1.or_else(|| Origin::of(batch, place, *last));
                    }
                }
                for (set, (last, origin)) in sets {
                    let origin = origin.map(|origin| Origin { last, ..origin });
                    let removed = |keys: Swept<'_>| self.note(origin, keys);
                    let tell = Tell { removed: &removed, ..Tell::NOBODY };
                    if let Err(failure) = self.sweeper.members(set, last, &self.paces, tell).await {
                        failures.insert(set, failure);
                    }
                }
            }
            Some(Kind::Exact) | None => {}
        }
        failures
    }
}
