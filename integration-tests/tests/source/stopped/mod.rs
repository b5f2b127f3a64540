//! A daemon that was stopped, and what it finds when it is started again.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::Conn;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

pub const WITHIN: Duration = Duration::from_secs(30);

/// A stage on a server of its own, with a shop and a daemon that has read everything and was stopped.
pub async fn stopped(flavor: Flavor, name: &str) -> Result<Option<(Stage, Conn)>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let db = Arc::new(Db::start(flavor, &["--server-id=11", "--log-slave-updates=1"]).await?);
    let stage = Stage::on(db, name).await?;
    stage.open_shop(20).await?;
    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=1000 WHERE id=1"]).await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    Ok(Some((stage, conn)))
}

pub fn reset(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MariaDb => "RESET MASTER",
        Flavor::MySql => "RESET BINARY LOGS AND GTIDS",
    }
}

/// It ends with a gap, saying what is missing; with `on_gap: flush` it goes on, with nothing stale and nothing else gone.
pub async fn halts_then_flushes(stage: &mut Stage, said: &str) -> Result<Daemon> {
    let before = stage.checkpoint()?;
    stage.settings.source = String::new();
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    let log = daemon.log_text();
    ensure!(
        status.code() == Some(1)
            && log.contains("gap in the binlog")
            && log.contains(said)
            && log.contains("on_gap: flush"),
        "{status}, should say {said:?}\n{}",
        daemon.log_tail()
    );
    // What lies before the gap may have been read.
    let held = stage.checkpoint()?;
    ensure!(held.epoch == before.epoch, "{held:?}");
    if !said.contains("crashed") {
        ensure!((&held.gtids, held.position) == (&before.gtids, before.position), "{held:?}");
    }
    stage.settings.source = "on_gap: flush".into();
    let daemon = stage.start().await?;
    flushed(stage, &daemon, before.epoch + 1).await?;
    ensure!(daemon.metric("rowbust_gaps_total").await? == 1.0);
    Ok(daemon)
}

/// Every key of the shop is gone, others are not, and changes are followed.
pub async fn flushed(stage: &Stage, daemon: &Daemon, epoch: u64) -> Result<()> {
    let waited = until("the new epoch", WITHIN, async || {
        let saved = stage.checkpoint()?;
        Ok(Seen::check(saved.epoch == epoch, || format!("{saved:?}")))
    });
    waited.await.map_err(|e| daemon.explain(&e))?;
    let mut redis = shop::redis(stage.redis.port()).await?;
    let keys = shop::cached(&mut redis).await?;
    ensure!(
        keys.iter().all(|key| key.starts_with("control:")) && keys.len() == 20,
        "left: {keys:?}\n{}",
        daemon.log_tail()
    );
    redis.set::<_, _, ()>("product:4", "stale").await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=4"]).await?;
    stage.quiet(daemon).await?;
    ensure!(!redis.exists::<_, bool>("product:4").await?, "{}", daemon.log_tail());
    Ok(())
}

/// The next start is a first one.
pub fn without_checkpoint(stage: &Stage) -> Result<()> {
    for suffix in ["", ".prev"] {
        std::fs::remove_file(format!("{}{suffix}", stage.checkpoint_path().display()))?;
    }
    Ok(())
}
