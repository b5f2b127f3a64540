//! The queue in Kafka topics: `<prefix>.retry.10s`, `<prefix>.retry.5m` and `<prefix>.dead`.
//!
//! Guarantees: those of the parent module. Every message is acknowledged by all in-sync replicas before it counts; the consumer
//! stores an offset only behind records that are done or whose successor was acknowledged. Any number of processes may
//! share the work as one consumer group.
//! Memory: librdkafka's own bounds (producer 10,000 messages and 64 MiB, consumer 8 MiB) and a quarter of a MiB for each of 24
//! partitions. May depend on `config` (policy, properties), [`super::record`] and rdkafka.

mod client;
mod consumer;
mod inspect;
mod lane;
mod letters;
mod message;
mod partition;
pub mod properties;
mod work;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    client::{Context, Reader, Settings, enqueue_error, off_runtime},
    letters::Fate,
    message::{Death, Outgoing},
    partition::At,
};
pub use self::{
    client::{DEAD_KEPT, PARTITIONS, RETRY_KEPT},
    inspect::{Inspection, TopicReport, inspect},
};
use super::{
    Clock, Counters, EnqueueError, Handler, Listed, Matcher, Owed, Record, RetryError, Running, Stats, Swept,
    UNKNOWN, Which, log_dead, policy::millis,
};
use crate::config::{Properties, RetryPolicy};

/// How long `enqueue` waits for the acknowledgements. librdkafka itself goes on for `message.timeout.ms` (120 s): what it
/// still delivers after that is a duplicate of what the caller produces again, and harmless.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Pause before a full producer queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two counts of what is owed.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// A record of a target that is down is parked again after this at the earliest: so often a backlog is written again at most.
const PARKED_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to end.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The Kafka queue. See [`super::Queue`] for what its methods promise.
pub struct KafkaQueue {
    inner: Arc<Inner>,
    running: AtomicBool,
}

impl std::fmt::Debug for KafkaQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaQueue").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

struct Inner {
    settings: Settings,
    policy: RetryPolicy,
    clock: Clock,
    counters: Counters,
    producer: Mutex<FutureProducer<Context>>,
    context: Context,
    ack_wait: Duration,
    parked_for: Duration,
    /// Messages that were acknowledged in the retry topics.
    filed: AtomicU64,
    held: Mutex<Held>,
    count: Mutex<Option<Count>>,
}

/// What the consumer has read and not done.
#[derive(Debug, Default)]
struct Held {
    /// By partition: behind the newest that was read.
    read_to: BTreeMap<At, i64>,
    /// How many, and the oldest first failure.
    by_target: BTreeMap<String, (u64, u64)>,
}

/// What the topics owed when they were last counted.
#[derive(Debug)]
struct Count {
    /// [`Inner::filed`] before.
    filed: u64,
    /// First offset that isn't passed yet, and end.
    ranges: BTreeMap<At, (i64, i64)>,
}

impl KafkaQueue {
    /// Makes the producer; waits for no broker.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub async fn open(
        brokers: &[String],
        prefix: &str,
        properties: &Properties,
        policy: RetryPolicy,
        clock: Clock,
    ) -> Result<Self, RetryError> {
        let settings = Settings::new(brokers, prefix, properties);
        let context = Context::default();
        let producer = settings
            .producer()
            .create_with_context(context.clone())
            .map_err(|error: KafkaError| settings.error(&error))?;
        let inner = Inner {
            settings,
            policy,
            clock,
            counters: Counters { letters: UNKNOWN.into(), ..Counters::default() },
            producer: Mutex::new(producer),
            context,
            ack_wait: ACK_WAIT,
            parked_for: PARKED_FOR,
            filed: AtomicU64::new(0),
            held: Mutex::default(),
            count: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner), running: AtomicBool::new(false) })
    }

    /// See [`super::Queue::enqueue`].
    ///
    /// # Errors
    /// See there.
    pub async fn enqueue(&self, records: Vec<Record>) -> Result<(), EnqueueError> {
        let count = records.len();
        let now_ms = self.inner.clock.now_ms();
        let not_before_ms = now_ms.saturating_add(millis(self.inner.policy.first.delay));
        let messages = records.into_iter().map(|record| {
            let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
            message::encode(&Record { not_before_ms, first_failed_ms, ..record })
        });
        let topic = self.inner.settings.retry[0].as_str();
        let sent = self.inner.file(messages.map(|message| (topic, message)).collect());
        crate::kill_point!("before_queue_ack");
        sent.await?;
        crate::kill_point!("after_queue_ack");
        Counters::add(&self.inner.counters.produced, count);
        Ok(())
    }

    /// See [`super::Queue::run`].
    ///
    /// # Errors
    /// See there.
    pub async fn run(
        &self,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Result<(), RetryError> {
        let _running = Running::begin(&self.running)?;
        tokio::select! {
            outcome = consumer::run(&self.inner, handler, &shutdown) => outcome,
            never = self.inner.count_owed() => match never {},
        }
    }

    /// See [`super::Queue::stats`].
    pub fn stats(&self) -> Stats {
        let counters = self.inner.counters.snapshot(self.inner.clock.now_ms());
        Stats { pending: self.inner.pending(), ..counters }
    }

    /// See [`super::Queue::find`].
    ///
    /// # Errors
    /// See there.
    pub async fn find(
        &self,
        which: Which,
        matcher: Matcher,
        limit: usize,
    ) -> Result<Vec<Listed>, RetryError> {
        let inner = Arc::clone(&self.inner);
        let listed = off_runtime(move || letters::list(&inner.settings, which, &matcher, limit)).await;
        listed.map_err(|error| self.inner.settings.error(&error))
    }

    /// See [`super::Queue::requeue`].
    ///
    /// What was requeued is kept as committed offsets of the group `<prefix>.rowbust.requeue`; a letter that `filter` doesn't mean but
    /// that stands before one that it means is written again at the end of the topic. Brokers forget the offsets of a group that
    /// is idle for `offsets.retention.minutes` (7 days by default): letters that were requeued before then show up again.
    ///
    /// # Errors
    /// See there.
    pub async fn requeue(&self, matcher: Matcher, limit: usize) -> Result<Swept, RetryError> {
        letters::sweep(&self.inner, matcher, Fate::Requeue, limit).await
    }

    /// See [`super::Queue::drop_letters`], and [`KafkaQueue::requeue`] for how it is kept.
    ///
    /// # Errors
    /// See there.
    pub async fn drop_letters(&self, matcher: Matcher, limit: usize) -> Result<Swept, RetryError> {
        letters::sweep(&self.inner, matcher, Fate::Drop, limit).await
    }

    /// See [`super::Queue::bury`].
    ///
    /// # Errors
    /// See there.
    pub async fn bury(&self, record: Record, reason: String) -> Result<(), EnqueueError> {
        let now_ms = self.inner.clock.now_ms();
        let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
        let record = Record { first_failed_ms, ..record };
        let (topic, reason_text) = (String::new(), reason.clone());
        let nowhere =
            Death { topic, partition: -1, offset: -1, time_ms: -1, died_ms: now_ms, reason: reason_text };
        let letter = message::bury(message::encode(&record), &nowhere);
        self.inner.send(vec![(self.inner.settings.dead.as_str(), letter)]).await?;
        Counters::add(&self.inner.counters.dead, 1);
        log_dead(&record, &reason);
        Ok(())
    }

    /// See [`super::Queue::owed`].
    pub fn owed(&self, target: &str) -> Owed {
        self.inner.owed(target)
    }

    /// Unix time in milliseconds, by the queue's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// See [`super::Queue::close`].
    pub async fn close(self) {
        let ended = off_runtime(move || {
            drop(self);
            Ok(())
        });
        let _ = tokio::time::timeout(CLOSE_WAIT, ended).await;
    }
}

impl Inner {
    /// Counts what the topics still owe, again and again: by the group's committed offsets, so that it is right before this process owns
    /// a partition, and whoever owns the others. In between, what is produced is added.
    async fn count_owed(&self) -> Infallible {
        let mut readers = None;
        loop {
            let filed = self.filed.load(Ordering::Acquire);
            let settings = self.settings.clone();
            let kept: Option<(Reader, Reader)> = readers.take();
            let counted = off_runtime(move || {
                let readers = match kept {
                    Some(readers) => readers,
                    None => {
                        let reader = |group| settings.reader(group).create_with_context(Context::default());
                        (reader(&settings.group)?, reader(&settings.requeue_group)?)
                    }
                };
                let mut ranges = BTreeMap::new();
                for (tier, topic) in settings.retry.iter().enumerate() {
                    let of_topic = letters::owed(&readers.0, topic)?;
                    ranges.extend(of_topic.into_iter().map(|(id, range)| ((tier, id), range)));
                }
                let letters = letters::owed(&readers.1, &settings.dead)?;
                Ok((readers, ranges, letters))
            });
            match counted.await {
                Ok((kept, ranges, letters)) => {
                    readers = Some(kept);
                    self.counters.letters.store(sum(letters.values()), Ordering::Relaxed);
                    *self.count.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Count { filed, ranges });
                }
                Err(error) => tracing::debug!(%error, "the retry topics can't be counted"),
            }
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    }

    /// What the topics owed when they were counted, and what was filed since. Never less than is owed: what was acknowledged before
    /// this is asked is in one of the two. What was filed while they were counted may be in both, until the next time.
    fn pending(&self) -> Option<u64> {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.as_ref()?;
        let since = self.filed.load(Ordering::Acquire).saturating_sub(count.filed);
        Some(sum(count.ranges.values()).saturating_add(since))
    }

    /// What is read and not done, what isn't read yet, and what was filed since the topics were counted.
    fn owed(&self, target: &str) -> Owed {
        // Before what is held: a record is filed before the one that it follows is done.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, oldest) = held.by_target.get(target).copied().unzip();
        let now_ms = self.clock.now_ms();
        let oldest = oldest.map(|at| Duration::from_millis(now_ms.saturating_sub(at)));
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = &*count else { return Owed { records: u64::MAX, oldest, exact: false } };
        let unread = count.ranges.iter().map(|(at, (from, end))| {
            let read_to = held.read_to.get(at).copied().unwrap_or(*from).max(*from);
            u64::try_from(end - read_to).unwrap_or(0)
        });
        let since = self.filed.load(Ordering::Acquire).saturating_sub(count.filed);
        let others = unread.sum::<u64>().saturating_add(since);
        Owed { records: known.unwrap_or(0).saturating_add(others), oldest, exact: others == 0 }
    }

    /// [`Inner::send`], of what is owed.
    fn file<'a>(
        &'a self,
        messages: Vec<(&'a str, Outgoing)>,
    ) -> impl Future<Output = Result<(), EnqueueError>> + Send + use<'a> {
        let count = messages.len() as u64;
        let sent = self.send(messages);
        async move {
            sent.await?;
            self.filed.fetch_add(count, Ordering::AcqRel);
            Ok(())
        }
    }

    /// Produces all and waits for every acknowledgement. Messages are handed to librdkafka before the future is first polled
    /// where its queue has room.
    fn send<'a>(
        &'a self,
        messages: Vec<(&'a str, Outgoing)>,
    ) -> impl Future<Output = Result<(), EnqueueError>> + Send + use<'a> {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rest = messages.into_iter();
        let mut acks = FuturesUnordered::new();
        let mut stuck = None;
        let mut failed = None;
        for (topic, message) in rest.by_ref() {
            match hand_over(&producer, topic, &message) {
                Ok(ack) => acks.push(ack),
                Err(error) if is_full(&error) => {
                    stuck = Some((topic, message));
                    break;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        async move {
            let deadline = Instant::now() + self.ack_wait;
            let all = async {
                if let Some(error) = failed {
                    return Err(error);
                }
                // Backpressure: a place comes free with each acknowledgement or timeout.
                for (topic, message) in stuck.into_iter().chain(rest) {
                    acks.push(loop {
                        match hand_over(&producer, topic, &message) {
                            Ok(ack) => break ack,
                            Err(error) if is_full(&error) => tokio::time::sleep(FULL_PAUSE).await,
                            Err(error) => return Err(error),
                        }
                    });
                }
                while let Some(ack) = acks.next().await {
                    match ack {
                        Ok(Ok(_)) => {}
                        Ok(Err((error, _))) => return Err(error),
                        Err(_) => return Err(KafkaError::Canceled),
                    }
                }
                Ok(())
            };
            match tokio::time::timeout_at(deadline, all).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    self.replace(&producer);
                    Err(enqueue_error(&error))
                }
                Err(_) => {
                    self.replace(&producer);
                    let detail = self.context.last_error();
                    let wait = self.ack_wait.as_secs();
                    Err(EnqueueError::Unavailable(format!(
                        "no acknowledgement within {wait} s; newest error: {detail}"
                    )))
                }
            }
        }
    }

    /// An idempotent producer that lost its sequence is dead for good: makes a new one.
    fn replace(&self, producer: &FutureProducer<Context>) {
        let Some((code, reason)) = producer.client().fatal_error() else { return };
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        // Another caller may have replaced it.
        if current.client().fatal_error().is_none() {
            return;
        }
        tracing::warn!(%code, reason, "kafka producer is dead, making a new one");
        match self.settings.producer().create_with_context(self.context.clone()) {
            Ok(new) => {
                let old = std::mem::replace(&mut *current, new);
                // Its drop flushes for half a second.
                let _ = std::thread::Builder::new().name("retry-kafka".into()).spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%error, "no new kafka producer"),
        }
    }
}

fn sum<'a>(ranges: impl Iterator<Item = &'a (i64, i64)>) -> u64 {
    ranges.map(|(from, end)| u64::try_from(end - from).unwrap_or(0)).sum()
}

fn is_full(error: &KafkaError) -> bool {
    *error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)
}

fn hand_over(
    producer: &FutureProducer<Context>,
    topic: &str,
    message: &Outgoing,
) -> Result<DeliveryFuture, KafkaError> {
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(message.headers.clone());
    if let Some(key) = &message.key {
        record = record.key(key);
    }
    if let Some(value) = &message.value {
        record = record.payload(value);
    }
    producer.send_result(record).map_err(|(error, _)| error)
}

#[cfg(test)]
#[path = "mock_tests.rs"]
mod tests;
