//! Each race of the strategies' pages, provoked on a real Redis: the interleaving is forced by holding steps up, so it happens every time.
//! Then `guarded` in the very same interleavings.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowbust_client::{
    Client, Error, Step,
    strategy::{
        Binlog, BinlogLease, BinlogTwice, CacheAside, DelayedDoubleDelete, DeleteFirst, Guarded,
        LockSerialized, Strategy, TtlOnly, WriteCacheThenDb, WriteDbThenCache, WriteThrough,
    },
};
use rowbust_servers::Need;
use support::{Cache, Db, Stops, until};
use tokio::task::JoinHandle;

const KEY: &str = "product:7";
const OTHER: &str = "product:8";

fn reading(client: &Client, db: &Arc<Db>) -> JoinHandle<Option<u64>> {
    let (client, db) = (client.clone(), db.clone());
    tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
}

fn writing(client: &Client, db: &Arc<Db>, value: u64) -> JoinHandle<()> {
    let (client, db) = (client.clone(), db.clone());
    tokio::spawn(async move { db.put(&client, KEY, value).await.unwrap().into_result().unwrap() })
}

/// A reader is held up between load and fill while `meanwhile` runs to its end. What the key holds then.
async fn slow_reader(
    cache: &Cache,
    strategy: impl Strategy,
    db: &Arc<Db>,
    meanwhile: impl AsyncFnOnce(),
) -> Option<String> {
    let stops = Arc::new(Stops::default());
    let slow = cache.held(strategy, &stops).await;
    let fill = stops.at(Step::Fill);
    let reader = reading(&slow, db);
    fill.reached().await;
    meanwhile().await;
    fill.go();
    reader.await.unwrap();
    cache.get(KEY)
}

/// The two removals of the daemon, around the moment at which the commit becomes visible.
async fn committed_and_removed_twice(cache: &Cache, db: &Arc<Db>) {
    db.commit(KEY, 2);
    cache.unlink(KEY);
    db.show();
    cache.unlink(KEY);
}

#[tokio::test]
async fn ttl_only_shows_the_old_value_until_the_ttl_ends() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let client = cache.client(TtlOnly).await;
    assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
    db.put(&client, KEY, 2).await.unwrap().into_result().unwrap();
    assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
    assert_eq!(cache.server.cli(&["PEXPIRE", KEY, "1"]).unwrap(), "1");
    until("it expires", async || db.get(&client, KEY).await.unwrap() == Some(2)).await;
}

#[tokio::test]
async fn cache_aside_keeps_what_a_slow_reader_fills() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let writer = cache.client(CacheAside).await;
    let held = slow_reader(&cache, CacheAside, &db, async || writing(&writer, &db, 2).await.unwrap()).await;
    assert_eq!((held.as_deref(), db.read(KEY)), (Some("1"), Some(2)));
}

#[tokio::test]
async fn delete_first_keeps_what_is_read_between_its_steps() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let slow = cache.held(DeleteFirst, &stops).await;
    let update = stops.at(Step::Update);
    let writer = writing(&slow, &db, 2);
    update.reached().await;
    let reader = cache.client(DeleteFirst).await;
    assert_eq!(db.get(&reader, KEY).await.unwrap(), Some(1));
    update.go();
    writer.await.unwrap();
    assert_eq!((cache.get(KEY).as_deref(), db.read(KEY)), (Some("1"), Some(2)));
}

#[tokio::test]
async fn write_db_then_cache_keeps_the_value_of_the_writer_that_sets_last() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 0), Arc::new(Stops::default()));
    let slow = cache.held(WriteDbThenCache, &stops).await;
    let set = stops.at(Step::Set);
    let first = writing(&slow, &db, 1);
    set.reached().await;
    writing(&cache.client(WriteDbThenCache).await, &db, 2).await.unwrap();
    set.go();
    first.await.unwrap();
    assert_eq!((cache.get(KEY).as_deref(), db.read(KEY)), (Some("1"), Some(2)));
}

#[tokio::test]
async fn write_cache_then_db_keeps_the_value_of_the_writer_that_commits_first() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 0), Arc::new(Stops::default()));
    let slow = cache.held(WriteCacheThenDb, &stops).await;
    let update = stops.at(Step::Update);
    let first = writing(&slow, &db, 1);
    update.reached().await;
    writing(&cache.client(WriteCacheThenDb).await, &db, 2).await.unwrap();
    update.go();
    first.await.unwrap();
    assert_eq!((cache.get(KEY).as_deref(), db.read(KEY)), (Some("2"), Some(1)));
}

#[tokio::test]
async fn write_through_orders_writers_and_keeps_what_a_slow_reader_fills() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 0), Arc::new(Stops::default()));
    let slow = cache.held(WriteThrough::new(), &stops).await;
    let set = stops.at(Step::Set);
    let first = writing(&slow, &db, 1);
    set.reached().await;
    let impatient = cache.client(WriteThrough::new().wait(Duration::from_millis(5))).await;
    let refused = db.put(&impatient, KEY, 2).await.unwrap_err();
    assert!(matches!(refused, rowbust_client::Error::LockBusy { .. }), "{refused}");
    assert_eq!(db.read(KEY), Some(1), "updated without the lock");
    set.go();
    first.await.unwrap();
    let writer = cache.client(WriteThrough::new()).await;
    writing(&writer, &db, 2).await.unwrap();
    assert_eq!(cache.get(KEY).as_deref(), Some("2"));

    cache.unlink(KEY);
    let write = async || writing(&writer, &db, 3).await.unwrap();
    let held = slow_reader(&cache, WriteThrough::new(), &db, write).await;
    assert_eq!((held.as_deref(), db.read(KEY)), (Some("2"), Some(3)));
}

#[tokio::test]
async fn delayed_double_delete_keeps_what_a_reader_slower_than_the_delay_fills() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let strategy = || DelayedDoubleDelete::new(Duration::from_millis(50));
    let writer = cache.client(strategy()).await;
    let second_deletes = async || cache.server.cli(&["ZCARD", "rowbust:owed"]).unwrap() == "0";
    let held = slow_reader(&cache, strategy(), &db, async || {
        writing(&writer, &db, 2).await.unwrap();
        until("the second delete", second_deletes).await;
    })
    .await;
    assert_eq!((held.as_deref(), db.read(KEY)), (Some("1"), Some(2)));

    // One that is faster than the delay is cleaned up after.
    cache.unlink(KEY);
    slow_reader(&cache, strategy(), &db, async || writing(&writer, &db, 3).await.unwrap()).await;
    until("the second delete", async || cache.get(KEY).is_none()).await;
}

/// A reader in a process that stands still for longer than its lock lasts, its watchdog with it.
async fn lock_expires_in_a_pause(
    cache: &Cache,
    strategy: fn() -> LockSerialized,
) -> (Option<String>, Client) {
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let short = Duration::from_millis(100);
    let fill = stops.block_at(Step::Fill);
    let (url, reader_db, hooks) = (cache.server.url(), db.clone(), stops.clone());
    let (done, result) = tokio::sync::oneshot::channel();
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let redis = rowbust_client::Redis::connect(&url, support::options()).await.unwrap();
            let builder =
                Client::builder(redis).strategy(strategy().hold(short)).settings(support::settings());
            let client = builder.hooks(hooks).build().unwrap();
            reader_db.get(&client, KEY).await.unwrap();
            let _ = done.send(client);
        });
    });
    fill.reached().await;
    let writer = cache.client(strategy()).await;
    writing(&writer, &db, 2).await.unwrap();
    fill.go();
    let client = result.await.unwrap();
    process.join().unwrap();
    assert_eq!(db.read(KEY), Some(2));
    (cache.get(KEY), client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_expires_in_a_pause_lets_an_old_value_in_without_the_fence() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (held, _) = lock_expires_in_a_pause(&cache, LockSerialized::unfenced).await;
    assert_eq!(held.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_expires_in_a_pause_is_seen_by_the_fence() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (held, client) = lock_expires_in_a_pause(&cache, LockSerialized::new).await;
    assert_eq!(held, None);
    let stats = client.stats();
    assert_eq!((stats.refused, stats.fills, stats.locks_lost), (1, 0, 1));
}

/// A writer whose lock is gone before it updates; a reader takes the lock meanwhile, and loads.
async fn writers_lock_expires(cache: &Cache, strategy: fn() -> LockSerialized) -> (Option<String>, u64) {
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let slow = cache.held(strategy(), &stops).await;
    let (update, fill) = (stops.at(Step::Update), stops.at(Step::Fill));
    let writer = writing(&slow, &db, 2);
    update.reached().await;
    // As if its watchdog had stood still.
    let lock = format!("rowbust:lock:{{{KEY}}}");
    cache.server.cli(&["HDEL", &lock, "writer", "until"]).unwrap();
    let reader = reading(&slow, &db);
    fill.reached().await;
    update.go();
    writer.await.unwrap();
    fill.go();
    assert_eq!((reader.await.unwrap(), db.read(KEY)), (Some(1), Some(2)));
    (cache.get(KEY), slow.stats().refused)
}

#[tokio::test]
async fn a_delete_moves_the_fence_for_the_writers_lock_may_have_expired() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    assert_eq!(writers_lock_expires(&cache, LockSerialized::new).await, (None, 1));
    let (held, refused) = writers_lock_expires(&cache, LockSerialized::unfenced).await;
    assert_eq!((held.as_deref(), refused), (Some("1"), 0));
}

#[tokio::test]
async fn a_writer_that_dies_before_its_delete_is_beyond_a_lock() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let reader = cache.client(LockSerialized::new()).await;
    assert_eq!(db.get(&reader, KEY).await.unwrap(), Some(1));
    let slow = cache.held(LockSerialized::new(), &stops).await;
    let delete = stops.at(Step::Delete);
    let writer = writing(&slow, &db, 2);
    delete.reached().await;
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    assert_eq!((cache.get(KEY).as_deref(), db.read(KEY)), (Some("1"), Some(2)));
    // Its lock is given back all the same.
    writing(&reader, &db, 3).await.unwrap();
}

/// The watchdog: what takes longer than a lock lasts keeps it all the same, a read lock and a write lock.
#[tokio::test]
async fn a_lock_that_is_held_for_longer_than_it_lasts_is_renewed() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let hold = Duration::from_millis(1500);
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let (fill, update) = (stops.at(Step::Fill), stops.at(Step::Update));
    let held = cache.held(LockSerialized::new().hold(hold), &stops).await;
    let reader = reading(&held, &db);
    fill.reached().await;
    let writer = {
        let (held, db) = (held.clone(), db.clone());
        tokio::spawn(async move { db.put(&held, OTHER, 2).await.unwrap().into_result().unwrap() })
    };
    update.reached().await;
    let begun = Instant::now();
    let patient = cache.client(LockSerialized::new().wait(support::WITHIN)).await;
    let waits = writing(&patient, &db, 3);
    let impatient = cache.client(LockSerialized::new().wait(Duration::ZERO)).await;
    until("three terms have passed", async || {
        for key in [KEY, OTHER] {
            let written = db.put(&impatient, key, 4).await;
            assert!(matches!(written, Err(Error::LockBusy { .. })), "{key}, {:?}", begun.elapsed());
        }
        begun.elapsed() > 3 * hold
    })
    .await;
    assert!(!waits.is_finished());
    fill.go();
    update.go();
    assert_eq!(reader.await.unwrap(), Some(1));
    writer.await.unwrap();
    waits.await.unwrap();
    let stats = held.stats();
    assert_eq!((stats.fills, stats.refused, stats.locks_lost), (1, 0, 0));
    assert_eq!((db.read(KEY), db.read(OTHER), cache.get(KEY)), (Some(3), Some(2), None));
}

/// The event arrives before the row is visible; a reader misses in between.
async fn visibility_window(
    cache: &Cache,
    strategy: impl Strategy,
    second_removal: bool,
) -> (Option<String>, Arc<Db>) {
    let db = Db::with(KEY, 1);
    let client = cache.client(strategy).await;
    db.commit(KEY, 2);
    cache.unlink(KEY);
    assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
    db.show();
    if second_removal {
        cache.unlink(KEY);
    }
    (cache.get(KEY), db)
}

#[tokio::test]
async fn one_removal_leaves_the_visibility_window_with_and_without_leases() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    for held in [
        visibility_window(&cache, Binlog, false).await.0,
        visibility_window(&cache, BinlogLease::new(), false).await.0,
    ] {
        assert_eq!(held.as_deref(), Some("1"));
    }
    assert_eq!(visibility_window(&cache, BinlogTwice, true).await.0, None);
    let (held, db) = visibility_window(&cache, Guarded::new(), true).await;
    assert_eq!(held, None);
    assert_eq!(db.get(&cache.client(Guarded::new()).await, KEY).await.unwrap(), Some(2));
}

#[tokio::test]
async fn two_removals_without_leases_keep_what_a_reader_slower_than_the_grace_fills() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let held =
        slow_reader(&cache, BinlogTwice, &db, async || committed_and_removed_twice(&cache, &db).await).await;
    assert_eq!((held.as_deref(), db.read(KEY)), (Some("1"), Some(2)));
}

#[tokio::test]
async fn guarded_refuses_what_a_slow_reader_fills() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let held =
        slow_reader(&cache, Guarded::new(), &db, async || committed_and_removed_twice(&cache, &db).await)
            .await;
    assert_eq!(held, None, "filled although its lease was revoked");

    // Another reader has taken a lease, or filled, since.
    let other = cache.client(Guarded::new()).await;
    let held = slow_reader(&cache, Guarded::new(), &db, async || {
        db.commit(KEY, 3);
        db.show();
        cache.unlink(KEY);
        assert_eq!(db.get(&other, KEY).await.unwrap(), Some(3));
    })
    .await;
    assert_eq!(held.as_deref(), Some("3"));
}

#[tokio::test]
async fn guarded_refuses_a_fill_whose_lease_was_evicted_or_has_expired() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let held = slow_reader(&cache, Guarded::new(), &db, async || cache.unlink(KEY)).await;
    assert_eq!(held, None, "filled on absence");
    let short = Guarded::new().hold(Duration::from_millis(20));
    let held = slow_reader(&cache, short, &db, async || {
        until("the lease expires", async || cache.get(KEY).is_none()).await;
    })
    .await;
    assert_eq!(held, None);
}

#[tokio::test]
async fn guarded_lets_one_reader_fill_and_the_others_load_without() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let other = cache.client(Guarded::new().busy_wait(Duration::from_millis(5))).await;
    let held = slow_reader(&cache, Guarded::new(), &db, async || {
        assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
        let stats = other.stats();
        assert_eq!((stats.busy, stats.loads, stats.fills), (1, 1, 0));
    })
    .await;
    assert_eq!(held.as_deref(), Some("1"));
    // A reader that waits finds it filled.
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
    assert_eq!(db.loads(), 2);
}

/// One write, one connection: Redis carries the look at the pool out behind the grant, and once more where the script had to be sent.
#[tokio::test]
async fn guarded_reads_the_pool_behind_the_lease_that_was_granted() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let client = cache.client(Guarded::new()).await;
    cache.server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    let monitor = Monitor::start(cache.server.port());
    for known in [false, true] {
        cache.unlink(KEY);
        assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
        cache.server.cli(&["ECHO", "end"]).unwrap();
        let seen = monitor.until("\"ECHO\" \"end\"");
        let at = |what: &str| -> Vec<usize> {
            seen.iter().enumerate().filter(|(_, line)| line.contains(what)).map(|(n, _)| n).collect()
        };
        let (granted, pools) = (at("lua] \"SET\""), at("\"GET\" \"rowbust:pool:main\""));
        assert_eq!(pools.len(), if known { 1 } else { 2 }, "{seen:?}");
        assert!(pools.last() > granted.first(), "{seen:?}");
        assert_eq!(at("\"EVAL\"").is_empty(), known, "{seen:?}");
    }
    assert_eq!(client.stats().fills, 2);
}

/// What a Redis carries out, in its order.
struct Monitor(std::sync::Mutex<std::io::Lines<std::io::BufReader<std::net::TcpStream>>>);

impl Monitor {
    fn start(port: u16) -> Self {
        use std::io::{BufRead as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(support::WITHIN)).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = std::io::BufReader::new(stream).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        Self(std::sync::Mutex::new(lines))
    }

    fn until(&self, what: &str) -> Vec<String> {
        let mut lines = self.0.lock().unwrap();
        lines.by_ref().map(Result::unwrap).take_while(|line| !line.contains(what)).collect()
    }
}

/// For several keys it is asked for once, and after all of their leases.
#[tokio::test]
async fn guarded_reads_the_pool_of_several_keys_after_their_leases_were_granted() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let client = cache.held(Guarded::new(), &stops).await;
    let publish = |members: &str| cache.server.cli(&["SET", "rowbust:pool:main", members]).unwrap();
    publish(r#"{"v":1,"members":["db1:3306","db2:3306"]}"#);
    let pool = stops.at(Step::Pool);
    let reader = {
        let (client, db) = (client.clone(), db.clone());
        tokio::spawn(async move {
            let seen = std::sync::Mutex::new(Vec::new());
            let values = client.get_many(&[KEY, OTHER], async |source, missing| {
                seen.lock().unwrap().extend(source.members().to_vec());
                let row = |key: String| Some((db.read(&key)?, key)).map(|(value, key)| (key, value));
                Ok::<_, std::convert::Infallible>(missing.into_iter().filter_map(row).collect())
            });
            assert_eq!(values.await.unwrap(), [(KEY.to_owned(), 1)].into());
            seen.into_inner().unwrap()
        })
    };
    pool.reached().await;
    // The leases stand, and a member leaves.
    for key in [KEY, OTHER] {
        assert!(cache.server.cli(&["GETRANGE", key, "1", "13"]).unwrap().contains("rowbust:lease"));
    }
    publish(r#"{"v":1,"members":["db1:3306"]}"#);
    pool.go();
    assert_eq!(reader.await.unwrap(), ["db1:3306"]);
    assert_eq!(cache.get(KEY).as_deref(), Some("1"));
}
