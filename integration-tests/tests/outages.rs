//! Servers that go and come back: everything converges by itself, and the incident is visible.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rowbust::telemetry;
use rowbust_integration_tests::db::{Db, Flavor};
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Kafka, Need, StartOptions, require};

on_both!(mysql_restarted, redis_stopped, redis_and_kafka_stopped);

const PRODUCTS: u64 = 200;
const HOT: u64 = 100;
/// The first retry tier's delay, as in the config of the tests.
const FIRST_TIER: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(40);

fn plan(seed: u64) -> Plan {
    Plan { writers: 2, readers: 2, pause: Duration::from_millis(10), hot: HOT, seed }
}

/// Returns when the load has done `more` transactions more.
async fn load_goes_on(load: &rowbust_integration_tests::load::Load, more: usize) -> Result<()> {
    let goal = load.transactions() + more;
    until("the load goes on", WITHIN, async || {
        let now = load.transactions();
        Ok(Seen::check(now >= goal, || format!("{now} of {goal}")))
    })
    .await
}

async fn mysql_restarted(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    // Not the shared one: other tests use that meanwhile.
    let db = Arc::new(Db::start(flavor, &[]).await?);
    let stage = Stage::on(db, "db_restarted").await?;
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    let load = stage.load(plan(seed("mysql_restarted")));
    for restart in 1..=3 {
        load_goes_on(&load, 50).await?;
        tokio::task::block_in_place(|| stage.db.stop().and_then(|()| stage.db.start_again()))?;
        daemon.metric_at_least(telemetry::RECONNECTS, f64::from(restart), WITHIN).await?;
    }
    load_goes_on(&load, 50).await?;
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    stage.judge(&history, &[], PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    Ok(())
}

async fn redis_stopped(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "redis_stopped").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let mut daemon = stage.start().await?;
    let load = stage.load(plan(seed("redis_stopped")));
    load_goes_on(&load, 50).await?;
    stage.redis_down().await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, 50.0, WITHIN).await?;
    // The outage outlasts the first tier several times: no attempt may be used up by it.
    tokio::time::sleep(FIRST_TIER * 6).await;
    load_goes_on(&load, 50).await?;
    ensure!(daemon.metric(telemetry::BREAKER_OPEN).await? > 0.0, "the breaker is open\n{}", daemon.log_tail());
    let status = daemon.status().await?;
    ensure!(status["queue"]["pending"].as_u64() > Some(0), "{status}");
    // Killed while everything is owed: the queue is as durable as the checkpoint says.
    ensure!(daemon.kill9()?);
    let snapshot = stage.snapshot("kill -9 while redis is down").await?;
    ensure!(!snapshot.queued.is_empty(), "void: nothing queued");
    let daemon = stage.start().await?;
    load_goes_on(&load, 50).await?;
    stage.redis_up().await?;
    load_goes_on(&load, 50).await?;
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    let checked = stage.judge(&history, &[snapshot], PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    ensure!(checked.by_queue > 0, "void: the checkpoint never rested on the queue: {checked:?}");
    let status = daemon.status().await?;
    ensure!(status["queue"]["dead"].as_u64() == Some(0), "no dead letter by an outage: {status}");
    Ok(())
}

async fn redis_and_kafka_stopped(flavor: Flavor) -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(mut stage) = Stage::new(flavor, "kafka_stopped").await? else { return Ok(()) };
    let dir = stage.dir().join("kafka");
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(StartOptions::new(dir))).await??;
    // Time-outs shorter than the outage, so that the refusal is seen, too.
    stage.settings.retry = Some(format!(
        "{{ kafka: {{ brokers: [\"{}\"], prefix: e2e, properties: {{ message.timeout.ms: \"3000\" }} }}, delay: 1s, attempts: 5 }}",
        kafka.brokers()
    ));
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    let load = stage.load(plan(seed("redis_and_kafka_stopped")));
    load_goes_on(&load, 50).await?;
    stage.redis_down().await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, 50.0, WITHIN).await?;

    tokio::task::block_in_place(|| kafka.stop())?;
    load_goes_on(&load, 50).await?;
    daemon.metric_at_least(telemetry::QUEUE_REFUSED, 1.0, WITHIN).await?;
    // Held: what was read is open, and the checkpoint stands still while commits go on.
    let before = stage.checkpoint()?;
    load_goes_on(&load, 100).await?;
    let status = daemon.status().await?;
    ensure!(status["frontier"]["open_segments"].as_u64() > Some(0), "{status}");
    let after = stage.checkpoint()?;
    ensure!((&before.file, before.position) == (&after.file, after.position), "the checkpoint passed what is owed");

    tokio::task::block_in_place(|| kafka.start_again())?;
    let queued = daemon.metric(telemetry::KEYS_QUEUED).await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, queued + 1.0, WITHIN).await?;
    stage.redis_up().await?;
    load_goes_on(&load, 50).await?;
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    stage.judge(&history, &[], PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    let status = daemon.status().await?;
    ensure!(status["queue"]["dead"].as_u64() == Some(0), "no dead letter by an outage: {status}");
    Ok(())
}
