//! How many round trips to a real Redis each strategy makes, and to a cluster.
//!
//! The table is part of the strategies' rustdoc page, and by a test of the lab of `docs/strategies.md`; `UPDATE_DOCS=1` writes it anew.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use rowbust_client::{
    Client, Error, Redis,
    strategy::{
        Binlog, BinlogLease, BinlogTwice, CacheAside, DelayedDoubleDelete, DeleteFirst, Guarded,
        LockSerialized, LogicalExpiry, Strategy, TtlOnly, WriteCacheThenDb, WriteDbThenCache, WriteThrough,
    },
};
use rowbust_servers::{Need, RedisCluster, redis_cluster::ClusterOptions};
use support::{Cache, Db, options, settings};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/strategy/round_trips.md");

fn strategies() -> Vec<(Arc<dyn Strategy>, &'static str)> {
    vec![
        (Arc::new(TtlOnly), ""),
        (Arc::new(CacheAside), ""),
        (Arc::new(DeleteFirst), ""),
        (Arc::new(WriteDbThenCache), ""),
        (Arc::new(WriteCacheThenDb), ""),
        (Arc::new(WriteThrough::new()), ""),
        // Its second delete comes later than this test.
        (Arc::new(DelayedDoubleDelete::new(Duration::from_secs(3600))), ""),
        (Arc::new(LockSerialized::new()), ""),
        (Arc::new(LockSerialized::unfenced()), ""),
        (Arc::new(LogicalExpiry::new()), ""),
        (Arc::new(Binlog), ""),
        (Arc::new(BinlogTwice), ""),
        (Arc::new(BinlogLease::new()), ""),
        (Arc::new(Guarded::new()), ""),
        (Arc::new(Guarded::new().primary_only()), ", `primary_only`"),
    ]
}

#[tokio::test]
async fn the_table_says_what_is_sent() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let cluster = RedisCluster::start(&ClusterOptions::new(Need::Redis, dir.path())).unwrap();
    let urls: Vec<String> = cluster.ports().iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let mut table = String::from(
        "| strategy | hit | miss, beside the load | write, beside the update | on a cluster: hit | miss | write |\n|---|---|---|---|---|---|---|\n",
    );
    for (n, (strategy, variant)) in strategies().into_iter().enumerate() {
        let name = strategy.name();
        let (one, many) = (cache.redis().await, Redis::cluster(&urls, options()).await.unwrap());
        let [hit, miss, write] = trips(one, strategy.clone(), n).await;
        let [far_hit, far_miss, far_write] = trips(many, strategy, n).await;
        writeln!(
            table,
            "| `{name}`{variant} | {hit} | {miss} | {write} | {far_hit} | {far_miss} | {far_write} |"
        )
        .unwrap();
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(PAGE).unwrap(), table, "UPDATE_DOCS=1 writes it anew");
}

/// Of a hit, a miss, a write.
async fn trips(redis: Redis, strategy: Arc<dyn Strategy>, n: usize) -> [u64; 3] {
    let client = Client::builder(redis.clone()).strategy_arc(strategy).settings(settings()).build().unwrap();
    // On one server of a cluster, which then knows the scripts.
    let (warm, key) = (format!("{{{n}}}:warm"), format!("{{{n}}}:k"));
    let db = Db::with(&key, 1);
    // Scripts are known from here on, and a background task has had its first turn.
    db.get(&client, &warm).await.unwrap();
    db.put(&client, &warm, 1).await.unwrap().into_result().unwrap();
    let miss = counted(&redis, db.get(&client, &key)).await;
    let hit = counted(&redis, db.get(&client, &key)).await;
    let write = counted(&redis, db.put(&client, &key, 2)).await;
    assert_eq!((db.loads(), client.stats().hits), (2, 1));
    [hit, miss, write]
}

/// The round trips of one call.
async fn counted<T: std::fmt::Debug>(redis: &Redis, call: impl Future<Output = Result<T, Error>>) -> u64 {
    let before = redis.round_trips();
    call.await.unwrap();
    redis.round_trips() - before
}
