//! Faults of Redis, of the daemon and of its queue.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::task::block_in_place;

use super::{Scene, Striking};
use crate::live::{LiveError, error::LiveError as Error};

/// Between two strokes.
const BETWEEN: Duration = Duration::from_millis(500);

/// A field of `INFO`.
async fn info(raw: &mut MultiplexedConnection, section: &str, field: &str) -> Result<u64, LiveError> {
    let text: String =
        redis::cmd("INFO").arg(section).query_async(raw).await.map_err(Error::redis("INFO"))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok());
    value.ok_or_else(|| Error::server("INFO", format!("no {field}")))
}

async fn set(raw: &mut MultiplexedConnection, name: &str, value: &str) -> Result<(), LiveError> {
    let done: Result<(), _> = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query_async(raw).await;
    done.map_err(Error::redis("CONFIG SET"))
}

/// Memory is short for a moment: Redis evicts entries, leases and locks, whatever has a TTL.
pub(super) async fn evictions(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    while scene.pause(BETWEEN / 2).await {
        // Anew each time: the master may be another one.
        let Ok(mut raw) = scene.world.raw().await else { continue };
        let squeezed = async {
            set(&mut raw, "maxmemory-policy", "volatile-random").await?;
            let before = info(&mut raw, "stats", "evicted_keys").await?;
            let used = info(&mut raw, "memory", "used_memory").await?;
            let from = scene.clock.now();
            set(&mut raw, "maxmemory", &used.saturating_sub(12 * 1024).to_string()).await?;
            scene.pause(Duration::from_millis(20)).await;
            set(&mut raw, "maxmemory", "0").await?;
            let after = info(&mut raw, "stats", "evicted_keys").await?;
            this.window(from, scene.clock.now());
            Ok::<u64, LiveError>(after.saturating_sub(before))
        };
        match squeezed.await {
            Ok(evicted) => this.struck(evicted),
            // Another fault has taken Redis away; it comes back without a limit.
            Err(error) => tracing::debug!(%error, "no eviction"),
        }
    }
    // Another fault may just be taking Redis away: then too it comes back without a limit.
    if let Ok(mut raw) = scene.world.raw().await
        && let Err(error) = set(&mut raw, "maxmemory", "0").await
    {
        tracing::debug!(%error, "the limit goes with the server");
    }
    Ok(())
}

/// `CLIENT PAUSE`: longer than clients wait for a reply.
pub(super) async fn redis_pause(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    const PAUSE: Duration = Duration::from_millis(700);
    while scene.pause(BETWEEN).await {
        let Ok(mut raw) = scene.world.raw().await else { continue };
        let from = scene.clock.now();
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(PAUSE.as_millis().to_string()).arg("ALL");
        let begun = Instant::now();
        let paused = async {
            pause.query_async::<()>(&mut raw).await?;
            redis::cmd("GET").arg("rowbust-lab:nothing").query_async::<Option<String>>(&mut raw).await
        };
        let paused = paused.await;
        this.window(from, scene.clock.now());
        // An answer that came only after it is the proof that it was one.
        this.struck(u64::from(paused.is_ok() && begun.elapsed() >= PAUSE * 9 / 10));
    }
    Ok(())
}

/// Redis dies, and comes back with an older snapshot: values that were removed since are there again.
pub(super) async fn redis_restart(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    let Some(server) = scene.world.redis_server() else { return Ok(()) };
    let failed = |e| Error::server("restarting Redis", e);
    let mut goes_on = scene.pause(BETWEEN).await;
    while goes_on {
        let mut raw = scene.world.raw().await?;
        redis::cmd("SAVE").query_async::<()>(&mut raw).await.map_err(Error::redis("SAVE"))?;
        // Also when it is to end: what was written last is lost too.
        goes_on = scene.pause(BETWEEN).await;
        let from = scene.clock.now();
        block_in_place(|| server.kill9().and_then(|()| server.start_again())).map_err(failed)?;
        let mut raw = scene.world.raw().await?;
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut raw).await.map_err(Error::redis("DBSIZE"))?;
        this.window(from, scene.clock.now());
        this.struck(u64::from(keys > 0));
        goes_on = goes_on && scene.pause(BETWEEN).await;
    }
    Ok(())
}

/// The master dies, a replica is promoted.
pub(super) async fn redis_failover(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    let Some(group) = scene.world.sentinels() else { return Ok(()) };
    let failed = |e| Error::server("a failover of Redis", e);
    while scene.pause(BETWEEN * 2).await {
        let from = scene.clock.now();
        block_in_place(|| {
            let Some(old) = group.master() else { return Ok(()) };
            let Some(server) = group.servers.get(old) else { return Ok(()) };
            server.kill9()?;
            group.promoted(old)?;
            this.struck(1);
            server.start_again()?;
            group.ready(group.servers.len() - 1)
        })
        .map_err(failed)?;
        this.window(from, scene.clock.now());
    }
    Ok(())
}

/// `kill -9` of every daemon, and a new start.
pub(super) async fn daemon_kill(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    while scene.pause(BETWEEN).await {
        let from = scene.clock.now();
        for stage in scene.stages {
            if let Some(daemon) = stage.daemon.lock().await.as_mut() {
                this.struck(u64::from(daemon.kill9()?));
            }
        }
        scene.pause(BETWEEN / 2).await;
        for stage in scene.stages {
            if let Some(daemon) = stage.daemon.lock().await.as_mut() {
                daemon.launch()?;
                daemon.ready().await?;
            }
        }
        this.window(from, scene.clock.now());
    }
    Ok(())
}

/// Redis is down, and the queue that would keep what can't be removed takes nothing either.
pub(super) async fn kafka_stop(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    let (Some(kafka), Some(redis)) = (scene.world.kafka(), scene.world.redis_server()) else {
        return Ok(());
    };
    let failed = |e| Error::server("stopping Kafka and Redis", e);
    while scene.pause(BETWEEN).await {
        let from = scene.clock.now();
        block_in_place(|| kafka.freeze().and_then(|()| redis.shutdown_save())).map_err(failed)?;
        scene.pause(BETWEEN * 2).await;
        let is_away = scene.world.raw().await.is_err();
        let mut all_stuck = true;
        for stage in scene.stages {
            all_stuck &= stage.is_stuck().await;
        }
        block_in_place(|| redis.start_again()).map_err(failed)?;
        scene.pause(BETWEEN).await;
        kafka.thaw().map_err(failed)?;
        this.window(from, scene.clock.now());
        this.struck(u64::from(is_away && all_stuck));
    }
    Ok(())
}
