//! `cargo xtask picture`: the picture of the README, from real runs: strategies, some side by side, under the same load and faults at the same
//! times, and how many keys were stale when.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use rowbust_lab::{
    live::{Fault, Plan, Strategy, Workload, World, WorldOptions, run},
    report,
    summary::{Environment, FORMAT, Run, Summary},
};
use rowbust_servers::{Need, install};
use tokio_util::sync::CancellationToken;

/// The plot, as the report names its files.
const PLOT: &str = "stale-keys";
/// Those in a row run side by side: together all are too many for a small machine. All but `ttl-only` and `logical-expiry`, whose entries
/// end by a TTL that is one second here and minutes elsewhere, so that a return to zero would say nothing, and `write-through`, whose writers
/// keep the cache so full that a slow or lagging load, its race, hardly comes to be.
const STRATEGIES: [&[Strategy]; 3] = [
    &[Strategy::CacheAside, Strategy::DeleteFirst, Strategy::WriteDbThenCache, Strategy::WriteCacheThenDb],
    &[Strategy::DelayedDoubleDelete, Strategy::LockSerialized, Strategy::LockSerializedUnfenced],
    &[Strategy::Binlog, Strategy::BinlogTwice, Strategy::BinlogLease, Strategy::Guarded],
];
const FAULTS: [Fault; 4] = [Fault::SlowReader, Fault::VisibilityWindow, Fault::ReplicaLag, Fault::SlowWriter];
/// Writers that are held up hold locks meanwhile, and then hardly anything can be loaded: this part, the last one, is theirs.
const SLOW_WRITERS: f64 = 0.25;
/// Some of them are written seldom: what is stale there stays.
const ROWS: u32 = 400;
/// So often a run that counts for nothing is made again.
const AGAIN: usize = 2;

/// Arguments of `cargo xtask picture`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of load, for each strategy.
    #[arg(long, default_value_t = 20)]
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
    for strategies in STRATEGIES {
        let length = Duration::from_secs(args.seconds);
        let change = length.mul_f64(1.0 - SLOW_WRITERS);
        let plan = Plan {
            strategies: strategies.to_vec(),
            faults: FAULTS.to_vec(),
            spells: vec![
                (Fault::ReplicaLag, Duration::ZERO..change),
                (Fault::VisibilityWindow, Duration::ZERO..change),
                (Fault::SlowWriter, change..Duration::MAX),
            ],
            // The cache of a strategy whose writers fill it has hardly any loads that could be slow.
            any_fault: true,
            rows: ROWS,
            length,
            ..Plan::new(Workload::ReadMostly)
        };
        summary.runs.extend(counting(&world, &plan).await?);
    }
    Ok(summary)
}

/// Runs of which none is void: those aren't drawn.
async fn counting(world: &World, plan: &Plan) -> Result<Vec<Run>> {
    let mut why = String::new();
    for _ in 0..=AGAIN {
        let finished = run(world, plan, &CancellationToken::new(), &|_| {}).await?;
        let runs: Vec<Run> = finished.into_iter().map(|finished| finished.run).collect();
        for run in &runs {
            eprintln!("{}: {} keys stale for good", run.strategy, run.report.permanently_stale.len());
        }
        let void = |run: &Run| Some(format!("{}: {}", run.strategy, run.void.as_deref()?));
        match runs.iter().find_map(void) {
            None => return Ok(runs),
            Some(void) => why = void,
        }
        eprintln!("{why}; once more");
    }
    bail!("no run that counts: {why}; let it run for longer: --seconds")
}
