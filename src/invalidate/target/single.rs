//! One server at a time: standalone, or the master that sentinels name.
//!
//! Guarantees: in sentinel mode every connection that is used said `ROLE` master when it was made, and once the sentinels name
//! another server the connection is made anew within a second or two, even if the old one still answers. May depend on `config` and the
//! rest of this folder.

use std::{sync::Arc, time::Duration};

use redis::Value;

use super::{
    super::{
        breaker::Breaker,
        classify::{self, Failure},
    },
    connect::{ConnectError, Connector},
    link::Link,
    sentinel::Sentinels,
};
use crate::config::RedisMode;

/// How often the sentinels are asked whether the master is still the same.
const WATCH: Duration = Duration::from_secs(1);

/// One server that takes writes.
#[derive(Debug)]
pub(super) struct Single {
    pub(super) link: Arc<Link>,
    sentinels: Option<Sentinels>,
}

impl Single {
    pub(super) fn new(connector: &Connector, breaker: Arc<Breaker>) -> Self {
        let (address, sentinels) = match &connector.config.mode {
            RedisMode::Standalone { host, port } => ((host.clone(), *port), None),
            RedisMode::Sentinel { master, nodes, .. } => {
                (nodes.first().cloned().unwrap_or_default(), Some(Sentinels::new(master, nodes)))
            }
            RedisMode::Cluster { nodes } => (nodes.first().cloned().unwrap_or_default(), None),
        };
        Self { link: Arc::new(Link::new(connector, address, breaker)), sentinels }
    }

    /// What each sentinel says.
    pub(super) async fn ask_sentinels(
        &self,
        connector: &Connector,
    ) -> Vec<(String, Result<String, ConnectError>)> {
        match &self.sentinels {
            Some(sentinels) => sentinels.each(connector).await,
            None => Vec::new(),
        }
    }

    /// Connects anew, to whoever is the master now.
    pub(super) async fn connect(&self, connector: &Connector) -> Result<(), ConnectError> {
        let Some(sentinels) = &self.sentinels else { return self.link.connect(connector).await };
        let (host, port) = sentinels.resolve(connector).await?;
        let mut connection = connector.open(&host, port).await?;
        let role: Value = redis::cmd("ROLE")
            .query_async(&mut connection)
            .await
            .map_err(|error| connector.failed(&host, port, classify::error(&error)))?;
        let role = match &role {
            Value::Array(parts) => match parts.first() {
                Some(Value::BulkString(role)) => String::from_utf8_lossy(role).into_owned(),
                other => format!("{other:?}"),
            },
            other => format!("{other:?}"),
        };
        if role != "master" {
            let message = format!("the sentinels name a server whose role is {role}");
            return Err(connector.failed(&host, port, Failure::target("READONLY", message)));
        }
        self.link.install((host, port), connection);
        Ok(())
    }

    /// Completes when there may be something to heal: the breaker is open, or the sentinels name another master.
    pub(super) async fn disturbed(&self, connector: &Connector) {
        let Some(sentinels) = &self.sentinels else { return self.link.breaker.opened().await };
        loop {
            tokio::select! {
                () = self.link.breaker.opened() => return,
                () = tokio::time::sleep(WATCH) => {}
            }
            // Sentinels that don't answer say nothing about the master.
            let Ok((host, port)) = sentinels.resolve(connector).await else { continue };
            if (&host, port) != (&self.link.address().0, self.link.address().1) {
                tracing::warn!(
                    target = connector.config.name,
                    host,
                    port,
                    "the sentinels name another master"
                );
                self.link.breaker.trip("FAILOVER");
                return;
            }
        }
    }
}
