//! `prefix` and `members_of` on a Redis Cluster: every master is looked at; members in other slots than their set.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redis::AsyncCommands as _;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use rowbust::config;
use rowbust::invalidate::sweep::{Sweeper, Tell};
use rowbust::invalidate::target::Target;
use rowbust::pipeline::pace::Paces;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::{ClusterOptions, RedisCluster};
use rowbust_servers::{Need, Redis, require};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(60);

struct Rig {
    client: ClusterClient,
    cache: ClusterConnection,
    sweeper: Arc<Sweeper>,
    cluster: RedisCluster,
    _dir: TempDir,
}

impl Rig {
    async fn new() -> Result<Option<Self>> {
        Self::of(0, 0).await
    }

    /// Sweeps at most so many keys a second (0: unpaced).
    async fn of(per_second: u32, replicas: usize) -> Result<Option<Self>> {
        if require(&[Need::Redis]).is_none() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("rowbust-test-").tempdir()?;
        let options =
            ClusterOptions { replicas, ..ClusterOptions::new(Need::Redis, dir.path().join("cluster")) };
        let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
        let ports = cluster.ports();
        let nodes: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let text = format!(
            "source: {{ url: \"mysql://u@127.0.0.1:1\" }}\nredis: {{ main: {{ mode: cluster, nodes: [{}] }} }}\n\
             limits: {{ sweep_keys_per_second: {per_second} }}\nmappings:\n  - table: shop.products\n    keys:\n      \
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
        Ok(Some(Self { client, cache, sweeper, cluster, _dir: dir }))
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
    let removed = rig.sweeper.members(b"tag:1", false, &unpaced, Tell::NOBODY).await?;
    ensure!(removed == 300 && rig.there((0..300).map(member)).await? == 0, "{removed}");
    let entries: usize = rig.cache.scard("tag:1").await?;
    // But for those that happen to lie in the set's slot.
    ensure!(entries >= 290, "{entries} entries left");
    rig.sweeper.members(b"tag:1", true, &unpaced, Tell::NOBODY).await?;
    ensure!(!rig.cache.exists::<_, bool>("tag:1").await?, "the set is left");

    // In the set's slot, by a hash tag: at once.
    for n in 0..300 {
        let _: () = rig.cache.set(format!("{{t}}:p:{n}"), 1).await?;
        let _: () = rig.cache.sadd("{t}:1", format!("{{t}}:p:{n}")).await?;
    }
    rig.sweeper.members(b"{t}:1", false, &unpaced, Tell::NOBODY).await?;
    ensure!(rig.there((0..300).map(|n| format!("{{t}}:p:{n}"))).await? == 0);
    ensure!(!rig.cache.exists::<_, bool>("{t}:1").await?, "the set is left");
    Ok(())
}

/// A key moves from a server that is yet to be looked at to one that was: it is met in the second round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_past_the_sweep() -> Result<()> {
    let Some(rig) = Rig::of(100, 0).await? else { return Ok(()) };
    let nodes = &rig.cluster.nodes;
    // Slots are listed in their order: so are their masters looked at.
    let (key, slot) = key_on(&rig.cluster, 2)?;
    nodes[2].cli(&["SET", &key, "old"])?;
    // What the second server has to be looked through takes some seconds.
    let (other, _) = key_on(&rig.cluster, 1)?;
    let tag = other.split(['{', '}']).nth(1).unwrap_or_default();
    let script = format!("for n = 1, 4000 do redis.call('SET', 'junk:{{{tag}}}:' .. n, 1) end");
    nodes[1].cli(&["EVAL", &script, "1", &other])?;
    let sweeper = Arc::clone(&rig.sweeper);
    let sweep = tokio::spawn(async move { sweeper.prefix(b"feed:", &Paces::new([])).await });
    let stats = Arc::clone(&rig.sweeper.stats);
    until("the first is looked through", WITHIN, async || {
        let scanned = stats.scanned.load(Relaxed);
        Ok(Seen::check(scanned > 500, || scanned.to_string()))
    })
    .await?;
    rig.cluster.move_slot(slot, 2, 0)?;
    ensure!(stats.passes.load(Relaxed) == 1, "void: moved too late");
    ensure!(nodes[0].cli(&["EXISTS", &key])?.trim() == "1", "void: it was met before");
    let removed = sweep.await??;
    ensure!(nodes[0].cli(&["EXISTS", &key])?.trim() == "0", "{key} passed the sweep, {removed} removed");
    ensure!(stats.passes.load(Relaxed) == 2);
    Ok(())
}

/// A server that is new in the cluster has keys of its first slot before it serves any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_slot_of_a_new_master() -> Result<()> {
    let Some(rig) = Rig::of(0, 1).await? else { return Ok(()) };
    let nodes = &rig.cluster.nodes;
    // A replica becomes a master without slots.
    let new = nodes.len() - 1;
    let (port, own) = (nodes[new].port().to_string(), nodes[new].cli(&["CLUSTER", "NODES"])?);
    let is_own = |line: &&str| line.contains("myself");
    let bus =
        own.lines().find(is_own).and_then(|line| line.split(['@', ',', ' ']).nth(2)).context("no bus")?;
    nodes[new].cli(&["CLUSTER", "RESET", "HARD"])?;
    let id = rig.cluster.id(new)?.trim().to_owned();
    nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
    until("all know the new one", WITHIN, async || {
        let knows = |node: &Redis| node.cli(&["CLUSTER", "NODES"]).is_ok_and(|nodes| nodes.contains(&id));
        Ok(Seen::check(nodes.iter().take(3).all(knows), || id.clone()))
    })
    .await?;
    until("the new one knows all", WITHIN, async || {
        let info = nodes[new].cli(&["CLUSTER", "INFO"])?;
        Ok(Seen::check(info.contains("cluster_state:ok"), || info))
    })
    .await?;
    let (key, slot) = key_on(&rig.cluster, 0)?;
    nodes[0].cli(&["SET", &key, "old"])?;
    rig.cluster.begin_move(slot, 0, new)?;
    ensure!(rig.cluster.move_keys(slot, 0, new, 10)? == 1);
    ensure!(nodes[new].cli(&["DBSIZE"])?.trim() == "1", "void: it isn't there");
    let removed = rig.sweeper.prefix(b"feed:", &Paces::new([])).await?;
    ensure!(nodes[new].cli(&["DBSIZE"])?.trim() == "0", "{key} is left, {removed} removed");
    Ok(())
}

/// A key under `feed:` whose slot this master has, and the slot.
fn key_on(cluster: &RedisCluster, node: usize) -> Result<(String, u16)> {
    for n in 0..100 {
        let key = format!("feed:{{{n}}}:1");
        let slot: u16 = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", &key])?.trim().parse()?;
        if usize::from(slot) * 3 / 16384 == node {
            return Ok((key, slot));
        }
    }
    anyhow::bail!("no key on {node}")
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
            let (mut rng, mut count) = (StdRng::seed_from_u64(seed ^ filler), 0_u64);
            while !stop.is_cancelled() {
                let key = format!("product:{}", rng.random_range(0..MEMBERS));
                let _: () = cache.set(&key, count).await?;
                let _: () = cache.sadd("tag:1", &key).await?;
                count += 1;
            }
            Ok::<_, redis::RedisError>(count)
        });
    }
    let (begun, mut removed) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(2) {
        removed += rig.sweeper.members(b"tag:1", true, &Paces::new([]), Tell::NOBODY).await?;
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
