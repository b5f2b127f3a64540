//! The connection to Redis: one server, the master that sentinels name, or a cluster.
//!
//! Guarantees: a broken connection is made anew at the next command; while a server can't be reached, commands fail at once, but for one
//! try per [`RETRY`]. In sentinel mode every connection that is used said that it is the master's when it was made, and is given up within
//! [`WATCH`] or so after the sentinels name another one. Commands go to masters only. May depend on `error`.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, RedisConnectionInfo, RedisError, ServerErrorKind,
    Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

/// Between two tries to reach a server that can't be reached.
const RETRY: Duration = Duration::from_millis(100);
/// Between two looks at who is the master.
const WATCH: Duration = Duration::from_secs(1);

/// How to connect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// How long a connection may take to be made, login included. Default: 1 s.
    pub connect_timeout: Duration,
    /// How long a reply may take. Default: 500 ms. A read then goes on without Redis (`Settings::on_cache_error`).
    pub response_timeout: Duration,
    /// With sentinels: the login at the servers. Default: none. (Elsewhere, and for the sentinels themselves, it is part of the URL.)
    pub login: Option<Login>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            login: None,
        }
    }
}

impl ConnectOptions {
    /// Sets [`ConnectOptions::response_timeout`].
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Sets [`ConnectOptions::connect_timeout`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`ConnectOptions::login`].
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.login = Some(login);
        self
    }
}

/// Who logs in at a server.
#[derive(Clone, Default)]
pub struct Login {
    /// Default: none, which is the user `default`.
    pub username: Option<String>,
    /// Default: none.
    pub password: Option<String>,
    /// Which database. Default: 0.
    pub db: i64,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

/// A Redis, Redis Cluster, or a master by way of sentinels. Cheap to clone: all clones share the connections.
///
/// ```no_run
/// # async fn example() -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{ConnectOptions, Redis};
/// let one = Redis::connect("redis://cache:6379/0", ConnectOptions::default()).await?;
/// let cluster = Redis::cluster(&["redis://node1:6379", "redis://node2:6379"], ConnectOptions::default()).await?;
/// let sentinels = ["redis://sentinel1:26379", "redis://sentinel2:26379", "redis://sentinel3:26379"];
/// let master = Redis::sentinel(&sentinels, "shop", ConnectOptions::default()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Redis {
    kind: Kind,
    commands: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Kind {
    One(Arc<One>),
    Cluster(Box<ClusterConnection>),
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::One(one) if one.sentinels.is_some() => "sentinel",
            Kind::One(_) => "standalone",
            Kind::Cluster(_) => "cluster",
        };
        f.debug_struct("Redis").field("kind", &kind).finish_non_exhaustive()
    }
}

impl Redis {
    /// One server; `url` as in `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    ///
    /// # Errors
    /// When the URL can't be understood, or the server can't be reached.
    pub async fn connect(url: &str, options: ConnectOptions) -> Result<Self, crate::Error> {
        let client = Client::open(url).map_err(connecting)?;
        Self::one(Some(client), None, options).await
    }

    /// The master that these sentinels call `master`. Their login, if they need one, is in the URLs; the servers' in
    /// [`ConnectOptions::login`].
    ///
    /// # Errors
    /// When a URL can't be understood, or no sentinel or no master can be reached.
    pub async fn sentinel(
        urls: &[&str],
        master: &str,
        options: ConnectOptions,
    ) -> Result<Self, crate::Error> {
        let login = options.login.clone().unwrap_or_default();
        let mut settings = RedisConnectionInfo::default().set_db(login.db);
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
        let sentinels = SentinelClient::build(urls.to_vec(), master, Some(node), SentinelServerType::Master)
            .map_err(connecting)?;
        Self::one(None, Some(tokio::sync::Mutex::new(sentinels)), options).await
    }

    async fn one(
        client: Option<Client>,
        sentinels: Option<tokio::sync::Mutex<SentinelClient>>,
        options: ConnectOptions,
    ) -> Result<Self, crate::Error> {
        let is_watched = sentinels.is_some();
        let one = Arc::new(One {
            client,
            sentinels,
            options,
            current: RwLock::default(),
            connecting: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
        });
        one.connection().await.map_err(connecting)?;
        if is_watched {
            tokio::spawn(watch(Arc::downgrade(&one)));
        }
        Ok(Self { kind: Kind::One(one), commands: Arc::default() })
    }

    /// A cluster, by some of its nodes. Their URLs must have the same login.
    ///
    /// # Errors
    /// When a URL can't be understood, or no node can be reached.
    pub async fn cluster(urls: &[&str], options: ConnectOptions) -> Result<Self, crate::Error> {
        let nodes = urls
            .iter()
            .map(|url| url.into_connection_info())
            .collect::<Result<Vec<_>, _>>()
            .map_err(connecting)?;
        let client = ClusterClientBuilder::new(nodes)
            .connection_timeout(options.connect_timeout)
            .response_timeout(options.response_timeout)
            // Redirections and connections that broke: a few, and briefly.
            .retries(3)
            .max_retry_wait(100)
            .min_retry_wait(10)
            .build()
            .map_err(connecting)?;
        let connection = client.get_async_connection().await.map_err(connecting)?;
        Ok(Self { kind: Kind::Cluster(Box::new(connection)), commands: Arc::default() })
    }

    /// Commands sent so far by all clones; a script that had to be sent again counts again.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands.load(Relaxed)
    }

    /// Sends a command once. The outcome of one that failed is unknown.
    pub(crate) async fn query(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.commands.fetch_add(1, Relaxed);
        match &self.kind {
            Kind::One(one) => one.query(cmd).await,
            Kind::Cluster(connection) => connection.as_ref().clone().req_packed_command(cmd).await,
        }
        .and_then(Value::extract_error)
    }

    /// Sends a command that may be carried out twice, and again if the connection turned out to be broken.
    pub(crate) async fn query_again(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self.query(cmd).await {
            Err(error) if matches!(self.kind, Kind::One(_)) && is_broken(&error) && !error.is_timeout() => {
                self.query(cmd).await
            }
            other => other,
        }
    }
}

fn connecting(source: RedisError) -> crate::Error {
    crate::Error::Redis { command: "connect", source }
}

/// One server at a time.
struct One {
    /// Without sentinels.
    client: Option<Client>,
    sentinels: Option<tokio::sync::Mutex<SentinelClient>>,
    options: ConnectOptions,
    current: RwLock<Current>,
    /// One connect at a time.
    connecting: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, RedisError)>>,
}

#[derive(Default)]
struct Current {
    /// Counts connections, so that an error of an older one doesn't end a newer one.
    made: u64,
    /// Which server.
    address: String,
    connection: Option<MultiplexedConnection>,
}

impl One {
    async fn query(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let (made, mut connection) = self.connection().await?;
        let answer = connection.send_packed_command(cmd).await;
        if answer.as_ref().is_err_and(is_broken) {
            self.forget(made);
        }
        answer
    }

    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some((current.made, current.connection.clone()?))
    }

    fn forget(&self, made: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.made == made {
            current.connection = None;
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let recently = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, error)) = recently
            && at.elapsed() < RETRY
        {
            return Err(error);
        }
        match Box::pin(self.connect()).await {
            Ok((address, connection)) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Current { made: current.made + 1, address, connection: Some(connection.clone()) };
                Ok((current.made, connection))
            }
            Err(error) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<(String, MultiplexedConnection), RedisError> {
        let client = self.resolve().await?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.connect_timeout))
            .set_response_timeout(Some(self.options.response_timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&options).await?;
        Ok((client.get_connection_info().addr().to_string(), connection))
    }

    /// Whom to connect to; with sentinels, a server that says itself that it is a master.
    async fn resolve(&self) -> Result<Client, RedisError> {
        let unreachable = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        match (&self.sentinels, &self.client) {
            (Some(sentinels), _) => {
                let mut sentinels = sentinels.lock().await;
                let within = self.options.connect_timeout * 2;
                tokio::time::timeout(within, sentinels.async_get_client()).await.map_err(|_| unreachable())?
            }
            (None, Some(client)) => Ok(client.clone()),
            (None, None) => Err(unreachable()),
        }
    }
}

/// A connection that must not be used any more: broken, without answers, or to a server that takes no writes.
fn is_broken(error: &RedisError) -> bool {
    use redis::ErrorKind::Server;
    let refuses = matches!(
        error.kind(),
        Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading)
    );
    refuses || error.is_io_error() || error.is_unrecoverable_error()
}

/// Gives the connection up when the sentinels name another server: the old one may still answer, with what it had.
async fn watch(one: Weak<One>) {
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(one) = one.upgrade() else { return };
        // Sentinels that don't answer say nothing about the master.
        let Ok(client) = one.resolve().await else { continue };
        let address = client.get_connection_info().addr().to_string();
        let mut current = one.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.connection.is_some() && current.address != address {
            tracing::warn!(from = current.address, to = address, "the sentinels name another redis master");
            current.connection = None;
        }
    }
}
