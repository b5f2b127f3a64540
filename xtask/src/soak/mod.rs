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
use rowbust_lab::live::{Fault, Flavor, Plan, Strategy, Workload, World, WorldOptions, run};
use rowbust_servers::{Need, install};
use tokio_util::sync::CancellationToken;

use verdict::{Round, Soak, Verdict};

/// Seconds of load in a round.
const ROUND: u64 = 60;
/// Whom it is about, and whom the faults must harm.
const STRATEGIES: [Strategy; 2] = [Strategy::Guarded, Strategy::CacheAside];
/// In every round. Each must strike both.
const ALWAYS: [Fault; 5] =
    [Fault::SlowReader, Fault::ReplicaLag, Fault::VisibilityWindow, Fault::Evictions, Fault::DaemonKill];
/// Redis is stopped in one way or in the other, in turns: it and Kafka for a while, or it comes back with an older snapshot.
const IN_TURNS: [Fault; 2] = [Fault::KafkaStop, Fault::RedisRestart];

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
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
    });
    let flavor = if args.mysql { Flavor::MySql } else { Flavor::MariaDb };
    let world =
        World::start(WorldOptions { flavor: Some(flavor), kafka: true, ..WorldOptions::new(program) })
            .await?;
    let (database, redis) = world.versions();
    let mut soak = Soak::new(args.minutes, args.readers, args.writers, [database, redis]);
    for number in 0..args.minutes {
        let plan = Plan {
            strategies: STRATEGIES.to_vec(),
            faults: faults(number),
            length: Duration::from_secs(ROUND),
            readers: args.readers,
            writers: args.writers,
            seed: args.seed + u64::from(number),
            ..Plan::new(Workload::ReadMostly)
        };
        let finished =
            run(&world, &plan, &stop, &|_| {}).await.with_context(|| format!("round {}", number + 1))?;
        soak.add(finished.iter().map(|finished| Round::of(plan.seed, &finished.run)).collect());
        eprintln!("{}", soak.line());
        // What is there so far survives an interruption.
        write(&args.out, &soak)?;
    }
    Ok(soak)
}

fn faults(round: u32) -> Vec<Fault> {
    let of_turn = IN_TURNS.iter().cycle().nth(round as usize);
    ALWAYS.iter().chain(of_turn).copied().collect()
}

fn write(path: &Path, soak: &Soak) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(soak)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
