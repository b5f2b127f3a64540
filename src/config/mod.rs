//! The validated configuration: what the rest of the daemon works with.
//!
//! Guarantees: a [`Config`] can't hold nonsense. It is made only by [`load`] and [`parse`], which report every
//! mistake in one run with file, line, column, code, source line and help. Secrets are [`secrecy`] values and are
//! never printed. May depend on `rowbust-protocol` (templates) and nothing else of ours.

mod codes;
mod connections;
mod diag;
mod fields;
mod keys;
mod mappings;
mod mask;
mod node;
mod redis;
mod schema;
mod show;
mod storage;
mod units;
mod url;
mod walk;

use std::{
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use globset::GlobMatcher;
use rowbust_protocol::template::Template;
use secrecy::SecretString;

pub(crate) use self::units::{show_duration, show_size};
pub use self::{
    codes::Code,
    diag::{Diagnostic, Report, Style},
    fields::{SECTIONS, codes_markdown, fields_markdown},
    schema::schema,
    show::Shown,
    storage::RESERVED_PROPERTIES,
    walk::Env,
};
use self::{
    node::{Node, Value},
    walk::Walk,
};
pub(crate) use self::{url::is_loopback, walk::nearest};

/// Everything that `rowbust.yaml` says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server whose binlog is followed.
    pub source: Source,
    /// Redis targets by name, in the order of the file. At least one.
    pub redis: Vec<RedisTarget>,
    /// Where failed removals are kept.
    pub retry: Retry,
    /// Where the position to resume from is kept.
    pub checkpoint: Checkpoint,
    /// The admin HTTP server.
    pub admin: Admin,
    /// Bounds.
    pub limits: Limits,
    /// Tables to keys, in the order of the file. At least one.
    pub mappings: Vec<Mapping>,
    /// Stable fingerprint of host name and config path: the default `server_id` is derived from it.
    pub fingerprint: u64,
}

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

/// `on_ddl:` of a mapping
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDdl {
    /// TRUNCATE, and what moves rows in or out by partition or tablespace. Default: flush.
    pub truncate: DdlPolicy,
    /// DROP of the table, its schema, or a partition. Default: flush.
    pub drop: DdlPolicy,
    /// RENAME that takes the table away or puts another in its place. Default: keep.
    pub rename: DdlPolicy,
}

impl Default for OnDdl {
    fn default() -> Self {
        Self { truncate: DdlPolicy::Flush, drop: DdlPolicy::Flush, rename: DdlPolicy::Keep }
    }
}

impl OnDdl {
    /// Whether anything is flushed.
    pub fn flushes(self) -> bool {
        [self.truncate, self.drop, self.rename].contains(&DdlPolicy::Flush)
    }
}

/// What a definition statement does to the keys of a mapped table. The order is by how much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DdlPolicy {
    /// Nothing.
    Keep,
    /// All keys that the mapping could make are removed.
    Flush,
    /// The daemon stops and names the place.
    Halt,
}

impl DdlPolicy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Flush => "flush",
            Self::Halt => "halt",
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
        /// Index into [`Config::redis`].
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

/// One entry of `mappings:`
#[derive(Debug, Clone)]
pub struct Mapping {
    /// As written: `schema.table`, parts may be globs.
    pub table: String,
    /// Matches the schema's name.
    pub schema_glob: GlobMatcher,
    /// Matches the table's name.
    pub table_glob: GlobMatcher,
    /// Updates that change none of these columns are ignored; `None`: no filter.
    pub when_changed: Option<Vec<String>>,
    /// Only rows whose column has one of these text forms.
    pub when: Option<When>,
    /// What to remove. At least one.
    pub keys: Vec<KeyRule>,
    /// When the second removal runs.
    pub second_removal: SecondRemoval,
    /// How much longer than visibility the second removal of a plain key waits. Default 1 s; 0 where `guarded`.
    pub fill_grace: Duration,
    /// The keys are filled under leases, which the second removal revokes. Default: false.
    pub guarded: bool,
    /// As [`Limits::keys_per_second`], for this mapping alone; 0 (default): that of the target only. Paces what its `prefix` and
    /// `members_of` remove, too.
    pub keys_per_second: u64,
    /// What TRUNCATE, DROP and RENAME do.
    pub on_ddl: OnDdl,
    /// What to do when the table lacks a column that the mapping names, or its columns' names aren't known.
    pub on_schema: Policy,
    /// Index into [`Config::redis`].
    pub target: usize,
    /// Where it stands in the file, for messages: line of `table:`.
    pub line: usize,
}

/// `when:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// The column.
    pub column: String,
    /// Text forms that match.
    pub any_of: Vec<String>,
    /// Which image is looked at.
    pub image: Image,
}

/// Which row image a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The row before the change.
    Before,
    /// The row after the change.
    After,
    /// Either of them (default).
    Any,
}

/// One entry of `keys:`
#[derive(Debug, Clone)]
pub struct KeyRule {
    /// The key's template.
    pub key: Template,
    /// What is done to it.
    pub op: KeyOp,
    /// Which kinds of change. Default: all.
    pub events: Events,
    /// Where it stands in the file, for messages.
    pub line: usize,
}

/// What is done to a key.
#[derive(Debug, Clone)]
pub enum KeyOp {
    /// `UNLINK key`
    Unlink,
    /// `HDEL key field`
    Hdel {
        /// The field's template.
        field: Template,
    },
    /// `UNLINK` of every key that begins with what the template makes. The template begins with a text of its own.
    Prefix {
        /// More keys than this under one prefix are told about; all are removed. Default [`ALARM_ABOVE`].
        alarm_above: u64,
    },
    /// `UNLINK` of every member of a set of keys, and `SREM` of these from the set.
    MembersOf {
        /// Members that begin with none of these stay as they are; empty (default): all are removed.
        members_prefix: Vec<String>,
    },
}

/// The default of `alarm_above`.
pub const ALARM_ABOVE: u64 = 10_000;

/// `events:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// INSERT
    pub insert: bool,
    /// UPDATE
    pub update: bool,
    /// DELETE
    pub delete: bool,
}

impl Events {
    /// Every kind of change.
    pub const ALL: Self = Self { insert: true, update: true, delete: true };
}

/// `second_removal:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondRemoval {
    /// Once the commit is visible at every read source, and the fill grace has passed (default).
    WhenVisible,
    /// A fixed time after the first.
    After(Duration),
    /// None.
    Never,
}

/// Largest config file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads and validates a config file; `${NAME}` comes from the process' environment.
///
/// # Errors
/// Every mistake of the file, or that it can't be read.
pub fn load(file: &Path) -> Result<Config, Report> {
    let fail = |e: std::io::Error| {
        let help = "name the file with -c/--config; the default is ./rowbust.yaml";
        Report::of_file(file, format!("can't read the config file: {e}"), help)
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(fail)?;
    opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Report::of_file(file, "the config file is larger than 1 MiB".into(), "split it up"));
    }
    parse(&text, file, &|name| std::env::var(name).ok())
}

/// Validates the text of a config file. `file` gives messages their name, relative paths their folder, and the
/// fingerprint; it is not opened.
///
/// # Errors
/// Every mistake of the text.
pub fn parse(text: &str, file: &Path, env: &Env<'_>) -> Result<Config, Report> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
    let root = match node::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => Node { span: 0..0, value: Value::Map(Vec::new()) },
        Err(e) => return Err(Report::new(file, text, vec![diag::of_yaml(&e, text)], &mask::guess(text))),
    };
    let mut secrets = Vec::new();
    root.secrets(text, &mut secrets);
    let mut walk = Walk { text, env, base, mistakes: Vec::new(), secrets };
    let config = walk.root(&root, fingerprint(&absolute));
    match config {
        Some(config) if walk.mistakes.is_empty() => Ok(config),
        _ => Err(Report::new(file, text, walk.mistakes, &walk.secrets)),
    }
}

impl Walk<'_> {
    fn root(&mut self, node: &Node, fingerprint: u64) -> Option<Config> {
        let object = self.object(node, 0..0, &fields::ROOT)?;
        let at = |name: &str| object.get(name).map(|node| (node, object.key_span(name)));
        if let Some(node) = object.get("version") {
            self.version(node);
        }
        let source = at("source").and_then(|(node, span)| self.source(node, span));
        let redis = at("redis").and_then(|(node, span)| self.redis(node, span));
        let checkpoint = self.checkpoint(at("checkpoint"), source.as_ref(), redis.as_deref());
        let retry = self.retry(at("retry"), checkpoint.as_ref());
        let admin = self.admin(at("admin"));
        let limits = self.limits(at("limits"));
        let policies = source.as_ref().map(|source| source.policies).unwrap_or_default();
        let mappings =
            object.get("mappings").and_then(|node| self.mappings(node, redis.as_deref(), policies));
        if let (Some(checkpoint), Some(mappings)) = (&checkpoint, &mappings) {
            self.checkpoint_apart(checkpoint, at("checkpoint"), mappings);
        }
        Some(Config {
            source: source?,
            redis: redis?,
            retry: retry?,
            checkpoint: checkpoint?,
            admin: admin?,
            limits: limits?,
            mappings: mappings?,
            fingerprint,
        })
    }
}

/// A duration as it is written in the config, such as `2h`.
///
/// # Errors
/// What is wrong with it, and what to write.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|(why, help)| format!("{why}: {help}"))
}

/// FNV-1a over host name and config path: stable across restarts and versions, and different for two configs on one
/// host.
fn fingerprint(file: &Path) -> u64 {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let bytes = host.as_encoded_bytes().iter().chain(&[0]).chain(file.as_os_str().as_encoded_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
