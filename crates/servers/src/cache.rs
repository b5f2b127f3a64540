//! The folder in which downloads and initialised data directories are kept between runs.
//!
//! What is in it is complete: everything is made beside its place and renamed into it, under a lock that holds
//! between processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

/// `ROWBUST_CACHE`, else `rowbust` in `XDG_CACHE_HOME` or `~/.cache`; made if missing.
///
/// # Errors
/// When neither variable nor a home directory is known, or it can't be made.
pub fn dir() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set("ROWBUST_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("rowbust")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/rowbust")))
        .ok_or_else(|| anyhow!("no cache folder: set HOME or ROWBUST_CACHE"))?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    std::path::absolute(&dir).with_context(|| format!("not a path: {}", dir.display()))
}

/// Held while something is put into the cache; released when dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "the open file holds the lock")] File);

/// Waits for the lock called `name`.
pub(crate) fn lock(name: &str) -> Result<Lock> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(Lock(file))
}

/// Makes `place` by filling a folder beside it and renaming that: it is there wholly or not at all.
/// The caller holds a lock.
pub(crate) fn fill(place: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = place.parent().ok_or_else(|| anyhow!("{} has no parent", place.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let content = temporary.path().join("content");
    fs::create_dir(&content)?;
    make(&content)?;
    fs::rename(&content, place).with_context(|| format!("cannot create {}", place.display()))
}

/// Copies a folder: regular files and folders; sockets, links and the like are left out.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_filled_wholly_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        let failed = fill(&place, |d| {
            fs::write(d.join("half"), "x")?;
            Err(anyhow!("no"))
        });
        assert!(failed.is_err() && !place.exists());
        fill(&place, |d| Ok(fs::write(d.join("whole"), "x")?)).unwrap();
        assert!(place.join("whole").exists());
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn copies_nested_folders() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("from/x/y")).unwrap();
        fs::write(dir.path().join("from/x/y/z"), "z").unwrap();
        copy_dir(&dir.path().join("from"), &dir.path().join("to")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("to/x/y/z")).unwrap(), "z");
    }
}
