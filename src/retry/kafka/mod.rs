//! The queue in Kafka topics: `<prefix>.retry.10s` and `<prefix>.dead`.
//!
//! Guarantees: those of the parent module. Every message is acknowledged by all in-sync replicas before it counts; the consumer
//! stores an offset only behind records that are done or whose successor was acknowledged. Any number of processes may
//! share the work as one consumer group.
//! Memory: librdkafka's own bounds (producer 10,000 messages, consumer 8 MiB) and half a MiB per partition.
//! May depend on `config` (the policy), [`super::record`] and rdkafka.

mod client;
mod consumer;
mod letters;
mod message;
mod partition;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rdkafka::{
    consumer::BaseConsumer,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    client::{Context, Settings, enqueue_error, off_runtime},
    message::Outgoing,
};
use super::{
    Clock, Counters, EnqueueError, Filter, Handler, Listed, Record, RetryError, Stats, UNKNOWN, Which,
    policy::millis,
};
use crate::config::RetryPolicy;

/// How long `enqueue` waits for the acknowledgements. librdkafka itself goes on for `message.timeout.ms` (120 s): what it
/// still delivers after that is a duplicate of what the caller produces again, and harmless.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Pause before a full producer queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two counts of what is owed.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
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
}

impl KafkaQueue {
    /// Makes the producer; waits for no broker.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub async fn open(
        brokers: &[String],
        prefix: &str,
        properties: &[(String, String)],
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
            counters: Counters { pending: UNKNOWN.into(), ..Counters::default() },
            producer: Mutex::new(producer),
            context,
            ack_wait: ACK_WAIT,
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
        let not_before_ms = now_ms.saturating_add(millis(self.inner.policy.delay));
        let messages = records.into_iter().map(|record| {
            let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
            message::encode(&Record { not_before_ms, first_failed_ms, ..record })
        });
        let topic = &self.inner.settings.retry;
        let sent = self.inner.send(messages.map(|message| (topic.as_str(), message)).collect());
        crate::kill_point!("before_queue_ack");
        sent.await?;
        crate::kill_point!("after_queue_ack");
        Counters::add(&self.inner.counters.produced, count);
        if self.inner.counters.pending.load(Ordering::Relaxed) != UNKNOWN {
            Counters::add(&self.inner.counters.pending, count);
        }
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
        if self.running.swap(true, Ordering::AcqRel) {
            return Err(RetryError::AlreadyRunning);
        }
        let outcome = tokio::select! {
            outcome = consumer::run(&self.inner, handler, &shutdown) => outcome,
            never = self.inner.count_owed() => match never {},
        };
        self.running.store(false, Ordering::Release);
        outcome
    }

    /// See [`super::Queue::stats`].
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot(self.inner.clock.now_ms())
    }

    /// See [`super::Queue::list`].
    ///
    /// # Errors
    /// See there.
    pub async fn list(&self, which: Which, limit: usize) -> Result<Vec<Listed>, RetryError> {
        let inner = Arc::clone(&self.inner);
        let listed = off_runtime(move || letters::list(&inner.settings, which, limit)).await;
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
    pub async fn requeue(&self, filter: Filter) -> Result<u64, RetryError> {
        letters::requeue(&self.inner, filter).await
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
    /// Counts what the topic still owes, again and again: by the group's committed offsets, so that it is right before this process owns
    /// a partition, and whoever owns the others. In between, what is produced is added.
    async fn count_owed(&self) -> Infallible {
        let mut reader = None;
        loop {
            let produced = self.counters.produced.load(Ordering::Relaxed);
            let settings = self.settings.clone();
            let kept: Option<BaseConsumer> = reader.take();
            let counted = off_runtime(move || {
                let consumer = match kept {
                    Some(consumer) => consumer,
                    None => settings.reader(&settings.group).create()?,
                };
                let owed = letters::owed(&consumer, &settings.retry)?;
                Ok((consumer, owed))
            });
            match counted.await {
                Ok((consumer, owed)) => {
                    reader = Some(consumer);
                    // What was produced while it was counted may be counted twice, until the next time.
                    let since = self.counters.produced.load(Ordering::Relaxed).saturating_sub(produced);
                    self.counters.pending.store(owed.saturating_add(since), Ordering::Relaxed);
                }
                Err(error) => tracing::debug!(%error, "the retry topic can't be counted"),
            }
            tokio::time::sleep(COUNT_INTERVAL).await;
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
