//! Developer tasks: `cargo xtask servers | test | bench`.

mod bench;
mod ci;
mod servers;

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
    /// Private servers on free ports: MariaDB, MySQL, Redis, Kafka.
    Servers(servers::Args),
    /// All checks and tests, as CI runs them.
    Test(ci::Args),
    /// Speed and memory on real servers, with the bars that they must meet.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Servers(args) => servers::run(args),
        Task::Test(args) => ci::run(&args),
        Task::Bench(args) => bench::run(&args),
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
