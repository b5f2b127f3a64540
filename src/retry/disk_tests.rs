#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use super::{
    super::{
        Filter, Op, Queue,
        policy::tests::record,
        testing::{Script, until},
    },
    *,
};

const DELAY: Duration = Duration::from_millis(150);
const POLICY: RetryPolicy = RetryPolicy::one(DELAY, 3);

struct Running {
    queue: Arc<Queue>,
    script: Arc<Script>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), RetryError>>,
}

async fn start(folder: &Path) -> Running {
    let queue = Arc::new(Queue::Disk(DiskQueue::open(folder, POLICY, Clock::system()).await.unwrap()));
    let (script, stop) = (Arc::new(Script::default()), CancellationToken::new());
    let task = tokio::spawn({
        let (queue, script, stop) = (Arc::clone(&queue), Arc::clone(&script), stop.clone());
        async move { queue.run(script, stop).await }
    });
    Running { queue, script, stop, task }
}

/// What waits.
async fn all(queue: &DiskQueue) -> Vec<Listed> {
    queue.find(Which::Pending, Filter::default().matcher(0).unwrap(), usize::MAX).await.unwrap()
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        Arc::into_inner(self.queue).unwrap().close().await;
    }
}

#[tokio::test]
async fn retried_when_due_and_removed_when_done() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path()).await;
    let clock = Clock::system();
    // Two clocks round differently.
    let before = clock.now_ms() - 2;
    let records = (0..1500).map(|n| record(&format!("k{n}"))).collect();
    run.queue.enqueue(records).await.unwrap();
    assert_eq!(run.queue.stats().produced, 1500);
    until("all done", || run.queue.stats().acked == 1500).await;
    assert!(clock.now_ms() >= before + millis(DELAY), "early");
    let stats = run.queue.stats();
    assert_eq!((stats.pending, stats.oldest_age, stats.dead), (Some(0), None, 0));
    assert_eq!(run.script.calls.lock().unwrap().len(), 1500);
    assert!(
        run.script
            .calls
            .lock()
            .unwrap()
            .iter()
            .all(|(_, attempt, at)| *attempt == 0 && *at >= before + millis(DELAY))
    );
    run.end().await;
}

#[tokio::test]
async fn attempts_then_a_dead_letter_then_requeue() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path()).await;
    run.queue.enqueue(vec![record("bad"), record("good")]).await.unwrap();
    until("dead", || run.queue.stats().dead == 1).await;
    let times: Vec<_> =
        run.script.calls.lock().unwrap().iter().filter(|(k, _, _)| k == "bad").cloned().collect();
    assert_eq!(times.iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(times.windows(2).all(|pair| pair[1].2 >= pair[0].2 + millis(DELAY)), "{times:?}");
    let stats = run.queue.stats();
    assert_eq!((stats.forwarded, stats.acked, stats.pending), (2, 1, Some(0)));
    let letters = run.queue.list(Which::Dead, 10).await.unwrap();
    let letter = letters[0].record.clone().unwrap();
    assert_eq!((letters.len(), letter.attempt, letter.error_code.as_str()), (1, 3, "WRONGTYPE"));
    assert!(letter.first_failed_ms > 0);

    let other = Filter { target: Some("other".into()), ..Filter::default() };
    let none = Swept { letters: 0, more: false };
    assert_eq!(run.queue.requeue(&other, 10).await.unwrap(), none);
    let one = Swept { letters: 1, more: false };
    assert_eq!(run.queue.requeue(&Filter::default(), 10).await.unwrap(), one);
    let again = run.queue.list(Which::Pending, 10).await.unwrap()[0].record.clone().unwrap();
    assert_eq!((again.attempt, again.first_failed_ms), (0, letter.first_failed_ms));
    until("dead again", || run.queue.stats().dead == 2).await;
    run.end().await;
}

#[tokio::test]
async fn a_target_that_is_down_uses_up_no_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path()).await;
    run.script.down.store(true, Ordering::Release);
    run.queue.enqueue(vec![record("k"), record("soon")]).await.unwrap();
    until("the consumer waits for the target", || run.script.asked.load(Ordering::Acquire)).await;
    assert_eq!(run.queue.stats().pending, Some(2));
    run.script.down.store(false, Ordering::Release);
    run.script.up.notify_waiters();
    until("k is done", || run.queue.stats().acked == 1).await;
    // Not visible: asked again, and once it has waited for a whole delay it is filed again, with no attempt used.
    until("soon is forwarded", || run.queue.stats().forwarded == 1).await;
    run.script.visible.store(true, Ordering::Release);
    until("soon is done", || run.queue.stats().acked == 2).await;
    assert!(run.script.count("soon") > 2);
    assert!(run.script.calls.lock().unwrap().iter().all(|(_, attempt, _)| *attempt == 0));
    run.end().await;
}

#[tokio::test]
async fn one_targets_outage_and_long_work_hold_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path()).await;
    run.script.down.store(true, Ordering::Release);
    // More than one batch of the target that is down, due before the rest.
    run.queue.enqueue((0..2 * BATCH).map(|n| record(&format!("k{n}"))).collect()).await.unwrap();
    until("the consumer waits for the target", || run.script.asked.load(Ordering::Acquire)).await;
    let of_other = |key: &str, op| Record { target: "other".into(), op, ..record(key) };
    run.queue.enqueue(vec![of_other("stuck", Op::Prefix), of_other("o", Op::Unlink)]).await.unwrap();
    until("the long work has begun", || run.script.stuck.load(Ordering::Acquire)).await;
    until("the other's key is removed", || run.script.count("o") == 1).await;
    until("its removal is acknowledged", || run.queue.owed("other").records == 1).await;
    let owed = run.queue.owed("main");
    assert_eq!((owed.records, owed.exact, owed.is_nothing()), (2 * BATCH as u64, true, false));
    assert!(owed.oldest.is_some());
    assert!(run.queue.owed("nobody").is_nothing());
    run.script.down.store(false, Ordering::Release);
    run.script.up.notify_waiters();
    until("all are removed", || run.queue.owed("main").is_nothing()).await;
    assert_eq!(run.queue.stats().pending, Some(1));
    // The long work doesn't keep the queue from ending.
    run.stop.cancel();
    run.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn tiers_letters_and_drops() {
    let dir = tempfile::tempdir().unwrap();
    let second = crate::config::Tier { delay: Duration::from_millis(400), attempts: 1 };
    let policy = RetryPolicy { second: Some(second), ..RetryPolicy::one(DELAY, 2) };
    let queue = Arc::new(Queue::Disk(DiskQueue::open(dir.path(), policy, Clock::system()).await.unwrap()));
    let (script, stop) = (Arc::new(Script::default()), CancellationToken::new());
    let task = tokio::spawn({
        let (queue, script, stop) = (Arc::clone(&queue), Arc::clone(&script), stop.clone());
        async move { queue.run(script, stop).await }
    });
    queue.enqueue(vec![record("bad1"), record("bad2")]).await.unwrap();
    until("dead", || queue.stats().dead == 2).await;
    let calls: Vec<_> =
        script.calls.lock().unwrap().iter().filter(|(k, _, _)| k == "bad1").cloned().collect();
    assert_eq!(calls.iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(calls[1].2 >= calls[0].2 + millis(DELAY) && calls[2].2 >= calls[1].2 + 400, "{calls:?}");
    let row = Record {
        target: String::new(),
        key: Vec::new(),
        op: Op::Row { table: "shop.products".into() },
        ..record("")
    };
    queue.bury(row, "a key is longer than 4096 bytes".into()).await.unwrap();
    assert_eq!((queue.stats().letters, queue.stats().dead), (Some(3), 3));
    stop.cancel();
    task.await.unwrap().unwrap();
    Arc::into_inner(queue).unwrap().close().await;

    // As many after a restart.
    let queue = Queue::Disk(DiskQueue::open(dir.path(), policy, Clock::system()).await.unwrap());
    assert_eq!((queue.stats().letters, queue.stats().dead), (Some(3), 0));
    let by_glob = Filter { key_glob: Some("*2".into()), ..Filter::default() };
    assert_eq!(queue.find(Which::Dead, &by_glob, 10).await.unwrap().len(), 1);
    assert_eq!(queue.drop_letters(&by_glob, 10).await.unwrap(), Swept { letters: 1, more: false });
    // A row can't be tried again; a limit is kept.
    assert_eq!(queue.requeue(&Filter::default(), 1).await.unwrap(), Swept { letters: 1, more: true });
    assert_eq!(queue.requeue(&Filter::default(), 1).await.unwrap(), Swept { letters: 0, more: false });
    assert_eq!((queue.stats().letters, queue.stats().pending), (Some(1), Some(1)));
    assert_eq!(queue.drop_letters(&Filter::default(), 10).await.unwrap().letters, 1);
    let pending = queue.list(Which::Pending, 10).await.unwrap();
    assert_eq!(pending[0].record.as_ref().unwrap().attempt, 0, "the first tier again");
    queue.close().await;
}

#[tokio::test]
async fn concurrent_callers_share_commits_and_all_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Arc::new(DiskQueue::open(dir.path(), POLICY, Clock::system()).await.unwrap());
    let callers: Vec<_> = (0..64)
        .map(|n| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                queue.enqueue((0..10).map(|m| record(&format!("{n}-{m}"))).collect()).await
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    Arc::into_inner(queue).unwrap().close().await;
    let queue = DiskQueue::open(dir.path(), POLICY, Clock::system()).await.unwrap();
    assert_eq!(queue.stats().pending, Some(640));
    assert!(queue.stats().oldest_age.is_some());
}

#[tokio::test]
async fn what_can_not_be_decoded_becomes_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    store.commit(&[Change::Add(Record { first_failed_ms: 1, ..record("poison") })]).unwrap();
    let shelf = store.shelves().first().unwrap().clone();
    let page = store.due(&shelf, 10, 1, &HashSet::new()).unwrap();
    drop(store);
    // A byte of the record changes behind the store's back.
    let db = redb::Database::open(dir.path().join("queue.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    let place = page.due[0].0.clone();
    txn.open_table(shelf.pending()).unwrap().insert(place.key(), b"\x09rubbish".as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);

    let run = start(dir.path()).await;
    until("buried", || run.queue.stats().poison == 1).await;
    let stats = run.queue.stats();
    assert_eq!((stats.dead, stats.pending, stats.oldest_age), (1, Some(0), None));
    assert_eq!(run.queue.list(Which::Dead, 10).await.unwrap()[0].raw, b"\x09rubbish");
    assert_eq!(run.queue.requeue(&Filter::default(), 10).await.unwrap().letters, 0);
    assert_eq!(run.queue.stats().letters, Some(1));
    let by_id = Filter { ids: vec![place.seq.to_string()], ..Filter::default() };
    assert_eq!(run.queue.drop_letters(&by_id, 10).await.unwrap().letters, 1);
    assert_eq!(run.queue.stats().letters, Some(0));
    run.end().await;
}

#[tokio::test]
async fn only_one_consumer() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path()).await;
    let second = async || run.queue.run(Arc::new(Script::default()), CancellationToken::new()).await;
    // The first one may not have begun yet.
    run.queue.enqueue(vec![record("k")]).await.unwrap();
    until("it runs", || run.queue.stats().acked == 1).await;
    assert!(matches!(second().await, Err(RetryError::AlreadyRunning)));
    run.end().await;
}

/// The child half of the next test: writes until it is killed, and says what was acknowledged.
#[tokio::test]
async fn child_writes_until_killed() {
    let Some(folder) = std::env::var_os("ROWBUST_TEST_RETRY_FOLDER") else { return };
    let queue = DiskQueue::open(Path::new(&folder), POLICY, Clock::system()).await.unwrap();
    for n in 0_u64.. {
        queue.enqueue(vec![record(&n.to_string())]).await.unwrap();
        eprintln!("acked {n}");
    }
}

/// The child half of the next test: the largest file is bounded, as by a full disk, until it is not.
#[tokio::test]
async fn child_fills_the_disk() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Some(folder) = std::env::var_os("ROWBUST_TEST_RETRY_FULL") else { return };
    let queue = DiskQueue::open(Path::new(&folder), POLICY, Clock::system()).await.unwrap();
    let mut acked = 0;
    loop {
        let records = (0..1000).map(|n| record(&format!("{acked}-{n}"))).collect();
        match queue.enqueue(records).await {
            Ok(()) => acked += 1,
            Err(EnqueueError::Unavailable(_)) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(acked < 1000, "the disk doesn't fill");
    }
    assert!(acked > 0, "void: nothing fitted");
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, most, most).unwrap();
    // It heals by itself, and all that was acknowledged is there.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = queue.enqueue(vec![record("after")]).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pending = all(&queue).await;
    let keys: HashSet<Vec<u8>> = pending.into_iter().filter_map(|line| Some(line.record?.key)).collect();
    for batch in 0..acked {
        for n in 0..1000 {
            assert!(keys.contains(format!("{batch}-{n}").as_bytes()), "{batch}-{n} is lost");
        }
    }
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    // Of 512 bytes; the signal that comes with the error would end the process.
    let script = "trap '' XFSZ; ulimit -S -f 8192; exec \"$0\" \"$@\"";
    let out = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "retry::disk::tests::child_fills_the_disk", "--nocapture"])
        .env("ROWBUST_TEST_RETRY_FULL", dir.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    // How many each round acknowledged: the first ones of the same keys.
    let mut rounds = Vec::new();
    for round in 0..5 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "retry::disk::tests::child_writes_until_killed", "--nocapture"])
            .env("ROWBUST_TEST_RETRY_FOLDER", dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let acked = lines
            .by_ref()
            .map(|line| line.unwrap())
            .filter(|line| line.starts_with("acked"))
            .take(20)
            .count();
        assert_eq!(acked, 20);
        child.kill().unwrap();
        // What it still said before it died counts too.
        let rest = lines.filter(|line| line.as_ref().is_ok_and(|line| line.starts_with("acked"))).count();
        child.wait().unwrap();
        let queue = DiskQueue::open(dir.path(), POLICY, Clock::system()).await.unwrap();
        let keys = all(&queue).await;
        rounds.push(20 + rest);
        for n in 0..(20 + rest) {
            let key = n.to_string().into_bytes();
            let found = keys.iter().filter(|line| line.record.as_ref().is_some_and(|r| r.key == key)).count();
            let acked = rounds.iter().filter(|acked| **acked > n).count();
            assert!(found >= acked, "record {n} is lost by round {round}: {found} of {acked}");
        }
        queue.close().await;
    }
}
