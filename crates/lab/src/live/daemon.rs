//! The daemon under test, as a child process.
//!
//! Guarantees: it ends with its owner, however that ends.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rowbust_servers::process::{Process, Spec};
use serde_json::Value;

use super::{LiveError, error::LiveError as Error, http};

/// From start to `/readyz`, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const DOING: &str = "the daemon under test";

/// `rowbust run` with a config of its own.
#[derive(Debug)]
pub(super) struct Daemon {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    admin: u16,
    process: Option<Process>,
}

impl Daemon {
    /// Starts it, and returns when it follows the binlog. Beside the config it leaves `daemon.log`.
    pub(super) async fn start(program: &Path, config: PathBuf, admin: u16) -> Result<Self, LiveError> {
        let log = config.with_file_name("daemon.log");
        let mut daemon = Self { program: program.to_owned(), config, log, admin, process: None };
        daemon.launch()?;
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Starts it again.
    pub(super) fn launch(&mut self) -> Result<(), LiveError> {
        let spec = Spec {
            program: self.program.clone(),
            args: vec!["run".into(), "--config".into(), self.config.clone().into()],
            env: vec![("NO_COLOR".into(), "1".into())],
            dir: self.config.parent().unwrap_or(Path::new("/")).to_owned(),
            log: self.log.clone(),
            detached: false,
        };
        self.process = Some(Process::spawn(&spec).map_err(|e| Error::server(DOING, e))?);
        Ok(())
    }

    /// Returns when it follows the binlog.
    pub(super) async fn ready(&mut self) -> Result<(), LiveError> {
        let begun = Instant::now();
        loop {
            let ended = match &mut self.process {
                Some(process) => process.exited().map_err(|e| Error::server(DOING, e))?,
                None => return Err(self.explain("it isn't running")),
            };
            if let Some(status) = ended {
                return Err(self.explain(&format!("it ended before it was ready: {status}")));
            }
            if http::get(self.admin, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(self.explain(&format!("not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// `kill -9`. Whether there was something to kill.
    pub(super) fn kill9(&mut self) -> Result<bool, LiveError> {
        let Some(mut process) = self.process.take() else { return Ok(false) };
        let was_alive = process.identity().is_alive();
        // Without a grace the second signal is SIGKILL; the first would let it drain.
        process
            .identity()
            .kill9()
            .and_then(|()| process.end(Duration::ZERO))
            .map_err(|e| Error::server(DOING, e))?;
        Ok(was_alive)
    }

    /// `/status`.
    pub(super) async fn status(&self) -> Result<Value, LiveError> {
        let answer = http::get(self.admin, "/status").await;
        let (status, body) = answer.map_err(|e| self.explain(&format!("no status: {e}")))?;
        let parsed = serde_json::from_str(&body).ok().filter(|_| status == 200);
        parsed.ok_or_else(|| self.explain(&format!("status {status}: {body}")))
    }

    /// `/metrics`.
    pub(super) async fn metrics(&self) -> Result<String, LiveError> {
        let answer = http::get(self.admin, "/metrics").await;
        answer.map(|(_, body)| body).map_err(|e| self.explain(&format!("no metrics: {e}")))
    }

    /// An error with the end of its log.
    pub(super) fn explain(&self, what: &str) -> LiveError {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        Error::server(DOING, format!("{what}; its log ends with:\n{tail}"))
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take()
            && let Err(error) = process.end(Duration::ZERO)
        {
            tracing::warn!(error = format!("{error:#}"), "the daemon under test can't be ended");
        }
    }
}
