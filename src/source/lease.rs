//! Which of several daemons is the active one: a named lock (`GET_LOCK`) on the server whose binlog is read.
//!
//! Guarantees: a [`Lease`] is given to one connection at a time per server; the server takes it back when the connection ends, or
//! when nothing was heard on it for [`TTL`] (a daemon that is stopped, or cut off). The lease alone can't keep a daemon that has just lost
//! it from acting on: that is what the fence of a shared checkpoint is for. May depend on `connect`, `config`, and the name of the
//! checkpoint's file.
//!
//! `GET_LOCK` needs no privilege, is neither logged nor replicated, and exists on one server only: behind an address of several servers
//! each has its own. Manuals: MySQL "Locking Functions", MariaDB "GET_LOCK".

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{backoff, connect::Connector, error::SourceError, start::quote};
use crate::{
    checkpoint::file::identity,
    config::{Config, Shared},
};

/// The server ends a lease connection that is silent for so long (`wait_timeout`), whole seconds.
pub const TTL: Duration = Duration::from_secs(5);
/// How often the holder asks whether it still has the lease.
const BEAT: Duration = Duration::from_secs(1);
/// An answer that takes longer counts as a lost connection.
const ANSWER: Duration = Duration::from_secs(2);
/// How long one `GET_LOCK` of a waiting daemon blocks on the server. The lock is handed over at once; this only bounds how long a
/// dead connection goes unnoticed.
const WAIT: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Longest name of a lock: `NAME_CHAR_LEN` of MySQL 5.7 and newer, and of MariaDB.
const LONGEST_NAME: usize = 64;

/// The lease is another daemon's.
#[derive(Debug, thiserror::Error)]
#[error("lease lost: {0}")]
pub struct LeaseLost(pub String);

/// Names the lock of a deployment: daemons with the same checkpoint take turns.
pub fn name(config: &Config) -> String {
    let id = match &config.checkpoint.shared {
        Some(Shared::Redis { name, .. }) => format!("redis:{name}"),
        Some(Shared::Kafka { prefix, name, .. }) => format!("kafka:{prefix}:{name}"),
        None => match identity(&config.checkpoint.path) {
            Ok(id) => format!("file:{id}"),
            // What can't be named can't be saved either, and opening it says so.
            Err(error) => {
                tracing::warn!(path = %config.checkpoint.path.display(), %error, "checkpoint can't be named, its path stands for it");
                format!("file:{}", config.checkpoint.path.display())
            }
        },
    };
    let name = format!("rowbust:{id}");
    if name.is_ascii() && name.len() <= LONGEST_NAME {
        return name;
    }
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("rowbust:{}:{hash:016x}", id.split(':').next().unwrap_or_default())
}

/// A daemon that wants the lease.
#[derive(Debug)]
pub struct Candidate {
    connector: Connector,
    name: String,
    waiting: Arc<Mutex<Waiting>>,
}

/// What a waiting daemon knows.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    /// Connection id of who has the lease.
    pub holder: Option<u64>,
    /// Why the server can't be asked.
    pub error: Option<String>,
}

/// What one attempt gave.
enum Attempt {
    Got(Conn, u64),
    Taken,
    /// The server doesn't give locks.
    Refused(String),
}

impl Candidate {
    /// Connects to nothing yet.
    pub fn new(config: &Config) -> Self {
        Self { connector: Connector::new(&config.source), name: name(config), waiting: Arc::default() }
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known while it waits.
    pub fn waiting(&self) -> Waiting {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the lease if it is free. `None`: another daemon has it.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn try_acquire(&self) -> Result<Option<Lease>, SourceError> {
        let mut conn = prepared(&self.connector).await?;
        match attempt(&mut conn, &self.name, Duration::ZERO).await? {
            Answer::Got(id) => Ok(Some(self.hold(conn, id))),
            Answer::Taken(holder) => {
                self.note(|waiting| *waiting = Waiting { holder, error: None });
                conn.disconnect().await.ok();
                Ok(None)
            }
            Answer::Refused(why) => {
                tracing::warn!(
                    lock = self.name,
                    why,
                    "the server gives no lease: a second daemon isn't noticed here, only by the checkpoint"
                );
                conn.disconnect().await.ok();
                Ok(Some(Lease::unguarded()))
            }
        }
    }

    /// Waits for the lease, however long it takes; a server that can't be reached is tried again.
    pub async fn acquire(&self) -> Lease {
        let mut pauses = backoff(MAX_PAUSE);
        loop {
            match self.wait_once().await {
                Ok(Attempt::Got(conn, id)) => return self.hold(conn, id),
                Ok(Attempt::Taken) => pauses = backoff(MAX_PAUSE),
                Ok(Attempt::Refused(why)) => {
                    tracing::warn!(lock = self.name, why, "the server gives no lease any more");
                    return Lease::unguarded();
                }
                Err(error) => {
                    self.note(|waiting| {
                        if waiting.error.is_none() {
                            tracing::warn!(%error, "standing by, the source can't be asked for the lease");
                        }
                        *waiting = Waiting { holder: None, error: Some(error.to_string()) };
                    });
                    tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
                }
            }
        }
    }

    /// On one connection until it breaks.
    async fn wait_once(&self) -> Result<Attempt, SourceError> {
        let mut conn = prepared(&self.connector).await?;
        loop {
            match attempt(&mut conn, &self.name, WAIT).await? {
                Answer::Got(id) => return Ok(Attempt::Got(conn, id)),
                Answer::Refused(why) => return Ok(Attempt::Refused(why)),
                Answer::Taken(holder) => {
                    self.note(|waiting| *waiting = Waiting { holder, error: None });
                    if holder.is_none() {
                        // Given back in between: ask again on a connection that is known to be good.
                        return Ok(Attempt::Taken);
                    }
                }
            }
        }
    }

    fn hold(&self, conn: Conn, id: u64) -> Lease {
        let (valid, gate) = watch::channel(Some(Instant::now()));
        let stop = CancellationToken::new();
        let holder = Holder { connector: self.connector.clone(), name: self.name.clone(), valid };
        let task = tokio::spawn(holder.keep(conn, id, stop.clone()));
        Lease { gate: Gate(gate), stop, task: Some(task) }
    }
}

/// A connection that the server ends when it hears nothing for [`TTL`].
async fn prepared(connector: &Connector) -> Result<Conn, SourceError> {
    let mut conn = connector.primary().await?;
    in_time(ANSWER, conn.query_drop(format!("SET SESSION wait_timeout={}", TTL.as_secs()))).await?;
    Ok(conn)
}

async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, mysql_async::Error>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(SourceError::Lost(format!("no answer within {} s", limit.as_secs()))),
    }
}

enum Answer {
    /// By this connection, of this id.
    Got(u64),
    /// By this one, unless it has been given back since.
    Taken(Option<u64>),
    Refused(String),
}

async fn attempt(conn: &mut Conn, name: &str, wait: Duration) -> Result<Answer, SourceError> {
    let name = quote(name);
    let asked = conn.query_first::<(Option<i64>, u64), _>(format!(
        "SELECT GET_LOCK({name}, {}), CONNECTION_ID()",
        wait.as_secs()
    ));
    let answer = match tokio::time::timeout(wait + ANSWER, asked).await {
        Ok(Ok(answer)) => answer,
        // It waited longer than the server lets a statement take (max_execution_time, max_statement_time).
        Ok(Err(mysql_async::Error::Server(e))) if matches!(e.code, 3024 | 1969) => Some((Some(0), 0)),
        // A statement that the server (or a proxy before it) doesn't take. Being ended while it waited is none.
        Ok(Err(mysql_async::Error::Server(e)))
            if !matches!(e.code, 1053 | 1317 | 1927 | 3169 | 1205 | 4031) =>
        {
            return Ok(Answer::Refused(format!("{} ({})", e.message, e.code)));
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(SourceError::Lost(format!("no answer within {} s", (wait + ANSWER).as_secs()))),
    };
    match answer {
        Some((Some(1), id)) => Ok(Answer::Got(id)),
        Some((answer, _)) => {
            let holder: Option<Option<u64>> =
                in_time(ANSWER, conn.query_first(format!("SELECT IS_USED_LOCK({name})"))).await?;
            match (answer, holder.flatten()) {
                // NULL: out of memory, or killed; but MariaDB says that of max_statement_time, too.
                (None, None) => Err(SourceError::Lost("GET_LOCK gives NULL".into())),
                (_, holder) => Ok(Answer::Taken(holder)),
            }
        }
        None => Err(SourceError::Lost("GET_LOCK gives nothing".into())),
    }
}

/// Whether the lease is held at the moment, as far as is known.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<Option<Instant>>);

impl Gate {
    /// Whether it is.
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_some_and(|heard| heard.elapsed() < TTL)
    }

    /// Completes when it is. What a daemon does to the source that would disturb the active one waits for this.
    pub async fn open(&self) {
        let mut heard = self.0.clone();
        while !self.is_open() {
            if heard.changed().await.is_err() {
                // Given up: the daemon's life ends, and nothing more is to be done in it.
                return std::future::pending().await;
            }
        }
    }
}

/// This daemon is the active one.
#[derive(Debug)]
pub struct Lease {
    gate: Gate,
    stop: CancellationToken,
    /// `None`: the server gives no lease.
    task: Option<JoinHandle<LeaseLost>>,
}

impl Lease {
    /// Where the server gives none. Always held.
    fn unguarded() -> Self {
        let forever = Instant::now() + Duration::from_secs(86_400 * 365 * 10);
        let (sender, gate) = watch::channel(Some(forever));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.cancelled().await;
            drop(sender);
        });
        Self { gate: Gate(gate), stop, task: None }
    }

    /// For what must not be done without it.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Completes when another daemon has it. Cancel-safe.
    pub async fn lost(&mut self) -> LeaseLost {
        match &mut self.task {
            None => std::future::pending().await,
            Some(task) => {
                let lost = task.await.unwrap_or_else(|error| LeaseLost(error.to_string()));
                self.task = None;
                lost
            }
        }
    }

    /// Whether the server still says that it is this one's: completes at its next answer.
    pub async fn is_confirmed(&mut self) -> bool {
        let (asked, mut heard) = (Instant::now(), self.gate.0.clone());
        tokio::select! {
            _ = self.lost() => false,
            answer = heard.wait_for(|heard| heard.is_some_and(|at| at > asked)) => answer.is_ok(),
            () = tokio::time::sleep(TTL * 2) => false,
        }
    }

    /// Gives it back; returns when the server has it, if that can be reached.
    pub async fn release(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = tokio::time::timeout(ANSWER, task).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Watches over a lease.
struct Holder {
    connector: Connector,
    name: String,
    /// When the last question was sent that was answered with yes; `None`: the connection is lost.
    valid: watch::Sender<Option<Instant>>,
}

impl Holder {
    async fn keep(self, conn: Conn, id: u64, stop: CancellationToken) -> LeaseLost {
        let mut held = (conn, id);
        loop {
            let why = tokio::select! {
                () = stop.cancelled() => {
                    // Ends the connection in good order, and with it the lock.
                    let _ = tokio::time::timeout(ANSWER, held.0.disconnect()).await;
                    return LeaseLost("released".into());
                }
                why = self.watch(&mut held.0, held.1) => why,
            };
            self.valid.send_replace(None);
            tracing::warn!(lock = self.name, why = %why, "lease connection lost, asking for it again");
            let lost = Instant::now();
            drop(held.0);
            held = tokio::select! {
                () = stop.cancelled() => return LeaseLost("released".into()),
                regained = self.regain(held.1, lost) => match regained {
                    Ok(held) => held,
                    Err(lost) => return lost,
                },
            };
            tracing::info!(
                lock = self.name,
                after_ms = lost.elapsed().as_millis(),
                "lease regained, nobody had it meanwhile that still does"
            );
            self.valid.send_replace(Some(Instant::now()));
        }
    }

    /// Asks until the answer is no, or there is none.
    async fn watch(&self, conn: &mut Conn, id: u64) -> SourceError {
        let question = format!("SELECT IS_USED_LOCK({})", quote(&self.name));
        loop {
            tokio::time::sleep(BEAT).await;
            let sent = Instant::now();
            match in_time(ANSWER, conn.query_first::<Option<u64>, _>(question.as_str())).await {
                Ok(Some(Some(holder))) if holder == id => {
                    self.valid.send_replace(Some(sent));
                }
                Ok(holder) => {
                    return SourceError::Lost(format!("the server says that {holder:?} has it"));
                }
                Err(error) => return error,
            }
        }
    }

    /// The server was restarted, the connection was ended, or the way to it: whoever asks first has it now.
    async fn regain(&self, old: u64, lost: Instant) -> Result<(Conn, u64), LeaseLost> {
        let mut pauses = backoff(MAX_PAUSE);
        loop {
            let asked = async {
                let mut conn = prepared(&self.connector).await?;
                let answer = attempt(&mut conn, &self.name, BEAT).await?;
                Ok::<_, SourceError>((conn, answer))
            };
            match asked.await {
                Ok((conn, Answer::Got(id))) => return Ok((conn, id)),
                // Its own connection, which the server hasn't missed yet. (After a restart the number may be another's.)
                Ok((_, Answer::Taken(Some(holder)))) if holder == old && lost.elapsed() < TTL * 2 => {}
                Ok((_, Answer::Taken(None))) => {}
                Ok((_, Answer::Taken(Some(holder)))) => {
                    return Err(LeaseLost(format!("connection {holder} of another daemon has it")));
                }
                Ok((_, Answer::Refused(why))) => tracing::warn!(lock = self.name, why, "lease refused"),
                Err(error) => tracing::debug!(lock = self.name, %error, "lease can't be asked for"),
            }
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
