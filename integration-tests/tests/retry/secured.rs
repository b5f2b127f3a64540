//! The retry queue on a Kafka broker that asks for a login, over TLS, and gives no right that wasn't granted.
#![allow(clippy::unwrap_used)]

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use rowbust::{
    config::{Properties, Retry, RetryPolicy},
    retry::{EnqueueError, Handler, Queue, Record, RetryError, Stats, Verdict, Which, kafka},
};
use rowbust_integration_tests::broker::{Broker, PASSWORD, TOPIC_RIGHTS};
use rowbust_integration_tests::queue::record;
use rowbust_servers::{Need, Resource, Right, require};
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(60);

struct Stage {
    broker: Broker,
}

impl Stage {
    fn properties(&self, user: &str, password: &str, mechanism: &str, ca: &str) -> Properties {
        let ca = self.broker.file(ca);
        let pairs = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
            ("ssl.ca.location", ca.to_str().unwrap()),
            ("session.timeout.ms", "6000"),
            ("reconnect.backoff.max.ms", "500"),
            ("topic.metadata.refresh.interval.ms", "1000"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec().into()
    }

    async fn queue(&self, properties: Properties) -> Arc<Queue> {
        let config = Retry::Kafka {
            brokers: vec![self.broker.kafka.brokers()],
            prefix: "shop".into(),
            properties,
            policy: RetryPolicy::one(Duration::from_millis(500), 2),
        };
        let queue = Queue::open(&config).await.unwrap();
        assert!(!format!("{config:?}{queue:?}").contains(PASSWORD), "a secret is shown");
        Arc::new(queue)
    }
}

struct Removes;

impl Handler for Removes {
    fn remove<'a>(
        &'a self,
        records: &'a [Record],
    ) -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>> {
        let verdict = |record: &Record| match record.key.starts_with(b"bad") {
            true => Verdict::KeyError("WRONGTYPE Operation".into()),
            false => Verdict::Done,
        };
        Box::pin(std::future::ready(records.iter().map(verdict).collect()))
    }

    fn ready<'a>(&'a self, _target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }

    fn targets(&self) -> Vec<String> {
        vec!["main".into()]
    }
}

/// What enqueues answer with until one answers so.
async fn enqueued_until(queue: &Queue, what: &str, is_it: impl Fn(&Result<(), EnqueueError>) -> bool) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let outcome = queue.enqueue(vec![record("k")]).await;
        if is_it(&outcome) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {outcome:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until(what: &str, queue: &Queue, condition: impl Fn(&Stats) -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition(&queue.stats()) {
        assert!(Instant::now() < deadline, "not in time: {what}: {:?}", queue.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_tls_and_rights() {
    let Some(_) = require(&[Need::Kafka]) else { return };
    super::log();
    let stage = Stage { broker: Broker::start(None).await.unwrap() };
    let kafka_server = &stage.broker.kafka;
    let brokers = [kafka_server.brokers()];
    let alice = |mechanism| stage.properties("alice", PASSWORD, mechanism, "ca.pem");
    let inspect = async |properties: Properties| kafka::inspect(&brokers, "shop", &properties).await;

    // Each login works, as far as it goes: nothing is granted, so no topic can be seen.
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let seen = inspect(alice(mechanism)).await.unwrap();
        assert_eq!((seen.brokers, seen.topics.len(), seen.is_good()), (1, 3, false), "{mechanism}");
        assert!(seen.topics.iter().all(|topic| !topic.exists), "{mechanism}: {seen:?}");
    }
    // A wrong password, and a broker whose certificate somebody else signed, are said.
    let wrong = inspect(stage.properties("alice", "guessed1", "SCRAM-SHA-512", "ca.pem")).await;
    let error = wrong.unwrap_err().to_string();
    assert!(!error.contains("guessed1"), "{error}");
    assert!(inspect(stage.properties("alice", PASSWORD, "PLAIN", "other.pem")).await.is_err());

    // Without rights: the daemon starts, says what is refused, and holds.
    let queue = stage.queue(alice("SCRAM-SHA-512")).await;
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (queue, stop) = (Arc::clone(&queue), stop.clone());
        async move { queue.run(Arc::new(Removes), stop).await }
    });
    enqueued_until(&queue, "it is refused", |outcome| matches!(outcome, Err(EnqueueError::Refused(_)))).await;
    assert_eq!(queue.stats().produced, 0);
    assert!(matches!(queue.list(Which::Dead, 1).await, Err(RetryError::Refused(_))));

    // Granted one by one, as documented; it recovers by itself. CREATE is on topics: the daemon makes them.
    let topics = ["shop.retry.10s", "shop.retry.5m", "shop.dead"];
    for topic in topics {
        kafka_server.allow("alice", Resource::Topic(topic), &TOPIC_RIGHTS).unwrap();
    }
    enqueued_until(&queue, "it takes removals", Result::is_ok).await;
    for group in ["shop.rowbust", "shop.rowbust.requeue"] {
        kafka_server.allow("alice", Resource::Group(group), &[Right::Read]).unwrap();
    }
    queue.enqueue(vec![record("bad")]).await.unwrap();
    until("removed", &queue, |stats| stats.acked > 0).await;
    // Twice where the removal's place in the topic wasn't committed before the group was built anew.
    until("a dead letter", &queue, |stats| stats.dead > 0 && stats.letters == Some(stats.dead)).await;
    let seen = inspect(alice("PLAIN")).await.unwrap();
    assert!(seen.is_good(), "{seen:#?}");
    assert!(seen.topics.iter().all(|topic| (topic.partitions, topic.replication) == (12, 1)), "{seen:#?}");
    let kept: Vec<_> = seen.topics.iter().map(|topic| topic.retention.unwrap()).collect();
    assert_eq!(kept, [kafka::RETRY_KEPT, kafka::RETRY_KEPT, kafka::DEAD_KEPT]);
    stop.cancel();
    task.await.unwrap().unwrap();

    // Another user sees nothing of it.
    let bob = inspect(stage.properties("bob", PASSWORD, "SCRAM-SHA-256", "ca.pem")).await.unwrap();
    assert!(!bob.is_good());
}
