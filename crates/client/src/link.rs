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
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, RedisError, ServerErrorKind,
    TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};

mod options;

pub use options::{ConnectOptions, Login, Tls};

/// Between two tries to reach a server that can't be reached.
const RETRY: Duration = Duration::from_millis(100);
/// Between two looks at who is the master.
const WATCH: Duration = Duration::from_secs(1);

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
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    commands: AtomicU64,
    round_trips: AtomicU64,
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
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{ConnectOptions, Redis};
    /// let redis = Redis::connect("redis://app:secret@cache:6379/0", ConnectOptions::default()).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(url: &str, options: ConnectOptions) -> Result<Self, crate::Error> {
        let client = match options.certificates() {
            Some(certificates) => Client::build_with_tls(url, certificates),
            None => Client::open(url),
        };
        let client = client.map_err(connecting)?;
        Self::one(Some(client), None, options).await
    }

    /// The master that these sentinels call `master`. Their login, if they need one, is in the URLs, the same in all of them; the servers'
    /// in [`ConnectOptions::login`]. With `rediss://` sentinels and servers are spoken to by TLS; without it, and with
    /// [`ConnectOptions::tls`], the servers are.
    ///
    /// # Errors
    /// When a URL can't be understood, or no sentinel or no master can be reached.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{ConnectOptions, Redis};
    /// let sentinels = ["redis://sentinel1:26379", "redis://sentinel2:26379", "redis://sentinel3:26379"];
    /// let redis = Redis::sentinel(&sentinels, "shop", ConnectOptions::default()).await?;
    /// # Ok(()) }
    /// ```
    pub async fn sentinel(
        urls: &[&str],
        master: &str,
        options: ConnectOptions,
    ) -> Result<Self, crate::Error> {
        let sentinels = sentinels(urls, master, &options).map_err(connecting)?;
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
        Ok(Self { kind: Kind::One(one), counts: Arc::default() })
    }

    /// A cluster, by some of its nodes. Their URLs must have the same login.
    ///
    /// # Errors
    /// When a URL can't be understood, or no node can be reached.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{ConnectOptions, Redis};
    /// // The other nodes are found by these.
    /// let redis = Redis::cluster(&["redis://node1:6379", "redis://node2:6379"], ConnectOptions::default()).await?;
    /// # Ok(()) }
    /// ```
    pub async fn cluster(urls: &[&str], options: ConnectOptions) -> Result<Self, crate::Error> {
        let nodes = urls
            .iter()
            .map(|url| url.into_connection_info())
            .collect::<Result<Vec<_>, _>>()
            .map_err(connecting)?;
        let mut builder = ClusterClientBuilder::new(nodes);
        if let Some(certificates) = options.certificates() {
            builder = builder.certs(certificates);
        }
        let client = builder
            .connection_timeout(options.connect_timeout)
            .response_timeout(options.response_timeout)
            // Redirections and connections that broke: a few, and briefly.
            .retries(3)
            .max_retry_wait(100)
            .min_retry_wait(10)
            .build()
            .map_err(connecting)?;
        let connection = client.get_async_connection().await.map_err(connecting)?;
        Ok(Self { kind: Kind::Cluster(Box::new(connection)), counts: Arc::default() })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster(_))
    }

    /// Commands sent so far by all clones; a script that had to be sent again counts again.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let before = client.redis().commands();
    /// client.invalidate(&["product:7", "product:8"]).await?;
    /// println!("commands: {}", client.redis().commands() - before);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.counts.commands.load(Relaxed)
    }

    /// How often a call has waited for Redis so far, by all clones: two commands in one write count once.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let before = client.redis().round_trips();
    /// client.get_or_load("stock:7", async |_| Ok::<_, std::io::Error>(Some(5))).await?;
    /// println!("round trips: {}", client.redis().round_trips() - before);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.counts.round_trips.load(Relaxed)
    }

    fn count(&self, commands: u64) {
        self.counts.commands.fetch_add(commands, Relaxed);
        self.counts.round_trips.fetch_add(1, Relaxed);
    }

    /// Sends a command once. The outcome of one that failed is unknown.
    pub(crate) async fn query(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.count(1);
        match &self.kind {
            Kind::One(one) => one.query(cmd).await,
            Kind::Cluster(connection) => {
                connection.as_ref().clone().req_packed_command(cmd).await.and_then(Value::extract_error)
            }
        }
    }

    /// Sends two commands in one write over one connection: the server carries out the second one after the first, whatever became of
    /// that. `None`: nothing was sent, for on a cluster each key has a server of its own.
    pub(crate) async fn query_both(&self, first: &Cmd, second: &Cmd) -> Option<Both> {
        let Kind::One(one) = &self.kind else { return None };
        self.count(2);
        Some(one.query_both(first, second).await)
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

fn sentinels(urls: &[&str], master: &str, options: &ConnectOptions) -> Result<SentinelClient, RedisError> {
    let infos = urls.iter().map(|url| url.into_connection_info()).collect::<Result<Vec<_>, _>>()?;
    let mode = infos.iter().find_map(|info| match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Some(TlsMode::Insecure),
        ConnectionAddr::TcpTls { .. } => Some(TlsMode::Secure),
        _ => None,
    });
    let addresses = infos.iter().map(|info| info.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?;
    if let Some(login) = infos.first().map(|info| info.redis_settings()) {
        if let Some(username) = login.username() {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
    }
    let certificates = options.certificates();
    if let (Some(certificates), Some(_)) = (&certificates, mode) {
        builder = builder.set_client_to_sentinel_certificates(certificates.clone());
    }
    if let Some(mode) = mode.or(certificates.is_some().then_some(TlsMode::Secure)) {
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    if let Some(certificates) = certificates {
        builder = builder.set_client_to_redis_certificates(certificates);
    }
    let login = options.login.clone().unwrap_or_default();
    builder = builder.set_client_to_redis_db(login.db);
    if let Some(username) = login.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = login.password {
        builder = builder.set_client_to_redis_password(password);
    }
    builder.build()
}

fn connecting(source: RedisError) -> crate::Error {
    crate::Error::Redis { command: "connect", source }
}

/// Each command's answer, if there are any.
pub(crate) type Both = Result<(Result<Value, RedisError>, Result<Value, RedisError>), RedisError>;

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
        let answer = connection.send_packed_command(cmd).await.and_then(Value::extract_error);
        self.judge(made, answer.as_ref().err());
        answer
    }

    async fn query_both(&self, first: &Cmd, second: &Cmd) -> Both {
        let (made, mut connection) = self.connection().await?;
        let mut pipeline = redis::Pipeline::with_capacity(2);
        pipeline.add_command(first.clone()).add_command(second.clone());
        let answers = connection.send_packed_commands(&pipeline, 0, 2).await;
        self.judge(made, answers.as_ref().err());
        let [first, second] = <[Value; 2]>::try_from(answers?)
            .map_err(|_| RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not two replies")))?
            .map(Value::extract_error);
        self.judge(made, first.as_ref().err());
        self.judge(made, second.as_ref().err());
        Ok((first, second))
    }

    /// Gives up a connection that must not be used any more.
    fn judge(&self, made: u64, error: Option<&RedisError>) {
        if error.is_some_and(is_broken) {
            self.forget(made);
        }
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
