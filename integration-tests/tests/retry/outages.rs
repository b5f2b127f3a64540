//! Servers that go and come back: everything converges by itself, and the incident is visible.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rowbust::telemetry;
use rowbust_integration_tests::db::{Db, Flavor, run};
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
/// Seconds that one server keeps its binlog, at first: nothing is purged.
const RETENTION: u32 = 300;
/// … and so many once the checkpoint stands still: half of it is over in a moment. A file is purged by the next rotation only, so the
/// binlog itself stays.
const SHORT_RETENTION: u32 = 20;
/// What the log says then.
const ALARM: &str = "of the binlog's retention is left";

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
    stage.marked(&daemon).await?;
    let load = stage.load(plan(seed("redis_stopped")));
    load_goes_on(&load, 50).await?;
    stage.redis_down().await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, 50.0, WITHIN).await?;
    // The outage outlasts the first tier several times: no attempt may be used up by it.
    tokio::time::sleep(FIRST_TIER * 6).await;
    load_goes_on(&load, 50).await?;
    ensure!(
        daemon.metric(telemetry::BREAKER_OPEN).await? > 0.0,
        "the breaker is open\n{}",
        daemon.log_tail()
    );
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
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    // Not the shared one: its binlog is kept for minutes only, so that what is left of that is looked at each second.
    let db = Arc::new(Db::start(flavor, &[]).await?);
    run(&mut db.connect().await?, &[&format!("SET GLOBAL binlog_expire_logs_seconds = {RETENTION}")]).await?;
    let mut stage = Stage::on(db, "kafka_stopped").await?;
    let dir = stage.dir().join("kafka");
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(StartOptions::new(dir))).await??;
    let brokers = kafka.brokers();
    stage.settings.retry =
        Some(format!("{{ kafka: {{ brokers: [\"{brokers}\"], prefix: e2e }}, delay: 1s, attempts: 5 }}"));
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    let load = stage.load(plan(seed("redis_and_kafka_stopped")));
    load_goes_on(&load, 50).await?;
    stage.redis_down().await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, 50.0, WITHIN).await?;

    tokio::task::block_in_place(|| kafka.stop())?;
    load_goes_on(&load, 50).await?;
    // Held: what was read is open, and the checkpoint stands still while commits go on.
    until("removals are held", WITHIN, async || {
        let status = daemon.status().await?;
        let held =
            status["frontier"]["open_segments"].as_u64() > Some(0) && status["checkpoint"]["behind"] == false;
        Ok(Seen::check(held, || status.to_string()))
    })
    .await?;
    let (before, held) = (stage.checkpoint()?, daemon.metric(telemetry::KEYS_QUEUED).await?);
    load_goes_on(&load, 100).await?;
    let after = stage.checkpoint()?;
    let queued = daemon.metric(telemetry::KEYS_QUEUED).await?;
    ensure!(queued <= held, "void: the queue still takes removals: {held}, then {queued}");
    ensure!(
        (&before.file, before.position) == (&after.file, after.position),
        "the checkpoint passed what is owed"
    );
    // The alarm that comes before a gap: the file of the checkpoint isn't the active one any more.
    run(&mut stage.db.connect().await?, &["FLUSH BINARY LOGS"]).await?;
    until("less of the retention is left", WITHIN, async || {
        let left = daemon.metric(telemetry::RETENTION_LEFT).await?;
        Ok(Seen::check(left > 0.0 && left < f64::from(RETENTION) - 1.0, || left.to_string()))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;

    // And the log says so, once less than a half of it is left: not before.
    ensure!(!daemon.log_text().contains(ALARM), "too early\n{}", daemon.log_tail());
    let keep = |seconds| format!("SET GLOBAL binlog_expire_logs_seconds = {seconds}");
    run(&mut stage.db.connect().await?, &[&keep(SHORT_RETENTION)]).await?;
    until("the alarm", WITHIN, async || {
        let text = daemon.log_text();
        let line = text.lines().find(|line| line.contains(ALARM));
        Ok(Seen::check(line.is_some_and(|line| line.contains("ERROR")), || line.unwrap_or("none").to_owned()))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    let all = daemon.metric(telemetry::RETENTION).await?;
    ensure!(all == f64::from(SHORT_RETENTION), "the retention is {all}");
    run(&mut stage.db.connect().await?, &[&keep(RETENTION)]).await?;

    tokio::task::block_in_place(|| kafka.start_again())?;
    let queued = daemon.metric(telemetry::KEYS_QUEUED).await?;
    daemon.metric_at_least(telemetry::KEYS_QUEUED, queued + 1.0, WITHIN).await?;
    // Killed between a retried removal and its offset: it is done again.
    let mut daemon = daemon;
    ensure!(daemon.kill9()?);
    drop(daemon);
    let mut daemon = stage.launch("before_retry_noted=return")?;
    stage.redis_up().await?;
    daemon.killed_at("before_retry_noted", WITHIN).await?;
    drop(daemon);
    let daemon = stage.start().await?;
    load_goes_on(&load, 50).await?;
    let history = load.stop().await?;
    // The queue's own count comes from librdkafka's statistics, which know the log's end only as of the last fetch.
    until("the cache converges", WITHIN, async || {
        let stale = stage.stale().await?;
        Ok(Seen::check(stale.is_empty(), || format!("{} stale, such as {:?}", stale.len(), stale.first())))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    stage.quiet(&daemon).await?;
    stage.judge(&history, &[], PRODUCTS, HOT).await.map_err(|e| daemon.explain(&e))?;
    let status = daemon.status().await?;
    ensure!(status["queue"]["dead"].as_u64() == Some(0), "no dead letter by an outage: {status}");
    Ok(())
}
