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

const POLICY: RetryPolicy = RetryPolicy::one(Duration::from_millis(300), 2);

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("p.retry.10s", 4, 1).unwrap();
    mock.create_topic("p.retry.5m", 4, 1).unwrap();
    mock.create_topic("p.dead", 4, 1).unwrap();
    mock
}

async fn queue(mock: &Mock, ack_wait: Duration) -> Arc<KafkaQueue> {
    let brokers = [mock.bootstrap_servers()];
    let quick =
        [("session.timeout.ms", "6000"), ("reconnect.backoff.max.ms", "200"), ("retry.backoff.ms", "50")];
    let quick = quick.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec().into();
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

/// A mark in Redis says that nothing is owed: what was acknowledged a moment ago must be counted, whatever the count of the topics knew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_pending_at_once() {
    let mock = cluster();
    let queue = queue(&mock, Duration::from_secs(5)).await;
    assert_eq!(queue.stats().pending, None, "not counted yet");
    // Counted before the record was there; the answer comes behind it.
    let counted = Count { filed: queue.inner.filed.load(Ordering::Acquire), ranges: BTreeMap::new() };
    queue.enqueue(vec![record("a")]).await.unwrap();
    *queue.inner.count.lock().unwrap() = Some(counted);
    assert_eq!(queue.stats().pending, Some(1));
    let run = start(&queue);
    until("nothing is owed", || queue.stats().acked == 1 && queue.stats().pending == Some(0)).await;
    run.end().await;
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

/// Every error of a produce request that says what is wrong on the broker's side, and whether somebody has to act.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_brokers_refuse_is_told_from_what_passes() {
    use RDKafkaRespErr as E;
    let mock = cluster();
    let queue = queue(&mock, Duration::from_millis(1500)).await;
    queue.enqueue(vec![record("connected")]).await.unwrap();
    let mut produced = 1;
    for (error, refused) in [
        (E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, true),
        (E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, true),
        (E::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, true),
        (E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, false),
        (E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, false),
        (E::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, false),
    ] {
        mock.request_errors(RDKafkaApiKey::Produce, &[error; 64]);
        let outcome = queue.enqueue(vec![record("k")]).await;
        mock.clear_request_errors(RDKafkaApiKey::Produce);
        match (outcome, refused) {
            (Err(EnqueueError::Refused(_)), true) | (Err(EnqueueError::Unavailable(_)), false) => {}
            (outcome, _) => panic!("{error:?}: {outcome:?}"),
        }
        // Held by the caller, who tries again: it heals by itself, also where the producer had to be made anew.
        let mut tries = 0;
        while let Err(again) = queue.enqueue(vec![record("k")]).await {
            tries += 1;
            assert!(tries < 100, "{error:?}: {again}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        produced += 1;
        assert_eq!(queue.stats().produced, produced, "{error:?}: what failed is not counted");
    }
}

/// The largest record that rowbust can make is far below what a broker takes by default.
#[test]
fn no_record_is_too_large() {
    let long = rowbust_protocol::template::MAX_KEY_BYTES;
    let text = |n| "x".repeat(n);
    // A GTID set of a batch's commits is the only part without a bound of its own: 512 single ones.
    let origin = super::super::Origin { gtid: text(512 * 60), source: text(200), ..record("").origin };
    let op = super::super::Op::Hdel { field: vec![0xff; long] };
    let largest = Record { key: vec![0xff; long], op, origin, target: text(200), ..record("") };
    let message = message::encode(&largest);
    let headers: usize = rdkafka::message::Headers::iter(&message.headers)
        .map(|h| h.key.len() + h.value.map_or(0, <[u8]>::len))
        .sum();
    let size = message.key.unwrap().len() + message.value.unwrap().len() + headers;
    assert!(size < 500_000, "{size} bytes, of 1,000,000 (message.max.bytes)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down_holds_up_no_other_and_its_backlog_is_parked_once() {
    let mock = cluster();
    let mut queue = queue(&mock, Duration::from_secs(5)).await;
    let inner = Arc::get_mut(&mut Arc::get_mut(&mut queue).unwrap().inner).unwrap();
    inner.parked_for = Duration::from_secs(600);
    let run = start(&queue);
    run.script.down.store(true, Ordering::Release);
    // Far more than may be read ahead of 4 partitions.
    let backlog: u64 = 8000;
    for chunk in 0..backlog / 500 {
        let records = (0..500).map(|n| record(&format!("k{}", chunk * 500 + n))).collect();
        queue.enqueue(records).await.unwrap();
    }
    until("the target is waited for", || run.script.asked.load(Ordering::Acquire)).await;
    let other = |key: &str| Record { target: "other".into(), ..record(key) };
    queue.enqueue((0..20).map(|n| other(&format!("o{n}"))).collect()).await.unwrap();
    until("the other's are removed", || queue.stats().acked == 20).await;
    let parked = queue.stats().parked;
    assert!(parked > 0, "void: nothing had to give way");
    assert!(queue.owed("main").records >= backlog, "{:?}", queue.owed("main"));
    assert!(!queue.owed("main").is_nothing());
    // Nothing is written again and again.
    until("what may be parked is", || {
        let before = queue.stats().parked;
        std::thread::sleep(Duration::from_millis(1500));
        queue.stats().parked == before
    })
    .await;
    assert!(queue.stats().parked <= backlog, "{} parked", queue.stats().parked);
    run.script.down.store(false, Ordering::Release);
    run.script.up.notify_waiters();
    until("all are removed", || queue.stats().acked >= backlog + 20).await;
    until("nothing is owed", || queue.owed("main").is_nothing() && queue.stats().pending == Some(0)).await;
    let calls = run.script.calls.lock().unwrap().clone();
    assert!(calls.iter().all(|call| call.1 == 0), "no attempt was used up");
    run.end().await;
}
