//! The folder in which runs are kept.
//!
//! `summary.json` (what was found), `env.json` (where, and with what), `report.html` and plots; per run, in `runs/`, its histograms, and the
//! daemon's config and log; on request its history, for [`crate::history::read`].
//!
//! Example: see [`Output`]. A history that was kept can be judged again:
//!
//! ```no_run
//! use rowbust_lab::{
//!     checker::{self, Settings},
//!     history,
//! };
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = std::fs::File::open("results/runs/001-guarded-read-mostly-none/history.bin")?;
//! let report = checker::check(&mut history::read(file)?, &[], &Settings::default())?;
//! println!("{} of {} reads were stale", report.stale_reads, report.reads);
//! # Ok(()) }
//! ```
//!
//! Guarantees: nothing is overwritten unless that was asked for; files are whole or not there, but for a history.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Finished, LiveError, error::LiveError as Error};
use crate::{
    history, report,
    summary::{Environment, FORMAT, Run, Summary},
};

/// A folder, and what is in it so far.
///
/// ```no_run
/// use rowbust_lab::{
///     live::{Plan, Workload, World, WorldOptions, output::Output, run},
///     summary::Environment,
/// };
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), rowbust_lab::live::LiveError> {
/// // `results/1`, or the next; known to be free before servers are started.
/// let dir = Output::next_in("results".as_ref());
/// Output::check(&dir, false)?;
/// let world = World::start(WorldOptions::new("target/debug/rowbust")).await?;
/// let (database, redis) = world.versions();
/// let environment = Environment {
///     seed: 1,
///     database: database.to_owned(),
///     redis: redis.to_owned(),
///     cores: 2,
///     command: "my-comparison".to_owned(),
/// };
/// let mut output = Output::create(dir, false, true, environment, &serde_json::Value::Null)?;
/// let plan = Plan::new(Workload::ReadMostly);
/// for finished in run(&world, &plan, &CancellationToken::new(), &|_| {}).await? {
///     output.add(finished)?;
/// }
/// output.report()?;
/// println!("{} runs in {}", output.summary().runs.len(), output.dir().display());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    with_history: bool,
    summary: Summary,
}

impl Output {
    /// Makes the folder. `config`: what `env.json` says beside the environment.
    ///
    /// # Errors
    /// When something is there already, unless `force`; when it can't be made.
    ///
    /// Example: see [`Output`].
    pub fn create(
        dir: PathBuf,
        force: bool,
        with_history: bool,
        environment: Environment,
        config: &Value,
    ) -> Result<Self, LiveError> {
        Self::check(&dir, force)?;
        let runs = dir.join("runs");
        if runs.exists() {
            fs::remove_dir_all(&runs).map_err(Error::file(&runs))?;
        }
        fs::create_dir_all(&runs).map_err(Error::file(&runs))?;
        let env = json!({
            "schema_version": 1,
            "rowbust": env!("CARGO_PKG_VERSION"),
            "database": environment.database,
            "redis": environment.redis,
            "cores": environment.cores,
            "seed": environment.seed,
            "command": environment.command,
            "config": config,
        });
        let output =
            Self { dir, with_history, summary: Summary { format: FORMAT, environment, runs: Vec::new() } };
        output.write("env.json", format!("{env:#}\n").as_bytes())?;
        Ok(output)
    }

    /// Whether results may be put there.
    ///
    /// # Errors
    /// When something is there already, unless `force`.
    ///
    /// Example: see [`Output`].
    pub fn check(dir: &Path, force: bool) -> Result<(), LiveError> {
        let is_used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if is_used && !force {
            return Err(Error::Usage(format!(
                "{} isn't empty: name another folder with --out, or let its results be overwritten with --force",
                dir.display()
            )));
        }
        Ok(())
    }

    /// The first of `BASE/1`, `BASE/2` … that isn't there.
    ///
    /// Example: see [`Output`].
    #[must_use]
    pub fn next_in(base: &Path) -> PathBuf {
        (1_u32..)
            .map(|n| base.join(n.to_string()))
            .find(|dir| !dir.exists())
            .unwrap_or_else(|| base.to_owned())
    }

    /// Where it is.
    ///
    /// Example: see [`Output`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was found so far.
    ///
    /// Example: see [`Output`].
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), LiveError> {
        let path = self.dir.join(name);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, content).map_err(Error::file(&temporary))?;
        fs::rename(&temporary, &path).map_err(Error::file(&path))
    }

    /// Adds a run.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// Example: see [`Output`].
    pub fn add(&mut self, finished: Finished) -> Result<&Run, LiveError> {
        let Finished { run, ops, read_latency, write_latency, daemon_log, daemon_config } = finished;
        let number = self.summary.runs.len() + 1;
        let name = format!("runs/{number:03}-{}-{}-{}", run.strategy, run.workload, run.fault);
        let folder = self.dir.join(&name);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let histograms = json!({
            "schema_version": 1,
            "unit": "ns",
            "read_latency": buckets(&read_latency),
            "write_latency": buckets(&write_latency),
        });
        self.write(&format!("{name}/histograms.json"), format!("{histograms}\n").as_bytes())?;
        if !daemon_config.is_empty() {
            self.write(&format!("{name}/rowbust.yaml"), daemon_config.as_bytes())?;
            self.write(&format!("{name}/daemon.log"), daemon_log.as_bytes())?;
        }
        if self.with_history {
            let path = folder.join("history.bin");
            let file = fs::File::create(&path).map_err(Error::file(&path))?;
            let written = history::Writer::new(BufWriter::new(file)).and_then(|mut writer| {
                ops.iter().try_for_each(|op| writer.add(op))?;
                writer.finish().map(drop)
            });
            written.map_err(Error::file(&path))?;
        }
        self.summary.runs.push(run);
        self.save()?;
        self.summary.runs.last().ok_or_else(|| Error::Usage("no run".into()))
    }

    fn save(&self) -> Result<(), LiveError> {
        let text =
            serde_json::to_vec_pretty(&self.summary).map_err(|e| Error::server("writing summary.json", e))?;
        self.write("summary.json", &text)
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// Example: see [`Output`].
    pub fn report(&self) -> Result<(), LiveError> {
        Ok(report::write(&self.summary, &self.dir).map(drop)?)
    }
}

/// Upper bound and count of what isn't empty.
fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|v| (v.value_iterated_to(), v.count_since_last_iteration())).collect()
}
