//! `cargo xtask soak`: `guarded` and `cache-aside` side by side on the same servers, with everything going wrong at once, for as long as
//! one likes.
//!
//! Rounds of a minute. Each ends in good order: writers stop, faults heal, what is owed is delivered, and every key of both is compared
//! with its row. So a value that is stale for good is found within a minute of when it was left, and the next round begins with empty
//! tables and another seed.

mod verdict;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rowbust_lab::history;
use rowbust_lab::live::{Fault, Finished, Flavor, Plan, Strategy, Workload, World, WorldOptions, run};
use rowbust_servers::{Need, install};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use verdict::{Round, Soak, Verdict};

/// Seconds of load in a round.
const ROUND: u64 = 60;
/// Further rounds, one by one, while no fault has harmed `cache-aside`: evictions and later writes end stale values too, and in a minute it
/// may get away.
const MORE: u32 = 4;
/// Before its end nothing is taken away any more for so long: else a stopped Redis has, now and then, nothing of `cache-aside` that
/// could be stale.
const CALM: Duration = Duration::from_secs(6);
/// Whom it is about, and whom the faults must harm.
const STRATEGIES: [Strategy; 2] = [Strategy::Guarded, Strategy::CacheAside];
/// All of them all the time, but for the end of a round. Each must strike both.
const FAULTS: [Fault; 6] = [
    Fault::SlowReader,
    Fault::ReplicaLag,
    Fault::VisibilityWindow,
    Fault::Evictions,
    Fault::DaemonKill,
    Fault::KafkaStop,
];

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
#[command(
    after_help = "Ends with 99 when a key of guarded was left stale, or none of cache-aside was; with 1 when a fault never struck."
)]
pub(crate) struct Args {
    /// Minutes of load.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
    /// Processes that read, for each of the two.
    #[arg(long, default_value_t = 8)]
    readers: u32,
    /// Processes that write, for each of the two.
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// Repeats the choices of keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// MySQL instead of MariaDB.
    #[arg(long)]
    mysql: bool,
    /// Redis comes back with an older snapshot, again and again, instead of being stopped together with Kafka.
    #[arg(long)]
    rollback: bool,
    /// Where the result goes.
    #[arg(long, default_value = "target/soak/soak.json")]
    out: PathBuf,
    /// Use this program instead of building the daemon.
    #[arg(long, value_name = "PROGRAM")]
    rowbust: Option<PathBuf>,
}

/// Whether it held.
pub(crate) fn run_soak(args: &Args) -> Result<Verdict> {
    let needs = [if args.mysql { Need::MySql } else { Need::MariaDb }, Need::Redis, Need::Kafka];
    install::ensure(&needs)?;
    let program = match &args.rowbust {
        Some(program) => std::path::absolute(program)?,
        None => crate::demo::daemon::build(&crate::workspace()?, true)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let soak = runtime.block_on(rounds(args, program))?;
    write(&args.out, &soak)?;
    eprintln!("\n{}\n", soak.table());
    eprintln!("{}", args.out.display());
    Ok(soak.verdict())
}

async fn rounds(args: &Args, program: PathBuf) -> Result<Soak> {
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        on_signal.cancel();
    });
    let flavor = if args.mysql { Flavor::MySql } else { Flavor::MariaDb };
    let world =
        World::start(WorldOptions { flavor: Some(flavor), kafka: true, ..WorldOptions::new(program) })
            .await?;
    let (database, redis) = world.versions();
    let mut faults = FAULTS.to_vec();
    if args.rollback {
        faults.retain(|fault| *fault != Fault::KafkaStop);
        faults.push(Fault::RedisRestart);
    }
    let mut soak = Soak::new(args.minutes, args.readers, args.writers, [database, redis]);
    for number in 0..args.minutes + MORE {
        if number >= args.minutes && !soak.is_too_mild() {
            break;
        }
        let plan = Plan {
            strategies: STRATEGIES.to_vec(),
            faults: faults.clone(),
            length: Duration::from_secs(ROUND),
            calm: CALM,
            readers: args.readers,
            writers: args.writers,
            seed: args.seed + u64::from(number),
            ..Plan::new(Workload::ReadMostly)
        };
        let once = async || run(&world, &plan, &stop, &|_| {}).await;
        let finished = match once().await {
            Err(error) if !stop.is_cancelled() => {
                // Faults that come at the same moment may trip each other up; what was found in rounds before counts all the same.
                eprintln!("round {}: {error}; once more", number + 1);
                soak.repeat(error.to_string());
                once().await
            }
            done => done,
        };
        let finished = finished.with_context(|| format!("round {}", number + 1))?;
        for finished in &finished {
            if finished.run.strategy == Strategy::Guarded.name()
                && !finished.run.report.permanently_stale.is_empty()
            {
                keep(&args.out.with_file_name(format!("round-{}", number + 1)), finished)?;
            }
        }
        soak.add(finished.iter().map(|finished| Round::of(plan.seed, &finished.run)).collect());
        eprintln!("{}", soak.line());
        // What is there so far survives an interruption.
        write(&args.out, &soak)?;
    }
    Ok(soak)
}

/// What shows how a key of `guarded` was left stale.
fn keep(folder: &Path, finished: &Finished) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(folder.join("run.json"), serde_json::to_vec_pretty(&finished.run)?)?;
    std::fs::write(folder.join("daemon.log"), &finished.daemon_log)?;
    std::fs::write(folder.join("rowbust.yaml"), &finished.daemon_config)?;
    let file = std::fs::File::create(folder.join("history.bin"))?;
    let mut writer = history::Writer::new(std::io::BufWriter::new(file))?;
    finished.ops.iter().try_for_each(|op| writer.add(op))?;
    writer.finish()?;
    eprintln!("{}: kept", folder.display());
    Ok(())
}

fn write(path: &Path, soak: &Soak) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(soak)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
