//! From the binlog's reader to Redis, without the reader: the assembler and the tasks of one target, as the daemon has them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use rowbust::config::{self, Config};
use rowbust::flush::FlushStats;
use rowbust::invalidate::sweep::SweepStats;
use rowbust::invalidate::target::Target;
use rowbust::invalidate::{self, worker};
use rowbust::pipeline::batch::{Removal, RowPlace};
use rowbust::pipeline::frontier::Frontier;
use rowbust::pipeline::{Assembler, Budget, Done, Lanes};
use rowbust::retry::Queue;
use rowbust::route::Kind;
use rowbust::source::position::{Coordinates, Position};
use rowbust::source::{Preflight, Transaction};
use rowbust::telemetry::Metrics;
use rowbust::watermark::Watermark;
use rowbust_binlog::{Flavor, GtidState};
use rowbust_servers::{Need, Redis, StartOptions, require};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::shop;
use crate::wait::{Seen, until};

/// For whatever is waited for, on a loaded machine.
pub const WITHIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Rig {
    /// The server.
    pub redis: Redis,
    /// A connection to it.
    pub cache: MultiplexedConnection,
    /// Where keys go in.
    pub assembler: Assembler,
    /// What is done.
    pub frontier: Frontier<Done>,
    /// What is in flight.
    pub budget: Budget,
    /// What sweeps do.
    pub sweeps: Arc<SweepStats>,
    /// What flushes do.
    pub stats: Arc<FlushStats>,
    /// End of the newest event.
    pub position: u64,
    /// The target's tasks.
    pub tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Rig {
    /// `None` where Redis can't be had. `limits` and `mappings` as in the config; of `mappings` the indented rest.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn new(limits: &str, mappings: &str) -> Result<Option<Self>> {
        if require(&[Need::Redis]).is_none() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("rowbust-test-").tempdir()?;
        let options = StartOptions::new(dir.path().join("redis"));
        let redis = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
        let text = format!(
            "source: {{ url: \"mysql://u@127.0.0.1:1\" }}\nredis: {{ main: {{ url: \"redis://127.0.0.1:{}\" }} }}\n\
             limits: {{ {limits} }}\nmappings:{mappings}",
            redis.port()
        );
        let config = config::parse(&text, &dir.path().join("rowbust.yaml"), &|_| None)
            .map_err(|report| anyhow::anyhow!("{report:?}"))?;
        let lanes = Lanes::new(&config);
        let (started, tasks) = start(&config, &lanes, dir.path()).await?;
        let (frontier, budget) = (Frontier::default(), Budget::new(config.limits.memory));
        let paced = lanes.is_paced(&config);
        let assembler = Assembler::new(lanes, vec![started.queues], frontier.clone(), budget.clone(), paced);
        let cache = shop::redis(redis.port()).await?;
        let (stats, sweeps) = (started.flush, Arc::clone(&started.sweeper.stats));
        let mut rig =
            Self { redis, cache, assembler, frontier, budget, sweeps, stats, position: 4, tasks, _dir: dir };
        let at = rig.at();
        rig.assembler.started(&Position { gtids: GtidState::empty(Flavor::MariaDb), at });
        Ok(Some(rig))
    }

    /// The end of the newest event.
    #[must_use]
    pub fn at(&self) -> Coordinates {
        Coordinates { file: "b.000001".into(), position: self.position }
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.position += 100;
        let at = self.at();
        self.assembler.begin(Transaction { gtid: None, at: &at, commit_micros: 0 });
    }

    /// A key of mapping 0.
    pub fn push(&mut self, key: &str) {
        let removal = Removal { key: key.as_bytes(), field: None };
        self.assembler.push(0, removal, RowPlace { position: self.position, row: 0 });
    }

    /// It ends, and what it brought is handed on.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn commit(&mut self) -> Result<()> {
        self.position += 100;
        let at = self.at();
        self.assembler.commit(&at, None);
        Ok(self.assembler.flush().await?)
    }

    /// A transaction that makes the keyspace of mapping 0 wrong.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn widen(&mut self, cause: &str) -> Result<()> {
        self.begin();
        self.assembler.widen([0], cause);
        self.commit().await
    }

    /// A transaction with one prefix, or one set, of a mapping.
    ///
    /// # Errors
    /// When a task of the target has ended.
    pub async fn sweep(&mut self, mapping: usize, kind: Kind, key: &str) -> Result<()> {
        self.begin();
        self.push_sweep(mapping, kind, key);
        self.commit().await
    }

    /// A prefix or a set of the running transaction.
    pub fn push_sweep(&mut self, mapping: usize, kind: Kind, key: &str) {
        let way = self.assembler.way(mapping, kind);
        let place = RowPlace { position: self.position, row: 0 };
        self.assembler.push_way(way, Removal { key: key.as_bytes(), field: None }, place);
    }

    /// A transaction of one key.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn change(&mut self, key: &str) -> Result<()> {
        self.begin();
        self.push(key);
        self.commit().await
    }

    /// Sets these keys.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn fill(&mut self, keys: impl IntoIterator<Item = String>) -> Result<()> {
        let keys: Vec<String> = keys.into_iter().collect();
        for chunk in keys.chunks(1000) {
            let mut all = redis::pipe();
            for key in chunk {
                all.set(key, "old").ignore();
            }
            all.query_async::<()>(&mut self.cache).await?;
        }
        Ok(())
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn exists(&mut self, key: &str) -> Result<bool> {
        Ok(self.cache.exists(key).await?)
    }

    /// Returns when it isn't.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn gone(&self, key: &str) -> Result<()> {
        let cache = self.cache.clone();
        until(&format!("{key} is gone"), WITHIN, async || {
            let there: bool = cache.clone().exists(key).await?;
            Ok(Seen::check(!there, || "there".into()))
        })
        .await
    }

    /// Everything is settled: the checkpoint would go on.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn settled(&self) -> Result<Done> {
        until("all is settled", WITHIN, async || {
            let open = self.frontier.stats().open;
            Ok(Seen::check(open == 0, || format!("{open} open, {:?}", self.stats.snapshot())))
        })
        .await?;
        self.frontier.drain_done().context("nothing is done")
    }

    /// Returns when flushes have removed so many.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn removed(&self, least: u64) -> Result<()> {
        until("keys are removed", WITHIN, async || {
            let (removed, scanned) = self.stats.counts();
            Ok(Seen::check(removed >= least, || format!("{removed}, {scanned} looked at")))
        })
        .await
    }

    /// The pass that runs, or the next, has ended.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn between_passes(&self) -> Result<()> {
        until("the first pass is done", WITHIN, async || {
            let now = self.stats.snapshot();
            Ok(Seen::check(now.running.is_none() && now.waiting > 0, || format!("{now:?}")))
        })
        .await
    }

    /// How often Redis ran a command.
    ///
    /// # Errors
    /// When a server or a task of the target fails.
    pub async fn calls(&mut self, command: &str) -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.cache).await?;
        let line = info.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{command}:calls=")));
        let Some(line) = line else { return Ok(0) };
        Ok(line.split(',').next().context("no number")?.parse()?)
    }
}

/// The tasks of one target.
async fn start(config: &Config, lanes: &Lanes, dir: &Path) -> Result<(invalidate::Started, JoinSet<()>)> {
    let server = Preflight {
        flavor: Flavor::MariaDb,
        version: String::new(),
        identity: "1".into(),
        tls: false,
        server_id: 1,
        order_commits: true,
        durable: true,
        warnings: Vec::new(),
    };
    let watermark = Watermark::new(config, &server);
    let target = Target::new(config.redis[0].clone());
    target.connect().await?;
    let retry = config::Retry::Disk {
        path: dir.join("retry"),
        policy: config::RetryPolicy::one(Duration::from_secs(1), 5),
    };
    let shared = Arc::new(worker::Shared {
        queue: Arc::new(Queue::open(&retry).await?),
        watermark: watermark.clone(),
        metrics: Arc::new(Metrics::default()),
        source: "1".into(),
        epoch: 1,
    });
    let mut tasks = JoinSet::new();
    let started = invalidate::start(&target, 0, config, lanes, &shared, |_, task| _ = tasks.spawn(task));
    tasks.spawn(async move { target.heal(CancellationToken::new()).await });
    Ok((started, tasks))
}
