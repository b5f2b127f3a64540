//! The sections of a [`Config`](super::Config) but `mappings`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::mask;

/// `source:`
#[derive(Debug, Clone)]
pub struct Source {
    /// Host name or address.
    pub host: String,
    /// TCP port. Default 3306.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password, from `password` or `password_file` (read again at each reconnect).
    pub password: Password,
    /// Servers that fills read from; empty: only the primary.
    pub replicas: Vec<(String, u16)>,
    /// How long a replica may hold up removals before it leaves the pool. `None` (default): it never does.
    pub replica_timeout: Option<Duration>,
    /// The name under which clients find the pool and the frontier in Redis. Default: `main`.
    pub name: String,
    /// TLS to the server. Default: verify_identity; `disabled` on a loopback address when nothing is said.
    pub tls: Tls,
    /// The replica's server id. `None`: derived from the fingerprint.
    pub server_id: Option<u32>,
    /// Where to begin when there is no checkpoint.
    pub start: Start,
    /// `schema.table` of the heartbeat row, for the visibility barrier.
    pub heartbeat: Option<(String, String)>,
    /// What isn't exact in the binlog itself.
    pub policies: Policies,
    /// What reads and decodes the binlog.
    pub driver: Driver,
}

/// `source.driver`: what reads and decodes the binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// Rowbust itself (default).
    #[default]
    Native,
    /// The crate mysql_cdc; only in a build with the feature `mysql-cdc`.
    MysqlCdc,
}

/// `source.on_…`: what to do where the binlog doesn't tell which keys a change makes wrong. Default: halt everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policies {
    /// The binlog behind the checkpoint is gone, or is another one.
    pub on_gap: Policy,
    /// An event that may carry rows and can't be decoded, an incident, an XA COMMIT without its PREPARE, a row without its key.
    pub on_undecodable: Policy,
    /// A change that was logged as a statement.
    pub on_statement: Policy,
    /// `source.lossless`: no commit that readers saw is ever lost by a failover or a crash. Default: false.
    pub lossless: bool,
}

/// What is done where the keys that a change makes wrong aren't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The daemon stops and names the place (default).
    #[default]
    Halt,
    /// Every key that the mappings could make of the tables in question is removed.
    Flush,
}

impl Policy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Flush => "flush",
        }
    }
}

/// A secret, or the file that holds it.
#[derive(Debug, Clone)]
pub enum Password {
    /// No password.
    Empty,
    /// Given by value (from the environment).
    Value(SecretString),
    /// A file; its last line break is cut off.
    File(PathBuf),
}

/// TLS mode with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// How much is verified.
    pub mode: TlsMode,
    /// PEM file of the certificate authority; `None`: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// The daemon's own certificate, where the server asks for one.
    pub client: Option<ClientCertificate>,
}

impl Tls {
    /// A mode without files.
    pub fn new(mode: TlsMode) -> Self {
        Self { mode, ca_file: None, client: None }
    }
}

/// A certificate that the daemon shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file of the certificate, and of those between it and its authority.
    pub cert_file: PathBuf,
    /// PEM file of its private key, which has no password.
    pub key_file: PathBuf,
}

/// The modes of the field; there is no "preferred".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain TCP.
    Disabled,
    /// Encrypted, nothing verified.
    Required,
    /// The certificate's chain is verified, its name is not.
    VerifyCa,
    /// Chain and host name are verified.
    VerifyIdentity,
}

/// `source.start`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The newest position (default).
    Latest,
    /// The oldest that the server still has.
    Earliest,
    /// A GTID set (MySQL) or GTID position (MariaDB): the stream begins behind it. Its flavor is checked on connect.
    Gtid(String),
    /// A binlog file and a byte position in it.
    Position {
        /// File name as in `SHOW BINARY LOGS`.
        file: String,
        /// Byte offset, at least 4.
        position: u64,
    },
}

/// One Redis target.
#[derive(Debug, Clone)]
pub struct RedisTarget {
    /// Name that `to:` refers to.
    pub name: String,
    /// What it consists of, and where.
    pub mode: RedisMode,
    /// Database number. Default 0.
    pub db: i64,
    /// ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Password,
    /// TLS to the Redis servers; `None`: plain TCP.
    pub tls: Option<Tls>,
    /// Whether replicas must have a removal. `None`: the master's word is enough.
    pub durability: Option<Durability>,
}

impl RedisTarget {
    /// The addresses that the config names: of the server, of nodes of the cluster, of the sentinels.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        match &self.mode {
            RedisMode::Standalone { host, port } => vec![(host.clone(), *port)],
            RedisMode::Cluster { nodes } | RedisMode::Sentinel { nodes, .. } => nodes.clone(),
        }
    }
}

/// `redis.NAME.mode`: what a target consists of.
#[derive(Debug, Clone)]
pub enum RedisMode {
    /// One server, or a proxy that acts as one.
    Standalone {
        /// Host name or address.
        host: String,
        /// TCP port. Default 6379.
        port: u16,
    },
    /// A Redis cluster.
    Cluster {
        /// Some of its nodes, at least one. Default port 6379.
        nodes: Vec<(String, u16)>,
    },
    /// A master that sentinels watch.
    Sentinel {
        /// Its name there.
        master: String,
        /// The sentinels, at least one. Default port 26379.
        nodes: Vec<(String, u16)>,
        /// ACL user at the sentinels.
        username: Option<String>,
        /// Password at the sentinels.
        password: Password,
        /// TLS to the sentinels; `None`: plain TCP.
        tls: Option<Tls>,
    },
}

/// `redis.NAME.durability`: `WAIT` behind the removals (<https://redis.io/docs/latest/commands/wait/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// How many replicas must acknowledge, at least 1; of a cluster, of each master.
    pub replicas: u64,
    /// How long to wait for them. Default 1 s.
    pub timeout: Duration,
}

/// `retry:`
#[derive(Debug, Clone)]
pub enum Retry {
    /// The local store, default without Kafka.
    Disk {
        /// Folder of the store. Default: `retry` beside the checkpoint.
        path: PathBuf,
        /// Tiers and attempts.
        policy: RetryPolicy,
    },
    /// Kafka topics.
    Kafka {
        /// `host:port` of the brokers.
        brokers: Vec<String>,
        /// Prefix of the topics' names.
        prefix: String,
        /// More librdkafka properties.
        properties: Properties,
        /// Tiers and attempts.
        policy: RetryPolicy,
    },
}

/// librdkafka properties by name. Values that look like secrets are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Names and values, secrets included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names and values as they may be shown: `****` for what looks like a secret.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().map(|(name, value)| (name, if mask::is_secret_field(name) { "****" } else { value }))
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl From<Vec<(String, String)>> for Properties {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }
}

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

/// Delay and number of attempts of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// Time before each attempt.
    pub delay: Duration,
    /// Attempts before the next tier, or the dead letter.
    pub attempts: u32,
}

/// The attempts before a removal becomes a dead letter. Default: 5, 10 s apart, then 12, 5 min apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first attempts.
    pub first: Tier,
    /// Those after them.
    pub second: Option<Tier>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let second = Tier { delay: Duration::from_secs(5 * 60), attempts: 12 };
        Self { first: Tier { delay: Duration::from_secs(10), attempts: 5 }, second: Some(second) }
    }
}

impl RetryPolicy {
    /// One tier alone.
    pub const fn one(delay: Duration, attempts: u32) -> Self {
        Self { first: Tier { delay, attempts }, second: None }
    }

    /// All tiers, in order.
    pub fn tiers(&self) -> impl Iterator<Item = Tier> {
        std::iter::once(self.first).chain(self.second)
    }

    /// Attempts before the dead letter.
    pub fn attempts(&self) -> u32 {
        self.tiers().fold(0, |sum, tier| sum.saturating_add(tier.attempts))
    }

    /// Whether a record that has used up `attempt` attempts stands in the second tier.
    pub fn is_second(&self, attempt: u32) -> bool {
        self.second.is_some() && attempt >= self.first.attempts
    }

    /// The tier of a record that has used up `attempt` attempts.
    pub fn tier(&self, attempt: u32) -> Tier {
        self.second.filter(|_| self.is_second(attempt)).unwrap_or(self.first)
    }
}

/// `checkpoint:`
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The file; two generations and a temporary file stand beside it. Not used with a shared one, but for the default place of
    /// the retry queue.
    pub path: PathBuf,
    /// Kept where daemons of other hosts see it, instead of the file.
    pub shared: Option<Shared>,
}

impl Checkpoint {
    /// A file of this host.
    pub fn file(path: PathBuf) -> Self {
        Self { path, shared: None }
    }
}

/// A checkpoint that several daemons share, of which one is active.
#[derive(Clone)]
pub enum Shared {
    /// A key of a target.
    Redis {
        /// Index into [`Config::redis`](super::Config::redis).
        target: usize,
        /// Of the deployment. Default: `HOST:PORT` of the source.
        name: String,
    },
    /// A compacted topic, `PREFIX.checkpoint`.
    Kafka {
        /// `host:port` of the brokers.
        brokers: Vec<String>,
        /// Prefix of the topic's name.
        prefix: String,
        /// More librdkafka properties.
        properties: Properties,
        /// Of the deployment. Default: `HOST:PORT` of the source.
        name: String,
    },
}

impl Shared {
    /// The key of a checkpoint in Redis.
    pub fn redis_key(name: &str) -> String {
        format!("rowbust:checkpoint:{name}")
    }
}

/// Properties may hold a password.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redis { target, name } => {
                f.debug_struct("Redis").field("target", target).field("name", name).finish()
            }
            Self::Kafka { brokers, prefix, name, .. } => f
                .debug_struct("Kafka")
                .field("brokers", brokers)
                .field("prefix", prefix)
                .field("name", name)
                .finish_non_exhaustive(),
        }
    }
}

/// `admin:`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address to listen at. Default 127.0.0.1:8321.
    pub listen: SocketAddr,
    /// What changes anything needs it, from `token` or `token_file` (read at each such request). Without one that is possible on a
    /// loopback address alone.
    pub token: Password,
}

/// Characters of an admin token, at least: a shorter one can be guessed.
pub const MIN_TOKEN: usize = 16;

/// `limits:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that keys in flight may take. Default 48 MiB for the whole process' queues.
    pub memory: u64,
    /// Removals a second of transactions with more than [`crate::pipeline::BULK_KEYS`] keys, per target; 0 (default): they are
    /// removed as all others are.
    pub keys_per_second: u64,
    /// Removals a second of a flush, per target; a key that is only looked at counts as a tenth. 0: unlimited. Default 20000.
    pub flush_keys_per_second: u64,
    /// Removals a second of `prefix` and `members_of`, per target; a key that is only looked at counts as a tenth. 0: unlimited.
    /// Default 50000.
    pub sweep_keys_per_second: u64,
}
