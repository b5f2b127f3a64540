//! A target on real servers without a daemon: redirects, masters that fail, replicas that lag behind, iterations.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis::cmd;
use rowbust::config::{Durability, Password, RedisMode, RedisTarget};
use rowbust::invalidate::classify::{Class, Failure};
use rowbust::invalidate::target::Target;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::SentinelOptions;
use rowbust_servers::{Need, Redis, RedisCluster, Sentinels, StartOptions, require};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(30);

fn target(mode: RedisMode, durability: Option<Durability>) -> Arc<Target> {
    Target::new(RedisTarget {
        name: "main".into(),
        mode,
        db: 0,
        username: None,
        password: Password::Empty,
        tls: None,
        durability,
    })
}

fn standalone(port: u16) -> RedisMode {
    RedisMode::Standalone { host: "127.0.0.1".into(), port }
}

fn of_cluster(cluster: &RedisCluster) -> RedisMode {
    RedisMode::Cluster { nodes: cluster.ports().into_iter().map(|port| ("127.0.0.1".into(), port)).collect() }
}

/// Keeps a target's breakers watched as the daemon does.
struct Healing(CancellationToken);

impl Healing {
    fn start(target: &Arc<Target>) -> Self {
        let (token, target) = (CancellationToken::new(), Arc::clone(target));
        let stop = token.clone();
        tokio::spawn(async move { target.heal(stop).await });
        Self(token)
    }
}

impl Drop for Healing {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn unlink(target: &Target, keys: &[String]) -> Result<Vec<(usize, Failure)>, Failure> {
    target.unlink(keys.iter().map(String::as_bytes)).await
}

/// Returns when these are removed without a failure.
async fn removes(target: &Target, keys: &[String]) -> Result<()> {
    until("a removal works", WITHIN, async || {
        Ok(match unlink(target, keys).await {
            Ok(failed) if failed.is_empty() => Seen::Done(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await
}

/// By the owners that the slots were given to at first.
fn set(cluster: &RedisCluster, keys: &[String]) {
    let owners = owners(cluster, keys);
    for (n, node) in cluster.nodes.iter().enumerate().take(cluster.ports().len()) {
        let own: Vec<&String> =
            keys.iter().zip(&owners).filter(|(_, o)| **o == n).map(|(key, _)| key).collect();
        if own.is_empty() {
            continue;
        }
        let mut all = redis::pipe();
        for key in own {
            all.set(key, 1).ignore();
        }
        all.query::<()>(&mut redis::Client::open(node.url()).unwrap()).unwrap();
    }
}

/// By Redis' own word.
fn slots(cluster: &RedisCluster, keys: &[String]) -> Vec<u16> {
    let mut all = redis::pipe();
    for key in keys {
        all.cmd("CLUSTER").arg("KEYSLOT").arg(key);
    }
    all.query(&mut redis::Client::open(cluster.nodes[0].url()).unwrap()).unwrap()
}

/// As the slots were given out at first.
fn owners(cluster: &RedisCluster, keys: &[String]) -> Vec<usize> {
    let masters = cluster.ports().len();
    let owner = |slot: u16| (0..masters).find(|n| usize::from(slot) < (n + 1) * 16384 / masters).unwrap();
    slots(cluster, keys).into_iter().map(owner).collect()
}

fn size(cluster: &RedisCluster, node: usize) -> u64 {
    cluster.nodes[node].cli(&["DBSIZE"]).unwrap().parse().unwrap()
}

/// A slot on its way: some keys here, some there, some nowhere; one command for all of them, and one for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves() -> Result<()> {
    for need in Need::CACHES {
        if require(&[need]).is_none() {
            continue;
        }
        let dir = TempDir::new()?;
        let cluster = RedisCluster::start(&ClusterOptions::new(need, dir.path()))?;
        let target = target(of_cluster(&cluster), None);
        target.connect().await?;
        let keys: Vec<String> = (0..40).map(|n| format!("{{tag}}:{n}")).collect();
        let (moving, from) = (slots(&cluster, &keys)[0], owners(&cluster, &keys)[0]);
        let to = (from + 1) % 3;

        // Both halves at once: TRYAGAIN for the whole, ASK for those that are there already.
        set(&cluster, &keys);
        cluster.begin_move(moving, from, to)?;
        ensure!(cluster.move_keys(moving, from, to, 15)? == 15);
        ensure!((size(&cluster, from), size(&cluster, to)) == (25, 15));
        ensure!(unlink(&target, &keys).await == Ok(Vec::new()));
        ensure!((size(&cluster, from), size(&cluster, to)) == (0, 0), "{need}: keys are left");
        // What a reader fills now lands there.
        let mut there = redis::Client::open(cluster.nodes[to].url())?.get_connection()?;
        for key in &keys {
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore().set(key, 1).ignore();
            both.query::<()>(&mut there)?;
        }
        ensure!(size(&cluster, to) == 40);
        ensure!(unlink(&target, &keys[..20]).await == Ok(Vec::new()));
        ensure!(size(&cluster, to) == 20, "{need}: ASK wasn't followed");

        // Moved for good: the target finds out by MOVED, and knows from then on.
        cluster.end_move(moving, from, to)?;
        ensure!(unlink(&target, &keys).await == Ok(Vec::new()));
        ensure!(size(&cluster, to) == 0, "{need}: MOVED wasn't followed");
        ensure!(!target.breaker.is_open(), "a redirect is no failure");
        ensure!(target.servers().iter().all(|server| server.error.is_none()));
    }
    Ok(())
}

/// One master dies: its keys fail, at once from the second time on, those of the others don't. It comes back: all work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_three_dies() -> Result<()> {
    if require(&[Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = TempDir::new()?;
    let mut options = ClusterOptions::new(Need::Redis, dir.path());
    options.args = vec!["--cluster-require-full-coverage".into(), "no".into()];
    let cluster = RedisCluster::start(&options)?;
    let target = target(of_cluster(&cluster), None);
    target.connect().await?;
    let _healing = Healing::start(&target);
    let keys: Vec<String> = (0..300).map(|n| format!("k:{n}")).collect();
    removes(&target, &keys).await?;
    let owners = owners(&cluster, &keys);
    let dead: HashSet<usize> = (0..keys.len()).filter(|at| owners[*at] == 1).collect();
    let others: Vec<String> =
        (0..keys.len()).filter(|at| owners[*at] != 1).map(|at| keys[at].clone()).collect();
    set(&cluster, &others);
    ensure!(!dead.is_empty() && size(&cluster, 0) + size(&cluster, 2) == others.len() as u64);
    cluster.nodes[1].kill9()?;
    for round in 0..3 {
        let begun = Instant::now();
        let failed = unlink(&target, &keys).await.unwrap();
        ensure!(
            failed.iter().map(|(at, _)| *at).collect::<HashSet<_>>() == dead,
            "round {round}: {failed:?}"
        );
        ensure!(failed.iter().all(|(_, failure)| failure.class == Class::Target));
        ensure!(round == 0 || begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    ensure!((size(&cluster, 0), size(&cluster, 2)) == (0, 0), "the others' keys are removed");
    ensure!(!target.breaker.is_open(), "the breaker of the whole");
    ensure!(target.servers().iter().filter(|server| server.error.is_some()).count() == 1);
    // A flush would leave keys out: it has to wait.
    ensure!(target.masters().await.is_err());
    cluster.nodes[1].start_again()?;
    removes(&target, &keys).await?;
    ensure!(target.masters().await.unwrap().len() == 3);
    for node in &cluster.nodes {
        node.kill9()?;
    }
    until("the breaker of the whole opens", WITHIN, async || {
        _ = unlink(&target, &keys).await;
        Ok(Seen::check(target.breaker.is_open(), || "closed".into()))
    })
    .await?;
    for node in &cluster.nodes {
        node.start_again()?;
    }
    target.breaker.closed().await;
    removes(&target, &keys).await
}

/// The replica is frozen: a removal doesn't count, not even on a new connection on which it finds nothing to remove.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_dont_answer() -> Result<()> {
    for need in Need::CACHES {
        if require(&[need]).is_none() {
            continue;
        }
        let dir = TempDir::new()?;
        let group = pair(need, &dir)?;
        let durability = Durability { replicas: 1, timeout: Duration::from_millis(200) };
        let target = target(standalone(group.0.port()), Some(durability));
        target.connect().await?;
        let keys = vec!["k".to_owned()];
        group.0.cli(&["SET", "k", "1"])?;
        until("the replica has it", WITHIN, async || {
            let has = group.1.cli(&["EXISTS", "k"])?;
            Ok(Seen::check(has == "1", || has))
        })
        .await?;
        group.1.freeze()?;
        for round in 0..3 {
            let failure = unlink(&target, &keys).await.unwrap_err();
            ensure!((failure.class, failure.code.as_str()) == (Class::Target, "NOREPLICAS"), "{failure}");
            ensure!(target.breaker.is_open());
            // As the queue's next try: on a new connection, and the key is gone from the master.
            target.connect().await?;
            target.breaker.close();
            ensure!(group.0.cli(&["EXISTS", "k"])? == "0", "{need}: round {round}");
        }
        ensure!(unlink(&target, &keys).await.is_err() && target.breaker.is_open());
        let _healing = Healing::start(&target);
        group.1.thaw()?;
        removes(&target, &keys).await?;
        ensure!(group.1.cli(&["EXISTS", "k"])? == "0", "{need}: acknowledged, and the replica still has it");
        // Too few of them at all.
        group.1.kill9()?;
        let failure = unlink(&target, &keys).await.unwrap_err();
        ensure!(failure.class == Class::Target, "{failure}");
    }
    Ok(())
}

/// A master and its replica.
fn pair(need: Need, dir: &TempDir) -> Result<(Redis, Redis)> {
    let options = |name: &str| {
        let mut options = StartOptions::new(dir.path().join(name));
        for arg in ["--repl-diskless-sync-delay", "0", "--repl-timeout", "600"] {
            options.args.push(arg.into());
        }
        options
    };
    let master = Redis::start_as(need, options("master"))?;
    let mut replica = options("replica");
    replica.args.extend(["--replicaof".into(), "127.0.0.1".into(), master.port().to_string()]);
    let replica = Redis::start_as(need, replica)?;
    let begun = Instant::now();
    while !master.cli(&["INFO", "replication"])?.contains("state=online") {
        ensure!(begun.elapsed() < WITHIN, "the replica doesn't come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((master, replica))
}

/// `READONLY` and `CLIENT PAUSE`: the breaker opens, and closes by itself once writing works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_and_a_pause() -> Result<()> {
    if require(&[Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = TempDir::new()?;
    let (_master, replica) = pair(Need::Redis, &dir)?;
    let target = target(standalone(replica.port()), None);
    target.connect().await?;
    let _healing = Healing::start(&target);
    let keys = vec!["k".to_owned()];
    let failure = unlink(&target, &keys).await.unwrap_err();
    ensure!((failure.class, failure.code.as_str()) == (Class::Target, "READONLY"), "{failure}");
    // It answers PING well, so the probe must not close the breaker.
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(target.breaker.is_open(), "closed over a replica");
    replica.cli(&["REPLICAOF", "NO", "ONE"])?;
    removes(&target, &keys).await?;

    replica.cli(&["CLIENT", "PAUSE", "60000", "WRITE"])?;
    let failure = unlink(&target, &keys).await.unwrap_err();
    ensure!((failure.class, failure.code.as_str()) == (Class::Target, "TIMEOUT"), "{failure}");
    ensure!(target.breaker.is_open());
    replica.cli(&["CLIENT", "UNPAUSE"])?;
    removes(&target, &keys).await
}

/// Each master has a tag of its own; an iteration over all of them finds every key; a connection that breaks is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_one_by_one() -> Result<()> {
    if require(&[Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = TempDir::new()?;
    let cluster = RedisCluster::start(&ClusterOptions::new(Need::Redis, dir.path()))?;
    let target = target(of_cluster(&cluster), None);
    target.connect().await?;
    let keys: Vec<String> = (0..200).map(|n| format!("k:{n}")).collect();
    set(&cluster, &keys);
    let mut found = HashSet::new();
    let mut masters = target.masters().await.unwrap();
    ensure!(masters.len() == 3);
    for master in &mut masters {
        let own = format!("rowbust:{{{}}}", master.tag().unwrap());
        master.ask::<()>(cmd("SET").arg(&own).arg(1).arg("EX").arg(60)).await.unwrap();
        let mut cursor: u64 = 0;
        loop {
            let (next, page): (u64, Vec<String>) = master.ask(cmd("SCAN").arg(cursor)).await.unwrap();
            found.extend(page.into_iter().filter(|key| key.starts_with("k:")));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    ensure!(found.len() == keys.len(), "{} of {}", found.len(), keys.len());
    let again: Vec<_> = target.masters().await.unwrap().iter().map(|m| m.tag().map(str::to_owned)).collect();
    ensure!(again == masters.iter().map(|m| m.tag().map(str::to_owned)).collect::<Vec<_>>());

    cluster.nodes[0].cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])?;
    let first = format!("127.0.0.1:{}", cluster.nodes[0].port());
    let broken = masters.iter_mut().find(|master| master.address() == first).unwrap();
    let begun = Instant::now();
    let failure = loop {
        match broken.ask::<String>(&cmd("PING")).await {
            Err(failure) => break failure,
            Ok(_) => ensure!(begun.elapsed() < WITHIN, "the connection doesn't break"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    ensure!(failure.class == Class::Target, "{failure}");
    let _healing = Healing::start(&target);
    removes(&target, &keys).await?;
    // For the one that broke that changes nothing.
    ensure!(broken.ask::<String>(&cmd("PING")).await.is_err(), "another connection took its place");
    Ok(())
}

/// A name that no sentinel knows ends the start; sentinels that are down don't while one answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sentinels_say() -> Result<()> {
    if require(&[Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = TempDir::new()?;
    let group = Sentinels::start(&SentinelOptions::new(Need::Redis, dir.path()))?;
    let mode = |name: &str| RedisMode::Sentinel {
        master: name.into(),
        nodes: group.ports().into_iter().map(|port| ("127.0.0.1".into(), port)).collect(),
        username: None,
        password: Password::Empty,
        tls: None,
    };
    let error = target(mode("nobody"), None).connect().await.unwrap_err().to_string();
    ensure!(error.contains("No such master") && error.contains("nobody"), "{error}");
    let target = target(mode("shop"), None);
    group.sentinels[0].stop()?;
    group.sentinels[1].freeze()?;
    target.connect().await?;
    ensure!(target.servers()[0].port == group.servers[0].port());
    removes(&target, &["k".to_owned()]).await?;
    group.sentinels[2].stop()?;
    ensure!(target.connect().await.is_err());
    // The connection is still good.
    removes(&target, &["k".to_owned()]).await
}

/// Keys a second, cluster against standalone, and one command per slot against one per key. Run it alone:
/// `cargo test --release -p rowbust-integration-tests --test redis -- --ignored --nocapture throughput`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() -> Result<()> {
    const BATCH: usize = 512;
    const AT_ONCE: usize = 8;
    const BATCHES: usize = 400;
    if require(&[Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = TempDir::new()?;
    let one = Redis::start(StartOptions::new(dir.path().join("one")))?;
    let cluster = RedisCluster::start(&ClusterOptions::new(Need::Redis, dir.path().join("cluster")))?;
    for (name, mode) in [("standalone", standalone(one.port())), ("cluster", of_cluster(&cluster))] {
        let target = target(mode, None);
        target.connect().await?;
        for (kind, tags) in [("no hash tags", 0), ("16 keys a tag", 16)] {
            for how in ["unlink", "remove_each"] {
                let begun = Instant::now();
                let tasks = (0..AT_ONCE).map(|task| {
                    let target = Arc::clone(&target);
                    tokio::spawn(async move {
                        for batch in 0..BATCHES {
                            let first = (task * BATCHES + batch) * BATCH;
                            let name = |n: usize| match tags {
                                0 => format!("product:{n}"),
                                tags => format!("product:{{{}}}:{n}", n / tags),
                            };
                            let keys: Vec<String> = (first..first + BATCH).map(name).collect();
                            let removals: Vec<_> = keys
                                .iter()
                                .map(|key| rowbust::pipeline::batch::Removal {
                                    key: key.as_bytes(),
                                    field: None,
                                })
                                .collect();
                            if how == "unlink" {
                                assert_eq!(unlink(&target, &keys).await, Ok(Vec::new()));
                            } else {
                                assert!(
                                    target.remove_each(&removals).await.unwrap().iter().all(Result::is_ok)
                                );
                            }
                        }
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await?;
                }
                let keys = (AT_ONCE * BATCHES * BATCH) as f64;
                eprintln!(
                    "{name:>10} {kind:>14} {how:>12}: {:>9.0} keys/s",
                    keys / begun.elapsed().as_secs_f64()
                );
            }
        }
    }
    Ok(())
}
