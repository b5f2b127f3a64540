//! Rate of draining a backlog of single-row commits whose keys exist, against the same keys removed by 512-key UNLINKs alone.
//!
//! A daemon's time runs from its log's "stream begins" (connected, checked, the dump asked for; the start of the process
//! isn't in it) to `caught_up` of its status: everything read, removed as often as is owed, and checkpointed. The runs take
//! turns; the ratio is that of the medians, and those of neighbouring runs say how noisy the machine was.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rowbust_binlog::event_type;

use super::{
    Section,
    daemon::{self, Daemon, Setup, caught_up, number},
    data::Backlog,
    env::{Bench, Db, median, micros_per, own_time, peak_memory, process_time, quantile, runtime},
    redis_wire::{fill, fill_in_order, flush, remove, unlinks},
    replica::Replica,
};

/// The value of a mapping's `second_removal`, as the bench has it in the config.
pub(super) const NEVER: &str = "second_removal: never";
/// As by default.
pub(super) const DEFAULT: &str = "";

/// One drain.
pub(super) struct Drained {
    pub(super) took: Duration,
    /// Processor time of the daemon, of Redis and of the database.
    daemon: Duration,
    redis: Duration,
    database: Duration,
    pub(super) peak_mib: f64,
    /// Sent to Redis.
    commands: f64,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let program = daemon::build(bench)?;
    let scratch = bench.scratch("drain")?;
    let redis = bench.redis(&scratch.0)?;
    let backlog = Backlog::open(bench)?;
    let ids = backlog.ids()?;
    let commands = unlinks(&ids);
    let redis_pid = redis.pid().context("Redis has ended")?;
    let mut section =
        Section::new("drain", bench, format!("{}, Redis {}", backlog.db.name(), redis.version()));

    let mut runs: [(&str, &str, Runs); 2] =
        [("second_removal: never", NEVER, Runs::default()), ("default", DEFAULT, Runs::default())];
    let (mut alone_rates, mut alone_redis, mut in_order) = (vec![], vec![], vec![]);
    let (mut raw_rates, mut raw_times, mut raw_events) = (vec![], vec![], 0_u64);
    let rows = backlog.rows();
    for _ in 0..bench.rounds() {
        for (_, mapping, runs) in &mut runs {
            fill(redis.port(), &ids)?;
            let before = process_time(redis_pid)?;
            let alone = rate(rows, remove(redis.port(), &commands, ids.len())?);
            alone_redis.push(micros_per(process_time(redis_pid)?.saturating_sub(before), rows));
            alone_rates.push(alone);
            let drained = drain(&program, &scratch.0, &backlog, &ids, &redis, mapping)?;
            runs.ratios.push(rate(rows, drained.took) / alone);
            runs.drains.push(drained);
        }
        fill_in_order(redis.port(), &ids)?;
        in_order.push(rate(rows, remove(redis.port(), &commands, ids.len())?));
        let raw = raw(&backlog.db, backlog.file(), rows)?;
        raw_rates.push(rate(rows, raw.took));
        raw_times.push(micros_per(raw.time, rows));
        raw_events = raw.events;
    }

    let alone = median(alone_rates);
    for ((name, _, runs), bar) in runs.iter().zip([0.45, 0.4]) {
        let drained = median(runs.drains.iter().map(|d| rate(rows, d.took)).collect());
        section.at_least(format!("{name}: rate, against UNLINK alone"), drained / alone, bar, "");
        let mut ratios = runs.ratios.clone();
        section.figure(format!("{name}: lowest ratio of neighbours"), quantile(&mut ratios, 0.0), "");
        section.figure(format!("{name}: highest ratio of neighbours"), quantile(&mut ratios, 1.0), "");
    }
    section.figure("UNLINK alone: keys per second", alone, "/s");
    section.figure("UNLINK alone, where keys were set in the order of their removal", median(in_order), "/s");
    section.figure("UNLINK alone: Redis' processor time per key", median(alone_redis), "µs");
    for (name, _, runs) in &runs {
        let of = |f: fn(&Drained) -> Duration| {
            median(runs.drains.iter().map(|d| micros_per(f(d), rows)).collect())
        };
        section.figure(
            format!("{name}: commits per second"),
            median(runs.drains.iter().map(|d| rate(rows, d.took)).collect()),
            "/s",
        );
        section.figure(format!("{name}: daemon's processor time per commit"), of(|d| d.daemon), "µs");
        section.figure(format!("{name}: Redis' processor time per commit"), of(|d| d.redis), "µs");
        section.figure(format!("{name}: database's processor time per commit"), of(|d| d.database), "µs");
        section.figure(
            format!("{name}: commits per UNLINK sent"),
            median(runs.drains.iter().map(|d| f64::from(rows) / d.commands).collect()),
            "",
        );
        section.figure(
            format!("{name}: peak memory of the daemon"),
            runs.drains.iter().map(|d| d.peak_mib).fold(0.0, f64::max),
            "MiB",
        );
    }
    #[allow(clippy::cast_precision_loss)]
    let per_commit = raw_events as f64 / f64::from(rows);
    let raw_time = median(raw_times);
    section.figure("mysql_async's stream alone: commits per second", median(raw_rates), "/s");
    section.figure("mysql_async's stream alone: processor time per commit", raw_time, "µs");
    section.figure("mysql_async's stream alone: processor time per event", raw_time / per_commit, "µs");
    section.figure("events per commit", per_commit, "");
    section.note(format!("{rows} commits; all processes share the cores"));
    Ok(section)
}

#[derive(Default)]
struct Runs {
    ratios: Vec<f64>,
    drains: Vec<Drained>,
}

fn rate(rows: u32, took: Duration) -> f64 {
    f64::from(rows) / took.as_secs_f64()
}

/// Fills Redis, and lets a new daemon drain the backlog.
pub(super) fn drain(
    program: &Path,
    dir: &Path,
    backlog: &Backlog,
    ids: &[u32],
    redis: &rowbust_servers::Redis,
    mapping: &str,
) -> Result<Drained> {
    flush(redis.port())?;
    fill(redis.port(), ids)?;
    let (database_pid, redis_pid) = (backlog.db.pid()?, redis.pid().context("Redis has ended")?);
    let start = backlog.start();
    let setup = Setup { database: backlog.db.port(), redis: redis.port(), start: &start, mapping };
    let before = (process_time(redis_pid)?, process_time(database_pid)?);
    let mut daemon = Daemon::start(program, dir, &setup)?;
    let begun = daemon.logged("stream begins")?;
    let started = process_time(daemon.pid())?;
    let routed = f64::from(backlog.rows());
    daemon.until("it has caught up", |s| number(s, "/keys/routed") >= routed && caught_up(s))?;
    let took = begun.elapsed();
    let drained = Drained {
        took,
        daemon: process_time(daemon.pid())?.saturating_sub(started),
        redis: process_time(redis_pid)?.saturating_sub(before.0),
        database: process_time(database_pid)?.saturating_sub(before.1),
        peak_mib: peak_memory(daemon.pid())?,
        commands: daemon.metric("rowbust_redis_commands_total")?,
    };
    daemon.end()?;
    let keys = redis.cli(&["KEYS", "*"])?;
    // The daemon's own are its mark and what it tells clients.
    let left = keys.lines().filter(|key| !key.is_empty() && !key.starts_with(rowbust_protocol::OWN)).count();
    ensure!(left == 0, "{left} keys are still there");
    Ok(drained)
}

struct Raw {
    took: Duration,
    time: Duration,
    events: u64,
}

/// The same backlog through mysql_async's stream, looking at nothing but the event's type: what the transport costs.
fn raw(db: &Db, file: &str, rows: u32) -> Result<Raw> {
    runtime()?.block_on(async {
        let mut replica = Replica::open(db.port(), db.is_mysql(), 7002, file).await?;
        let (begun, before) = (Instant::now(), own_time()?);
        let (mut events, mut commits) = (0, 0);
        replica
            .read(|raw| {
                events += 1;
                commits += u32::from(raw.header.event_type == event_type::XID);
                Ok(commits < rows)
            })
            .await?;
        Ok(Raw { took: begun.elapsed(), time: own_time()?.saturating_sub(before), events })
    })
}
