//! The transport: one event's bytes after the other, from a dump thread of the server.
//!
//! Guarantees: a silent server is a lost connection within a deadline, by default [`READ_DEADLINE`]; the clean end of a stream is one too; a
//! panic in the driver is [`StreamError::Malformed`]. No timer is set while events are ready.
//! This is the only place that knows mysql_async's binlog stream: an own packet layer can take its place.
//! May depend on `start` and `position`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, future::poll_fn};
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, GnoInterval, Sid, prelude::Queryable};
use rowbust_binlog::{Flavor, GtidState, Header, RawEvent, event_type};

use super::{
    position::Coordinates,
    start::{FIRST_EVENT, Request, quote},
};

/// A quiet server is asked to send a heartbeat this often.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// Without any event for this long the connection counts as lost: five heartbeats.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The longest deadline of [`Patience`].
const MAX_READ_DEADLINE: Duration = Duration::from_secs(300);

/// How long to wait for the event at a place. A large event takes its time on a slow link, and the server sends no heartbeat
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

/// The server's own bound on a reader that doesn't read (backpressure), in seconds; by default 60.
const NET_TIMEOUT: u32 = 3600;

/// Why there is no next event.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error("{0}")]
    Lost(String),
    /// No whole event for so long.
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

impl From<mysql_async::Error> for StreamError {
    fn from(error: mysql_async::Error) -> Self {
        use mysql_async::{DriverError, Error as E, IoError};
        match error {
            E::Server(e) => Self::Server { code: e.code, message: e.message },
            // The driver's event reader reports what it can't read by these kinds; the socket doesn't use them.
            E::Io(IoError::Io(e))
                if matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other) =>
            {
                Self::Malformed(e.to_string())
            }
            E::Driver(e @ (DriverError::UnexpectedPacket { .. } | DriverError::PacketTooLarge)) => {
                Self::Malformed(e.to_string())
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

/// An open stream and the event that it stands at.
pub struct EventStream {
    stream: BinlogStream,
    header: Header,
    event: Option<mysql_async::binlog::events::Event>,
    /// The format description's body: the driver cuts its checksum algorithm off.
    description: Vec<u8>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("header", &self.header).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Registers as a replica and asks for the stream. What the server thinks of the position comes as the first event.
    pub async fn open(
        mut conn: Conn,
        flavor: Flavor,
        server_id: u32,
        request: &Request,
    ) -> Result<Self, StreamError> {
        let heartbeat = HEARTBEAT.as_nanos();
        conn.query_drop(format!(
            "SET @master_heartbeat_period={heartbeat}, @source_heartbeat_period={heartbeat}, \
             SESSION net_write_timeout={NET_TIMEOUT}, SESSION net_read_timeout={NET_TIMEOUT}"
        ))
        .await?;
        if flavor == Flavor::MariaDb {
            // 4: knows GTIDs, so the server leaves the events as they are (`enum_slave_capability` in sql/log_event.h).
            conn.query_drop("SET @mariadb_slave_capability=4").await?;
            if let Request::Gtid(gtids) = request {
                conn.query_drop(format!(
                    "SET @slave_connect_state={}, @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0",
                    quote(&gtids.to_string())
                ))
                .await?;
            }
        }
        let mut dump = BinlogStreamRequest::new(server_id).with_pos(FIRST_EVENT);
        match request {
            Request::Gtid(GtidState::MySql(set)) => {
                dump = dump.with_gtid().with_gtid_set(set.iter().map(|(tsid, intervals)| {
                    let intervals =
                        intervals.iter().map(|i| GnoInterval::new(i.start, i.end_exclusive())).collect();
                    let sid = Sid::new(tsid.uuid.0).with_intervals(intervals);
                    match tsid.tag.as_str().to_owned().try_into() {
                        Ok(tag) if !tsid.tag.is_none() => sid.with_tag(tag),
                        _ => sid,
                    }
                }));
            }
            Request::Gtid(GtidState::MariaDb(_)) => {}
            Request::File { file, .. } => dump = dump.with_filename(file.as_bytes()),
        }
        let stream = conn.get_binlog_stream(dump).await?;
        let header =
            Header { timestamp: 0, event_type: 0, server_id: 0, event_size: 0, log_pos: 0, flags: 0 };
        Ok(Self { stream, header, event: None, description: Vec::new() })
    }

    /// Goes on to the next event if it is here already.
    pub fn try_advance(&mut self) -> Result<bool, StreamError> {
        match self.poll_advance(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Waits for the next event. It must be here as a whole within the deadline.
    pub async fn advance(&mut self, deadline: Duration) -> Result<(), StreamError> {
        match tokio::time::timeout(deadline, poll_fn(|cx| self.poll_advance(cx))).await {
            Ok(result) => result,
            Err(_) => Err(StreamError::Silent(deadline)),
        }
    }

    fn poll_advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let stream = &mut self.stream;
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(stream).poll_next(cx)));
        let event = match polled {
            Err(_) => {
                return Poll::Ready(Err(StreamError::Malformed("the driver panicked on an event".into())));
            }
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(None)) => {
                return Poll::Ready(Err(StreamError::Lost("the server ended the stream".into())));
            }
            Ok(Poll::Ready(Some(event))) => event?,
        };
        let h = event.header();
        self.header = Header {
            timestamp: h.timestamp(),
            event_type: h.event_type_raw(),
            server_id: h.server_id(),
            event_size: h.event_size(),
            log_pos: h.log_pos(),
            flags: h.flags_raw(),
        };
        if self.header.event_type == event_type::FORMAT_DESCRIPTION {
            self.description.clear();
            self.description.extend_from_slice(event.data());
            if let Ok(Some(algorithm)) = event.footer().get_checksum_alg() {
                self.description.push(algorithm as u8);
            }
        }
        self.event = Some(event);
        Poll::Ready(Ok(()))
    }

    /// The event at hand; empty before the first one.
    pub fn current(&self) -> RawEvent<'_> {
        let Some(event) = &self.event else { return RawEvent::from_parts(self.header, &[], None) };
        let body = if self.header.event_type == event_type::FORMAT_DESCRIPTION {
            &self.description
        } else {
            event.data()
        };
        RawEvent::from_parts(self.header, body, event.checksum().map(u32::from_le_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_doubles_where_it_was_silent() {
        let at = |position| Coordinates { file: "b.1".into(), position };
        let mut patience = Patience::default();
        assert_eq!(patience.deadline(&at(4)), READ_DEADLINE);
        patience.silent(&at(4));
        assert_eq!(patience.deadline(&at(4)), READ_DEADLINE * 2);
        patience.silent(&at(4));
        assert_eq!(patience.deadline(&at(4)), READ_DEADLINE * 4);
        assert_eq!(patience.deadline(&at(5)), READ_DEADLINE);
        for _ in 0..99 {
            patience.silent(&at(4));
        }
        assert_eq!(patience.deadline(&at(4)), MAX_READ_DEADLINE);
        patience.silent(&at(5));
        assert_eq!(patience.deadline(&at(4)), READ_DEADLINE);
        patience.heartbeat();
        assert_eq!(patience.deadline(&at(5)), READ_DEADLINE);
    }
}
