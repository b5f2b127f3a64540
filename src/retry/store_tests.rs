#![allow(clippy::unwrap_used)]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use redb::{StorageBackend, backends::FileBackend};

use super::{
    super::{
        Filter,
        policy::tests::{POLICY, record},
        tables::{OLD_AGE, OLD_PENDING},
    },
    *,
};

/// A disk that is full while the flag is set.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Fault(pub(in super::super) Arc<AtomicBool>);

impl Fault {
    pub(super) fn open(&self, file: &Path) -> io::Result<Faulty> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file)?;
        let inner = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Faulty { inner, fault: self.clone() })
    }
}

#[derive(Debug)]
pub(super) struct Faulty {
    inner: FileBackend,
    fault: Fault,
}

impl Faulty {
    fn full(&self) -> io::Result<()> {
        if self.fault.0.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.full()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.full()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

fn due(store: &mut Store, now_ms: u64) -> Page {
    store.due(&shelf(), now_ms, 512, &HashSet::new()).unwrap()
}

fn shelf() -> Arc<Shelf> {
    Arc::new(Shelf::new("main", false, false))
}

/// Pending ones of the target, and the oldest.
fn sizes(level: &Level) -> (u64, Option<u64>) {
    level.pending.get("main").map_or((0, None), |(count, oldest)| (*count, Some(*oldest)))
}

fn all() -> Matcher {
    Filter::default().matcher(0).unwrap()
}

fn keys(page: &Page) -> Vec<String> {
    page.due
        .iter()
        .map(|(_, record)| String::from_utf8(record.as_ref().unwrap().key.clone()).unwrap())
        .collect()
}

fn at(key: &str, not_before_ms: u64) -> Record {
    Record { not_before_ms, first_failed_ms: not_before_ms - 10_000, ..record(key) }
}

#[test]
fn due_ones_in_order_and_none_early() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    let level = store
        .commit(&[Change::Add(at("b", 20_000)), Change::Add(at("a", 19_000)), Change::Add(at("c", 21_000))])
        .unwrap();
    assert_eq!(sizes(&level), (3, Some(9000)));
    let page = due(&mut store, 18_999);
    assert_eq!((keys(&page), page.next_due_ms), (vec![], Some(19_000)));
    let page = due(&mut store, 20_000);
    assert_eq!((keys(&page), page.next_due_ms), (vec!["a".into(), "b".into()], Some(21_000)));

    // Held ones are passed over; pages are bounded.
    let skip = std::iter::once(page.due[0].0.clone()).collect();
    let second = store.due(&shelf(), 21_000, 1, &skip).unwrap();
    assert_eq!((keys(&second), second.next_due_ms), (vec!["b".into()], Some(21_000)));

    let (a, b) = (page.due[0].0.clone(), page.due[1].0.clone());
    let next = Record { attempt: 1, first_failed_ms: 10_000, ..at("b", 30_000) };
    let level = store.commit(&[Change::Remove(a), Change::Forward(b, next.clone())]).unwrap();
    assert_eq!(sizes(&level), (2, Some(10_000)));
    let page = due(&mut store, 30_000);
    assert_eq!(keys(&page), ["c", "b"]);
    assert_eq!(page.due[1].1.as_ref().unwrap(), &next);
}

#[test]
fn a_clock_that_jumped_back_leaves_nothing_stuck_and_nothing_early() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    let hour = 3_600_000;
    for n in 0..10 {
        store.commit(&[Change::Add(at(&n.to_string(), hour + 10_000 + n))]).unwrap();
    }
    // An hour back: what waited for 10 s waits for 10 s again, not for an hour.
    let page = due(&mut store, 20_000);
    assert_eq!((page.due.len(), page.next_due_ms), (0, Some(30_000)));
    assert_eq!(due(&mut store, 29_999).due.len(), 0);
    let page = due(&mut store, 30_000);
    assert_eq!(page.due.len(), 10);
    assert_eq!(page.due[0].1.as_ref().unwrap().not_before_ms, 30_000);
}

#[test]
fn letters_and_requeue() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    store
        .commit(&[Change::Add(at("a", 10_000)), Change::Add(at("b", 10_000)), Change::Add(at("c", 10_000))])
        .unwrap();
    let page = due(&mut store, 10_000);
    let bury = |n: usize, payload: Vec<u8>| {
        Change::Bury(page.due[n].0.clone(), Letter { died_ms: 11_000, reason: "WRONGTYPE".into(), payload })
    };
    let dead = |n: usize| codec::encode(&Record { attempt: 5, ..page.due[n].1.clone().unwrap() });
    let level = store.commit(&[bury(0, dead(0)), bury(1, dead(1)), bury(2, b"poison".to_vec())]).unwrap();
    assert_eq!(sizes(&level), (0, None));
    let letters = store.dead(&all(), 10).unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[2].raw, b"poison");
    assert_eq!(letters[0].died_ms, Some(11_000));

    let filter = Filter { key_prefix: Some("b".into()), ..Filter::default() }.matcher(0).unwrap();
    let back = Sweep::Requeue { now_ms: 10_000 };
    assert_eq!(store.sweep(&filter, back, 10).unwrap().0, 1);
    assert_eq!(store.sweep(&all(), back, 10).unwrap().0, 1);
    let (swept, more, level) = store.sweep(&all(), back, 10).unwrap();
    assert_eq!((swept, more, level.dead, sizes(&level).0), (0, false, 1, 2));
    // What can't be decoded stays.
    assert_eq!(store.dead(&all(), 10).unwrap().len(), 1);
    let page = due(&mut store, 20_000);
    assert_eq!(page.due.len(), 2);
    let back = page.due[0].1.as_ref().unwrap();
    assert_eq!((back.attempt, back.first_failed_ms), (0, 0));
}

#[test]
fn a_full_disk_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    let fault = Fault::default();
    store.fault = Some(fault.clone());
    store.db = None;
    store.commit(&[Change::Add(at("kept", 10_000))]).unwrap();

    fault.0.store(true, Ordering::Release);
    let many: Vec<_> = (0..10_000).map(|n| Change::Add(at(&format!("lost{n}"), 10_000))).collect();
    assert!(matches!(store.commit(&many), Err(StoreError::Unavailable(_))));
    store.retry_open = Instant::now();
    assert!(matches!(store.commit(&many), Err(StoreError::Unavailable(_))));
    // Attempts to open it again are paced.
    assert!(matches!(store.commit(&[]), Err(StoreError::Unavailable(_))));

    fault.0.store(false, Ordering::Release);
    store.retry_open = Instant::now();
    store.commit(&[Change::Add(at("after", 10_000))]).unwrap();
    assert_eq!(keys(&due(&mut store, 10_000)), ["kept", "after"]);
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), POLICY).unwrap();
    for n in 0..500 {
        store.commit(&[Change::Add(at(&format!("key{n}"), 10_000))]).unwrap();
    }
    drop(store);
    let file = dir.path().join(FILE);
    let good = fs::read(&file).unwrap();
    let mut refused = 0;
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join(FILE);
    // A flipped byte is found, or stands where nothing is kept: then every record is still there.
    for step in 0..64 {
        let mut bad = good.clone();
        let place = step * bad.len() / 64 + 17;
        bad[place] ^= 0xff;
        fs::write(&path, &bad).unwrap();
        // redb's debug builds panic on some damage; the queue runs this on its own thread.
        match std::panic::catch_unwind(|| Store::open(copy.path(), POLICY)) {
            Ok(Ok(mut store)) => assert_eq!(due(&mut store, 10_000).due.len(), 500, "byte {place}"),
            Ok(Err(error)) => {
                assert!(matches!(error, RetryError::Corrupt { .. }), "{error}");
                assert!(error.to_string().contains("queue.redb"));
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
    for bad in [b"not a database, but long enough to be looked at".to_vec(), good[..good.len() / 2].to_vec()]
    {
        fs::write(&path, &bad).unwrap();
        assert!(
            matches!(Store::open(copy.path(), POLICY), Err(RetryError::Corrupt { .. })),
            "{} bytes",
            bad.len()
        );
        assert_eq!(fs::read(&path).unwrap(), bad, "the file is left as it is");
    }
}

#[test]
fn a_second_process_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Store::open(dir.path(), POLICY).unwrap();
    let Err(error) = Store::open(dir.path(), POLICY) else { panic!("two owners") };
    assert!(error.to_string().contains("admin address"), "{error}");
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), POLICY).unwrap();
    let txn = store.db.as_ref().unwrap().begin_write().unwrap();
    txn.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap();
    txn.commit().unwrap();
    drop(store);
    assert!(matches!(Store::open(dir.path(), POLICY), Err(RetryError::Schema { found: 3, known: 2, .. })));
}

#[test]
fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::create(dir.path().join(FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut pending = txn.open_table(OLD_PENDING).unwrap();
        let mut age = txn.open_table(OLD_AGE).unwrap();
        let other = Record { target: "other".into(), ..at("b", 20_000) };
        let values = [codec::encode(&at("a", 19_000)), codec::encode(&other), b"poison".to_vec()];
        for (seq, value) in (0..).zip(&values) {
            pending.insert((19_000 + seq * 1000, seq, 9_000 + seq * 1000), value.as_slice()).unwrap();
            age.insert((9_000 + seq * 1000, seq), ()).unwrap();
        }
        let letter = Letter { died_ms: 1, reason: "x".into(), payload: codec::encode(&at("c", 10_000)) };
        txn.open_table(DEAD).unwrap().insert(3, codec::encode_letter(&letter).as_slice()).unwrap();
        let mut meta = txn.open_table(META).unwrap();
        meta.insert("schema", 1).unwrap();
        meta.insert("next_seq", 4).unwrap();
    }
    txn.commit().unwrap();
    drop(db);

    // Twice: the second time there is nothing to do.
    for _ in 0..2 {
        let mut store = Store::open(dir.path(), POLICY).unwrap();
        let level = store.commit(&[]).unwrap();
        let pending: Vec<_> = level.pending.iter().map(|(target, sizes)| (target.as_str(), *sizes)).collect();
        assert_eq!(pending, [("", (1, 11_000)), ("main", (1, 9_000)), ("other", (1, 10_000))]);
        assert_eq!((level.dead, store.next_seq), (1, 4));
        assert_eq!(keys(&due(&mut store, 19_000)), ["a"]);
        let shelves: Vec<_> = store.shelves().iter().cloned().collect();
        let poison = store.due(&shelves[0], 50_000, 10, &HashSet::new()).unwrap();
        assert_eq!(poison.due[0].1.as_ref().unwrap_err().1, b"poison");
        assert_eq!(store.dead(&all(), 10).unwrap()[0].id, "3");
        let lines = store.pending(&all(), 2).unwrap();
        assert_eq!(lines.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["0", "1"]);
    }
}

#[test]
fn tiers_and_kinds_have_shelves_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let policy = RetryPolicy::default();
    let mut store = Store::open(dir.path(), policy).unwrap();
    let hour = 3_600_000;
    let wide = Record { op: super::super::Op::Prefix, ..at("wide", hour) };
    let second = Record { attempt: 5, ..at("second", hour + 300_000) };
    store.commit(&[Change::Add(at("first", hour)), Change::Add(wide), Change::Add(second)]).unwrap();
    let shelves: Vec<_> = store.shelves().iter().cloned().collect();
    assert_eq!(shelves.len(), 3);
    assert_eq!(keys(&due(&mut store, hour)), ["first"]);
    // An hour back: each waits for its own tier's delay again.
    for (second, wide, name, delay) in
        [(false, false, "first", 10_000), (false, true, "wide", 10_000), (true, false, "second", 300_000)]
    {
        let shelf = Arc::new(Shelf::new("main", second, wide));
        let page = store.due(&shelf, 20_000, 10, &HashSet::new()).unwrap();
        assert_eq!((page.due.len(), page.next_due_ms), (0, Some(20_000 + delay)), "{name}");
        let page = store.due(&shelf, 20_000 + delay, 10, &HashSet::new()).unwrap();
        assert_eq!(keys(&page), [name]);
    }
}
