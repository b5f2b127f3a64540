//! The consumer group's member: reads, waits for due times, hands batches to the handler, forwards, stores offsets.
//!
//! Guarantees: an offset is stored only behind records that are done or whose successor was acknowledged, and only for
//! partitions that are owned. The client is polled at all times, also while it waits for due times or for a target.
//! May depend on its siblings and `policy`.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::OptionFuture;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Message},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        BATCH, Counters, Handler, Record, RetryError, Verdict, log_dead,
        policy::{self, Next, Pause, millis},
    },
    CLOSE_WAIT, Inner,
    client::{Context, Moved, ensure_topics, off_runtime, refused},
    message::{self, Death},
    partition::{Item, Job, Partition},
};

/// A partition whose next record is due later than this is paused, and resumed when it is due within [`RESUME_MS`].
const PAUSE_MS: u64 = 2000;
const RESUME_MS: u64 = 1000;
/// The loop looks around this often even when nothing seems due.
const IDLE: Duration = Duration::from_secs(1);
/// How long a running batch may go on after the shutdown began.
const LAST_BATCH: Duration = Duration::from_secs(5);
/// Trouble that heals by itself is logged this often.
const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

/// What became of a batch, or of the wait for the targets.
struct Report {
    done: Vec<(i32, u64, i64)>,
    again: Vec<(Job, u64)>,
    /// A target that takes no removals.
    down: Option<String>,
    /// The wait is over.
    ready: bool,
}

type Work = Pin<Box<dyn Future<Output = Report> + Send>>;

enum End {
    Shutdown,
    /// Make a new client after a pause.
    Again,
}

pub(super) async fn run(
    inner: &Arc<Inner>,
    handler: Arc<dyn Handler>,
    shutdown: &CancellationToken,
) -> Result<(), RetryError> {
    let mut pause = Pause::default();
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(ensure_topics(&inner.settings)).await {
            None => return Ok(()),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, brokers = inner.settings.brokers, "kafka can't be asked for its topics");
                shutdown.run_until_cancelled(tokio::time::sleep(pause.grow())).await;
                continue;
            }
        }
        let consumer: StreamConsumer<Context> = inner
            .settings
            .consumer()
            .create_with_context(inner.context.clone())
            .map_err(|error| inner.settings.error(&error))?;
        let end = match consumer.subscribe(&[inner.settings.retry.as_str()]) {
            Ok(()) => Loop::new(inner, &handler, &consumer).run(shutdown, &mut pause).await,
            Err(error) => {
                tracing::warn!(%error, "kafka subscription failed");
                End::Again
            }
        };
        close(consumer).await;
        match end {
            End::Shutdown => return Ok(()),
            End::Again => {
                shutdown.run_until_cancelled(tokio::time::sleep(pause.grow())).await;
            }
        }
    }
    Ok(())
}

/// Commits what is stored and leaves the group. Ending a client can hang, so it ends on a thread of its own.
async fn close(consumer: StreamConsumer<Context>) {
    let ended = off_runtime(move || {
        if let Err(error) = consumer.commit_consumer_state(CommitMode::Sync)
            && error.rdkafka_error_code() != Some(Code::NoOffset)
        {
            tracing::info!(%error, "kafka offsets not committed, records will be read again");
        }
        drop(consumer);
        Ok(())
    });
    if tokio::time::timeout(CLOSE_WAIT, ended).await.is_err() {
        tracing::warn!(seconds = CLOSE_WAIT.as_secs(), "kafka consumer doesn't end, left behind");
    }
}

struct Loop<'a> {
    inner: &'a Arc<Inner>,
    handler: &'a Arc<dyn Handler>,
    consumer: &'a StreamConsumer<Context>,
    partitions: BTreeMap<i32, Partition>,
    generation: u64,
    /// A target takes no removals: nothing is started.
    blocked: bool,
    /// When trouble was logged last: librdkafka reports each attempt to connect.
    troubled: Option<Instant>,
}

impl<'a> Loop<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        handler: &'a Arc<dyn Handler>,
        consumer: &'a StreamConsumer<Context>,
    ) -> Self {
        Self {
            inner,
            handler,
            consumer,
            partitions: BTreeMap::new(),
            generation: 0,
            blocked: false,
            troubled: None,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken, pause: &mut Pause) -> End {
        let mut work: Option<Work> = None;
        // What an earlier client was told is no longer true.
        self.inner.context.moved();
        loop {
            self.follow_rebalance();
            let now_ms = self.inner.clock.now_ms();
            if work.is_none() {
                work = self.start(now_ms);
            }
            if let Err(error) = self.pause_and_resume(now_ms) {
                tracing::warn!(%error, "kafka partitions can't be paused");
                return End::Again;
            }
            let oldest = self.partitions.values().filter_map(Partition::oldest_ms).min();
            self.inner.counters.oldest_ms.store(oldest.unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
            let wait = match self.partitions.values().filter_map(Partition::next_due_ms).min() {
                Some(due_ms) if work.is_none() => {
                    Duration::from_millis(due_ms.saturating_sub(now_ms).max(1)).min(IDLE)
                }
                _ => IDLE,
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(report) = OptionFuture::from(work.as_mut()) => {
                    work = self.settle(report, pause);
                }
                message = self.consumer.recv() => match message {
                    Ok(message) => self.take(&message),
                    Err(error) => if let Some(end) = self.trouble(&error) {
                        return end;
                    },
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
        if !self.blocked
            && let Some(work) = work
            && let Ok(report) = tokio::time::timeout(LAST_BATCH, work).await
        {
            self.follow_rebalance();
            self.settle(report, pause);
        }
        End::Shutdown
    }

    fn trouble(&mut self, error: &KafkaError) -> Option<End> {
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                tracing::warn!(%code, "kafka consumer is dead, making a new one");
                Some(End::Again)
            }
            _ if refused(error) => {
                tracing::error!(%error, topic = self.inner.settings.retry, "kafka refuses reads");
                Some(End::Again)
            }
            // Brokers down, rebalances, timeouts: librdkafka goes on by itself.
            _ => {
                if self.troubled.is_none_or(|at| at.elapsed() > TROUBLE_PAUSE) {
                    self.troubled = Some(Instant::now());
                    tracing::info!(%error, "kafka consumer has trouble");
                }
                None
            }
        }
    }

    fn follow_rebalance(&mut self) {
        for moved in self.inner.context.moved() {
            match moved {
                Moved::Assigned(ids) => {
                    self.generation += 1;
                    for id in ids {
                        self.partitions.insert(id, Partition::new(id, self.generation));
                    }
                }
                Moved::Revoked(ids) => {
                    for id in ids {
                        self.partitions.remove(&id);
                    }
                }
            }
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        // The assignment may have come with this very poll.
        self.follow_rebalance();
        let Some(partition) = self.partitions.get_mut(&message.partition()) else { return };
        let now_ms = self.inner.clock.now_ms();
        let (item, due_ms) = match message::decode(message) {
            Ok(record) => {
                let due_ms = policy::due_at(record.not_before_ms, now_ms, self.inner.policy.delay);
                (Item::Record(Box::new(record)), due_ms)
            }
            Err(error) => {
                let headers = message.headers().map(|headers| headers.detach());
                (Item::Poison(Box::new(message::copy(message, headers)), error.to_string()), 0)
            }
        };
        partition.push(message.offset(), message.timestamp().to_millis().unwrap_or(-1), item, due_ms);
    }

    /// The next batch, if something is due.
    fn start(&mut self, now_ms: u64) -> Option<Work> {
        let mut jobs = Vec::new();
        // Each partition gets its share, so that none waits behind another's backlog.
        let share = BATCH / self.partitions.len().max(1) + 1;
        for partition in self.partitions.values_mut() {
            let limit = (jobs.len() + share).min(BATCH);
            partition.take_due(now_ms, limit, &mut jobs);
        }
        if jobs.is_empty() {
            return None;
        }
        Some(Box::pin(work_off(Arc::clone(self.inner), Arc::clone(self.handler), jobs)))
    }

    /// What a batch or a wait came to. Returns the wait for the targets where one is needed.
    fn settle(&mut self, report: Report, pause: &mut Pause) -> Option<Work> {
        let now_ms = self.inner.clock.now_ms();
        let mut offsets = BTreeMap::new();
        for (id, generation, offset) in report.done {
            if let Some(partition) = self.partitions.get_mut(&id).filter(|p| p.generation == generation)
                && let Some(next) = partition.done(offset)
            {
                offsets.insert(id, next);
            }
        }
        self.store(&offsets);
        let nothing_failed = report.again.is_empty();
        for (job, due_ms) in report.again {
            if let Some(partition) =
                self.partitions.get_mut(&job.partition).filter(|p| p.generation == job.generation)
            {
                partition.again(job, due_ms);
            }
        }
        if report.ready {
            self.blocked = false;
            self.partitions.values_mut().for_each(|partition| partition.forgive(now_ms));
        } else if report.down.is_none() && nothing_failed {
            pause.reset();
        }
        let target = report.down?;
        self.blocked = true;
        let (handler, pause) = (Arc::clone(self.handler), pause.grow());
        Some(Box::pin(async move {
            handler.ready(&target).await;
            tokio::time::sleep(pause).await;
            Report { done: Vec::new(), again: Vec::new(), down: None, ready: true }
        }))
    }

    fn store(&self, offsets: &BTreeMap<i32, i64>) {
        for (id, next) in offsets {
            let mut list = TopicPartitionList::new();
            let stored = list
                .add_partition_offset(&self.inner.settings.retry, *id, Offset::Offset(*next))
                .and_then(|()| self.consumer.store_offsets(&list));
            // Revoked meanwhile: its new owner reads these again.
            if let Err(error) = stored {
                tracing::debug!(%error, partition = id, "kafka offset not stored");
            }
        }
    }

    fn pause_and_resume(&mut self, now_ms: u64) -> Result<(), KafkaError> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        let topic = self.inner.settings.retry.as_str();
        for partition in self.partitions.values_mut() {
            let beyond = now_ms.saturating_add(if partition.paused { RESUME_MS } else { PAUSE_MS });
            let wanted = self.blocked || partition.is_full() || partition.waits_beyond(beyond);
            if wanted != partition.paused {
                partition.paused = wanted;
                let list = if wanted { &mut pause } else { &mut resume };
                list.add_partition(topic, partition.id);
            }
        }
        if pause.count() > 0 {
            self.consumer.pause(&pause)?;
        }
        if resume.count() > 0 {
            self.consumer.resume(&resume)?;
        }
        Ok(())
    }
}

/// One batch: the handler, then the successors' acknowledgements.
async fn work_off(inner: Arc<Inner>, handler: Arc<dyn Handler>, jobs: Vec<Job>) -> Report {
    let mut report = Report { done: Vec::new(), again: Vec::new(), down: None, ready: false };
    let (mut slots, mut records, mut poison) = (Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let place = (job.partition, job.generation, job.offset, job.time_ms, job.since_ms);
        match job.item {
            Item::Record(record) => {
                slots.push(place);
                records.push(*record);
            }
            Item::Poison(message, reason) => poison.push((place, message, reason)),
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
    let now_ms = inner.clock.now_ms();
    let settings = &inner.settings;
    let death = |(partition, _, offset, time_ms, _): Place, reason: &str| Death {
        topic: settings.retry.clone(),
        partition,
        offset,
        time_ms,
        died_ms: now_ms,
        reason: reason.to_owned(),
    };
    let mut successors = Vec::new();
    // The jobs whose successors are on their way: they stay when these aren't acknowledged.
    let mut forwarded: Vec<(Place, Item)> = Vec::new();
    let mut buried: Vec<(Record, String)> = Vec::new();
    let mut acked = 0;
    let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::NotYet));
    for ((place, record), verdict) in slots.into_iter().zip(records).zip(verdicts) {
        match policy::next(&record, &verdict, inner.policy, now_ms, place.4) {
            Next::Done => {
                acked += 1;
                report.done.push((place.0, place.1, place.2));
            }
            Next::Again(pause) => report.again.push((job(place, record), now_ms + millis(pause))),
            Next::AwaitTarget => {
                if report.down.is_none() {
                    tracing::info!(?verdict, "target takes no removals, retries wait for it");
                }
                report.down = Some(record.target.clone());
                report.again.push((job(place, record), 0));
            }
            Next::Forward(next) => {
                successors.push((settings.retry.as_str(), message::encode(&next)));
                forwarded.push((place, Item::Record(Box::new(record))));
            }
            Next::Dead(dead, reason) => {
                let letter = message::bury(message::encode(&dead), &death(place, &reason));
                successors.push((settings.dead.as_str(), letter));
                forwarded.push((place, Item::Record(Box::new(record))));
                buried.push((*dead, reason));
            }
        }
    }
    let poisoned = poison.len();
    for (place, message, reason) in poison {
        let letter = message::bury((*message).clone(), &death(place, &reason));
        successors.push((settings.dead.as_str(), letter));
        forwarded.push((place, Item::Poison(message, reason)));
    }
    Counters::add(&inner.counters.acked, acked);
    if forwarded.is_empty() {
        return report;
    }
    match inner.send(successors).await {
        Ok(()) => {
            let counters = &inner.counters;
            Counters::add(&counters.forwarded, forwarded.len() - buried.len() - poisoned);
            Counters::add(&counters.dead, buried.len() + poisoned);
            Counters::add(&counters.poison, poisoned);
            for (record, reason) in &buried {
                log_dead(record, reason);
            }
            for (place, item) in &forwarded {
                if let Item::Poison(message, reason) = item {
                    let key = message.key.as_deref().unwrap_or_default().escape_ascii();
                    tracing::error!(partition = place.0, offset = place.2, %key, reason, "record can't be decoded, dead letter written");
                }
            }
            report.done.extend(forwarded.iter().map(|(place, _)| (place.0, place.1, place.2)));
        }
        Err(error) => {
            tracing::warn!(%error, records = forwarded.len(), "kafka takes no forwarded records, they stay");
            let due_ms = inner.clock.now_ms() + millis(IDLE);
            report.again.extend(forwarded.into_iter().map(|(place, item)| (whole(place, item), due_ms)));
        }
    }
    report
}

/// Partition, generation, offset, time, since.
type Place = (i32, u64, i64, i64, u64);

fn whole((partition, generation, offset, time_ms, since_ms): Place, item: Item) -> Job {
    Job { partition, generation, offset, time_ms, since_ms, item }
}

fn job(place: Place, record: Record) -> Job {
    whole(place, Item::Record(Box::new(record)))
}
