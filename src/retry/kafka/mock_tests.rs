//! Errors that a real broker gives on no command, by librdkafka's mock cluster.
#![allow(clippy::unwrap_used)]

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::{
    super::{
        policy::tests::record,
        testing::{Script, until},
    },
    *,
};

const POLICY: RetryPolicy = RetryPolicy { delay: Duration::from_millis(300), attempts: 2 };

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("p.retry.10s", 4, 1).unwrap();
    mock.create_topic("p.dead", 4, 1).unwrap();
    mock
}

async fn queue(mock: &Mock, ack_wait: Duration) -> Arc<KafkaQueue> {
    let brokers = [mock.bootstrap_servers()];
    let quick =
        [("session.timeout.ms", "6000"), ("reconnect.backoff.max.ms", "200"), ("retry.backoff.ms", "50")];
    let quick = quick.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut queue = KafkaQueue::open(&brokers, "p", &quick, POLICY, Clock::system()).await.unwrap();
    Arc::get_mut(&mut queue.inner).unwrap().ack_wait = ack_wait;
    Arc::new(queue)
}

struct Running {
    script: Arc<Script>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), RetryError>>,
}

fn start(queue: &Arc<KafkaQueue>) -> Running {
    let (script, stop) = (Arc::new(Script::default()), CancellationToken::new());
    let task = tokio::spawn({
        let (queue, script, stop) = (Arc::clone(queue), Arc::clone(&script), stop.clone());
        async move { queue.run(script, stop).await }
    });
    Running { script, stop, task }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_pass_are_retried_and_a_broker_that_is_gone_is_said() {
    let mock = cluster();
    let queue = queue(&mock, Duration::from_secs(5)).await;
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        ],
    );
    queue.enqueue(vec![record("a"), record("b")]).await.unwrap();
    assert_eq!(queue.stats().produced, 2);

    mock.broker_down(1).unwrap();
    let before = Instant::now();
    let error = queue.enqueue(vec![record("c")]).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Unavailable(_)), "{error}");
    assert!(before.elapsed() < Duration::from_secs(8), "the wait is bounded");
    mock.broker_up(1).unwrap();
    let mut tries = 0;
    while let Err(error) = queue.enqueue(vec![record("c")]).await {
        tries += 1;
        assert!(tries < 4, "{error}");
    }
    // What the broker refuses for good is told apart.
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 4],
    );
    let error = queue.enqueue(vec![record("d")]).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumed_when_due_and_forwarded_through_errors() {
    let mock = cluster();
    let queue = queue(&mock, Duration::from_secs(5)).await;
    let clock = Clock::system();
    // Two clocks round differently.
    let before = clock.now_ms() - 2;
    let mut records: Vec<_> = (0..500).map(|n| record(&format!("k{n}"))).collect();
    records.push(record("bad"));
    queue.enqueue(records).await.unwrap();
    let run = start(&queue);
    until("all but one done", || queue.stats().acked == 500).await;
    assert!(clock.now_ms() >= before + 300, "early");
    until("one dead", || queue.stats().dead == 1).await;
    let stats = queue.stats();
    assert_eq!((stats.produced, stats.forwarded, stats.poison), (501, 1, 0));
    until("no lag", || queue.stats().pending == Some(0) && queue.stats().oldest_age.is_none()).await;
    run.end().await;
    // Its offsets were committed when it left: nothing comes again.
    let again = start(&queue);
    queue.enqueue(vec![record("last")]).await.unwrap();
    until("the last", || again.script.count("last") == 1).await;
    assert_eq!(again.script.calls.lock().unwrap().len(), 1);
    again.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forward_that_is_not_acknowledged_leaves_the_record_in_place() {
    let mock = cluster();
    let queue = queue(&mock, Duration::from_secs(3)).await;
    queue.enqueue(vec![record("bad")]).await.unwrap();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1],
    );
    let run = start(&queue);
    until("dead after all", || queue.stats().dead == 1).await;
    // The first forward failed, so its attempt was made twice.
    let attempts: Vec<u32> = run.script.calls.lock().unwrap().iter().map(|call| call.1).collect();
    assert_eq!(attempts, [0, 0, 1]);
    run.end().await;
}
