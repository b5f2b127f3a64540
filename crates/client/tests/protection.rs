//! What stands beside every strategy: shared loads, *absent*, foreign bytes, locks, limits; on a real Redis.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use rowbust_client::{
    Breaker, CallOptions, Change, Client, EarlyRefresh, Error, Foreign, LoadLimit, OnCacheError, OnOverload,
    Origin, RebuildLock, Settings, Step,
    strategy::{
        Binlog, BinlogLease, BinlogTwice, CacheAside, DelayedDoubleDelete, DeleteFirst, Guarded,
        LockSerialized, LogicalExpiry, Strategy, TtlOnly, WriteCacheThenDb, WriteDbThenCache, WriteThrough,
    },
};
use rowbust_servers::Need;
use support::{Cache, Db, Stops, settings, until};

const KEY: &str = "product:7";

async fn client(cache: &Cache, strategy: impl Strategy, settings: Settings) -> Client {
    Client::builder(cache.redis().await).strategy(strategy).settings(settings).build().unwrap()
}

/// A loader that takes until every caller has started, and some time more.
async fn stampede(clients: &[Client], callers: usize, db: &Arc<Db>) {
    let tasks: Vec<_> = (0..callers)
        .map(|n| {
            let (client, db) = (clients[n % clients.len()].clone(), db.clone());
            tokio::spawn(async move {
                let load = async |_| {
                    db.loads.fetch_add(1, Relaxed);
                    // The time that a query takes.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, Infallible>(db.read(KEY))
                };
                client.get_or_load::<u64, _, _, _>(KEY, load).await
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), Some(1));
    }
}

/// Nothing but the flights of one process: plain fills, and no lock. All have missed before the load begins.
#[tokio::test]
async fn without_any_lock_a_thousand_concurrent_misses_of_a_process_are_one_load() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let load = stops.at(Step::Load);
    let client = cache.held(CacheAside, &stops).await;
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let (client, db) = (client.clone(), db.clone());
            tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
        })
        .collect();
    load.reached().await;
    until("all have missed", async || client.stats().misses == 1000).await;
    load.go();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Some(1));
    }
    let stats = client.stats();
    assert_eq!((db.loads(), stats.loads, stats.shared, stats.fills), (1, 1, 999, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_misses_are_one_load() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let patient = || Guarded::new().busy_wait(Duration::from_secs(20));
    // In one process.
    let db = Db::with(KEY, 1);
    stampede(&[cache.client(patient()).await], 1000, &db).await;
    assert_eq!(db.loads(), 1);
    // In ten: the lease has one of them load.
    cache.unlink(KEY);
    let db = Db::with(KEY, 1);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(cache.client(patient()).await);
    }
    stampede(&clients, 1000, &db).await;
    assert_eq!(db.loads(), 1);
    // The same with plain fills, by the rebuild lock.
    cache.unlink(KEY);
    let db = Db::with(KEY, 1);
    let lock = RebuildLock { hold: Duration::from_secs(20), wait: Duration::from_secs(20) };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(client(&cache, CacheAside, Settings { rebuild_lock: Some(lock), ..settings() }).await);
    }
    stampede(&clients, 1000, &db).await;
    assert_eq!(db.loads(), 1);
    // Without either, to see that there was a stampede to hold.
    cache.unlink(KEY);
    let db = Db::with(KEY, 1);
    let open = client(&cache, CacheAside, Settings { single_flight: false, ..settings() }).await;
    stampede(&[open], 1000, &db).await;
    assert!(db.loads() > 10, "{}", db.loads());
}

#[tokio::test]
async fn a_caller_never_joins_a_load_whose_read_began_before_its_call() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let client = cache.client(CacheAside).await;
    let (began, finish) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let first = {
        let (client, db, began, finish) = (client.clone(), db.clone(), began.clone(), finish.clone());
        tokio::spawn(async move {
            let load = async |_| {
                let value = db.read(KEY);
                began.notify_one();
                finish.notified().await;
                Ok::<_, Infallible>(value)
            };
            client.get_or_load::<u64, _, _, _>(KEY, load).await.unwrap()
        })
    };
    began.notified().await;
    // A change, and its removal. Then somebody calls.
    db.commit(KEY, 2);
    db.show();
    client.invalidate(&[KEY]).await.unwrap();
    let second = {
        let (client, db) = (client.clone(), db.clone());
        tokio::spawn(async move {
            let options = CallOptions::default().refresh();
            let load = async |_| Ok::<_, Infallible>(db.read(KEY));
            client.get_or_load_with::<u64, _, _, _>(KEY, &options, load).await.unwrap()
        })
    };
    until("the second waits", async || client.stats().misses == 2).await;
    client.invalidate(&[KEY]).await.unwrap();
    finish.notify_one();
    assert_eq!(first.await.unwrap(), Some(1));
    let second = second.await.unwrap();
    assert_eq!((second.value, second.origin), (Some(2), Origin::Database));
    assert_eq!(client.stats().shared, 0);
}

#[tokio::test]
async fn absent_is_kept_for_its_own_time_and_removed_like_any_entry() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    for strategy in [Arc::new(CacheAside) as Arc<dyn Strategy>, Arc::new(Guarded::new())] {
        let db = Arc::new(Db::default());
        let builder = Client::builder(cache.redis().await).strategy_arc(strategy);
        let client = builder.settings(settings()).build().unwrap();
        assert_eq!(db.get(&client, KEY).await.unwrap(), None);
        assert_eq!(db.get(&client, KEY).await.unwrap(), None);
        assert_eq!(db.loads(), 1, "absent was not kept");
        let left: u64 = cache.server.cli(&["PTTL", KEY]).unwrap().parse().unwrap();
        assert!(left <= 30_000, "{left}");
        // The INSERT, and the daemon's removal.
        db.commit(KEY, 1);
        db.show();
        cache.unlink(KEY);
        assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
        cache.unlink(KEY);
        // Not to be kept: nothing is left behind, no lease either.
        let never = CallOptions::default().null_ttl(None);
        let load = async |_| Ok::<_, Infallible>(None::<u64>);
        assert_eq!(client.get_or_load_with(KEY, &never, load).await.unwrap().value, None);
        assert_eq!(cache.get(KEY), None);
    }
}

#[tokio::test]
async fn bytes_that_are_no_such_value_are_never_handed_out() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    for strategy in [Arc::new(CacheAside) as Arc<dyn Strategy>, Arc::new(Guarded::new())] {
        let builder = Client::builder(cache.redis().await).strategy_arc(strategy.clone());
        let client = builder.settings(settings()).build().unwrap();
        for foreign in ["garbage", "\"text\"", "", "-1"] {
            let db = Db::with(KEY, 1);
            cache.server.cli(&["SET", KEY, foreign]).unwrap();
            let fail = CallOptions::default().foreign(Foreign::Fail);
            let load = async |_| Ok::<_, Infallible>(Some(1u64));
            let error = client.get_or_load_with(KEY, &fail, load).await.unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{error}");
            assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
            assert_eq!(cache.get(KEY).as_deref(), Some("1"), "{foreign} under {}", strategy.name());
        }
        assert_eq!(client.stats().foreign, 8);
        cache.unlink(KEY);
        // Of another type: Redis says so.
        cache.server.cli(&["RPUSH", KEY, "x"]).unwrap();
        let error = Db::with(KEY, 1).get(&client, KEY).await.unwrap_err();
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        cache.unlink(KEY);
    }
}

#[tokio::test]
async fn foreign_bytes_found_at_the_second_look_are_not_handed_out_either() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let client = cache.held(Guarded::new(), &stops).await;
    let lease = stops.at(Step::Lease);
    let reader = {
        let (client, db) = (client.clone(), db.clone());
        tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
    };
    lease.reached().await;
    cache.server.cli(&["SET", KEY, "garbage"]).unwrap();
    lease.go();
    assert_eq!(reader.await.unwrap(), Some(1));
    assert_eq!(cache.get(KEY).as_deref(), Some("1"));
}

#[tokio::test]
async fn a_failed_load_is_told_and_leaves_nothing_behind() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    for strategy in
        [Arc::new(CacheAside) as Arc<dyn Strategy>, Arc::new(Guarded::new()), Arc::new(LockSerialized::new())]
    {
        let builder = Client::builder(cache.redis().await).strategy_arc(strategy);
        let client = builder.settings(settings()).build().unwrap();
        let load = async |_| Err::<Option<u64>, _>("the database said no");
        let error = client.get_or_load(KEY, load).await.unwrap_err();
        assert!(matches!(&error, Error::Load(_)) && error.to_string().contains("said no"), "{error}");
        assert_eq!(cache.get(KEY), None, "{}", client.strategy());
        assert_eq!(Db::with(KEY, 1).get(&client, KEY).await.unwrap(), Some(1));
        cache.unlink(KEY);
        let update = async || Err::<(), _>("deadlock");
        let error = client.write(&Change::of(KEY), update).await.unwrap_err();
        assert!(matches!(&error, Error::Update(_)) && error.to_string().contains("deadlock"), "{error}");
        // Its lock is free again.
        Db::with(KEY, 1).put(&client, KEY, 2).await.unwrap().into_result().unwrap();
        assert_eq!(client.stats().load_failures, 1);
    }
}

#[tokio::test]
async fn the_breaker_opens_and_what_was_seen_last_is_handed_out_as_such() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let breaker = Some(Breaker { failures: 1, cool_down: Duration::from_secs(3600) });
    let max_age = Duration::from_secs(3600);
    let on_overload = OnOverload::ServeStale { entries: 10, max_age };
    let client = client(&cache, Guarded::new(), Settings { breaker, on_overload, ..settings() }).await;
    assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
    cache.unlink(KEY);
    let fails = async |_| Err::<Option<u64>, _>("the database is down");
    assert!(matches!(client.get_or_load(KEY, fails).await, Err(Error::Load(_))));
    let refused = async |_| -> Result<Option<u64>, Infallible> { panic!("loaded while the breaker is open") };
    let stale = client.get_or_load_with(KEY, &CallOptions::default(), refused).await.unwrap();
    assert_eq!((stale.value, stale.origin), (Some(1), Origin::Stale));
    assert!(matches!(client.get_or_load("product:8", refused).await, Err(Error::Overloaded { .. })));
    // Nothing that is stale went into the cache, and no lease stays behind.
    assert_eq!(cache.get(KEY), None);
    let stats = client.stats();
    assert_eq!((stats.overloaded, stats.stale), (2, 1));
}

#[tokio::test]
async fn loads_over_the_limit_are_refused() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let limit = LoadLimit { concurrent: 1, wait: Duration::from_millis(10) };
    let client = client(&cache, CacheAside, Settings { load_limit: Some(limit), ..settings() }).await;
    let (db, began, finish) =
        (Db::with(KEY, 1), Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let first = {
        let (client, began, finish) = (client.clone(), began.clone(), finish.clone());
        tokio::spawn(async move {
            let load = async |_| {
                began.notify_one();
                finish.notified().await;
                Ok::<_, Infallible>(Some(1u64))
            };
            client.get_or_load("product:8", load).await.unwrap()
        })
    };
    began.notified().await;
    let error = db.get(&client, KEY).await.unwrap_err();
    assert!(error.to_string().contains("load_limit"), "{error}");
    finish.notify_one();
    assert_eq!(first.await.unwrap(), Some(1));
    assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
}

#[tokio::test]
async fn what_stands_in_the_cache_is_handed_out_before_what_was_seen_last() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let hour = Duration::from_secs(3600);
    let settings = Settings {
        early_refresh: Some(EarlyRefresh { beta: 1e15 }),
        breaker: Some(Breaker { failures: 1, cool_down: hour }),
        on_overload: OnOverload::ServeStale { entries: 10, max_age: hour },
        ..settings()
    };
    let client = client(&cache, CacheAside, settings).await;
    assert_eq!(Db::with(KEY, 1).get(&client, KEY).await.unwrap(), Some(1));
    // Another process has filled since. The refresh of that fails, and the next one is refused.
    cache.server.cli(&["SET", KEY, "2", "PX", "60000"]).unwrap();
    for _ in 0..2 {
        let fails = async |_| Err::<Option<u64>, _>("the database is down");
        assert_eq!(client.get_or_load(KEY, fails).await.unwrap(), Some(2));
    }
    assert_eq!(client.stats().overloaded, 1);
}

/// The table of docs/strategies.md.
#[tokio::test]
async fn early_refresh_and_rebuild_lock_go_with_the_strategies_that_the_page_says() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let redis = cache.redis().await;
    let page = include_str!("../../../docs/strategies.md");
    let (_, table) = page.split_once("## Which protection goes with which strategy").unwrap();
    let early = Settings { early_refresh: Some(EarlyRefresh { beta: 1.0 }), ..settings() };
    let lock = RebuildLock { hold: Duration::from_secs(1), wait: Duration::from_secs(1) };
    let lock = Settings { rebuild_lock: Some(lock), ..settings() };
    let delay = Duration::from_secs(1);
    let all: [Arc<dyn Strategy>; 14] = [
        Arc::new(TtlOnly),
        Arc::new(CacheAside),
        Arc::new(DeleteFirst),
        Arc::new(WriteDbThenCache),
        Arc::new(WriteCacheThenDb),
        Arc::new(WriteThrough::new()),
        Arc::new(DelayedDoubleDelete::new(delay)),
        Arc::new(Binlog),
        Arc::new(BinlogTwice),
        Arc::new(BinlogLease::new()),
        Arc::new(Guarded::new()),
        Arc::new(LockSerialized::new()),
        Arc::new(LockSerialized::unfenced()),
        Arc::new(LogicalExpiry::new()),
    ];
    for strategy in all {
        let name = strategy.name();
        let row = table.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let cells: Vec<&str> = row.unwrap().split('|').map(str::trim).collect();
        for (cell, settings) in [(cells[2], &early), (cells[3], &lock)] {
            let builder = Client::builder(redis.clone()).strategy_arc(strategy.clone());
            let built = builder.settings(settings.clone()).build();
            assert_eq!(built.is_ok(), cell == "yes", "{name}: {cell}");
        }
    }
}

#[tokio::test]
async fn options_of_a_call_count_for_that_call() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let client = cache.client(Guarded::new()).await;
    let load = async |_| Ok::<_, Infallible>(Some(1u64));
    let short = CallOptions::default().ttl(Duration::from_secs(5));
    assert_eq!(client.get_or_load_with(KEY, &short, load).await.unwrap().origin, Origin::Database);
    let left: u64 = cache.server.cli(&["PTTL", KEY]).unwrap().parse().unwrap();
    assert!(left <= 5000, "{left}");
    assert_eq!(client.get_or_load_with(KEY, &short, load).await.unwrap().origin, Origin::Cache);
    let again = async |_| Ok::<_, Infallible>(Some(2u64));
    let refreshed = client.get_or_load_with(KEY, &CallOptions::default().refresh(), again).await.unwrap();
    assert_eq!((refreshed.value, refreshed.origin), (Some(2), Origin::Database));
    assert_eq!(cache.get(KEY).as_deref(), Some("2"));
}

#[tokio::test]
async fn strategies_that_write_values_ask_for_them_before_the_update() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let client = cache.client(WriteDbThenCache).await;
    let update = async || -> Result<(), Infallible> { panic!("updated") };
    let error = client.write(&Change::of("a").value(&1).unwrap().also("b"), update).await.unwrap_err();
    assert!(matches!(&error, Error::NoValue { key, .. } if key == "b"), "{error}");
    let both = Change::of("a").value(&1).unwrap().also("b").absent();
    client.write(&both, async || Ok::<_, Infallible>(())).await.unwrap().into_result().unwrap();
    assert_eq!(cache.get("a").as_deref(), Some("1"));
    let load = async |_| -> Result<Option<u64>, Infallible> { panic!("absent is known") };
    assert_eq!(client.get_or_load("b", load).await.unwrap(), None);
}

#[tokio::test]
async fn a_write_says_for_how_long_what_it_writes_is_kept() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let strategies: [Arc<dyn Strategy>; 3] =
        [Arc::new(WriteDbThenCache), Arc::new(WriteCacheThenDb), Arc::new(WriteThrough::new())];
    for strategy in strategies {
        let client =
            Client::builder(cache.redis().await).strategy_arc(strategy).settings(settings()).build().unwrap();
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(3600));
        let change = Change::of("a").value(&1).unwrap().ttl(short).also("b").value(&2).unwrap();
        let change = change.also("c").absent().ttl(long).also("d").absent();
        client.write(&change, async || Ok::<_, Infallible>(())).await.unwrap().into_result().unwrap();
        let left = ["a", "b", "c", "d"]
            .map(|key| -> u64 { cache.server.cli(&["PTTL", key]).unwrap().parse().unwrap() });
        // Those of the change, and those of the settings.
        for (ms, most) in left.into_iter().zip([5_000, 600_000, 3_600_000, 30_000]) {
            assert!(ms <= most && ms > most / 10 * 9, "{}: {left:?}", client.strategy());
        }
    }
}

#[tokio::test]
async fn without_redis_reads_go_on_and_writes_say_what_is_left() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with(KEY, 1);
    let reads_on = Settings { on_cache_error: OnCacheError::Load, ..settings() };
    let (lenient, strict) = (client(&cache, Guarded::new(), reads_on).await, cache.client(CacheAside).await);
    assert_eq!(db.get(&lenient, KEY).await.unwrap(), Some(1));
    cache.server.kill9().unwrap();
    assert_eq!(db.get(&lenient, KEY).await.unwrap(), Some(1));
    assert_eq!(db.loads(), 2);
    assert!(lenient.stats().cache_errors > 0);
    let error = db.get(&strict, KEY).await.unwrap_err();
    assert!(matches!(error, Error::Redis { .. }), "{error}");
    let written = db.put(&strict, KEY, 2).await.unwrap();
    assert!(
        matches!(&written.cache, Err(Error::NotRemoved { keys, .. }) if keys == &[KEY]),
        "{:?}",
        written.cache
    );
    assert_eq!(db.read(KEY), Some(2));
    // It comes back, without the scripts.
    cache.server.start_again().unwrap();
    let begun = Instant::now();
    until("connections are made anew", async || db.get(&strict, KEY).await.is_ok()).await;
    until("fills work again", async || {
        db.get(&lenient, KEY).await.unwrap();
        cache.get(KEY).as_deref() == Some("2")
    })
    .await;
    assert!(begun.elapsed() < support::WITHIN);
}
