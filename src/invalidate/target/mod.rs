//! One Redis target: its servers, its breaker, and the removal of many keys at once.
//!
//! Guarantees: an `Ok` of a removal means that the server that has the key has acknowledged it, and with `durability` that its replicas have. A
//! failed connection is made anew only by the probe, with backoff. May depend on `config` and `pipeline::batch`.
//!
//! - `link`: one server. `single`: standalone, or the master by `sentinel`. `cluster`: many, by `slots`; `lots`: what goes to one of them.
//! - `connect`: login and TLS. `masters`: the servers one by one, for iterations. `members`: a set's members.

mod cluster;
mod connect;
mod link;
mod lots;
mod masters;
mod members;
mod sentinel;
mod single;
mod slots;

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio_util::sync::CancellationToken;

pub use connect::ConnectError;
pub use masters::Master;
pub(crate) use masters::Rounds;

use super::{
    LONGEST_PAUSE, backoff,
    breaker::Breaker,
    classify::{self, Class, Failure},
};
use crate::{
    config::{RedisMode, RedisTarget},
    pipeline::batch::Removal,
};
use cluster::Cluster;
use connect::Connector;
use single::Single;

/// One Redis target.
#[derive(Debug)]
pub struct Target {
    connector: Connector,
    /// Open while it fails; of a cluster, while no master works: a single one has its own.
    pub breaker: Arc<Breaker>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Single(Single),
    Cluster(Cluster),
}

/// How one server of a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The error by which its breaker opened; `None` while it works.
    pub error: Option<String>,
}

impl Target {
    /// A target that isn't connected yet.
    pub fn new(config: RedisTarget) -> Arc<Self> {
        let connector = Connector { config };
        let breaker = Arc::new(Breaker::default());
        let kind = match &connector.config.mode {
            RedisMode::Cluster { nodes } => Kind::Cluster(Cluster::new(nodes, Arc::clone(&breaker))),
            RedisMode::Standalone { .. } | RedisMode::Sentinel { .. } => {
                Kind::Single(Single::new(&connector, Arc::clone(&breaker)))
            }
        };
        Arc::new(Self { connector, breaker, kind })
    }

    /// Its name in the config.
    pub fn name(&self) -> &str {
        &self.connector.config.name
    }

    /// Connects, logs in and asks for a PING; later removals use this connection. Of a cluster, all masters that can be reached.
    ///
    /// # Errors
    /// When a server refuses, or can't be reached; of a cluster, when no node tells who serves what.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        match &self.kind {
            Kind::Single(single) => single.connect(&self.connector).await,
            Kind::Cluster(cluster) => cluster.connect(&self.connector).await,
        }
    }

    /// Each sentinel with the master that it names; none where there are no sentinels.
    pub(crate) async fn sentinels(&self) -> Vec<(String, Result<String, ConnectError>)> {
        match &self.kind {
            Kind::Single(single) => single.ask_sentinels(&self.connector).await,
            Kind::Cluster(_) => Vec::new(),
        }
    }

    /// The servers that it knows of.
    pub fn servers(&self) -> Vec<ServerState> {
        let links = match &self.kind {
            Kind::Single(single) => vec![Arc::clone(&single.link)],
            Kind::Cluster(cluster) => cluster.links(),
        };
        let state = |link: &Arc<link::Link>| {
            let (host, port) = link.address();
            ServerState { host, port, error: link.breaker.since().map(|(_, code)| code) }
        };
        links.iter().map(state).collect()
    }

    /// Removes whole keys, in as few commands as the target allows. What failed, by place: of a cluster, the keys of a master that
    /// fails. Nothing is sent to a server whose breaker is open.
    ///
    /// # Errors
    /// When all failed, by one cause.
    pub async fn unlink(&self, keys: impl Iterator<Item = &[u8]>) -> Result<Vec<(usize, Failure)>, Failure> {
        let single = match &self.kind {
            Kind::Single(single) => single,
            Kind::Cluster(cluster) => {
                let removals: Vec<_> = keys.map(|key| Removal { key, field: None }).collect();
                return Ok(cluster.remove(&self.connector, &removals).await);
            }
        };
        let mut command = redis::cmd("UNLINK");
        for key in keys {
            command.arg(key);
        }
        let commands = [command];
        let replies = single.link.send(&commands).await?;
        match replies.into_iter().next() {
            Some(Value::ServerError(error)) => {
                let [command] = commands;
                single.link.judge(|| Some(command), Err(classify::reply(&error)))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Removes keys and fields; one result for each removal, in order.
    ///
    /// # Errors
    /// When all failed, by the target's fault.
    pub async fn remove_each(&self, removals: &[Removal<'_>]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let single = match &self.kind {
            Kind::Single(single) => single,
            Kind::Cluster(cluster) => {
                let mut results: Vec<_> = removals.iter().map(|_| Ok(())).collect();
                for (at, failure) in cluster.remove(&self.connector, removals).await {
                    if let Some(result) = results.get_mut(at) {
                        *result = Err(failure);
                    }
                }
                return Ok(results);
            }
        };
        let commands: Vec<Cmd> = removals.iter().map(|removal| command(*removal)).collect();
        let replies = single.link.send(&commands).await?;
        replies
            .into_iter()
            .zip(&commands)
            .map(|(reply, command)| match reply {
                Value::ServerError(error) => match classify::reply(&error) {
                    failure if failure.class == Class::Key => Ok(Err(failure)),
                    failure => single.link.judge(|| Some(command.clone()), Err(failure)),
                },
                _ => Ok(Ok(())),
            })
            .collect()
    }

    /// Watches the breakers: while one is open, connects anew with backoff and closes it when that works. Follows sentinels and
    /// cluster to new masters. Until `shutdown`.
    pub async fn heal(&self, shutdown: CancellationToken) {
        let healing = async {
            match &self.kind {
                Kind::Single(single) => self.heal_single(single).await,
                Kind::Cluster(cluster) => cluster.heal(&self.connector).await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = healing => {}
        }
    }

    async fn heal_single(&self, single: &Single) {
        loop {
            single.disturbed(&self.connector).await;
            let mut pauses = backoff(LONGEST_PAUSE);
            loop {
                pauses.wait().await;
                match single.connect(&self.connector).await {
                    Ok(()) => match single.link.writable().await {
                        Ok(()) => break,
                        Err(failure) => {
                            tracing::debug!(target = self.name(), code = %failure.code, "probe failed");
                        }
                    },
                    Err(error) => tracing::debug!(target = self.name(), %error, "probe failed"),
                }
            }
            let since = self.breaker.since();
            self.breaker.close();
            let after_ms = since.map_or(0, |(since, _)| since.elapsed().as_millis());
            let (host, port) = single.link.address();
            tracing::info!(
                target = self.name(),
                host,
                port,
                after_ms,
                "redis target works again, breaker closed"
            );
        }
    }
}

fn command(removal: Removal<'_>) -> Cmd {
    let mut command = match removal.field {
        Some(_) => redis::cmd("HDEL"),
        None => redis::cmd("UNLINK"),
    };
    command.arg(removal.key);
    if let Some(field) = removal.field {
        command.arg(field);
    }
    command
}
