//! What a process of the application needs to connect.

use mysql_async::Opts;
use redis::aio::MultiplexedConnection;
use rowbust_client::ConnectOptions;
use rowbust_servers::sentinel::MASTER;

use crate::live::LiveError;

/// Where an application finds the servers.
#[derive(Debug, Clone)]
pub(in crate::live) struct Connector {
    pub(in crate::live) primary: Opts,
    pub(in crate::live) replica: Option<Opts>,
    pub(super) redis: Address,
}

#[derive(Debug, Clone)]
pub(super) enum Address {
    One(String),
    Sentinels(Vec<String>),
}

impl Connector {
    /// A connection for what the client library has no part in.
    pub(in crate::live) async fn raw(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = match &self.redis {
            Address::One(url) => redis::Client::open(url.as_str())?,
            Address::Sentinels(urls) => {
                let server = redis::sentinel::SentinelServerType::Master;
                let mut group = redis::sentinel::SentinelClient::build(urls.clone(), MASTER, None, server)?;
                group.async_get_client().await?
            }
        };
        client.get_multiplexed_async_connection().await
    }

    /// A connection to Redis.
    pub(in crate::live) async fn redis(&self) -> Result<rowbust_client::Redis, LiveError> {
        let options = ConnectOptions::default();
        Ok(match &self.redis {
            Address::One(url) => rowbust_client::Redis::connect(url, options).await?,
            Address::Sentinels(urls) => {
                let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
                rowbust_client::Redis::sentinel(&urls, MASTER, options).await?
            }
        })
    }
}
