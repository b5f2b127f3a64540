//! `retry ls`, `requeue` and `drop`: reads the topics without being a member of the consumer group.
//!
//! Guarantees: listing changes nothing. A letter that leaves is passed by the requeue group's offset only after its record was
//! acknowledged in the first tier; a letter that isn't meant is written again before that offset passes it. Of several sweeps at once,
//! in whatever processes, one has its turn and the others wait ([`Turn`]): each letter is passed by one of them.
//! May depend on its siblings.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Message},
};

use super::{
    super::{EnqueueError, Listed, Matcher, Record, RetryError, Swept, Which, policy::millis},
    Inner,
    client::{ANSWER, Context, Reader, Settings, off_runtime, refused},
    message::{self, Outgoing},
};

/// Nothing was read for this long: the brokers are taken for gone.
const SILENCE: Duration = Duration::from_secs(15);
/// Letters whose acknowledgements are awaited together.
const CHUNK: usize = 512;
/// How long a sweep waits for another one to end.
const TURN_WAIT: Duration = Duration::from_secs(30);

/// What a matcher takes, the oldest `limit`.
pub(super) fn list(
    settings: &Settings,
    which: Which,
    matcher: &Matcher,
    limit: usize,
) -> KafkaResult<Vec<Listed>> {
    let (topics, group) = match which {
        Which::Pending => (&settings.retry[..], &settings.group),
        Which::Dead => (std::slice::from_ref(&settings.dead), &settings.requeue_group),
    };
    let consumer: Reader = settings.reader(group).create_with_context(Context::default())?;
    let mut found: Vec<(i64, Listed)> = Vec::new();
    for topic in topics {
        let ranges = ranges(&consumer, topic)?;
        let mut counts = BTreeMap::new();
        scan(&consumer, topic, &ranges, |message| {
            let count = counts.entry(message.partition()).or_insert(0_usize);
            let line = listed(topic, message);
            if *count < limit && matcher.takes(&line) {
                *count += 1;
                found.push((message.timestamp().to_millis().unwrap_or(0), line));
            }
            *count < limit
        })?;
    }
    found.sort_by_key(|(time, _)| *time);
    Ok(found.into_iter().map(|(_, line)| line).take(limit).collect())
}

fn listed(topic: &str, message: &BorrowedMessage<'_>) -> Listed {
    let (record, raw) = match message::decode(message) {
        Ok(record) => (Some(record), Vec::new()),
        Err(_) => {
            (None, [message.key().unwrap_or_default(), message.payload().unwrap_or_default()].join(&b' '))
        }
    };
    let death = message::death(message);
    Listed {
        id: format!("{topic}/{}/{}", message.partition(), message.offset()),
        record,
        raw,
        reason: death.as_ref().map_or_else(String::new, |death| death.reason.clone()),
        died_ms: death.as_ref().map(|death| death.died_ms),
        original: death.map(|death| (death.topic, death.partition, death.offset, death.time_ms)),
    }
}

/// What the reader's group has not passed yet; a topic that isn't there owes nothing.
pub(super) fn owed(consumer: &Reader, topic: &str) -> KafkaResult<Ranges> {
    match ranges(consumer, topic) {
        Err(error) if error.rdkafka_error_code() == Some(Code::UnknownTopicOrPartition) => Ok(Ranges::new()),
        ranges => ranges,
    }
}

/// By partition: first offset that isn't passed yet, and end.
pub(super) type Ranges = BTreeMap<i32, (i64, i64)>;

fn ranges(consumer: &Reader, topic: &str) -> KafkaResult<Ranges> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().first();
    if let Some(error) = found.and_then(|topic| topic.error()) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let ids: Vec<i32> =
        found.map(|topic| topic.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default();
    let mut list = TopicPartitionList::new();
    for id in &ids {
        list.add_partition(topic, *id);
    }
    let committed = consumer.committed_offsets(list, ANSWER)?;
    let mut ranges = Ranges::new();
    for id in ids {
        let (low, high) = consumer.fetch_watermarks(topic, id, ANSWER)?;
        let from = match committed.find_partition(topic, id).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => offset.clamp(low, high),
            _ => low,
        };
        if from < high {
            ranges.insert(id, (from, high));
        }
    }
    Ok(ranges)
}

/// Reads each range to its end; `false` from `each` ends the message's partition.
fn scan(
    consumer: &Reader,
    topic: &str,
    ranges: &Ranges,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> bool,
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for (id, (from, _)) in ranges {
        list.add_partition_offset(topic, *id, Offset::Offset(*from))?;
    }
    consumer.assign(&list)?;
    let mut open = ranges.clone();
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let Some((_, end)) = open.get(&message.partition()).copied() else { continue };
                let inside = message.offset() < end;
                if !(inside && each(&message)) || message.offset() + 1 >= end {
                    open.remove(&message.partition());
                }
            }
            Some(Err(KafkaError::PartitionEOF(id))) => {
                open.remove(&id);
            }
            Some(Err(error)) if refused(&error) => return Err(error),
            Some(Err(error)) => tracing::debug!(%error, "kafka reader has trouble"),
            None => {}
        }
        if heard.elapsed() > SILENCE {
            return Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
        }
    }
    consumer.unassign()
}

/// What is done with the letters that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Back to the first tier.
    Requeue,
    Drop,
}

pub(super) async fn sweep(
    inner: &Arc<Inner>,
    matcher: Matcher,
    fate: Fate,
    limit: usize,
) -> Result<Swept, RetryError> {
    let (chunks, mut inbox) = tokio::sync::mpsc::channel::<Chunk>(1);
    let reader = {
        let inner = Arc::clone(inner);
        off_runtime(move || Sweeper { settings: &inner.settings, matcher, fate }.run(limit, &chunks))
    };
    let writer = async {
        let mut count = 0;
        while let Some(chunk) = inbox.recv().await {
            let outcome = write_back(inner, &chunk.letters).await;
            if let Ok(swept) = &outcome {
                count += swept;
            }
            // The reader has gone when it failed; its own error is reported.
            let _ = chunk.written.send(outcome.map(|_| ()));
        }
        count
    };
    let (read, letters) = tokio::join!(reader, writer);
    let counters = &inner.counters;
    let counter = if fate == Fate::Drop { &counters.dropped } else { &counters.requeued };
    counter.fetch_add(letters, std::sync::atomic::Ordering::Relaxed);
    match read {
        Ok(Ok(more)) => Ok(Swept { letters, more }),
        Ok(Err(Failed::Write(EnqueueError::Unavailable(detail)))) => {
            Err(RetryError::Unreachable { brokers: inner.settings.brokers.clone(), detail })
        }
        Ok(Err(Failed::Write(EnqueueError::Refused(detail)))) => Err(RetryError::Refused(detail)),
        Ok(Err(Failed::Busy)) => Err(RetryError::Busy { seconds: TURN_WAIT.as_secs() }),
        Ok(Err(Failed::Kafka(error))) | Err(error) => Err(inner.settings.error(&error)),
    }
}

/// Letters to write before the offset moves on.
struct Chunk {
    letters: Vec<Letter>,
    written: std::sync::mpsc::SyncSender<Result<(), EnqueueError>>,
}

enum Letter {
    Requeue(Box<Record>),
    Drop,
    /// Stands before one that is meant: to the topic's end.
    Keep(Outgoing),
}

struct Sweeper<'a> {
    settings: &'a Settings,
    matcher: Matcher,
    fate: Fate,
}

impl Sweeper<'_> {
    /// The letter's record, if it is meant.
    fn meant(&self, message: &BorrowedMessage<'_>) -> Option<Letter> {
        let line = listed(&self.settings.dead, message);
        if !self.matcher.takes(&line) {
            return None;
        }
        match self.fate {
            Fate::Drop => Some(Letter::Drop),
            Fate::Requeue if line.can_be_requeued() => {
                line.record.map(|record| Letter::Requeue(Box::new(record)))
            }
            Fate::Requeue => None,
        }
    }

    /// Two passes: the first finds the last letter of each partition that is meant, so that nothing behind it is touched. Says whether
    /// more than `limit` are meant.
    fn run(
        &self,
        limit: usize,
        chunks: &tokio::sync::mpsc::Sender<Chunk>,
    ) -> KafkaResult<Result<bool, Failed>> {
        let consumer: Reader =
            self.settings.reader(&self.settings.requeue_group).create_with_context(Context::default())?;
        let topic = self.settings.dead.as_str();
        if ranges(&consumer, topic)?.is_empty() {
            return Ok(Ok(false));
        }
        let Some(turn) = Turn::take(self.settings)? else { return Ok(Err(Failed::Busy)) };
        // From here on nobody else moves them.
        let mut ranges = ranges(&consumer, topic)?;
        let (mut last, mut count) = (BTreeMap::new(), 0);
        scan(&consumer, topic, &ranges, |message| {
            if self.meant(message).is_some() {
                count += 1;
                if count <= limit {
                    last.insert(message.partition(), message.offset());
                }
            }
            count <= limit
        })?;
        ranges.retain(|id, (_, end)| match last.get(id) {
            Some(offset) => {
                *end = offset + 1;
                true
            }
            None => false,
        });
        let (mut letters, mut passed) = (Vec::new(), BTreeMap::new());
        let mut failed = None;
        scan(&consumer, topic, &ranges, |message| {
            letters.push(self.meant(message).unwrap_or_else(|| {
                Letter::Keep(message::copy(message, message.headers().map(|headers| headers.detach())))
            }));
            passed.insert(message.partition(), message.offset() + 1);
            if letters.len() >= CHUNK {
                failed = pass(&turn, topic, &mut letters, &mut passed, chunks).err();
            }
            failed.is_none()
        })?;
        let failed = match failed {
            None => pass(&turn, topic, &mut letters, &mut passed, chunks).err(),
            failed => failed,
        };
        match failed {
            Some(Failed::Kafka(error)) => Err(error),
            Some(failed) => Ok(Err(failed)),
            None => Ok(Ok(count > limit)),
        }
    }
}

enum Failed {
    Kafka(KafkaError),
    Write(EnqueueError),
    /// Another sweep didn't end in time.
    Busy,
}

/// The right to move the requeue group's offsets, which one sweep has at a time: the one that owns the topic's first partition as a
/// member of that group.
///
/// The brokers give a partition to one member. They take it away only when the member rebalances, which it does when it is polled, and that
/// ends with the taking; when it leaves; or when it has been silent for its session timeout, and then they refuse its commits.
struct Turn {
    consumer: Reader,
}

impl Turn {
    /// Waits for it. `None`: another one still has it.
    fn take(settings: &Settings) -> KafkaResult<Option<Self>> {
        let consumer: Reader = settings.sweeper().create_with_context(Context::default())?;
        consumer.subscribe(&[&settings.dead])?;
        let until = Instant::now() + TURN_WAIT;
        while Instant::now() < until {
            // What it reads is read again by who has the turn.
            if let Some(Err(error)) = consumer.poll(Duration::from_millis(100))
                && refused(&error)
            {
                return Err(error);
            }
            let own = consumer.assignment()?;
            if own.find_partition(&settings.dead, 0).is_some() {
                consumer.pause(&own)?;
                return Ok(Some(Self { consumer }));
            }
        }
        Ok(None)
    }

    fn commit(&self, passed: &TopicPartitionList) -> KafkaResult<()> {
        self.consumer.commit(passed, CommitMode::Sync)
    }
}

/// Has the letters written, then commits that they are passed.
fn pass(
    turn: &Turn,
    topic: &str,
    letters: &mut Vec<Letter>,
    passed: &mut BTreeMap<i32, i64>,
    chunks: &tokio::sync::mpsc::Sender<Chunk>,
) -> Result<(), Failed> {
    if letters.is_empty() {
        return Ok(());
    }
    let (written, answer) = std::sync::mpsc::sync_channel(1);
    let gone = || Failed::Kafka(KafkaError::Canceled);
    chunks.blocking_send(Chunk { letters: std::mem::take(letters), written }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?.map_err(Failed::Write)?;
    let mut list = TopicPartitionList::new();
    for (id, next) in std::mem::take(passed) {
        list.add_partition_offset(topic, id, Offset::Offset(next)).map_err(Failed::Kafka)?;
    }
    turn.commit(&list).map_err(Failed::Kafka)
}

/// Returns how many of them leave the dead letters.
async fn write_back(inner: &Inner, letters: &[Letter]) -> Result<u64, EnqueueError> {
    let not_before_ms = inner.clock.now_ms().saturating_add(millis(inner.policy.first.delay));
    let mut left = 0;
    let messages = letters.iter().filter_map(|letter| match letter {
        Letter::Requeue(record) => {
            left += 1;
            let record = Record { attempt: 0, not_before_ms, ..(**record).clone() };
            Some((inner.settings.retry[0].as_str(), message::encode(&record)))
        }
        Letter::Drop => {
            left += 1;
            None
        }
        Letter::Keep(message) => Some((inner.settings.dead.as_str(), message.clone())),
    });
    let messages = messages.collect();
    inner.file(messages).await?;
    Ok(left)
}
