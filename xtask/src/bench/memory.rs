//! Peak resident memory of the daemon: in a drain, and in one transaction of three million rows.

use anyhow::Result;

use super::{
    Section,
    daemon::{self, Daemon, Setup, caught_up, number},
    data::{self, Backlog},
    drain::{self, DEFAULT, NEVER},
    env::{Bench, Db, peak_memory},
};

/// The promise, in MiB.
const BAR: f64 = 64.0;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let program = daemon::build(bench)?;
    let scratch = bench.scratch("memory")?;
    let redis = bench.redis(&scratch.0)?;
    let backlog = Backlog::open(bench)?;
    let ids = backlog.ids()?;
    let mut section =
        Section::new("memory", bench, format!("{}, Redis {}", backlog.db.name(), redis.version()));
    let drained = [("default", DEFAULT), ("second_removal: never", NEVER)];
    for (name, mapping) in drained {
        let drained = drain::drain(&program, &scratch.0, &backlog, &ids, &redis, mapping)?;
        let name = format!("peak, draining {} commits, {name}", backlog.rows());
        section.at_most(name, drained.peak_mib, BAR, "MiB");
    }
    backlog.db.stop()?;

    let db = Db::start(bench, &scratch.0.join("db"))?;
    data::create(&db, 1)?;
    let rows = bench.scaled(3_000_000);
    let setup = Setup { database: db.port(), redis: redis.port(), start: "latest", mapping: DEFAULT };
    let mut daemon = Daemon::start(&program, &scratch.0, &setup)?;
    daemon.logged("stream begins")?;
    daemon.until("it is ready", |s| s["ready"] == true)?;
    section.figure("at rest, before the first row", peak_memory(daemon.pid())?, "MiB");
    db.run(&["DELETE FROM bench.products"])?;
    data::fill(&db, rows)?;
    let routed = f64::from(rows);
    daemon.until("it has caught up", |s| number(s, "/rows") >= routed && caught_up(s))?;
    section.at_most(format!("peak, one transaction of {rows} rows"), peak_memory(daemon.pid())?, BAR, "MiB");
    daemon.end()?;
    section.note("peak resident memory (VmHWM), the program's own pages included");
    Ok(section)
}
