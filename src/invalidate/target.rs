//! One Redis: its connection, its breaker, and the removal of many keys at once.
//!
//! Guarantees: an `Ok` of a removal means that Redis has acknowledged it. A failed connection is made anew only by the probe, with backoff.
//! May depend on `config` and `pipeline::batch`.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::{
    breaker::Breaker,
    classify::{self, Class, Failure},
    flush::is_outage,
};
use crate::{
    config::{Password, RedisTarget, TlsMode},
    pipeline::batch::Removal,
};

/// How long an answer may take. A frozen Redis is told from a slow one by it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may take to be made, login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One Redis target.
#[derive(Debug)]
pub struct Target {
    config: RedisTarget,
    /// Open while it fails.
    pub breaker: Breaker,
    connection: RwLock<Option<MultiplexedConnection>>,
    /// A removal that failed by the target's fault: what the probe asks for.
    refused: Mutex<Option<Cmd>>,
}

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

impl Target {
    /// A target that isn't connected yet.
    pub fn new(config: RedisTarget) -> Arc<Self> {
        Arc::new(Self {
            config,
            breaker: Breaker::default(),
            connection: RwLock::new(None),
            refused: Mutex::new(None),
        })
    }

    /// Its name in the config.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Connects, logs in and asks for a PING; later removals use this connection.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        let client = self.client()?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connected = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&options).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        match connected.await {
            Ok(connection) => {
                *self.connection.write().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                Ok(())
            }
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn refused(&self, error: &redis::RedisError) -> ConnectError {
        ConnectError::Redis {
            target: self.config.name.clone(),
            host: self.config.host.clone(),
            port: self.config.port,
            failure: classify::error(error),
        }
    }

    /// Files (password, CA) are read at each connect, so that a rotation needs no restart.
    fn client(&self) -> Result<Client, ConnectError> {
        let c = &self.config;
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|source| ConnectError::File {
                target: c.name.clone(),
                path: path.to_owned(),
                source,
            })
        };
        let mut login =
            RedisConnectionInfo::default().set_db(c.db).set_lib_name("rowbust", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &c.username {
            login = login.set_username(user);
        }
        match &c.password {
            Password::Empty => {}
            Password::Value(secret) => login = login.set_password(secret.expose_secret()),
            Password::File(path) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                login = login.set_password(text.trim_end_matches(['\r', '\n']));
            }
        }
        let (addr, certificates) = match &c.tls {
            None => (ConnectionAddr::Tcp(c.host.clone(), c.port), None),
            Some(tls) => {
                let root_cert = tls.ca_file.as_deref().map(read).transpose()?;
                let mut addr = ConnectionAddr::TcpTls {
                    host: c.host.clone(),
                    port: c.port,
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
        let settings = TcpSettings::default().set_nodelay(true);
        let info: ConnectionInfo = addr
            .into_connection_info()
            .map_err(|error| self.refused(&error))?
            .set_tcp_settings(settings)
            .set_redis_settings(login);
        match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
        .map_err(|error| self.refused(&error))
    }

    /// Removes one command's worth of whole keys. Nothing is sent while the breaker is open.
    pub async fn unlink(&self, keys: impl Iterator<Item = &[u8]>) -> Result<(), Failure> {
        let mut command = redis::cmd("UNLINK");
        for key in keys {
            command.arg(key);
        }
        let mut connection = self.ready_connection()?;
        let result = connection.send_packed_command(&command).await.and_then(Value::extract_error);
        let first = || match command.args_iter().nth(1) {
            Some(redis::Arg::Simple(key)) => Some(self::command(Removal { key, field: None })),
            _ => None,
        };
        self.judge(first, result.map(drop).map_err(|error| classify::error(&error)))
    }

    /// Removes keys and fields; one result for each removal, in order. A failure of the target fails them all.
    pub async fn remove_each(&self, removals: &[Removal<'_>]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut pipeline = redis::Pipeline::with_capacity(removals.len());
        for removal in removals {
            pipeline.add_command(command(*removal));
        }
        let mut connection = self.ready_connection()?;
        let first = || removals.first().map(|removal| command(*removal));
        let replies = match connection.send_packed_commands(&pipeline, 0, removals.len()).await {
            Ok(replies) if replies.len() == removals.len() => replies,
            Ok(replies) => {
                let message = format!("{} replies to {} commands", replies.len(), removals.len());
                return self
                    .judge(first, Err(Failure { class: Class::Target, code: "PROTOCOL".into(), message }));
            }
            Err(error) => return self.judge(first, Err(classify::error(&error))),
        };
        replies
            .into_iter()
            .map(|reply| match reply {
                Value::ServerError(error) => match classify::reply(&error) {
                    failure if failure.class == Class::Key => Ok(Err(failure)),
                    failure => self.judge(first, Err(failure)),
                },
                _ => Ok(Ok(())),
            })
            .collect()
    }

    /// The servers that take writes.
    pub fn masters(self: &Arc<Self>) -> Vec<Master> {
        let address = format!("{}:{}", self.config.host, self.config.port);
        vec![Master { target: Arc::clone(self), address, tag: None }]
    }

    /// A connection for an iteration: another one doesn't take its place when it breaks, for a cursor means nothing there.
    pub(super) fn session(&self) -> Result<Session<'_>, Failure> {
        Ok(Session { target: self, connection: self.ready_connection()? })
    }

    fn ready_connection(&self) -> Result<MultiplexedConnection, Failure> {
        if self.breaker.is_open() {
            return Err(Failure::breaker());
        }
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        connection.ok_or_else(|| {
            self.breaker.trip("IO");
            Failure { class: Class::Target, code: "IO".into(), message: "not connected".into() }
        })
    }

    /// Trips the breaker where the target itself failed.
    fn judge<T>(
        &self,
        refused: impl FnOnce() -> Option<Cmd>,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Err(failure) = &result
            && failure.class == Class::Target
            && self.breaker.trip(&failure.code)
        {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused();
            tracing::warn!(target = self.name(), code = %failure.code, error = %failure.message,
                "redis target fails, breaker opens: removals go to the retry queue");
        }
        result
    }

    /// Watches the breaker: while it is open, connects anew with backoff and closes it when that works. Until `shutdown`.
    pub async fn heal(&self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.breaker.opened() => {}
            }
            let mut backoff = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(Duration::from_secs(2))
                .with_jitter()
                .without_max_times()
                .build();
            loop {
                let wait = backoff.next().unwrap_or(Duration::from_secs(2));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                match self.connect().await {
                    Ok(()) => match self.writable().await {
                        Ok(()) => break,
                        Err(failure) => {
                            tracing::debug!(target = self.name(), code = %failure.code, "probe failed")
                        }
                    },
                    Err(error) => tracing::debug!(target = self.name(), %error, "probe failed"),
                }
            }
            let since = self.breaker.since();
            self.breaker.close();
            let after_ms = since.map_or(0, |(since, _)| since.elapsed().as_millis());
            tracing::info!(target = self.name(), after_ms, "redis target works again, breaker closed");
        }
    }

    /// Asks for what a PING doesn't show: a replica, and a server that can't write, answer PING well. It repeats a removal that was
    /// refused: that one is owed anyway, and the account has rights on its key (Redis looks at the ACL before anything else).
    async fn writable(&self) -> Result<(), Failure> {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without either, the next removal tells.
        let (Some(mut connection), Some(probe)) = (connection, refused) else { return Ok(()) };
        match connection.send_packed_command(&probe).await.and_then(Value::extract_error) {
            Ok(_) => Ok(()),
            Err(error) => match classify::error(&error) {
                failure if failure.class == Class::Key => Ok(()),
                failure => Err(failure),
            },
        }
    }
}

/// One server of a target.
#[derive(Debug, Clone)]
pub struct Master {
    target: Arc<Target>,
    /// `host:port`.
    pub address: String,
    /// On a cluster: a text for a hash tag that falls into one of its slots.
    pub tag: Option<String>,
}

impl Master {
    /// Sends one command. The breaker stays as it is.
    ///
    /// # Errors
    /// What the server or the connection said.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        self.target.session()?.peek(command).await
    }
}

/// One connection of a target.
#[derive(Debug)]
pub(super) struct Session<'a> {
    target: &'a Target,
    connection: MultiplexedConnection,
}

impl Session<'_> {
    /// A command that removes nothing. Trips the breaker where the target fails.
    pub(super) async fn ask<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        if self.target.breaker.is_open() {
            return Err(Failure::breaker());
        }
        match self.peek(command).await {
            Err(failure) if is_outage(&failure) => self.target.judge(|| None, Err(failure)),
            result => result,
        }
    }

    /// As [`Session::ask`], for what may fail.
    pub(super) async fn peek<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        command.query_async(&mut self.connection).await.map_err(|error| classify::error(&error))
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
