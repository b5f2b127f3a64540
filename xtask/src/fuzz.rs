//! `cargo xtask fuzz`: every fuzz target over its seeds, for some seconds each.
//!
//! A target's seeds are the files of `seeds/TARGET` beside its crate, and of the folders in [`CRATES`]; what a run finds worth keeping stays
//! in the cache, so that the next one goes on from there.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use rowbust_servers::cache;

use crate::ci;

/// Built once and kept in the cache.
const CARGO_FUZZ: &str = "0.13.2";
/// Lines at the end of what a target prints.
const STATISTICS: usize = 8;

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
    let (mut known, mut chosen) = (Vec::new(), VecDeque::new());
    for (dir, shared) in CRATES {
        let before = chosen.len();
        for target in targets(&root.join(dir))? {
            if args.targets.is_empty() || args.targets.contains(&target) {
                chosen.push_back(Target { dir, shared, name: target.clone() });
            }
            known.push(target);
        }
        if chosen.len() > before {
            eprintln!("== building the fuzz targets of {dir}");
            ci::call(&mut cargo_fuzz(&program, &root, "build", dir)?)?;
        }
    }
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target `{unknown}`; there are {}", known.join(", "));
    }
    // Each keeps one core busy.
    let chosen = Mutex::new(chosen);
    let next = || chosen.lock().map_or(None, |mut chosen| chosen.pop_front());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..thread::available_parallelism().map_or(1, usize::from))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(target) = next() {
                        target.run(&program, &root, args.seconds)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
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

/// `cargo fuzz COMMAND` for this crate. Without a sanitizer the stable toolchain will do: there is no unsafe code of ours to watch.
fn cargo_fuzz(program: &Path, root: &Path, command: &str, dir: &str) -> Result<Command> {
    let mut cargo = Command::new(program);
    cargo
        .current_dir(root)
        .env_remove("CARGO_MANIFEST_DIR")
        .args(["fuzz", command, "--sanitizer", "none", "--fuzz-dir", dir, "--target-dir"])
        .arg(crate::target()?.join("fuzz"));
    Ok(cargo)
}

struct Target {
    dir: &'static str,
    shared: &'static [&'static str],
    name: String,
}

impl Target {
    /// What it printed is shown at its end: others run beside it.
    fn run(&self, program: &Path, root: &Path, seconds: u64) -> Result<()> {
        let Self { dir, shared, name } = self;
        let corpus = cache::dir()?.join("fuzz").join(name);
        std::fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let own = root.join(dir).join("seeds").join(name);
        let seeds =
            shared.iter().map(|folder| root.join(folder)).chain([own]).filter(|folder| folder.is_dir());
        eprintln!("== fuzzing {name} for {seconds} s");
        let mut command = cargo_fuzz(program, root, "run", dir)?;
        command
            .arg(name)
            .arg(&corpus)
            .args(seeds)
            .args(["--", "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=10", "-max_len=65536"])
            .arg(format!("-max_total_time={seconds}"));
        let output = command.output().context("cannot run cargo-fuzz")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        // Whole where something broke, else the statistics.
        let from = if output.status.success() { lines.len().saturating_sub(STATISTICS) } else { 0 };
        eprintln!("== fuzzed {name}\n{}", lines[from..].join("\n"));
        ensure!(
            output.status.success(),
            "fuzz target {name}: {}: what broke it is in {dir}/artifacts/{name}",
            output.status
        );
        Ok(())
    }
}
