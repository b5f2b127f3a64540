//! The transport: one event's bytes after the other, from a dump thread of the server.
//!
//! Guarantees: a server from which nothing comes is a lost connection within a deadline, by default [`READ_DEADLINE`]; the
//! clean end of a stream is one too; events that aren't framed as they say are [`StreamError::Malformed`]. No timer is set while events
//! are ready. May depend on `wire`, `start` and `position`.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::poll_fn;
use rowbust_binlog::{Flavor, Header, RawEvent, event_type};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Preflight,
    position::Coordinates,
    start::Request,
    wire::{self, Wire, WireError, packet::PacketError},
};

/// A quiet server is asked to send a heartbeat this often.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// Without any byte for this long the connection counts as lost: five heartbeats.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The longest deadline of [`Patience`].
pub const MAX_READ_DEADLINE: Duration = Duration::from_secs(300);

/// How long to wait for bytes at a place. The server may take its time to look for an event, and sends no heartbeat
/// meanwhile: where it was silent once, the deadline doubles each time.
#[derive(Debug, Default)]
pub struct Patience {
    /// The last silent place, and the deadline there.
    at: Option<(Coordinates, Duration)>,
}

impl Patience {
    /// For the event at `place`.
    pub fn deadline(&self, place: &Coordinates) -> Duration {
        match &self.at {
            Some((at, deadline)) if at == place => *deadline,
            _ => READ_DEADLINE,
        }
    }

    /// No event came there in time.
    pub fn silent(&mut self, place: &Coordinates) {
        let deadline = (self.deadline(place) * 2).min(MAX_READ_DEADLINE);
        self.at = Some((place.clone(), deadline));
    }

    /// The server has sent all that it has: it is no large event that takes long.
    pub fn heartbeat(&mut self) {
        self.at = None;
    }
}

/// Why there is no next event.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error("{0}")]
    Lost(String),
    /// Nothing for so long.
    #[error("no event and no heartbeat for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server ended the stream and said why.
    #[error("{message} ({code})")]
    Server {
        /// Error number.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The bytes make no sense.
    #[error("{0}")]
    Malformed(String),
}

impl From<WireError> for StreamError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Server { code, message } => Self::Server { code, message },
            WireError::Malformed(reason) => Self::Malformed(reason),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<PacketError> for StreamError {
    fn from(error: PacketError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// An open stream and the event that it stands at.
#[derive(Debug)]
pub struct EventStream {
    wire: Wire,
    header: Header,
    /// Where header and body of the event are within what was received; empty before the first one.
    image: Range<usize>,
    crc: Option<u32>,
    /// The events end in a CRC32, by the last format description.
    checksummed: bool,
    /// Behind each event stands its size in the file, in four bytes: another driver's thread has written it anew.
    sized: bool,
    /// Kept between the waits, and set again only when it has run out: most waits end soon, and setting a timer costs more
    /// than an event.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Stands for the event before the first one.
const NO_EVENT: Header =
    Header { timestamp: 0, event_type: 0, server_id: 0, event_size: 0, log_pos: 0, flags: 0 };

impl EventStream {
    /// Registers as a replica and asks for the stream, if it is `server` that answers. What it thinks of the position comes
    /// as the first event.
    ///
    /// # Errors
    /// [`StreamError::Server`] where the account may not, [`StreamError::Lost`] where the connection ends, or another
    /// server answers than the one that was asked before.
    pub async fn open(mut wire: Wire, server: &Preflight, request: &Request) -> Result<Self, StreamError> {
        let answered = wire.query(identity_statement(server.flavor)).await?.unwrap_or_default();
        if !is_identity(&server.identity, &answered) {
            return Err(StreamError::Lost(format!("another server answers now: {answered}")));
        }
        wire.dump(server.flavor, server.server_id, request, HEARTBEAT).await?;
        Ok(Self::new(wire))
    }

    /// The packets of a stream that another driver's thread has opened. Behind each event stands the size that it has in the file,
    /// in four bytes, least first: places are counted by it.
    #[cfg(feature = "mysql-cdc")]
    pub(super) fn local(stream: tokio::net::UnixStream) -> Self {
        Self { sized: true, ..Self::new(Wire::local(stream)) }
    }

    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, header: NO_EVENT, image: 0..0, crc: None, checksummed: false, sized: false, timer: None }
    }

    /// Goes on to the next event if it is here already.
    ///
    /// # Errors
    /// See [`StreamError`].
    #[inline]
    pub fn try_advance(&mut self) -> Result<bool, StreamError> {
        while !self.take()? {
            match self.poll_receive(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits for the next event. `deadline`: the longest time in which nothing comes, not even a part of an event.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn advance(&mut self, deadline: Duration) -> Result<(), StreamError> {
        while !self.take()? {
            let end = Instant::now() + deadline;
            poll_fn(|cx| match self.poll_receive(cx) {
                Poll::Pending if self.has_run_out(end, cx) => Poll::Ready(Err(StreamError::Silent(deadline))),
                other => other,
            })
            .await?;
        }
        Ok(())
    }

    /// Whether it is `end`; if not, the task is woken then.
    fn has_run_out(&mut self, end: Instant, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // It may have been set for an earlier wait.
            if Instant::now() >= end {
                return true;
            }
            timer.as_mut().reset(end);
        }
        false
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        (self.header, self.image) = (NO_EVENT, 0..0);
        self.wire.poll_receive(cx).map_err(|e| StreamError::Lost(e.to_string()))
    }

    /// Goes on to the next event if it was received.
    #[inline]
    fn take(&mut self) -> Result<bool, StreamError> {
        let Some(payload) = self.wire.pop()? else { return Ok(false) };
        let mut bytes = match self.wire.bytes(&payload) {
            [wire::OK, event @ ..] => event,
            other => return Err(no_event(other)),
        };
        let mut size = None;
        if self.sized
            && let Some((event, original)) = bytes.split_last_chunk()
        {
            (bytes, size) = (event, Some(u32::from_le_bytes(*original)));
        }
        let mut event =
            RawEvent::parse(bytes, self.checksummed).map_err(|e| StreamError::Malformed(e.to_string()))?;
        if let Some(size) = size {
            event.header.event_size = size;
        }
        if event.header.event_type == event_type::FORMAT_DESCRIPTION {
            // It has one that counts if the others have.
            self.checksummed = event.crc.is_some();
        }
        (self.header, self.crc) = (event.header, event.crc);
        let image = payload.start + 1;
        self.image = image..image + Header::LEN + event.body.len();
        Ok(true)
    }

    /// Bytes that are kept for what is received.
    pub fn footprint(&self) -> usize {
        self.wire.footprint()
    }

    /// The event at hand; empty before the first one.
    #[inline]
    pub fn current(&self) -> RawEvent<'_> {
        RawEvent::framed(self.header, self.wire.bytes(&self.image), self.crc)
    }
}

/// A packet of the stream that holds no event.
#[cold]
fn no_event(payload: &[u8]) -> StreamError {
    match payload {
        [wire::ERR, rest @ ..] => wire::server_error(rest).into(),
        _ if wire::is_eof(payload) => StreamError::Lost("the server ended the stream".into()),
        [] => StreamError::Malformed("an empty packet in the stream".into()),
        [status, ..] => StreamError::Malformed(format!("a packet in the stream begins with {status}")),
    }
}

/// Asks what [`is_identity`] compares.
fn identity_statement(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MySql => "SELECT @@server_uuid",
        Flavor::MariaDb => "SELECT @@server_id",
    }
}

/// Whether a server with this answer is the one of [`Preflight::identity`].
fn is_identity(identity: &str, answered: &str) -> bool {
    identity.strip_prefix("server_id ").unwrap_or(identity).eq_ignore_ascii_case(answered)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
