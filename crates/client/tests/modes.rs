//! Redis 7, Redis 8 and Valkey; a cluster; a master by way of sentinels that fails over; scripts that Redis has forgotten.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use rowbust_client::{
    Client, Redis, Tls,
    strategy::{
        BinlogLease, CacheAside, DelayedDoubleDelete, Guarded, LockSerialized, LogicalExpiry, Strategy,
        WriteThrough,
    },
};
use rowbust_servers::{
    Need, RedisCluster, RedisTls, Sentinels,
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

/// A server that has become a replica, and one that says so in the second of two replies.
#[tokio::test]
async fn a_connection_to_a_server_that_takes_no_writes_is_given_up() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let db = Db::with("k", 1);
    let client = cache.client(Guarded::new()).await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        assert_eq!(db.get(&client, "k").await.unwrap(), Some(1));
        let list = cache.server.cli(&["CLIENT", "LIST"]).unwrap();
        let own = list.lines().find(|line| !line.contains("cmd=client")).unwrap();
        connections.push(own.split(' ').next().unwrap().to_owned());
        cache.unlink("k");
        cache.server.cli(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
        let error = db.get(&client, "k").await.unwrap_err();
        assert!(error.to_string().contains("read only replica"), "{error}");
        cache.server.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    }
    assert_ne!(connections[0], connections[1]);
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

/// An authority's certificate, and one of `127.0.0.1` by it.
fn certificates(dir: &std::path::Path) -> RedisTls {
    let (ca_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = own.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    let ca = write("ca.pem", ca_cert.pem());
    RedisTls {
        cert: write("cert.pem", cert.pem()),
        key: write("key.pem", key.serialize_pem()),
        client_ca: Some(ca.clone()),
        ca: Some(ca),
    }
}

/// Servers and sentinels that ask for certificates: with them, without one's own, and with an authority that isn't theirs.
#[tokio::test]
async fn sentinels_with_tls() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let tls = certificates(dir.path());
    let options_of = SentinelOptions {
        tls: Some(tls.clone()),
        ..SentinelOptions::new(Need::Redis, dir.path().join("group"))
    };
    let group = Sentinels::start(&options_of).unwrap();
    let urls: Vec<String> = group.ports().iter().map(|port| format!("rediss://127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let (ca, cert, key) = (read(tls.ca.as_deref().unwrap()), read(&tls.cert), read(&tls.key));
    let with = |tls: Tls| options().response_timeout(Duration::from_secs(2)).tls(tls);
    let redis =
        Redis::sentinel(&urls, MASTER, with(Tls::default().ca(ca.clone()).own(cert.clone(), key.clone())))
            .await;
    let redis = redis.unwrap();
    works(&redis).await;
    let master = group.master().unwrap();
    let list = group.servers[master].cli(&["CLIENT", "LIST"]).unwrap();
    let port = format!("laddr=127.0.0.1:{}", group.servers[master].tls_port().unwrap());
    let ours = |line: &str| ["cmd=get", "cmd=evalsha", "cmd=unlink"].iter().any(|cmd| line.contains(cmd));
    assert!(list.lines().any(|line| line.contains(&port) && ours(line)), "{list}");
    let other = tempfile::TempDir::new().unwrap();
    let stranger = read(certificates(other.path()).ca.as_deref().unwrap());
    for wrong in [Tls::default().ca(ca), Tls::default().ca(stranger).own(cert, key), Tls::default()] {
        assert!(Redis::sentinel(&urls, MASTER, with(wrong)).await.is_err());
    }
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
