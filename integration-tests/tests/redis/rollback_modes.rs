//! Redis loses its memory where there is more than one server: a master of a cluster comes back with an old snapshot, sentinels promote a
//! replica that lacks the last removals.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::{ClusterOptions, RedisCluster};
use rowbust_servers::sentinel::{MASTER, SentinelOptions, Sentinels};
use rowbust_servers::{Need, Redis};

const WITHIN: Duration = Duration::from_secs(60);
/// Rows whose keys are cached; the first half of them changes.
const ROWS: u32 = 60;

/// A table with its rows, and a daemon on `redis` that has left its mark.
async fn start(stage: &mut Stage, redis: String) -> Result<Daemon> {
    stage.settings.redis = Some(redis);
    let schema = stage.schema.clone();
    stage.settings.mappings =
        Some(format!("\n  - table: {schema}.t\n    fill_grace: 50ms\n    keys: [\"app:{{id}}\"]\n"));
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            &format!("CREATE DATABASE IF NOT EXISTS {schema}"),
            &format!("CREATE TABLE {schema}.t (id INT PRIMARY KEY, ver INT)"),
        ],
    )
    .await?;
    for id in 0..ROWS {
        conn.query_drop(format!("INSERT INTO {schema}.t VALUES ({id}, 1)")).await?;
    }
    let daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    Ok(daemon)
}

async fn change(stage: &Stage) -> Result<()> {
    let mut conn = stage.db.connect().await?;
    let half = ROWS / 2;
    conn.query_drop(format!("UPDATE {}.t SET ver = ver + 1 WHERE id < {half}", stage.schema)).await?;
    Ok(())
}

/// Ids whose keys are on one of these.
fn cached(servers: &[&Redis]) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for server in servers {
        let keys = server.cli(&["KEYS", "app:*"])?;
        ids.extend(keys.lines().filter_map(|key| key.strip_prefix("app:")?.parse::<u32>().ok()));
    }
    Ok(ids)
}

async fn counts(daemon: &Daemon) -> Result<(f64, f64)> {
    Ok((daemon.metric("rowbust_rewinds_total").await?, daemon.metric("rowbust_memory_flushes_total").await?))
}

/// Returns when the daemon has rewound so often.
async fn rewound(daemon: &Daemon, times: f64) -> Result<()> {
    let waited = until("the rewind", WITHIN, async || {
        Ok(match daemon.metric("rowbust_rewinds_total").await {
            Ok(now) => Seen::check(now >= times, || now.to_string()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    });
    waited.await.map_err(|error| daemon.explain(&error))
}

/// What changed is gone, the rest is there.
fn healed(servers: &[&Redis], daemon: &Daemon) -> Result<()> {
    let found = cached(servers)?;
    let expected: BTreeSet<u32> = (ROWS / 2..ROWS).collect();
    let stale: Vec<_> = found.difference(&expected).collect();
    ensure!(stale.is_empty(), "I1: {stale:?}\n{}", daemon.log_tail());
    ensure!(found == expected, "removed without need: {:?}", expected.difference(&found));
    Ok(())
}

/// Each master has its own mark; one of them forgets, and what is missing there is repeated. The others' keys stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "rollback_cluster").await? else { return Ok(()) };
    let options = ClusterOptions::new(Need::Redis, stage.dir().join("cluster"));
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
    let nodes: Vec<String> = cluster.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let redis = format!("{{ mode: cluster, nodes: [{}] }}", nodes.join(", "));
    let servers: Vec<&Redis> = cluster.nodes.iter().collect();
    let fill = || -> Result<()> {
        (0..ROWS).try_for_each(|id| servers[0].cli(&["-c", "SET", &format!("app:{id}"), "old"]).map(drop))
    };
    let daemon = start(&mut stage, redis).await?;
    let marks: Vec<String> =
        servers.iter().map(|s| s.cli(&["KEYS", "rowbust:mark:*"])).collect::<Result<_>>()?;
    ensure!(marks.iter().all(|keys| keys.lines().count() == 1), "one mark on each: {marks:?}");

    fill()?;
    let before = cached(&servers[..1])?;
    ensure!(before.iter().any(|id| *id < ROWS / 2), "void: nothing of it on the first");
    servers[0].cli(&["SAVE"])?;
    change(&stage).await?;
    stage.marked(&daemon).await?;
    healed(&servers, &daemon)?;
    servers[0].shutdown_nosave()?;
    servers[0].start_again()?;
    cluster.until("all slots are served", |info| info.contains("cluster_state:ok"))?;
    rewound(&daemon, 1.0).await?;
    stage.marked(&daemon).await?;
    healed(&servers, &daemon)?;
    ensure!(counts(&daemon).await? == (1.0, 0.0), "{}", daemon.log_tail());

    // The mark's own slot moves: that is no loss, and nothing is flushed.
    let mark = servers[0].cli(&["KEYS", "rowbust:mark:*"])?;
    let slot: u16 = servers[0].cli(&["CLUSTER", "KEYSLOT", mark.trim()])?.trim().parse()?;
    cluster.move_slot(slot, 0, 1)?;
    change(&stage).await?;
    stage.marked(&daemon).await?;
    fill()?;
    change(&stage).await?;
    stage.marked(&daemon).await?;
    healed(&servers, &daemon)?;
    let (rewinds, flushes) = counts(&daemon).await?;
    ensure!(rewinds <= 2.0 && flushes == 0.0, "{rewinds} rewinds, {flushes} flushes\n{}", daemon.log_tail());
    Ok(())
}

/// The replica was cut off before the last removals, and is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_sentinels() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "rollback_sentinel").await? else { return Ok(()) };
    let options = SentinelOptions::new(Need::Redis, stage.dir().join("sentinels"));
    let group = tokio::task::spawn_blocking(move || Sentinels::start(&options)).await??;
    let nodes: Vec<String> = group.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let redis = format!("{{ mode: sentinel, nodes: [{}], master: {MASTER} }}", nodes.join(", "));
    let first = group.master().context("no master")?;
    let master = &group.servers[first];
    let daemon = start(&mut stage, redis).await?;
    for id in 0..ROWS {
        master.cli(&["SET", &format!("app:{id}"), "old"])?;
    }
    let others: Vec<&Redis> =
        group.servers.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, server)| server).collect();
    for replica in others.iter().copied() {
        until("the replica has it all", WITHIN, async || {
            let found = cached(&[replica])?.len();
            Ok(Seen::check(found == ROWS as usize, || found.to_string()))
        })
        .await?;
    }
    // Who comes back isn't let in: the replica stays as it is.
    master.cli(&["ACL", "SETUSER", "default", "-psync", "-sync"])?;
    master.cli(&["CLIENT", "KILL", "TYPE", "replica"])?;
    change(&stage).await?;
    stage.marked(&daemon).await?;
    healed(&[master], &daemon)?;
    ensure!(cached(&others[..1])?.len() == ROWS as usize, "void: the replica has it all");
    let before = counts(&daemon).await?;
    master.kill9()?;
    let promoted = &group.servers[group.promoted(first)?];
    rewound(&daemon, before.0 + 1.0).await?;
    stage.marked(&daemon).await?;
    healed(&[promoted], &daemon)?;
    ensure!(counts(&daemon).await?.1 == 0.0, "{}", daemon.log_tail());
    Ok(())
}
