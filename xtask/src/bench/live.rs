//! Following writes as fast as the server takes them, second removals included.
//!
//! Connections update random rows, each a commit of its own, for some seconds. What is behind is what the server has
//! committed and the daemon has not yet read, sampled; and at the end the time until everything is removed twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable;

use super::{
    Section,
    daemon::{self, Daemon, Setup, caught_up, number},
    data::{self, WRITERS},
    drain::DEFAULT,
    env::{Bench, Db, connect, micros_per, peak_memory, process_time, quantile, runtime},
    redis_wire::fill,
};

/// Rows that are updated, and keys that exist at the start.
const ROWS: u32 = 100_000;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let program = daemon::build(bench)?;
    let scratch = bench.scratch("live")?;
    let redis = bench.redis(&scratch.0)?;
    let db = Db::start(bench, &scratch.0.join("db"))?;
    data::create(&db, ROWS)?;
    fill(redis.port(), &(1..=ROWS).collect::<Vec<_>>())?;
    let setup = Setup { database: db.port(), redis: redis.port(), start: "latest", mapping: DEFAULT };
    let mut daemon = Daemon::start(&program, &scratch.0, &setup)?;
    daemon.logged("stream begins")?;
    daemon.until("it is ready", |s| s["ready"] == true)?;

    let redis_pid = redis.pid().context("Redis has ended")?;
    let pid = daemon.pid();
    let times = || anyhow::Ok([process_time(pid)?, process_time(redis_pid)?, process_time(db.pid()?)?]);
    let before = times()?;
    let begun = Instant::now();
    let length = Duration::from_secs(if bench.quick { 4 } else { 20 });
    let stop = Arc::new(AtomicBool::new(false));
    let writers = {
        let (stop, port) = (Arc::clone(&stop), db.port());
        std::thread::spawn(move || write(port, &stop))
    };
    let mut behind = Vec::new();
    let mut lag = Vec::new();
    runtime()?.block_on(async {
        let mut conn = connect(db.port()).await?;
        let first = committed(&mut conn, &db).await?;
        while begun.elapsed() < length {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Asked first, so that what is behind is rather more than less.
            let status = daemon.status()?;
            let done = committed(&mut conn, &db).await? - first;
            behind.push((done - number(&status, "/source/transactions")).max(0.0));
            lag.push(number(&status, "/lag_seconds"));
        }
        anyhow::Ok(())
    })?;
    stop.store(true, Relaxed);
    let commits = writers.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    let wrote = begun.elapsed();
    let ended = Instant::now();
    let routed = f64::from(commits);
    daemon.until("it has caught up", |s| number(s, "/rows") >= routed && caught_up(s))?;
    let tail = ended.elapsed();
    let after = times()?;
    let peak = peak_memory(daemon.pid())?;
    daemon.end()?;

    let half = behind.len() / 2;
    let mut section = Section::new("live", bench, format!("{}, Redis {}", db.name(), redis.version()));
    section.figure("commits per second", f64::from(commits) / wrote.as_secs_f64(), "/s");
    for ((who, after), before) in ["daemon's", "Redis'", "database's"].into_iter().zip(after).zip(before) {
        section.figure(
            format!("{who} processor time per row"),
            micros_per(after.saturating_sub(before), commits),
            "µs",
        );
    }
    section.figure("commits behind, first half: median", quantile(&mut behind[..half].to_vec(), 0.5), "");
    section.figure("commits behind, second half: median", quantile(&mut behind[half..].to_vec(), 0.5), "");
    section.figure("commits behind: most", quantile(&mut behind, 1.0), "");
    section.figure("lag by the status, in whole seconds of the server: most", quantile(&mut lag, 1.0), "s");
    section.figure("from the last commit to everything removed twice", tail.as_secs_f64(), "s");
    section.figure("peak memory of the daemon", peak, "MiB");
    section.note(format!(
        "{WRITERS} connections for {:.0} s, {commits} commits on {ROWS} rows; the fill grace of 1 s is part of the last time",
        wrote.as_secs_f64()
    ));
    Ok(section)
}

/// Writes until told to stop; the number of commits.
fn write(port: u16, stop: &Arc<AtomicBool>) -> Result<u32> {
    const AT_ONCE: u32 = 200;
    runtime()?.block_on(async {
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let stop = Arc::clone(stop);
            writers.push(tokio::spawn(async move {
                let mut conn = connect(port).await?;
                let mut commits = 0;
                while !stop.load(Relaxed) {
                    conn.query_drop(format!("CALL bench.touch_random({AT_ONCE}, {ROWS})")).await?;
                    commits += AT_ONCE;
                }
                conn.disconnect().await?;
                anyhow::Ok(commits)
            }));
        }
        let mut commits = 0;
        for writer in writers {
            commits += writer.await??;
        }
        Ok(commits)
    })
}

/// The number of the newest transaction.
async fn committed(conn: &mut mysql_async::Conn, db: &Db) -> Result<f64> {
    let variable = if db.is_mysql() { "gtid_executed" } else { "gtid_binlog_pos" };
    let text: Option<String> = conn.query_first(format!("SELECT @@global.{variable}")).await?;
    let text = text.unwrap_or_default();
    // One source and one domain: `uuid:1-N` or `domain-server-N`.
    let number = text.trim().rsplit(['-', ':']).next().context("no GTID")?;
    number.parse().with_context(|| format!("GTIDs {text}"))
}
