//! The config file taken anew while the daemon runs.
//!
//! Guarantees: all of a new config or nothing of it. A file with mistakes, a change of what can't change in a running daemon, a target
//! or source that refuses the new config: the old one stays, and why is logged, counted and in the state. A new config begins at
//! the checkpoint, behind the old one's drain, as a restart would; nothing in between is lost, for what the drain leaves is read again.
//! May depend on everything.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::{self, Config},
    source::Source,
    systemd,
};

/// What was asked for.
#[derive(Debug)]
struct Request {
    flush_new: bool,
    answer: Option<oneshot::Sender<Outcome>>,
}

/// A config that was found good, on its way into the daemon.
#[derive(Debug)]
pub struct Next {
    /// The new config.
    pub config: Arc<Config>,
    /// Remove the keyspaces of mappings that the checkpoint doesn't cover.
    pub flush_new: bool,
    /// Told when the daemon runs with it, or why it couldn't.
    pub begun: oneshot::Sender<Result<(), String>>,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The daemon runs with the new config.
    Done,
    /// The file says what it said before.
    Unchanged,
    /// The old config stays.
    Refused {
        /// Stable name.
        code: &'static str,
        /// In words.
        message: String,
        /// What to do.
        help: String,
        /// More: each mistake of the file, or each field that can't change.
        errors: Value,
    },
}

impl Outcome {
    fn refused(code: &'static str, message: impl Into<String>, help: &str) -> Self {
        Self::Refused { code, message: message.into(), help: help.into(), errors: Value::Null }
    }

    /// As the state shows it.
    pub fn json(&self) -> Value {
        match self {
            Self::Done => json!({ "ok": true, "changed": true }),
            Self::Unchanged => json!({ "ok": true, "changed": false }),
            Self::Refused { code, message, help, errors } => json!({
                "ok": false,
                "error": { "code": code, "message": message, "help": help, "errors": errors },
            }),
        }
    }
}

/// Asks for reloads, and remembers how the last one ended. All clones are one.
#[derive(Debug, Clone)]
pub struct Reloads {
    requests: mpsc::Sender<Request>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    done: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds since 1970.
    last: Mutex<Option<(u64, Outcome)>>,
}

impl Reloads {
    /// Reads the file anew and waits until the daemon runs with it or it is refused. `None`: another reload is under way.
    pub async fn reload(&self, flush_new: bool) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Request { flush_new, answer: Some(answer) }).ok()?;
        Some(answered.await.unwrap_or_else(|_| {
            Outcome::refused("reload.ending", "the daemon ends", "start it again: it reads the file then")
        }))
    }

    /// The same, without waiting: for SIGHUP.
    pub fn ask(&self) {
        // One that waits already is enough.
        let _ = self.requests.try_send(Request { flush_new: false, answer: None });
    }

    /// Reloads that took place.
    pub fn done(&self) -> u64 {
        self.state.done.load(Relaxed)
    }

    /// Reloads that left the old config in place because of a mistake.
    pub fn failed(&self) -> u64 {
        self.state.failed.load(Relaxed)
    }

    /// When the last one ended, in milliseconds since 1970, and how.
    pub fn last(&self) -> Option<(u64, Outcome)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, Outcome)>> {
        self.state.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Done => {
                self.state.done.fetch_add(1, Relaxed);
                tracing::info!("config reloaded");
            }
            Outcome::Unchanged => tracing::info!("config reload: the file says what it said before"),
            Outcome::Refused { code, message, help, errors } => {
                self.state.failed.fetch_add(1, Relaxed);
                tracing::error!(code, message, help, %errors, "config not reloaded, the old one stays");
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        *self.lock() = Some((u64::try_from(now.as_millis()).unwrap_or(u64::MAX), outcome.clone()));
    }
}

/// Serves requests, one after the other.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    /// What the file said when it was last taken.
    text: Vec<u8>,
    config: Arc<Config>,
    requests: mpsc::Receiver<Request>,
    reloads: Reloads,
    next: mpsc::Sender<Next>,
}

impl Reloader {
    /// `config` is what `path` said. What is good goes into `next`.
    pub fn new(path: &Path, config: Arc<Config>, next: mpsc::Sender<Next>) -> (Self, Reloads) {
        let (sender, requests) = mpsc::channel(1);
        let reloads = Reloads { requests: sender, state: Arc::default() };
        let text = std::fs::read(path).unwrap_or_default();
        let this = Self { path: path.to_owned(), text, config, requests, reloads: reloads.clone(), next };
        (this, reloads)
    }

    /// Until nobody can ask any more.
    pub async fn run(mut self) {
        while let Some(Request { flush_new, answer }) = self.requests.recv().await {
            systemd::reloading();
            let outcome = self.reload(flush_new).await;
            systemd::reloaded();
            self.reloads.ended(&outcome);
            if let Some(answer) = answer {
                // Who asked may have gone.
                let _ = answer.send(outcome);
            }
        }
    }

    async fn reload(&mut self, flush_new: bool) -> Outcome {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let text = std::fs::read(&path).unwrap_or_default();
            (config::load(&path), text)
        });
        let (loaded, text) = match read.await {
            Ok(read) => read,
            Err(error) => return Outcome::refused("reload.read", error.to_string(), "try again"),
        };
        let new = match loaded {
            Ok(config) => Arc::new(config),
            Err(report) => {
                let report = report.to_json();
                return Outcome::Refused {
                    code: "reload.config",
                    message: format!("{} has mistakes", self.path.display()),
                    help: "`rowbust check` shows them; correct the file and reload again".into(),
                    errors: report["errors"].clone(),
                };
            }
        };
        if text == self.text && !flush_new {
            return Outcome::Unchanged;
        }
        let fixed = fixed(&self.config, &new);
        if !fixed.is_empty() {
            return Outcome::Refused {
                code: "reload.fixed",
                message: format!("{} can't change in a running daemon", fixed.join(", ")),
                help: "take the change back, or restart the daemon with it".into(),
                errors: json!(fixed),
            };
        }
        if let Err(error) = self.reachable(&new).await {
            return Outcome::refused(
                "reload.refused",
                error,
                "correct the file, or the server, and reload again",
            );
        }
        let (begun, outcome) = oneshot::channel();
        let next = Next { config: Arc::clone(&new), flush_new, begun };
        if self.next.send(next).await.is_err() {
            return Outcome::refused(
                "reload.ending",
                "the daemon ends",
                "start it again: it reads the file then",
            );
        }
        match outcome.await {
            Ok(Ok(())) => {
                (self.config, self.text) = (new, text);
                Outcome::Done
            }
            Ok(Err(error)) => Outcome::refused(
                "reload.failed",
                error,
                "the daemon went back to the old config; correct the file, or the server, and reload again",
            ),
            Err(_) => Outcome::refused("reload.ending", "the daemon ends", "look at its log"),
        }
    }

    /// What a start with the new config would refuse, found while the old one still works.
    async fn reachable(&self, new: &Arc<Config>) -> Result<(), String> {
        Source::new(Arc::clone(new)).preflight().await.map_err(|error| format!("source: {error}"))?;
        crate::daemon::connect_targets(new).await.map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// The fields that differ and can't change in a running daemon: what they name is opened once, or makes another daemon of it.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&old.source, &new.source);
    let mut fixed = Vec::new();
    let mut must = |name, same: bool| {
        if !same {
            fixed.push(name);
        }
    };
    must("source.url", (&a.host, a.port, &a.user) == (&b.host, b.port, &b.user));
    must("source.server_id", a.server_id == b.server_id);
    must("source.driver", a.driver == b.driver);
    must("checkpoint", format!("{:?}", old.checkpoint) == format!("{:?}", new.checkpoint));
    must("retry", format!("{:?}", old.retry) == format!("{:?}", new.retry));
    must("admin.listen", old.admin.listen == new.admin.listen);
    fixed
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(source: &str, rest: &str) -> Config {
        let text = format!(
            "source: {{ {source} }}\nredis: {{ main: \"redis://h\" }}\n{rest}\nmappings: [ {{ table: a.b, keys: [\"k:{{id}}\"] }} ]\n"
        );
        config::parse(&text, Path::new("/x/y.yaml"), &|_| None).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn what_is_fixed_is_named() {
        let url = "url: \"mysql://u@h\"";
        let old = config(url, "");
        let now = |source: &str, rest: &str| fixed(&old, &config(source, rest));
        assert_eq!(now(url, "limits: { memory: 9MiB }"), [] as [&str; 0]);
        assert_eq!(now("url: \"mysql://u@other\"", ""), ["source.url"]);
        assert_eq!(
            now("url: \"mysql://u@h\", server_id: 7", "admin: { listen: \"127.0.0.1:1\" }"),
            ["source.server_id", "admin.listen"]
        );
        assert_eq!(now(url, "retry: { attempts: 7 }"), ["retry"]);
        // The store's default stands beside the checkpoint.
        assert_eq!(now(url, "checkpoint: { path: /elsewhere/c }"), ["checkpoint", "retry"]);
        assert_eq!(now(url, "admin: { token: 0123456789abcdef }"), [] as [&str; 0]);
    }
}
