//! `cargo xtask fuzz`: every fuzz target over its seeds, for some seconds each.
//!
//! A target's seeds are the files of `seeds/TARGET` beside its crate, and of the folders in [`CRATES`]; what a run finds worth keeping stays
//! in the cache, so that the next one goes on from there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rowbust_servers::cache;

use crate::ci;

/// Built once and kept in the cache.
const CARGO_FUZZ: &str = "0.13.2";

/// The fuzz crates, and what of the repository is a seed for all of a crate's targets.
const CRATES: [(&str, &[&str]); 2] =
    [("crates/binlog/fuzz", &["crates/binlog/tests/fixtures"]), ("fuzz", &["config", "tests/config"])];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these; default: all.
    targets: Vec<String>,
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace()?;
    let program = ci::tool("cargo-fuzz", CARGO_FUZZ)?;
    let mut known = Vec::new();
    for (dir, shared) in CRATES {
        for target in targets(&root.join(dir))? {
            if args.targets.is_empty() || args.targets.contains(&target) {
                one(&program, &root, dir, shared, &target, args.seconds)?;
            }
            known.push(target);
        }
    }
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target `{unknown}`; there are {}", known.join(", "));
    }
    Ok(())
}

/// The targets of a fuzz crate, by its files.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn one(program: &Path, root: &Path, dir: &str, shared: &[&str], target: &str, seconds: u64) -> Result<()> {
    let corpus = cache::dir()?.join("fuzz").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let own = root.join(dir).join("seeds").join(target);
    let seeds = shared.iter().map(|folder| root.join(folder)).chain([own]).filter(|folder| folder.is_dir());
    eprintln!("== fuzzing {target} for {seconds} s");
    let mut command = Command::new(program);
    command
        .current_dir(root)
        .env_remove("CARGO_MANIFEST_DIR")
        // Without a sanitizer the stable toolchain will do: there is no unsafe code of ours to watch.
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", dir, "--target-dir"])
        .arg(crate::target()?.join("fuzz"))
        .arg(target)
        .arg(&corpus)
        .args(seeds.collect::<Vec<PathBuf>>())
        .args(["--", "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=10", "-max_len=65536"])
        .arg(format!("-max_total_time={seconds}"));
    ci::call(&mut command)
        .with_context(|| format!("fuzz target {target}: what broke it is in {dir}/artifacts/{target}"))
}
