//! One Redis server that takes writes: its connection, its breaker, and what its replicas have acknowledged.
//!
//! Guarantees: the replies of [`Link::send`] came from one connection, in order; with `durability` they are given out only after `WAIT` on
//! that same connection, behind them, has counted enough replicas. May depend on `config`, the breaker and `classify`.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use redis::{Cmd, Value, aio::MultiplexedConnection};

use super::{
    super::{
        breaker::Breaker,
        classify::{self, Class, Failure},
    },
    connect::{ConnectError, Connector},
};
use crate::config::Durability;

/// Prefix of the keys that `durability` writes, one per master. They expire by themselves.
const MARK: &str = "rowbust:wait";
/// Seconds after which such a key is gone.
const MARK_SECONDS: u64 = 60;

/// A connection, or none yet, to one server.
#[derive(Debug)]
pub(super) struct Link {
    /// The target's name, for the log.
    target: String,
    address: RwLock<(String, u16)>,
    pub(super) breaker: Arc<Breaker>,
    durability: Option<Durability>,
    connection: RwLock<Option<MultiplexedConnection>>,
    /// A removal that failed by the server's fault: what the probe asks for.
    refused: Mutex<Option<Cmd>>,
    /// On a cluster: texts for hash tags that fall into slots of this server.
    tags: RwLock<Vec<String>>,
    /// The least of all such numbers, which clients find by themselves.
    least_tag: RwLock<Option<String>>,
    /// Which of them the marking key has; another one once its slot is on its way.
    mark: AtomicUsize,
    /// One connect at a time.
    connecting: tokio::sync::Mutex<()>,
}

impl Link {
    pub(super) fn new(connector: &Connector, address: (String, u16), breaker: Arc<Breaker>) -> Self {
        Self {
            target: connector.config.name.clone(),
            address: RwLock::new(address),
            breaker,
            durability: connector.config.durability,
            connection: RwLock::new(None),
            refused: Mutex::new(None),
            tags: RwLock::default(),
            least_tag: RwLock::default(),
            mark: AtomicUsize::new(0),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn address(&self) -> (String, u16) {
        self.address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tags(&self) -> Vec<String> {
        self.tags.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_tags(&self, tags: Vec<String>) {
        *self.tags.write().unwrap_or_else(PoisonError::into_inner) = tags;
    }

    pub(super) fn least_tag(&self) -> Option<String> {
        self.least_tag.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_least_tag(&self, tag: Option<String>) {
        *self.least_tag.write().unwrap_or_else(PoisonError::into_inner) = tag;
    }

    /// The key that `durability` writes.
    fn marking_key(&self) -> String {
        let tags = self.tags();
        let at = self.mark.load(Relaxed).checked_rem(tags.len());
        at.and_then(|at| tags.get(at)).map_or(MARK.to_owned(), |tag| format!("{MARK}:{{{tag}}}"))
    }

    /// Takes this connection in place of the one before.
    pub(super) fn install(&self, address: (String, u16), connection: MultiplexedConnection) {
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = address;
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    /// Connects anew.
    pub(super) async fn connect(&self, connector: &Connector) -> Result<(), ConnectError> {
        let _one = self.connecting.lock().await;
        let address = self.address();
        let connection = connector.open(&address.0, address.1).await?;
        self.install(address, connection);
        Ok(())
    }

    /// Connects if there never was a connection.
    pub(super) async fn ensure_connected(&self, connector: &Connector) -> Result<(), Failure> {
        if self.connection().is_some() || self.breaker.is_open() {
            return Ok(());
        }
        let result = self.connect(connector).await.map_err(ConnectError::into_failure);
        self.judge(|| None, result)
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection, unless the breaker is open.
    pub(super) fn ready(&self) -> Result<MultiplexedConnection, Failure> {
        if self.breaker.is_open() {
            return Err(Failure::breaker());
        }
        self.connection().ok_or_else(|| {
            self.breaker.trip("IO");
            Failure::target("IO", "not connected")
        })
    }

    /// Sends commands that change something, in one go. One reply for each; errors of single commands are among them.
    ///
    /// # Errors
    /// When the connection fails, or with `durability` too few replicas acknowledged. The breaker is tripped then.
    pub(super) async fn send(&self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let mut connection = self.ready()?;
        let result = self.exchange(&mut connection, commands).await;
        self.judge(|| commands.iter().find(|c| is_removal(c)).cloned(), result)
    }

    async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, Failure> {
        if let ([one], None) = (commands, self.durability) {
            let reply = connection.send_packed_command(one).await.map_err(|e| classify::error(&e))?;
            return Ok(vec![reply]);
        }
        let mut pipeline = redis::Pipeline::with_capacity(commands.len() + 2);
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let mut expected = commands.len();
        if let Some(durability) = self.durability {
            // A removal of what isn't there writes nothing, and since 7.2 WAIT waits for the connection's last *write*: on a new connection
            // for none at all. But an earlier removal of the key, on a connection that broke, may be what no replica has yet. This
            // write stands behind all of them in the replication stream.
            pipeline.cmd("SET").arg(self.marking_key()).arg(1).arg("EX").arg(MARK_SECONDS);
            let ms = u64::try_from(durability.timeout.as_millis()).unwrap_or(u64::MAX);
            pipeline.cmd("WAIT").arg(durability.replicas).arg(ms);
            expected += 2;
        }
        let mut replies = match connection.send_packed_commands(&pipeline, 0, expected).await {
            Ok(replies) if replies.len() == expected => replies,
            Ok(replies) => {
                let message = format!("{} replies to {expected} commands", replies.len());
                return Err(Failure::target("PROTOCOL", message));
            }
            Err(error) => return Err(classify::error(&error)),
        };
        if let Some(durability) = self.durability {
            enough(durability, &replies.split_off(commands.len())).map_err(|failure| {
                if !failure.is_redirect() {
                    return failure;
                }
                self.mark.fetch_add(1, Relaxed);
                Failure::target(
                    "TRYAGAIN",
                    format!("the slot of rowbust's own key moves: {}", failure.message),
                )
            })?;
        }
        Ok(replies)
    }

    /// Trips the breaker where the server itself failed.
    pub(super) fn judge<T>(
        &self,
        refused: impl FnOnce() -> Option<Cmd>,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Err(failure) = &result
            && failure.class == Class::Target
            && !failure.is_redirect()
            && self.breaker.trip(&failure.code)
        {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused();
            let (host, port) = self.address();
            tracing::warn!(target = self.target, host, port, code = %failure.code, error = %failure.message,
                "redis fails, breaker opens: removals go to the retry queue");
        }
        result
    }

    /// Asks for what a PING doesn't show: a replica, and a server that can't write, answer PING well. It repeats a removal that was
    /// refused: that one is owed anyway, and the account has rights on its key (Redis looks at the ACL before anything else).
    pub(super) async fn writable(&self) -> Result<(), Failure> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without either, the next removal tells.
        let (Some(mut connection), Some(probe)) = (self.connection(), refused) else { return Ok(()) };
        match self.exchange(&mut connection, &[probe]).await?.into_iter().next() {
            Some(Value::ServerError(error)) => match classify::reply(&error) {
                // On a cluster the slot may have moved to another server meanwhile.
                failure if failure.class == Class::Key || failure.is_redirect() => Ok(()),
                failure => Err(failure),
            },
            _ => Ok(()),
        }
    }
}

/// Whether the marking write worked and `WAIT` counted enough.
fn enough(durability: Durability, replies: &[Value]) -> Result<(), Failure> {
    for reply in replies {
        if let Value::ServerError(error) = reply {
            let failure = classify::reply(error);
            // Rights that are missing for these commands are the target's fault too.
            return Err(Failure { class: Class::Target, ..failure });
        }
    }
    let Durability { replicas, timeout } = durability;
    match replies.last() {
        Some(Value::Int(acked)) if u64::try_from(*acked).unwrap_or(0) >= replicas => Ok(()),
        Some(Value::Int(acked)) => {
            let message = format!("{acked} of {replicas} replicas acknowledged within {timeout:?}");
            Err(Failure::target("NOREPLICAS", message))
        }
        other => Err(Failure::target("PROTOCOL", format!("{other:?} as the answer to WAIT"))),
    }
}

/// What the probe may repeat. Not `SREM`, say: it is half of an operation.
fn is_removal(command: &Cmd) -> bool {
    matches!(command.args_iter().next(), Some(redis::Arg::Simple(b"UNLINK" | b"HDEL")))
}
