//! The servers of a run.
//!
//! Guarantees: servers listen on 127.0.0.1, in a temporary folder that is removed with them; nothing is installed. Of servers that were
//! given, only schemas and keys of the lab's own names are touched.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use mysql_async::{Opts, OptsBuilder, Row};
use redis::aio::MultiplexedConnection;
use rowbust_servers::{Kafka, MariaDb, MySql, Redis, Sentinels, StartOptions, sentinel::MASTER};
use tempfile::TempDir;
use tokio::task::{block_in_place, spawn_blocking};

use super::{
    Fault, LiveError, Plan,
    db::{Flavor, Link},
    error::LiveError as Error,
};
use connector::Address;
use given::given_redis;
pub use given::{Given, without_account};
use start::{find, primary_args, start_cache, start_database};

mod connector;
mod faults;
mod given;
mod start;

pub(super) use connector::Connector;

/// How long a server may take to come to a state.
const WITHIN: Duration = Duration::from_secs(60);
const STARTING: &str = "starting the lab's servers";
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What to start.
///
/// ```
/// use rowbust_lab::live::{Fault, Flavor, Plan, Workload, WorldOptions};
/// let program = "target/debug/rowbust";
/// let options = WorldOptions { flavor: Some(Flavor::MySql), kafka: true, ..WorldOptions::new(program) };
/// assert!(options.replica && !options.sentinels);
/// // Or only what faults need.
/// let plan = Plan { faults: vec![Fault::RedisFailover], ..Plan::new(Workload::ReadMostly) };
/// let options = WorldOptions::for_plans(program, &[plan]);
/// assert!(options.sentinels && !options.replica && !options.kafka);
/// ```
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// The program whose `run` is the daemon under test.
    pub program: PathBuf,
    /// Which database. Default: MariaDB, or MySQL where that is what there is.
    pub flavor: Option<Flavor>,
    /// With a replica that readers use. Default: true.
    pub replica: bool,
    /// Redis as a master and two replicas with sentinels, for [`Fault::RedisFailover`](super::Fault::RedisFailover). Default: false.
    pub sentinels: bool,
    /// With Kafka as the daemon's retry queue, for [`Fault::KafkaStop`](super::Fault::KafkaStop). Default: false.
    pub kafka: bool,
    /// Servers that are there already. Default: none.
    pub given: Option<Given>,
}

impl WorldOptions {
    /// Defaults, with this program.
    ///
    /// Example: see [`WorldOptions`].
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            flavor: None,
            replica: true,
            sentinels: false,
            kafka: false,
            given: None,
        }
    }

    /// With this program, and what the faults of these plans need.
    ///
    /// Example: see [`WorldOptions`].
    pub fn for_plans(program: impl Into<PathBuf>, plans: &[Plan]) -> Self {
        let has = |fault| plans.iter().any(|plan| plan.faults.contains(&fault));
        Self {
            replica: has(Fault::ReplicaLag),
            sentinels: has(Fault::RedisFailover),
            kafka: has(Fault::KafkaStop),
            ..Self::new(program)
        }
    }
}

#[derive(Debug)]
enum Database {
    MariaDb(MariaDb),
    MySql(MySql),
}

macro_rules! either {
    ($database:expr, $server:ident => $body:expr) => {
        match $database {
            Database::MariaDb($server) => $body,
            Database::MySql($server) => $body,
        }
    };
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Primary {
    Ours(Database),
    Given(Opts),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Cache {
    One(Redis),
    Sentinels(Sentinels),
    Given(String),
}

/// The servers of a run. Several runs may follow one another in it. Dropped, it ends what it started.
///
/// Example: see [`run`](super::run).
#[derive(Debug)]
pub struct World {
    flavor: Flavor,
    versions: (String, String),
    primary: Primary,
    replica: Option<Database>,
    cache: Cache,
    kafka: Option<Kafka>,
    admin: Link,
    replica_admin: Option<Link>,
    runs: AtomicU32,
    pub(super) program: PathBuf,
    // Behind the servers: they are dropped first.
    dir: TempDir,
}

impl World {
    /// Starts the servers, or looks at those that are given.
    ///
    /// # Errors
    /// When programs are missing (named, with what installs them), or a server doesn't come up.
    ///
    /// Example: see [`run`](super::run).
    pub async fn start(options: WorldOptions) -> Result<Self, LiveError> {
        let dir = tempfile::Builder::new().prefix("rowbust-lab-").tempdir();
        let dir = dir.map_err(Error::file(&std::env::temp_dir()))?;
        let WorldOptions { program, flavor, replica, sentinels, kafka, given } = options;
        if let Some(given) = given {
            return Self::look_at(given, program, dir).await;
        }
        let flavor = find(flavor, kafka)?;
        let place = dir.path().to_owned();
        let started = spawn_blocking(move || {
            // Side by side: each takes seconds.
            std::thread::scope(|scope| {
                let primary =
                    scope.spawn(|| start_database(flavor, place.join("primary"), primary_args(flavor)));
                let second = replica.then(|| {
                    let args = vec!["--server-id=2".into(), "--log-slave-updates=1".into()];
                    scope.spawn(|| start_database(flavor, place.join("replica"), args))
                });
                let kafka = kafka.then(|| {
                    let options = StartOptions::new(place.join("kafka"));
                    scope.spawn(|| Kafka::start(options).map_err(|e| Error::server(STARTING, e)))
                });
                let cache = start_cache(&place, sentinels);
                let panicked = |_| Error::server(STARTING, "a thread panicked");
                Ok::<_, LiveError>((
                    primary.join().map_err(panicked)??,
                    second.map(|s| s.join().map_err(panicked)?).transpose()?,
                    kafka.map(|k| k.join().map_err(panicked)?).transpose()?,
                    cache?,
                ))
            })
        });
        let (primary, replica, kafka, cache) = started.await.map_err(|e| Error::server(STARTING, e))??;
        let version = |database: &Database| either!(database, s => s.version().to_owned());
        let redis_version = match &cache {
            Cache::One(redis) => redis.version().to_owned(),
            Cache::Sentinels(all) => all.servers.first().map_or(String::new(), |s| s.version().to_owned()),
            Cache::Given(_) => String::new(),
        };
        let name = if flavor == Flavor::MySql { "MySQL" } else { "MariaDB" };
        let world = Self {
            flavor,
            versions: (format!("{name} {}", version(&primary)), format!("Redis {redis_version}")),
            admin: Link::new(local(either!(&primary, s => s.port()))),
            replica_admin: replica.as_ref().map(|r| Link::new(local(either!(r, s => s.port())))),
            primary: Primary::Ours(primary),
            replica,
            cache,
            kafka,
            runs: AtomicU32::new(0),
            program,
            dir,
        };
        world.follow().await?;
        Ok(world)
    }

    async fn look_at(given: Given, program: PathBuf, dir: TempDir) -> Result<Self, LiveError> {
        let opts = Opts::from_url(&given.mysql)
            .map_err(|e| Error::Usage(format!("the address of the database isn't one: {e}")))?;
        let admin = Link::new(opts.clone());
        let asking = "asking the given database for its version";
        let version: Option<String> =
            admin.first("SELECT @@version").await.map_err(Error::database(asking))?;
        let version = version.unwrap_or_default();
        let flavor = if version.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        let name = if flavor == Flavor::MySql { "MySQL" } else { "MariaDB" };
        let world = Self {
            flavor,
            versions: (format!("{name} {version}"), String::new()),
            primary: Primary::Given(opts),
            replica: None,
            cache: Cache::Given(given.redis),
            kafka: None,
            admin,
            replica_admin: None,
            runs: AtomicU32::new(0),
            program,
            dir,
        };
        let mut raw = world.raw().await?;
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut raw)
            .await
            .map_err(Error::redis("asking the given Redis for its version"))?;
        let redis = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim();
        Ok(Self { versions: (world.versions.0.clone(), format!("Redis {redis}")), ..world })
    }

    /// Makes the replica follow.
    async fn follow(&self) -> Result<(), LiveError> {
        let Some(replica) = &self.replica_admin else { return Ok(()) };
        let port = self.primary_port();
        let source = match self.flavor {
            Flavor::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            ),
            Flavor::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos"
            ),
        };
        let start = format!("START {}", self.flavor.replica_word());
        replica.run(vec![source, start]).await.map_err(Error::database("starting replication")).map(drop)
    }

    /// Which dialect the database speaks.
    pub(super) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Names and versions: of the database, of Redis.
    ///
    /// Example: see [`Given`].
    #[must_use]
    pub fn versions(&self) -> (&str, &str) {
        (&self.versions.0, &self.versions.1)
    }

    /// Whether the servers are its own: their processes may be killed, and their memory be wiped.
    pub(super) fn is_private(&self) -> bool {
        matches!(self.primary, Primary::Ours(_))
    }

    /// Whether there is a replica that readers use.
    pub(super) fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether Redis is a group with sentinels.
    pub(super) fn has_sentinels(&self) -> bool {
        matches!(self.cache, Cache::Sentinels(_))
    }

    /// Kafka, if it is part of it.
    pub(super) fn kafka(&self) -> Option<&Kafka> {
        self.kafka.as_ref()
    }

    pub(super) fn next_run(&self) -> u32 {
        self.runs.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The lab's own connection to the primary.
    pub(super) fn admin(&self) -> &Link {
        &self.admin
    }

    pub(super) fn primary_opts(&self) -> Opts {
        match &self.primary {
            Primary::Ours(database) => local(either!(database, s => s.port())),
            Primary::Given(opts) => opts.clone(),
        }
    }

    fn primary_port(&self) -> u16 {
        self.primary_opts().tcp_port()
    }

    pub(super) fn replica_port(&self) -> Option<u16> {
        self.replica.as_ref().map(|r| either!(r, s => s.port()))
    }

    pub(super) fn replica_opts(&self) -> Option<Opts> {
        self.replica_port().map(local)
    }

    /// What a process of the application needs to connect.
    pub(super) fn connector(&self) -> Connector {
        let redis = match &self.cache {
            Cache::One(redis) => Address::One(redis.url()),
            Cache::Given(url) => Address::One(url.clone()),
            Cache::Sentinels(group) => {
                Address::Sentinels(group.ports().iter().map(|p| format!("redis://127.0.0.1:{p}")).collect())
            }
        };
        Connector { primary: self.primary_opts(), replica: self.replica_opts(), redis }
    }

    /// Where the daemon finds Redis: the value of `redis.main`. To be `kept`: without a password.
    pub(super) fn redis_config(&self, kept: bool) -> String {
        match &self.cache {
            Cache::One(redis) => format!("{{ url: \"{}/0\" }}", redis.url()),
            Cache::Given(url) => given_redis(url, kept),
            Cache::Sentinels(group) => {
                let nodes: Vec<String> = group.ports().iter().map(|p| format!("\"127.0.0.1:{p}\"")).collect();
                format!("{{ mode: sentinel, master: {MASTER}, nodes: [{}] }}", nodes.join(", "))
            }
        }
    }

    /// A connection of the lab's own to the Redis that is the master now.
    pub(super) async fn raw(&self) -> Result<MultiplexedConnection, LiveError> {
        let url = match &self.cache {
            Cache::One(redis) => redis.url(),
            Cache::Given(url) => url.clone(),
            Cache::Sentinels(group) => block_in_place(|| {
                let master = group.master().and_then(|place| group.servers.get(place));
                master
                    .map(|server| server.url())
                    .ok_or_else(|| Error::server("asking the sentinels", "no master"))
            })?,
        };
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(10)))
            .set_connection_timeout(Some(Duration::from_secs(5)));
        let client = redis::Client::open(url).map_err(Error::redis("the address of Redis"))?;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(Error::redis("connecting to Redis"))
    }

    /// The server itself, where there is one and it is the lab's own.
    pub(super) fn redis_server(&self) -> Option<&Redis> {
        match &self.cache {
            Cache::One(redis) => Some(redis),
            _ => None,
        }
    }

    pub(super) fn sentinels(&self) -> Option<&Sentinels> {
        match &self.cache {
            Cache::Sentinels(group) => Some(group),
            _ => None,
        }
    }

    /// The newest end of the binlog.
    pub(super) async fn newest(&self) -> Result<(String, u64), LiveError> {
        let asking = "asking for the end of the binlog";
        let row: Option<Row> =
            self.admin.first(self.flavor.newest()).await.map_err(Error::database(asking))?;
        let read = row.and_then(|row| Some((row.get::<String, _>(0)?, row.get::<u64, _>(1)?)));
        read.ok_or_else(|| Error::server(asking, "the server has no binlog"))
    }

    /// Returns when the replica has all that the primary has now.
    pub(super) async fn replica_caught_up(&self) -> Result<(), LiveError> {
        let Some(replica) = &self.replica_admin else { return Ok(()) };
        let asking = || Error::database("asking for GTIDs");
        let (goal, reached) = match self.flavor {
            Flavor::MariaDb => ("SELECT @@gtid_binlog_pos", "SELECT MASTER_GTID_WAIT('{}', 0) = 0"),
            Flavor::MySql => ("SELECT @@gtid_executed", "SELECT GTID_SUBSET('{}', @@gtid_executed)"),
        };
        let goal: Option<String> = self.admin.first(goal).await.map_err(asking())?;
        let goal: String = goal.unwrap_or_default().split_whitespace().collect();
        let reached = reached.replace("{}", &goal);
        let begun = Instant::now();
        loop {
            let answer: Option<Option<i64>> = replica.first(&reached).await.map_err(asking())?;
            if answer.flatten() == Some(1) {
                return Ok(());
            }
            if begun.elapsed() > WITHIN {
                let why = format!("it isn't at {goal} after {} s", WITHIN.as_secs());
                return Err(Error::server("waiting for the replica", why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Nothing is left in a Redis of its own.
    pub(super) async fn flush(&self) -> Result<(), LiveError> {
        if !self.is_private() {
            return Ok(());
        }
        let done: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut self.raw().await?).await;
        done.map_err(Error::redis("FLUSHALL"))
    }

    /// Of a Redis that was given: no key is left with `name`, `:` or `-`, and this number in it. Who asks owns the schema of that number.
    pub(super) async fn wipe(&self, name: &str, number: &str) -> Result<(), LiveError> {
        if self.is_private() {
            return Ok(());
        }
        let mut raw = self.raw().await?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("*{name}*")).arg("COUNT").arg(1000);
            let (next, mut keys): (u64, Vec<Vec<u8>>) =
                scan.query_async(&mut raw).await.map_err(Error::redis("SCAN"))?;
            keys.retain(|key| is_numbered(key, name, number));
            if !keys.is_empty() {
                let done: Result<(), _> = redis::cmd("UNLINK").arg(&keys).query_async(&mut raw).await;
                done.map_err(Error::redis("UNLINK"))?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// Whether it is what the run of this number calls its own: not what only begins alike.
fn is_numbered(key: &[u8], name: &str, number: &str) -> bool {
    let of = |behind: &[u8]| match behind.split_first() {
        Some((b':' | b'-', rest)) => {
            let next = rest.strip_prefix(number.as_bytes()).map(|rest| rest.first().copied());
            next.is_some_and(|next| next.is_none_or(|next| next != b'_' && !next.is_ascii_digit()))
        }
        _ => false,
    };
    (0..key.len()).any(|at| key[at..].strip_prefix(name.as_bytes()).is_some_and(of))
}

/// Root without a password, over TCP.
fn local(port: u16) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        .prefer_socket(false)
        .stmt_cache_size(0)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_run_are_its_own() {
        for (key, is) in [
            ("rowbust-lab:1_1:item:7:0", true),
            ("rowbust:frontier:rowbust-lab-1_1", true),
            ("{rowbust-lab:1_1:item:7:0}:lock", true),
            ("rowbust-lab:1_12:item:7:0", false),
            ("rowbust-lab:2_1:item:7:0", false),
            ("rowbust-lab:11_1:item:7:0", false),
            ("rowbust-lab:own", false),
            ("rowbust-laboratory:1_1", false),
            ("rowbust-lab", false),
        ] {
            assert_eq!(is_numbered(key.as_bytes(), "rowbust-lab", "1_1"), is, "{key}");
        }
    }
}
