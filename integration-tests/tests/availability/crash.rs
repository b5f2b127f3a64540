//! kill -9 at every named point, and at random moments, under load: invariants I1 to I4 and I7.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rowbust::failpoint::POINTS;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;

on_both!(kill_at_each_point, kill_at_random_moments);

/// Deaths per point.
const HITS: usize = 5;
/// Deaths at random moments.
const RANDOM_KILLS: usize = 50;
/// From a start to the death at its point, on a loaded machine.
const DIES_WITHIN: Duration = Duration::from_secs(30);
const PRODUCTS: u64 = 200;
const HOT: u64 = 100;

fn plan(seed: u64) -> Plan {
    Plan { writers: 2, readers: 2, pause: Duration::from_millis(10), hot: HOT, seed }
}

async fn kill_at_each_point(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "points").await? else { return Ok(()) };
    let seed = seed("kill_at_each_point");
    let mut rng = StdRng::seed_from_u64(seed);
    stage.open_shop(PRODUCTS).await?;
    // The first checkpoint: from now on there is a position to lose.
    ensure!(stage.start().await?.kill9()?);
    let load = stage.load(plan(seed));
    let mut snapshots = Vec::new();
    let mut deaths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut queued = 0;
    for point in POINTS {
        for hit in 0..HITS {
            // The queue's points are met only while Redis refuses.
            let redis_down = point.contains("queue");
            if redis_down {
                stage.proxy.cut().await;
            }
            // Not always the first time that the point is met. The first checkpoint of a run is saved before anything is read.
            // What the queue's points left behind is one batch.
            let skip = match *point {
                "before_retry_noted" => 0,
                point => rng.random_range(0..if point.contains("checkpoint") { 4 } else { 6 }),
            };
            let mut daemon = stage.launch(&format!("{point}={skip}*off->return"))?;
            daemon
                .killed_at(point, DIES_WITHIN)
                .await
                .with_context(|| format!("hit {hit}, after {skip} times"))?;
            *deaths.entry(point).or_default() += 1;
            let snapshot = stage.snapshot(format!("{point}, hit {hit}")).await?;
            queued += snapshot.queued.len();
            snapshots.push(snapshot);
            stage.proxy.open().await?;
        }
    }
    let history = load.stop().await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let checked = stage.judge(&history, &snapshots, PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    ensure!(POINTS.iter().all(|p| deaths.get(p) == Some(&HITS)), "void: {deaths:?}");
    ensure!(checked.behind_checkpoints > 0, "void: no checkpoint passed a change: {checked:?}");
    ensure!(queued > 0, "void: nothing was ever queued");
    eprintln!("{}: deaths {deaths:?}", flavor.name());
    Ok(())
}

async fn kill_at_random_moments(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "moments").await? else { return Ok(()) };
    let seed = seed("kill_at_random_moments");
    let mut rng = StdRng::seed_from_u64(seed);
    stage.open_shop(PRODUCTS).await?;
    ensure!(stage.start().await?.kill9()?);
    let load = stage.load(plan(seed));
    let mut snapshots = Vec::new();
    let (mut deaths, mut ready, mut cuts) = (0, 0, 0);
    while deaths < RANDOM_KILLS {
        let mut daemon = stage.launch("")?;
        // Some die while they start, most at work, some of them without Redis.
        if !rng.random_ratio(1, 5) {
            daemon.ready().await?;
            ready += 1;
        }
        let cut = rng.random_ratio(1, 5);
        if cut {
            stage.proxy.cut().await;
            cuts += 1;
        }
        // The fault's moment; nothing waits for it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..700))).await;
        ensure!(daemon.kill9()?, "the daemon had ended by itself\n{}", daemon.log_tail());
        deaths += 1;
        snapshots.push(stage.snapshot(format!("random kill {deaths}")).await?);
        if cut {
            stage.proxy.open().await?;
        }
    }
    let history = load.stop().await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let checked = stage.judge(&history, &snapshots, PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    ensure!(checked.behind_checkpoints > 0, "void: no checkpoint passed a change: {checked:?}");
    eprintln!("{}: {deaths} deaths, {ready} of daemons at work, {cuts} without redis", flavor.name());
    Ok(())
}
