//! Connections to the server: options, TLS, and what went wrong when there is none.
//!
//! Guarantees: a secret is read again for each connection (so a rotated one works without a restart) and stands in no
//! error; there is no unencrypted fallback; every attempt ends within [`CONNECT_TIMEOUT`]. May depend on `config`.

use std::{io, panic::AssertUnwindSafe, path::Path, time::Duration};

use futures_util::FutureExt as _;
use mysql_async::{Conn, DriverError, IoError, Opts, OptsBuilder};
use secrecy::ExposeSecret;

use super::wire::{
    KEEPALIVE, Target, Wire, WireError,
    tls::{FileError, Material},
    unknown_plugin,
};
use crate::config::{self, Password, Tls, TlsMode};

/// Bound of one attempt: name resolution, TCP, TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that the protocol allows. With less, one large answer ends the connection (`PacketTooLarge`).
const MAX_ALLOWED_PACKET: usize = 1 << 30;

/// Logins of the driver for queries that may panic in one attempt.
const LOGINS: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there, or not in time, or the server is starting, stopping or full.
    #[error("{address}: can't be reached: {reason}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// In words.
        reason: String,
    },
    /// User, password, or the host that the user may come from.
    #[error("{address}: login refused: {reason}")]
    Auth {
        /// `host:port`.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// No TLS there, or its certificate isn't the one that the mode asks for.
    #[error("{address}: TLS: {reason}")]
    Tls {
        /// `host:port`.
        address: String,
        /// In words.
        reason: String,
    },
    /// The password's file can't be read.
    #[error("password file {path}: {source}")]
    PasswordFile {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A file of certificates or the key can't be used.
    #[error("TLS file {0}")]
    TlsFile(#[from] FileError),
}

/// Makes connections for one account. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    user: String,
    password: Password,
    tls: Tls,
    primary: (String, u16),
}

impl Connector {
    /// For the account of `source:`.
    pub fn new(source: &config::Source) -> Self {
        Self {
            user: source.user.clone(),
            password: source.password.clone(),
            tls: source.tls.clone(),
            primary: (source.host.clone(), source.port),
        }
    }

    /// `host:port` of the server whose binlog is read.
    pub fn primary_address(&self) -> String {
        address(&self.primary.0, self.primary.1)
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.tls.mode != TlsMode::Disabled
    }

    /// Connects to the server whose binlog is read, for queries.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn primary(&self) -> Result<Conn, ConnectError> {
        self.connect(&self.primary.0, self.primary.1).await
    }

    /// Connects to the server whose binlog is read, for its stream.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn stream(&self) -> Result<Wire, ConnectError> {
        let (host, port) = (self.primary.0.as_str(), self.primary.1);
        let address = address(host, port);
        let password = self.secret().await?;
        let tls = match Material::load(&self.tls).await? {
            None => None,
            Some(material) => Some(material.client_config().map_err(|e| tls_error(&address, &e))?),
        };
        let target = Target { host, port, user: &self.user, password: password.as_deref(), tls };
        match tokio::time::timeout(CONNECT_TIMEOUT, Wire::connect(target)).await {
            Ok(Ok(wire)) => Ok(wire),
            Ok(Err(error)) => Err(classify_wire(address, self.uses_tls(), error)),
            Err(_) => Err(no_answer(address)),
        }
    }

    /// Connects to `host`, for queries.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, host: &str, port: u16) -> Result<Conn, ConnectError> {
        let address = address(host, port);
        let password = self.secret().await?;
        let tls = Material::load(&self.tls).await?;
        let opts = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(Some(&self.user))
            .pass(password)
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE))
            .tcp_nodelay(true)
            .stmt_cache_size(0)
            .max_allowed_packet(Some(MAX_ALLOWED_PACKET))
            // Given so that the driver doesn't ask; it only matters to its pool.
            .wait_timeout(Some(28_800))
            .ssl_opts(tls.as_ref().map(Material::driver_options));
        let opts = Opts::from(opts);
        let login = async {
            // A nonce of parsec's that ends in 0 makes mysql_async 0.37 panic, one login in 256: another has another.
            for _ in 0..LOGINS {
                if let Ok(answer) = AssertUnwindSafe(Conn::new(opts.clone())).catch_unwind().await {
                    return answer.map_err(|e| classify(address.clone(), self.uses_tls(), &e));
                }
            }
            let reason = "the driver can't take the server's greeting".into();
            Err(ConnectError::Unreachable { address: address.clone(), reason })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, login).await.unwrap_or_else(|_| Err(no_answer(address.clone())))
    }

    /// For a driver that connects by itself, without TLS.
    #[cfg(feature = "mysql-cdc")]
    pub(super) async fn plain_account(&self) -> Result<super::cdc::Account, ConnectError> {
        Ok(super::cdc::Account {
            host: self.primary.0.clone(),
            port: self.primary.1,
            user: self.user.clone(),
            password: self.secret().await?.unwrap_or_default().into(),
        })
    }

    async fn secret(&self) -> Result<Option<String>, ConnectError> {
        Ok(match &self.password {
            Password::Empty => None,
            Password::Value(secret) => Some(secret.expose_secret().to_owned()),
            Password::File(path) => Some(read_secret(path).await?),
        })
    }
}

async fn read_secret(path: &Path) -> Result<String, ConnectError> {
    let mut text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| ConnectError::PasswordFile { path: path.display().to_string(), source })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn no_answer(address: String) -> ConnectError {
    let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
    ConnectError::Unreachable { address, reason }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The rustls error inside, if it is one.
fn rustls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut source = Some(error);
    while let Some(e) = source {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An `io::Error` made from another error doesn't name it as its source, but holds it.
        if let Some(inner) = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return Some(tls);
        }
        source = e.source();
    }
    None
}

fn tls_error(address: &str, error: &rustls::Error) -> ConnectError {
    use rustls::{CertificateError as C, Error as E};
    let help = match error {
        // The latter: by an authority of the same name, as MySQL's own are on every server.
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "; its authority isn't the one of `ca_file` (without it: of the system)"
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "; name the server in `source.url` as its certificate does, or write `mode: verify_ca`"
        }
        _ => "",
    };
    ConnectError::Tls { address: address.to_owned(), reason: format!("{error}{help}") }
}

/// The server's refusal of a login; `tls`: over TLS.
fn refused(address: String, tls: bool, code: u16, message: &str) -> ConnectError {
    let reason = format!("{message} ({code})");
    match code {
        // ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN, ER_HOST_IS_BLOCKED, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED
        1040 | 1053 | 1129 | 1203 | 1226 => ConnectError::Unreachable { address, reason },
        // ER_SECURE_TRANSPORT_REQUIRED
        3159 => ConnectError::Tls { address, reason: format!("{reason}; set `source.tls`") },
        // ER_ACCESS_DENIED_ERROR. MariaDB says no more about `require_secure_transport` and REQUIRE SSL.
        1045 if !tls => {
            ConnectError::Auth { address, reason: format!("{reason}, or TLS is asked for: `source.tls`") }
        }
        _ => ConnectError::Auth { address, reason },
    }
}

fn no_tls(address: String) -> ConnectError {
    ConnectError::Tls { address, reason: "the server has no TLS".into() }
}

fn classify(address: String, tls: bool, error: &mysql_async::Error) -> ConnectError {
    use mysql_async::Error as E;
    if let Some(error) = rustls_error(error) {
        return tls_error(&address, error);
    }
    match error {
        E::Server(e) => refused(address, tls, e.code, &e.message),
        E::Io(IoError::Tls(e)) => ConnectError::Tls { address, reason: e.to_string() },
        E::Io(IoError::Io(e)) => ConnectError::Unreachable { address, reason: e.to_string() },
        E::Driver(DriverError::NoClientSslFlagFromServer) => no_tls(address),
        E::Driver(DriverError::UnknownAuthPlugin { name }) => {
            ConnectError::Auth { address, reason: unknown_plugin(name) }
        }
        E::Driver(
            e @ (DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::InvalidParsecSalt),
        ) => ConnectError::Auth { address, reason: e.to_string() },
        other => ConnectError::Unreachable { address, reason: other.to_string() },
    }
}

fn classify_wire(address: String, tls: bool, error: WireError) -> ConnectError {
    if let Some(error) = rustls_error(&error) {
        return tls_error(&address, error);
    }
    match error {
        WireError::Server { code, message } => refused(address, tls, code, &message),
        WireError::NoTls => no_tls(address),
        WireError::Tls(e) => tls_error(&address, &e),
        WireError::Plugin(reason) => ConnectError::Auth { address, reason },
        WireError::Io(_) | WireError::Malformed(_) => {
            ConnectError::Unreachable { address, reason: error.to_string() }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_error_is_a_tls_error() {
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
            )
        };
        for error in [
            classify("db1:3306".into(), true, &wrong().into()),
            classify_wire("db1:3306".into(), true, wrong().into()),
        ] {
            assert!(
                matches!(&error, ConnectError::Tls { reason, .. } if reason.contains("`ca_file`")),
                "{error}"
            );
        }
    }

    /// Speaks one login by parsec, with a nonce that ends in `last`; at its end the account is refused.
    async fn parsec(listener: &tokio::net::TcpListener, last: u8) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut greeting = b"\x0a11.8.3-MariaDB\0\x01\0\0\0".to_vec();
        greeting.extend([b'a'; 8]);
        greeting.push(0);
        // CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; 21 bytes of scramble.
        greeting.extend([0x01, 0x82, 45, 2, 0, 0x08, 0, 21]);
        greeting.extend([0; 10]);
        greeting.extend([b'b'; 12]);
        greeting.extend(b"\0mysql_native_password\0");
        let mut switch = b"\xfeparsec\0".to_vec();
        switch.extend([9; 31]);
        switch.push(last);
        let salt = [&[1, b'P', 0][..], &[3; 18]].concat();
        let refused = b"\xff\x15\x04#28000Access denied".to_vec();
        // Numbers alternate: ours are even.
        for (packet, number) in [greeting, switch, salt, refused].iter().zip((0..).step_by(2)) {
            let length = u32::try_from(packet.len()).unwrap().to_le_bytes();
            let head = [length[0], length[1], length[2], number];
            socket.write_all(&[&head[..], packet].concat()).await.unwrap();
            let mut answer = [0; 4];
            if socket.read_exact(&mut answer).await.is_err() {
                return;
            }
            let rest = u32::from_le_bytes([answer[0], answer[1], answer[2], 0]);
            socket.read_exact(&mut vec![0; rest as usize]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_login_that_the_driver_can_not_take_is_repeated() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "source: {{ url: \"mysql://u@127.0.0.1:{}\", password: c4n4ry }}\nredis: {{ main: \"redis://c\" }}\n\
             mappings: [{{ table: shop.p, keys: [x] }}]\n",
            listener.local_addr().unwrap().port()
        );
        let config = config::parse(&text, "t.yaml".as_ref(), &|_| None).unwrap();
        let server = async {
            parsec(&listener, 0).await;
            parsec(&listener, 9).await;
        };
        let connector = Connector::new(&config.source);
        let (error, ()) = tokio::join!(connector.primary(), server);
        assert!(
            matches!(&error, Err(ConnectError::Auth { reason, .. }) if reason.contains("denied")),
            "{error:?}"
        );
    }

    #[test]
    fn an_ipv6_address_is_bracketed() {
        assert_eq!(address("::1", 3306), "[::1]:3306");
    }
}
