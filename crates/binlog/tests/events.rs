//! Events as the decoder gives them, where real files hold no example or only one.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use rowbust_binlog::decoder::MAX_TABLES;
use rowbust_binlog::{
    DecodeErrorKind, Decoder, Event, FileEvents, Flavor, Gtid, Header, RawEvent, Rows, event_name,
    event_type as t,
};

fn decoder() -> Decoder {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &common::format_description()).unwrap();
    decoder
}

fn decode<'a>(decoder: &mut Decoder, bytes: &'a [u8]) -> Result<Event<'a>, rowbust_binlog::DecodeError> {
    let raw = RawEvent::parse(bytes, decoder.checksummed())?;
    decoder.decode(&raw)
}

#[test]
fn rows_need_a_table_map_of_their_transaction() {
    let mut decoder = decoder();
    let (map, rows) = (common::table_map(7), common::rows(t::DELETE_ROWS_V2, 7, 1, 2));
    let error = decode(&mut decoder, &rows).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::NoTableMap { table_id: 7 });
    assert_eq!(
        error.to_string(),
        "Delete_rows event (type 32), byte 19: no table map for table id 7 in this transaction"
    );
    assert!(matches!(decode(&mut decoder, &map).unwrap(), Event::TableMap { slot: 0, fresh: true }));
    assert!(matches!(
        decode(&mut decoder, &rows).unwrap(),
        Event::Rows(Rows { slot: 0, flags: Rows::STMT_END, .. })
    ));
    decoder.end_transaction();
    assert!(decode(&mut decoder, &rows).is_err());
    assert!(matches!(decode(&mut decoder, &map).unwrap(), Event::TableMap { slot: 0, fresh: false }));
    assert!(decode(&mut decoder, &rows).is_ok());
}

#[test]
fn a_changed_table_map_is_fresh_in_its_slot() {
    let mut decoder = decoder();
    let map = common::table_map(7);
    decode(&mut decoder, &map).unwrap();
    let mut body = map[19..map.len() - 4].to_vec();
    *body.last_mut().unwrap() = 8;
    let changed = common::event(t::TABLE_MAP, &body);
    assert!(matches!(decode(&mut decoder, &changed).unwrap(), Event::TableMap { slot: 0, fresh: true }));
    assert_eq!(decoder.table(0).columns[1].collation, Some(8));
    decoder.reset();
    assert_eq!(decode(&mut decoder, &map).unwrap_err().kind, DecodeErrorKind::NoFormatDescription);
    decode(&mut decoder, &common::format_description()).unwrap();
    assert!(matches!(decode(&mut decoder, &map).unwrap(), Event::TableMap { slot: 0, fresh: true }));
}

#[test]
fn slots_are_bounded_and_none_of_the_transaction_is_taken_away() {
    let mut decoder = decoder();
    let map = common::table_map(0);
    let with_id = |id: usize| {
        let mut body = map[19..map.len() - 4].to_vec();
        body[..4].copy_from_slice(&u32::try_from(id).unwrap().to_le_bytes());
        common::event(t::TABLE_MAP, &body)
    };
    for id in 0..MAX_TABLES {
        assert!(
            matches!(decode(&mut decoder, &with_id(id)).unwrap(), Event::TableMap { slot, fresh: true } if slot == id)
        );
    }
    let error = decode(&mut decoder, &with_id(MAX_TABLES)).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::TooManyTables { limit: MAX_TABLES });
    decoder.end_transaction();
    decode(&mut decoder, &with_id(0)).unwrap();
    let Event::TableMap { slot, fresh: true } = decode(&mut decoder, &with_id(MAX_TABLES)).unwrap() else {
        panic!()
    };
    assert_ne!(slot, 0, "slot 0 is used in this transaction");
    assert_eq!(decoder.table(slot).table_id, MAX_TABLES as u64);
    assert_eq!(decoder.table(0).table_id, 0);
}

#[test]
fn a_rows_event_without_rows_ends_its_statement() {
    let body = [0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 2, 0, 0];
    let event = common::event(t::WRITE_ROWS_V2, &body);
    assert!(matches!(decode(&mut decoder(), &event).unwrap(), Event::Ignored(t::WRITE_ROWS_V2)));
}

#[test]
fn what_may_carry_rows_says_so() {
    for code in 0..=u8::MAX {
        let mut decoder = decoder();
        let event = common::event(code, &[0; 64]);
        let Ok(Event::Unsupported { event_type, name, may_carry_rows }) = decode(&mut decoder, &event) else {
            continue;
        };
        assert!(may_carry_rows, "{event_type}");
        assert_eq!((event_type, name), (code, event_name(code)));
    }
    let unsupported = [20, 21, 22, 165, 166, 167, 168, 169, 170, 171, 17, 18, 99, 200];
    for code in unsupported {
        let event = common::event(code, &[0; 64]);
        assert!(matches!(decode(&mut decoder(), &event), Ok(Event::Unsupported { .. })), "{code}");
    }
    // An unknown type that says that it may be ignored, and a known one that lies.
    for (code, may_carry) in [(200, false), (t::MARIA_QUERY_COMPRESSED, true)] {
        let header =
            Header { timestamp: 0, event_type: code, server_id: 1, event_size: 0, log_pos: 0, flags: 0x80 };
        let event = decoder().decode(&RawEvent::from_parts(header, &[], None)).unwrap();
        assert!(matches!(event, Event::Unsupported { may_carry_rows, .. } if may_carry_rows == may_carry));
    }
}

#[test]
fn an_artificial_rotate_loses_its_checksum() {
    let mut body = 4_u64.to_le_bytes().to_vec();
    body.extend(b"binlog.000002");
    let header = Header {
        timestamp: 0,
        event_type: t::ROTATE,
        server_id: 1,
        event_size: 44,
        log_pos: 0,
        flags: rowbust_binlog::header::FLAG_ARTIFICIAL,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend(&body);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    let plain = Header { event_size: 40, ..header };
    let mut without = plain.encode().to_vec();
    without.extend(&body);
    for bytes in [bytes, without] {
        for checksummed in [false, true] {
            let raw = RawEvent::parse(&bytes, checksummed).unwrap();
            let event = Decoder::new().decode(&raw).unwrap();
            assert!(
                matches!(event, Event::Rotate { position: 4, file: b"binlog.000002", artificial: true }),
                "{event:?}"
            );
        }
    }
}

#[test]
fn heartbeats_of_all_forms() {
    let heartbeat = |flavor: Flavor, event_type: u8, log_pos: u32, body: &[u8]| {
        let mut decoder = decoder();
        if flavor == Flavor::MariaDb {
            let fixture = include_bytes!("fixtures/mariadb-10.11.full.binlog");
            decoder.decode(&FileEvents::new(fixture).unwrap().next().unwrap().unwrap()).unwrap();
        }
        let header = Header { timestamp: 0, event_type, server_id: 1, event_size: 0, log_pos, flags: 0 };
        match decoder.decode(&RawEvent::from_parts(header, body, None)).unwrap() {
            Event::Heartbeat { file, position } => (String::from_utf8(file.to_vec()).unwrap(), position),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(heartbeat(Flavor::MySql, t::HEARTBEAT, 777, b"b.000001"), ("b.000001".into(), 777));
    assert_eq!(heartbeat(Flavor::MariaDb, t::HEARTBEAT, 777, b"b.000001"), ("b.000001".into(), 777));
    let long = [&5_000_000_000_u64.to_le_bytes()[..], b"b.000001"].concat();
    assert_eq!(heartbeat(Flavor::MariaDb, t::HEARTBEAT, 0, &long), ("b.000001".into(), 5_000_000_000));
    let v2 = [b"\x01\x08b.000001\x02\x09\xfe".to_vec(), 5_000_000_000_u64.to_le_bytes().to_vec(), vec![0]]
        .concat();
    assert_eq!(heartbeat(Flavor::MySql, t::HEARTBEAT_V2, 0, &v2), ("b.000001".into(), 5_000_000_000));
}

#[test]
fn real_files_hold_transactions_in_order() {
    for (file, flavor) in [
        (&include_bytes!("fixtures/mariadb-10.11.full.binlog")[..], Flavor::MariaDb),
        (&include_bytes!("fixtures/mysql-9.7.full.binlog")[..], Flavor::MySql),
    ] {
        let mut decoder = Decoder::new();
        let (mut last, mut ddl, mut commits, mut savepoints) = (0, 0, 0, 0);
        for raw in FileEvents::new(file).unwrap() {
            let raw = raw.unwrap();
            match decoder.decode(&raw).unwrap() {
                Event::FormatDescription(f) => assert!(f.flavor == flavor && f.checksum),
                Event::PreviousGtids(set) => {
                    last = set.iter().flat_map(|(_, list)| list).map(|i| i.end).max().unwrap();
                }
                Event::GtidList(pos) => last = pos.get(0).unwrap().seq,
                Event::Gtid(event) => {
                    let number = match event.gtid {
                        Gtid::MySql { gno, .. } => gno,
                        Gtid::MariaDb(gtid) => gtid.seq,
                    };
                    assert_eq!(number, last + 1);
                    assert_eq!(event.gtid.to_string().parse::<Gtid>().unwrap(), event.gtid);
                    assert_eq!(event.transaction_length.is_some(), flavor == Flavor::MySql);
                    assert_eq!(event.commit_micros.is_some(), flavor == Flavor::MySql);
                    if let Some(micros) = event.commit_micros {
                        let seconds = u64::from(raw.header.timestamp);
                        assert!((micros / 1_000_000).abs_diff(seconds) <= 1, "{micros} {seconds}");
                    }
                    last = number;
                }
                Event::Query(query) => {
                    let sql = std::str::from_utf8(query.sql).unwrap();
                    ddl += u32::from(sql.starts_with("CREATE TABLE"));
                    savepoints += u32::from(sql.starts_with("SAVEPOINT"));
                    if sql.starts_with("CREATE TABLE") {
                        assert_eq!(query.schema, b"fixture");
                        assert_eq!(query.sql_mode, Some(0));
                        assert!(query.client_collation.is_some());
                    }
                }
                Event::Xid(_) => commits += 1,
                Event::RowsQuery(text) => assert!(text.is_ascii() || std::str::from_utf8(text).is_ok()),
                _ => {}
            }
        }
        assert!(ddl > 70 && commits > 70 && savepoints > 0, "{ddl} {commits} {savepoints}");
    }
}
