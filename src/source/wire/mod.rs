//! A connection of our own, for the binlog stream: mysql_async, which asks the queries, takes an allocation, two copies and a
//! future for each event.
//!
//! Guarantees: an event is handed on as a slice of the bytes that were received, and copied only if it came in more than one
//! packet (16 MiB); as long as whole events are there, nothing is asked of the system and no timer is set; memory is bounded by
//! [`packet::MAX_BUFFER`] and follows what was received; dropping a connection closes it. No server makes it panic.
//! May depend on `config` and mysql_common's structures of the login.
//!
//! The parts: [`packet`] (bytes to payloads), `login` (handshake and authentication), [`tls`], `dump` (asking for the
//! binlog).

pub(super) mod dump;
mod login;
pub mod packet;
pub mod tls;

use std::{
    io,
    ops::Range,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::poll_fn;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub(super) use login::unknown_plugin;
use packet::{PacketError, Packets};

/// A dead peer is found out after this, where the read deadline doesn't find it first.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket, or the TLS on it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server said so.
    #[error("{message} ({code})")]
    Server {
        /// Error number.
        code: u16,
        /// Its text.
        message: String,
    },
    /// What the server sent makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// TLS is asked for, and the server has none.
    #[error("the server has no TLS")]
    NoTls,
    /// The TLS options can't be used together.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The account's way to log in can't be gone.
    #[error("{0}")]
    Plugin(String),
}

impl From<PacketError> for WireError {
    fn from(error: PacketError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Who connects, where to, and how.
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) password: Option<&'a str>,
    pub(super) tls: Option<rustls::ClientConfig>,
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Another driver's thread.
    #[cfg(feature = "mysql-cdc")]
    Local(tokio::net::UnixStream),
    /// Between the first two.
    Closed,
}

/// A connection to a server, logged in.
pub struct Wire {
    socket: Socket,
    packets: Packets,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("packets", &self.packets).finish_non_exhaustive()
    }
}

impl Wire {
    /// Connects and logs in. The caller sets a deadline.
    pub(super) async fn connect(target: Target<'_>) -> Result<Self, WireError> {
        let stream = TcpStream::connect((target.host, target.port)).await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let mut wire = Self { socket: Socket::Plain(stream), packets: Packets::new() };
        login::login(&mut wire, target).await?;
        Ok(wire)
    }

    /// Over a socket, without a login.
    #[cfg(test)]
    pub(super) fn raw(stream: TcpStream) -> Self {
        Self { socket: Socket::Plain(stream), packets: Packets::new() }
    }

    /// Packets that another driver's thread writes.
    #[cfg(feature = "mysql-cdc")]
    pub(super) fn local(stream: tokio::net::UnixStream) -> Self {
        Self { socket: Socket::Local(stream), packets: Packets::new() }
    }

    /// Waits until something was received. `Err` at the end of the connection.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = ReadBuf::new(self.packets.space());
        match &mut self.socket {
            Socket::Plain(stream) => ready!(Pin::new(stream).poll_read(cx, &mut space))?,
            Socket::Tls(stream) => ready!(Pin::new(stream.as_mut()).poll_read(cx, &mut space))?,
            #[cfg(feature = "mysql-cdc")]
            Socket::Local(stream) => ready!(Pin::new(stream).poll_read(cx, &mut space))?,
            Socket::Closed => {}
        }
        let n = space.filled().len();
        if n == 0 {
            let reason = "the server closed the connection";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
        }
        self.packets.received(n);
        Poll::Ready(Ok(()))
    }

    /// The next payload, if all of it was received.
    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<Range<usize>>, PacketError> {
        self.packets.pop()
    }

    /// What [`Wire::pop`] gave, until more is received.
    #[inline]
    pub(super) fn bytes(&self, payload: &Range<usize>) -> &[u8] {
        self.packets.bytes(payload)
    }

    /// Bytes that are kept for what is received.
    pub(super) fn footprint(&self) -> usize {
        self.packets.footprint()
    }

    /// Waits for a payload that is no event; an error that the server sends is one here.
    async fn read(&mut self) -> Result<Vec<u8>, WireError> {
        let payload = loop {
            if let Some(payload) = self.packets.pop()? {
                break self.packets.bytes(&payload).to_vec();
            }
            if self.footprint() > ANSWER {
                return Err(WireError::Malformed("an answer of more than 256 KiB".into()));
            }
            poll_fn(|cx| self.poll_receive(cx)).await?;
        };
        match payload.split_first() {
            Some((&ERR, rest)) => Err(server_error(rest)),
            _ => Ok(payload),
        }
    }

    /// Sends a payload as what follows.
    async fn write(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let mut packets = Vec::with_capacity(payload.len() + 4);
        let next = packet::frame(payload, self.packets.sequence(), &mut packets);
        self.packets.set_sequence(next);
        match &mut self.socket {
            Socket::Plain(stream) => {
                let mut stream = pin!(stream);
                stream.write_all(&packets).await?;
                stream.flush().await?;
            }
            Socket::Tls(stream) => {
                stream.write_all(&packets).await?;
                stream.flush().await?;
            }
            // Nothing is asked of the thread.
            #[cfg(feature = "mysql-cdc")]
            Socket::Local(_) => {}
            Socket::Closed => {}
        }
        Ok(())
    }

    /// Sends a command.
    async fn command(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.packets.set_sequence(0);
        self.write(payload).await
    }

    /// Runs a statement and gives the first column of the first row, if there is one and it isn't NULL.
    pub(super) async fn query(&mut self, statement: &str) -> Result<Option<String>, WireError> {
        self.command(&[&[COM_QUERY], statement.as_bytes()].concat()).await?;
        // OK, or the number of columns; then these, EOF, the rows, and EOF.
        if self.read().await?.first() == Some(&OK) {
            return Ok(None);
        }
        while !is_eof(&self.read().await?) {}
        let mut first = None;
        loop {
            let row = self.read().await?;
            if is_eof(&row) {
                return Ok(first);
            }
            first = first.or_else(|| short_text(&row));
        }
    }
}

/// The first byte of a command that is a statement.
const COM_QUERY: u8 = 3;

/// The first byte of a payload.
pub(super) const OK: u8 = 0;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERR: u8 = 0xff;

/// Bound of the buffer while no events come.
const ANSWER: usize = packet::BUFFER;

/// The end of columns or rows; a longer payload with this first byte is a row.
pub(super) fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&EOF) && payload.len() < 9
}

/// The first column of a row, if it is a text of at most 250 bytes.
fn short_text(row: &[u8]) -> Option<String> {
    let (&len, rest) = row.split_first()?;
    let text = (len <= 250).then(|| rest.get(..usize::from(len)))??;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What follows the first byte of an error packet. Before the login is through, the server may leave the SQL state out.
pub(super) fn server_error(rest: &[u8]) -> WireError {
    let Some((&code, rest)) = rest.split_first_chunk::<2>() else {
        return WireError::Malformed("an error packet without an error".into());
    };
    let text = match rest {
        [b'#', _, _, _, _, _, text @ ..] => text,
        text => text,
    };
    WireError::Server { code: u16::from_le_bytes(code), message: String::from_utf8_lossy(text).into_owned() }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
