//! The retry queue on a real Kafka broker, which the tests share.
#![allow(clippy::unwrap_used)]

use std::{
    future::Future,
    io::{BufRead, BufReader},
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
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
    config::{Properties, Retry, RetryPolicy, Tier},
    retry::{EnqueueError, Filter, Handler, Op, Queue, Record, RetryError, Swept, Verdict, Which, kafka},
};
use rowbust_integration_tests::queue::record;
use rowbust_servers::{Kafka, Need, StartOptions, require};
use tokio::sync::{Mutex as AsyncMutex, RwLock};
use tokio_util::sync::CancellationToken;

const DELAY: Duration = Duration::from_secs(1);

/// Held for reading by who needs the broker, for writing by who stops it.
static BROKER: RwLock<()> = RwLock::const_new(());

struct Broker {
    kafka: Kafka,
    _dir: tempfile::TempDir,
}

/// The broker of this process; it ends with the last test that uses it.
async fn broker() -> Option<Arc<Broker>> {
    static SHARED: AsyncMutex<Weak<Broker>> = AsyncMutex::const_new(Weak::new());
    require(&[Need::Kafka])?;
    let mut shared = SHARED.lock().await;
    if let Some(broker) = shared.upgrade() {
        return Some(broker);
    }
    let dir = tempfile::tempdir().unwrap();
    let options = StartOptions::new(dir.path());
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(options)).await.unwrap().unwrap();
    let broker = Arc::new(Broker { kafka, _dir: dir });
    *shared = Arc::downgrade(&broker);
    Some(broker)
}

/// `place`: the brokers, a slash, and the prefix of the test.
fn config(place: &str, policy: RetryPolicy) -> Retry {
    let (brokers, prefix) = place.split_once('/').unwrap();
    // A killed member's partitions are free after the session's timeout: 45 s by default.
    let quick = [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "1000"),
        ("reconnect.backoff.max.ms", "500"),
    ];
    Retry::Kafka {
        brokers: vec![brokers.to_owned()],
        prefix: prefix.into(),
        properties: quick.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec().into(),
        policy,
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Keys that begin with `bad` are refused, those that begin with `late` at their first attempt; while `down`, so is everything.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<(String, u32, u64)>>,
    down: AtomicBool,
    up: tokio::sync::Notify,
    good_now: AtomicBool,
}

impl Script {
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.of_attempt(0, prefix)
    }

    /// Those that were refused once.
    fn removed(&self, prefix: &str) -> Vec<String> {
        self.of_attempt(1, prefix)
    }

    /// From this attempt on.
    fn of_attempt(&self, least: u32, prefix: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let meant = calls.iter().filter(|call| call.1 >= least && call.0.starts_with(prefix));
        meant.map(|call| call.0.clone()).collect()
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
                let bad = (key.starts_with("bad") && !self.good_now.load(Ordering::Acquire))
                    || (key.starts_with("late") && record.attempt == 0);
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

async fn start(place: &str, attempts: u32) -> Running {
    start_with(place, RetryPolicy::one(DELAY, attempts)).await
}

async fn start_with(place: &str, policy: RetryPolicy) -> Running {
    super::log();
    let queue = Arc::new(Queue::open(&config(place, policy)).await.unwrap());
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
async fn removed_buried_listed_requeued_and_dropped() {
    let Some(broker) = broker().await else { return };
    let _up = BROKER.read().await;
    let brokers = broker.kafka.brokers();
    let run = start(&format!("{brokers}/shop"), 2).await;

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
    let only = Filter { key_prefix: Some("bad2".into()), ..Filter::default() };
    assert_eq!(run.queue.find(Which::Dead, &only, 10).await.unwrap().len(), 1);
    assert_eq!(run.queue.requeue(&only, 10).await.unwrap(), Swept { letters: 1, more: false });
    assert_eq!(run.queue.requeue(&only, 10).await.unwrap(), Swept { letters: 0, more: false });
    until("bad2 removed", || run.queue.stats().acked == 2001).await;
    until("3 letters are left", || run.queue.stats().letters == Some(3)).await;
    assert_eq!(run.queue.list(Which::Dead, 100).await.unwrap().len(), 3);
    // One at a time.
    assert_eq!(run.queue.requeue(&Filter::default(), 1).await.unwrap(), Swept { letters: 1, more: true });
    assert_eq!(run.queue.requeue(&Filter::default(), 1).await.unwrap(), Swept { letters: 1, more: false });
    until("all removed", || run.queue.stats().acked == 2003).await;
    let calls = run.script.calls.lock().unwrap().clone();
    let bad1: Vec<u32> = calls.iter().filter(|call| call.0 == "bad1").map(|call| call.1).collect();
    assert_eq!(bad1, [0, 1, 0], "attempts begin anew");
    let left = run.queue.list(Which::Dead, 100).await.unwrap();
    assert!(left.len() == 1 && left[0].record.is_none(), "the poison stays");
    // A row without a key is only a letter; dropped by its id, the other stays.
    let row = Record {
        target: String::new(),
        key: Vec::new(),
        op: Op::Row { table: "shop.p".into() },
        ..record("")
    };
    run.queue.bury(row, "no key".into()).await.unwrap();
    assert_eq!(run.queue.requeue(&Filter::default(), 10).await.unwrap().letters, 0);
    let letters = run.queue.list(Which::Dead, 10).await.unwrap();
    let row = letters.iter().find(|letter| letter.record.is_some()).unwrap();
    assert_eq!(row.record.as_ref().unwrap().op, Op::Row { table: "shop.p".into() });
    let by_id = Filter { ids: vec![row.id.clone()], ..Filter::default() };
    assert_eq!(run.queue.drop_letters(&by_id, 10).await.unwrap().letters, 1);
    let left = run.queue.list(Which::Dead, 10).await.unwrap();
    assert!(left.len() == 1 && left[0].record.is_none(), "{left:?}");
    assert_eq!(run.queue.drop_letters(&Filter::default(), 10).await.unwrap().letters, 1);
    until("none is left", || run.queue.stats().letters == Some(0)).await;
    until("nothing is owed", || run.queue.owed("main").is_nothing()).await;
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_or_freezes_is_said_and_heals() {
    let Some(broker) = broker().await else { return };
    let _alone = BROKER.write().await;
    let kafka = &broker.kafka;
    let run = start(&format!("{}/stopped", kafka.brokers()), 5).await;
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
    // Frozen, its connections stay open: said as well, in bounded time, and no thread hangs.
    kafka.freeze().unwrap();
    let began = Instant::now();
    let error = run.queue.enqueue(vec![record("lost?")]).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Unavailable(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "bounded");
    kafka.thaw().unwrap();
    let mut tries = 0;
    while let Err(error) = run.queue.enqueue(vec![record("held-three")]).await {
        tries += 1;
        assert!(tries < 5, "{error}");
    }
    run.script.down.store(false, Ordering::Release);
    run.script.up.notify_waiters();
    until("all removed", || {
        let mut keys = run.script.keys("held");
        keys.sort();
        keys.dedup();
        keys.len() == 52
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
    let Ok(place) = std::env::var("ROWBUST_TEST_RETRY_BROKERS") else { return };
    let queue = Queue::open(&config(&place, RetryPolicy::one(DELAY, 5))).await.unwrap();
    queue.enqueue(vec![record("a"), record("b")]).await.unwrap();
    eprintln!("acked");
    queue.run(Arc::new(Stuck), CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_removal_and_offset_the_record_comes_again() {
    let Some(broker) = broker().await else { return };
    let _up = BROKER.read().await;
    let brokers = format!("{}/killed", broker.kafka.brokers());
    // Creates the topics.
    start(&brokers, 5).await.end_when_subscribed().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kafka::child_consumes_until_killed", "--nocapture"])
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_the_work_and_one_that_leaves_loses_nothing() {
    let Some(broker) = broker().await else { return };
    let _up = BROKER.read().await;
    let place = format!("{}/shared", broker.kafka.brokers());
    // Each record passes both topics: partitions may be shared so that one consumer has all of the one and none of the other.
    let policy =
        RetryPolicy { second: Some(Tier { delay: DELAY, attempts: 5 }), ..RetryPolicy::one(DELAY, 1) };
    let (one, two) = (start_with(&place, policy).await, start_with(&place, policy).await);
    let mut sent = 0;
    let mut enqueue = async |queue: &Queue, n: usize| {
        let records = (sent..sent + n).map(|n| record(&format!("late{n}"))).collect();
        sent += n;
        queue.enqueue(records).await.unwrap();
    };
    // Until both have their share.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let both = [one.queue.stats(), two.queue.stats()];
        if both.iter().all(|stats| stats.acked + stats.forwarded > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "one of them gets nothing: {both:?}");
        enqueue(&one.queue, 200).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The second leaves while records are on their way.
    enqueue(&one.queue, 1000).await;
    let seen_by_two = {
        let script = Arc::clone(&two.script);
        two.end().await;
        script.removed("late")
    };
    enqueue(&one.queue, 1000).await;
    until("all are removed", || one.queue.stats().pending == Some(0) && one.queue.owed("main").is_nothing())
        .await;
    let mut keys = one.script.removed("late");
    keys.extend(seen_by_two);
    let calls = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), sent, "none is skipped; {calls} removals");
    assert_eq!(one.queue.stats().dead, 0);
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tiers_and_what_check_sees() {
    let Some(broker) = broker().await else { return };
    let _up = BROKER.read().await;
    let brokers = broker.kafka.brokers();
    let seen = kafka::inspect(std::slice::from_ref(&brokers), "tiers", &Properties::default()).await.unwrap();
    assert!(!seen.is_good() && seen.topics.iter().all(|topic| !topic.exists), "{seen:#?}");
    assert!(seen.topics[0].problems[0].contains("retention.ms=604800000"), "{seen:#?}");

    let second = Tier { delay: Duration::from_secs(2), attempts: 1 };
    let policy = RetryPolicy { second: Some(second), ..RetryPolicy::one(DELAY, 2) };
    let run = start_with(&format!("{brokers}/tiers"), policy).await;
    run.queue.enqueue(vec![record("bad"), record("good")]).await.unwrap();
    until("dead", || run.queue.stats().dead == 1).await;
    let calls = run.script.calls.lock().unwrap().clone();
    let bad: Vec<_> = calls.iter().filter(|call| call.0 == "bad").collect();
    assert_eq!(bad.iter().map(|call| call.1).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(bad[1].2 >= bad[0].2 + 1000 && bad[2].2 >= bad[1].2 + 2000, "{bad:?}");
    let letter = run.queue.list(Which::Dead, 1).await.unwrap().remove(0);
    assert_eq!(letter.original.unwrap().0, "tiers.retry.5m");
    let seen = kafka::inspect(&[brokers], "tiers", &Properties::default()).await.unwrap();
    assert!(seen.is_good(), "{seen:#?}");
    run.end().await;
}
