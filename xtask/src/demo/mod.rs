//! `cargo xtask demo`: a shop with plain cache-aside, once without rowbust and once with it, both under faults.
//!
//! Guarantees: everything runs on 127.0.0.1, in a folder of its own under the target folder, and is ended and removed
//! at the end (`--keep` keeps the folder). It fails if a key is stale with rowbust, and also if none is without it: then
//! the run would show nothing. Depends on `rowbust-servers`; the daemon is used as its users use it, as a program.

pub(crate) mod app;
mod commits;
mod compare;
pub(crate) mod daemon;
mod live;
mod monitor;
mod popular;
mod report;
mod run;
mod shop;
mod story;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use live::Live;
use report::{Report, Run};
use shop::Size;
use world::{Plan, World};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// On MySQL 9 instead of MariaDB.
    #[arg(long)]
    mysql: bool,
    /// Failed removals wait in Kafka instead of a local store; builds librdkafka, which takes some minutes more.
    #[arg(long)]
    kafka: bool,
    /// A smaller shop, shorter runs.
    #[arg(long)]
    small: bool,
    /// Length of each run; default 15, or 8 if small.
    #[arg(long, value_parser = clap::value_parser!(u64).range(6..=3600))]
    seconds: Option<u64>,
    /// Of the random choices.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Keep the folder with the logs, the config and the data.
    #[arg(long)]
    keep: bool,
    /// Use this program instead of building the daemon.
    #[arg(long, value_name = "PROGRAM")]
    daemon: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let dir = crate::target()?.join("demo").join(std::process::id().to_string());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let result = tokio::runtime::Runtime::new()?.block_on(async {
        tokio::select! {
            result = demo(&args, &dir) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    });
    if args.keep {
        eprintln!("kept: {}", dir.display());
    } else {
        _ = fs::remove_dir_all(&dir);
        // Unless another demo runs.
        _ = dir.parent().map(fs::remove_dir);
    }
    result
}

#[allow(clippy::print_stdout, reason = "the command's result")]
async fn demo(args: &Args, dir: &Path) -> Result<()> {
    let start = Instant::now();
    let mut live = Live::new();
    let program = match &args.daemon {
        Some(program) => fs::canonicalize(program).with_context(|| format!("no {}", program.display()))?,
        None => {
            live.say("building rowbust");
            let program = live.pause(|| daemon::build(&crate::workspace()?, args.kafka))?;
            live.say(&format!("rowbust built in {:.0} s", start.elapsed().as_secs_f64()));
            program
        }
    };
    let (products, customers, seconds, rate) =
        if args.small { (20_000, 2_000, 8, 2_000) } else { (200_000, 20_000, 15, 5_000) };
    let seconds = args.seconds.unwrap_or(seconds);
    let plan = Plan {
        dir: dir.into(),
        mysql: args.mysql,
        kafka: args.kafka,
        size: Size { products, customers },
        seed: args.seed,
        length: Duration::from_secs(seconds),
        rate,
        connections: 16,
    };
    let world = World::create(plan, &mut live).await?;
    let without = run::run(&world, None, &mut live).await?;
    let with = run::run(&world, Some(&program), &mut live).await?;
    drop(live);

    let report = Report {
        schema_version: 1,
        servers: format!("{}, Redis {}", world.database.describe(), world.redis.version()),
        retry_queue: if args.kafka { "kafka" } else { "disk" },
        seed: args.seed,
        seconds,
        operations_per_second: rate,
        shop: world.size,
        without: Run::new(&without, false),
        with: Run::new(&with, true),
        stories: report::stories_of(&with),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{}", report.text(start.elapsed()));
    }
    match (report.without.stale, report.with.stale) {
        (_, stale @ 1..) => {
            let keys: Vec<String> = with.compared.stale.iter().take(10).map(ToString::to_string).collect();
            bail!("{stale} keys are stale with rowbust: {}", keys.join(", "))
        }
        (0, 0) => bail!("no key is stale without rowbust: this run shows nothing"),
        _ => Ok(()),
    }
}

/// The end of a log, for error messages.
fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(15)..].join("\n");
    format!("its log {} ends with:\n{end}", log.display())
}
