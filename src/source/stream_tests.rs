#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::source::wire::packet::frame;

/// A stream over a socket, and the other end of it.
async fn pair() -> (EventStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    theirs.set_nodelay(true).unwrap();
    (EventStream::new(Wire::raw(ours)), theirs)
}

/// An event without a checksum.
fn event(event_type: u8, body: &[u8]) -> Vec<u8> {
    let event_size = u32::try_from(Header::LEN + body.len()).unwrap();
    [&Header { event_type, event_size, ..NO_EVENT }.encode(), body].concat()
}

/// Payloads as the packets of a stream.
fn packets(payloads: &[Vec<u8>]) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 0);
    for payload in payloads {
        sequence = frame(payload, sequence, &mut out);
    }
    out
}

fn ok(event: &[u8]) -> Vec<u8> {
    [&[wire::OK], event].concat()
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn events_come_as_they_are_cut() {
    let bodies = [&b"first"[..], b"", &[7; 900]];
    let bytes = packets(&bodies.map(|body| ok(&event(event_type::XID, body))));
    for cut in (0..bytes.len()).step_by(13) {
        let (mut stream, mut server) = pair().await;
        let (head, tail) = bytes.split_at(cut);
        let (head, tail) = (head.to_vec(), tail.to_vec());
        let writing = tokio::spawn(async move {
            server.write_all(&head).await.unwrap();
            tokio::task::yield_now().await;
            server.write_all(&tail).await.unwrap();
            server
        });
        for body in bodies {
            if !stream.try_advance().unwrap() {
                stream.advance(SOON).await.unwrap();
            }
            assert_eq!((stream.current().header.event_type, stream.current().body), (event_type::XID, body));
        }
        assert!(!stream.try_advance().unwrap());
        drop(writing.await.unwrap());
        assert!(matches!(stream.advance(SOON).await, Err(StreamError::Lost(_))));
    }
}

/// What ends a stream: each by what comes behind one good event.
#[tokio::test]
async fn ends() {
    let good = ok(&event(event_type::XID, b"x"));
    let end = async |payload: &[u8]| {
        let (mut stream, mut server) = pair().await;
        server.write_all(&packets(&[good.clone(), payload.to_vec()])).await.unwrap();
        drop(server);
        stream.advance(SOON).await.unwrap();
        assert_eq!(stream.current().body, b"x");
        match stream.advance(SOON).await.unwrap_err() {
            StreamError::Server { code, message } => format!("server {code} {message}"),
            StreamError::Lost(reason) => format!("lost: {reason}"),
            StreamError::Malformed(reason) => format!("malformed: {reason}"),
            StreamError::Silent(_) => panic!(),
        }
    };
    assert_eq!(end(b"\xff\xd4\x04#HY000gone").await, "server 1236 gone");
    assert_eq!(end(b"\xff\xd4\x04gone").await, "server 1236 gone");
    assert_eq!(end(b"\xfe\0\0\0\0").await, "lost: the server ended the stream");
    assert_eq!(end(b"").await, "malformed: an empty packet in the stream");
    assert_eq!(
        end(&[&[0xfe], &good[..]].concat()).await,
        "malformed: a packet in the stream begins with 254"
    );
    assert_eq!(end(b"\xff").await, "malformed: an error packet without an error");
    // Shorter than a header; and longer than it says.
    assert!(end(b"\0abc").await.starts_with("malformed: "));
    assert!(end(&[&good[..], b"y"].concat()).await.contains("event size"));

    // Cut off in the middle, and a packet that is missing.
    let whole = packets(&[good.clone(), good.clone(), good.clone()]);
    let (mut stream, mut server) = pair().await;
    server.write_all(&whole[..whole.len() - 1]).await.unwrap();
    drop(server);
    stream.advance(SOON).await.unwrap();
    stream.advance(SOON).await.unwrap();
    assert!(matches!(stream.advance(SOON).await, Err(StreamError::Lost(_))));
    let (mut stream, mut server) = pair().await;
    let third = 2 * whole.len() / 3;
    server.write_all(&[&whole[..third / 2], &whole[third..]].concat()).await.unwrap();
    stream.advance(SOON).await.unwrap();
    let missing = stream.advance(SOON).await.unwrap_err();
    assert!(
        matches!(&missing, StreamError::Malformed(e) if e == "packet number 2 came in place of 1"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_part_of_an_event_is_a_sign_of_life() {
    let (mut stream, mut server) = pair().await;
    let deadline = Duration::from_millis(400);
    let began = std::time::Instant::now();
    let bytes = packets(&[ok(&event(event_type::XID, &[1; 40]))]);
    let writing = tokio::spawn(async move {
        for piece in bytes.chunks(8) {
            server.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server
    });
    stream.advance(deadline).await.unwrap();
    assert!(began.elapsed() > deadline, "{:?}", began.elapsed());
    let silent = stream.advance(deadline).await.unwrap_err();
    assert!(matches!(silent, StreamError::Silent(d) if d == deadline), "{silent}");
    drop(writing.await.unwrap());
}

#[test]
fn before_the_first_event() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stream, _server) = runtime.block_on(pair());
    assert_eq!((stream.current().header, stream.current().body), (NO_EVENT, &[][..]));
}

#[test]
fn who_answers() {
    let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    assert!(is_identity(uuid, uuid) && is_identity("server_id 12", "12"));
    assert!(!is_identity(uuid, "3e11fa47-71ca-11e1-9e33-c80aa9429563") && !is_identity("server_id 12", "2"));
    assert!(!is_identity(uuid, ""));
}

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
