//! A disk of its own, which a test can fill: a tmpfs.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;
use tempfile::TempDir;

/// A mounted file system that holds little.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// Mounts one of `size`, such as `64k`. `None`, with a message, where that isn't allowed: not to root either in most containers.
    ///
    /// # Errors
    /// When it fails otherwise.
    pub fn mount(size: &str) -> Result<Option<Self>> {
        let dir = tempfile::Builder::new().prefix("rowbust-disk-").tempdir()?;
        let options = format!("size={size},mode=0700");
        let out = Command::new("mount")
            .env("LC_ALL", "C")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .output()?;
        if out.status.success() {
            return Ok(Some(Self { dir }));
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let allowed = geteuid().is_root() && !said.contains("permission denied");
        ensure!(!allowed, "mount: {said}");
        eprintln!("skipped: a full disk takes the right to mount one: {}", said.trim());
        Ok(None)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Writes until nothing more fits.
    ///
    /// # Errors
    /// When writing fails otherwise.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast()).context("no ballast")?;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0_u8; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(full) if full.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!(error),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the ballast can't be removed.
    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that is being ended may still have files open.
        _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
