//! The daemon as a child process: built, started, asked, killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http;
use crate::wait::{Seen, until};

/// From start to `/readyz`, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The program under test, with failpoints: `ROWBUST_BIN`, or built by cargo once per test process.
///
/// # Errors
/// When it can't be built.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| build().map_err(|e| format!("{e:#}"))) {
        Ok(path) => Ok(path),
        Err(e) => bail!("{e}"),
    }
}

fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROWBUST_BIN") {
        return Ok(path.into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What names the package of the cargo that runs this test: build scripts (ring's) look at it, and would run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
            command.env_remove(name);
        }
    }
    let out = command
        .args(["build", "--package", "rowbust", "--bin", "rowbust", "--features", "failpoints"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("the daemon can't be built: {}", out.status);
    }
    String::from_utf8(out.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "rowbust")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo names no executable")
}

/// Runs the program to its end, as on the command line.
///
/// # Errors
/// When it can't be started.
pub fn cli<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output> {
    Ok(Command::new(binary()?).args(args).stdin(Stdio::null()).env("NO_COLOR", "1").output()?)
}

/// A running `rowbust run`. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Daemon {
    /// Starts it. Its stderr goes to the file `log`; `failpoints` is the variable `FAILPOINTS`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(config: &Path, admin: u16, log: PathBuf, failpoints: &str) -> Result<Self> {
        Self::start_with(config, admin, log, failpoints, &[], &[])
    }

    /// The same, with more arguments and environment variables.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with(
        config: &Path,
        admin: u16,
        log: PathBuf,
        failpoints: &str,
        args: &[String],
        env: &[(String, String)],
    ) -> Result<Self> {
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(binary()?)
            .args(["run", "-c"])
            .arg(config)
            .args(args)
            .env("FAILPOINTS", failpoints)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
            .context("cannot start the daemon")?;
        Ok(Self { child, admin, log })
    }

    /// Returns when it follows the binlog.
    ///
    /// # Errors
    /// When it ends, or that takes more than 30 s; with its log.
    pub async fn ready(&mut self) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended before it was ready: {status}\n{}", self.log_tail());
            }
            if http::get(self.admin, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if start.elapsed() > READY_WITHIN {
                bail!("the daemon isn't ready\n{}", self.log_tail());
            }
            tokio::time::sleep(crate::wait::POLL).await;
        }
    }

    /// `/status`.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn status(&self) -> Result<Value> {
        http::json(self.admin, "/status").await.with_context(|| self.log_tail())
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = http::get(self.admin, "/metrics").await.with_context(|| self.log_tail())?;
        Ok(http::metric(&text, name))
    }

    /// Returns when `name` is at least `least`.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn metric_at_least(&self, name: &str, least: f64, limit: Duration) -> Result<f64> {
        let waited = until(name, limit, async || {
            let now = self.metric(name).await?;
            Ok(if now >= least { Seen::Done(now) } else { Seen::NotYet(now.to_string()) })
        });
        waited.await.map_err(|e| self.explain(&e))
    }

    /// Returns when it is gone.
    ///
    /// # Errors
    /// When that takes longer than `limit`; with its log.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                break;
            }
            tokio::time::sleep(crate::wait::POLL).await;
        }
        bail!("the daemon didn't end within {} s\n{}", limit.as_secs(), self.log_tail())
    }

    /// Returns when a failpoint has killed it.
    ///
    /// # Errors
    /// When it ended otherwise, or not within `limit`.
    pub async fn killed_at(&mut self, point: &str, limit: Duration) -> Result<()> {
        let status = self.exited(limit).await?;
        let said = format!("failpoint {point}: kill -9");
        if status.signal() != Some(9) || !self.log_text().lines().any(|line| line == said) {
            bail!("the daemon wasn't killed at {point}: {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Errors
    /// When it isn't gone within `limit`, or couldn't close its queue: some part of it still held it, and the daemon waited in vain.
    pub async fn sigterm(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let status = self.exited(limit).await?;
        ensure!(!self.log_text().contains("the retry queue is still in use"), "{}", self.log_tail());
        Ok(status)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon is gone: {status}\n{}", self.log_tail());
        }
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// SIGKILL; returns when it is gone. Says whether the signal was what ended it.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn kill9(&mut self) -> Result<bool> {
        self.child.kill()?;
        Ok(self.child.wait()?.signal() == Some(9))
    }

    /// Everything that it logged.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("its log ends with:\n{tail}")
    }

    /// Adds the end of the log to an error.
    #[must_use]
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.log_tail())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
