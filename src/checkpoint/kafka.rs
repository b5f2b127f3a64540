//! The checkpoint as records of a compacted topic, `PREFIX.checkpoint`, one partition: keys `NAME.fence`, `NAME.checkpoint`,
//! `NAME.schema`, `NAME.backup`.
//!
//! Guarantees: each save is a transaction, acknowledged by all in-sync replicas. The broker fences by the transactional id
//! `PREFIX.checkpoint.NAME`: a daemon that takes over makes every earlier producer's next commit fail, reads to the end, and writes its
//! fence, all of which fails if yet another one comes in between. A producer that was lost is replaced, and the new one looks whether a higher
//! fence stands there before it saves. Rights: WRITE on the transactional id, READ, WRITE, DESCRIBE (and CREATE) on the topic.
//! May depend on nothing of ours but `config` (the properties) and `store`'s seam.

mod rights;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    metadata::Metadata,
    producer::{FutureProducer, FutureRecord, Producer},
};

pub use self::rights::{Right, RightState};
use super::store::{Fault, Part, Taken};
use crate::config::Properties;

/// One question to the brokers, a commit included.
const ANSWER: Duration = Duration::from_secs(5);
/// The whole of a reading to the end.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// A group is named because librdkafka asks for one: nothing is committed under it, and no right on it is needed.
const READERS: &str = "rowbust.checkpoint.reader";

/// What librdkafka tells outside of calls: what matters of it comes as their errors too.
#[derive(Debug, Clone, Copy)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(fac, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client reports");
    }
}

impl ConsumerContext for Quiet {}

/// A producer that nobody else's commits come between.
type Transactions = FutureProducer<Quiet>;

/// One record.
#[derive(Clone)]
pub(super) struct KafkaRecord {
    settings: Arc<Settings>,
    /// `None`: lost, or not made yet.
    producer: Arc<Mutex<Option<Transactions>>>,
}

#[derive(Debug)]
struct Settings {
    brokers: String,
    topic: String,
    name: String,
    properties: Properties,
}

impl std::fmt::Debug for KafkaRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The properties may hold a password.
        f.debug_struct("KafkaRecord").field("topic", &self.settings.topic).finish_non_exhaustive()
    }
}

/// With the right that is missing, where it is one.
fn fault(settings: &Settings, error: &KafkaError) -> Fault {
    let grant = match error.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed) => {
            format!("; grant READ, WRITE and DESCRIBE on the topic {}", settings.topic)
        }
        Some(Code::TransactionalIdAuthorizationFailed) => {
            format!("; grant WRITE on the transactional id {}", settings.transactional_id())
        }
        _ => String::new(),
    };
    Fault::Unavailable(format!("{error}{grant}"))
}

impl KafkaRecord {
    pub(super) fn new(brokers: &[String], prefix: &str, properties: &Properties, name: &str) -> Self {
        let settings = Settings {
            brokers: brokers.join(","),
            topic: format!("{prefix}.checkpoint"),
            name: name.to_owned(),
            properties: properties.clone(),
        };
        Self { settings: Arc::new(settings), producer: Arc::default() }
    }

    pub(super) async fn take(&self, least: u64) -> Result<Taken, Fault> {
        let this = self.clone();
        blocking(&self.settings, move || {
            this.settings.ensure_topic()?;
            let producer = this.settings.producer()?;
            let mut found = this.settings.read_all()?;
            let fence = this.settings.fence(&found).max(least) + 1;
            // Fails if somebody else has taken over since the producer was made: so what was read is the newest.
            this.settings.commit(&producer, "fence", fence.to_string().as_bytes())?;
            *this.lock() = Some(producer);
            let mut part = |part: Part| found.remove(&this.settings.key(part.as_str()));
            Ok(Ok(Taken { fence, checkpoint: part(Part::Checkpoint), schema: part(Part::Schema) }))
        })
        .await
    }

    pub(super) async fn put(&self, part: Part, bytes: &[u8], fence: u64) -> Result<(), Fault> {
        let (this, bytes) = (self.clone(), bytes.to_vec());
        blocking(&self.settings, move || {
            let mut kept = this.lock();
            let mut lost = None;
            if let Some(producer) = kept.as_ref() {
                match this.settings.commit(producer, part.as_str(), &bytes) {
                    Ok(()) => return Ok(Ok(())),
                    Err(error) => lost = Some(error),
                }
            }
            // It may have been fenced, or only lost: a new one, which looks who has the newest fence.
            drop_elsewhere(kept.take());
            if let Some(error) = lost.filter(|error| !is_fenced(error)) {
                return Err(error);
            }
            let producer = this.settings.producer()?;
            let theirs = this.settings.fence(&this.settings.read_all()?);
            if theirs > fence {
                return Ok(Err(Fault::Fenced(theirs)));
            }
            this.settings.commit(&producer, part.as_str(), &bytes)?;
            *kept = Some(producer);
            Ok(Ok(()))
        })
        .await
    }

    pub(super) async fn get(&self, part: Part) -> Result<Option<Vec<u8>>, Fault> {
        let this = self.clone();
        blocking(&self.settings, move || {
            Ok(Ok(this.settings.read_all()?.remove(&this.settings.key(part.as_str()))))
        })
        .await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Transactions>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// librdkafka's transactions block.
async fn blocking<T: Send + 'static>(
    settings: &Settings,
    call: impl FnOnce() -> KafkaResult<Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(fault(settings, &error)),
        Err(error) => Err(Fault::Unavailable(error.to_string())),
    }
}

/// Its drop waits for the brokers.
fn drop_elsewhere(producer: Option<Transactions>) {
    if let Some(producer) = producer {
        let _ = std::thread::Builder::new().name("checkpoint-kafka".into()).spawn(move || drop(producer));
    }
}

fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fatal)
    )
}

impl Settings {
    /// The user's properties, then what the promise stands on.
    fn client(&self, fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "rowbust");
        config.set("socket.keepalive.enable", "true");
        for (key, value) in self.properties.iter() {
            config.set(key, value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config
    }

    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn transactional_id(&self) -> String {
        format!("{}.{}", self.topic, self.name)
    }

    /// A producer before which every earlier one of this name is fenced.
    fn producer(&self) -> KafkaResult<Transactions> {
        let producer: Transactions = self
            .client(&[
                ("transactional.id", &self.transactional_id()),
                ("enable.idempotence", "true"),
                ("acks", "all"),
                ("transaction.timeout.ms", "10000"),
                ("message.timeout.ms", "5000"),
                ("linger.ms", "0"),
                ("allow.auto.create.topics", "false"),
            ])
            .create_with_context(Quiet)?;
        producer.init_transactions(ANSWER)?;
        Ok(producer)
    }

    fn commit(&self, producer: &Transactions, part: &str, bytes: &[u8]) -> KafkaResult<()> {
        producer.begin_transaction()?;
        let key = self.key(part);
        let record = FutureRecord::to(&self.topic).partition(0).key(&key).payload(bytes);
        // Its delivery is part of the commit.
        let sent = producer.send_result(record).map(drop).map_err(|(error, _)| error);
        let done = sent.and_then(|()| producer.commit_transaction(ANSWER));
        if done.is_err() {
            // The caller drops the producer; the broker would wait for its timeout.
            let _ = producer.abort_transaction(Duration::from_secs(1));
        }
        done
    }

    fn fence(&self, found: &HashMap<String, Vec<u8>>) -> u64 {
        let text = found.get(&self.key("fence")).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The newest committed value of each key of this name.
    fn read_all(&self) -> KafkaResult<HashMap<String, Vec<u8>>> {
        let consumer: BaseConsumer<Quiet> = self.reader().create_with_context(Quiet)?;
        // A consumer would wait for a topic that isn't there, and not say so.
        if !self.found(&consumer.fetch_metadata(Some(&self.topic), ANSWER)?)? {
            return Ok(HashMap::new());
        }
        let mut places = TopicPartitionList::new();
        places.add_partition_offset(&self.topic, 0, Offset::Beginning)?;
        consumer.assign(&places)?;
        let ours = format!("{}.", self.name);
        let (mut found, until) = (HashMap::new(), Instant::now() + READ_WITHIN);
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
                    if let Some(key) = key.filter(|key| key.starts_with(&ours)) {
                        match message.payload() {
                            Some(value) => found.insert(key.to_owned(), value.to_owned()),
                            None => found.remove(key),
                        };
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                    return Err(error);
                }
                // Brokers that are away for a moment.
                Some(Err(error)) if Instant::now() > until => return Err(error),
                None if Instant::now() > until => {
                    return Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    fn reader(&self) -> ClientConfig {
        self.client(&[
            ("group.id", READERS),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // The end is only told by an empty answer: it has to come between two saves of an active daemon.
            ("fetch.wait.max.ms", "10"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "true"),
            ("allow.auto.create.topics", "false"),
        ])
    }

    /// Whether the topic is there. One that may not be described is no missing one: that would be a checkpoint that was lost.
    fn found(&self, metadata: &Metadata) -> KafkaResult<bool> {
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.and_then(|topic| topic.error()).map(Code::from) {
            Some(code @ Code::TopicAuthorizationFailed) => Err(KafkaError::MetadataFetch(code)),
            _ => Ok(topic.is_some_and(|topic| !topic.partitions().is_empty())),
        }
    }

    fn new_topic(&self, replication: i32) -> NewTopic<'_> {
        let topic = NewTopic::new(&self.topic, 1, TopicReplication::Fixed(replication))
            .set("cleanup.policy", "compact")
            // Old positions go soon, so that a standby reads little.
            .set("segment.bytes", "4194304")
            .set("segment.ms", "3600000")
            .set("min.cleanable.dirty.ratio", "0.1");
        if replication == 3 { topic.set("min.insync.replicas", "2") } else { topic }
    }

    /// Creates the topic where it is missing and that is allowed.
    fn ensure_topic(&self) -> KafkaResult<()> {
        let admin: AdminClient<Quiet> = self.client(&[]).create_with_context(Quiet)?;
        let metadata = admin.inner().fetch_metadata(Some(&self.topic), ANSWER)?;
        if self.found(&metadata)? {
            return Ok(());
        }
        let replication = i32::try_from(metadata.brokers().len().clamp(1, 3)).unwrap_or(1);
        let topic = self.new_topic(replication);
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        // Within `spawn_blocking`.
        let handle = tokio::runtime::Handle::current();
        for result in handle.block_on(admin.create_topics([&topic], &options))? {
            match result {
                Ok(topic) => tracing::info!(topic, replication, "kafka topic created, compacted"),
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => tracing::warn!(
                    topic, %code, "kafka topic is missing and can't be created, create it by hand: one partition, cleanup.policy=compact"
                ),
            }
        }
        Ok(())
    }
}
