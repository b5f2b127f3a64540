//! The retry queue on a real Kafka broker.
#![allow(clippy::unwrap_used)]

use std::{
    future::Future,
    io::{BufRead, BufReader},
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use rowbust::{
    config::{Retry, RetryPolicy},
    retry::{EnqueueError, Filter, Handler, Op, Origin, Queue, Record, RetryError, Verdict, Which},
};
use rowbust_servers::{Kafka, Need, StartOptions, require};
use tokio_util::sync::CancellationToken;

const DELAY: Duration = Duration::from_secs(1);

fn config(brokers: &str, attempts: u32) -> Retry {
    // A killed member's partitions are free after the session's timeout: 45 s by default.
    let quick = [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "1000"),
        ("reconnect.backoff.max.ms", "500"),
    ];
    Retry::Kafka {
        brokers: vec![brokers.to_owned()],
        prefix: "shop".into(),
        properties: quick.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        policy: RetryPolicy { delay: DELAY, attempts },
    }
}

fn record(key: &str) -> Record {
    Record {
        target: "main".into(),
        key: key.into(),
        op: Op::Unlink,
        origin: Origin {
            source: "8c1f".into(),
            gtid: "8c1f:7".into(),
            file: "binlog.000002".into(),
            position: 1234,
            row: 3,
            commit_time: 1_700_000_000,
            epoch: 1,
            visible_file: "binlog.000002".into(),
            visible_position: 2345,
        },
        when_visible: true,
        fill_grace_ms: 1000,
        attempt: 0,
        not_before_ms: 0,
        first_failed_ms: 0,
        error_code: "IO".into(),
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Keys that begin with `bad` are refused; while `down`, so is everything.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<(String, u32, u64)>>,
    down: AtomicBool,
    up: tokio::sync::Notify,
    good_now: AtomicBool,
}

impl Script {
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .map(|call| call.0.clone())
            .filter(|key| key.starts_with(prefix))
            .collect()
    }
}

impl Handler for Script {
    fn remove<'a>(
        &'a self,
        records: &'a [Record],
    ) -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>> {
        Box::pin(async move {
            let verdict = |record: &Record| {
                let key = String::from_utf8(record.key.clone()).unwrap();
                assert!(now_ms() + 50 >= record.not_before_ms, "{key} is early");
                if self.down.load(Ordering::Acquire) {
                    return Verdict::TargetError("LOADING".into());
                }
                let bad = key.starts_with("bad") && !self.good_now.load(Ordering::Acquire);
                self.calls.lock().unwrap().push((key, record.attempt, record.not_before_ms));
                if bad { Verdict::KeyError("WRONGTYPE Operation".into()) } else { Verdict::Done }
            };
            records.iter().map(verdict).collect()
        })
    }

    fn ready<'a>(&'a self, _target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            while self.down.load(Ordering::Acquire) {
                self.up.notified().await;
            }
        })
    }

    fn targets(&self) -> Vec<String> {
        vec!["main".into()]
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Running {
    queue: Arc<Queue>,
    script: Arc<Script>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), RetryError>>,
}

async fn start(brokers: &str, attempts: u32) -> Running {
    let queue = Arc::new(Queue::open(&config(brokers, attempts)).await.unwrap());
    let (script, stop) = (Arc::new(Script::default()), CancellationToken::new());
    let task = tokio::spawn({
        let (queue, script, stop) = (Arc::clone(&queue), Arc::clone(&script), stop.clone());
        async move { queue.run(script, stop).await }
    });
    Running { queue, script, stop, task }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        Arc::into_inner(self.queue).unwrap().close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_buried_listed_and_requeued() {
    let Some(_) = require(&[Need::Kafka]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let kafka = Kafka::start(StartOptions::new(dir.path())).unwrap();
    let brokers = kafka.brokers();
    let run = start(&brokers, 2).await;

    // The topics are created by the consumer; what is enqueued meanwhile waits for them.
    let mut records: Vec<_> = (0..2000).map(|n| record(&format!("k{n}"))).collect();
    records.extend([
        record("bad1"),
        record("bad2"),
        Record { op: Op::Hdel { field: vec![0xff, 1] }, ..record("badfield") },
    ]);
    run.queue.enqueue(records).await.unwrap();
    until("2000 removed", || run.queue.stats().acked == 2000).await;
    until("3 dead", || run.queue.stats().dead == 3).await;
    let mut keys = run.script.keys("k");
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2000);

    // A stranger's message: to the dead letters as it is.
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let headers = OwnedHeaders::new().insert(Header { key: "other", value: Some("x") });
    let poison = FutureRecord::to("shop.retry.10s").key("who").payload("\x00what").headers(headers);
    producer.send(poison, Duration::from_secs(10)).await.unwrap();
    until("poison buried", || run.queue.stats().poison == 1).await;
    until("nothing pending", || run.queue.stats().pending == Some(0)).await;

    let letters = run.queue.list(Which::Dead, 100).await.unwrap();
    assert_eq!(letters.len(), 4);
    let poison = letters.iter().find(|letter| letter.record.is_none()).unwrap();
    assert_eq!(poison.raw, b"who \x00what");
    assert!(poison.reason.contains("rowbust-schema"), "{}", poison.reason);
    assert_eq!(poison.original.as_ref().unwrap().0, "shop.retry.10s");
    let field = letters
        .iter()
        .filter_map(|letter| letter.record.as_ref())
        .find(|record| record.op.field().is_some())
        .unwrap();
    assert_eq!((field.op.field(), field.attempt), (Some([0xff, 1].as_slice()), 2));
    assert_eq!(field.origin, record("").origin);
    assert_eq!(run.queue.list(Which::Dead, 2).await.unwrap().len(), 2);
    assert!(
        run.queue.list(Which::Pending, 10).await.unwrap().is_empty() || run.queue.stats().pending == Some(0)
    );

    // Only what the filter means comes back, once; the others stay, whatever their place.
    run.script.good_now.store(true, Ordering::Release);
    let only = Filter { key_prefix: Some(b"bad2".to_vec()), ..Filter::default() };
    assert_eq!(run.queue.requeue(only.clone()).await.unwrap(), 1);
    assert_eq!(run.queue.requeue(only).await.unwrap(), 0);
    until("bad2 removed", || run.queue.stats().acked == 2001).await;
    assert_eq!(run.queue.list(Which::Dead, 100).await.unwrap().len(), 3);
    assert_eq!(run.queue.requeue(Filter::default()).await.unwrap(), 2);
    until("all removed", || run.queue.stats().acked == 2003).await;
    let calls = run.script.calls.lock().unwrap().clone();
    let bad1: Vec<u32> = calls.iter().filter(|call| call.0 == "bad1").map(|call| call.1).collect();
    assert_eq!(bad1, [0, 1, 0], "attempts begin anew");
    let left = run.queue.list(Which::Dead, 100).await.unwrap();
    assert!(left.len() == 1 && left[0].record.is_none(), "the poison stays");
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_is_said_and_heals() {
    let Some(_) = require(&[Need::Kafka]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let kafka = Kafka::start(StartOptions::new(dir.path())).unwrap();
    let run = start(&kafka.brokers(), 5).await;
    run.queue.enqueue(vec![record("before")]).await.unwrap();
    until("before", || run.queue.stats().acked == 1).await;

    // The target is down: records wait without using up attempts, through a restart of the broker.
    run.script.down.store(true, Ordering::Release);
    run.queue.enqueue((0..50).map(|n| record(&format!("held{n}"))).collect()).await.unwrap();
    until("they are pending", || run.queue.stats().pending == Some(50)).await;
    kafka.stop().unwrap();
    let began = Instant::now();
    let error = run.queue.enqueue(vec![record("lost?")]).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Unavailable(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "bounded");
    assert!(matches!(run.queue.list(Which::Dead, 1).await, Err(RetryError::Unreachable { .. })));
    kafka.start_again().unwrap();
    // The caller holds and tries again.
    let mut tries = 0;
    while let Err(error) = run.queue.enqueue(vec![record("held-too")]).await {
        tries += 1;
        assert!(tries < 5, "{error}");
    }
    run.script.down.store(false, Ordering::Release);
    run.script.up.notify_waiters();
    until("all removed", || {
        let mut keys = run.script.keys("held");
        keys.sort();
        keys.dedup();
        keys.len() == 51
    })
    .await;
    assert!(run.script.calls.lock().unwrap().iter().all(|call| call.1 == 0), "no attempt was used up");
    assert_eq!(run.queue.stats().dead, 0);
    run.end().await;
}

/// Removes, says so, and never comes to store the offset.
struct Stuck;

impl Handler for Stuck {
    fn remove<'a>(
        &'a self,
        records: &'a [Record],
    ) -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>> {
        Box::pin(async move {
            for record in records {
                eprintln!("removed {}", record.key.escape_ascii());
            }
            std::future::pending().await
        })
    }

    fn ready<'a>(&'a self, _target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }

    fn targets(&self) -> Vec<String> {
        vec!["main".into()]
    }
}

/// The child half of the next test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_consumes_until_killed() {
    let Ok(brokers) = std::env::var("ROWBUST_TEST_RETRY_BROKERS") else { return };
    let queue = Queue::open(&config(&brokers, 5)).await.unwrap();
    queue.enqueue(vec![record("a"), record("b")]).await.unwrap();
    eprintln!("acked");
    queue.run(Arc::new(Stuck), CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_removal_and_offset_the_record_comes_again() {
    let Some(_) = require(&[Need::Kafka]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let kafka = Kafka::start(StartOptions::new(dir.path())).unwrap();
    let brokers = kafka.brokers();
    // Creates the topics.
    start(&brokers, 5).await.end_when_subscribed().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_consumes_until_killed", "--nocapture"])
        .env("ROWBUST_TEST_RETRY_BROKERS", &brokers)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let removed = lines.map(|line| line.unwrap()).any(|line| line.starts_with("removed"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(removed, "the child ended before it removed anything");

    let run = start(&brokers, 5).await;
    until("both come again", || run.queue.stats().acked == 2).await;
    let mut keys = run.script.keys("");
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    assert!(run.script.calls.lock().unwrap().iter().all(|call| call.1 == 0));
    run.end().await;
}

impl Running {
    async fn end_when_subscribed(self) {
        self.queue.enqueue(vec![record("first")]).await.unwrap();
        until("first", || self.queue.stats().acked == 1).await;
        self.end().await;
    }
}
