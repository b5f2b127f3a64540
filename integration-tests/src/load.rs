//! Writers and readers with a recorded history.
//!
//! Writers own their rows by id, so that values grow per key. Each transaction writes its number to `txlog`. Readers fill
//! the cache as plain cache-aside does. An error while a server is away makes a transaction's outcome *unknown*.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::shop;

/// How a transaction ended, as far as its writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT was acknowledged.
    Committed,
    /// ROLLBACK was sent, or nothing at all.
    RolledBack,
    /// COMMIT was sent and not acknowledged.
    Unknown,
}

/// One transaction.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Microseconds since 1970, just before COMMIT or ROLLBACK was sent: nothing is in the binlog before.
    pub sent: u64,
    /// Its end.
    pub outcome: Outcome,
}

/// Everything that the load did.
#[derive(Debug, Default)]
pub struct History {
    /// Transactions by their number in `txlog`.
    pub transactions: HashMap<u64, Entry>,
    /// Fills done in time.
    pub fills: u64,
    /// Fills that took longer than the grace and were undone.
    pub late_fills: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Writers at once.
    pub writers: u64,
    /// Readers at once.
    pub readers: u64,
    /// Pause between two transactions of a writer, and between two fills of a reader.
    pub pause: Duration,
    /// Products with ids up to this are written and filled; the ones above stay as they are.
    pub hot: u64,
    /// Of the random numbers.
    pub seed: u64,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    history: Arc<Mutex<History>>,
}

#[derive(Debug, Clone)]
struct Context {
    db: Arc<Db>,
    schema: String,
    redis: u16,
    plan: Plan,
    stop: CancellationToken,
    history: Arc<Mutex<History>>,
    /// Numbers of transactions, and values: both only grow.
    next: Arc<AtomicU64>,
}

impl Load {
    /// Starts it.
    #[must_use]
    pub fn start(db: &Arc<Db>, schema: &str, redis: u16, plan: Plan) -> Self {
        let history = Arc::new(Mutex::new(History::default()));
        let stop = CancellationToken::new();
        let context = Context {
            db: Arc::clone(db),
            schema: schema.to_owned(),
            redis,
            plan,
            stop: stop.clone(),
            history: Arc::clone(&history),
            next: Arc::new(AtomicU64::new(1_000_000)),
        };
        let mut tasks = JoinSet::new();
        for writer in 0..plan.writers {
            tasks.spawn(write(context.clone(), writer));
        }
        for reader in 0..plan.readers {
            tasks.spawn(read(context.clone(), reader));
        }
        Self { stop, tasks, history }
    }

    /// Transactions so far.
    #[must_use]
    pub fn transactions(&self) -> usize {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).transactions.len()
    }

    /// Ends it, and gives what it did.
    ///
    /// # Errors
    /// The first error that wasn't a server's absence.
    pub async fn stop(mut self) -> Result<History> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

async fn write(context: Context, writer: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(context.plan.seed ^ (writer + 1));
    let mut conn = None;
    let mut pace = tokio::time::interval(context.plan.pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !context.stop.is_cancelled() {
        pace.tick().await;
        let Some(c) = conn.as_mut() else {
            conn = connect(&context.db).await;
            continue;
        };
        let n = context.next.fetch_add(1, Ordering::Relaxed);
        let mut sent = None;
        let done = transaction(c, &context, writer, n, &mut rng, &mut sent).await;
        let outcome = match (&done, sent) {
            (Ok(committed), _) if *committed => Outcome::Committed,
            (Ok(_), _) | (Err(_), None) => Outcome::RolledBack,
            (Err(_), Some(_)) => Outcome::Unknown,
        };
        let entry = Entry { sent: sent.unwrap_or_else(now_micros), outcome };
        context.history.lock().unwrap_or_else(PoisonError::into_inner).transactions.insert(n, entry);
        if let Err(error) = done {
            // A refusal of the server is the test's mistake; everything else is its absence.
            if let mysql_async::Error::Server(refusal) = &error
                && ![DEADLOCK, SHUTDOWN].contains(&refusal.code)
            {
                return Err(error.into());
            }
            conn = None;
        }
    }
    Ok(())
}

/// The transaction was rolled back whole.
const DEADLOCK: u16 = 1213;
/// The server is on its way down.
const SHUTDOWN: u16 = 1053;

async fn connect(db: &Db) -> Option<Conn> {
    let mut conn = db.connect().await.ok()?;
    // Fewer gap locks, fewer deadlocks.
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.ok()?;
    Some(conn)
}

/// Says whether it committed.
async fn transaction(
    conn: &mut Conn,
    context: &Context,
    writer: u64,
    n: u64,
    rng: &mut StdRng,
    sent: &mut Option<u64>,
) -> Result<bool, mysql_async::Error> {
    let schema = &context.schema;
    conn.query_drop("BEGIN").await?;
    conn.query_drop(format!("INSERT INTO {schema}.txlog VALUES ({n})")).await?;
    for _ in 0..rng.random_range(1..=3) {
        // Own rows only.
        let Plan { writers, hot, .. } = context.plan;
        let id = 1 + writer + writers * rng.random_range(0..(hot / writers).max(1));
        let ver = context.next.fetch_add(1, Ordering::Relaxed);
        let statement = match rng.random_range(0..10) {
            0..=4 => format!("UPDATE {schema}.products SET ver={ver} WHERE id={id}"),
            5 => format!("UPDATE {schema}.products SET ver={ver}, sku='s{id}-{ver}' WHERE id={id}"),
            6 => {
                format!(
                    "UPDATE {schema}.products SET ver={ver}, category_id={} WHERE id={id}",
                    rng.random_range(0..8)
                )
            }
            7 => format!("DELETE FROM {schema}.products WHERE id={id}"),
            8 => format!(
                "INSERT INTO {schema}.orders VALUES ({ver},{id},{ver}) ON DUPLICATE KEY UPDATE ver={ver}"
            ),
            _ => format!(
                "INSERT INTO {schema}.products VALUES ({id},'n{ver}',{},{ver},'q') \
                 ON DUPLICATE KEY UPDATE ver={ver}, sku='n{ver}'",
                rng.random_range(0..8)
            ),
        };
        conn.query_drop(statement).await?;
    }
    let commit = !rng.random_ratio(1, 10);
    *sent = commit.then(now_micros);
    conn.query_drop(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
    Ok(commit)
}

async fn read(context: Context, reader: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(context.plan.seed ^ (1000 + reader));
    let mut connections = None;
    let mut pace = tokio::time::interval(context.plan.pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !context.stop.is_cancelled() {
        pace.tick().await;
        let Some((conn, cache)) = connections.as_mut() else {
            if let (Ok(conn), Ok(cache)) = (context.db.connect().await, shop::redis(context.redis).await) {
                connections = Some((conn, cache));
            }
            continue;
        };
        let id = rng.random_range(1..=context.plan.hot);
        match shop::fill(conn, cache, &context.schema, id).await {
            Ok(in_time) => {
                let mut history = context.history.lock().unwrap_or_else(PoisonError::into_inner);
                if in_time {
                    history.fills += 1;
                } else {
                    history.late_fills += 1;
                }
            }
            Err(_) => connections = None,
        }
    }
    Ok(())
}
