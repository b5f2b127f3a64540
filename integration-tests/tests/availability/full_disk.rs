//! FAULTS 26, the checkpoint's part: on a full disk the daemon serves on, holds the checkpoint, and says so.

use std::time::Duration;

use anyhow::{Result, ensure};
use rowbust::telemetry;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::disk::Disk;
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{http, shop};

const WITHIN: Duration = Duration::from_secs(40);
const PRODUCTS: u64 = 60;
const HOT: u64 = 30;
const HELD: &str = "checkpoint not saved, holding it";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_the_checkpoint() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "full_disk").await? else { return Ok(()) };
    let Some(disk) = Disk::mount("256k")? else { return Ok(()) };
    stage.settings.checkpoint = Some(disk.path().join("checkpoint"));
    stage.open_shop(PRODUCTS).await?;
    let mut daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    let plan = Plan {
        writers: 2,
        readers: 1,
        pause: Duration::from_millis(10),
        hot: HOT,
        seed: seed("holds_the_checkpoint"),
    };
    let load = stage.load(plan);
    let mut conn = stage.sql().await?;

    disk.fill()?;
    let failures = daemon.metric(telemetry::CHECKPOINT_FAILURES).await?;
    daemon.metric_at_least(telemetry::CHECKPOINT_FAILURES, failures + 2.0, WITHIN).await?;
    let before = stage.checkpoint()?;
    // It serves on.
    let mut cache = shop::redis(stage.redis.port()).await?;
    run(&mut conn, &["INSERT INTO orders VALUES (900001,1,900001)"]).await?;
    until("a removal behind the checkpoint", WITHIN, async || {
        stage.fence()?;
        let removed = stage.removals.of("order:900001").len();
        Ok(Seen::check(removed >= 2, || format!("{removed} removals")))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(!redis::cmd("EXISTS").arg("order:900001").query_async::<bool>(&mut cache).await?);
    let (now, saves) = (stage.checkpoint()?, daemon.metric(telemetry::CHECKPOINT_SAVES).await?);
    ensure!(now == before, "void: it was saved: {now:?}");
    // And says so.
    ensure!(daemon.metric(telemetry::CHECKPOINT_AGE).await? > 0.0);
    ensure!(http::get(stage.admin(), "/readyz").await?.0 == 200, "a daemon that removes keys is ready");
    let status = daemon.status().await?;
    ensure!(status["checkpoint"]["behind"] == true && status["caught_up"] == false, "{status}");
    let log = daemon.log_text();
    let said = |line: &&str| line.contains("ERROR") && line.contains(HELD) && line.contains("No space left");
    ensure!(log.lines().any(|line| said(&line)), "{}", daemon.log_tail());

    // Room comes back: it saves by itself.
    disk.make_room()?;
    daemon.metric_at_least(telemetry::CHECKPOINT_SAVES, saves + 2.0, WITHIN).await?;
    let behind = async || {
        let status = daemon.status().await?;
        let saved = stage.checkpoint()?;
        Ok(Seen::check(saved.position > before.position, || format!("{saved:?}: {status}")))
    };
    until("it is saved", WITHIN, behind).await?;

    // An end on a full disk is no good end, and the next start begins at the old place.
    disk.fill()?;
    let failures = daemon.metric(telemetry::CHECKPOINT_FAILURES).await?;
    daemon.metric_at_least(telemetry::CHECKPOINT_FAILURES, failures + 1.0, WITHIN).await?;
    run(&mut conn, &["INSERT INTO orders VALUES (900002,1,900002)"]).await?;
    let ended = daemon.sigterm(WITHIN).await?;
    ensure!(ended.code() == Some(1), "{ended}\n{}", daemon.log_tail());
    ensure!(daemon.log_tail().contains("No space left"), "{}", daemon.log_tail());
    let snapshot = stage.snapshot("ended on a full disk").await?;
    let from = stage.removals.total();
    let daemon = stage.launch("")?;
    until("the next one says it too", WITHIN, async || {
        Ok(Seen::check(daemon.log_text().contains("No space left"), || daemon.log_tail()))
    })
    .await?;
    ensure!(stage.checkpoint()? == snapshot.checkpoint, "the old checkpoint is kept");
    disk.make_room()?;
    let mut daemon = daemon;
    daemon.ready().await?;
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.removals.since(from).contains_key("order:900002"), "not repeated\n{}", daemon.log_tail());
    ensure!(stage.checkpoint()?.generation > snapshot.checkpoint.generation);
    stage.judge(&history, &[snapshot], PRODUCTS, HOT).await.map_err(|error| daemon.explain(&error))?;
    Ok(())
}
