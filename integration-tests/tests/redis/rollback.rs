//! Redis loses its memory: removed values are back. That is seen by the mark that the daemon leaves there, and what is missing is repeated.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, Redis, StartOptions, require};

on_both!(an_old_snapshot, out_of_reach);

const WITHIN: Duration = Duration::from_secs(30);
const PRODUCTS: u64 = 20;

/// On a server of its own where `own`, with everything cached, a daemon that has read everything, and its mark in Redis.
async fn stage(flavor: Flavor, name: &str, own: bool) -> Result<Option<(Stage, Daemon)>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let db = if own { Arc::new(Db::start(flavor, &[]).await?) } else { Db::shared(flavor).await? };
    let stage = Stage::on(db, name).await?;
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    Ok(Some((stage, daemon)))
}

/// Waits until the daemon has seen Redis as it is now; how often it was rewound until then.
async fn settled(stage: &Stage, daemon: &Daemon) -> Result<f64> {
    let mut conn = stage.sql().await?;
    for _ in 0..2 {
        // A new mark is written only behind a look.
        run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=5"]).await?;
        stage.marked(daemon).await?;
    }
    Ok(counts(daemon).await?.0)
}

/// Changes products 1 to 3, and waits until they are removed.
async fn change(stage: &Stage, daemon: &Daemon) -> Result<()> {
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1000 WHERE id<=3"]).await?;
    stage.quiet(daemon).await
}

/// Returns when the daemon, which may begin anew meanwhile, says so.
async fn counted(daemon: &Daemon, name: &str, least: f64) -> Result<()> {
    let waited = until(name, WITHIN, async || {
        Ok(match daemon.metric(name).await {
            Ok(now) => Seen::check(now >= least, || now.to_string()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    });
    waited.await.map_err(|error| daemon.explain(&error))
}

async fn counts(daemon: &Daemon) -> Result<(f64, f64)> {
    Ok((daemon.metric("rowbust_rewinds_total").await?, daemon.metric("rowbust_memory_flushes_total").await?))
}

/// Nothing is stale; and where no flush was due, what nobody changed is still there.
async fn healed(stage: &Stage, daemon: &Daemon, flushed: bool) -> Result<()> {
    stage.marked(daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "I1: {stale:?}\n{}", daemon.log_tail());
    let mut redis = shop::redis(stage.redis.port()).await?;
    let kept: bool = redis.exists("product:9").await?;
    ensure!(kept != flushed, "product:9 is there: {kept}\n{}", daemon.log_tail());
    Ok(())
}

/// A restart from an old snapshot brings removed values back, under a running daemon and behind the back of one that is down.
async fn an_old_snapshot(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut daemon)) = stage(flavor, "snapshot", false).await? else { return Ok(()) };
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis::cmd("SAVE").exec_async(&mut redis).await?;
    let epoch = stage.checkpoint()?.epoch;
    change(&stage, &daemon).await?;
    stage.marked(&daemon).await?;
    ensure!(stage.stale().await?.is_empty());
    stage.redis_forgets().await?;
    ensure!(stage.stale().await?.len() >= 9, "void: nothing came back");
    stage.proxy.open().await?;
    counted(&daemon, "rowbust_rewinds_total", 1.0).await?;
    healed(&stage, &daemon, false).await?;
    ensure!(counts(&daemon).await? == (1.0, 0.0), "{}", daemon.log_tail());
    ensure!(stage.checkpoint()?.epoch == epoch + 1);
    ensure!(daemon.log_text().contains("rewinding the binlog"), "{}", daemon.log_tail());

    ensure!(daemon.kill9()?);
    stage.redis_forgets().await?;
    ensure!(stage.stale().await?.len() >= 9, "void: nothing came back");
    stage.proxy.open().await?;
    let daemon = stage.start().await?;
    healed(&stage, &daemon, false).await?;
    ensure!(counts(&daemon).await? == (1.0, 0.0), "{}", daemon.log_tail());
    Ok(())
}

/// The mark that is found is the last one, but removals that Redis acknowledged after it are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_since_the_last_mark() -> Result<()> {
    let Some((mut stage, daemon)) = stage(Flavor::MariaDb, "tail", false).await? else { return Ok(()) };
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis::cmd("SAVE").exec_async(&mut redis).await?;
    // No mark from now on; removals go on.
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("-eval").exec_async(&mut redis).await?;
    daemon.metric_at_least("rowbust_mark_failing", 1.0, WITHIN).await?;
    change(&stage, &daemon).await?;
    stage.redis_forgets().await?;
    ensure!(stage.stale().await?.len() >= 9, "void: nothing came back");
    stage.proxy.open().await?;
    counted(&daemon, "rowbust_rewinds_total", 1.0).await?;
    healed(&stage, &daemon, false).await?;
    ensure!(counts(&daemon).await? == (1.0, 0.0), "{}", daemon.log_tail());
    Ok(())
}

/// A replica that lacks the last removals takes the address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lagged() -> Result<()> {
    let Some((mut stage, daemon)) = stage(Flavor::MariaDb, "lagged", true).await? else { return Ok(()) };
    let options = StartOptions::new(stage.dir().join("second"));
    let second = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
    let mut replica = shop::redis(second.port()).await?;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(stage.redis.port()).exec_async(&mut replica).await?;
    until("the replica is in sync", WITHIN, async || {
        let mut replica = replica.clone();
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut replica).await?;
        Ok(Seen::check(info.contains("master_link_status:up"), || info.clone()))
    })
    .await?;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut replica).await?;
    // The first replica ever gives its master a new replication id, which may be taken for another server.
    let before = settled(&stage, &daemon).await?;
    change(&stage, &daemon).await?;
    stage.marked(&daemon).await?;
    let first = std::mem::replace(&mut stage.redis, second);
    ensure!(stage.stale().await?.len() >= 9, "void: the replica has it all");
    stage.proxy.aim(stage.redis.port());
    stage.proxy.cut().await;
    stage.proxy.open().await?;
    counted(&daemon, "rowbust_rewinds_total", before + 1.0).await?;
    healed(&stage, &daemon, false).await?;
    ensure!(counts(&daemon).await? == (before + 1.0, 0.0), "{}", daemon.log_tail());
    drop(first);
    Ok(())
}

/// Without the mark nobody knows what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_was_deleted() -> Result<()> {
    let Some((stage, daemon)) = stage(Flavor::MariaDb, "deleted", false).await? else { return Ok(()) };
    let mut redis = shop::redis(stage.redis.port()).await?;
    // And something put back from elsewhere.
    let mut all = redis::pipe();
    all.atomic().cmd("FLUSHALL").ignore().set("product:4", "stale").ignore().set("control:1", 1).ignore();
    all.exec_async(&mut redis).await?;
    counted(&daemon, "rowbust_memory_flushes_total", 1.0).await?;
    healed(&stage, &daemon, true).await?;
    ensure!(counts(&daemon).await? == (0.0, 1.0), "{}", daemon.log_tail());
    ensure!(redis.exists::<_, bool>("control:1").await?, "I7: control:1 is gone");
    Ok(())
}

/// Before the first mark, what is lost is known by the server's run; also by the next daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_before_the_first_mark() -> Result<()> {
    for killed in [false, true] {
        let name = if killed { "unmarked_killed" } else { "unmarked" };
        let Some(mut stage) = Stage::new(Flavor::MariaDb, name).await? else { return Ok(()) };
        stage.open_shop(PRODUCTS).await?;
        let mut redis = shop::redis(stage.redis.port()).await?;
        redis::cmd("SAVE").exec_async(&mut redis).await?;
        // No mark; removals go on.
        redis::cmd("ACL").arg("SETUSER").arg("default").arg("-set").exec_async(&mut redis).await?;
        let mut daemon = stage.start().await?;
        change(&stage, &daemon).await?;
        ensure!(!redis.exists::<_, bool>(mark_key(&stage)?).await?, "void: a mark");
        if killed {
            ensure!(daemon.kill9()?);
        }
        stage.redis_forgets().await?;
        ensure!(stage.stale().await?.len() >= 9, "void: nothing came back");
        stage.proxy.open().await?;
        if killed {
            daemon = stage.start().await?;
        }
        counted(&daemon, "rowbust_memory_flushes_total", 1.0).await?;
        healed(&stage, &daemon, true).await?;
        ensure!(counts(&daemon).await? == (0.0, 1.0), "{}", daemon.log_tail());
    }
    Ok(())
}

/// An account that may not write marks loses what they are for, and nothing else: a mark that isn't there is no loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_that_may_not_be_written() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MariaDb, "unwritten").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("-set").exec_async(&mut redis).await?;
    let mut daemon = stage.start().await?;
    for _ in 0..2 {
        change(&stage, &daemon).await?;
        daemon.metric_at_least("rowbust_mark_failing", 1.0, WITHIN).await?;
        // It is tried again and again.
        let mut conn = stage.sql().await?;
        for _ in 0..20 {
            let saved = stage.checkpoint()?.generation;
            run(&mut conn, &["UPDATE products SET ver=ver+1 WHERE id=1"]).await?;
            until("a save", WITHIN, async || {
                Ok(Seen::check(stage.checkpoint()?.generation > saved, String::new))
            })
            .await?;
        }
        ensure!(counts(&daemon).await? == (0.0, 0.0), "{}", daemon.log_tail());
        ensure!(redis.exists::<_, bool>("product:9").await?, "flushed: {}", daemon.log_tail());
        ensure!(daemon.kill9()?);
        daemon = stage.start().await?;
    }
    Ok(())
}

/// What only Redis can name is flushed as exact keys are: prefixes, and the members of sets with the sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_and_sets_after_a_loss() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "wide").await? else { return Ok(()) };
    stage.settings.mappings = Some(
        "\n  - table: wide.products\n    fill_grace: 50ms\n    keys:\n      - { prefix: \"feed:{id}:\" }\n      \
         - { members_of: \"tag:{category_id}\", members_prefix: \"page:\" }\n"
            .into(),
    );
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    let mut redis = shop::redis(stage.redis.port()).await?;
    let mut all = redis::pipe();
    all.atomic().cmd("FLUSHALL").ignore();
    for n in 0..300 {
        all.set(format!("feed:{n}:a"), "stale").ignore().set(format!("page:{n}"), "stale").ignore();
        all.sadd(format!("tag:{}", n % 7), format!("page:{n}")).ignore();
        all.sadd(format!("tag:{}", n % 7), format!("other:{n}")).ignore();
        all.set(format!("other:{n}"), 1).ignore().set(format!("feeds:{n}"), 1).ignore();
    }
    // In no set: nothing names it.
    all.set("page:x", 1).ignore();
    all.exec_async(&mut redis).await?;
    counted(&daemon, "rowbust_memory_flushes_total", 1.0).await?;
    stage.marked(&daemon).await?;
    let left = shop::cached(&mut redis).await?;
    let is_ours = |key: &&String| key.starts_with("feed:") || (key.starts_with("page:") && *key != "page:x");
    ensure!(!left.iter().any(|key| is_ours(&key)), "{left:?}\n{}", daemon.log_tail());
    for tag in 0..7 {
        let members: Vec<String> = redis.smembers(format!("tag:{tag}")).await?;
        ensure!(members.iter().all(|member| member.starts_with("other:")), "{members:?}");
    }
    let kept = |begin: &str| left.iter().filter(|key| key.starts_with(begin)).count();
    ensure!((kept("other:"), kept("feeds:"), kept("page:x")) == (300, 300, 1), "I7: {left:?}");
    Ok(())
}

/// A daemon that dies in the middle of that flush has left no mark: the next one flushes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_flushes() -> Result<()> {
    let Some((mut stage, mut daemon)) = stage(Flavor::MariaDb, "halfway", false).await? else {
        return Ok(());
    };
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    stage.settings.limits = Some("{ memory: 48MiB, flush_keys_per_second: 100 }".into());
    let mut daemon = stage.start().await?;
    let key = mark_key(&stage)?;
    let mut redis = shop::redis(stage.redis.port()).await?;
    let mut all = redis::pipe();
    all.atomic().cmd("FLUSHALL").ignore().set("product:4", "stale").ignore();
    let many = "for n = 1, 20000 do redis.call('SET', 'control:' .. n, 1) end";
    all.cmd("EVAL").arg(many).arg(0).ignore();
    all.exec_async(&mut redis).await?;
    // For longer than it takes to write a mark.
    until("the flush runs", WITHIN, async || {
        let running = match daemon.status().await {
            Ok(status) => status["flush"][0]["running"].clone(),
            Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
        };
        Ok(Seen::check(running["seconds"].as_f64() > Some(3.0), || running.to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(!redis.exists::<_, bool>(&key).await?, "a mark, and the flush isn't done");
    ensure!(daemon.kill9()?);
    stage.settings.limits = None;
    let daemon = stage.start().await?;
    healed(&stage, &daemon, true).await?;
    ensure!(counts(&daemon).await? == (0.0, 1.0), "{}", daemon.log_tail());
    ensure!(redis.exists::<_, bool>("control:1").await?, "I7: control:1 is gone");
    Ok(())
}

/// A cache that saves nothing begins empty: nothing old can be in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_data() -> Result<()> {
    let Some((mut stage, daemon)) = stage(Flavor::MariaDb, "empty", false).await? else { return Ok(()) };
    let key = mark_key(&stage)?;
    stage.redis_forgets().await?;
    stage.proxy.open().await?;
    let redis = shop::redis(stage.redis.port()).await?;
    until("a mark again", WITHIN, async || {
        let mut redis = redis.clone();
        Ok(Seen::check(redis.exists::<_, bool>(&key).await?, || key.clone()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(counts(&daemon).await? == (0.0, 0.0), "{}", daemon.log_tail());
    Ok(())
}

fn mark_key(stage: &Stage) -> Result<String> {
    Ok(format!("rowbust:mark:{}", stage.checkpoint()?.lineage))
}

/// The mark lies behind what the binlog still has.
async fn out_of_reach(flavor: Flavor) -> Result<()> {
    let Some((mut stage, daemon)) = stage(flavor, "reach", true).await? else { return Ok(()) };
    let mut redis = shop::redis(stage.redis.port()).await?;
    redis::cmd("SAVE").exec_async(&mut redis).await?;
    let mut conn = stage.sql().await?;
    change(&stage, &daemon).await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    change(&stage, &daemon).await?;
    stage.marked(&daemon).await?;
    let (newest, _) = stage.db.newest(&mut conn).await?;
    until("purged", WITHIN, async || {
        let mut conn = stage.sql().await?;
        conn.query_drop(format!("PURGE BINARY LOGS TO '{newest}'")).await?;
        let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
        Ok(Seen::check(logs.len() == 1, || format!("{} files", logs.len())))
    })
    .await?;
    stage.redis_forgets().await?;
    ensure!(stage.stale().await?.len() >= 9, "void: nothing came back");
    stage.proxy.open().await?;
    counted(&daemon, "rowbust_memory_flushes_total", 1.0).await?;
    healed(&stage, &daemon, true).await?;
    ensure!(daemon.log_text().contains("no longer reaches back"), "{}", daemon.log_tail());
    // `on_gap` is about the source.
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0);
    Ok(())
}

/// However the daemon ends, a Redis that lives on has forgotten nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_daemon() -> Result<()> {
    let Some((stage, mut daemon)) = stage(Flavor::MariaDb, "plain", false).await? else { return Ok(()) };
    let epoch = stage.checkpoint()?.epoch;
    let plan =
        Plan { writers: 2, readers: 1, pause: Duration::from_millis(10), hot: 10, seed: seed("plain") };
    let load = stage.load(plan);
    for ending in ["kill", "term", "kill", "kill"] {
        // Marks are written meanwhile.
        let before = stage.checkpoint()?.published;
        until("a mark", WITHIN, async || {
            Ok(Seen::check(stage.checkpoint()?.published != before, || "none".into()))
        })
        .await
        .map_err(|error| daemon.explain(&error))?;
        if ending == "kill" {
            ensure!(daemon.kill9()?);
        } else {
            ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
        }
        daemon = stage.start().await?;
    }
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    stage.judge(&history, &[], PRODUCTS, 10).await.map_err(|error| daemon.explain(&error))?;
    ensure!(counts(&daemon).await? == (0.0, 0.0), "{}", daemon.log_tail());
    ensure!(stage.checkpoint()?.epoch == epoch, "a new epoch without need");
    Ok(())
}

/// What the queue still owes, Redis hasn't acknowledged: the checkpoint passes it, the mark doesn't.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_holds_the_mark() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "holds").await? else { return Ok(()) };
    let retry = stage.dir().join("retry");
    stage.settings.retry =
        Some(format!("{{ disk: {{ path: {} }}, delay: 4s, attempts: 5 }}", retry.display()));
    stage.open_shop(PRODUCTS).await?;
    let daemon = stage.start().await?;
    stage.marked(&daemon).await?;
    let before = daemon.status().await?;
    stage.proxy.cut().await;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=ver+1000 WHERE id<=3"]).await?;
    daemon.metric_at_least("rowbust_keys_queued_total", 3.0, WITHIN).await?;
    stage.proxy.open().await?;
    let frontier =
        |status: &serde_json::Value| status["marks"]["targets"][0]["frontier"]["position"].as_u64();
    let old = frontier(&before).context("no frontier")?;
    let held = Cell::new(0);
    until("the queue is empty", WITHIN, async || {
        let status = daemon.status().await?;
        let pending = status["queue"]["pending"].as_u64().unwrap_or(1);
        let passed = status["checkpoint"]["position"].as_u64() > Some(old);
        let open = status["targets"][0]["breaker"] == "open";
        if pending > 0 && passed {
            ensure!(frontier(&status) == Some(old), "the mark has passed what is owed: {status}");
            held.set(held.get() + u32::from(!open));
        }
        Ok(Seen::check(pending == 0, || status.to_string()))
    })
    .await
    .map_err(|error| daemon.explain(&error))?;
    ensure!(
        held.get() > 20,
        "void: the queue was hardly seen to owe anything while redis was there: {held:?}"
    );
    stage.marked(&daemon).await?;
    ensure!(frontier(&daemon.status().await?) > Some(old));
    ensure!(counts(&daemon).await? == (0.0, 0.0), "{}", daemon.log_tail());
    Ok(())
}
