//! `cargo xtask picture`: the picture of the README, from a real run: strategies one after the other under the same load and faults, and how
//! many keys were stale when.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use rowbust_lab::{
    live::{Fault, Plan, Strategy, Workload, World, WorldOptions, run},
    report,
    summary::{Environment, FORMAT, Summary},
};
use rowbust_servers::{Need, install};
use tokio_util::sync::CancellationToken;

/// The plot, as the report names its files.
const PLOT: &str = "stale-keys";
const STRATEGIES: [Strategy; 7] = [
    Strategy::CacheAside,
    Strategy::DelayedDoubleDelete,
    Strategy::LockSerialized,
    Strategy::Binlog,
    Strategy::BinlogTwice,
    Strategy::BinlogLease,
    Strategy::Guarded,
];
const FAULTS: [Fault; 3] = [Fault::SlowReader, Fault::VisibilityWindow, Fault::ReplicaLag];

/// Arguments of `cargo xtask picture`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of load, for each strategy.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Folder of the pictures.
    #[arg(long, default_value = "docs/img")]
    out: PathBuf,
    /// Use this program instead of building the daemon.
    #[arg(long, value_name = "PROGRAM")]
    rowbust: Option<PathBuf>,
}

pub(crate) fn run_all(args: &Args) -> Result<()> {
    install::ensure(&[Need::MariaDb, Need::Redis])?;
    let program = match &args.rowbust {
        Some(program) => std::path::absolute(program)?,
        None => crate::demo::daemon::build(&crate::workspace()?, false)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(compare(args, program))?;
    let folder = crate::target()?.join("picture");
    let files = report::write(&summary, &folder)?;
    fs::write(folder.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
    fs::create_dir_all(&args.out)?;
    for file in &files {
        let name = file.file_name().context("no name")?.to_string_lossy();
        let Some(at) = name.find(PLOT) else { continue };
        let to = args.out.join(&name[at..]);
        fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        eprintln!("{}", to.display());
    }
    eprintln!("{}", files.first().context("no report")?.display());
    Ok(())
}

async fn compare(args: &Args, program: PathBuf) -> Result<Summary> {
    let world = World::start(WorldOptions::new(program)).await?;
    let (database, redis) = world.versions();
    let environment = Environment {
        seed: 1,
        database: database.to_owned(),
        redis: redis.to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        command: format!("cargo xtask picture --seconds {}", args.seconds),
    };
    let mut summary = Summary { format: FORMAT, environment, runs: Vec::new() };
    for strategy in STRATEGIES {
        let plan = Plan {
            strategies: vec![strategy],
            faults: FAULTS.to_vec(),
            length: Duration::from_secs(args.seconds),
            ..Plan::new(Workload::ReadMostly)
        };
        for finished in run(&world, &plan, &CancellationToken::new(), &|_| {}).await? {
            let left = finished.run.report.permanently_stale.len();
            eprintln!("{}: {left} keys stale for good", strategy.name());
            summary.runs.push(finished.run);
        }
    }
    Ok(summary)
}
