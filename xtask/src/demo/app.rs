//! The application: plain cache-aside, in a process of its own so that it can be killed.
//!
//! Reads: GET; on a miss SELECT, then SET with a TTL of an hour. Writes: UPDATE, commit, then DEL. While Redis can't
//! be reached, reads are served by the database, and a DEL that fails is counted and forgotten: what most applications
//! do. Nothing waits or sleeps here to make stale values likelier.
//!
//! It writes a journal, one `write(2)` per line, so that a kill -9 loses at most the line that was not written yet; and
//! running totals to stdout. It ends when its stdin is closed, so it can't outlive the demo.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::popular::Popular;
use super::shop::{Key, Row, Size, Table, cached_form};

/// Longer than any run: expiry must not hide a stale value.
const TTL_SECONDS: u64 = 3600;
/// How often totals are printed.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// The application of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    mysql: String,
    #[arg(long)]
    redis: String,
    /// Of the random choices.
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    products: u32,
    #[arg(long)]
    customers: u32,
    /// Operations per second.
    #[arg(long)]
    rate: u32,
    /// Connections to each server.
    #[arg(long)]
    connections: u32,
    #[arg(long)]
    journal: PathBuf,
}

/// What the application did since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) reads: u64,
    pub(crate) hits: u64,
    pub(crate) fills: u64,
    pub(crate) writes: u64,
    /// DELs that failed.
    pub(crate) dels_failed: u64,
}

impl Totals {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            hits: self.hits + other.hits,
            fills: self.fills + other.fills,
            writes: self.writes + other.writes,
            dels_failed: self.dels_failed + other.dels_failed,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    hits: AtomicU64,
    fills: AtomicU64,
    writes: AtomicU64,
    dels_failed: AtomicU64,
}

impl Counters {
    fn totals(&self) -> Totals {
        Totals {
            reads: self.reads.load(Relaxed),
            hits: self.hits.load(Relaxed),
            fills: self.fills.load(Relaxed),
            writes: self.writes.load(Relaxed),
            dels_failed: self.dels_failed.load(Relaxed),
        }
    }
}

/// What all workers share.
struct App {
    args: Args,
    products: Popular,
    customers: Popular,
    journal: File,
    counters: Counters,
    stop: AtomicBool,
}

/// Runs until stdin is closed.
pub(crate) fn run(args: Args) -> Result<()> {
    let journal = File::options().create(true).append(true).open(&args.journal).context("no journal")?;
    let size = Size { products: args.products, customers: args.customers };
    let app = Arc::new(App {
        products: Popular::new(size.of(Table::Products)),
        customers: Popular::new(size.of(Table::Customers)),
        args,
        journal,
        counters: Counters::default(),
        stop: AtomicBool::new(false),
    });
    let watched = Arc::clone(&app);
    std::thread::spawn(move || {
        _ = std::io::stdin().read_to_end(&mut Vec::new());
        watched.stop.store(true, Relaxed);
    });
    tokio::runtime::Runtime::new()?.block_on(serve(app))
}

async fn serve(app: Arc<App>) -> Result<()> {
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..app.args.connections {
        workers.spawn(Worker::run(Arc::clone(&app), number));
    }
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => print(app.counters.totals())?,
            ended = workers.join_next() => match ended {
                Some(result) => result??,
                None => return print(app.counters.totals()),
            },
        }
    }
}

fn print(totals: Totals) -> Result<()> {
    let mut line = serde_json::to_vec(&totals)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

struct Worker {
    app: Arc<App>,
    rng: StdRng,
    db: Conn,
    cache: Cache,
}

impl Worker {
    async fn run(app: Arc<App>, number: u32) -> Result<()> {
        let rng = StdRng::seed_from_u64(app.args.seed.wrapping_mul(1000).wrapping_add(u64::from(number)));
        let db = Conn::from_url(&app.args.mysql).await.context("no connection to the database")?;
        let cache = Cache { client: redis::Client::open(app.args.redis.as_str())?, connection: None };
        let mut worker = Self { app: Arc::clone(&app), rng, db, cache };
        let period = Duration::from_secs(1) * app.args.connections / app.args.rate.max(1);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !app.stop.load(Relaxed) {
            ticks.tick().await;
            worker.operate().await?;
        }
        worker.db.disconnect().await?;
        Ok(())
    }

    /// One operation in ten is a write, one in ten is about a customer.
    async fn operate(&mut self) -> Result<()> {
        let write = self.rng.random_range(0..10) == 0;
        let key = if self.rng.random_range(0..10) == 0 {
            Key { table: Table::Customers, id: self.app.customers.id(&mut self.rng) }
        } else {
            Key { table: Table::Products, id: self.app.products.id(&mut self.rng) }
        };
        if write { self.write(key).await } else { self.read(key).await }
    }

    async fn read(&mut self, key: Key) -> Result<()> {
        let counters = &self.app.counters;
        counters.reads.fetch_add(1, Relaxed);
        let name = key.to_string();
        if let Ok(Some(_)) = self.cache.ask::<Option<String>>(redis::cmd("GET").arg(&name)).await {
            counters.hits.fetch_add(1, Relaxed);
            return Ok(());
        }
        let row: Option<Row> = self.db.exec_first(key.table.select(), (key.id,)).await?;
        let value = cached_form(key.table, &row.with_context(|| format!("no row for {key}"))?);
        let mut set = redis::cmd("SET");
        set.arg(&name).arg(value).arg("EX").arg(TTL_SECONDS);
        if self.cache.ask::<()>(&set).await.is_ok() {
            counters.fills.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    async fn write(&mut self, key: Key) -> Result<()> {
        let number = self.rng.random_range(100..100_000_i64);
        let sent = now_micros();
        self.db.exec_drop(key.table.update(), (number, key.id)).await?;
        let returned = now_micros();
        let version = self.db.last_insert_id().context("the UPDATE gave no version")?;
        let counters = &self.app.counters;
        counters.writes.fetch_add(1, Relaxed);
        self.note(&format!("commit {key} {version} {sent} {returned}\n"))?;
        let deleted = self.cache.ask::<()>(redis::cmd("DEL").arg(key.to_string())).await;
        if deleted.is_err() {
            counters.dels_failed.fetch_add(1, Relaxed);
        }
        self.note(&format!("del {key} {version} {}\n", if deleted.is_ok() { "done" } else { "failed" }))
    }

    fn note(&self, line: &str) -> Result<()> {
        (&self.app.journal).write_all(line.as_bytes()).context("cannot write the journal")
    }
}

/// A connection to Redis that is made anew after an error, at the next command.
struct Cache {
    client: redis::Client,
    connection: Option<MultiplexedConnection>,
}

impl Cache {
    async fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> redis::RedisResult<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let limit = Some(Duration::from_secs(1));
                let options =
                    AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
                self.client.get_multiplexed_async_connection_with_config(&options).await?
            }
        };
        let result = command.query_async(&mut connection).await;
        if result.is_ok() {
            self.connection = Some(connection);
        }
        result
    }
}

/// Unix time in microseconds.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
