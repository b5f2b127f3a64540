//! The binlog behind the checkpoint is gone, or is another one; another server answers at the address.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::proxy::Proxy;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

on_both!(
    purged,
    a_log_that_begins_anew,
    the_same_places_again,
    under_a_running_daemon,
    failover,
    a_lost_tail,
    a_crash,
);

const WITHIN: Duration = Duration::from_secs(30);

/// A stage on a server of its own, with a shop and a daemon that has read everything and was stopped.
async fn stopped(flavor: Flavor, name: &str) -> Result<Option<(Stage, Conn)>> {
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

fn reset(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MariaDb => "RESET MASTER",
        Flavor::MySql => "RESET BINARY LOGS AND GTIDS",
    }
}

/// It ends with a gap, saying what is missing; with `on_gap: flush` it goes on, with nothing stale and nothing else gone.
async fn halts_then_flushes(stage: &mut Stage, said: &str) -> Result<Daemon> {
    let before = stage.checkpoint()?;
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
    let held = stage.checkpoint()?;
    ensure!(
        (held.epoch, &held.gtids, held.position) == (before.epoch, &before.gtids, before.position),
        "{held:?}"
    );
    stage.settings.source = "on_gap: flush".into();
    let daemon = stage.start().await?;
    flushed(stage, &daemon, before.epoch + 1).await?;
    ensure!(daemon.metric("rowbust_gaps_total").await? == 1.0);
    Ok(daemon)
}

/// Every key of the shop is gone, others are not, and changes are followed.
async fn flushed(stage: &Stage, daemon: &Daemon, epoch: u64) -> Result<()> {
    let waited = until("the new epoch", WITHIN, async || {
        let saved = stage.checkpoint()?;
        Ok(Seen::check(saved.epoch == epoch, || format!("{saved:?}")))
    });
    waited.await.map_err(|e| daemon.explain(&e))?;
    let mut redis = shop::redis(stage.redis.port()).await?;
    let mut keys: Vec<String> = redis.keys("*").await?;
    // What the daemon leaves there itself.
    keys.retain(|key| !key.starts_with("rowbust:"));
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

async fn purged(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "purged").await? else { return Ok(()) };
    run(
        &mut conn,
        &[
            "FLUSH BINARY LOGS",
            "UPDATE products SET ver=2000 WHERE id=2",
            "FLUSH BINARY LOGS",
            "UPDATE products SET ver=2001 WHERE id=3",
        ],
    )
    .await?;
    let (newest, _) = stage.db.newest(&mut conn).await?;
    until("purged", WITHIN, async || {
        let mut conn = stage.sql().await?;
        conn.query_drop(format!("PURGE BINARY LOGS TO '{newest}'")).await?;
        let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
        Ok(Seen::check(logs.len() == 1, || format!("{} files", logs.len())))
    })
    .await?;
    let said = if flavor == Flavor::MySql { "has purged" } else { "" };
    let mut daemon = halts_then_flushes(&mut stage, said).await?;
    // The next start is an ordinary one.
    ensure!(daemon.sigterm(WITHIN).await?.success());
    let epoch = stage.checkpoint()?.epoch;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.checkpoint()?.epoch == epoch && daemon.metric("rowbust_gaps_total").await? == 0.0);
    Ok(())
}

/// RESET MASTER, and then more transactions than before under the same GTIDs and in a file of the same name: GTIDs alone would skip
/// some of them in silence.
async fn a_log_that_begins_anew(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "anew").await? else { return Ok(()) };
    let before = stage.checkpoint()?;
    run(&mut conn, &[reset(flavor), "UPDATE products SET ver=3000 WHERE id=2"]).await?;
    until("as much as before", WITHIN, async || {
        let mut conn = stage.sql().await?;
        for _ in 0..20 {
            conn.query_drop("UPDATE products SET ver=ver+1 WHERE id IN (3,4)").await?;
        }
        let (file, position) = stage.db.newest(&mut conn).await?;
        let done = file != before.file || position > before.position + 10_000;
        Ok(Seen::check(done, || format!("{file}:{position}")))
    })
    .await?;
    halts_then_flushes(&mut stage, "began anew").await?;
    Ok(())
}

/// The new log has events of the same sizes: at the checkpoint's place ends one as before, with the same GTID. Only its content tells.
async fn the_same_places_again(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "places").await? else { return Ok(()) };
    for suffix in ["", ".prev"] {
        std::fs::remove_file(format!("{}{suffix}", stage.checkpoint_path().display()))?;
    }
    let work = || vec!["UPDATE products SET ver=ver+1 WHERE id=3"; 10];
    run(&mut conn, &[reset(flavor)]).await?;
    let mut daemon = stage.start().await?;
    run(&mut conn, &work()).await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    let before = stage.checkpoint()?;
    run(&mut conn, &[reset(flavor)]).await?;
    run(&mut conn, &work()).await?;
    // As the stage does it to know that all is quiet.
    let fence = ["CREATE TABLE IF NOT EXISTS places.fence (n INT)", "INSERT INTO places.fence VALUES (1)"];
    run(&mut stage.db.connect().await?, &fence).await?;
    let again = stage.db.newest(&mut conn).await?;
    ensure!(again == (before.file.clone(), before.position), "void: {again:?}, was {before:?}");
    run(&mut conn, &["UPDATE products SET ver=3000 WHERE id=4"]).await?;
    halts_then_flushes(&mut stage, "its time or checksum differs").await?;
    Ok(())
}

/// The log begins anew while it is read: what is on its way is dropped, and the daemon begins anew by itself.
async fn under_a_running_daemon(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "running").await? else { return Ok(()) };
    let mut proxy = Proxy::start(stage.db.port()).await?;
    stage.settings.port = Some(proxy.port());
    stage.settings.source = "on_gap: flush".into();
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let epoch = stage.checkpoint()?.epoch;
    proxy.cut().await;
    run(&mut conn, &[reset(flavor), "UPDATE products SET ver=3000 WHERE id=2"]).await?;
    proxy.open().await?;
    flushed(&stage, &daemon, epoch + 1).await?;
    ensure!(daemon.metric("rowbust_gaps_total").await? == 1.0);
    Ok(())
}

/// Makes `to` a replica of `from`.
async fn replicate(from: &Db, to: &Db) -> Result<Conn> {
    let mut conn = to.connect().await?;
    let port = from.port();
    match from.flavor() {
        Flavor::MySql => {
            let source = format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            );
            run(&mut conn, &[&source, "START REPLICA"]).await?;
        }
        Flavor::MariaDb => {
            let source = format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=current_pos"
            );
            run(&mut conn, &[&source, "START SLAVE"]).await?;
        }
    }
    Ok(conn)
}

/// Returns when the replica has everything.
async fn replicated(from: &Db, to: &Db) -> Result<()> {
    let mut source = from.connect().await?;
    let goal = from.gtids(&mut source).await?;
    until("the replica has everything", WITHIN, async || {
        let mut conn = to.connect().await?;
        let now = to.gtids(&mut conn).await?;
        let done = match from.flavor() {
            Flavor::MariaDb => now == goal,
            Flavor::MySql => {
                let row: Option<u8> =
                    conn.query_first(format!("SELECT GTID_SUBSET('{goal}', '{now}')")).await?;
                row == Some(1)
            }
        };
        Ok(Seen::check(done, || format!("{now}, goal {goal}")))
    })
    .await
}

async fn stop_replica(conn: &mut Conn, flavor: Flavor) -> Result<()> {
    let statement = if flavor == Flavor::MySql { "STOP REPLICA" } else { "STOP SLAVE" };
    Ok(conn.query_drop(statement).await?)
}

/// Another server with the same transactions takes the address, under a running daemon and at a start. Nothing is lost, says the config;
/// if it doesn't, that is a gap.
async fn failover(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "failover").await? else { return Ok(()) };
    let second = Arc::new(Db::start(flavor, &["--server-id=12", "--log-slave-updates=1"]).await?);
    let mut replica = replicate(&stage.db, &second).await?;
    let mut proxy = Proxy::start(stage.db.port()).await?;
    stage.settings.port = Some(proxy.port());
    stage.settings.source = "lossless: true".into();
    let mut daemon = stage.start().await?;
    run(&mut conn, &["UPDATE products SET ver=4000 WHERE id=2"]).await?;
    stage.quiet(&daemon).await?;
    replicated(&stage.db, &second).await?;
    let epoch = stage.checkpoint()?.epoch;
    // The old one goes on for a moment, unseen by the daemon but not by the replica.
    proxy.cut().await;
    run(&mut conn, &["UPDATE products SET ver=4001 WHERE id=3"]).await?;
    replicated(&stage.db, &second).await?;
    stop_replica(&mut replica, flavor).await?;
    drop(conn);
    let first = std::mem::replace(&mut stage.db, Arc::clone(&second));
    proxy.aim(second.port());
    proxy.open().await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=4002 WHERE id=5"]).await?;
    // While it begins anew, nobody answers.
    let waited = until("the other server is followed", WITHIN, async || {
        Ok(match daemon.metric("rowbust_source_changes_total").await {
            Ok(changes) => Seen::check(changes == 1.0, || changes.to_string()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    });
    waited.await?;
    stage.quiet(&daemon).await?;
    let saved = stage.checkpoint()?;
    ensure!(saved.epoch == epoch, "{saved:?}");
    ensure!(daemon.metric("rowbust_source_changes_total").await? == 1.0, "{}", daemon.log_tail());
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0);
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}\n{}", daemon.log_tail());
    let mut redis = shop::redis(stage.redis.port()).await?;
    ensure!(redis.exists::<_, bool>("product:9").await?, "I7: a failover flushes nothing");
    // And back, at a start.
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    let mut replica = replicate(&second, &first).await?;
    replicated(&second, &first).await?;
    stop_replica(&mut replica, flavor).await?;
    stage.db = first;
    stage.settings.port = None;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=4003 WHERE id=6"]).await?;
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.metric("rowbust_source_changes_total").await? == 1.0);
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}\n{}", daemon.log_tail());
    // What nobody has said to be lossless is a gap.
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    let mut replica = replicate(&stage.db, &second).await?;
    replicated(&stage.db, &second).await?;
    stop_replica(&mut replica, flavor).await?;
    stage.db = second;
    stage.settings.source = String::new();
    halts_then_flushes(&mut stage, "another server answers").await?;
    Ok(())
}

/// A server that isn't durable crashes, while the daemon is down and while it reads: what it lost may be cached.
async fn a_crash(flavor: Flavor) -> Result<()> {
    let Some((mut stage, conn)) = stopped(flavor, "crash").await? else { return Ok(()) };
    drop(conn);
    stage.db.kill9()?;
    stage.db.start_again()?;
    let daemon = halts_then_flushes(&mut stage, "crashed at").await?;
    let epoch = stage.checkpoint()?.epoch;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=5"]).await?;
    stage.quiet(&daemon).await?;
    drop(conn);
    stage.db.kill9()?;
    stage.db.start_again()?;
    flushed(&stage, &daemon, epoch + 1).await
}

/// The other server lacks a transaction that was read.
async fn a_lost_tail(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "tail").await? else { return Ok(()) };
    let second = Arc::new(Db::start(flavor, &["--server-id=12", "--log-slave-updates=1"]).await?);
    let mut replica = replicate(&stage.db, &second).await?;
    replicated(&stage.db, &second).await?;
    stop_replica(&mut replica, flavor).await?;
    let mut daemon = stage.start().await?;
    run(&mut conn, &["UPDATE products SET ver=5000 WHERE id=2"]).await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success());
    let gtids = stage.db.gtids(&mut conn).await?;
    let lost = gtids.rsplit([':', '-']).next().unwrap_or_default().to_owned();
    drop(conn);
    // What was cached from the lost commit.
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis.set::<_, _, ()>("product:2", "5000").await?;
    stage.db = second;
    halts_then_flushes(&mut stage, &lost).await?;
    Ok(())
}
