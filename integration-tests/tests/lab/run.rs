//! The live lab at small size: each strategy's race is found on real servers, `guarded` has none; nothing is left behind.

mod given;
mod history;
mod spells;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rowbust_integration_tests::daemon::binary;
use rowbust_servers::{Need, Record, require};
use serde_json::Value;

/// A loaded machine is slow to start servers.
const WITHIN: Duration = Duration::from_secs(120);

/// Behind a signal the lab cleans up for so long, then leaves things as they are.
const ORDERLY: Duration = Duration::from_secs(20);

/// `rowbust lab …` with temporary folders in `dir`.
fn lab(dir: &Path, args: &[&str]) -> Result<Command> {
    let temporary = dir.join("tmp");
    fs::create_dir_all(&temporary)?;
    let mut command = Command::new(binary()?);
    command.arg("lab").args(args).current_dir(dir).env("TMPDIR", temporary).env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    Ok(command)
}

fn text(out: &Output) -> String {
    format!(
        "{}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Runs it to its end; what it printed as JSON. Servers and folders are gone then.
fn run(dir: &Path, args: &[&str], code: i32) -> Result<Value> {
    let out = lab(dir, args)?.arg("--json").output()?;
    ensure!(out.status.code() == Some(code), "{args:?}: expected exit {code}: {}", text(&out));
    let left: Vec<_> = fs::read_dir(dir.join("tmp"))?.collect();
    ensure!(left.is_empty(), "{args:?} left {left:?}");
    serde_json::from_slice(&out.stdout).with_context(|| text(&out))
}

/// What came of a run.
#[derive(Debug)]
struct Found {
    strategy: String,
    fault: String,
    /// How often its fault did; None without one.
    struck: Option<u64>,
    /// Keys stale for good.
    stale: usize,
    /// Keys that hold what their row does.
    right: u64,
    /// What the workload finds wrong in itself.
    broken: usize,
    void: Option<String>,
}

fn found(compared: &Value) -> Result<Vec<Found>> {
    let runs = compared["runs"].as_array().context("no runs")?;
    let one = |run: &Value| {
        Some(Found {
            strategy: run["strategy"].as_str()?.to_owned(),
            fault: run["fault"].as_str()?.to_owned(),
            struck: run["struck"].as_object()?.values().next().and_then(Value::as_u64),
            stale: run["report"]["permanently_stale"].as_array()?.len(),
            right: run["report"]["right"].as_u64()?,
            broken: run["measures"]["broken"].as_array()?.len(),
            void: run["void"].as_str().map(str::to_owned),
        })
    };
    runs.iter().map(|run| one(run).with_context(|| format!("{run:#}"))).collect()
}

/// `rowbust lab compare` of these strategies on a server of this kind, two seconds each run.
fn compare(dir: &Path, flavor: &str, strategies: &str, more: &[&str]) -> Result<Value> {
    let args = ["compare", "--seconds", "2", "--flavor", flavor, "--strategy", strategies];
    run(dir, &[&args, more].concat(), 0)
}

#[test]
fn without_a_daemon_each_race_leaves_stale_keys() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let strategies = [
        "cache-aside",
        "delete-first",
        "write-db-then-cache",
        "write-cache-then-db",
        "delayed-double-delete",
        "lock-serialized-unfenced",
    ];
    let compared = compare(dir.path(), "mariadb", &strategies.join(","), &["--quick", "--out", "results"])?;
    let runs = found(&compared)?;
    for run in &runs {
        ensure!(run.void.is_none() && run.struck > Some(0) && run.stale > 0, "{run:?}");
    }
    let seen: HashSet<&str> = runs.iter().map(|run| run.strategy.as_str()).collect();
    ensure!(seen == HashSet::from(strategies), "{seen:?}");
    ensure!(compared["verdicts"].as_array().is_some_and(|all| all.len() == 6), "{}", compared["verdicts"]);

    // What is kept, and what can be made of it.
    let results = dir.path().join("results");
    for name in ["summary.json", "env.json", "report.html"] {
        ensure!(results.join(name).is_file(), "no {name}");
    }
    let env: Value = serde_json::from_slice(&fs::read(results.join("env.json"))?)?;
    ensure!(env["seed"] == 1 && env["database"].as_str().is_some_and(|d| d.starts_with("MariaDB")), "{env}");
    let histograms = fs::read(results.join("runs/001-cache-aside-read-mostly-slow-reader/histograms.json"))?;
    let histograms: Value = serde_json::from_slice(&histograms)?;
    let reads = histograms["read_latency"].as_array().context("no latencies")?;
    let counted: u64 = reads.iter().filter_map(|bucket| bucket[1].as_u64()).sum();
    let summary: Value = serde_json::from_slice(&fs::read(results.join("summary.json"))?)?;
    ensure!(summary["runs"][0]["report"]["reads"].as_u64() == Some(counted), "{counted} reads");
    fs::remove_file(results.join("report.html"))?;
    run(dir.path(), &["report", "results"], 0)?;
    ensure!(fs::read_to_string(results.join("report.html"))?.contains("cache-aside"));
    let again = lab(dir.path(), &["run", "--out", "results"])?.output()?;
    ensure!(again.status.code() == Some(2) && text(&again).contains("--force"), "{}", text(&again));
    Ok(())
}

#[test]
fn with_a_daemon_only_guarded_leaves_none() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let names = "binlog,binlog-twice,binlog-lease,guarded";
    let faults = "slow-reader,visibility-window,replica-lag,lock-expiry,evictions,daemon-kill,redis-pause,redis-restart";
    let runs = found(&compare(dir.path(), "mariadb", names, &["--quick", "--fault", faults])?)?;
    for run in &runs {
        // None stale of a cache that is empty would say nothing.
        let is_well = if run.strategy == "guarded" { run.stale == 0 && run.right > 0 } else { run.stale > 0 };
        ensure!(run.void.is_none() && run.struck > Some(0) && is_well, "{run:?}");
    }
    let count = |name: &str| runs.iter().filter(|run| run.strategy == name).count();
    let counts = ["binlog", "binlog-twice", "binlog-lease", "guarded"].map(count);
    ensure!(counts == [2, 1, 1, 8], "{counts:?}");
    Ok(())
}

#[test]
fn guarded_holds_in_every_workload() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let workloads = "write-heavy,many-keys,key-moves,flash-sale,sharded-counter";
    let more = ["--full", "--workload", workloads, "--fault", "none"];
    let runs = found(&compare(dir.path(), "mariadb", "guarded", &more)?)?;
    ensure!(runs.len() == 5, "{runs:?}");
    for run in &runs {
        ensure!(run.void.is_none() && run.stale == 0 && run.right > 0 && run.broken == 0, "{run:?}");
    }
    Ok(())
}

#[test]
fn guarded_holds_where_another_redis_takes_over() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let runs = found(&run(dir.path(), &["run", "--fault", "redis-failover", "--seconds", "3"], 0)?)?;
    let [only] = &runs[..] else { anyhow::bail!("{runs:?}") };
    ensure!(only.fault == "redis-failover", "{only:?}");
    ensure!(only.void.is_none() && only.struck > Some(0) && only.stale == 0 && only.right > 0, "{only:?}");
    Ok(())
}

#[test]
fn what_is_missed_or_became_worse_is_said_by_the_exit_code() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    // The second entry has a run that shows nothing made again.
    let shows = "- { strategy: cache-aside, fault: slow-reader, permanently_stale: { min: 1 } }\n";
    fs::write(dir.path().join("shows.yaml"), shows)?;
    let strict = format!("- {{ strategy: cache-aside, permanently_stale: {{ max: 0 }} }}\n{shows}");
    fs::write(dir.path().join("strict.yaml"), strict)?;
    let compare = ["compare", "--seconds", "2", "--strategy", "cache-aside", "--thresholds"];
    let missed = run(dir.path(), &[&compare[..], &["strict.yaml", "--out", "missed"]].concat(), 99)?;
    let met: Vec<_> =
        missed["verdicts"].as_array().context("no verdicts")?.iter().map(|v| &v["met"]).collect();
    ensure!(met == [&Value::Bool(false), &Value::Bool(true)], "{}", missed["verdicts"]);

    let path = dir.path().join("missed/summary.json");
    let mut better: Value = serde_json::from_slice(&fs::read(&path)?)?;
    better["runs"][0]["report"]["permanently_stale"] = serde_json::json!([]);
    fs::write(&path, better.to_string())?;
    let against = ["shows.yaml", "--against", "missed", "--out", "worse"];
    let worse = run(dir.path(), &[&compare[..], &against].concat(), 99)?;
    ensure!(worse["verdicts"][0]["met"] == true, "{}", worse["verdicts"]);
    let said = worse["regressions"].to_string();
    ensure!(said.contains("stale for good, none before"), "{said}");
    Ok(())
}

#[test]
fn on_mysql_an_acknowledgement_that_is_withheld_makes_the_window() -> Result<()> {
    let Some(_) = require(&[Need::MySql, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let more = ["--fault", "visibility-window"];
    let runs = found(&compare(dir.path(), "mysql", "binlog-lease,guarded", &more)?)?;
    let stale: Vec<bool> = runs.iter().map(|run| run.stale > 0).collect();
    ensure!(stale == [true, false], "{runs:?}");
    Ok(())
}

#[test]
fn a_fault_that_never_struck_makes_a_run_void() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    // Of one reader none is slow. Nothing is stale for good, which would count in spite of it.
    let args =
        ["run", "--strategy", "ttl-only", "--fault", "slow-reader", "--readers", "1", "--seconds", "1"];
    let shown = run(dir.path(), &args, 1)?;
    let void = shown["runs"][0]["void"].as_str().context("not void")?;
    ensure!(void.contains("slow-reader never struck"), "{void}");
    ensure!(shown["folder"] == "rowbust-lab/1", "{}", shown["folder"]);
    Ok(())
}

#[test]
fn a_signal_ends_all_that_was_started() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let mut command =
        lab(dir.path(), &["run", "--fault", "visibility-window", "--seconds", "600", "--out", "o"])?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // The daemon's folder is made once the servers are there.
    let begun = Instant::now();
    let servers = loop {
        let world =
            fs::read_dir(dir.path().join("tmp"))?.filter_map(Result::ok).next().map(|entry| entry.path());
        if let Some(world) = world
            && world.join("run-1_1/daemon.log").is_file()
        {
            break ["primary", "redis"].map(|name| Record::read(&world.join(name)));
        }
        if begun.elapsed() > WITHIN {
            kill(pid, Signal::SIGKILL)?;
            anyhow::bail!("no run within {} s: {}", WITHIN.as_secs(), text(&child.wait_with_output()?));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    kill(pid, Signal::SIGINT)?;
    let begun = Instant::now();
    let out = child.wait_with_output()?;
    ensure!(out.status.code() == Some(130) && text(&out).contains("interrupted"), "{}", text(&out));
    // Commits that wait for an acknowledgement don't hold it up.
    ensure!(begun.elapsed() < ORDERLY, "it was cut off after {:?}", begun.elapsed());
    for server in servers {
        let server = server.context("a server without a record")?;
        ensure!(!server.process.is_alive(), "{} goes on", server.name);
    }
    let left: Vec<_> = fs::read_dir(dir.path().join("tmp"))?.collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn what_is_asked_for_wrongly_is_said_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("bad.yaml"), "- { strategy: guarded, permanently: { max: 0 } }\n")?;
    for (args, code, word) in [
        (&["run", "--strategy", "cache-asid"][..], 2, "did you mean `cache-aside`"),
        (&["run", "--fault", "rain"], 2, "visibility-window"),
        (&["compare", "--thresholds", "bad.yaml"], 2, "permanently"),
        (&["compare", "--against", "nowhere"], 2, "nowhere"),
        (&["compare", "--strategy", "ttl-only", "--fault", "daemon-kill"], 2, "no run is left"),
        (&["report", "nowhere"], 2, "nowhere"),
        // No program is found: what to install.
        (&["run"], 69, "cargo xtask servers install"),
    ] {
        let mut command = lab(dir.path(), args)?;
        let out = command.env("PATH", "/nonexistent").env("ROWBUST_CACHE", dir.path()).output()?;
        ensure!(out.status.code() == Some(code) && text(&out).contains(word), "{args:?}: {}", text(&out));
    }
    Ok(())
}
