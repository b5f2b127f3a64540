//! How to connect: times, login, certificates.
//!
//! Guarantees: no password and no key is shown by `Debug`.

use std::{fmt, time::Duration};

use redis::{ClientTlsConfig, TlsCertificates};

/// How to connect.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::ConnectOptions;
/// // A read that waits for Redis for longer than this goes to the database.
/// let options = ConnectOptions::default().response_timeout(Duration::from_millis(50));
/// assert_eq!(options.connect_timeout, Duration::from_secs(1));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// How long a connection may take to be made, login included. Default: 1 s.
    pub connect_timeout: Duration,
    /// How long a reply may take. Default: 500 ms. A read then goes on without Redis (`Settings::on_cache_error`).
    pub response_timeout: Duration,
    /// With sentinels: the login at the servers. Default: none. (Elsewhere, and for the sentinels themselves, it is part of the URL.)
    pub login: Option<Login>,
    /// Certificates for `rediss://`. Default: the system's authorities, and none of one's own.
    pub tls: Option<Tls>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            login: None,
            tls: None,
        }
    }
}

impl ConnectOptions {
    /// Sets [`ConnectOptions::response_timeout`](#structfield.response_timeout): how long a reply may take.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::ConnectOptions;
    /// let options = ConnectOptions::default().response_timeout(Duration::from_millis(50));
    /// assert_eq!(options.response_timeout, Duration::from_millis(50));
    /// ```
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Sets [`ConnectOptions::connect_timeout`](#structfield.connect_timeout): how long a connection may take to be made.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::ConnectOptions;
    /// let options = ConnectOptions::default().connect_timeout(Duration::from_millis(300));
    /// assert_eq!(options.connect_timeout, Duration::from_millis(300));
    /// ```
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`ConnectOptions::login`](#structfield.login), for servers behind sentinels.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{ConnectOptions, Login, Redis};
    /// let login = Login { password: Some(std::env::var("REDIS_PASSWORD").unwrap_or_default()), ..Login::default() };
    /// let options = ConnectOptions::default().login(login);
    /// let redis = Redis::sentinel(&["redis://sentinel1:26379"], "shop", options).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.login = Some(login);
        self
    }

    /// Sets [`ConnectOptions::tls`](#structfield.tls).
    ///
    /// Example: see [`Tls`].
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// For `rediss://`, where there are any.
    pub(super) fn certificates(&self) -> Option<TlsCertificates> {
        self.tls.clone().map(|Tls { ca, own }| TlsCertificates {
            root_cert: ca,
            client_tls: own.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
        })
    }
}

/// Whom to trust, and who one is, with `rediss://`. All is PEM.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use rowbust_client::{ConnectOptions, Redis, Tls};
/// let tls = Tls::default()
///     .ca(std::fs::read("/etc/redis/ca.pem")?)
///     .own(std::fs::read("/etc/app/cert.pem")?, std::fs::read("/etc/app/key.pem")?);
/// let redis = Redis::connect("rediss://cache:6380", ConnectOptions::default().tls(tls)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Vec<u8>>,
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Certificates of the authorities to trust, one after the other, instead of the system's.
    ///
    /// Example: see [`Tls`].
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// One's own certificate and its private key, for servers that ask for them. Default: none.
    ///
    /// Example: see [`Tls`].
    #[must_use]
    pub fn own(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.own = Some((certificate.into(), key.into()));
        self
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("own", &self.own.is_some())
            .finish_non_exhaustive()
    }
}

/// Who logs in at a server.
///
/// ```
/// use rowbust_client::{ConnectOptions, Login};
/// let login = Login { username: Some("app".into()), password: Some("secret".into()), db: 0 };
/// let options = ConnectOptions::default().login(login);
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
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
