//! A worker: takes batches, removes their keys twice, hands what fails to the retry queue.
//!
//! Guarantees: a ticket is settled only by Redis' acknowledgement of the last removal that is owed, or by the queue's
//! acknowledgement of records that stand for all that is owed. While the queue refuses, the batch is held, and through the byte budget
//! the reading of the binlog. May depend on `pipeline`, `watermark` and `retry`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustc_hash::FxBuildHasher;
use tokio::sync::mpsc;

use super::{
    LONGEST_PAUSE, backoff,
    classify::Failure,
    second::{SecondQueue, one_is_enough},
    target::Target,
};
use crate::{
    config::SecondRemoval,
    journal::{By, TargetJournal},
    kill_point,
    pipeline::{BATCH_KEYS, Batch, batch::Removal, pace::Paces},
    retry::{Op, Origin, Queue, Record},
    route::Kind,
    telemetry::Metrics,
    watermark::{DELAY, Watermark},
};

/// Commands on their way at once, per worker.
const IN_FLIGHT: usize = 4;

/// What all workers of a target share.
#[derive(Debug)]
pub struct Shared {
    /// Where failed removals go.
    pub queue: Arc<Queue>,
    /// When a commit is visible.
    pub watermark: Watermark,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The newest removals.
    pub journal: Arc<TargetJournal>,
    /// `@@server_uuid`, or the server id on MariaDB: goes into records.
    pub source: String,
    /// Epoch of the checkpoint: goes into records.
    pub epoch: u64,
}

/// Which of the two removals a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

/// Batches whose first removal worked and whose second is still owed.
type Owed = Vec<(Batch, Instant)>;

/// Removes what `batches` brings until it is closed and everything is settled.
///
/// Batches of later transactions overtake bulk, also with the same keys: every removal is repeated until it works and none undoes
/// another, so what counts is that *after* each commit became visible there is a removal of each of its keys. A batch's second
/// removal is that for its own commits, whatever was removed before.
pub async fn run(target: Arc<Target>, shared: Arc<Shared>, mut batches: mpsc::Receiver<Batch>) {
    let mut in_flight = FuturesUnordered::new();
    let mut second = SecondQueue::new(shared.watermark.clone());
    let mut open = true;
    let start = |job, stage| remove(Arc::clone(&target), Arc::clone(&shared), job, stage);
    while open || !in_flight.is_empty() || !second.is_empty() {
        let free = in_flight.len() < IN_FLIGHT;
        tokio::select! {
            biased;
            Some(owed) = in_flight.next(), if !in_flight.is_empty() => {
                let owed: Owed = owed;
                for (batch, first_done) in owed {
                    second.push(batch, first_done);
                }
            }
            () = second.ready(), if free && !second.is_empty() => {
                in_flight.push(start(second.take_due(), Stage::Second));
            }
            batch = batches.recv(), if free && open => {
                let Some(batch) = batch else {
                    open = false;
                    continue;
                };
                let mut keys = batch.keys.len();
                let mut job = vec![batch];
                while keys < BATCH_KEYS && let Ok(more) = batches.try_recv() {
                    keys += more.keys.len();
                    job.push(more);
                }
                in_flight.push(start(job, Stage::First));
            }
        }
    }
}

/// As [`run`], for batches of transactions with many keys: one command at a time, at the pace of the target and of the mapping.
pub async fn run_bulk(
    target: Arc<Target>,
    shared: Arc<Shared>,
    mut batches: mpsc::UnboundedReceiver<Batch>,
    paces: Paces,
) {
    let mut second = SecondQueue::new(shared.watermark.clone());
    let mut open = true;
    while open || !second.is_empty() {
        let (job, stage) = tokio::select! {
            biased;
            () = second.ready(), if !second.is_empty() => (second.take_due(), Stage::Second),
            batch = batches.recv(), if open => match batch {
                Some(batch) => (vec![batch], Stage::First),
                None => {
                    open = false;
                    continue;
                }
            },
        };
        paces.take(job.iter().map(|batch| batch.keys.len()).sum()).await;
        for (batch, first_done) in remove(Arc::clone(&target), Arc::clone(&shared), job, stage).await {
            second.push(batch, first_done);
        }
    }
}

/// Removes the keys of a job. What Redis refuses goes to the queue. Returns the batches that still owe their second removal.
async fn remove(target: Arc<Target>, shared: Arc<Shared>, job: Vec<Batch>, stage: Stage) -> Owed {
    if job.is_empty() {
        return Owed::new();
    }
    // Asked before the removal is sent: a commit that became visible meanwhile may have a late fill behind this removal.
    let sent = Instant::now();
    let last: Vec<bool> = job
        .iter()
        .map(|batch| {
            stage == Stage::Second || one_is_enough(&batch.lane, &batch.segment, &shared.watermark, sent)
        })
        .collect();
    match stage {
        Stage::First => kill_point!("before_first_removal"),
        Stage::Second => kill_point!("before_second_removal"),
    }
    let failures = send(&target, &shared, &job).await;
    let mut owed = Owed::new();
    for ((batch, last), failed) in job.into_iter().zip(last).zip(failures) {
        match acknowledge(&target, &shared, &batch, failed).await {
            Acked::ByRedis { but } => {
                let acked = Instant::now();
                match stage {
                    Stage::First => kill_point!("after_first_removal"),
                    Stage::Second => kill_point!("after_second_removal"),
                }
                shared.metrics.removed(&batch, but.len(), target.name(), stage == Stage::Second, acked);
                let by = if last { By::Last } else { By::First };
                shared.journal.acknowledged(&batch, &but, by, stage == Stage::First, acked);
                if last {
                    batch.settle();
                } else {
                    owed.push((batch, acked));
                }
            }
            // The records stand for both removals.
            Acked::ByQueue => {
                shared.journal.acknowledged(&batch, &[], By::Queue, false, Instant::now());
                batch.settle();
            }
        }
    }
    owed
}

/// Who has acknowledged a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Acked {
    /// Redis, this removal; of those at the places `but`, in order, the queue, all removals.
    ByRedis { but: Vec<usize> },
    /// The queue, all removals.
    ByQueue,
}

/// The removals of one batch that failed: all of them with one cause, or by place.
#[derive(Debug)]
enum Failed {
    None,
    All(Failure),
    Some(Vec<(usize, Failure)>),
}

/// One command for many keys; one for each where fields are removed. The result is by batch.
async fn send(target: &Target, shared: &Shared, job: &[Batch]) -> Vec<Failed> {
    if job.iter().any(|batch| batch.keys.has_fields()) {
        let mut results = Vec::with_capacity(job.len());
        for batch in job {
            let removals: Vec<Removal<'_>> = batch.keys.iter().collect();
            results.push(match target.remove_each(&removals).await {
                Err(failure) => Failed::All(failure),
                Ok(each) => {
                    let failed: Vec<_> = each
                        .into_iter()
                        .enumerate()
                        .filter_map(|(at, result)| Some((at, result.err()?)))
                        .collect();
                    if failed.is_empty() { Failed::None } else { Failed::Some(failed) }
                }
            });
        }
        shared.metrics.commands(target.name(), job.len());
        return results;
    }
    shared.metrics.commands(target.name(), 1);
    if let [batch] = job {
        let result = target.unlink(batch.keys.iter().map(|removal| removal.key)).await;
        return vec![match result {
            Ok(failed) if failed.is_empty() => Failed::None,
            Ok(failed) => Failed::Some(failed),
            Err(failure) => Failed::All(failure),
        }];
    }
    // Hot keys come in many segments: once is enough for all of them.
    let count = job.iter().map(|batch| batch.keys.len()).sum();
    let mut unique: HashSet<&[u8], _> = HashSet::with_capacity_and_hasher(count, FxBuildHasher);
    unique.extend(job.iter().flat_map(|batch| batch.keys.iter().map(|removal| removal.key)));
    let keys: Vec<&[u8]> = unique.into_iter().collect();
    match target.unlink(keys.iter().copied()).await {
        Ok(failed) if failed.is_empty() => job.iter().map(|_| Failed::None).collect(),
        Ok(failed) => {
            let failed: HashMap<&[u8], &Failure> =
                failed.iter().filter_map(|(at, failure)| Some((*keys.get(*at)?, failure))).collect();
            let of = |batch: &Batch| {
                let of_key =
                    |(at, removal): (usize, Removal<'_>)| Some((at, (*failed.get(removal.key)?).clone()));
                batch.keys.iter().enumerate().filter_map(of_key).collect::<Vec<_>>()
            };
            let by_batch = |batch: &Batch| match of(batch) {
                failed if failed.is_empty() => Failed::None,
                failed => Failed::Some(failed),
            };
            job.iter().map(by_batch).collect()
        }
        Err(failure) => job.iter().map(|_| Failed::All(failure.clone())).collect(),
    }
}

/// Puts what failed into the retry queue. While that refuses, Redis is asked again whenever its breaker is closed. Returns only
/// when one of them has acknowledged all.
async fn acknowledge(target: &Target, shared: &Shared, batch: &Batch, mut failed: Failed) -> Acked {
    if matches!(failed, Failed::None) {
        return Acked::ByRedis { but: Vec::new() };
    }
    let mut pauses = backoff(LONGEST_PAUSE);
    let gtid = batch.segment.span.gtid_text();
    loop {
        let (acked, records): (_, Vec<Record>) = match &failed {
            Failed::None => return Acked::ByRedis { but: Vec::new() },
            Failed::All(failure) => (
                Acked::ByQueue,
                (0..batch.keys.len())
                    .filter_map(|at| record(target, shared, batch, &gtid, at, failure))
                    .collect(),
            ),
            Failed::Some(places) => (
                // On a cluster each key fails by itself, also where all do.
                if places.len() == batch.keys.len() {
                    Acked::ByQueue
                } else {
                    Acked::ByRedis { but: places.iter().map(|(at, _)| *at).collect() }
                },
                places
                    .iter()
                    .filter_map(|(at, failure)| record(target, shared, batch, &gtid, *at, failure))
                    .collect(),
            ),
        };
        let keys = records.len();
        let error = match shared.queue.enqueue(records).await {
            Ok(()) => {
                shared.metrics.queued(target.name(), keys);
                return acked;
            }
            Err(error) => error,
        };
        shared.metrics.queue_refused(target.name());
        tracing::warn!(%error, keys, target = target.name(), "retry queue refuses removals, holding them");
        pauses.wait().await;
        if !target.breaker.is_open() {
            failed = send(target, shared, std::slice::from_ref(batch)).await.pop().unwrap_or(Failed::None);
        }
    }
}

pub(super) fn record(
    target: &Target,
    shared: &Shared,
    batch: &Batch,
    gtid: &str,
    at: usize,
    failure: &Failure,
) -> Option<Record> {
    let (removal, place) = (batch.keys.get(at)?, batch.keys.place(at)?);
    let segment = &batch.segment;
    Some(Record {
        target: target.name().to_owned(),
        key: removal.key.to_vec(),
        op: match (batch.kind, removal.field) {
            (Kind::Exact, None) => Op::Unlink,
            (Kind::Exact, Some(field)) => Op::Hdel { field: field.to_vec() },
            (Kind::Prefix, _) => Op::Prefix,
            (Kind::MembersOf, _) => Op::MembersOf,
        },
        origin: Origin {
            source: shared.source.clone(),
            gtid: gtid.to_owned(),
            file: segment.file.to_string(),
            position: place.position,
            row: place.row,
            commit_time: u32::try_from(segment.commit_micros / 1_000_000).unwrap_or(u32::MAX),
            epoch: shared.epoch,
            visible_file: segment.span.last.file.to_string(),
            visible_position: segment.span.last.position,
        },
        when_visible: batch.lane.second == SecondRemoval::WhenVisible && !segment.span.by_delay,
        fill_grace_ms: match batch.lane.second {
            SecondRemoval::WhenVisible if segment.span.by_delay => millis(batch.lane.fill_grace + DELAY),
            SecondRemoval::WhenVisible => millis(batch.lane.fill_grace),
            SecondRemoval::After(delay) => millis(delay),
            SecondRemoval::Never => 0,
        },
        // The queue counts its own attempts, and sets the times by its own clock.
        attempt: 0,
        not_before_ms: 0,
        first_failed_ms: 0,
        error_code: failure.code.clone(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
