//! `prefix` and `members_of` on a Redis Cluster: every master is looked at; members in other slots than their set.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis::AsyncCommands as _;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use rowbust::config;
use rowbust::invalidate::sweep::Sweeper;
use rowbust::invalidate::target::Target;
use rowbust::pipeline::pace::Paces;
use rowbust_integration_tests::rng::{Rng, seed};
use rowbust_servers::redis_cluster::{ClusterOptions, RedisCluster};
use rowbust_servers::{Need, require};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

struct Rig {
    client: ClusterClient,
    cache: ClusterConnection,
    sweeper: Arc<Sweeper>,
    _cluster: RedisCluster,
    _dir: TempDir,
}

impl Rig {
    async fn new() -> Result<Option<Self>> {
        if require(&[Need::Redis]).is_none() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("rowbust-test-").tempdir()?;
        let options = ClusterOptions::new(Need::Redis, dir.path().join("cluster"));
        let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
        let ports = cluster.ports();
        let nodes: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let text = format!(
            "source: {{ url: \"mysql://u@127.0.0.1:1\" }}\nredis: {{ main: {{ mode: cluster, nodes: [{}] }} }}\n\
             limits: {{ sweep_keys_per_second: 0 }}\nmappings:\n  - table: shop.products\n    keys:\n      \
             - {{ prefix: \"feed:{{name}}:\" }}\n      - {{ members_of: \"tag:{{name}}\" }}\n      \
             - {{ members_of: \"{{{{t}}}}:{{name}}\" }}\n",
            nodes.join(", ")
        );
        let config = config::parse(&text, Path::new("/rowbust.yaml"), &|_| None)
            .map_err(|report| anyhow::anyhow!("{report:?}"))?;
        let target = Target::new(config.redis[0].clone());
        target.connect().await?;
        let client = ClusterClient::new(ports.iter().map(|port| format!("redis://127.0.0.1:{port}")))?;
        let cache = client.get_async_connection().await?;
        let sweeper = Sweeper::new(target, 0, &config);
        Ok(Some(Self { client, cache, sweeper, _cluster: cluster, _dir: dir }))
    }

    async fn there(&mut self, keys: impl Iterator<Item = String>) -> Result<usize> {
        let mut count = 0;
        for key in keys {
            count += usize::from(self.cache.exists::<_, bool>(&key).await?);
        }
        Ok(count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_is_swept() -> Result<()> {
    let Some(mut rig) = Rig::new().await? else { return Ok(()) };
    let unpaced = Paces::new([]);
    let feed = |c: u32| (0..300).map(move |n| format!("feed:{c}:{n}"));
    for key in feed(7).chain(feed(77)) {
        let _: () = rig.cache.set(&key, 1).await?;
    }
    let removed = rig.sweeper.prefix(b"feed:7:", &unpaced).await?;
    ensure!(removed == 300, "{removed}");
    ensure!(rig.there(feed(7)).await? == 0 && rig.there(feed(77)).await? == 300);

    // Members all over the cluster: their entries stay until the last removal, so that a daemon that dies finds them again.
    let member = |n: u32| format!("product:{n}");
    for n in 0..300 {
        let _: () = rig.cache.set(member(n), 1).await?;
        let _: () = rig.cache.sadd("tag:1", member(n)).await?;
    }
    let removed = rig.sweeper.members(b"tag:1", false, &unpaced).await?;
    ensure!(removed == 300 && rig.there((0..300).map(member)).await? == 0, "{removed}");
    let entries: usize = rig.cache.scard("tag:1").await?;
    // But for those that happen to lie in the set's slot.
    ensure!(entries >= 290, "{entries} entries left");
    rig.sweeper.members(b"tag:1", true, &unpaced).await?;
    ensure!(!rig.cache.exists::<_, bool>("tag:1").await?, "the set is left");

    // In the set's slot, by a hash tag: at once.
    for n in 0..300 {
        let _: () = rig.cache.set(format!("{{t}}:p:{n}"), 1).await?;
        let _: () = rig.cache.sadd("{t}:1", format!("{{t}}:p:{n}")).await?;
    }
    rig.sweeper.members(b"{t}:1", false, &unpaced).await?;
    ensure!(rig.there((0..300).map(|n| format!("{{t}}:p:{n}"))).await? == 0);
    ensure!(!rig.cache.exists::<_, bool>("{t}:1").await?, "the set is left");
    Ok(())
}

/// As `no_member_is_forgotten` of `ops.rs`, with members in other slots than their set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_is_forgotten() -> Result<()> {
    const MEMBERS: u64 = 200;
    let Some(mut rig) = Rig::new().await? else { return Ok(()) };
    let (stop, seed) = (CancellationToken::new(), seed("no_member_is_forgotten"));
    let mut fills = JoinSet::new();
    for filler in 0..4 {
        let (stop, mut cache) = (stop.clone(), rig.client.get_async_connection().await?);
        fills.spawn(async move {
            let (mut rng, mut count) = (Rng::new(seed ^ filler), 0_u64);
            while !stop.is_cancelled() {
                let key = format!("product:{}", rng.below(MEMBERS));
                let _: () = cache.set(&key, count).await?;
                let _: () = cache.sadd("tag:1", &key).await?;
                count += 1;
            }
            Ok::<_, redis::RedisError>(count)
        });
    }
    let (begun, mut removed) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(2) {
        removed += rig.sweeper.members(b"tag:1", true, &Paces::new([])).await?;
    }
    stop.cancel();
    let mut filled = 0;
    while let Some(count) = fills.join_next().await {
        filled += count??;
    }
    ensure!(filled > 200 && removed > 200, "void: {filled} fills, {removed} removals");
    let (mut forgotten, mut cached) = (Vec::new(), 0);
    for n in 0..MEMBERS {
        let key = format!("product:{n}");
        if rig.cache.exists(&key).await? {
            cached += 1;
            if !rig.cache.sismember("tag:1", &key).await? {
                forgotten.push(key);
            }
        }
    }
    ensure!(forgotten.is_empty(), "cached, and in no set (seed {seed}): {forgotten:?} of {cached}");
    Ok(())
}
