//! Fills that read from replicas: what lags, stops and comes back.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::replica::Replica;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

on_both!(fills_from_a_replica_that_lags, a_replica_that_stops);

const WITHIN: Duration = Duration::from_secs(40);
const PRODUCTS: u64 = 30;
const HOT: u64 = 10;

/// A shop on a primary with a replica, which the daemon isn't told of yet.
async fn stage(flavor: Flavor, name: &str) -> Result<Option<(Stage, Replica)>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let db = Arc::new(Db::start(flavor, &["--server-id=11", "--log-slave-updates=1"]).await?);
    let replica = Replica::of(&db).await?;
    let stage = Stage::on(db, name).await?;
    stage.open_shop(PRODUCTS).await?;
    replica.caught_up(&stage.db).await?;
    Ok(Some((stage, replica)))
}

fn with(replica: &Replica, more: &str) -> String {
    format!("replicas: [\"127.0.0.1:{}\"]\n  {more}", replica.db.port())
}

/// Readers that miss read from the replica.
fn readers(
    stage: &Stage,
    replica: &Replica,
    stop: &CancellationToken,
    seed: u64,
) -> Vec<JoinHandle<Result<u64>>> {
    let reader = |n: u64| {
        let (db, schema, redis) = (Arc::clone(&replica.db), stage.schema.clone(), stage.redis.port());
        let (stop, mut rng) = (stop.clone(), StdRng::seed_from_u64(seed ^ n));
        tokio::spawn(async move {
            let mut conn = db.connect().await?;
            let mut cache = shop::redis(redis).await?;
            let mut fills = 0;
            while !stop.is_cancelled() {
                shop::fill(&mut conn, &mut cache, &schema, rng.random_range(1..=HOT)).await?;
                fills += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(fills)
        })
    };
    (0..2).map(reader).collect()
}

/// Writes for a while; meanwhile, and until the replica has it all, readers fill from there. What is stale then. With `held` the replica
/// applies nothing before the daemon has removed all and an old value was put back.
async fn stale_after_load(
    stage: &Stage,
    replica: &Replica,
    daemon: &Daemon,
    seed: u64,
    held: bool,
) -> Result<Vec<String>> {
    if held {
        replica.hold().await?;
    }
    let stop = CancellationToken::new();
    let readers = readers(stage, replica, &stop, seed);
    let mut conn = stage.sql().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let id = rng.random_range(1..=HOT);
        run(&mut conn, &[&format!("UPDATE products SET ver=ver+1 WHERE id={id}")]).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.quiet(daemon).await?;
    if held {
        until("a reader has put an old value back", WITHIN, async || {
            let stale = stage.stale().await?;
            Ok(Seen::check(!stale.is_empty(), || "nothing is stale".to_owned()))
        })
        .await?;
        replica.go_on().await?;
    }
    // Readers that would still find old rows.
    replica.caught_up(&stage.db).await?;
    stop.cancel();
    for reader in readers {
        ensure!(reader.await?? > 100, "void: few fills");
    }
    stage.stale().await
}

/// Old values that a reader takes from a replica which lags by four seconds, twenty times the grace of fills, are removed: after the replica
/// has the commit. A daemon that doesn't know of the replica leaves some for good, which shows that they are put back.
async fn fills_from_a_replica_that_lags(flavor: Flavor) -> Result<()> {
    let Some((mut stage, replica)) = stage(flavor, "lags").await? else { return Ok(()) };
    let seed = seed("fills_from_a_replica_that_lags");
    let mut daemon = stage.start().await?;
    let stale = stale_after_load(&stage, &replica, &daemon, seed, true).await?;
    ensure!(!stale.is_empty(), "void: nothing stale without the gate");
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    let mut redis = shop::redis(stage.redis.port()).await?;
    for id in 1..=HOT {
        redis::cmd("UNLINK")
            .arg(format!("product:{id}"))
            .arg(format!("product:sku:s{id}"))
            .exec_async(&mut redis)
            .await?;
    }
    for category in 0..8 {
        redis::cmd("UNLINK").arg(format!("category:{category}:products")).exec_async(&mut redis).await?;
    }
    stage.settings.source = with(&replica, "");
    replica.delay(4).await?;
    let daemon = stage.start().await?;
    let stale = stale_after_load(&stage, &replica, &daemon, seed, false).await?;
    ensure!(stale.is_empty(), "I1: {stale:?}\n{}", daemon.log_tail());
    Ok(())
}

/// What readers find at the key.
async fn pool(stage: &Stage) -> Result<Vec<String>> {
    let mut redis = shop::redis(stage.redis.port()).await?;
    let text: Option<String> = redis::cmd("GET").arg("rowbust:pool:main").query_async(&mut redis).await?;
    Ok(match text {
        None => Vec::new(),
        Some(text) => serde_json::from_str::<rowbust::published::pool::Listed>(&text)?.members,
    })
}

async fn pool_becomes(stage: &Stage, daemon: &Daemon, expected: &[String]) -> Result<()> {
    let waited = until("the pool", WITHIN, async || {
        let now = pool(stage).await?;
        Ok(Seen::check(now == expected, || format!("{now:?}, expected {expected:?}")))
    });
    waited.await.map_err(|error| daemon.explain(&error))
}

/// A replica that applies nothing holds second removals up for ever, or until it may leave the pool; then it joins again once it has all.
async fn a_replica_that_stops(flavor: Flavor) -> Result<()> {
    let Some((mut stage, replica)) = stage(flavor, "stops").await? else { return Ok(()) };
    let address = |port: u16| format!("127.0.0.1:{port}");
    let both = [address(stage.db.port()), address(replica.db.port())];
    stage.settings.source = with(&replica, "");
    let mut daemon = stage.start().await?;
    pool_becomes(&stage, &daemon, &both).await?;
    stage.quiet(&daemon).await?;
    let mut conn = stage.sql().await?;

    // Never, says the default.
    replica.hold().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=1"]).await?;
    let (held_at, open) = (Cell::new(0), Cell::new(false));
    until("the replica holds it up", WITHIN, async || {
        let status = daemon.status().await?;
        let held = status["visibility"][1]["held_seconds"].as_f64().unwrap_or(0.0);
        held_at.set(status["checkpoint"]["position"].as_u64().unwrap_or(0));
        open.set(status["frontier"]["open_segments"].as_u64() > Some(0));
        Ok(Seen::check(held > 3.0, || status["visibility"].to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(open.get(), "the segment was settled without the replica");
    ensure!(pool(&stage).await? == both, "it has left");
    ensure!(daemon.metric("rowbust_visibility_held_seconds").await? > 3.0);
    ensure!(daemon.metric("rowbust_pool_members").await? == 2.0);
    replica.go_on().await?;
    stage.quiet(&daemon).await?;
    let status = daemon.status().await?;
    ensure!(status["checkpoint"]["position"].as_u64() > Some(held_at.get()), "{status}");
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());

    stage.settings.source = with(&replica, "replica_timeout: 2s");
    let mut daemon = stage.start().await?;
    pool_becomes(&stage, &daemon, &both).await?;
    // Not as long as readers may find it in the list: that can't be written.
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("-set").exec_async(&mut redis).await?;
    replica.hold().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=2"]).await?;
    until("twice the timeout", WITHIN, async || {
        let status = daemon.status().await?;
        let held = status["visibility"][1]["held_seconds"].as_f64().unwrap_or(0.0);
        let is_open = status["frontier"]["open_segments"].as_u64() > Some(0);
        ensure!(held < 1.0 || is_open, "settled while the list has the replica: {status}");
        Ok(Seen::check(held > 4.0, || status["visibility"].to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(pool(&stage).await? == both, "void: the list was written");
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("+set").exec_async(&mut redis).await?;
    pool_becomes(&stage, &daemon, &both[..1]).await?;
    // Without it.
    stage.quiet(&daemon).await?;
    ensure!(daemon.metric("rowbust_pool_members").await? == 1.0);
    // Another daemon doesn't list it either, as it lacks what is done.
    ensure!(daemon.kill9()?);
    let daemon = stage.start().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=4"]).await?;
    let goal = stage.db.newest(&mut conn).await?;
    until("done without it again", WITHIN, async || {
        ensure!(pool(&stage).await? == both[..1], "it is listed again, and lacks what is done");
        let at = daemon.status().await?["checkpoint"].clone();
        let file = at["file"].as_str().unwrap_or_default().to_owned();
        Ok(Seen::check((file, at["position"].as_u64().unwrap_or(0)) >= goal, || at.to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    replica.go_on().await?;
    pool_becomes(&stage, &daemon, &both).await?;
    replica.caught_up(&stage.db).await?;
    // It counts again.
    replica.hold().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=3"]).await?;
    pool_becomes(&stage, &daemon, &both[..1]).await?;
    // A Redis that comes back may bring an older list along: until it is written anew, the replica counts, though nothing was removed
    // behind the mark.
    stage.quiet(&daemon).await?;
    until("the mark", WITHIN, async || {
        let marks = daemon.status().await?["marks"].clone();
        let target = &marks["targets"][0];
        Ok(Seen::check(target["lag_seconds"] == 0.0 && target["error"].is_null(), || marks.to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    stage.redis_down().await?;
    stage.redis_up().await?;
    until("a new life", WITHIN, async || {
        let log = daemon.log_text();
        ensure!(!log.contains("nothing was removed since its mark"), "{}", daemon.log_tail());
        Ok(Seen::check(log.contains("beginning anew at the checkpoint"), || "no word of it".into()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    pool_becomes(&stage, &daemon, &both[..1]).await?;
    replica.go_on().await?;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}");

    // An older config's pool is taken back.
    drop(daemon);
    stage.settings.source = String::new();
    let daemon = stage.start().await?;
    pool_becomes(&stage, &daemon, &[]).await
}
