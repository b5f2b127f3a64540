//! Files of real servers, sent over a socket as the dump thread sends them: as they are, and with a transaction that no
//! server would write.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{collections::BTreeMap, convert::Infallible};

use rowbust_binlog::{FileEvents, Flavor, RowKind, Rows, TableMap, XidBuf, event_type as t};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::source::{
    Prepared, Refusal, Transaction,
    schema::History,
    wire::{OK, Wire, packet::frame},
};

const MYSQL: &[u8] = include_bytes!("../../../crates/binlog/tests/fixtures/mysql-9.7.containers.binlog");
const MARIADB: &[u8] =
    include_bytes!("../../../crates/binlog/tests/fixtures/mariadb-10.11.containers.binlog");

/// Counts; asks for a flush after every event that has rows.
#[derive(Debug, Default)]
struct Counts {
    /// Row events by table and kind.
    rows: BTreeMap<(String, &'static str), usize>,
    /// Where each row event, and each transaction ended.
    row_ends: Vec<u64>,
    ends: Vec<u64>,
    /// Of each transaction.
    anchors: Vec<Option<Anchor>>,
    tagged: usize,
    abandoned: usize,
    flushes: usize,
    wants: bool,
}

impl Sink for Counts {
    type Error = Infallible;

    fn started(&mut self, _: &Position) {}

    fn begin(&mut self, transaction: Transaction<'_>) {
        let tagged = matches!(transaction.gtid, Some(Gtid::MySql { tsid, .. }) if !tsid.tag.is_none());
        self.tagged += usize::from(tagged);
    }

    fn is_mapped(&self, schema: &str, _: &str) -> bool {
        schema == "containers"
    }

    fn is_schema_mapped(&self, schema: &str) -> bool {
        schema == "containers"
    }

    fn table(&mut self, _: usize, _: &TableMap) -> Result<(), Refusal> {
        Ok(())
    }

    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, end: u64) -> Result<(), Refusal> {
        let kind = match rows.kind {
            RowKind::Write => "write",
            RowKind::Update => "update",
            RowKind::Delete => "delete",
        };
        *self.rows.entry((table.table.clone(), kind)).or_default() += 1;
        self.row_ends.push(end);
        self.wants = true;
        Ok(())
    }

    fn widen(&mut self, _: &Scope, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>) {
        self.ends.push(end.position);
        self.anchors.push(anchor);
    }

    fn xa_started(&mut self) {}

    fn xa_prepared(&mut self, _: &XidBuf) {}

    fn xa_finished(&mut self, _: &XidBuf, _: bool) -> Prepared {
        Prepared::Known
    }

    fn xa_count(&self) -> u64 {
        0
    }

    fn moved(&mut self, _: &Position, _: &str) {}

    fn gap(&mut self, _: &Position, _: &str, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn abandon(&mut self) {
        self.abandoned += 1;
    }

    fn wants_flush(&self) -> bool {
        self.wants
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        self.wants = false;
        self.flushes += 1;
        Ok(())
    }
}

/// The events of a file, each with the position behind it.
fn events(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut rest = FileEvents::new(file).unwrap();
    let mut events = Vec::new();
    let mut from = rest.position() as usize;
    while rest.next().is_some() {
        let to = rest.position() as usize;
        events.push((to as u64, file[from..to].to_vec()));
        from = to;
    }
    events
}

/// Follows them from the first on, until the server hangs up.
async fn replay(flavor: Flavor, events: &[(u64, Vec<u8>)]) -> (Counts, SourceError) {
    let gtids = GtidState::empty(flavor);
    let at = Coordinates { file: "b.000001".into(), position: 4 };
    let begin = Begin { request: Request::Gtid(gtids.clone()), position: Position { gtids, at } };
    replay_from(begin, events).await
}

async fn replay_from(begin: Begin, events: &[(u64, Vec<u8>)]) -> (Counts, SourceError) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream =
        EventStream::new(Wire::raw(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()));
    let (mut server, _) = listener.accept().await.unwrap();
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    for (_, event) in events {
        sequence = frame(&[&[OK], &event[..]].concat(), sequence, &mut bytes);
    }
    // The follower may leave in the middle.
    let sending = tokio::spawn(async move { _ = server.write_all(&bytes).await });
    let schema = SchemaCache::new(super::tests::connector(), History::default());
    let mut follower = Follower::new(schema, PolicyTable::default(), Arc::default());
    let mut sink = Counts::default();
    let ended = follower.follow(&begin, stream, &mut sink, &CancellationToken::new()).await;
    sending.await.unwrap();
    let Ended::Error(error) = ended else { panic!("{ended:?}") };
    (sink, error)
}

fn positions(events: &[(u64, Vec<u8>)], event_type: u8) -> Vec<(u64, u64)> {
    let of_type = events.iter().filter(|(_, e)| e[4] == event_type);
    of_type.map(|(end, e)| (end - e.len() as u64, *end)).collect()
}

#[tokio::test]
async fn everything_of_a_mysql_file_is_followed() {
    let events = events(MYSQL);
    let (seen, error) = replay(Flavor::MySql, &events).await;
    assert!(matches!(error, SourceError::Lost(_)), "{error}");
    let count = |table: &str, kind: &'static str| seen.rows.get(&(table.into(), kind)).copied().unwrap_or(0);
    // 19 events of the 400 rows, 4 around the tags, 3 of XA.
    assert_eq!(count("plain", "write"), 2 + 19 + 4 + 3);
    assert_eq!((count("plain", "update"), count("other", "delete")), (1, 1));
    assert_eq!((count("docs", "write"), count("docs", "update")), (1, 9));
    assert_eq!((seen.tagged, seen.abandoned), (3, 0));
    // All that was in one event ends where that event ends, and was flushed in pieces.
    let payloads = positions(&events, t::TRANSACTION_PAYLOAD);
    assert_eq!(payloads.len(), 6);
    for (_, end) in &payloads {
        assert!(seen.ends.contains(end) && seen.row_ends.contains(end), "{end}");
    }
    let in_payloads = seen.row_ends.iter().filter(|end| payloads.iter().any(|(_, e)| e == *end)).count();
    assert!(in_payloads > 20 && seen.flushes >= seen.row_ends.len(), "{in_payloads} {}", seen.flushes);
    assert!(seen.ends.is_sorted() && seen.row_ends.is_sorted());
}

#[tokio::test]
async fn everything_of_a_mariadb_file_is_followed() {
    let events = events(MARIADB);
    let (seen, error) = replay(Flavor::MariaDb, &events).await;
    assert!(matches!(error, SourceError::Lost(_)), "{error}");
    let count = |table: &str, kind: &'static str| seen.rows.get(&(table.into(), kind)).copied().unwrap_or(0);
    assert_eq!(
        (count("plain", "write"), count("plain", "update"), count("plain", "delete")),
        (1 + 1 + 19 + 3, 5, 5)
    );
    // Rows end where the event ended that was compressed, not where it would have.
    let ends: Vec<u64> = events.iter().map(|(end, _)| *end).collect();
    assert!(seen.row_ends.iter().all(|end| ends.contains(end)));
    assert_eq!(positions(&events, t::MARIA_WRITE_ROWS_COMPRESSED_V1).len(), 20);
}

/// What a dump thread sends first.
fn artificial_rotate(file: &str) -> Vec<u8> {
    let body = [&4_u64.to_le_bytes(), file.as_bytes()].concat();
    let header = Header {
        timestamp: 0,
        event_type: t::ROTATE,
        server_id: 1,
        event_size: (Header::LEN + body.len()) as u32,
        log_pos: 0,
        flags: rowbust_binlog::header::FLAG_ARTIFICIAL,
    };
    [&header.encode(), &body[..]].concat()
}

/// The head of a file, and its transactions from one in the middle on; with the place before that.
fn from_the_middle(file: &[u8], head: usize) -> (u64, Vec<(u64, Vec<u8>)>) {
    let all = events(file);
    let gtid = |(_, e): &&(u64, Vec<u8>)| matches!(e[4], t::GTID | t::MARIA_GTID);
    let begins = all.iter().filter(gtid).nth(4).map(|(end, e)| end - e.len() as u64).unwrap();
    let rest = all.iter().filter(|(end, _)| *end > begins);
    let mut sent = vec![(4, artificial_rotate("b.000001"))];
    sent.extend(all[..head].iter().chain(rest).cloned());
    (begins, sent)
}

/// The server skips what is done without a word, and events have 32 bits for their place.
#[tokio::test]
async fn positions_behind_4_gib_after_a_resume() {
    const FAR: u64 = 1 << 32;
    for (flavor, file, head) in [(Flavor::MySql, MYSQL, 2), (Flavor::MariaDb, MARIADB, 3)] {
        let (begins, sent) = from_the_middle(file, head);
        let near = replay(flavor, &sent).await.0;
        assert!(near.ends.len() > 5 && near.ends[0] > begins, "{:?}", near.ends);
        let at = Coordinates { file: "b.000001".into(), position: FAR + begins };
        let gtids = GtidState::empty(flavor);
        let begin = Begin { request: Request::Gtid(gtids.clone()), position: Position { gtids, at } };
        let far = replay_from(begin, &sent).await.0;
        let expected: Vec<u64> = near.ends.iter().map(|end| FAR + end).collect();
        assert_eq!(far.ends, expected, "{flavor}");
    }
}

/// A commit is logged before it counts as executed: what a server names as its newest place may lie behind commits that its GTIDs lack, and
/// that it sends then.
#[tokio::test]
async fn a_place_ahead_of_its_gtids_is_no_4_gib() {
    const FAR: u64 = 1 << 32;
    for (flavor, file, head) in [(Flavor::MySql, MYSQL, 2), (Flavor::MariaDb, MARIADB, 3)] {
        let (_, sent) = from_the_middle(file, head);
        let near = replay(flavor, &sent).await.0;
        // In the middle of what is sent; and where that lies on both sides of 4 GiB.
        let ahead = near.ends[2];
        for (floor, begins_at) in [(ahead, 0), (FAR + 10, FAR + 10 - ahead)] {
            let at = Coordinates { file: "b.000001".into(), position: floor };
            let gtids = GtidState::empty(flavor);
            let begin = Begin { request: Request::Gtid(gtids.clone()), position: Position { gtids, at } };
            let moved = moved(&sent, begins_at as u32);
            let seen = replay_from(begin, &moved).await.0;
            let expected: Vec<u64> = near.ends.iter().map(|end| begins_at + end).collect();
            assert_eq!(seen.ends, expected, "{flavor} {floor}");
        }
    }
}

/// The same transactions further on in the file; the head stays.
fn moved(events: &[(u64, Vec<u8>)], by: u32) -> Vec<(u64, Vec<u8>)> {
    let mut moved = events.to_vec();
    for (_, event) in moved.iter_mut().filter(|(_, e)| by > 0 && !is_head(e[4]) && e[4] != t::ROTATE) {
        let end = u32::from_le_bytes(event[13..17].try_into().unwrap()).wrapping_add(by);
        event[13..17].copy_from_slice(&end.to_le_bytes());
        let body = event.len() - 4;
        let crc = crc32fast::hash(&event[..body]);
        event[body..].copy_from_slice(&crc.to_le_bytes());
    }
    moved
}

/// The whole of a file is asked for, and what is done is passed over here.
#[tokio::test]
async fn behind_what_is_done() {
    for (flavor, file) in [(Flavor::MySql, MYSQL), (Flavor::MariaDb, MARIADB)] {
        let mut sent = vec![(4, artificial_rotate("b.000001"))];
        sent.extend(events(file));
        let all = replay(flavor, &sent).await.0;
        // The first five are done.
        let mut done = GtidState::empty(flavor);
        let mut decoder = Decoder::new();
        let mut found = 0;
        for (_, event) in &sent[1..] {
            let raw = rowbust_binlog::RawEvent::parse(event, decoder.checksummed()).unwrap();
            if let Ok(Event::Gtid(gtid)) = decoder.decode(&raw) {
                done.add(gtid.gtid);
                found += 1;
                if found == 5 {
                    break;
                }
            }
        }
        let request = Request::Behind { file: "b.000001".into(), gtids: done.clone() };
        let at = super::super::start::nowhere();
        let rest = replay_from(Begin { request, position: Position { gtids: done, at } }, &sent).await.0;
        assert_eq!(rest.ends, all.ends[5..], "{flavor}");
    }
}

/// A group of which nothing but its begin is there: no event is known to have ended it.
#[tokio::test]
async fn a_group_without_events_has_no_anchor() {
    let mut events = events(MYSQL);
    let whole = replay(Flavor::MySql, &events).await.0;
    assert!(whole.anchors.iter().all(Option::is_some));
    let gtids = events.iter().enumerate().filter(|(_, (_, e))| e[4] == t::GTID).map(|(at, _)| at);
    let third = gtids.skip(2).step_by(1).next().unwrap();
    let (end, twice) = events[third].clone();
    events.insert(third, (end, twice));
    let (seen, _) = replay(Flavor::MySql, &events).await;
    assert_eq!(seen.anchors.len(), whole.anchors.len() + 1);
    assert_eq!((seen.anchors[2], seen.anchors[3]), (None, whole.anchors[2]));
}

/// An event's body in its place, with the sizes and the checksum that belong to it.
fn with_body(event: &[u8], body: &[u8]) -> Vec<u8> {
    let mut event = [&event[..Header::LEN], body].concat();
    let size = event.len() as u32 + 4;
    event[9..13].copy_from_slice(&size.to_le_bytes());
    // As where a file is longer than 32 bits can say: the size counts.
    event[13..17].fill(0);
    let crc = crc32fast::hash(&event);
    event.extend(crc.to_le_bytes());
    event
}

/// A payload without compression around `events`.
fn payload_of(events: &[u8]) -> Vec<u8> {
    [&[2, 3, 252, 255, 0, 0], events].concat()
}

#[tokio::test]
async fn what_is_wrong_within_halts_at_the_event_around_it() {
    let good = events(MYSQL);
    let at = good.iter().position(|(_, e)| e[4] == t::TRANSACTION_PAYLOAD).unwrap();
    let begins = good[at].0 - good[at].1.len() as u64;
    let before = replay(Flavor::MySql, &good[..at]).await.0;
    let map = good.iter().find(|(_, e)| e[4] == t::TABLE_MAP).unwrap().1.clone();
    let rows = good.iter().find(|(_, e)| e[4] == t::WRITE_ROWS_V2).unwrap().1.clone();
    // Within a payload there are no checksums.
    let inner = |event: &[u8]| {
        let mut event = event[..event.len() - 4].to_vec();
        let size = event.len() as u32;
        event[9..13].copy_from_slice(&size.to_le_bytes());
        event
    };
    let (map, rows) = (inner(&map), inner(&rows));
    let mut wrong_size = [&map[..], &rows].concat();
    wrong_size[map.len() + 9] += 1;
    let cut = &good[at].1[Header::LEN..good[at].1.len() - 5];
    let cases: [(Vec<u8>, usize, &str); 5] = [
        (payload_of(&rows), 0, "no table map for table id"),
        (payload_of(&[&map[..], &rows[..rows.len() - 1]].concat()), 0, "the last event is cut off"),
        (payload_of(&wrong_size), 0, "the last event is cut off"),
        (payload_of(&[&map[..], &rows, &good[0].1].concat()), 1, "type of an event in a payload can't be 15"),
        (cut.to_vec(), 0, "payload size can't be"),
    ];
    for (body, rows, reason) in cases {
        let mut events = good[..at].to_vec();
        events.push((0, with_body(&good[at].1, &body)));
        let (seen, error) = replay(Flavor::MySql, &events).await;
        let SourceError::Decode { at, reason: found } = &error else { panic!("{reason}: {error}") };
        assert!(found.contains(reason), "{found}");
        assert_eq!((&*at.file, at.position), ("b.000001", begins), "{found}");
        assert_eq!(seen.row_ends.len(), before.row_ends.len() + rows, "{found}");
        assert_eq!((seen.abandoned, seen.ends), (1, before.ends.clone()), "{found}");
    }
}
