//! One strategy's place in a world: a schema, keys and, where it has one, a daemon of its own.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use rowbust_client::{Client, Hooks, Settings};
use rowbust_servers::ports::free_port;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    LiveError, Strategy, Timing, World,
    barrier::{Barriers, Holds},
    daemon::Daemon,
    error::LiveError as Error,
    strategy::Removals,
    workload::Load,
};

/// What all keys, schemas and sources of the lab have in their names.
pub(super) const NAME: &str = "rowbust-lab";
/// The daemon's config as it may be kept.
pub(super) const KEPT_CONFIG: &str = "kept.yaml";
/// How long all that is owed may take.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// One strategy's place.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) strategy: Strategy,
    pub(super) workload: Arc<dyn Load>,
    pub(super) schema: String,
    pub(super) barriers: Arc<Barriers>,
    /// Loads use the replica too.
    pub(super) reads_replica: bool,
    pub(super) daemon: Mutex<Option<Daemon>>,
    pub(super) dir: PathBuf,
    number: String,
    prefix: String,
    source: String,
    owed: String,
    timing: Timing,
}

/// What a stage is made for.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) strategy: Strategy,
    pub(super) workload: Arc<dyn Load>,
    pub(super) timing: Timing,
    pub(super) reads_replica: bool,
}

impl Stage {
    /// Makes the schema, and refuses if it is there: it is another lab's, as keys of that number are. `number`: unique in the world. Who has
    /// it has to close it.
    pub(super) async fn claim(world: &World, setting: Setting, number: &str) -> Result<Self, LiveError> {
        let Setting { strategy, workload, timing, reads_replica } = setting;
        let (schema, prefix) = (format!("rowbust_lab_{number}"), format!("{NAME}:{number}:"));
        let dir = world.dir().join(format!("run-{number}"));
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let keys = (0..workload.cells()).map(|cell| workload.key(&prefix, cell)).collect();
        let stage = Self {
            strategy,
            barriers: Arc::new(Barriers::new(holds(&timing), keys)),
            reads_replica: reads_replica && world.has_replica(),
            daemon: Mutex::new(None),
            source: format!("{NAME}-{number}"),
            owed: format!("{NAME}:{number}:owed"),
            dir,
            schema,
            number: number.to_owned(),
            prefix,
            workload,
            timing,
        };
        let schema = &stage.schema;
        let mut statements = Vec::new();
        if world.is_private() {
            statements.push(format!("DROP DATABASE IF EXISTS {schema}"));
        }
        statements.push(format!("CREATE DATABASE {schema}"));
        let making = format!(
            "making the schema {schema} (of another lab that runs; one that is left over can be dropped)"
        );
        world.admin().run(statements).await.map_err(Error::database(making))?;
        Ok(stage)
    }

    /// Makes rows, and starts the daemon.
    pub(super) async fn open(&self, world: &World) -> Result<(), LiveError> {
        let schema = &self.schema;
        let mut statements = self.workload.tables(schema);
        statements.push(format!("CREATE TABLE {schema}.fence (n INT)"));
        let making = format!("making tables in the schema {schema}");
        world.admin().run(statements).await.map_err(Error::database(making))?;
        world.replica_caught_up().await?;
        // What an older run of that number has left, which was killed.
        world.wipe(NAME, &self.number).await?;
        self.workload.seed(self, &mut world.raw().await?).await?;
        if let Some(removals) = self.strategy.removals() {
            *self.daemon.lock().await = Some(self.start_daemon(world, removals).await?);
        }
        Ok(())
    }

    async fn start_daemon(&self, world: &World, removals: Removals) -> Result<Daemon, LiveError> {
        let admin = free_port().map_err(|e| Error::server("finding a port", e))?;
        let path = self.dir.join("rowbust.yaml");
        fs::write(&path, self.config(world, removals, admin, false)).map_err(Error::file(&path))?;
        let kept = path.with_file_name(KEPT_CONFIG);
        fs::write(&kept, self.config(world, removals, admin, true)).map_err(Error::file(&kept))?;
        Daemon::start(&world.program, path, admin).await
    }

    /// The daemon's config. To be `kept`: without passwords.
    fn config(&self, world: &World, removals: Removals, admin: u16, kept: bool) -> String {
        let dir = self.dir.display();
        let opts = world.primary_opts();
        let user = opts.user().unwrap_or("root");
        let password = opts.pass().map_or(String::new(), |pass| {
            format!("  password: {}\n", quoted(if kept { "****" } else { pass }))
        });
        let replicas = match world.replica_port().filter(|_| self.reads_replica) {
            Some(port) => format!("  replicas: [\"127.0.0.1:{port}\"]\n"),
            None => String::new(),
        };
        let retry = match world.kafka() {
            Some(kafka) => format!(
                "{{ kafka: {{ brokers: [\"{}\"], prefix: {} }}, delay: 500ms, attempts: 1000 }}",
                kafka.brokers(),
                self.source
            ),
            None => format!("{{ disk: {{ path: {dir}/retry }}, delay: 500ms, attempts: 1000 }}"),
        };
        let how = match removals {
            Removals::Once => "second_removal: never".to_owned(),
            Removals::TwiceWithGrace => format!("fill_grace: {}ms", self.timing.grace.as_millis()),
            Removals::Guarded => "guarded: true".to_owned(),
        };
        let mut text = format!(
            "version: 1\nsource:\n  url: mysql://{user}@{}:{}\n{password}  tls: disabled\n  name: {}\n  start: latest\n{replicas}\
             redis: {{ main: {} }}\nretry: {retry}\ncheckpoint: {{ path: {dir}/checkpoint }}\n\
             admin: {{ listen: \"127.0.0.1:{admin}\" }}\nmappings:\n",
            opts.ip_or_hostname(),
            opts.tcp_port(),
            self.source,
            world.redis_config(kept),
        );
        for mapping in self.workload.mappings(&self.schema, &self.prefix) {
            let keys: Vec<String> = mapping.keys.iter().map(|key| quoted(key)).collect();
            text.push_str(&format!(
                "  - table: {}\n    keys: [{}]\n    {how}\n",
                mapping.table,
                keys.join(", ")
            ));
        }
        text
    }

    /// A client of its strategy.
    pub(super) fn client(
        &self,
        redis: rowbust_client::Redis,
        hooks: Option<Arc<dyn Hooks>>,
    ) -> Result<Client, LiveError> {
        let ttl = if self.strategy.is_timed() { self.timing.short_ttl } else { self.timing.ttl };
        let settings = Settings { ttl, ..Settings::default() };
        let steps = self.strategy.steps(&self.timing, &self.source, &self.owed);
        let mut builder = Client::builder(redis).strategy_arc(steps).settings(settings);
        if let Some(hooks) = hooks {
            builder = builder.hooks(hooks);
        }
        Ok(builder.build()?)
    }

    /// Whether loads go where the strategy says.
    pub(super) fn is_pooled(&self) -> bool {
        matches!(self.strategy, Strategy::Guarded | Strategy::BinlogLease)
    }

    pub(super) fn key(&self, cell: u32) -> String {
        self.workload.key(&self.prefix, cell)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns when everything that is owed for what was written until now is done; why not, if that takes too long.
    pub(super) async fn drain(&self, world: &World) -> Result<Option<String>, LiveError> {
        let fence = format!("INSERT INTO {}.fence VALUES (1)", self.schema);
        world.admin().run(vec![fence]).await.map_err(Error::database("writing the last row"))?;
        world.replica_caught_up().await?;
        let goal = world.newest().await?;
        if self.strategy.is_timed() {
            // Jitter only shortens a TTL; logical expiry keeps an entry for another one.
            tokio::time::sleep(self.timing.short_ttl * 2 + Duration::from_millis(50)).await;
        }
        let begun = Instant::now();
        // Owed deletes are carried out by whoever is there.
        let client = self.client(world.connector().redis().await?, None)?;
        let mut why;
        loop {
            why = self.owes(world, &goal).await?;
            if why.is_none() || begun.elapsed() > DRAINED_WITHIN {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(client);
        Ok(why)
    }

    /// Whether its daemon has removals that Redis didn't carry out. Without a daemon there is nothing to know.
    pub(super) async fn is_stuck(&self) -> bool {
        if !self.strategy.has_daemon() {
            return true;
        }
        match self.daemon.lock().await.as_ref() {
            Some(daemon) => daemon.status().await.is_ok_and(|status| is_stuck(&status)),
            None => false,
        }
    }

    /// What is still owed, if anything.
    async fn owes(&self, world: &World, goal: &(String, u64)) -> Result<Option<String>, LiveError> {
        if self.strategy == Strategy::DelayedDoubleDelete {
            let mut raw = world.raw().await?;
            let owed: u64 = redis::cmd("ZCARD")
                .arg(&self.owed)
                .query_async(&mut raw)
                .await
                .map_err(Error::redis("ZCARD"))?;
            return Ok((owed > 0).then(|| format!("{owed} second deletes are owed")));
        }
        let daemon = self.daemon.lock().await;
        let Some(daemon) = daemon.as_ref() else { return Ok(None) };
        let status = daemon.status().await?;
        Ok((!is_done(&status, goal)).then(|| daemon.explain(&format!("it isn't done: {status}")).to_string()))
    }

    /// Ends the daemon; what the stage has in Redis and the database goes.
    pub(super) async fn close(&self, world: &World) -> Result<(), LiveError> {
        // Nothing is owed any more that an orderly end would deliver.
        if let Some(mut daemon) = self.daemon.lock().await.take() {
            daemon.kill9()?;
        }
        self.unmark(world).await?;
        // Keys first: as long as the schema is there, nobody else uses their names.
        world.wipe(NAME, &self.number).await?;
        let drop = format!("DROP DATABASE IF EXISTS {}", self.schema);
        world.admin().run(vec![drop]).await.map_err(Error::database("dropping the run's schema"))?;
        fs::remove_dir_all(&self.dir).map_err(Error::file(&self.dir))
    }

    /// Removes the daemon's mark from a Redis that was given: its name is the checkpoint's, not the lab's.
    async fn unmark(&self, world: &World) -> Result<(), LiveError> {
        let saved = fs::read_to_string(self.dir.join("checkpoint")).unwrap_or_default();
        let json = saved.split_once('\n').map_or("", |(_, json)| json);
        let lineage = serde_json::from_str::<Value>(json).ok();
        let lineage =
            lineage.as_ref().and_then(|saved| saved["lineage"].as_str()).filter(|name| !name.is_empty());
        let (Some(lineage), false) = (lineage, world.is_private()) else { return Ok(()) };
        let mark = format!("rowbust:mark:{lineage}");
        let done: Result<(), _> = redis::cmd("UNLINK").arg(mark).query_async(&mut world.raw().await?).await;
        done.map_err(Error::redis("UNLINK"))
    }

    /// What the keys of all cells hold.
    pub(super) async fn cached(
        &self,
        raw: &mut MultiplexedConnection,
    ) -> Result<Vec<Option<Vec<u8>>>, redis::RedisError> {
        let mut all = Vec::new();
        let cells: Vec<u32> = (0..self.workload.cells()).collect();
        for chunk in cells.chunks(1000) {
            let mut get = redis::cmd("MGET");
            chunk.iter().for_each(|cell| _ = get.arg(self.key(*cell)));
            let values: Vec<Option<Vec<u8>>> = get.query_async(raw).await?;
            all.extend(values);
        }
        Ok(all)
    }
}

fn holds(timing: &Timing) -> Holds {
    let longest = timing.delay.max(timing.grace);
    Holds {
        // A sweep of owed deletes comes up to a delay late.
        overtaken: longest * 2 + Duration::from_millis(300),
        fill: longest * 2 + Duration::from_millis(800),
        crossed: Duration::from_millis(100),
        step: Duration::from_millis(600),
        still: timing.lock * 2 + Duration::from_millis(100),
    }
}

/// In double quotes, for YAML.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether Redis doesn't do what the daemon asks for.
fn is_stuck(status: &Value) -> bool {
    let list = |list: &Value| list.as_array().cloned().unwrap_or_default();
    status["queue"]["pending"].as_u64() > Some(0)
        || list(&status["targets"]).iter().any(|target| {
            target["breaker"] == "open"
                || list(&target["servers"]).iter().any(|server| !server["error"].is_null())
        })
}

/// Whether the daemon has nothing left to do, and Redis' own mark says so.
fn is_done(status: &Value, goal: &(String, u64)) -> bool {
    let reached = |at: &Value| {
        let file = at["file"].as_str().unwrap_or_default().to_owned();
        (file, at["position"].as_u64().unwrap_or(0)) >= *goal
    };
    let all = |list: &Value, is_well: &dyn Fn(&Value) -> bool| {
        list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_well))
    };
    status["caught_up"] == true
        && status["queue"]["pending"].as_u64() == Some(0)
        && reached(&status["checkpoint"])
        && all(&status["targets"], &|target| target["breaker"] == "closed")
        && all(&status["marks"]["targets"], &|target| {
            target["error"].is_null() && reached(&target["frontier"])
        })
}
