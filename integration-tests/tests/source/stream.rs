//! The stream on real servers: rows around the longest packet, checksums, heartbeats, and its end.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use crate::support::{Db, Follow, until};
use mysql_async::prelude::Queryable;
use rowbust::{
    config::{Config, Tls, TlsMode},
    source::{
        Source,
        connect::Connector,
        start,
        stream::{EventStream, StreamError},
        wire::packet::{BUFFER, MAX_PART},
    },
};
use rowbust_binlog::{Decoder, Event, Header, event_type};
use rowbust_servers::Need;

/// A stream from the newest position on.
async fn open(config: &Config) -> EventStream {
    let connector = Connector::new(&config.source);
    let server = Source::new(config.clone().into()).preflight().await.unwrap();
    let mut conn = connector.primary().await.unwrap();
    let begin = start::first_start(&mut conn, &server, &config.source.start).await.unwrap();
    EventStream::open(connector.stream().await.unwrap(), &server, &begin.request).await.unwrap()
}

/// Goes on to the next event that changes rows; everything before is decoded, checksums included.
async fn next_rows(stream: &mut EventStream, decoder: &mut Decoder) -> Header {
    loop {
        if !stream.try_advance().unwrap() {
            stream.advance(Duration::from_secs(30)).await.unwrap();
        }
        let raw = stream.current();
        assert!(raw.crc.is_some() || raw.header.event_type == event_type::ROTATE, "{:?}", raw.header);
        match decoder.decode(&raw).unwrap() {
            Event::Rows(_) => return raw.header,
            Event::Xid(_) => decoder.end_transaction(),
            _ => {}
        }
    }
}

async fn longest_packets(need: Need) {
    let Some(db) = Db::start(need, &["--max-allowed-packet=1G"]) else { return };
    db.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY, b LONGBLOB)"]).await;
    let tls = if db.is_mysql() { [TlsMode::Disabled, TlsMode::Required] } else { [TlsMode::Disabled; 2] };
    let mut id = 0;
    for (mode, server_id) in tls.into_iter().zip([7101, 7102]) {
        let mut config = db.config();
        config.source.tls = Tls::new(mode);
        config.source.server_id = Some(server_id);
        let mut stream = open(&config).await;
        let mut decoder = Decoder::new();
        let mut conn = db.conn().await;
        let mut insert = async |len: usize| {
            id += 1;
            conn.query_drop(format!("INSERT INTO shop.t VALUES ({id}, REPEAT('x', {len}))")).await.unwrap();
        };
        insert(1).await;
        let overhead = next_rows(&mut stream, &mut decoder).await.event_size as usize - 1;
        // With its status byte, the event makes a payload of these lengths.
        for payload in [MAX_PART - 1, MAX_PART, MAX_PART + 1, 2 * MAX_PART, 40 << 20] {
            insert(payload - 1 - overhead).await;
            insert(1).await;
            let header = next_rows(&mut stream, &mut decoder).await;
            assert_eq!(header.event_size as usize, payload - 1);
            // And nothing of it is left over for the next.
            assert_eq!(next_rows(&mut stream, &mut decoder).await.event_size as usize, overhead + 1);
        }
        until_small(&mut stream, &mut decoder, async || insert(1).await).await;
    }
}

/// The buffer of a large event is given back.
async fn until_small(stream: &mut EventStream, decoder: &mut Decoder, mut insert: impl AsyncFnMut()) {
    insert().await;
    next_rows(stream, decoder).await;
    assert_eq!(stream.footprint(), BUFFER);
}

#[tokio::test]
async fn longest_packets_of_mysql() {
    longest_packets(Need::MySql).await;
}

#[tokio::test]
async fn longest_packets_of_mariadb() {
    longest_packets(Need::MariaDb).await;
}

/// Files with and without checksums, one after the other; the first is joined in its middle.
async fn checksums(need: Need) {
    let Some(db) = Db::start(need, &["--binlog-checksum=NONE"]) else { return };
    db.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)"]).await;
    let follow = Follow::ready(db.config()).await;
    for (n, setting) in ["NONE", "CRC32", "NONE", "CRC32"].into_iter().enumerate() {
        // Starts a new file.
        db.run(&[&format!("SET GLOBAL binlog_checksum={setting}"), "INSERT INTO shop.t VALUES (NULL)"]).await;
        until("the row", || follow.rows().len() == n + 1).await;
        let heartbeats = follow.stats.heartbeats();
        until("a heartbeat", || follow.stats.heartbeats() > heartbeats).await;
    }
    assert_eq!((follow.stats.reconnects(), follow.stats.decode_errors()), (0, 0));
    follow.stop().await.unwrap();
}

#[tokio::test]
async fn checksums_of_mysql() {
    checksums(Need::MySql).await;
}

#[tokio::test]
async fn checksums_of_mariadb() {
    checksums(Need::MariaDb).await;
}

/// The server learns that the stream was dropped; a stopped server is a lost connection; and what it refuses is an error of its own.
async fn ends(need: Need) {
    let Some(db) = Db::start(need, &[]) else { return };
    let dumps = "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
    let stream = open(&db.config()).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while db.value(dumps).await != "1" {
        assert!(std::time::Instant::now() < deadline);
    }
    drop(stream);
    while db.value(dumps).await != "0" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Not a replica's right.
    db.run(&["CREATE USER 'plain'@'%' IDENTIFIED BY 'p4ss'"]).await;
    let mut config = db.config();
    let server = Source::new(config.clone().into()).preflight().await.unwrap();
    config.source.user = "plain".into();
    config.source.password = rowbust::config::Password::Value("p4ss".to_owned().into());
    let wire = Connector::new(&config.source).stream().await.unwrap();
    let request = start::Request::File { file: "binlog.000001".into(), skip_to: 4 };
    let refused = match EventStream::open(wire, &server, &request).await {
        Err(e) => e,
        Ok(mut stream) => stream.advance(Duration::from_secs(10)).await.unwrap_err(),
    };
    assert!(matches!(&refused, StreamError::Server { code: 1227 | 1045, .. }), "{refused}");
    // No such file; another server than was asked before.
    let connector = Connector::new(&db.config().source);
    let request = start::Request::File { file: "nothing.000001".into(), skip_to: 4 };
    let mut stream = EventStream::open(connector.stream().await.unwrap(), &server, &request).await.unwrap();
    let mut end = Ok(());
    while end.is_ok() {
        end = stream.advance(Duration::from_secs(10)).await;
    }
    assert!(matches!(&end, Err(StreamError::Server { code: 1236, .. })), "{end:?}");
    let other = rowbust::source::Preflight { identity: "server_id 99".into(), ..server };
    let another = EventStream::open(connector.stream().await.unwrap(), &other, &request).await.unwrap_err();
    assert!(matches!(&another, StreamError::Lost(reason) if reason.contains("another server")), "{another}");

    let mut stream = open(&db.config()).await;
    db.restart();
    let end = loop {
        if let Err(end) = stream.advance(Duration::from_secs(10)).await {
            break end;
        }
    };
    assert!(matches!(end, StreamError::Lost(_)), "{end}");
}

#[tokio::test]
async fn ends_of_mysql() {
    ends(Need::MySql).await;
}

#[tokio::test]
async fn ends_of_mariadb() {
    ends(Need::MariaDb).await;
}
