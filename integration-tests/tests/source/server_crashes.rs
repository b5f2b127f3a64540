//! The server crashes, and may have lost commits of which readers have cached what they wrote.

use std::sync::Arc;
use std::time::Duration;

use crate::stopped::{WITHIN, flushed, halts_then_flushes, stopped, without_checkpoint};
use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::proxy::Proxy;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

on_both!(
    a_crash,
    behind_a_rotation,
    behind_an_event_that_is_not_looked_at,
    before_anything_was_read,
    before_the_first_start,
    a_commit_that_waits_for_its_replica,
);

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

async fn crash(stage: &Stage, conn: Conn) -> Result<Conn> {
    drop(conn);
    stage.db.kill9()?;
    stage.db.start_again()?;
    stage.sql().await
}

/// The daemon is down. The file that it had read ends in order; the crash is at the end of a later one, with and without transactions in
/// it: a stream by GTIDs alone wouldn't show the latter.
async fn behind_a_rotation(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "rotated").await? else { return Ok(()) };
    for changes in [&["UPDATE products SET ver=ver+1 WHERE id=5"][..], &[]] {
        run(&mut conn, changes).await?;
        run(&mut conn, &["FLUSH BINARY LOGS"]).await?;
        run(&mut conn, changes).await?;
        conn = crash(&stage, conn).await?;
        let mut daemon = halts_then_flushes(&mut stage, "crashed at").await?;
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    }
    // Ends in order are none.
    run(&mut conn, &["FLUSH BINARY LOGS", "FLUSH BINARY LOGS"]).await?;
    drop(conn);
    tokio::task::block_in_place(|| stage.db.stop().and_then(|()| stage.db.start_again()))?;
    stage.settings.source = String::new();
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    Ok(())
}

/// The last event that was read is larger than what is read again.
async fn behind_an_event_that_is_not_looked_at(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "largeevent").await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let large = format!("CREATE TABLE notmapped (n INT) /* {} */", "x".repeat(1_200_000));
    run(&mut conn, &[&large]).await?;
    let goal = stage.db.newest(&mut conn).await?;
    until("the large event", WITHIN, async || {
        let saved = stage.checkpoint()?;
        Ok(Seen::check((saved.file.clone(), saved.position) == goal, || format!("{saved:?}, goal {goal:?}")))
    })
    .await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    ensure!(stage.checkpoint()?.anchor.is_none(), "void: {:?}", stage.checkpoint()?);
    crash(&stage, conn).await?;
    halts_then_flushes(&mut stage, "crashed at").await?;
    Ok(())
}

/// The daemon was started with `start: latest`, or at the newest GTIDs, and nothing was committed since: at a start, and while it runs.
async fn before_anything_was_read(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stopped(flavor, "nothingread").await? else { return Ok(()) };
    for by_gtid in [false, true] {
        without_checkpoint(&stage)?;
        let gtids = stage.db.gtids(&mut conn).await?;
        stage.settings.start = if by_gtid { format!("{{ gtid: \"{gtids}\" }}") } else { "latest".into() };
        stage.settings.source = String::new();
        let mut daemon = stage.start().await?;
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
        ensure!(stage.checkpoint()?.anchor.is_none(), "void: {:?}", stage.checkpoint()?);
        conn = crash(&stage, conn).await?;
        let mut daemon = halts_then_flushes(&mut stage, "crashed at").await?;
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    }
    without_checkpoint(&stage)?;
    stage.settings.start = "latest".into();
    let daemon = stage.start().await?;
    let epoch = stage.checkpoint()?.epoch;
    crash(&stage, conn).await?;
    flushed(&stage, &daemon, epoch + 1).await
}

/// What was lost before the daemon's first start was never followed, and stays so over a restart that comes to it again.
async fn before_the_first_start(flavor: Flavor) -> Result<()> {
    let Some((mut stage, conn)) = stopped(flavor, "beforefirst").await? else { return Ok(()) };
    let mut conn = crash(&stage, conn).await?;
    let now = async |conn: &mut Conn| {
        conn.query_first::<u64, _>("SELECT UNIX_TIMESTAMP()").await?.context("no time")
    };
    let crashed = now(&mut conn).await?;
    until("a second later", WITHIN, async || {
        let now = now(&mut stage.sql().await?).await?;
        Ok(Seen::check(now > crashed + 1, || now.to_string()))
    })
    .await?;
    run(&mut conn, &["UPDATE products SET ver=6000 WHERE id=5"]).await?;
    without_checkpoint(&stage)?;
    stage.settings.start = "earliest".into();
    let mut daemon = stage.launch("before_first_removal=return")?;
    daemon.killed_at("before_first_removal", WITHIN).await?;
    let saved = stage.checkpoint()?;
    let first = stage.db.binlogs()?.first().and_then(|f| Some(f.file_name()?.to_string_lossy().into_owned()));
    ensure!(Some(&saved.file) == first.as_ref(), "void: {saved:?}");
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0, "{}", daemon.log_tail());
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}");
    // One behind it counts.
    let (mut daemon, conn) = (daemon, stage.sql().await?);
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    crash(&stage, conn).await?;
    halts_then_flushes(&mut stage, "crashed at").await?;
    Ok(())
}

/// With semi-synchronous replication a commit is in the binlog, and was read, while it waits for a replica (AFTER_SYNC): the server
/// doesn't count it as executed. A stream that is lost meanwhile goes on behind it.
async fn a_commit_that_waits_for_its_replica(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let (args, role): (&[&str], _) = match flavor {
        Flavor::MySql => (&["--plugin-load-add=semisync_source.so"], "source"),
        Flavor::MariaDb => (&[], "master"),
    };
    let db = Db::start(flavor, args).await;
    let db = match (db, flavor) {
        (Ok(db), _) => Arc::new(db),
        (Err(error), Flavor::MySql) if format!("{error:#}").contains("semisync") => {
            eprintln!("skipped: {error:#}");
            return Ok(());
        }
        (Err(error), _) => return Err(error),
    };
    let mut stage = Stage::on(db, "semisync").await?;
    stage.open_shop(20).await?;
    let mut proxy = Proxy::start(stage.db.port()).await?;
    stage.settings.port = Some(proxy.port());
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let mut conn = stage.sql().await?;
    let wait = if flavor == Flavor::MySql { "no_replica" } else { "no_slave" };
    run(
        &mut conn,
        &[
            &format!("SET GLOBAL rpl_semi_sync_{role}_timeout=120000"),
            &format!("SET GLOBAL rpl_semi_sync_{role}_wait_point=AFTER_SYNC"),
            &format!("SET GLOBAL rpl_semi_sync_{role}_wait_{wait}=ON"),
            &format!("SET GLOBAL rpl_semi_sync_{role}_enabled=ON"),
        ],
    )
    .await?;
    let mut waiting = stage.sql().await?;
    let commit =
        tokio::spawn(async move { run(&mut waiting, &["UPDATE products SET ver=9000 WHERE id=2"]).await });
    let from = stage.removals.total();
    until("what waits is read", WITHIN, async || {
        stage.fence()?;
        let read = stage.removals.since(from).contains_key("product:2");
        Ok(Seen::check(read, || daemon.log_tail()))
    })
    .await?;
    if flavor == Flavor::MySql {
        let executed = stage.db.gtids(&mut conn).await?;
        let at = daemon.status().await?;
        ensure!(!commit.is_finished(), "void: it doesn't wait; {executed} {at}");
    }
    let streams = daemon.log_text().matches("following binlog").count();
    proxy.cut().await;
    proxy.open().await?;
    until("the next stream", WITHIN, async || {
        let now = daemon.log_text().matches("following binlog").count();
        Ok(Seen::check(now > streams, || daemon.log_tail()))
    })
    .await?;
    ensure!(!commit.is_finished(), "void: it doesn't wait");
    ensure!(!daemon.log_text().contains("gap in the binlog"), "{}", daemon.log_tail());
    run(&mut conn, &[&format!("SET GLOBAL rpl_semi_sync_{role}_enabled=OFF")]).await?;
    tokio::time::timeout(Duration::from_secs(30), commit).await???;
    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "{stale:?}\n{}", daemon.log_tail());
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0);
    Ok(())
}
