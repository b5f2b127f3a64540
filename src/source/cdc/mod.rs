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
    errors::Error as CdcError,
    events::{
        binlog_event::BinlogEvent, event_header::EventHeader, event_parser::EventParser,
        table_map_event::TableMapEvent,
    },
    replica_options::ReplicaOptions,
};
use rowbust_binlog::{Flavor, Header, RawEvent, event_type as t};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{
    error::Refusal,
    start::Request,
    stream::{EventStream, MAX_READ_DEADLINE, StreamError},
    wire::{self, dump, packet},
};
use encode::Encoder;

/// Who connects, where to.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: SecretString,
}

/// What is asked of the server.
#[derive(Debug)]
pub(super) struct Dump<'a> {
    pub(super) flavor: Flavor,
    pub(super) server_id: u32,
    pub(super) request: &'a Request,
    /// How often a quiet server is to send one.
    pub(super) heartbeat: Duration,
}

/// Why there is no stream.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The crate can't do it, now or later.
    Refused(Refusal),
    /// As with the native driver.
    Stream(StreamError),
}

impl From<StreamError> for OpenError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Stream(StreamError::Lost(error.to_string()))
    }
}

/// Asks for the stream and hands it on; returns when the server has taken the request.
pub(super) async fn open(account: Account, dump: Dump<'_>) -> Result<EventStream, OpenError> {
    if account.password.expose_secret().is_empty() {
        let help = "give the account one, or use `driver: native`, the default";
        let what = "mysql_cdc can't log in to an account without a password";
        return Err(OpenError::Refused(Refusal::new("source.driver", what, help)));
    }
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = tokio::net::UnixStream::from_std(ours)?;
    let preparations = dump::preparations(dump.flavor, dump.server_id, dump.request, dump.heartbeat);
    let command = dump::command(dump.flavor, dump.server_id, dump.request).map_err(StreamError::from)?;
    let (opened, wait) = tokio::sync::oneshot::channel();
    let run = move || {
        let connected = catch_unwind(AssertUnwindSafe(|| connect(account, &preparations, &command)));
        match connected.unwrap_or_else(|_| {
            Err(OpenError::Stream(StreamError::Malformed("mysql_cdc panicked at the login".into())))
        }) {
            Ok(events) => {
                if opened.send(Ok(())).is_ok() {
                    // Either side's end closes the socket, and that ends the stream: a lost connection.
                    if let Err(error) = pump(events, theirs) {
                        tracing::info!(%error, "mysql_cdc ended");
                    }
                }
            }
            Err(error) => _ = opened.send(Err(error)),
        }
    };
    thread::Builder::new().name("mysql_cdc".into()).spawn(run)?;
    match wait.await {
        Ok(Ok(())) => Ok(EventStream::local(ours)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StreamError::Lost("mysql_cdc's thread ended".into()).into()),
    }
}

/// The crate connects and logs in. What is asked then is what the native driver asks.
fn connect(account: Account, preparations: &[Vec<u8>], command: &[u8]) -> Result<BinlogEvents, OpenError> {
    let mut client = BinlogClient::new(ReplicaOptions {
        port: account.port,
        hostname: bracketed(account.host),
        username: account.user,
        password: account.password.expose_secret().to_owned(),
        // The crate waits ten seconds longer for each packet. How long is too long is the follower's to say, as with the native driver:
        // a server that looks for its place sends nothing meanwhile.
        heartbeat_interval: MAX_READ_DEADLINE,
        ..ReplicaOptions::default()
    });
    let (mut channel, _) = client.connect().map_err(refused)?;
    // The crate leaves the last packet of a caching_sha2 login unread; reading this answer it takes that one along.
    client.set_master_binlog_checksum(&mut channel).map_err(refused)?;
    for preparation in preparations {
        channel.write_packet(preparation, 0)?;
        let (answer, _) = channel.read_packet()?;
        if let [wire::ERR, error @ ..] = answer.as_slice() {
            return Err(StreamError::from(wire::server_error(error)).into());
        }
    }
    channel.write_packet(command, 0)?;
    Ok(BinlogEvents { channel, parser: EventParser::new() })
}

/// The crate puts host and port together by a colon.
fn bracketed(host: String) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host }
}

/// What the server refused comes as the text of a debug print: `… ErrorPacket { error_code: 1236, error_message: "…" … }`.
fn refused(error: CdcError) -> OpenError {
    let text = match error {
        CdcError::String(text) => text,
        CdcError::IoError(error) => return error.into(),
        other => return StreamError::Malformed(format!("mysql_cdc: {}", kind(&other))).into(),
    };
    if text.ends_with("auth plugin is not supported.") {
        let help = "use `driver: native`, the default; or caching_sha2_password or mysql_native_password, which must be the server's \
                    default too";
        return OpenError::Refused(Refusal::new("source.driver", format!("mysql_cdc: {text}"), help));
    }
    let code = text.split_once("error_code: ").and_then(|(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
    });
    OpenError::Stream(match code {
        Some(code) => StreamError::Server { code, message: text },
        None => StreamError::Malformed(text),
    })
}

/// An error of the crate by its kind alone: some hold the bytes of a row.
fn kind(error: &CdcError) -> &str {
    match error {
        CdcError::IoError(_) => "the event is too short",
        CdcError::Utf8Error(_) | CdcError::FromUtf8Error(_) => "a text that is no UTF-8",
        CdcError::FromHexError(_) | CdcError::ParseIntError(_) => "no number",
        CdcError::ErrorStack(_) => "OpenSSL",
        CdcError::String(text) => text,
    }
}

/// The length of a packet that another one continues: the crate takes the two for two events.
const FULL_PACKET: usize = (1 << 24) - 1;

/// Reads packets, and writes those of the stream that the follower reads, with each event's size in the file behind it.
fn pump(mut events: BinlogEvents, mut out: UnixStream) -> io::Result<()> {
    let (mut sequence, mut packets) = (0, Vec::new());
    let mut reader = Reader::new();
    loop {
        let (payload, _) = events.channel.read_packet()?;
        let size = header(&payload).map_or(0, |header| header.event_size);
        let mut event = if payload.len() == FULL_PACKET {
            // The packets that continue it.
            while events.channel.read_packet()?.0.len() == FULL_PACKET {}
            why(&payload, "an event of 16 MiB or more, which mysql_cdc can't read");
            unreadable(&payload, reader.checksum)
        } else {
            reader.payload(payload)
        };
        if event.first() == Some(&wire::OK) {
            event.extend(size.to_le_bytes());
        }
        packets.clear();
        sequence = packet::frame(&event, sequence, &mut packets);
        out.write_all(&packets)?;
    }
}

/// The crate's decoder.
struct Reader {
    parser: EventParser,
    /// The table maps that the crate has decoded, by table id.
    tables: HashMap<u64, TableMapEvent>,
    /// Events end in a CRC32.
    checksum: bool,
}

impl Reader {
    fn new() -> Self {
        Self { parser: EventParser::new(), tables: HashMap::new(), checksum: false }
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
            // The crate doesn't compare it, and what is written anew gets a good one. The follower finds the bad one and reads again.
            _ if !self.is_intact(&payload) => payload,
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

    /// Whether the event is as the server wrote it, as far as its checksum tells.
    fn is_intact(&self, payload: &[u8]) -> bool {
        let event = payload.get(1..).unwrap_or_default();
        RawEvent::parse(event, self.checksum).is_ok_and(|raw| raw.verify_crc().is_ok())
    }

    /// What the crate makes of an event; `None` if nothing, or a panic.
    fn read(&mut self, payload: &[u8]) -> Option<BinlogEvent> {
        let parser = &mut self.parser;
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            let header = EventHeader::parse(payload.get(1..).unwrap_or_default())?;
            parser.parse_event(&header, payload.get(1 + Header::LEN..).unwrap_or_default())
        }));
        match parsed {
            Ok(Ok(event)) => Some(event),
            Ok(Err(error)) => {
                tracing::debug!(error = kind(&error), "mysql_cdc can't read an event");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let account = Account {
            host: "db".into(),
            port: 3306,
            user: "rowbust".into(),
            password: "c4n4ry-s3cret".into(),
        };
        let printed = format!("{account:?} {account:#?}");
        assert!(printed.contains("rowbust") && !printed.contains("c4n4ry"), "{printed}");
    }

    #[tokio::test]
    async fn accounts_that_it_cannot_log_in_to_are_refused() {
        let account = |password: &str| Account {
            host: "127.0.0.1".into(),
            port: 1,
            user: "rowbust".into(),
            password: password.into(),
        };
        let request = Request::File { file: "b.000001".into(), skip_to: 4 };
        let open = async |password| {
            let heartbeat = Duration::from_secs(2);
            let dump = Dump { flavor: Flavor::MySql, server_id: 1, request: &request, heartbeat };
            open(account(password), dump).await.unwrap_err()
        };
        let OpenError::Refused(refusal) = open("").await else { panic!("not refused") };
        assert!(refusal.to_string().contains("without a password"), "{refusal}");
        // Nobody listens there: that is no refusal.
        assert!(matches!(open("x").await, OpenError::Stream(StreamError::Lost(_))));
        let plugin = CdcError::String("client_ed25519 auth plugin is not supported.".into());
        let OpenError::Refused(refusal) = refused(plugin) else { panic!("not refused") };
        assert!(refusal.to_string().contains("client_ed25519"), "{refusal}");
    }

    #[test]
    fn errors_hold_no_rows() {
        let secret = String::from_utf8(b"c4n4ry \xff".to_vec()).unwrap_err();
        assert_eq!(kind(&CdcError::FromUtf8Error(secret)), "a text that is no UTF-8");
    }

    #[test]
    fn addresses() {
        use std::net::ToSocketAddrs as _;
        for (host, port) in [("::1", "[::1]:3306"), ("127.0.0.1", "127.0.0.1:3306"), ("[::1]", "[::1]:3306")]
        {
            let address = format!("{}:3306", bracketed(host.into()));
            assert_eq!(address.to_socket_addrs().unwrap().next().unwrap().to_string(), port);
        }
        assert_eq!(bracketed("db.example".into()), "db.example");
    }

    /// An event that was written anew has a good checksum: one that had a bad one mustn't get that.
    #[test]
    fn a_bad_checksum_stays_bad() {
        let file = include_bytes!("../../route/fixtures/images.mysql-9.7.binlog");
        let mut reader = Reader::new();
        let mut rows = 0;
        for raw in rowbust_binlog::FileEvents::new(file).unwrap() {
            let raw = raw.unwrap();
            let mut payload = vec![wire::OK];
            payload.extend(raw.header.encode());
            payload.extend(raw.body);
            payload.extend(raw.crc.into_iter().flat_map(u32::to_le_bytes));
            if matches!(raw.header.event_type, t::WRITE_ROWS_V2..=t::DELETE_ROWS_V2) {
                rows += 1;
                let mut broken = payload.clone();
                let last = broken.len() - 5;
                broken[last] ^= 1;
                assert!(reader.is_intact(&payload));
                assert_eq!(reader.payload(broken.clone()), broken);
            }
            reader.payload(payload);
        }
        assert!(reader.checksum && rows > 3, "{rows}");
    }
}
