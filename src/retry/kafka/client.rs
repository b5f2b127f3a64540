//! Settings of producer, consumer and admin client, the topics, and the classes of errors: one place for each.
//!
//! Guarantees: no message that leaves here holds a property's value. May depend on `config` (the properties) and the parent module's
//! error types.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};

use super::super::{EnqueueError, RetryError};
use crate::config::Properties;

/// Partitions of every topic. Never changed: another number moves keys between partitions.
pub const PARTITIONS: i32 = 12;
/// How long records that wait are kept by the brokers, counted from their last attempt.
pub const RETRY_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long dead letters are kept.
pub const DEAD_KEPT: Duration = Duration::from_hours(30 * 24);
/// One question to the brokers.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Topics that were created are asked for this often.
const NAMED_PAUSE: Duration = Duration::from_millis(50);

/// Names and settings that all clients of one queue share.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) brokers: String,
    /// By [`Tier`]. The names stand for the default delays and stay when others are configured: a topic of another name would leave
    /// behind what waits in this one.
    pub(super) retry: [String; 2],
    pub(super) dead: String,
    pub(super) group: String,
    /// Its committed offsets say which dead letters were requeued.
    pub(super) requeue_group: String,
    properties: Properties,
}

impl Settings {
    pub(super) fn new(brokers: &[String], prefix: &str, properties: &Properties) -> Self {
        Self {
            brokers: brokers.join(","),
            retry: [format!("{prefix}.retry.10s"), format!("{prefix}.retry.5m")],
            dead: format!("{prefix}.dead"),
            group: format!("{prefix}.rowbust"),
            requeue_group: format!("{prefix}.rowbust.requeue"),
            properties: properties.clone(),
        }
    }

    /// All topics: the tiers', and the dead letters'.
    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.retry.iter().map(String::as_str).chain([self.dead.as_str()])
    }

    /// The tier that a topic stands for.
    pub(super) fn tier(&self, topic: &str) -> Option<usize> {
        self.retry.iter().position(|name| name == topic)
    }

    pub(super) fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "rowbust");
        config.set("socket.keepalive.enable", "true").set("allow.auto.create.topics", "false");
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// The user's properties come last: what he sets wins, but for what the promise stands on.
    pub(super) fn with_properties(&self, mut config: ClientConfig, fixed: &[(&str, &str)]) -> ClientConfig {
        for (key, value) in self.properties.iter() {
            config.set(key, value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("max.in.flight.requests.per.connection", "5")
            .set("message.timeout.ms", "120000")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "10000")
            .set("queue.buffering.max.kbytes", "65536");
        self.with_properties(config, &[("enable.idempotence", "true"), ("acks", "all")])
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("max.poll.interval.ms", "300000")
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", "8192")
            .set("check.crcs", "true")
            .set("auto.commit.interval.ms", "1000")
            // A topic that is made by hand is found within this.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // A killed daemon's partitions come back to it when its old membership has run out: the broker's least.
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500");
        self.with_properties(
            config,
            &[
                ("group.id", &self.group),
                ("enable.auto.commit", "true"),
                ("enable.auto.offset.store", "false"),
            ],
        )
    }

    /// A member of the requeue group, which moves its offsets: see `letters`.
    pub(super) fn sweeper(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500")
            // It is polled only until it has its turn: so long a sweep may take.
            .set("max.poll.interval.ms", "600000")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "64");
        self.with_properties(
            config,
            &[
                ("group.id", &self.requeue_group),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "earliest"),
                ("partition.assignment.strategy", "cooperative-sticky"),
            ],
        )
    }

    /// Reads without being a member: what `list` and `requeue` use. `group`: whose committed offsets are asked.
    pub(super) fn reader(&self, group: &str) -> ClientConfig {
        let mut config = self.base();
        config.set("queued.max.messages.kbytes", "4096").set("check.crcs", "true");
        self.with_properties(
            config,
            &[
                ("group.id", group),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("enable.partition.eof", "true"),
                ("auto.offset.reset", "earliest"),
            ],
        )
    }
}

/// A client that asks and is no member; what librdkafka's default tells the log (each attempt to connect, as an error) it keeps quiet.
pub(super) type Reader = BaseConsumer<Context>;

/// What librdkafka tells outside of calls. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Context(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    last_error: Mutex<String>,
    rebalances: Mutex<Vec<Moved>>,
}

/// A change of what this consumer owns.
#[derive(Debug)]
pub(super) enum Moved {
    Assigned(Vec<(String, i32)>),
    Revoked(Vec<(String, i32)>),
}

impl Context {
    pub(super) fn last_error(&self) -> String {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn moved(&self) -> Vec<Moved> {
        std::mem::take(&mut *self.0.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::debug!(fac, message, "librdkafka"),
            _ => tracing::trace!(fac, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client reports");
        reason.clone_into(&mut self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConsumerContext for Context {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let places = |list: &rdkafka::TopicPartitionList| {
            list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect()
        };
        let moved = match rebalance {
            Rebalance::Assign(list) => Moved::Assigned(places(list)),
            Rebalance::Revoke(list) => Moved::Revoked(places(list)),
            Rebalance::Error(error) => {
                tracing::warn!(%error, "kafka rebalance failed");
                return;
            }
        };
        tracing::debug!(?moved, "kafka partitions");
        self.0.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(moved);
    }
}

/// Somebody has to act, or waiting heals it.
pub(super) fn refused(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::InvalidTopic
                | Code::InvalidRecord
                | Code::PolicyViolation
        )
    )
}

/// The group has gone on without this member.
fn overtaken(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::RebalanceInProgress
                | Code::FencedInstanceId
        )
    )
}

pub(super) fn enqueue_error(error: &KafkaError) -> EnqueueError {
    if refused(error) {
        EnqueueError::Refused(error.to_string())
    } else {
        EnqueueError::Unavailable(error.to_string())
    }
}

impl Settings {
    pub(super) fn error(&self, error: &KafkaError) -> RetryError {
        match error {
            // Its own words end with the value.
            KafkaError::ClientConfig(_, what, name, _) => RetryError::Refused(format!("{name}: {what}")),
            KafkaError::ClientCreation(_) => RetryError::Refused(error.to_string()),
            _ if overtaken(error) => RetryError::Overtaken,
            _ if refused(error) => RetryError::Refused(error.to_string()),
            _ => RetryError::Unreachable { brokers: self.brokers.clone(), detail: error.to_string() },
        }
    }
}

/// Creates what is missing of the topics, where that is allowed.
///
/// # Errors
/// The brokers can't be reached. A refusal is logged, with what to create, and is no error: somebody may create them later.
pub(super) async fn ensure_topics(settings: &Settings) -> KafkaResult<()> {
    let admin: AdminClient<Context> =
        settings.with_properties(settings.base(), &[]).create_with_context(Context::default())?;
    let admin = Arc::new(admin);
    let names: Vec<String> = settings.topics().map(str::to_owned).collect();
    let (brokers, missing) = unknown(&admin, names).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let replication = i32::try_from(brokers.clamp(1, 3)).unwrap_or(1);
    let kept: Vec<String> =
        missing.iter().map(|name| kept_of(settings, name).as_millis().to_string()).collect();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&kept)
        .map(|(name, kept)| {
            let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(replication));
            let topic = topic.set("retention.ms", kept).set("cleanup.policy", "delete");
            if replication == 3 { topic.set("min.insync.replicas", "2") } else { topic }
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let mut coming = Vec::new();
    for result in admin.create_topics(&topics, &options).await? {
        match result {
            Ok(topic) => {
                tracing::info!(topic, partitions = PARTITIONS, replication, "kafka topic created");
                coming.push(topic);
            }
            // By another daemon, just now.
            Err((topic, Code::TopicAlreadyExists)) => coming.push(topic),
            Err((topic, code)) => tracing::warn!(
                topic,
                %code,
                partitions = PARTITIONS,
                retention_ms = kept_of(settings, &topic).as_millis(),
                "kafka topic is missing and can't be created, create it by hand"
            ),
        }
    }
    // Who subscribes before the brokers name them is told of them with its next refresh only, half a minute later; if it leads the group,
    // nobody gets a partition until then.
    let until = Instant::now() + ANSWER;
    while !coming.is_empty() && Instant::now() < until {
        tokio::time::sleep(NAMED_PAUSE).await;
        coming = unknown(&admin, coming).await?.1;
    }
    Ok(())
}

/// How many brokers there are, and which of these topics they don't name.
async fn unknown(admin: &Arc<AdminClient<Context>>, names: Vec<String>) -> KafkaResult<(usize, Vec<String>)> {
    let admin = Arc::clone(admin);
    off_runtime(move || {
        let metadata = admin.inner().fetch_metadata(None, ANSWER)?;
        let named =
            |name: &String| metadata.topics().iter().any(|t| t.name() == name && !t.partitions().is_empty());
        Ok((metadata.brokers().len(), names.into_iter().filter(|name| !named(name)).collect()))
    })
    .await
}

/// How long a topic's records are to be kept.
pub(super) fn kept_of(settings: &Settings, topic: &str) -> Duration {
    if topic == settings.dead { DEAD_KEPT } else { RETRY_KEPT }
}

/// Runs a blocking call of librdkafka on a thread of its own, not on the runtime's: the runtime would wait for it when it ends.
pub(super) async fn off_runtime<T: Send + 'static>(
    call: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    let (done, answer) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("retry-kafka".into()).spawn(move || {
        let _ = done.send(call());
    });
    thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    answer.await.unwrap_or(Err(KafkaError::Canceled))
}
