//! Redis 7, Redis 8 and Valkey; a cluster; a master by way of sentinels that fails over; scripts that Redis has forgotten.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use rowbust_client::{
    Client, Redis,
    strategy::{
        BinlogLease, CacheAside, DelayedDoubleDelete, Guarded, LockSerialized, LogicalExpiry, Strategy,
        WriteThrough,
    },
};
use rowbust_servers::{
    Need, RedisCluster, Sentinels,
    redis_cluster::ClusterOptions,
    require,
    sentinel::{MASTER, SentinelOptions},
};
use support::{Cache, Db, options, settings, until};

fn strategies() -> Vec<Arc<dyn Strategy>> {
    vec![
        Arc::new(CacheAside),
        Arc::new(WriteThrough::new()),
        Arc::new(DelayedDoubleDelete::new(Duration::from_millis(20))),
        Arc::new(LockSerialized::new()),
        Arc::new(LogicalExpiry::new()),
        Arc::new(BinlogLease::new()),
        Arc::new(Guarded::new()),
    ]
}

/// Read, hit, write, removal, read; over many keys, so over many slots.
async fn works(redis: &Redis) {
    for strategy in strategies() {
        let name = strategy.name();
        let client =
            Client::builder(redis.clone()).strategy_arc(strategy).settings(settings()).build().unwrap();
        for n in 0..20 {
            let key = format!("{name}:{n}");
            let db = Db::with(&key, 1);
            for _ in 0..2 {
                assert_eq!(db.get(&client, &key).await.unwrap(), Some(1), "{key}");
            }
            assert_eq!(db.loads(), 1, "{key}");
            db.put(&client, &key, 2).await.unwrap().into_result().unwrap();
            // The daemon's part.
            client.invalidate(&[&key]).await.unwrap();
            assert_eq!(db.get(&client, &key).await.unwrap(), Some(2), "{key}");
        }
        let stats = client.stats();
        assert_eq!((stats.cache_errors, stats.refused, stats.locks_lost), (0, 0, 0), "{name}");
    }
}

#[tokio::test]
async fn every_kind_of_strategy_works_on_redis_7_redis_8_and_valkey() {
    for need in [Need::Redis, Need::Redis8, Need::Valkey] {
        let Some(cache) = Cache::start(need) else { continue };
        works(&cache.redis().await).await;
    }
}

#[tokio::test]
async fn a_script_that_redis_has_forgotten_is_sent_again() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with("k", 1);
    let client = cache.client(Guarded::new()).await;
    for _ in 0..3 {
        cache.server.cli(&["SCRIPT", "FLUSH"]).unwrap();
        cache.unlink("k");
        assert_eq!(db.get(&client, "k").await.unwrap(), Some(1));
        assert_eq!(cache.get("k").as_deref(), Some("1"));
    }
    assert_eq!(client.stats().fills, 3);
}

#[tokio::test]
async fn a_cluster() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let cluster = RedisCluster::start(&ClusterOptions::new(Need::Redis, dir.path())).unwrap();
    let urls: Vec<String> = cluster.ports().iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let redis = Redis::cluster(&urls, options()).await.unwrap();
    works(&redis).await;
    let client = Client::builder(redis).strategy(LockSerialized::new()).settings(settings()).build().unwrap();
    let error = Db::with("a}b", 1).get(&client, "a}b").await.unwrap_err();
    assert!(matches!(error, rowbust_client::Error::Key { .. }), "{error}");
    assert_eq!(Db::with("x{a}b", 1).get(&client, "x{a}b").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_failover_that_the_sentinels_make() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let group = Sentinels::start(&SentinelOptions::new(Need::Redis, dir.path())).unwrap();
    let urls: Vec<String> = group.ports().iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let redis =
        Redis::sentinel(&urls, MASTER, options().response_timeout(Duration::from_secs(2))).await.unwrap();
    works(&redis).await;
    let client = Client::builder(redis).settings(settings()).build().unwrap();
    let old = group.master().unwrap();
    // It keeps its connections and answers nothing: what a partition looks like.
    group.servers[old].freeze().unwrap();
    let new = group.promoted(old).unwrap();
    let db = Db::with("after", 1);
    until("reads go to the new master", async || db.get(&client, "after").await.is_ok()).await;
    until("the fill is there", async || {
        let _ = db.get(&client, "after").await;
        group.servers[new].cli(&["GET", "after"]).unwrap() == "1"
    })
    .await;
    group.servers[old].thaw().unwrap();
    assert_eq!(db.get(&client, "after").await.unwrap(), Some(1));
}
