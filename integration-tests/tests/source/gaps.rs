//! The binlog behind the checkpoint is gone, or is another one; another server answers at the address.

use std::sync::Arc;
use std::time::Duration;

use crate::stopped::{WITHIN, flushed, halts_then_flushes, reset, stopped, without_checkpoint};
use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::proxy::Proxy;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use serde_json::Value;

on_both!(
    purged,
    a_log_that_begins_anew,
    the_same_places_again,
    under_a_running_daemon,
    failover,
    a_lost_tail,
    refused_while_it_begins_anew,
    a_first_start_at_a_purged_place,
    killed_in_mid_flush,
    a_file_that_comes_back,
);

/// Purges all files but the newest.
async fn purge(stage: &Stage) -> Result<()> {
    let mut conn = stage.sql().await?;
    let (newest, _) = stage.db.newest(&mut conn).await?;
    until("purged", WITHIN, async || {
        let mut conn = stage.sql().await?;
        conn.query_drop(format!("PURGE BINARY LOGS TO '{newest}'")).await?;
        let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
        Ok(Seen::check(logs.len() == 1, || format!("{} files", logs.len())))
    })
    .await
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
    purge(&stage).await?;
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
    without_checkpoint(&stage)?;
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

/// While a running daemon begins anew behind a gap, the server refuses connections: it waits, as it would for any lost connection, and a
/// signal ends it meanwhile. The next start finds the gap again.
async fn refused_while_it_begins_anew(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "refused").await? else { return Ok(()) };
    let mut proxy = Proxy::start(stage.db.port()).await?;
    stage.settings.port = Some(proxy.port());
    stage.settings.source = "on_gap: flush".into();
    for by_signal in [true, false] {
        let epoch = stage.checkpoint()?.epoch;
        let mut daemon = stage.start().await?;
        stage.quiet(&daemon).await?;
        proxy.cut().await;
        run(&mut conn, &[reset(flavor), "UPDATE products SET ver=ver+3000 WHERE id=2"]).await?;
        proxy.open().await?;
        until("a new beginning", WITHIN, async || {
            let begins = daemon.log_text().contains("beginning anew at the checkpoint");
            Ok(Seen::check(begins, || daemon.log_tail()))
        })
        .await?;
        proxy.cut().await;
        until("a refused connection", WITHIN, async || {
            let log = daemon.log_text();
            let anew = log.split("beginning anew at the checkpoint").last().unwrap_or_default().to_owned();
            let refused = anew.matches("reconnecting").count() >= 2;
            Ok(Seen::check(refused, || daemon.log_tail()))
        })
        .await?;
        if by_signal {
            let status = daemon.sigterm(Duration::from_secs(10)).await?;
            ensure!(status.code() == Some(1), "{status}\n{}", daemon.log_tail());
            proxy.open().await?;
            daemon = stage.start().await?;
            flushed(&stage, &daemon, epoch + 1).await?;
        } else {
            proxy.open().await?;
            flushed(&stage, &daemon, epoch + 1).await?;
            // What was found first is what is said.
            let log = daemon.log_text();
            let field = |message: &str, name: &str| {
                let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let line = lines
                    .into_iter()
                    .find(|line| line["message"].as_str().is_some_and(|m| m.contains(message)));
                line.map_or(Value::Null, |line| line[name].clone())
            };
            let found = field("beginning anew", "why");
            ensure!(found.is_string() && found == field("gap in the binlog", "what"), "{log}");
        }
        ensure!(daemon.metric("rowbust_gaps_total").await? == 1.0, "{}", daemon.log_tail());
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
        // Keys for the next round.
        if by_signal {
            refill(&stage).await?;
        }
    }
    Ok(())
}

/// Keys of the shop as its opening made them, roughly.
async fn refill(stage: &Stage) -> Result<()> {
    let mut redis = shop::redis(stage.redis.port()).await?;
    for id in 1..=20 {
        redis.set::<_, _, ()>(format!("product:{id}"), "old").await?;
    }
    Ok(())
}

/// A first start has no place behind which something could be lost, but `start` may name one that the server no longer has: that is
/// said, and nothing is flushed.
async fn a_first_start_at_a_purged_place(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "firstpurged").await? else { return Ok(()) };
    let gtids = stage.db.gtids(&mut conn).await?;
    run(&mut conn, &["UPDATE products SET ver=2000 WHERE id=2", "FLUSH BINARY LOGS"]).await?;
    run(&mut conn, &["UPDATE products SET ver=2001 WHERE id=3"]).await?;
    purge(&stage).await?;
    without_checkpoint(&stage)?;
    stage.settings.start = format!("{{ gtid: \"{gtids}\" }}");
    stage.settings.source = "on_gap: flush".into();
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    let log = daemon.log_text();
    ensure!(status.code() == Some(1) && log.contains("gap in the binlog"), "{status}\n{}", daemon.log_tail());
    ensure!(!log.contains("beginning anew"), "{}", daemon.log_tail());
    let mut redis = shop::redis(stage.redis.port()).await?;
    ensure!(redis.exists::<_, bool>("product:9").await?, "flushed");
    Ok(())
}

/// kill -9 while the keyspace is being flushed: the checkpoint is where it was, and the next start flushes all of it again.
async fn killed_in_mid_flush(flavor: Flavor) -> Result<()> {
    const MORE: u64 = 4000;
    let Some((mut stage, mut conn)) = stopped(flavor, "midflush").await? else { return Ok(()) };
    let mut redis = shop::redis(stage.redis.port()).await?;
    let mut all = redis::pipe();
    for id in 100..100 + MORE {
        all.set(format!("product:{id}"), "old").ignore();
    }
    all.query_async::<()>(&mut redis).await?;
    let before = stage.checkpoint()?;
    run(&mut conn, &["UPDATE products SET ver=2000 WHERE id=2", "FLUSH BINARY LOGS"]).await?;
    run(&mut conn, &["UPDATE products SET ver=2001 WHERE id=3"]).await?;
    purge(&stage).await?;
    stage.settings.source = "on_gap: flush".into();
    stage.settings.limits = Some("{ memory: 48MiB, flush_keys_per_second: 1000 }".into());
    let left = async || {
        Ok::<_, anyhow::Error>(
            shop::redis(stage.redis.port()).await?.keys::<_, Vec<String>>("product:*").await?.len(),
        )
    };
    let mut daemon = stage.launch("")?;
    let full = usize::try_from(MORE)?;
    until("half of a flush", WITHIN, async || {
        let left = left().await?;
        Ok(Seen::check(left < full, || format!("{left} left\n{}", daemon.log_tail())))
    })
    .await?;
    ensure!(daemon.kill9()?);
    ensure!(left().await? > 0, "void: all was flushed");
    let held = stage.checkpoint()?;
    ensure!(
        (held.epoch, &held.gtids, held.position) == (before.epoch, &before.gtids, before.position),
        "{held:?}"
    );
    // What was flushed already may have been filled again from a stale replica.
    refill(&stage).await?;
    stage.settings.limits = None;
    let daemon = stage.start().await?;
    flushed(&stage, &daemon, before.epoch + 1).await?;
    ensure!(daemon.metric("rowbust_gaps_total").await? == 1.0);
    Ok(())
}

/// A file that the server can't open isn't one that it has purged: it is asked again.
async fn a_file_that_comes_back(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = stopped(flavor, "comesback").await? else { return Ok(()) };
    run(&mut conn, &["UPDATE products SET ver=2000 WHERE id=2", "FLUSH BINARY LOGS"]).await?;
    run(&mut conn, &["UPDATE products SET ver=2001 WHERE id=3", "FLUSH BINARY LOGS"]).await?;
    let files = stage.db.binlogs()?;
    let file = files.iter().rev().nth(1).context("no file")?;
    let away = file.with_extension("away");
    std::fs::rename(file, &away)?;
    let mut daemon = stage.launch("")?;
    until("a refusal", WITHIN, async || {
        Ok(Seen::check(daemon.log_text().contains("trying again"), || daemon.log_tail()))
    })
    .await?;
    std::fs::rename(&away, file)?;
    daemon.ready().await?;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}\n{}", daemon.log_tail());
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0);
    Ok(())
}
