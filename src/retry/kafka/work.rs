//! One batch of a lane: the handler, then the acknowledgements of what is filed again.
//!
//! Guarantees: a job is reported as done only when its removal worked or its successor was acknowledged.
//! May depend on its siblings and `policy`.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    super::{
        Counters, Handler, Record, Verdict, log_dead,
        policy::{self, Next, millis},
    },
    Inner,
    lane::LaneId,
    message::{self, Death},
    partition::{At, Item, Job},
};

/// Pause before records are filed again whose forwarding failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What became of a batch, or of the wait for a target.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) lane: LaneId,
    /// Partition, generation, offset.
    pub(super) done: Vec<(At, u64, i64)>,
    /// Again at that time.
    pub(super) again: Vec<(Job, u64)>,
    /// The target takes no removals: these wait for it.
    pub(super) down: Vec<Job>,
    /// The wait for the target is over.
    pub(super) ready: bool,
}

impl Report {
    fn new(lane: LaneId) -> Self {
        Self { lane, done: Vec::new(), again: Vec::new(), down: Vec::new(), ready: false }
    }
}

pub(super) type Work = Pin<Box<dyn Future<Output = Report> + Send>>;

/// Waits until a lane's target takes removals, then for `pause`.
pub(super) fn await_target(handler: Arc<dyn Handler>, lane: LaneId, pause: Duration) -> Work {
    Box::pin(async move {
        handler.ready(&lane.target).await;
        tokio::time::sleep(pause).await;
        Report { ready: true, ..Report::new(lane) }
    })
}

/// Files records of a target that is down at the end of the second tier's topic, as they are: they have used up what may be read ahead,
/// and records of other targets wait behind them.
pub(super) fn park(inner: Arc<Inner>, lane: LaneId, jobs: Vec<Job>) -> Work {
    Box::pin(async move {
        let mut report = Report::new(lane);
        let now_ms = inner.clock.now_ms();
        let topic = inner.settings.retry[1].as_str();
        let successors = jobs.iter().filter_map(|job| match &job.item {
            Item::Record(record) => Some((topic, message::park(message::encode(record), now_ms))),
            Item::Poison(..) => None,
        });
        match inner.file(successors.collect()).await {
            Ok(()) => {
                Counters::add(&inner.counters.parked, jobs.len());
                tracing::debug!(target = report.lane.target, records = jobs.len(), "records parked");
                report.done.extend(jobs.iter().map(|job| (job.at, job.generation, job.offset)));
            }
            Err(error) => {
                tracing::warn!(%error, records = jobs.len(), "kafka takes no parked records, they stay");
                let due_ms = inner.clock.now_ms() + millis(FAILED_PAUSE);
                report.again.extend(jobs.into_iter().map(|job| (job, due_ms)));
            }
        }
        report
    })
}

/// One batch: the handler, then the successors' acknowledgements.
pub(super) fn work_off(inner: Arc<Inner>, handler: Arc<dyn Handler>, lane: LaneId, jobs: Vec<Job>) -> Work {
    Box::pin(async move { Batch::new(&inner, lane).run(handler.as_ref(), jobs).await })
}

/// A job without what it is about.
type Place = Job<()>;

struct Batch<'a> {
    inner: &'a Inner,
    report: Report,
    successors: Vec<(&'a str, message::Outgoing)>,
    /// The jobs whose successors are on their way: they stay when these aren't acknowledged.
    forwarded: Vec<Job>,
    buried: Vec<(Record, String)>,
    poisoned: usize,
}

impl<'a> Batch<'a> {
    fn new(inner: &'a Inner, lane: LaneId) -> Self {
        Self {
            inner,
            report: Report::new(lane),
            successors: Vec::new(),
            forwarded: Vec::new(),
            buried: Vec::new(),
            poisoned: 0,
        }
    }

    async fn run(mut self, handler: &dyn Handler, jobs: Vec<Job>) -> Report {
        let (mut places, mut records) = (Vec::new(), Vec::new());
        for job in jobs {
            let (place, item) = job.split();
            match item {
                Item::Record(record) => {
                    places.push(place);
                    records.push(*record);
                }
                Item::Poison(message, reason) => self.poison(place, message, reason),
            }
        }
        let verdicts = if records.is_empty() { Vec::new() } else { handler.remove(&records).await };
        if verdicts.len() != records.len() {
            tracing::error!(
                records = records.len(),
                verdicts = verdicts.len(),
                "handler lost verdicts, records stay"
            );
        }
        let now_ms = self.inner.clock.now_ms();
        let mut acked = 0;
        let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::NotYet));
        for ((place, record), verdict) in places.into_iter().zip(records).zip(verdicts) {
            match policy::next(&record, &verdict, self.inner.policy, now_ms, place.since_ms) {
                Next::Done => {
                    acked += 1;
                    self.report.done.push((place.at, place.generation, place.offset));
                }
                Next::Again(pause) => self.report.again.push((whole(place, record), now_ms + millis(pause))),
                Next::AwaitTarget => {
                    if self.report.down.is_empty() {
                        tracing::info!(
                            target = record.target,
                            ?verdict,
                            "target takes no removals, its retries wait for it"
                        );
                    }
                    self.report.down.push(whole(place, record));
                }
                Next::Forward(next) => {
                    let tier = usize::from(self.inner.policy.is_second(next.attempt));
                    self.successors.push((&self.inner.settings.retry[tier], message::encode(&next)));
                    self.forwarded.push(whole(place, record));
                }
                Next::Dead(dead, reason) => {
                    let letter = message::bury(message::encode(&dead), &self.death(&place, now_ms, &reason));
                    self.successors.push((&self.inner.settings.dead, letter));
                    self.forwarded.push(whole(place, record));
                    self.buried.push((*dead, reason));
                }
            }
        }
        Counters::add(&self.inner.counters.acked, acked);
        if !self.forwarded.is_empty() {
            self.forward().await;
        }
        self.report
    }

    fn poison(&mut self, place: Place, message: Box<message::Outgoing>, reason: String) {
        let letter =
            message::bury((*message).clone(), &self.death(&place, self.inner.clock.now_ms(), &reason));
        self.successors.push((&self.inner.settings.dead, letter));
        self.forwarded.push(place.with(Item::Poison(message, reason)));
        self.poisoned += 1;
    }

    fn death(&self, place: &Place, died_ms: u64, reason: &str) -> Death {
        Death {
            topic: self.inner.settings.retry[place.at.0].clone(),
            partition: place.at.1,
            offset: place.offset,
            time_ms: place.time_ms,
            died_ms,
            reason: reason.to_owned(),
        }
    }

    async fn forward(&mut self) {
        let counters = &self.inner.counters;
        let forwarded = std::mem::take(&mut self.forwarded);
        match self.inner.file(std::mem::take(&mut self.successors)).await {
            Ok(()) => {
                Counters::add(&counters.forwarded, forwarded.len() - self.buried.len() - self.poisoned);
                Counters::add(&counters.dead, self.buried.len() + self.poisoned);
                Counters::add(&counters.poison, self.poisoned);
                for (record, reason) in &self.buried {
                    log_dead(record, reason);
                }
                for job in &forwarded {
                    if let Item::Poison(message, reason) = &job.item {
                        let key = message.key.as_deref().unwrap_or_default().escape_ascii();
                        tracing::error!(topic = self.inner.settings.retry[job.at.0], partition = job.at.1, offset = job.offset,
                            %key, reason, "record can't be decoded, dead letter written");
                    }
                }
                self.report.done.extend(forwarded.iter().map(|job| (job.at, job.generation, job.offset)));
            }
            Err(error) => {
                tracing::warn!(%error, records = forwarded.len(), "kafka takes no forwarded records, they stay");
                let due_ms = self.inner.clock.now_ms() + millis(FAILED_PAUSE);
                self.report.again.extend(forwarded.into_iter().map(|job| (job, due_ms)));
            }
        }
    }
}

fn whole(place: Place, record: Record) -> Job {
    place.with(Item::Record(Box::new(record)))
}
