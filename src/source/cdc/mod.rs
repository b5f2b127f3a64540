//! `source.driver: mysql_cdc`: the crate of that name connects, logs in, asks for the binlog and decodes its rows.
//!
//! Guarantees: nothing that the crate skips, gets wrong or can't decode is passed over. It runs on a thread of its own, from
//! packet to packet; of each row event its values are encoded again, compared with the bytes that they came from, and handed on
//! as an event of the same stream that the native driver has ([`encode`]). What it can't give is handed on in a form that
//! isn't decoded either: then `source.on_undecodable` counts, at the event's coordinates. Its `commit()`, which loses
//! transactions, is never called: positions are counted by the follower. Memory: one event of the crate's, and what the
//! socket between the two holds.
//! May depend on `connect`'s account, `start`, and the crate mysql_cdc (only here).
//!
//! The parts: [`encode`] (values back to bytes), [`limits`] (what the crate can't do).

mod encode;
pub(super) mod limits;

use std::{
    collections::HashMap,
    io::{self, Write},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use mysql_cdc::{
    binlog_client::BinlogClient,
    binlog_events::BinlogEvents,
    binlog_options::BinlogOptions,
    errors::Error as CdcError,
    events::{binlog_event::BinlogEvent, table_map_event::TableMapEvent},
    providers::{mariadb::gtid::gtid_list::GtidList, mysql::gtid::gtid_set::GtidSet},
    replica_options::ReplicaOptions,
};
use rowbust_binlog::{GtidState, Header, event_type as t};
use tracing::warn;

use super::{
    start::{FIRST_EVENT, Request},
    stream::{EventStream, StreamError},
    wire::{self, packet},
};
use encode::Encoder;

/// Who connects, where to.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
}

/// Asks for the stream and hands it on; returns when the server has taken the request.
pub(super) async fn open(
    account: Account,
    server_id: u32,
    request: &Request,
    heartbeat: Duration,
) -> Result<EventStream, StreamError> {
    let binlog = position(request)?;
    let (ours, theirs) = UnixStream::pair().map_err(lost)?;
    ours.set_nonblocking(true).map_err(lost)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(lost)?;
    let (opened, wait) = tokio::sync::oneshot::channel();
    let run = move || {
        let options = ReplicaOptions {
            port: account.port,
            hostname: account.host,
            username: account.user,
            password: account.password,
            server_id,
            heartbeat_interval: heartbeat,
            binlog,
            ..ReplicaOptions::default()
        };
        let events = catch_unwind(AssertUnwindSafe(|| BinlogClient::new(options).replicate()));
        let events = match events {
            Ok(events) => events.map_err(refused),
            Err(_) => Err(StreamError::Malformed("mysql_cdc panicked at the login".into())),
        };
        match events {
            Ok(events) => {
                if opened.send(Ok(())).is_ok() {
                    // Either side's end closes the socket, and that ends the stream: a lost connection.
                    if let Err(error) = (Pump { events, tables: HashMap::new(), checksum: false }).run(theirs)
                    {
                        tracing::info!(%error, "mysql_cdc ended");
                    }
                }
            }
            Err(error) => _ = opened.send(Err(error)),
        }
    };
    thread::Builder::new().name("mysql_cdc".into()).spawn(run).map_err(lost)?;
    match wait.await {
        Ok(Ok(())) => Ok(EventStream::local(ours)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StreamError::Lost("mysql_cdc's thread ended".into())),
    }
}

fn lost(error: io::Error) -> StreamError {
    StreamError::Lost(error.to_string())
}

/// The position, by way of the parsers of the crate that are right.
fn position(request: &Request) -> Result<BinlogOptions, StreamError> {
    let wrong = |e: CdcError| StreamError::Malformed(format!("mysql_cdc can't read the position: {e:?}"));
    Ok(match request {
        Request::Gtid(GtidState::MySql(set)) => {
            BinlogOptions::from_mysql_gtid(GtidSet::parse(&set.to_string()).map_err(wrong)?)
        }
        Request::Gtid(GtidState::MariaDb(list)) => {
            BinlogOptions::from_mariadb_gtid(GtidList::parse(&list.to_string()).map_err(wrong)?)
        }
        Request::File { file, .. } | Request::Behind { file, .. } => {
            BinlogOptions::from_position(file.to_string(), u32::try_from(FIRST_EVENT).unwrap_or(4))
        }
        Request::At { file, position } => {
            let position = u32::try_from(*position)
                .map_err(|_| StreamError::Malformed("mysql_cdc has 32 bits for a position".into()))?;
            BinlogOptions::from_position(file.to_string(), position)
        }
    })
}

/// What the server refused comes as the text of a debug print: `… ErrorPacket { error_code: 1236, error_message: "…" … }`.
fn refused(error: CdcError) -> StreamError {
    let text = match &error {
        CdcError::String(text) => text.clone(),
        CdcError::IoError(error) => return StreamError::Lost(error.to_string()),
        other => return StreamError::Malformed(format!("{other:?}")),
    };
    let code = text.split_once("error_code: ").and_then(|(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
    });
    match code {
        Some(code) => StreamError::Server { code, message: text },
        None => StreamError::Malformed(text),
    }
}

/// The length of a packet that another one continues: the crate takes the two for two events.
const FULL_PACKET: usize = (1 << 24) - 1;

/// Reads packets, and writes those of the stream that the follower reads.
struct Pump {
    events: BinlogEvents,
    /// The table maps that the crate has decoded, by table id.
    tables: HashMap<u64, TableMapEvent>,
    /// Events end in a CRC32.
    checksum: bool,
}

impl Pump {
    fn run(&mut self, mut out: UnixStream) -> io::Result<()> {
        let (mut sequence, mut packets) = (0, Vec::new());
        loop {
            let (payload, _) = self.events.channel.read_packet()?;
            let event = if payload.len() == FULL_PACKET {
                self.skip_rest()?;
                why(&payload, "an event of 16 MiB or more, which mysql_cdc can't read");
                unreadable(&payload, self.checksum)
            } else {
                self.payload(payload)
            };
            packets.clear();
            sequence = packet::frame(&event, sequence, &mut packets);
            out.write_all(&packets)?;
        }
    }

    /// The packets that continue the one before.
    fn skip_rest(&mut self) -> io::Result<()> {
        while self.events.channel.read_packet()?.0.len() == FULL_PACKET {}
        Ok(())
    }

    /// The payload that is handed on for this one.
    fn payload(&mut self, payload: Vec<u8>) -> Vec<u8> {
        let Some(header) = header(&payload) else { return payload };
        match header.event_type {
            t::FORMAT_DESCRIPTION => {
                if self.read(&payload).is_none() {
                    why(&payload, "mysql_cdc can't read the format description");
                    return unreadable(&payload, false);
                }
                self.checksum = checksummed(&payload);
                payload
            }
            t::TABLE_MAP => {
                // Handed on as it is: the follower takes names and types from it.
                match self.read(&payload) {
                    Some(BinlogEvent::TableMapEvent(map)) => _ = self.tables.insert(map.table_id, map),
                    _ => {
                        if let Some(id) = table_id(&payload) {
                            self.tables.remove(&id);
                        }
                    }
                }
                payload
            }
            t::WRITE_ROWS_V1..=t::DELETE_ROWS_V1 | t::WRITE_ROWS_V2..=t::DELETE_ROWS_V2 => {
                let event = self.read(&payload);
                let table = table_id(&payload).and_then(|id| self.tables.get(&id));
                Encoder::new(&payload, self.checksum).rows(event.as_ref(), table)
            }
            // The crate knows none of them, and says nothing.
            t::PARTIAL_UPDATE_ROWS
            | t::TRANSACTION_PAYLOAD
            | t::MARIA_WRITE_ROWS_COMPRESSED_V1..=t::MARIA_DELETE_ROWS_COMPRESSED_V2
            | t::WRITE_ROWS_V0..=t::DELETE_ROWS_V0 => {
                why(&payload, "an event that mysql_cdc skips in silence");
                unreadable(&payload, self.checksum)
            }
            // What holds no row is the follower's to read.
            _ => payload,
        }
    }

    /// What the crate makes of an event; `None` if nothing, or a panic.
    fn read(&mut self, payload: &[u8]) -> Option<BinlogEvent> {
        let events = &mut self.events;
        match catch_unwind(AssertUnwindSafe(|| events.read_event(payload))) {
            Ok(Ok((_, event))) => Some(event),
            Ok(Err(error)) => {
                tracing::debug!(?error, "mysql_cdc can't read an event");
                None
            }
            Err(_) => None,
        }
    }
}

/// The event's header, if the payload holds an event.
fn header(payload: &[u8]) -> Option<Header> {
    match payload {
        [wire::OK, event @ ..] => Header::parse(event).ok(),
        _ => None,
    }
}

/// The table id of a table map or a row event.
fn table_id(payload: &[u8]) -> Option<u64> {
    let id = payload.get(1 + Header::LEN..)?.first_chunk::<6>()?;
    Some(id.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

/// Whether a format description says that events end in a CRC32: its algorithm stands before its own checksum
/// (`enum_binlog_checksum_alg`: 1 is CRC32).
fn checksummed(payload: &[u8]) -> bool {
    payload.len().checked_sub(5).and_then(|at| payload.get(at)) == Some(&1)
}

fn why(payload: &[u8], reason: &str) {
    let header = header(payload);
    warn!(
        event_type = header.map(|h| h.event_type),
        end_position = header.map(|h| h.log_pos),
        "{reason}: use `driver: native`"
    );
}

/// A type that no server gives to an event.
const UNREADABLE: u8 = 0xf0;

/// An event of a type that nobody knows, in the place of one that may carry rows.
fn unreadable(payload: &[u8], checksum: bool) -> Vec<u8> {
    let Some(mut header) = header(payload) else { return payload.to_vec() };
    header.event_type = UNREADABLE;
    header.flags = 0;
    event(header, &[], checksum)
}

/// A payload with an event of this body.
fn event(mut header: Header, body: &[u8], checksum: bool) -> Vec<u8> {
    let tail = if checksum { 4 } else { 0 };
    header.event_size = u32::try_from(Header::LEN + body.len() + tail).unwrap_or(u32::MAX);
    let mut payload = Vec::with_capacity(1 + Header::LEN + body.len() + tail);
    payload.push(wire::OK);
    payload.extend_from_slice(&header.encode());
    payload.extend_from_slice(body);
    if checksum {
        let crc = crc32fast::hash(&payload[1..]);
        payload.extend_from_slice(&crc.to_le_bytes());
    }
    payload
}
