//! Handshake and authentication, by mysql_common's structures.
//!
//! Guarantees: with TLS asked for, nothing but the request for it is sent in the clear, and nothing that came in the clear
//! is used behind it; a password is sent as it is over TLS only, without it encrypted by the server's RSA key; an unknown plugin
//! is named. May depend on nothing else of the daemon.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use mysql_common::{
    constants::CapabilityFlags as Flags,
    crypto,
    io::ParseBuf,
    packets::{AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse, SslRequest},
    proto::MySerialize,
};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{EOF, OK, Socket, Target, Wire, WireError};

/// The most that the protocol allows. With less, the server refuses to send a large event.
const MAX_ALLOWED_PACKET: u32 = 1 << 30;

/// `utf8mb4_general_ci`, which both servers have.
const COLLATION: u8 = 45;

/// What is needed: the protocol since 4.1, and plugins.
const NEEDED: Flags =
    Flags::CLIENT_PROTOCOL_41.union(Flags::CLIENT_SECURE_CONNECTION).union(Flags::CLIENT_PLUGIN_AUTH);

/// What is used where the server has it.
const WANTED: Flags = Flags::CLIENT_LONG_FLAG
    .union(Flags::CLIENT_TRANSACTIONS)
    .union(Flags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA)
    .union(Flags::CLIENT_CONNECT_ATTRS);

/// What to do about a plugin that isn't known here; `name`: what the server calls it.
pub(in crate::source) fn unknown_plugin(name: &str) -> String {
    format!(
        "the account uses the authentication plugin {name}, which isn't supported; use caching_sha2_password, \
         mysql_native_password, ed25519 or parsec (ALTER USER)"
    )
}

/// Logs in on a fresh connection.
pub(super) async fn login(wire: &mut Wire, target: Target<'_>) -> Result<(), WireError> {
    let greeting = wire.read().await?;
    let Greeting { capabilities, nonce, caching_sha2 } = greet(&greeting)?;
    if !capabilities.contains(NEEDED) {
        return Err(WireError::Malformed("a server from before MySQL 5.5".into()));
    }
    let mut flags = NEEDED | (WANTED & capabilities) | Flags::CLIENT_LONG_PASSWORD;
    let secure = target.tls.is_some();
    if let Some(config) = target.tls {
        if !capabilities.contains(Flags::CLIENT_SSL) {
            return Err(WireError::NoTls);
        }
        flags |= Flags::CLIENT_SSL;
        let mut request = Vec::new();
        SslRequest::new(flags, MAX_ALLOWED_PACKET, COLLATION).serialize(&mut request);
        wire.write(&request).await?;
        encrypt(wire, target.host, config).await?;
    }
    let plugin = if caching_sha2 { AuthPlugin::CachingSha2Password } else { AuthPlugin::MysqlNativePassword };
    let mut auth = Auth { password: target.password, secure, nonce, plugin, switched: false };
    let proof = auth.proof()?;
    let attributes = HashMap::from([
        ("program_name".to_owned(), "rowbust".to_owned()),
        ("_client_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let attributes = flags.contains(Flags::CLIENT_CONNECT_ATTRS).then_some(attributes);
    let response = HandshakeResponse::new(
        Some(proof),
        (8, 0, 0),
        Some(target.user.as_bytes()),
        None::<&[u8]>,
        Some(auth.plugin.borrow()),
        flags,
        attributes,
        MAX_ALLOWED_PACKET,
    );
    let mut bytes = Vec::new();
    response.serialize(&mut bytes);
    wire.write(&bytes).await?;
    loop {
        let packet = wire.read().await?;
        match auth.answer(&packet)? {
            Answer::Done => return Ok(()),
            Answer::Wait => {}
            Answer::Send(bytes) => wire.write(&bytes).await?,
        }
    }
}

async fn encrypt(wire: &mut Wire, host: &str, config: rustls::ClientConfig) -> Result<(), WireError> {
    // Somebody in between could have put it there.
    if !wire.packets.is_empty() {
        return Err(WireError::Malformed("the server sent something in the clear where TLS begins".into()));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| WireError::Tls(rustls::Error::General(format!("{host} can't be the name of a host"))))?;
    let Socket::Plain(stream) = std::mem::replace(&mut wire.socket, Socket::Closed) else {
        return Err(WireError::Malformed("TLS inside of TLS".into()));
    };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    wire.socket = Socket::Tls(Box::new(stream));
    Ok(())
}

struct Greeting {
    capabilities: Flags,
    nonce: Vec<u8>,
    caching_sha2: bool,
}

fn greet(packet: &[u8]) -> Result<Greeting, WireError> {
    const PROTOCOL: u8 = 10;
    if packet.first() != Some(&PROTOCOL) {
        return Err(WireError::Malformed("no greeting of a MySQL or MariaDB server".into()));
    }
    caught(|| {
        let handshake = ParseBuf(packet).parse::<HandshakePacket<'_>>(()).map_err(malformed)?;
        Ok(Greeting {
            capabilities: handshake.capabilities(),
            nonce: handshake.nonce(),
            caching_sha2: matches!(handshake.auth_plugin(), Some(AuthPlugin::CachingSha2Password)),
        })
    })?
}

fn malformed(error: impl std::fmt::Display) -> WireError {
    WireError::Malformed(format!("login: {error}"))
}

/// mysql_common takes a server's greeting and key for well formed in places.
fn caught<T>(f: impl FnOnce() -> T) -> Result<T, WireError> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| WireError::Malformed("login: it makes no sense".into()))
}

/// The exchange behind the handshake.
struct Auth<'a> {
    password: Option<&'a str>,
    /// Over TLS.
    secure: bool,
    nonce: Vec<u8>,
    plugin: AuthPlugin<'static>,
    /// The server has chosen another plugin than its default.
    switched: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Wait,
    Send(Vec<u8>),
}

/// First byte of what belongs to a plugin.
const MORE: u8 = 1;

impl Auth<'_> {
    /// What the plugin sends first.
    fn proof(&self) -> Result<Vec<u8>, WireError> {
        match &self.plugin {
            AuthPlugin::CachingSha2Password | AuthPlugin::MysqlNativePassword | AuthPlugin::Ed25519 => {
                let proof = caught(|| self.plugin.gen_data(self.password, &self.nonce))?;
                Ok(proof.map(|proof| proof.to_vec()).unwrap_or_default())
            }
            // Asks for its salt.
            AuthPlugin::MariadbParsec { .. } => Ok(Vec::new()),
            AuthPlugin::MysqlClearPassword => Err(WireError::Plugin(
                "the account's plugin takes the password in the clear, which isn't done; use another plugin (ALTER USER)"
                    .into(),
            )),
            other => Err(WireError::Plugin(unknown_plugin(&String::from_utf8_lossy(other.as_bytes())))),
        }
    }

    fn answer(&mut self, packet: &[u8]) -> Result<Answer, WireError> {
        match packet {
            [OK, ..] => Ok(Answer::Done),
            [EOF] => Err(WireError::Plugin(unknown_plugin("mysql_old_password"))),
            [EOF, ..] if self.switched => Err(malformed("the server changed the plugin twice")),
            [EOF, ..] => {
                let request = ParseBuf(packet).parse::<AuthSwitchRequest<'_>>(()).map_err(malformed)?;
                self.switched = true;
                self.nonce = request.plugin_data().to_vec();
                self.plugin = request.auth_plugin().into_owned();
                // Taken for a terminator: parsec's nonce has 32 bytes, of which the last may be 0.
                if matches!(self.plugin, AuthPlugin::MariadbParsec { .. }) && self.nonce.len() == 31 {
                    self.nonce.push(0);
                }
                self.proof().map(Answer::Send)
            }
            [MORE, rest @ ..] => self.more(rest),
            // The first servers with it left the byte out.
            rest if matches!(self.plugin, AuthPlugin::MariadbParsec { .. }) => self.more(rest),
            _ => Err(malformed("not an answer to it")),
        }
    }

    /// A further round of the plugin.
    fn more(&mut self, data: &[u8]) -> Result<Answer, WireError> {
        /// The server knew the password's hash, and OK follows.
        const FAST_AUTH_SUCCESS: u8 = 3;
        const FULL_AUTH: u8 = 4;
        const REQUEST_PUBLIC_KEY: u8 = 2;
        match (&mut self.plugin, data) {
            (AuthPlugin::CachingSha2Password, [FAST_AUTH_SUCCESS]) => Ok(Answer::Wait),
            (AuthPlugin::CachingSha2Password, [FULL_AUTH]) if self.secure => {
                Ok(Answer::Send(self.terminated()))
            }
            (AuthPlugin::CachingSha2Password, [FULL_AUTH]) => Ok(Answer::Send(vec![REQUEST_PUBLIC_KEY])),
            (AuthPlugin::CachingSha2Password, key) if !self.secure => {
                if self.nonce.is_empty() {
                    return Err(malformed("no nonce"));
                }
                let mut secret = self.terminated();
                for (byte, mask) in secret.iter_mut().zip(self.nonce.iter().cycle()) {
                    *byte ^= mask;
                }
                caught(|| crypto::encrypt(&secret, key)).map(Answer::Send)
            }
            (plugin @ AuthPlugin::MariadbParsec { .. }, salt) => {
                plugin.read_add_data(salt).ok_or_else(|| malformed("parsec's salt"))?;
                let proof = caught(|| self.plugin.gen_data(self.password, &self.nonce))?;
                Ok(Answer::Send(proof.map(|proof| proof.to_vec()).unwrap_or_default()))
            }
            _ => Err(malformed("not an answer to it")),
        }
    }

    /// The password with a zero byte behind it.
    fn terminated(&self) -> Vec<u8> {
        let mut secret = self.password.unwrap_or_default().as_bytes().to_vec();
        secret.push(0);
        secret
    }
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
