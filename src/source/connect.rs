//! Connections to the server: options, TLS, and what went wrong when there is none.
//!
//! Guarantees: a secret is read again for each connection (so a rotated one works without a restart) and stands in no
//! error; there is no unencrypted fallback; every attempt ends within [`CONNECT_TIMEOUT`]. May depend on `config`.

use std::{io, net::IpAddr, time::Duration};

use mysql_async::{Conn, DriverError, IoError, Opts, OptsBuilder, SslOpts};
use secrecy::ExposeSecret;

use crate::config::{self, Password, Tls, TlsMode};

/// Bound of one attempt: name resolution, TCP, TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that the protocol allows. With less, one large event ends the stream for good (`PacketTooLarge`).
const MAX_ALLOWED_PACKET: usize = 1 << 30;

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

    /// Connects to the server whose binlog is read.
    pub async fn primary(&self) -> Result<Conn, ConnectError> {
        self.connect(&self.primary.0, self.primary.1).await
    }

    /// Connects to `host`.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Conn, ConnectError> {
        let address = address(host, port);
        let password = match &self.password {
            Password::Empty => None,
            Password::Value(secret) => Some(secret.expose_secret().to_owned()),
            Password::File(path) => {
                let mut text = tokio::fs::read_to_string(path).await.map_err(|source| {
                    ConnectError::PasswordFile { path: path.display().to_string(), source }
                })?;
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                Some(text)
            }
        };
        let opts = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(Some(&self.user))
            .pass(password)
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .tcp_nodelay(true)
            .stmt_cache_size(0)
            .max_allowed_packet(Some(MAX_ALLOWED_PACKET))
            // Given so that the driver doesn't ask; it only matters to its pool.
            .wait_timeout(Some(28_800));
        match attempt(opts.clone().ssl_opts(self.ssl_opts(None)).into()).await {
            Ok(conn) => Ok(conn),
            Err(Failure::Timeout) => Err(ConnectError::Unreachable {
                address,
                reason: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            }),
            Err(Failure::Driver(error)) => {
                if self.tls.mode == TlsMode::VerifyCa
                    && let Some(name) = certified_name(&error)
                {
                    // The driver checks the name in this mode too. The chain was already found good (it is checked
                    // before the name), so the server is asked for under a name that its certificate has.
                    return match attempt(opts.ssl_opts(self.ssl_opts(Some(name))).into()).await {
                        Ok(conn) => Ok(conn),
                        Err(Failure::Driver(error)) => Err(classify(address, &error)),
                        Err(Failure::Timeout) => {
                            Err(ConnectError::Unreachable { address, reason: "no answer in time".into() })
                        }
                    };
                }
                Err(classify(address, &error))
            }
        }
    }

    fn ssl_opts(&self, name: Option<String>) -> Option<SslOpts> {
        let mut opts = SslOpts::default();
        match self.tls.mode {
            TlsMode::Disabled => return None,
            TlsMode::Required => {
                opts = opts.with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
            }
            TlsMode::VerifyCa => opts = opts.with_danger_skip_domain_validation(true),
            TlsMode::VerifyIdentity => {}
        }
        if let Some(file) = &self.tls.ca_file {
            opts = opts.with_root_certs(vec![file.clone().into()]).with_disable_built_in_roots(true);
        }
        if let Some(name) = name {
            opts = opts.with_danger_tls_hostname_override(Some(name));
        }
        Some(opts)
    }
}

enum Failure {
    Timeout,
    Driver(mysql_async::Error),
}

async fn attempt(opts: Opts) -> Result<Conn, Failure> {
    match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(opts)).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(Failure::Driver(error)),
        Err(_) => Err(Failure::Timeout),
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The rustls error inside, if it is one.
fn rustls_error(error: &mysql_async::Error) -> Option<&rustls::Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
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

/// A name from a certificate that is good but for its name.
fn certified_name(error: &mysql_async::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForNameContext {
        presented, ..
    }) = rustls_error(error)?
    else {
        return None;
    };
    // As webpki prints them: `DnsName("db1")`, `IpAddress(10.0.0.1)`.
    presented.iter().find_map(|name| {
        let (kind, rest) = name.split_once('(')?;
        let text = rest.strip_suffix(')')?.trim_matches('"');
        match kind {
            "DnsName" => Some(text.replace('*', "any")),
            "IpAddress" => text.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
            _ => None,
        }
    })
}

fn classify(address: String, error: &mysql_async::Error) -> ConnectError {
    use mysql_async::Error as E;
    if let Some(tls) = rustls_error(error) {
        return ConnectError::Tls { address, reason: tls.to_string() };
    }
    match error {
        E::Server(e) => match e.code {
            // ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN, ER_HOST_IS_BLOCKED, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED
            1040 | 1053 | 1129 | 1203 | 1226 => {
                ConnectError::Unreachable { address, reason: format!("{} ({})", e.message, e.code) }
            }
            _ => ConnectError::Auth { address, reason: format!("{} ({})", e.message, e.code) },
        },
        E::Io(IoError::Tls(e)) => ConnectError::Tls { address, reason: e.to_string() },
        E::Io(IoError::Io(e)) => ConnectError::Unreachable { address, reason: e.to_string() },
        E::Driver(DriverError::NoClientSslFlagFromServer) => {
            ConnectError::Tls { address, reason: "the server has no TLS".into() }
        }
        E::Driver(
            e @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::InvalidParsecSalt),
        ) => ConnectError::Auth { address, reason: e.to_string() },
        other => ConnectError::Unreachable { address, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls_error(presented: &[&str]) -> mysql_async::Error {
        let name = rustls::pki_types::ServerName::try_from("db1").map(|n| n.to_owned()).ok();
        let cert = rustls::CertificateError::NotValidForNameContext {
            expected: name.expect("a name"),
            presented: presented.iter().map(|&s| s.to_owned()).collect(),
        };
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(cert)).into()
    }

    #[test]
    fn a_certificate_error_is_a_tls_error() {
        assert!(matches!(classify("db1:3306".into(), &tls_error(&[])), ConnectError::Tls { .. }));
    }

    #[test]
    fn verify_ca_takes_a_name_from_the_certificate() {
        assert_eq!(certified_name(&tls_error(&["DnsName(\"*.db.lan\")"])).as_deref(), Some("any.db.lan"));
        assert_eq!(certified_name(&tls_error(&["IpAddress(10.0.0.1)"])).as_deref(), Some("10.0.0.1"));
        assert_eq!(certified_name(&tls_error(&[])), None);
    }

    #[test]
    fn an_ipv6_address_is_bracketed() {
        assert_eq!(address("::1", 3306), "[::1]:3306");
    }
}
