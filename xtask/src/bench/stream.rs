//! Processor time of the stream: the daemon's own packet layer against `mysql_async`'s stream, and from the socket to the key.
//!
//! The runs take turns on one server and read the same file from their first event on, each in a process of its own
//! (`benches/stream.rs`), whose processor time is taken, the system's share included.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Section,
    data::Backlog,
    env::{Bench, median},
};

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let backlog = Backlog::open(bench)?;
    let rows = backlog.rows();
    let mut section = Section::new("stream", bench, backlog.db.name());
    // Built before anything is measured.
    measure(bench, &[])?;
    let port = backlog.db.port().to_string();
    let singles = backlog.singles();
    let singles = singles.file_name().and_then(|name| name.to_str()).context("binlog name")?;
    for (shape, file) in [("single-row events", singles), ("single-row commits", backlog.file())] {
        let runs = ["own", "driver", "key"];
        let mut per_event: [Vec<f64>; 3] = Default::default();
        let mut per_row: [Vec<f64>; 3] = Default::default();
        let mut all_events = 0.0;
        for _ in 0..bench.rounds() + 2 {
            for (i, run) in runs.into_iter().enumerate() {
                let seen = measure(bench, &[run, &port, file, &rows.to_string()])?;
                let number = |name: &str| seen[name].as_f64().with_context(|| format!("{name} of {run}"));
                let (micros, events) = (number("micros")?, number("events")?);
                ensure!(events >= f64::from(rows), "{run}: {events} events");
                per_event[i].push(micros / events);
                per_row[i].push(micros / f64::from(rows));
                all_events = events;
            }
        }
        let [own, driver, _] = per_event.map(median);
        let [_, _, key] = per_row.map(median);
        if shape == "single-row events" {
            section.at_most(format!("{shape}: from socket to key, CRC32 checked, per row"), key, 0.2, "µs");
        } else {
            section.figure(format!("{shape}: from socket to key, CRC32 checked, per commit"), key, "µs");
        }
        section.figure(format!("{shape}: own stream, per event"), own, "µs");
        section.figure(format!("{shape}: mysql_async's stream, per event"), driver, "µs");
        section.figure(format!("{shape}: mysql_async's by own"), driver / own, "times");
        section.figure(format!("{shape}: events per row"), all_events / f64::from(rows), "");
    }
    section.note(format!(
        "{rows} updated rows over TCP on this machine; both streams only read the events' headers"
    ));
    backlog.db.stop()?;
    Ok(section)
}

/// One run; without arguments only builds.
fn measure(bench: &Bench, args: &[&str]) -> Result<Value> {
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "bench",
            "--quiet",
            "--package",
            "rowbust",
            "--no-default-features",
            "--bench",
            "stream",
            "--",
        ])
        .args(args)
        .current_dir(&bench.root)
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .context("cannot run cargo")?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "benches/stream.rs {args:?}: {}\n{errors}", out.status);
    if args.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&out.stdout).with_context(|| format!("{args:?}: {errors}"))
}
