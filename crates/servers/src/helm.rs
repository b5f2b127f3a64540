//! Helm: found, or built by Go from its source into the cache, for Debian has no package of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::cache;
use crate::install::{at_least, find_program, run, version_after};

/// Verified by Go's checksum database.
const SOURCE: &str = "helm.sh/helm/v3/cmd/helm@v3.18.6";

/// The one in `PATH` if it is 3.12 or newer, else the one built in the cache.
pub(crate) fn find() -> Option<PathBuf> {
    let usable = |program: PathBuf| {
        let output = Command::new(&program).args(["version", "--short"]).output().ok()?;
        let version = version_after(&String::from_utf8_lossy(&output.stdout), "v")?;
        at_least(&version, 3, 12).then_some(program)
    };
    let built = || Some(cache::dir().ok()?.join("tools/bin/helm")).filter(|program| program.is_file());
    find_program("helm").and_then(usable).or_else(|| built().and_then(usable))
}

/// Builds it; the caller holds the installation lock.
pub(crate) fn build() -> Result<()> {
    let go = find_program("go").context("no helm, and no go to build it: please install one of them")?;
    let start = Instant::now();
    let tools = cache::dir()?.join("tools");
    eprintln!("building {SOURCE} with Go (some minutes, once)");
    std::fs::create_dir_all(tools.join("bin"))?;
    let work = tempfile::Builder::new().prefix(".go-").tempdir_in(&tools)?;
    run(Command::new(go)
        .args(["install", "-modcacherw", SOURCE])
        .current_dir(work.path())
        .env("GOBIN", tools.join("bin"))
        .env("GOPATH", work.path().join("path"))
        .env("GOCACHE", work.path().join("cache")))?;
    eprintln!("helm: in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
