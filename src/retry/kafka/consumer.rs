//! The consumer group's member: reads, waits for due times, hands batches to the handler, forwards, stores offsets.
//!
//! Guarantees: an offset is stored only behind records that are done or whose successor was acknowledged, and only for
//! partitions that are owned. The client is polled at all times, also while it waits for due times or for a target. A target that is
//! down holds up no other: what it is owed is held in memory, and where that uses up what may be read ahead, parked
//! ([`super::work::park`]) so that what lies behind it is reached; each record at most once in [`super::Inner::parked_for`].
//! May depend on its siblings and `policy`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Message},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Handler, RetryError,
        policy::{self, Pause, millis},
    },
    CLOSE_WAIT, Held, Inner,
    client::{Context, Moved, ensure_topics, off_runtime, refused},
    lane::{Lane, LaneId},
    message,
    partition::{At, Item, Job, Partition},
    work::{Report, Work, await_target, park, work_off},
};

/// A partition whose next record is due later than this is paused, and resumed when it is due within [`RESUME_MS`].
const PAUSE_MS: u64 = 2000;
const RESUME_MS: u64 = 1000;
/// The loop looks around this often even when nothing seems due.
const IDLE: Duration = Duration::from_secs(1);
/// What is held is told this often.
const TELL: Duration = Duration::from_millis(200);
/// How long running batches may go on after the shutdown began.
const LAST_BATCH: Duration = Duration::from_secs(5);
/// A topic that is missing is tried to be made this often.
const MISSING_PAUSE: Duration = Duration::from_secs(30);
/// Trouble that heals by itself is logged this often.
const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

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
        let [first, second] = &inner.settings.retry;
        let end = match consumer.subscribe(&[first, second]) {
            Ok(()) => Loop::new(inner, &handler, &consumer).run(shutdown, &mut pause).await,
            Err(error) => {
                tracing::warn!(%error, "kafka subscription failed");
                End::Again
            }
        };
        *inner.held.lock().unwrap_or_else(PoisonError::into_inner) = Held::default();
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
    partitions: BTreeMap<At, Partition>,
    lanes: BTreeMap<LaneId, Lane>,
    generation: u64,
    began: Instant,
    /// When trouble was logged last: librdkafka reports each attempt to connect.
    troubled: Option<Instant>,
    told: Option<Instant>,
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
            lanes: BTreeMap::new(),
            generation: 0,
            began: Instant::now(),
            troubled: None,
            told: None,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken, pause: &mut Pause) -> End {
        let mut works: FuturesUnordered<Work> = FuturesUnordered::new();
        // What an earlier client was told is no longer true.
        self.inner.context.moved();
        loop {
            self.follow_rebalance();
            let now_ms = self.inner.clock.now_ms();
            self.sort_in(now_ms);
            works.extend(self.start(now_ms));
            if let Err(error) = self.pause_and_resume(now_ms) {
                tracing::warn!(%error, "kafka partitions can't be paused");
                return End::Again;
            }
            self.tell();
            let due_ms = self.partitions.values().filter_map(Partition::next_due_ms).min();
            let wait = due_ms
                .map_or(IDLE, |due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms).max(1)).min(IDLE));
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(report) = works.next() => {
                    pause.reset();
                    works.extend(self.settle(report));
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
        // Waits for targets never end; batches may.
        let deadline = tokio::time::Instant::now() + LAST_BATCH;
        while self.lanes.values().any(|lane| lane.busy)
            && let Ok(Some(report)) = tokio::time::timeout_at(deadline, works.next()).await
        {
            self.follow_rebalance();
            self.settle(report);
        }
        End::Shutdown
    }

    fn trouble(&mut self, error: &KafkaError) -> Option<End> {
        let say = self.troubled.is_none_or(|at| at.elapsed() > TROUBLE_PAUSE);
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                tracing::warn!(%code, "kafka consumer is dead, making a new one");
                return Some(End::Again);
            }
            // The other topic is read meanwhile; now and then the missing one is tried to be made.
            _ if error.rdkafka_error_code() == Some(Code::UnknownTopicOrPartition) => {
                if say {
                    tracing::error!(%error, topics = ?self.inner.settings.retry, "a kafka topic is missing");
                }
                if self.began.elapsed() > MISSING_PAUSE {
                    return Some(End::Again);
                }
            }
            _ if refused(error) => {
                tracing::error!(%error, topics = ?self.inner.settings.retry, "kafka refuses reads");
                return Some(End::Again);
            }
            // Brokers down, rebalances, timeouts: librdkafka goes on by itself.
            _ if say => tracing::info!(%error, "kafka consumer has trouble"),
            _ => {}
        }
        if say {
            self.troubled = Some(Instant::now());
        }
        None
    }

    fn follow_rebalance(&mut self) {
        let settings = &self.inner.settings;
        let at = |(topic, partition): &(String, i32)| Some((settings.tier(topic)?, *partition));
        for moved in self.inner.context.moved() {
            self.told = None;
            match moved {
                Moved::Assigned(places) => {
                    self.generation += 1;
                    for at in places.iter().filter_map(at) {
                        self.partitions.insert(at, Partition::new(at, self.generation));
                    }
                }
                Moved::Revoked(places) => {
                    for at in places.iter().filter_map(at) {
                        self.partitions.remove(&at);
                    }
                }
            }
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        // The assignment may have come with this very poll.
        self.follow_rebalance();
        let Some(tier) = self.inner.settings.tier(message.topic()) else { return };
        let Some(partition) = self.partitions.get_mut(&(tier, message.partition())) else { return };
        let now_ms = self.inner.clock.now_ms();
        let (item, due_ms) = match message::decode(message) {
            Ok(record) => {
                let delay = self.inner.policy.tier(record.attempt).delay;
                let due_ms = policy::due_at(record.not_before_ms, now_ms, delay);
                (Item::Record(Box::new(record)), due_ms)
            }
            Err(error) => {
                let headers = message.headers().map(|headers| headers.detach());
                (Item::Poison(Box::new(message::copy(message, headers)), error.to_string()), 0)
            }
        };
        let time_ms = message.timestamp().to_millis().unwrap_or(-1);
        partition.push(message.offset(), time_ms, item, due_ms, message::parked_ms(message));
    }

    /// What is due to its lane.
    fn sort_in(&mut self, now_ms: u64) {
        let mut due = Vec::new();
        for partition in self.partitions.values_mut() {
            partition.take_due(now_ms, &mut due);
        }
        for job in due {
            self.lanes.entry(LaneId::of(&job.item)).or_default().ready.push_back(job);
        }
    }

    /// The next batch of each lane that has one; or room for other lanes.
    fn start(&mut self, now_ms: u64) -> Vec<Work> {
        let mut works = Vec::new();
        let partitions = &self.partitions;
        let is_ours = |job: &Job| {
            partitions.get(&job.at).is_some_and(|partition| partition.generation == job.generation)
        };
        let mut down = BTreeSet::new();
        for (id, lane) in &mut self.lanes {
            if lane.down {
                down.insert(id.target.clone());
            }
            if lane.busy || lane.down || lane.ready.is_empty() {
                continue;
            }
            let jobs = lane.batch(id.wide, is_ours);
            if !jobs.is_empty() {
                lane.busy = true;
                works.push(work_off(Arc::clone(self.inner), Arc::clone(self.handler), id.clone(), jobs));
            }
        }
        let full: BTreeSet<At> = partitions.values().filter(|p| p.is_full()).map(|p| p.at).collect();
        if down.is_empty() || full.is_empty() || self.handler.targets().iter().all(|name| down.contains(name))
        {
            return works;
        }
        let parked_for = millis(self.inner.parked_for);
        let may = |job: &Job| {
            full.contains(&job.at) && is_ours(job) && now_ms.saturating_sub(job.parked_ms) >= parked_for
        };
        for (id, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.down && !lane.busy) {
            let jobs = lane.give_way(may);
            if !jobs.is_empty() {
                lane.busy = true;
                works.push(park(Arc::clone(self.inner), id.clone(), jobs));
            }
        }
        works
    }

    /// What a batch or a wait came to. Returns the wait for the target where one is needed.
    fn settle(&mut self, report: Report) -> Option<Work> {
        let now_ms = self.inner.clock.now_ms();
        let mut offsets = BTreeMap::new();
        for (at, generation, offset) in report.done {
            if let Some(partition) = self.partitions.get_mut(&at).filter(|p| p.generation == generation)
                && let Some(next) = partition.done(offset)
            {
                offsets.insert(at, next);
            }
        }
        if !offsets.is_empty() {
            crate::kill_point!("before_retry_noted");
        }
        self.store(&offsets);
        let lane = self.lanes.entry(report.lane.clone()).or_default();
        if report.ready {
            lane.down = false;
            // The wait for the target isn't the records' fault.
            lane.ready.iter_mut().for_each(|job| job.since_ms = job.since_ms.max(now_ms));
        } else {
            lane.busy = false;
            if report.down.is_empty() && report.again.is_empty() && !lane.down {
                lane.pause.reset();
            }
        }
        for (job, due_ms) in report.again {
            if let Some(partition) =
                self.partitions.get_mut(&job.at).filter(|p| p.generation == job.generation)
            {
                partition.again(job, due_ms);
            }
        }
        if report.down.is_empty() {
            return None;
        }
        for job in report.down.into_iter().rev() {
            lane.ready.push_front(job);
        }
        lane.down = true;
        Some(await_target(Arc::clone(self.handler), report.lane, lane.pause.grow()))
    }

    fn store(&self, offsets: &BTreeMap<At, i64>) {
        for ((tier, id), next) in offsets {
            let mut list = TopicPartitionList::new();
            let stored = list
                .add_partition_offset(&self.inner.settings.retry[*tier], *id, Offset::Offset(*next))
                .and_then(|()| self.consumer.store_offsets(&list));
            // Revoked meanwhile: its new owner reads these again.
            if let Err(error) = stored {
                tracing::debug!(%error, partition = id, "kafka offset not stored");
            }
        }
    }

    fn pause_and_resume(&mut self, now_ms: u64) -> Result<(), KafkaError> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for partition in self.partitions.values_mut() {
            let beyond = now_ms.saturating_add(if partition.paused { RESUME_MS } else { PAUSE_MS });
            let wanted = partition.is_full() || partition.waits_beyond(beyond);
            if wanted != partition.paused {
                partition.paused = wanted;
                let list = if wanted { &mut pause } else { &mut resume };
                let (tier, id) = partition.at;
                list.add_partition(&self.inner.settings.retry[tier], id);
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

    /// Tells what is read and not done, now and then.
    fn tell(&mut self) {
        if self.told.is_some_and(|at| at.elapsed() < TELL) {
            return;
        }
        self.told = Some(Instant::now());
        let mut held = Held::default();
        for (at, partition) in &self.partitions {
            partition.owed(&mut held.by_target);
            held.read_to.extend(partition.read_to().map(|offset| (*at, offset)));
        }
        let oldest = self.partitions.values().filter_map(Partition::oldest_ms).min();
        self.inner.counters.oldest_ms.store(oldest.unwrap_or(0), Ordering::Relaxed);
        *self.inner.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}
