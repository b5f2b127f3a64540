//! Connections to the servers of one target: login, TLS, deadlines.
//!
//! Guarantees: what `open` returns has logged in and answered a PING. Files (passwords, certificates) are read at each connect, so that
//! a rotation needs no restart. May depend on `config`.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;

use super::super::classify::{self, Failure};
use crate::config::{Password, RedisMode, RedisTarget, Tls, TlsMode};

/// How long an answer may take. A frozen Redis is told from a slow one by it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may take to be made, login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for a sentinel: several are asked at once, and one that is down must not hold up the others' answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file of the config can't be read.
    #[error("redis {target}: can't read {path}: {source}")]
    File {
        /// Which target.
        target: String,
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server can't be reached, or refuses the login.
    #[error("redis {target} at {host}:{port}: {failure}")]
    Redis {
        /// Which target.
        target: String,
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// What it said.
        failure: Failure,
    },
}

impl ConnectError {
    /// As a failed removal: the target's fault.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Redis { failure, .. } => failure,
            file @ Self::File { .. } => Failure::target("IO", file.to_string()),
        }
    }
}

/// Who logs in, and how.
#[derive(Debug, Clone, Copy)]
struct Login<'a> {
    username: Option<&'a str>,
    password: &'a Password,
    tls: Option<&'a Tls>,
    db: i64,
}

/// Makes connections for one target.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) config: RedisTarget,
}

impl Connector {
    /// A connection to one of the target's Redis servers.
    pub(super) async fn open(&self, host: &str, port: u16) -> Result<MultiplexedConnection, ConnectError> {
        let c = &self.config;
        let login =
            Login { username: c.username.as_deref(), password: &c.password, tls: c.tls.as_ref(), db: c.db };
        // WAIT is answered after its own time-out at the latest.
        let response = RESPONSE_TIMEOUT + c.durability.map_or(Duration::ZERO, |d| d.timeout);
        self.open_as(host, port, login, CONNECT_TIMEOUT, response).await
    }

    /// A connection to a sentinel, with the sentinels' own login.
    pub(super) async fn open_sentinel(
        &self,
        host: &str,
        port: u16,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let login = match &self.config.mode {
            RedisMode::Sentinel { username, password, tls, .. } => {
                Login { username: username.as_deref(), password, tls: tls.as_ref(), db: 0 }
            }
            _ => Login { username: None, password: &Password::Empty, tls: None, db: 0 },
        };
        self.open_as(host, port, login, SENTINEL_TIMEOUT, SENTINEL_TIMEOUT).await
    }

    async fn open_as(
        &self,
        host: &str,
        port: u16,
        login: Login<'_>,
        connect: Duration,
        response: Duration,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let client = self.client(host, port, login)?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response));
        let connected = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&options).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        connected.await.map_err(|error| self.refused(host, port, &error))
    }

    fn refused(&self, host: &str, port: u16, error: &redis::RedisError) -> ConnectError {
        self.failed(host, port, classify::error(error))
    }

    pub(super) fn failed(&self, host: &str, port: u16, failure: Failure) -> ConnectError {
        ConnectError::Redis { target: self.config.name.clone(), host: host.to_owned(), port, failure }
    }

    fn client(&self, host: &str, port: u16, login: Login<'_>) -> Result<Client, ConnectError> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|source| ConnectError::File {
                target: self.config.name.clone(),
                path: path.to_owned(),
                source,
            })
        };
        let mut settings = RedisConnectionInfo::default()
            .set_db(login.db)
            .set_lib_name("rowbust", env!("CARGO_PKG_VERSION"));
        if let Some(user) = login.username {
            settings = settings.set_username(user);
        }
        match login.password {
            Password::Empty => {}
            Password::Value(secret) => settings = settings.set_password(secret.expose_secret()),
            Password::File(path) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                settings = settings.set_password(text.trim_end_matches(['\r', '\n']));
            }
        }
        let (addr, certificates) = match login.tls {
            None => (ConnectionAddr::Tcp(host.to_owned(), port), None),
            Some(tls) => {
                let root_cert = tls.ca_file.as_deref().map(read).transpose()?;
                let mut addr = ConnectionAddr::TcpTls {
                    host: host.to_owned(),
                    port,
                    insecure: tls.mode == TlsMode::Required,
                    tls_params: None,
                };
                if tls.mode == TlsMode::VerifyCa {
                    addr.set_danger_accept_invalid_hostnames(true);
                }
                let client_tls = match &tls.client {
                    None => None,
                    Some(own) => Some(ClientTlsConfig {
                        client_cert: read(&own.cert_file)?,
                        client_key: read(&own.key_file)?,
                    }),
                };
                (addr, Some(TlsCertificates { client_tls, root_cert }))
            }
        };
        let info: ConnectionInfo = addr
            .into_connection_info()
            .map_err(|error| self.refused(host, port, &error))?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(settings);
        match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
        .map_err(|error| self.refused(host, port, &error))
    }
}
