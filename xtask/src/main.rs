//! Developer tasks: `cargo xtask servers | test`.

mod servers;

use std::path::{Path, PathBuf};

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
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Servers(args) => servers::run(args),
    }
}

/// The root of the workspace. Cargo tells the manifest's folder of the package that it runs.
fn workspace() -> Result<PathBuf> {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").context("please run it as `cargo xtask`")?;
    Ok(Path::new(&xtask).parent().context("xtask has no parent folder")?.to_owned())
}
