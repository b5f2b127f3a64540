//! Who is the master, by Redis Sentinel.
//!
//! Guarantees: the address is that of the newest configuration (the highest `config-epoch`) that any of the sentinels that answer knows, so
//! one that was cut off for a while doesn't lead back to an old master. May depend on `config` and `connect`.
//! Source: <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

use super::{
    super::classify::{self, Failure},
    connect::{ConnectError, Connector},
};

/// The sentinels of one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    /// Its name.
    master: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    address: (String, u16),
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What one sentinel says.
type Said = (u64, (String, u16));

impl Sentinels {
    pub(super) fn new(master: &str, nodes: &[(String, u16)]) -> Self {
        let node = |address: &(String, u16)| Node { address: address.clone(), connection: Mutex::new(None) };
        Self { master: master.to_owned(), nodes: nodes.iter().map(node).collect() }
    }

    /// The master's address as each of them has it.
    pub(super) async fn each(&self, connector: &Connector) -> Vec<(String, Result<String, ConnectError>)> {
        let asked = self.nodes.iter().map(async |node| {
            let said = node.ask(connector, &self.master).await;
            let (host, port) = &node.address;
            (format!("{host}:{port}"), said.map(|(_, (host, port))| format!("{host}:{port}")))
        });
        futures_util::future::join_all(asked).await
    }

    /// The master's address.
    pub(super) async fn resolve(&self, connector: &Connector) -> Result<(String, u16), ConnectError> {
        let asked = self.nodes.iter().map(|node| node.ask(connector, &self.master));
        let mut newest: Option<Said> = None;
        let mut refused = None;
        for said in futures_util::future::join_all(asked).await {
            match said {
                Ok(said) => newest = newest.into_iter().chain([said]).max_by_key(|(epoch, _)| *epoch),
                // One that answers tells more than one that doesn't.
                Err(error) if refused.is_none() || !is_absence(&error) => refused = Some(error),
                Err(_) => {}
            }
        }
        match (newest, refused) {
            (Some((_, address)), _) => Ok(address),
            (None, Some(error)) => Err(error),
            (None, None) => Err(connector.failed("", 0, Failure::target("IO", "no sentinel is configured"))),
        }
    }
}

fn is_absence(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Redis { failure, .. } if matches!(failure.code.as_str(), "IO" | "TIMEOUT"))
}

impl Node {
    async fn ask(&self, connector: &Connector, master: &str) -> Result<Said, ConnectError> {
        let (host, port) = (&self.address.0, self.address.1);
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => connector.open_sentinel(host, port).await?,
        };
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(master);
        let said: Result<HashMap<String, String>, _> = command.query_async(&mut connection).await;
        let fields = match said {
            Ok(fields) => {
                *slot = Some(connection);
                fields
            }
            // It isn't put back: the next question is asked on a new one.
            Err(error) => {
                let mut failure = classify::error(&error);
                failure.message = format!("sentinel, asked for master {master:?}: {}", failure.message);
                return Err(connector.failed(host, port, failure));
            }
        };
        let field = |name: &str| fields.get(name).map(String::as_str);
        let said = (|| {
            let epoch = field("config-epoch")?.parse().ok()?;
            Some((epoch, (field("ip")?.to_owned(), field("port")?.parse().ok()?)))
        })();
        said.ok_or_else(|| {
            let failure = Failure::target("PROTOCOL", "SENTINEL MASTER without ip, port and config-epoch");
            connector.failed(host, port, failure)
        })
    }
}
