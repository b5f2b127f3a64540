//! A database of either flavor, and a sink that writes down what it is handed.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub, unused_macros)]

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use rowbust::{
    config::{self, Config, Password, Start, Tls, TlsMode},
    source::{
        Preflight, Prepared, Refusal, Resume, Scope, Sink, Source, SourceError, SourceStats, Transaction,
        position::{Anchor, Coordinates, Position},
    },
};
use rowbust_binlog::{Gtid, RowKind, Rows, TableMap, XidBuf};
use rowbust_servers::{MariaDb, MySql, Need, StartOptions, require};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// One test per flavor.
macro_rules! both {
    ($($name:ident: $args:expr;)*) => {
        mod mariadb { $(#[tokio::test] async fn $name() {
            if let Some(db) = super::Db::start(super::Need::MariaDb, &$args) { super::$name(db).await; }
        })* }
        mod mysql { $(#[tokio::test] async fn $name() {
            if let Some(db) = super::Db::start(super::Need::MySql, &$args) { super::$name(db).await; }
        })* }
    };
}

pub const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.products (id INT PRIMARY KEY, name VARCHAR(50))",
    "CREATE TABLE shop.customers (id INT PRIMARY KEY, name VARCHAR(50))",
    "CREATE DATABASE other",
    "CREATE TABLE other.t (id INT PRIMARY KEY)",
];

pub fn rows(list: &[(&str, RowKind)]) -> Vec<(String, RowKind)> {
    list.iter().map(|(t, k)| ((*t).to_owned(), *k)).collect()
}

/// MariaDB or MySQL, with its folder.
pub struct Db {
    server: Server,
    _dir: TempDir,
}

enum Server {
    Maria(MariaDb),
    MySql(MySql),
}

macro_rules! each {
    ($self:ident, $s:ident => $e:expr) => {
        match &$self.server {
            Server::Maria($s) => $e,
            Server::MySql($s) => $e,
        }
    };
}

impl Db {
    pub fn start(need: Need, args: &[&str]) -> Option<Self> {
        require(&[need])?;
        let dir = TempDir::new().unwrap();
        let mut options = StartOptions::new(dir.path());
        for arg in args {
            options = options.arg(*arg);
        }
        let server = match need {
            Need::MariaDb => Server::Maria(MariaDb::start(options).unwrap()),
            Need::MariaDb118 => Server::Maria(MariaDb::start_11_8(options).unwrap()),
            _ => Server::MySql(MySql::start(options).unwrap()),
        };
        Some(Self { server, _dir: dir })
    }

    pub fn is_mysql(&self) -> bool {
        matches!(self.server, Server::MySql(_))
    }

    pub fn port(&self) -> u16 {
        each!(self, s => s.port())
    }

    pub fn data_dir(&self) -> PathBuf {
        each!(self, s => s.data_dir())
    }

    pub fn restart(&self) {
        each!(self, s => s.restart()).unwrap();
    }

    pub fn freeze(&self) {
        each!(self, s => s.freeze()).unwrap();
    }

    pub fn thaw(&self) {
        each!(self, s => s.thaw()).unwrap();
    }

    pub async fn conn(&self) -> Conn {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port())
            .user(Some("root"))
            .prefer_socket(false);
        Conn::new(opts).await.unwrap()
    }

    /// Runs statements, one connection for all.
    pub async fn run(&self, statements: &[&str]) {
        let mut conn = self.conn().await;
        for statement in statements {
            conn.query_drop(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
            if *statement == "FLUSH BINARY LOGS" && !self.is_mysql() {
                self.rotated(&mut conn).await;
            }
        }
        conn.disconnect().await.unwrap();
    }

    /// MariaDB's binlog thread writes a checkpoint into the new file at a moment of its own: later it would be the newest event.
    async fn rotated(&self, conn: &mut Conn) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (file, _) = self.newest().await;
        loop {
            let events: Vec<mysql_async::Row> =
                conn.query(format!("SHOW BINLOG EVENTS IN '{file}'")).await.unwrap();
            let text = |row: &mysql_async::Row, at| row.get::<String, _>(at).unwrap();
            if events.iter().any(|row| text(row, 2) == "Binlog_checkpoint" && text(row, 5) == file) {
                return;
            }
            assert!(Instant::now() < deadline, "no checkpoint in {file}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn value(&self, query: &str) -> String {
        let mut conn = self.conn().await;
        conn.query_first::<String, _>(query).await.unwrap().unwrap()
    }

    /// The state that a follower must have reached after everything was read.
    pub async fn gtids(&self) -> String {
        let variable = if self.is_mysql() { "gtid_executed" } else { "gtid_binlog_pos" };
        self.value(&format!("SELECT @@global.{variable}")).await.replace('\n', "")
    }

    /// The newest file and position.
    pub async fn newest(&self) -> (String, u64) {
        let statement = if self.is_mysql() { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
        let row: mysql_async::Row = self.conn().await.query_first(statement).await.unwrap().unwrap();
        (row.get(0).unwrap(), row.get(1).unwrap())
    }

    pub fn config(&self) -> Config {
        config(self.port())
    }
}

pub fn config(port: u16) -> Config {
    Config {
        source: config::Source {
            host: "127.0.0.1".into(),
            port,
            user: "root".into(),
            password: Password::Empty,
            replicas: Vec::new(),
            replica_timeout: None,
            name: "main".into(),
            tls: Tls::new(TlsMode::Disabled),
            server_id: Some(7001),
            start: Start::Latest,
            heartbeat: None,
            policies: config::Policies::default(),
            driver: config::Driver::Native,
        },
        redis: Vec::new(),
        retry: config::Retry::Disk { path: PathBuf::new(), policy: config::RetryPolicy::default() },
        checkpoint: config::Checkpoint::file(PathBuf::new()),
        admin: config::Admin { listen: ([127, 0, 0, 1], 0).into(), token: Password::Empty },
        limits: config::Limits {
            memory: 48 << 20,
            keys_per_second: 0,
            flush_keys_per_second: 20_000,
            sweep_keys_per_second: 50_000,
        },
        mappings: Vec::new(),
        fingerprint: 42,
    }
}

/// A transaction as the sink saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub gtid: Option<Gtid>,
    pub at: Coordinates,
    pub end: Coordinates,
    /// Table and kind of each row event.
    pub rows: Vec<(String, RowKind)>,
}

#[derive(Debug, Default)]
pub struct Log {
    pub started: Vec<Position>,
    pub seen: Vec<Seen>,
    pub abandoned: usize,
    pub flushes: usize,
    /// How many of `seen` were there at the last flush.
    pub flushed: usize,
    /// Column names by table, as last given.
    pub columns: HashMap<String, Vec<String>>,
    /// Scopes that were widened, and why.
    pub widened: Vec<(Scope, String)>,
    /// Where reading went on elsewhere.
    pub moved: Vec<Position>,
    /// The last event of the newest transaction.
    pub anchor: Option<Anchor>,
    /// XIDs.
    pub prepared: Vec<Vec<u8>>,
    open: Option<Seen>,
}

/// Writes down what it is handed. Tables of the schema `shop` are mapped.
#[derive(Debug, Clone, Default)]
pub struct Recorder(pub Arc<Mutex<Log>>);

impl Sink for Recorder {
    type Error = Infallible;

    fn started(&mut self, position: &Position) {
        self.0.lock().unwrap().started.push(position.clone());
    }

    fn begin(&mut self, t: Transaction<'_>) {
        let mut log = self.0.lock().unwrap();
        assert!(log.open.is_none(), "begin in {:?}", log.open);
        log.open = Some(Seen { gtid: t.gtid, at: t.at.clone(), end: t.at.clone(), rows: Vec::new() });
    }

    fn is_mapped(&self, schema: &str, _table: &str) -> bool {
        self.is_schema_mapped(schema)
    }

    fn is_schema_mapped(&self, schema: &str) -> bool {
        schema == "shop"
    }

    fn table(&mut self, _slot: usize, table: &TableMap) -> Result<(), Refusal> {
        let names = table.columns.iter().map(|c| c.name.clone().unwrap_or_default()).collect();
        self.0.lock().unwrap().columns.insert(table.table.clone(), names);
        Ok(())
    }

    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, end: u64) -> Result<(), Refusal> {
        let mut log = self.0.lock().unwrap();
        let open = log.open.as_mut().unwrap();
        assert!(end > open.at.position);
        open.rows.push((table.table.clone(), rows.kind));
        Ok(())
    }

    fn widen(&mut self, scope: &Scope, cause: &str) -> Result<(), Refusal> {
        self.0.lock().unwrap().widened.push((scope.clone(), cause.to_owned()));
        Ok(())
    }

    fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>) {
        let mut log = self.0.lock().unwrap();
        let mut seen = log.open.take().unwrap();
        assert!(end.file == seen.at.file && end.position >= seen.at.position, "{end} after {}", seen.at);
        seen.end = end.clone();
        log.anchor = anchor;
        log.seen.push(seen);
    }

    fn xa_started(&mut self) {}

    fn xa_prepared(&mut self, xid: &XidBuf) {
        self.0.lock().unwrap().prepared.push(xid.key());
    }

    fn xa_finished(&mut self, xid: &XidBuf, _: bool) -> Prepared {
        let mut log = self.0.lock().unwrap();
        let before = log.prepared.len();
        log.prepared.retain(|known| *known != xid.key());
        if log.prepared.len() < before { Prepared::Known } else { Prepared::Unknown }
    }

    fn xa_count(&self) -> u64 {
        self.0.lock().unwrap().prepared.len() as u64
    }

    fn moved(&mut self, position: &Position, _: &str) {
        self.0.lock().unwrap().moved.push(position.clone());
    }

    fn gap(&mut self, position: &Position, _: &str, cause: &str) -> Result<(), Refusal> {
        let mut log = self.0.lock().unwrap();
        log.moved.push(position.clone());
        log.widened.push((Scope::All, cause.to_owned()));
        Ok(())
    }

    fn abandon(&mut self) {
        let mut log = self.0.lock().unwrap();
        assert!(log.open.take().is_some());
        log.abandoned += 1;
    }

    fn wants_flush(&self) -> bool {
        false
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        let mut log = self.0.lock().unwrap();
        log.flushes += 1;
        log.flushed = log.seen.len();
        Ok(())
    }
}

/// A follower that runs in the background.
pub struct Follow {
    pub log: Arc<Mutex<Log>>,
    pub stats: Arc<SourceStats>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), SourceError>>,
}

impl Follow {
    pub fn start(config: Config, resume: Option<Resume>) -> Self {
        let source = Source::new(Arc::new(config));
        let stats = source.stats();
        let stop = CancellationToken::new();
        let recorder = Recorder::default();
        let log = recorder.0.clone();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            let mut recorder = recorder;
            source.run(resume, &mut recorder, &token, |_: &Preflight| {}).await
        });
        Self { log, stats, stop, task }
    }

    /// Starts one and waits until its stream is open.
    pub async fn ready(config: Config) -> Self {
        let follow = Self::start(config, None);
        until("the stream is open", || !follow.log.lock().unwrap().started.is_empty()).await;
        follow
    }

    /// Starts one and waits until its stream is open, or for why it isn't.
    pub async fn try_ready(config: Config) -> Result<Self, SourceError> {
        let follow = Self::start(config, None);
        until("the stream is open", || {
            follow.task.is_finished() || !follow.log.lock().unwrap().started.is_empty()
        })
        .await;
        if follow.task.is_finished() { Err(follow.ended().await) } else { Ok(follow) }
    }

    /// Whether it ended by itself.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it; what it ended with.
    pub async fn stop(self) -> Result<(), SourceError> {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    /// Waits for its own end.
    pub async fn ended(self) -> SourceError {
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it ends").unwrap().unwrap_err()
    }

    /// All row events so far, in order.
    pub fn rows(&self) -> Vec<(String, RowKind)> {
        self.log.lock().unwrap().seen.iter().flat_map(|s| s.rows.clone()).collect()
    }

    /// Everything done so far in GTIDs.
    pub fn gtids(&self) -> String {
        let log = self.log.lock().unwrap();
        let mut state = log.started[0].gtids.clone();
        for seen in &log.seen {
            if let Some(gtid) = seen.gtid {
                state.add(gtid);
            }
        }
        state.to_string()
    }

    /// Waits until it has read all that the server has.
    pub async fn caught_up(&self, db: &Db) {
        let gtids = db.gtids().await;
        until("caught up", || self.gtids() == gtids).await;
    }

    /// The GTIDs that it started with, at the place that it has come to.
    pub fn started_at_last_end(&self) -> Position {
        let at = self.last_end();
        Position { gtids: self.log.lock().unwrap().started[0].gtids.clone(), at }
    }

    pub fn last_end(&self) -> Coordinates {
        self.log.lock().unwrap().seen.last().unwrap().end.clone()
    }
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
