//! Events as the decoder gives them, where real files hold no example or only one.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod common;
#[path = "events/no_server.rs"]
mod no_server;

use rowbust_binlog::decoder::MAX_TABLES;
use rowbust_binlog::{
    DecodeErrorKind, Decoder, Event, FileEvents, Flavor, Gtid, GtidSet, Header, Projection, RawEvent,
    RowKind, RowSlots, Rows, Value, XaPhase, event_name, event_type as t,
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
    // Rows of a table that happens to have that number are rows.
    let mut decoder = decoder();
    let map = common::table_map(7);
    let mut body = map[19..map.len() - 4].to_vec();
    body[..3].fill(0xff);
    decode(&mut decoder, &common::event(t::TABLE_MAP, &body)).unwrap();
    let rows = common::rows(t::WRITE_ROWS_V2, 7, 1, 2);
    let mut body = rows[19..rows.len() - 4].to_vec();
    body[..3].fill(0xff);
    let rows = common::event(t::WRITE_ROWS_V2, &body);
    assert!(matches!(decode(&mut decoder, &rows).unwrap(), Event::Rows(_)));
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
    // As MySQL 9.7 sends it to who asks by flag 2 of COM_BINLOG_DUMP; others get the first form.
    let sent = [
        &[0, 0, 0, 0, t::HEARTBEAT_V2, 7, 0, 0, 0, 0x2c, 0, 0, 0, 0x83, 1, 0, 0, 0, 0, 1, 13][..],
        b"binlog.000003",
        &[2, 3, 252, 0x83, 1, 0, 0x80, 0x3c, 0x85, 0xfe],
    ]
    .concat();
    assert!(matches!(
        decode(&mut decoder(), &sent).unwrap(),
        Event::Heartbeat { file: b"binlog.000003", position: 387 }
    ));
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

/// The format description of a server of long ago, without a checksum: only these servers still write the forms below.
fn old_server(version: &str, lengths: &[u8], checksum: Option<u8>) -> Vec<u8> {
    let mut body = vec![4, 0];
    body.extend(version.as_bytes());
    body.resize(52, 0);
    body.extend([0; 4]);
    body.push(19);
    body.extend(lengths);
    body.extend(checksum);
    // A server that knows checksums keeps their place in this event even where it writes none.
    body.extend(checksum.map_or(&[][..], |_| &[0; 4]));
    let header = Header {
        timestamp: 0,
        event_type: t::FORMAT_DESCRIPTION,
        server_id: 1,
        event_size: (Header::LEN + body.len()) as u32,
        log_pos: 0,
        flags: 0,
    };
    [&header.encode()[..], &body].concat()
}

/// MySQL 5.7 with `log_bin_use_v1_row_events`: 38 types, rows of version 1, GTIDs without commit times.
#[test]
fn mysql_5_7_of_the_documented_layout() {
    // `Format_description_event` of 5.7: the post-header's length of each type from 1 on.
    let lengths = [
        56, 13, 0, 8, 0, 18, 0, 4, 4, 4, 4, 18, 0, 0, 95, 0, 4, 26, 8, 0, 0, 0, 8, 8, 8, 2, 0, 0, 0, 10, 10,
        10, 42, 42, 0, 18, 52, 0,
    ];
    let fde = old_server("5.7.44-log", &lengths, Some(0));
    let mut decoder = Decoder::new();
    // The checksum of the description itself isn't one: the algorithm is "none".
    let raw = RawEvent::parse(&fde, false).unwrap();
    let raw = RawEvent::from_parts(raw.header, raw.body, None);
    let Event::FormatDescription(described) = decoder.decode(&raw).unwrap() else { panic!() };
    assert!(described.flavor == Flavor::MySql && !described.checksum && !decoder.checksummed());
    let event = |event_type: u8, body: &[u8]| {
        let mut bytes = common::event(event_type, body);
        bytes.truncate(bytes.len() - 4);
        let size = bytes.len() as u32;
        bytes[9..13].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    // Flags, UUID, number; since 5.7.6 the logical clock behind it.
    let mut gtid = vec![1];
    gtid.extend([0x3e; 16]);
    gtid.extend(77_u64.to_le_bytes());
    let with_clock = [&gtid[..], &[2], &5_u64.to_le_bytes(), &6_u64.to_le_bytes()].concat();
    for body in [gtid, with_clock] {
        let bytes = event(t::GTID, &body);
        let Event::Gtid(gtid) = decode(&mut decoder, &bytes).unwrap() else { panic!() };
        assert!(matches!(gtid.gtid, Gtid::MySql { tsid, gno: 77 } if tsid.tag.is_none()));
        assert_eq!((gtid.commit_micros, gtid.transaction_length, gtid.flags), (None, None, 1));
    }
    let map = common::table_map(7);
    decode(&mut decoder, &event(t::TABLE_MAP, &map[19..map.len() - 4])).unwrap();
    for (v1, v2, kind) in [
        (t::WRITE_ROWS_V1, t::WRITE_ROWS_V2, RowKind::Write),
        (t::UPDATE_ROWS_V1, t::UPDATE_ROWS_V2, RowKind::Update),
        (t::DELETE_ROWS_V1, t::DELETE_ROWS_V2, RowKind::Delete),
    ] {
        // As version 2 without the extra data, whose length is the two bytes behind the flags.
        let rows = common::rows(v2, 7, 40, 3);
        let body = [&rows[19..27], &rows[29..rows.len() - 4]].concat();
        let bytes = event(v1, &body);
        let Event::Rows(rows) = decode(&mut decoder, &bytes).unwrap() else { panic!() };
        assert_eq!((rows.kind, rows.column_count), (kind, 10));
        let map = decoder.table(rows.slot);
        let projection = Projection::new(map, &[0, 1]).unwrap();
        let mut cursor = rows.cursor(map, &projection).unwrap();
        let mut slots = RowSlots::new();
        for id in 40..43 {
            assert!(cursor.next(&mut slots).unwrap());
            let values = if kind == RowKind::Delete { &slots.before } else { &slots.after };
            assert_eq!(values[..], [Value::Int(id), Value::Str(b"a product of twenty!")]);
        }
        assert!(!cursor.next(&mut slots).unwrap());
    }
}

/// Before 5.6.1 there are no checksums, and table ids may have four bytes.
#[test]
fn descriptions_without_checksums_and_with_short_table_ids() {
    let mut lengths = [0_u8; 27];
    for (event_type, len) in [(t::QUERY, 13), (t::TABLE_MAP, 6), (t::WRITE_ROWS_V1, 6)] {
        lengths[usize::from(event_type) - 1] = len;
    }
    let fde = old_server("5.1.73-log", &lengths, None);
    let mut decoder = Decoder::new();
    assert!(matches!(decode(&mut decoder, &fde).unwrap(), Event::FormatDescription(f) if !f.checksum));
    let map = common::table_map(7);
    // The ids' two high bytes are missing.
    let map = [&map[19..23], &map[25..map.len() - 4]].concat();
    let rows = common::rows(t::WRITE_ROWS_V2, 7, 1, 1);
    let rows = [&rows[19..23], &rows[25..27], &rows[29..rows.len() - 4]].concat();
    for (event_type, body) in [(t::TABLE_MAP, map), (t::WRITE_ROWS_V1, rows)] {
        let header = Header { timestamp: 0, event_type, server_id: 1, event_size: 0, log_pos: 0, flags: 0 };
        match decoder.decode(&RawEvent::from_parts(header, &body, None)).unwrap() {
            Event::TableMap { slot, .. } => assert_eq!(decoder.table(slot).table_id, 7),
            Event::Rows(rows) => assert_eq!((rows.table_id, rows.column_count), (7, 10)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn table_maps_are_bounded() {
    let map = common::table_map(7);
    let body = &map[19..map.len() - 4];
    // Metadata of an unknown kind, 16 MiB of it.
    let long = [body, &[99, 254], &(16_u64 << 20).to_le_bytes(), &vec![0; 16 << 20]].concat();
    let error = decode(&mut decoder(), &common::event(t::TABLE_MAP, &long)).unwrap_err();
    assert!(error.to_string().contains("table map's size can't be"), "{error}");
    // One ENUM of 65536 labels without letters.
    let labels = [&[253, 0, 0, 1][..], &vec![0; 65_536]].concat();
    let metadata = [&[6, 253, 4, 0, 1][..], &labels].concat();
    let body =
        [&[7, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0, 1, 254, 2, 247, 2, 0][..], &metadata].concat();
    let error = decode(&mut decoder(), &common::event(t::TABLE_MAP, &body)).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Invalid { what: "number of labels", got: 65_536 });
}

#[test]
fn incidents_and_prepared_transactions() {
    let mut decoder = decoder();
    let incident = common::event(t::INCIDENT, b"\x01\x00\x09lost them");
    assert!(matches!(
        decode(&mut decoder, &incident).unwrap(),
        Event::Incident { number: 1, message: b"lost them" }
    ));
    assert!(decode(&mut decoder, &common::event(t::INCIDENT, b"\x01\x00\x0alost them")).is_err());
    let xid = |gtrid: u32, bqual: u32, data: &[u8]| {
        let head = [&[1][..], &(-1_i32).to_le_bytes(), &gtrid.to_le_bytes(), &bqual.to_le_bytes()].concat();
        common::event(t::XA_PREPARE, &[&head, data].concat())
    };
    let most = xid(64, 64, &[7; 128]);
    let Event::XaPrepare(prepare) = decode(&mut decoder, &most).unwrap() else { panic!() };
    assert!(prepare.one_phase && prepare.xid.format_id == -1 && prepare.xid.bqual == [7; 64]);
    for wrong in [xid(65, 1, &[7; 128]), xid(1, 65, &[7; 128]), xid(u32::MAX, 0, b""), xid(3, 1, b"abc")] {
        assert!(decode(&mut decoder, &wrong).is_err());
    }
    // Both halves at once are none.
    let body = [&9_u64.to_le_bytes()[..], &0_u32.to_le_bytes(), &[64 | 128], &[0; 12]].concat();
    assert!(decode(&mut decoder, &common::event(t::MARIA_GTID, &body)).is_err());
    // Behind the id of a group commit.
    let body =
        [&9_u64.to_le_bytes()[..], &5_u32.to_le_bytes(), &[64 | 2], &[9; 8], &[7, 0, 0, 0, 1, 2], b"abb"]
            .concat();
    let event = common::event(t::MARIA_GTID, &body);
    let Event::Gtid(gtid) = decode(&mut decoder, &event).unwrap() else { panic!() };
    assert_eq!(gtid.xa, Some(XaPhase::Prepared));
    assert_eq!(gtid.xid.unwrap().to_string(), "X'61',X'6262',7");
}

#[test]
fn encrypted_files_are_refused_with_their_place() {
    let mysql = FileEvents::new(b"\xfdbin\x01\x01rest").unwrap_err();
    assert_eq!(mysql.kind, DecodeErrorKind::Encrypted { position: 0 });
    let mut file = b"\xfebin".to_vec();
    file.extend(common::format_description());
    file.extend(common::event(t::MARIA_START_ENCRYPTION, &[1; 17]));
    let position = file.len() as u64;
    file.extend([0xa5; 200]);
    let events: Vec<_> = FileEvents::new(&file).unwrap().collect();
    assert_eq!(events.len(), 2);
    let error = events[1].as_ref().unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Encrypted { position });
    assert!(error.to_string().contains("the file is encrypted from byte"), "{error}");
    // In a stream it says nothing: the server has decrypted what follows.
    let event = common::event(t::MARIA_START_ENCRYPTION, &[1; 17]);
    assert!(matches!(decode(&mut decoder(), &event).unwrap(), Event::Ignored(164)));
}
