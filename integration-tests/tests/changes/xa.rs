//! XA transactions: keys are owed from PREPARE to COMMIT, over restarts of the daemon and of the server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

on_both!(transactions_in_two_phases);

const WITHIN: Duration = Duration::from_secs(30);

/// One after the other on a server of their own: what is prepared holds up every daemon that follows the server.
async fn transactions_in_two_phases(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Arc::new(Db::start(flavor, &[]).await?);
    committed(Stage::on(Arc::clone(&db), "xacommit").await?, flavor).await.context("committed")?;
    rolled_back(Stage::on(Arc::clone(&db), "xarollback").await?).await.context("rolled back")?;
    unprepared(Stage::on(Arc::clone(&db), "xaunseen").await?).await.context("unprepared")?;
    more_keys_than_are_kept(Stage::on(Arc::clone(&db), "xamany").await?).await.context("many keys")?;
    an_end_that_halts(Stage::on(Arc::clone(&db), "xahalts").await?).await.context("an end that halts")?;
    over_restarts(Stage::on(db, "xarestart").await?).await.context("over restarts")
}

/// Runs statements on a connection of its own, which is gone afterwards: what it prepared stays.
async fn apart(stage: &Stage, statements: &[&str]) -> Result<()> {
    let mut conn = stage.sql().await?;
    run(&mut conn, statements).await?;
    conn.disconnect().await?;
    Ok(())
}

/// Prepares an update of some products under this name.
async fn prepare(stage: &Stage, name: &str, update: &str) -> Result<()> {
    let statements = [
        format!("XA START '{name}'"),
        update.to_owned(),
        format!("XA END '{name}'"),
        format!("XA PREPARE '{name}'"),
    ];
    apart(stage, &statements.each_ref().map(String::as_str)).await
}

/// The second half; the server may take a moment to let go of the connection that prepared it.
async fn finish(stage: &Stage, statement: &str) -> Result<()> {
    until(statement, WITHIN, async || {
        let mut conn = stage.sql().await?;
        Ok(match conn.query_drop(statement).await {
            Ok(()) => Seen::Done(()),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await
}

/// Returns when the key was removed since `from`, and nothing is owed but what is prepared.
async fn removed(stage: &Stage, daemon: &Daemon, from: usize, key: &str) -> Result<()> {
    let waited = until(key, WITHIN, async || {
        let now = stage.removals.since(from).get(key).copied().unwrap_or(0);
        let status = daemon.status().await?;
        let settled = status["frontier"]["open_segments"] == status["source"]["xa_prepared"];
        Ok(Seen::check(now > 0 && settled, || format!("{now} removals, {status}")))
    });
    waited.await.map_err(|e| daemon.explain(&e))
}

async fn get(stage: &Stage, key: &str) -> Result<Option<String>> {
    Ok(shop::redis(stage.redis.port()).await?.get(key).await?)
}

async fn set(stage: &Stage, key: &str) -> Result<()> {
    Ok(shop::redis(stage.redis.port()).await?.set(key, "stale").await?)
}

async fn committed(stage: Stage, flavor: Flavor) -> Result<()> {
    stage.open_shop(20).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let mut conn = stage.sql().await?;
    let before = stage.db.newest(&mut conn).await?;
    let from = stage.removals.total();
    prepare(&stage, "one", "UPDATE products SET ver=5000 WHERE id=1").await?;
    removed(&stage, &daemon, from, "product:1").await?;
    ensure!(stage.status_number(&daemon, "xa_prepared").await? == 1, "{}", daemon.log_tail());
    // A reader sees the row as it was, and puts it back.
    set(&stage, "product:1").await?;
    // Others go on, but no checkpoint passes what is prepared.
    let from = stage.removals.total();
    run(&mut conn, &["UPDATE products SET ver=5001 WHERE id=2"]).await?;
    removed(&stage, &daemon, from, "product:2").await?;
    // Time for a save, if there were one to make.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let saved = stage.checkpoint()?;
    ensure!((saved.file.clone(), saved.position) <= before, "{saved:?} is behind {before:?}");
    ensure!(get(&stage, "product:1").await?.is_some());
    let from = stage.removals.total();
    finish(&stage, "XA COMMIT 'one'").await?;
    removed(&stage, &daemon, from, "product:1").await?;
    stage.quiet(&daemon).await?;
    ensure!(get(&stage, "product:1").await?.is_none(), "stale\n{}", daemon.log_tail());
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}");
    ensure!(get(&stage, "product:5").await?.is_some(), "I7");
    if flavor == Flavor::MariaDb {
        ensure!(daemon.log_text().contains("XA on MariaDB"), "{}", daemon.log_tail());
    }
    // In one phase it is a transaction like others.
    let from = stage.removals.total();
    apart(
        &stage,
        &["XA START 'p'", "UPDATE products SET ver=5002 WHERE id=3", "XA END 'p'", "XA COMMIT 'p' ONE PHASE"],
    )
    .await?;
    removed(&stage, &daemon, from, "product:3").await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.status_number(&daemon, "xa_prepared").await? == 0);
    Ok(())
}

async fn rolled_back(stage: Stage) -> Result<()> {
    stage.open_shop(20).await?;
    let daemon = stage.start().await?;
    prepare(&stage, "back", "UPDATE products SET ver=5000 WHERE id=1").await?;
    // Not mapped: it holds the checkpoint all the same.
    prepare(&stage, "empty", "INSERT INTO txlog VALUES (1)").await?;
    finish(&stage, "XA ROLLBACK 'back'").await?;
    finish(&stage, "XA COMMIT 'empty'").await?;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}");
    ensure!(stage.status_number(&daemon, "xa_prepared").await? == 0);
    Ok(())
}

/// kill -9 of the daemon and a restart of the server between the two halves.
async fn over_restarts(stage: Stage) -> Result<()> {
    stage.open_shop(20).await?;
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let from = stage.removals.total();
    prepare(&stage, "one", "UPDATE products SET ver=5000 WHERE id=1").await?;
    prepare(&stage, "two", "UPDATE products SET ver=5001 WHERE id=2").await?;
    removed(&stage, &daemon, from, "product:2").await?;
    // What is prepared is nothing to wait for.
    ensure!(daemon.sigterm(Duration::from_secs(10)).await?.success(), "{}", daemon.log_tail());
    let mut daemon = stage.start().await?;
    let from = stage.removals.total();
    run(&mut stage.sql().await?, &["UPDATE products SET ver=5002 WHERE id=3"]).await?;
    removed(&stage, &daemon, from, "product:3").await?;
    ensure!(daemon.kill9()?);
    let daemon = stage.start().await?;
    set(&stage, "product:1").await?;
    let from = stage.removals.total();
    finish(&stage, "XA COMMIT 'one'").await?;
    removed(&stage, &daemon, from, "product:1").await?;
    let server = Arc::clone(&stage.db);
    tokio::task::spawn_blocking(move || server.stop().and_then(|()| server.start_again())).await??;
    set(&stage, "product:2").await?;
    let from = stage.removals.total();
    finish(&stage, "XA COMMIT 'two'").await?;
    removed(&stage, &daemon, from, "product:2").await?;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}");
    ensure!(daemon.metric("rowbust_source_reconnects_total").await? >= 1.0);
    ensure!(daemon.metric("rowbust_widened_total").await? == 0.0, "{}", daemon.log_tail());
    Ok(())
}

/// Prepared before the daemon's first start: which keys it made wrong can't be known.
async fn unprepared(mut stage: Stage) -> Result<()> {
    stage.open_shop(20).await?;
    prepare(&stage, "unseen", "UPDATE products SET ver=5000 WHERE id=1").await?;
    let mut daemon = stage.start().await?;
    finish(&stage, "XA COMMIT 'unseen'").await?;
    let status = daemon.exited(WITHIN).await?;
    ensure!(
        status.code() == Some(1) && daemon.log_text().contains("source.xa_unprepared"),
        "{status}\n{}",
        daemon.log_tail()
    );
    stage.settings.source = "on_undecodable: flush".into();
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(get(&stage, "product:1").await?.is_none() && get(&stage, "product:7").await?.is_none());
    let control = get(&stage, "control:7").await?;
    ensure!(control.is_some(), "I7");
    ensure!(daemon.metric("rowbust_widened_total").await? == 1.0);
    Ok(())
}

/// More than `limits.memory` allows: the tables are remembered instead of the keys.
async fn more_keys_than_are_kept(mut stage: Stage) -> Result<()> {
    stage.settings.limits = Some("{ memory: 1MiB }".into());
    stage.open_shop(8000).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    prepare(&stage, "many", "UPDATE products SET ver=ver+100000 WHERE id <= 7000").await?;
    let from = stage.removals.total();
    let mut conn = stage.sql().await?;
    run(&mut conn, &["INSERT INTO orders VALUES (1,1,1)"]).await?;
    removed(&stage, &daemon, from, "order:1").await?;
    set(&stage, "product:1").await?;
    set(&stage, "order:5").await?;
    finish(&stage, "XA COMMIT 'many'").await?;
    stage.quiet(&daemon).await?;
    ensure!(get(&stage, "product:1").await?.is_none(), "{}", daemon.log_tail());
    // Only that table.
    ensure!(get(&stage, "order:5").await?.is_some(), "{}", daemon.log_tail());
    let stale = stage.stale().await?;
    ensure!(stale.iter().all(|s| s.contains("order:5")), "{stale:?}");
    ensure!(daemon.metric("rowbust_widened_total").await? == 1.0);
    stage.checkpoint().context("no checkpoint")?;
    Ok(())
}

/// As before, but the keys can't be flushed: it halts at the XA COMMIT, and so does the next start, because the checkpoint stays before
/// the XA PREPARE. With a mapping whose keys can be, nothing is lost.
async fn an_end_that_halts(mut stage: Stage) -> Result<()> {
    stage.settings.limits = Some("{ memory: 1MiB }".into());
    let mapping = |key: &str| {
        Some(format!(
            "\n  - table: {}.products\n    fill_grace: 200ms\n    keys: [\"{key}\"]\n",
            stage.schema
        ))
    };
    let (endless, plain) = (mapping("{id}:product"), mapping("product:{id}"));
    stage.settings.mappings = endless;
    stage.open_shop(8000).await?;
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let before = stage.db.newest(&mut stage.sql().await?).await?;
    prepare(&stage, "halts", "UPDATE products SET ver=ver+100000 WHERE id <= 7000").await?;
    // Put back by a reader that doesn't see it yet.
    set(&stage, "product:1").await?;
    finish(&stage, "XA COMMIT 'halts'").await?;
    for round in 0..2 {
        let status = daemon.exited(WITHIN).await?;
        let log = daemon.log_text();
        ensure!(
            status.code() == Some(1)
                && log.contains("pipeline.unflushable")
                && log.contains("XA transaction"),
            "{round}: {status}\n{}",
            daemon.log_tail()
        );
        let saved = stage.checkpoint()?;
        ensure!((saved.file.clone(), saved.position) <= before, "{round}: {saved:?} is behind {before:?}");
        daemon = stage.launch("")?;
    }
    drop(daemon);
    stage.settings.mappings = plain;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(get(&stage, "product:1").await?.is_none(), "stale\n{}", daemon.log_tail());
    ensure!(get(&stage, "control:7").await?.is_some(), "I7");
    ensure!(stage.status_number(&daemon, "xa_prepared").await? == 0);
    Ok(())
}
