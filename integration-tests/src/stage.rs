//! Servers, schema, config and evidence of one test.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust::checkpoint::file::{self, Saved};
use rowbust::config::RetryPolicy;
use rowbust::retry::{Clock, Queue, Which, disk::DiskQueue};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Need, Redis, StartOptions, require};
use tempfile::TempDir;

use crate::daemon::{self, Daemon};
use crate::db::{Db, Flavor, PASSWORD, USER};
use crate::invariants::{Checked, Evidence, Snapshot};
use crate::load::{History, Load, Plan};
use crate::monitor::{self, Monitor, Removals};
use crate::proxy::Proxy;
use crate::wait::{Seen, until};
use crate::{oracle, shop};

/// Quiescence must be reached within this, on a loaded machine.
pub const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// What a test may say about the daemon's config; the rest is the same for all.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `source.start`.
    pub start: String,
    /// `source.tls`.
    pub tls: String,
    /// More fields of `source`, a line.
    pub source: String,
    /// `redis.main`; `None`: the stage's Redis by way of its proxy.
    pub redis: Option<String>,
    /// `retry`; `None`: on disk, 5 attempts 1 s apart.
    pub retry: Option<String>,
    /// `mappings`, indented; `None`: the shop's.
    pub mappings: Option<String>,
    /// `limits`; `None`: the defaults.
    pub limits: Option<String>,
    /// `checkpoint.path`; `None`: in the test's folder.
    pub checkpoint: Option<PathBuf>,
    /// The port at which the daemon finds the server; `None`: its own.
    pub port: Option<u16>,
    /// More fields of `admin`, each with a comma in front.
    pub admin: String,
    /// More arguments of `rowbust run`.
    pub args: Vec<String>,
    /// More of its environment variables.
    pub env: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start: "latest".into(),
            tls: "disabled".into(),
            source: String::new(),
            redis: None,
            retry: None,
            mappings: None,
            limits: None,
            checkpoint: None,
            port: None,
            admin: String::new(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A schema on a server, a Redis that can be cut off, and the config of a daemon between them.
#[derive(Debug)]
pub struct Stage {
    /// The server.
    pub db: Arc<Db>,
    /// The test's own schema.
    pub schema: String,
    /// The test's own Redis. The daemon reaches it by [`Stage::proxy`] only, the test's readers directly.
    pub redis: Redis,
    /// The daemon's way to it.
    pub proxy: Proxy,
    /// What Redis removed.
    pub removals: Arc<Removals>,
    /// What is to be said about the daemon.
    pub settings: Settings,
    monitor: Option<Monitor>,
    admin: u16,
    starts: AtomicU32,
    dir: TempDir,
}

impl Stage {
    /// On the server that the tests of this process share; `None` where a server can't be had.
    ///
    /// # Errors
    /// When something doesn't come up.
    pub async fn new(flavor: Flavor, test: &str) -> Result<Option<Self>> {
        if require(&[flavor.need(), Need::Redis]).is_none() {
            return Ok(None);
        }
        Self::on(Db::shared(flavor).await?, test).await.map(Some)
    }

    /// On this server.
    ///
    /// # Errors
    /// When something doesn't come up.
    pub async fn on(db: Arc<Db>, test: &str) -> Result<Self> {
        // Built before the first server waits for it.
        tokio::task::spawn_blocking(daemon::binary).await??;
        let dir = tempfile::Builder::new().prefix("rowbust-test-").tempdir()?;
        let options = StartOptions::new(dir.path().join("redis"));
        let redis = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
        let removals = Arc::new(Removals::default());
        let monitor = Monitor::start(redis.port(), Arc::clone(&removals))?;
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n"))?;
        Ok(Self {
            proxy: Proxy::start(redis.port()).await?,
            db,
            schema: test.to_owned(),
            redis,
            removals,
            settings: Settings::default(),
            monitor: Some(monitor),
            admin: free_port()?,
            starts: AtomicU32::new(0),
            dir,
        })
    }

    /// The test's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's checkpoint file.
    #[must_use]
    pub fn checkpoint_path(&self) -> PathBuf {
        self.settings.checkpoint.clone().unwrap_or_else(|| self.dir().join("checkpoint"))
    }

    /// Writes the config and returns its path.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn config(&self) -> Result<PathBuf> {
        let dir = self.dir().display();
        let Settings {
            start,
            tls,
            source,
            redis,
            retry,
            mappings,
            limits,
            port,
            admin,
            checkpoint: _,
            args: _,
            env: _,
        } = &self.settings;
        let redis =
            redis.clone().unwrap_or(format!("{{ url: \"redis://127.0.0.1:{}/0\" }}", self.proxy.port()));
        let retry =
            retry.clone().unwrap_or(format!("{{ disk: {{ path: {dir}/retry }}, delay: 1s, attempts: 5 }}"));
        let mappings = mappings.clone().unwrap_or_else(|| shop::mappings(&self.schema, ""));
        let text = format!(
            "version: 1\nsource:\n  url: mysql://{USER}@127.0.0.1:{}\n  password_file: {dir}/password\n  tls: {tls}\n  \
             start: {start}\n  {source}\nredis:\n  main: {redis}\nretry: {retry}\ncheckpoint: {{ path: {} }}\n\
             admin: {{ listen: \"127.0.0.1:{}\"{admin} }}\nlimits: {}\nmappings:{mappings}",
            port.unwrap_or(self.db.port()),
            self.checkpoint_path().display(),
            self.admin,
            limits.as_deref().unwrap_or("{ memory: 48MiB }"),
        );
        let path = self.dir().join("rowbust.yaml");
        // A program that has just been started may be reading it.
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &path)?;
        Ok(path)
    }

    /// Starts the daemon, with this in the variable `FAILPOINTS`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn launch(&self, failpoints: &str) -> Result<Daemon> {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        Daemon::start_with(
            &self.config()?,
            self.admin,
            self.dir().join(format!("daemon-{number}.log")),
            failpoints,
            &self.settings.args,
            &self.settings.env,
        )
    }

    /// The port of the daemon's admin server.
    #[must_use]
    pub fn admin(&self) -> u16 {
        self.admin
    }

    /// Starts the daemon and returns when it follows the binlog.
    ///
    /// # Errors
    /// When it isn't ready in time.
    pub async fn start(&self) -> Result<Daemon> {
        let mut daemon = self.launch("")?;
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Returns when the daemon has done everything that is committed now, its queue included, and Redis' removals are noted.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub async fn quiet(&self, daemon: &Daemon) -> Result<()> {
        let mut conn = self.db.connect().await?;
        // A transaction of a table that no mapping names moves the position too.
        conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {}.fence (n INT)", self.schema)).await?;
        conn.query_drop(format!("INSERT INTO {}.fence VALUES (1)", self.schema)).await?;
        let goal = self.db.newest(&mut conn).await?;
        conn.disconnect().await?;
        let waited = until("quiescence", QUIET_WITHIN, async || {
            let status = daemon.status().await?;
            let at = &status["checkpoint"];
            let file = at["file"].as_str().unwrap_or_default().to_owned();
            let reached = (file, at["position"].as_u64().unwrap_or(0)) >= goal;
            let empty = status["queue"]["pending"].as_u64() == Some(0);
            Ok(Seen::check(reached && empty && status["caught_up"] == true, || {
                format!("{status}, goal {goal:?}")
            }))
        });
        waited.await.map_err(|e| daemon.explain(&e))?;
        self.fence()
    }

    /// Returns when all is done and the mark in Redis says so: a Redis that is restarted before it ever had one is flushed, for nobody
    /// knows what it forgot. The daemon may begin anew meanwhile.
    ///
    /// # Errors
    /// When that takes more than a few minutes.
    pub async fn marked(&self, daemon: &Daemon) -> Result<()> {
        let quiet = until("quiet", QUIET_WITHIN, async || {
            let seen = self.quiet(daemon).await;
            Ok(seen.map_or_else(|error| Seen::NotYet(format!("{error:#}")), Seen::Done))
        });
        quiet.await.map_err(|error| daemon.explain(&error))?;
        let waited = until("the mark", QUIET_WITHIN, async || {
            let marks = match daemon.status().await {
                Ok(status) => status["marks"].clone(),
                Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
            };
            let target = &marks["targets"][0];
            Ok(Seen::check(target["lag_seconds"] == 0.0 && target["error"].is_null(), || marks.to_string()))
        });
        waited.await.map_err(|error| daemon.explain(&error))
    }

    /// Returns when everything that Redis removed until now is noted.
    ///
    /// # Errors
    /// When Redis doesn't answer.
    pub fn fence(&self) -> Result<()> {
        let monitor = self.monitor.as_ref().context("redis is down")?;
        tokio::task::block_in_place(|| monitor.fence())
    }

    /// A number of the status' part `source`.
    ///
    /// # Errors
    /// When the daemon doesn't answer.
    pub async fn status_number(&self, daemon: &Daemon, name: &str) -> Result<u64> {
        let status = daemon.status().await?;
        status["source"][name].as_u64().with_context(|| format!("no {name} in {status}"))
    }

    /// The checkpoint on disk.
    ///
    /// # Errors
    /// When there is none.
    pub fn checkpoint(&self) -> Result<Saved> {
        Ok(file::load(&self.checkpoint_path())?.context("there is no checkpoint")?.0)
    }

    /// What is there now that the daemon is dead.
    ///
    /// # Errors
    /// When checkpoint or queue can't be read.
    pub async fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot> {
        if self.monitor.is_some() {
            self.fence()?;
        }
        Ok(Snapshot {
            name: name.into(),
            checkpoint: self.checkpoint()?,
            removals: self.removals.total(),
            queued: self.queued().await?,
        })
    }

    /// The keys in the queue on disk, while no daemon has it open.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn queued(&self) -> Result<HashSet<String>> {
        let folder = self.dir().join("retry");
        if !folder.exists() {
            return Ok(HashSet::new());
        }
        let policy = RetryPolicy::one(Duration::from_secs(1), 5);
        let queue = Queue::Disk(DiskQueue::open(&folder, policy, Clock::system()).await?);
        let listed = queue.list(Which::Pending, usize::MAX).await?;
        queue.close().await;
        let name = |key: &[u8], field: Option<&[u8]>| {
            let key = String::from_utf8_lossy(key).into_owned();
            field.map_or(key.clone(), |f| monitor::field(&key, &String::from_utf8_lossy(f)))
        };
        let records = listed.iter().filter_map(|l| l.record.as_ref());
        Ok(records.map(|r| name(&r.key, r.op.field())).collect())
    }

    /// `SHUTDOWN SAVE`, as seen by the daemon too.
    ///
    /// # Errors
    /// When Redis refuses.
    pub async fn redis_down(&mut self) -> Result<()> {
        self.proxy.cut().await;
        self.fence()?;
        self.monitor = None;
        tokio::task::block_in_place(|| self.redis.shutdown_save())
    }

    /// Starts Redis again with its data; the daemon reaches it only once its removals are watched.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn redis_up(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.redis.start_again())?;
        self.monitor = Some(Monitor::start(self.redis.port(), Arc::clone(&self.removals))?);
        self.proxy.open().await
    }

    /// Redis ends without saving and comes back with what was saved last, as if nothing had been after that. The daemon reaches it again
    /// once the proxy is opened.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn redis_forgets(&mut self) -> Result<()> {
        self.proxy.cut().await;
        self.fence()?;
        self.monitor = None;
        tokio::task::block_in_place(|| self.redis.shutdown_nosave().and_then(|()| self.redis.start_again()))?;
        self.monitor = Some(Monitor::start(self.redis.port(), Arc::clone(&self.removals))?);
        Ok(())
    }

    /// Makes the shop with `products` products, all of them cached, and control keys that nothing names.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn open_shop(&self, products: u64) -> Result<()> {
        let mut conn = self.db.connect().await?;
        shop::create(&mut conn, &self.schema, products).await?;
        let mut cache = shop::redis(self.redis.port()).await?;
        let rows: Vec<(u64, String, u64, u64)> =
            conn.query(format!("SELECT id, sku, category_id, ver FROM {}.products", self.schema)).await?;
        for chunk in rows.chunks(500) {
            let mut all = redis::pipe();
            for (id, sku, category, ver) in chunk {
                all.set(format!("product:{id}"), ver).ignore();
                all.set(format!("product:sku:{sku}"), format!("{id}:{ver}")).ignore();
                all.hset(format!("category:{category}:products"), id, ver).ignore();
                all.set(format!("control:{id}"), id).ignore();
            }
            all.query_async::<()>(&mut cache).await?;
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// Starts a load on the shop.
    #[must_use]
    pub fn load(&self, plan: Plan) -> Load {
        Load::start(&self.db, &self.schema, self.redis.port(), plan)
    }

    /// The cached values that aren't what the database says.
    ///
    /// # Errors
    /// When a server doesn't answer.
    pub async fn stale(&self) -> Result<Vec<String>> {
        let mut conn = self.db.connect().await?;
        let mut cache = shop::redis(self.redis.port()).await?;
        Ok(shop::compare(&mut conn, &mut cache, &self.schema).await?.stale)
    }

    /// The end of a run with faults: every invariant. `products` as given to [`Stage::open_shop`], `hot` as in the [`Plan`].
    ///
    /// # Errors
    /// Names what is violated.
    pub async fn judge(
        &self,
        history: &History,
        snapshots: &[Snapshot],
        products: u64,
        hot: u64,
    ) -> Result<Checked> {
        self.fence()?;
        let mut conn = self.db.connect().await?;
        let mut cache = shop::redis(self.redis.port()).await?;
        let compared = shop::compare(&mut conn, &mut cache, &self.schema).await?;
        let stale = &compared.stale;
        ensure!(stale.is_empty(), "I1: {} stale: {:#?}", stale.len(), &stale[..stale.len().min(10)]);
        let untouched = usize::try_from(products - hot)?;
        ensure!(
            compared.equal >= 3 * untouched && compared.absent.iter().all(|id| *id <= hot),
            "I7: {} equal, {:?} absent, with {untouched} products above {hot} that nothing touched",
            compared.equal,
            compared.absent
        );
        let binlog = tokio::task::block_in_place(|| oracle::read(&self.db, &self.schema))?;
        let evidence = Evidence { binlog: &binlog, history, removals: &self.removals, snapshots };
        let checked = evidence.check()?;
        for id in 1..=products {
            let control: Option<u64> =
                redis::cmd("GET").arg(format!("control:{id}")).query_async(&mut cache).await?;
            ensure!(control == Some(id), "I7: control:{id} is {control:?}");
        }
        ensure!(
            checked.transactions > 0 && checked.pairs > 0,
            "void: no transaction of the load in the binlog"
        );
        eprintln!(
            "{}: {checked:?}; {} equal, {} absent; {} fills, {} late",
            self.schema,
            compared.equal,
            compared.absent.len(),
            history.fills,
            history.late_fills
        );
        Ok(checked)
    }

    /// A connection as root that uses the test's schema.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn sql(&self) -> Result<Conn> {
        let mut conn = self.db.connect().await?;
        conn.query_drop(format!("USE {}", self.schema)).await?;
        Ok(conn)
    }
}

/// The same tests on both kinds of server: `on_both!(name, …)` for `async fn name(flavor: Flavor) -> Result<()>`.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> anyhow::Result<()> {
                super::$name($crate::db::Flavor::MariaDb).await
            })+
        }
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> anyhow::Result<()> {
                super::$name($crate::db::Flavor::MySql).await
            })+
        }
    };
}
