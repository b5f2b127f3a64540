//! FAULTS 27: the wall clock is set, while the daemon runs and while it doesn't. Nothing stays stuck, nothing is missed; that nothing is
//! early is shown beside the store.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rowbust::telemetry;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

const PRODUCTS: u64 = 100;
const HOT: u64 = 50;
const WITHIN: Duration = Duration::from_secs(40);
/// What is owed comes within the tier's delay of 1 s and the breaker's wait, however the clock was set.
const RETRIED_WITHIN: Duration = Duration::from_secs(30);

/// The day of the last line of its log.
fn day(daemon: &Daemon) -> Result<String> {
    let text = daemon.log_text();
    let line = text.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let time = line.as_ref().and_then(|line| line["timestamp"].as_str()).context("no line with a time")?;
    Ok(time.chars().take(10).collect())
}

/// Redis ends, and keys go to the queue.
async fn owe(stage: &mut Stage, daemon: &Daemon) -> Result<()> {
    let queued = daemon.metric(telemetry::KEYS_QUEUED).await?;
    stage.redis_down().await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, queued + 20.0, WITHIN).await?;
    Ok(())
}

async fn paid(daemon: &Daemon) -> Result<()> {
    until("what was owed is removed", RETRIED_WITHIN, async || {
        let status = daemon.status().await?;
        Ok(Seen::check(status["queue"]["pending"] == 0, || status["queue"].to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_holds_nothing_up() -> Result<()> {
    let Some(library) = require(&[Need::Faketime]).and_then(|found| found.faketime) else { return Ok(()) };
    let Some(mut stage) = Stage::new(Flavor::MySql, "clock").await? else { return Ok(()) };
    let offset = stage.dir().join("offset");
    let set = |file: &Path, by: &str| fs::write(file, format!("{by}\n"));
    set(&offset, "+0")?;
    stage.settings.env = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        // A clock that is set doesn't touch that one.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    stage.open_shop(PRODUCTS).await?;
    let mut daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    let pause = Duration::from_millis(10);
    let load = stage.load(Plan { writers: 2, readers: 1, pause, hot: HOT, seed: seed("clock") });
    let today = day(&daemon)?;

    // While it runs; then while it is down, by two days to the other side of what its records say.
    for (running, stopped) in [("-1d", "+1d"), ("+0", "-1d")] {
        owe(&mut stage, &daemon).await?;
        set(&offset, running)?;
        stage.redis_up().await?;
        paid(&daemon).await?;
        owe(&mut stage, &daemon).await?;
        ensure!(daemon.kill9()?);
        set(&offset, stopped)?;
        daemon = stage.start().await?;
        let now = day(&daemon)?;
        let moved = if stopped.starts_with('+') { now > today } else { now < today };
        ensure!(moved, "void: it is {now} for the daemon, it was {today}");
        stage.redis_up().await?;
        paid(&daemon).await?;
    }

    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    stage.judge(&history, &[], PRODUCTS, HOT).await.map_err(|error| daemon.explain(&error))?;
    let status = daemon.status().await?;
    ensure!(status["queue"]["dead"] == 0, "no dead letter by a clock: {status}");
    Ok(())
}
