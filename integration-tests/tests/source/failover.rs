//! A backlog that lies across a failover, while a server that readers fill from lags behind both.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rowbust::telemetry;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::proxy::Proxy;
use rowbust_integration_tests::replica::Replica;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

on_both!(a_backlog_over_a_failover);

const WITHIN: Duration = Duration::from_secs(40);
const PRODUCTS: u64 = 30;
/// Changed before the failover, and from there up to [`CHANGED`] after it.
const BEFORE: u64 = 10;
const CHANGED: u64 = 20;

/// The new primary shows all of the backlog long before it is read: that alone must not make one removal enough, as the replica shows none of
/// it. Old values that readers put back from there are gone once it does.
async fn a_backlog_over_a_failover(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let first = Arc::new(Db::start(flavor, &["--server-id=11", "--log-slave-updates=1"]).await?);
    let lagging = Replica::of(&first).await?;
    let second = Replica::numbered(&first, 13).await?;
    let mut stage = Stage::on(Arc::clone(&first), "backlog").await?;
    stage.open_shop(PRODUCTS).await?;
    let mut proxy = Proxy::start(first.port()).await?;
    stage.settings.port = Some(proxy.port());
    stage.settings.source = format!("lossless: true\n  replicas: [\"127.0.0.1:{}\"]", lagging.db.port());
    let mut daemon = stage.start().await?;
    lagging.caught_up(&first).await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.kill9()?);
    drop(daemon);

    lagging.hold().await?;
    let mut conn = stage.sql().await?;
    for id in 1..=BEFORE {
        run(&mut conn, &[&format!("UPDATE products SET ver={} WHERE id={id}", 5000 + id)]).await?;
    }
    drop(conn);
    second.caught_up(&first).await?;
    second.stop().await?;
    proxy.cut().await;
    tokio::task::block_in_place(|| first.stop())?;
    lagging.follow_held(&second.db).await?;
    stage.db = Arc::clone(&second.db);
    proxy.aim(second.db.port());
    proxy.open().await?;
    let mut conn = stage.sql().await?;
    for id in BEFORE + 1..=CHANGED {
        run(&mut conn, &[&format!("UPDATE products SET ver={} WHERE id={id}", 5000 + id)]).await?;
    }
    let committed = stage.db.newest(&mut conn).await?;

    let from = stage.removals.total();
    let daemon = stage.start().await?;
    ensure!(daemon.metric(telemetry::GAPS).await? == 0.0, "{}", daemon.log_tail());
    let keys: Vec<String> = (1..=CHANGED).map(|id| format!("product:{id}")).collect();
    until("the backlog is removed once", WITHIN, async || {
        stage.fence()?;
        let removed = stage.removals.since(from);
        let left: Vec<&String> = keys.iter().filter(|key| !removed.contains_key(*key)).collect();
        Ok(Seen::check(left.is_empty(), || format!("{left:?} are left")))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    // The replica is waited for …
    until("second removals wait for the replica", WITHIN, async || {
        let held = daemon.metric(telemetry::VISIBILITY_HELD).await?;
        let grace = shop::FILL_GRACE.as_secs_f64();
        Ok(Seen::check(held > 4.0 * grace, || format!("{held} s")))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    let saved = stage.checkpoint()?;
    ensure!((saved.file.as_str(), saved.position) != (committed.0.as_str(), committed.1), "{saved:?}");
    // … and shows why.
    until("old values are put back", WITHIN, async || {
        let (mut old, mut cache) = (lagging.db.connect().await?, shop::redis(stage.redis.port()).await?);
        for id in 1..=CHANGED {
            shop::fill(&mut old, &mut cache, &stage.schema, id).await?;
        }
        let stale = stage.stale().await?;
        Ok(Seen::check(stale.len() >= keys.len(), || format!("{} are stale", stale.len())))
    })
    .await?;
    let firsts = stage.removals.total();

    lagging.go_on().await?;
    lagging.caught_up(&stage.db).await?;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "I1: {stale:?}\n{}", daemon.log_tail());
    let seconds = stage.removals.since(firsts);
    let once: Vec<&String> = keys.iter().filter(|key| !seconds.contains_key(*key)).collect();
    ensure!(once.is_empty(), "{once:?} were removed once only");
    ensure!(daemon.metric(telemetry::GAPS).await? == 0.0, "{}", daemon.log_tail());
    Ok(())
}
