//! Developer tasks: `cargo xtask demo | servers | test | bench | soak | picture | fuzz | package`.

mod bench;
mod ci;
mod demo;
mod fuzz;
mod package;
mod picture;
mod servers;
mod soak;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Developer tasks of rowbust.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// A shop with a cache, without rowbust and with it, both under faults: from nothing to a result in minutes.
    Demo(demo::Args),
    /// The application of the demo, in a process of its own.
    #[command(hide = true)]
    DemoApp(demo::app::Args),
    /// Private servers on free ports: MariaDB, MySQL, Redis, Kafka.
    Servers(servers::Args),
    /// All checks and tests, as CI runs them.
    Test(ci::Args),
    /// Speed and memory on real servers, with the bars that they must meet.
    Bench(bench::Args),
    /// `guarded` and `cache-aside` side by side with everything going wrong, for minutes or days: no key of the first may be left stale.
    Soak(soak::Args),
    /// The picture of the README, from a real run.
    Picture(picture::Args),
    /// Hostile bytes for all that is parsed.
    Fuzz(fuzz::Args),
    /// The archive and the Debian package of a release, built and looked into.
    Package(package::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Demo(args) => demo::run(args),
        Task::DemoApp(args) => demo::app::run(args),
        Task::Servers(args) => servers::run(args),
        Task::Test(args) => ci::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Soak(args) => match soak::run_soak(&args) {
            Ok(verdict) if verdict.is_failure() => return ExitCode::from(99),
            other => other.and_then(|verdict| verdict.into_result()),
        },
        Task::Picture(args) => picture::run_all(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Package(args) => package::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace. Cargo tells the manifest's folder of the package that it runs.
fn workspace() -> Result<PathBuf> {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").context("please run it as `cargo xtask`")?;
    Ok(Path::new(&xtask).parent().context("xtask has no parent folder")?.to_owned())
}

/// The target folder.
fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Ok(std::path::absolute(dir)?),
        None => Ok(workspace()?.join("target")),
    }
}
