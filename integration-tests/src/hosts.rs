//! "Hosts" of one deployment: a folder, an admin port and ways to the servers each, a shared checkpoint, one source.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rowbust::checkpoint::{self, file::Saved};
use rowbust::config::{self, Config};
use rowbust_servers::ports::free_port;
use serde_json::Value;

use crate::daemon::{Daemon, cli};
use crate::db::{PASSWORD, USER};
use crate::http;
use crate::invariants::Snapshot;
use crate::proxy::Proxy;
use crate::shop;
use crate::stage::Stage;
use crate::wait::{Seen, until};

/// A place that a daemon runs at.
#[derive(Debug)]
pub struct Host {
    /// Its name, for messages.
    pub name: String,
    /// Its way to the source.
    pub source: Proxy,
    /// Its way to the Redis that keys are removed from; the checkpoint's target `ha` is reached directly.
    pub redis: Proxy,
    /// Its own folder.
    pub dir: PathBuf,
    /// The daemon, while it runs.
    pub daemon: Option<Daemon>,
    admin: u16,
    starts: AtomicU32,
}

/// What all hosts have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// `checkpoint:`, a line. The target `ha` is database 1 of the stage's Redis, away from the cache.
    pub checkpoint: String,
    /// `retry:`, a line; `None`: on the host's own disk.
    pub retry: Option<String>,
    /// More fields of `source:`, a line.
    pub source: String,
    /// `mappings:`, indented; `None`: the shop's.
    pub mappings: Option<String>,
}

impl Common {
    /// With the checkpoint in Redis, and one `server_id` for all hosts, as one config file for all would have.
    #[must_use]
    pub fn in_redis() -> Self {
        Self {
            checkpoint: "{ redis: ha, name: shop }".into(),
            retry: None,
            source: "server_id: 7001".into(),
            mappings: None,
        }
    }

    /// With the checkpoint in Redis under this name; each host has a `server_id` of its own.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            checkpoint: format!("{{ redis: ha, name: {name} }}"),
            source: String::new(),
            ..Self::in_redis()
        }
    }
}

impl Host {
    /// Makes its folder, its ways and its config.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn new(stage: &Stage, name: &str, common: &Common) -> Result<Self> {
        let dir = stage.dir().join(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("password"), PASSWORD)?;
        let host = Self {
            name: name.to_owned(),
            source: Proxy::start(stage.db.port()).await?,
            redis: Proxy::start(stage.redis.port()).await?,
            dir,
            daemon: None,
            admin: free_port()?,
            starts: AtomicU32::new(0),
        };
        host.configure(stage, common)?;
        Ok(host)
    }

    /// Writes the config.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure(&self, stage: &Stage, common: &Common) -> Result<()> {
        let dir = self.dir.display();
        let retry = common.retry.clone().unwrap_or(format!("{{ disk: {{ path: {dir}/retry }}, delay: 1s }}"));
        let mappings = common.mappings.clone().unwrap_or_else(|| shop::mappings(&stage.schema, ""));
        // The shop's mappings name no target.
        let mappings = mappings.replace("\n    keys:", "\n    to: main\n    keys:");
        let text = format!(
            "source:\n  url: mysql://{USER}@127.0.0.1:{}\n  password_file: {dir}/password\n  tls: disabled\n  {}\n\
             redis:\n  main: \"redis://127.0.0.1:{}/0\"\n  ha: \"redis://127.0.0.1:{}/1\"\n\
             retry: {retry}\ncheckpoint: {}\nadmin: {{ listen: \"127.0.0.1:{}\" }}\nmappings:{mappings}",
            self.source.port(),
            common.source,
            self.redis.port(),
            stage.redis.port(),
            common.checkpoint,
            self.admin,
        );
        fs::write(self.config_path(), text)?;
        Ok(())
    }

    /// The config file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("rowbust.yaml")
    }

    /// The config, read.
    ///
    /// # Errors
    /// When it has mistakes.
    pub fn config(&self) -> Result<Config> {
        config::load(&self.config_path()).map_err(|report| anyhow::anyhow!("{report}"))
    }

    /// Returns when a metric is at least `least`, whether anybody answers in between or not.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn metric_at_least(&mut self, name: &str, least: f64, limit: Duration) -> Result<()> {
        let daemon = self.daemon()?;
        until(name, limit, async || {
            let now = daemon.metric(name).await.ok();
            Ok(Seen::check(now.is_some_and(|now| now >= least), || format!("{now:?}\n{}", daemon.log_tail())))
        })
        .await
    }

    /// Runs a command of the program with this host's config; gives exit code, stdout and stderr.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn cli(&self, args: &[&str]) -> Result<(i32, String, String)> {
        let config = self.config_path().display().to_string();
        let out = cli(["-c", &config].into_iter().chain(args.iter().copied()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((out.status.code().context("killed")?, text(&out.stdout), text(&out.stderr)))
    }

    /// Starts the daemon; doesn't wait for anything.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn launch(&mut self) -> Result<&mut Daemon> {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join(format!("daemon-{number}.log"));
        Ok(self.daemon.insert(Daemon::start(&self.config_path(), self.admin, log, "")?))
    }

    /// `/status`; `None`: nobody answers.
    pub async fn status(&self) -> Option<Value> {
        http::json(self.admin, "/status").await.ok()
    }

    /// The running daemon.
    ///
    /// # Errors
    /// When there is none.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("no daemon runs at {}", self.name))
    }

    /// Everything that its daemons logged, in order.
    #[must_use]
    pub fn logs(&self) -> String {
        let read = |n| fs::read_to_string(self.dir.join(format!("daemon-{n}.log"))).unwrap_or_default();
        (0..self.starts.load(Ordering::Relaxed)).map(read).collect()
    }

    /// Returns when its daemon is the active one and follows the binlog: how long that took.
    ///
    /// # Errors
    /// When it ends, or that takes longer than `limit`.
    pub async fn active(&mut self, limit: Duration) -> Result<Duration> {
        self.is("active", limit).await
    }

    /// Returns when its daemon stands by.
    ///
    /// # Errors
    /// When it ends, or that takes longer than `limit`.
    pub async fn stands_by(&mut self, limit: Duration) -> Result<Duration> {
        self.is("standby", limit).await
    }

    async fn is(&mut self, state: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            let is = status
                .as_ref()
                .is_some_and(|s| s["state"] == state && (state == "standby" || s["ready"] == true));
            if is {
                return Ok(start.elapsed());
            }
            if let Ok(ended) = self.daemon()?.exited(Duration::ZERO).await {
                let tail = self.daemon()?.log_tail();
                bail!("the daemon of {} ended: {ended}\n{tail}", self.name);
            }
            if start.elapsed() > limit {
                let tail = self.daemon()?.log_tail();
                bail!("{} isn't {state} within {limit:?}: {status:?}\n{tail}", self.name);
            }
            tokio::time::sleep(crate::wait::POLL).await;
        }
    }

    /// The shared checkpoint, and what Redis had removed at a time after it was read.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn snapshot(&self, stage: &Stage, name: impl Into<String>) -> Result<Snapshot> {
        let checkpoint = self.checkpoint().await?;
        stage.fence()?;
        Ok(Snapshot {
            name: name.into(),
            checkpoint,
            removals: stage.removals.total(),
            queued: std::collections::HashSet::new(),
        })
    }

    /// The shared checkpoint.
    ///
    /// # Errors
    /// When there is none.
    pub async fn checkpoint(&self) -> Result<Saved> {
        Ok(checkpoint::look(&self.config()?).await?.context("there is no checkpoint")?.0)
    }

    /// Gives the shared checkpoint its first position.
    ///
    /// # Errors
    /// When that is refused.
    pub fn first_position(&self) -> Result<()> {
        let (code, _, said) = self.cli(&["checkpoint", "set", "--latest", "--yes"])?;
        ensure!(code == 0, "{said}");
        Ok(())
    }

    /// Returns when the active daemon has done everything that is committed now.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub async fn quiet(&mut self, stage: &Stage) -> Result<()> {
        stage.quiet(self.daemon()?).await
    }
}

/// Returns when `port` answers a status with this state.
///
/// # Errors
/// When that takes longer than `limit`.
pub async fn wait_for_log(host: &Host, words: &str, limit: Duration) -> Result<()> {
    until(words, limit, async || {
        let logs = host.logs();
        Ok(Seen::check(logs.contains(words), || logs.lines().last().unwrap_or_default().to_owned()))
    })
    .await
}
