//! From commit to first removal at 1,000 commits per second, against the receipt of a bare replica.
//!
//! Each commit updates another row, so that each has a key of its own. A bare replica (mysql_async's stream, on a thread of
//! its own, beside the daemon's) notes when the row's event has arrived. When the first removal runs is told by Redis' own
//! clock: `MONITOR` stamps each command, in microseconds, before it executes it (`replicationFeedMonitors` in
//! `src/replication.c`). Both are the machine's one clock, so that the difference, by commit, is what the daemon adds to what any
//! replica has to wait: decoding, routing, batching, the way to Redis. It may be negative where the daemon was
//! served first.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable;
use rowbust_binlog::Decoder;

use super::{
    Section,
    daemon::{self, Daemon, Setup, caught_up, number},
    data::{self, FirstColumn},
    drain::DEFAULT,
    env::{Bench, Db, connect, quantile, runtime},
    redis_wire::{fill, key},
    replica::Replica,
};

/// Connections that commit in turns, so that one slow commit doesn't hold up the pace.
const CONNECTIONS: u32 = 4;
/// Commits per second.
const PACE: u32 = 1000;
/// Commits of the first second aren't counted: connections and caches warm up.
const WARM_UP: u32 = PACE;

/// Unix time in microseconds by id; 0: not yet.
type Times = Arc<Vec<AtomicU64>>;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let program = daemon::build(bench)?;
    let scratch = bench.scratch("latency")?;
    let redis = bench.redis(&scratch.0)?;
    let db = Db::start(bench, &scratch.0.join("db"))?;
    let commits = WARM_UP + PACE * if bench.quick { 3 } else { 15 };
    data::create(&db, commits)?;
    let file = db.new_binlog()?;
    fill(redis.port(), &(1..=commits).collect::<Vec<_>>())?;
    let setup = Setup { database: db.port(), redis: redis.port(), start: "latest", mapping: DEFAULT };
    let mut daemon = Daemon::start(&program, &scratch.0, &setup)?;
    daemon.logged("stream begins")?;
    daemon.until("it is ready", |s| s["ready"] == true)?;

    let times = || -> Times { Arc::new((0..=commits).map(|_| AtomicU64::new(0)).collect()) };
    let (sent, received, removed) = (times(), times(), times());
    let watching = monitor(redis.port(), Arc::clone(&removed))?;
    let receiving = receive(&db, file, commits, Arc::clone(&received));
    runtime()?.block_on(write(db.port(), commits, &sent))?;
    receiving.join().map_err(|_| anyhow::anyhow!("the replica panicked"))??;
    daemon.until("it has caught up", |s| number(s, "/rows") >= f64::from(commits) && caught_up(s))?;
    daemon.end()?;
    // Its connection ends with the server.
    redis.stop()?;
    watching.join().map_err(|_| anyhow::anyhow!("the monitor panicked"))?;

    let (mut above, mut bare, mut whole) = (vec![], vec![], vec![]);
    for id in (WARM_UP + 1..=commits).map(|id| id as usize) {
        let [sent, received, removed] = [&sent, &received, &removed].map(|times| times[id].load(Relaxed));
        ensure!(removed != 0, "{} was not removed", key(u32::try_from(id)?));
        above.push(millis(received, removed));
        bare.push(millis(sent, received));
        whole.push(millis(sent, removed));
    }
    let mut section = Section::new("latency", bench, format!("{}, Redis {}", db.name(), redis.version()));
    section.at_most(
        "first removal above a bare replica's receipt: p50",
        quantile(&mut above, 0.5),
        2.0,
        "ms",
    );
    section.at_most(
        "first removal above a bare replica's receipt: p99",
        quantile(&mut above, 0.99),
        10.0,
        "ms",
    );
    section.figure("the same: most", quantile(&mut above, 1.0), "ms");
    for (name, times) in [("a bare replica's receipt", &mut bare), ("first removal", &mut whole)] {
        section.figure(format!("from sending the UPDATE to {name}: p50"), quantile(times, 0.5), "ms");
        section.figure(format!("from sending the UPDATE to {name}: p99"), quantile(times, 0.99), "ms");
    }
    section.note(format!(
        "{PACE} commits per second for {} s after a second of warm-up",
        (commits - WARM_UP) / PACE
    ));
    Ok(section)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// From one time to the other.
#[allow(clippy::cast_precision_loss)]
fn millis(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1000.0
}

/// Commits at the pace, each another id from 1 on.
async fn write(port: u16, commits: u32, sent: &Times) -> Result<()> {
    let begin = tokio::time::Instant::now() + Duration::from_millis(50);
    let mut writers = Vec::new();
    for first in 1..=CONNECTIONS {
        let sent = Arc::clone(sent);
        writers.push(tokio::spawn(async move {
            let mut conn = connect(port).await?;
            for id in (first..=commits).step_by(CONNECTIONS as usize) {
                tokio::time::sleep_until(begin + Duration::from_secs(1) / PACE * id).await;
                sent[id as usize].store(now(), Relaxed);
                conn.query_drop(format!("UPDATE bench.products SET stock = stock + 1 WHERE id = {id}"))
                    .await?;
            }
            conn.disconnect().await?;
            anyhow::Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

/// The bare replica, until it has seen all ids.
fn receive(db: &Db, file: String, commits: u32, times: Times) -> JoinHandle<Result<()>> {
    let (port, mysql) = (db.port(), db.is_mysql());
    std::thread::spawn(move || {
        runtime()?.block_on(async {
            let mut replica = Replica::open(port, mysql, 7003, &file).await?;
            let mut decoder = Decoder::new();
            let mut first = FirstColumn::default();
            let mut left = commits;
            let all = replica.read(|raw| {
                let at = now();
                first.event(&mut decoder, raw, |id| {
                    if let Some(time) = times.get(id as usize) {
                        time.store(at, Relaxed);
                        left -= 1;
                    }
                })?;
                Ok(left > 0)
            });
            tokio::time::timeout(Duration::from_secs(120), all).await.context("the replica misses rows")?
        })
    })
}

/// Notes the first UNLINK of each key, until the connection ends.
fn monitor(port: u16, times: Times) -> Result<JoinHandle<()>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"MONITOR\r\n")?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    ensure!(line.starts_with("+OK"), "MONITOR: {line}");
    Ok(std::thread::spawn(move || {
        // `+1700000000.123456 [0 127.0.0.1:40000] "UNLINK" "product:1" "product:2"`
        for line in lines.lines().map_while(Result::ok) {
            let Some((stamp, rest)) = line.trim_start_matches('+').split_once(' ') else { continue };
            let Ok(at) = stamp.replace('.', "").parse::<u64>() else { continue };
            let Some((_, keys)) = rest.split_once("\"UNLINK\"") else { continue };
            let ids = keys.split('"').filter_map(|k| k.strip_prefix("product:")?.parse::<usize>().ok());
            for time in ids.filter_map(|id| times.get(id)) {
                let _ = time.compare_exchange(0, at, Relaxed, Relaxed);
            }
        }
    }))
}
