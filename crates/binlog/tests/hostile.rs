//! Compressed events that no server writes: each is an error with its offset, at a bounded cost.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::io::Write as _;

use rowbust_binlog::payload::WINDOW_LOG_MAX;
use rowbust_binlog::{
    DecodeError, DecodeErrorKind, Decoder, Event, Header, Inflater, MAX_EVENT, Payload, PayloadReader,
    RawEvent, event_type as t,
};
use zstd::stream::raw::CParameter;

const ZSTD: u8 = 0;
const NONE: u8 = 255;

fn lenenc(n: u64) -> Vec<u8> {
    [&[254][..], &n.to_le_bytes()].concat()
}

/// A TRANSACTION_PAYLOAD event's body.
fn body(compression: u8, claimed: Option<u64>, data: &[u8]) -> Vec<u8> {
    let compression = if compression == NONE { vec![252, 255, 0] } else { vec![compression] };
    let mut fields = vec![(1, lenenc(data.len() as u64)), (2, compression)];
    fields.extend(claimed.map(|size| (3, lenenc(size))));
    let mut body = Vec::new();
    for (field, value) in fields {
        body.extend([field, value.len() as u8]);
        body.extend(value);
    }
    body.push(0);
    body.extend(data);
    body
}

fn raw(event_type: u8, body: &[u8]) -> RawEvent<'_> {
    let event_size = (Header::LEN + body.len()) as u32;
    let header = Header { timestamp: 0, event_type, server_id: 1, event_size, log_pos: 0, flags: 0 };
    RawEvent::from_parts(header, body, None)
}

/// An event within a payload: without a checksum.
fn inner(event_type: u8, body: &[u8]) -> Vec<u8> {
    [&raw(event_type, body).header.encode()[..], body].concat()
}

fn zstd_of(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 3).unwrap()
}

/// Sizes of the events of a payload.
fn read(body: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let mut reader = PayloadReader::new();
    let sizes = read_with(&mut reader, body);
    if let Err(error) = &sizes {
        assert!(error.offset <= Header::LEN + body.len(), "{error}");
    }
    sizes
}

fn read_with(reader: &mut PayloadReader, body: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let outer = raw(t::TRANSACTION_PAYLOAD, body);
    let payload = Payload::of(&outer)?;
    reader.open();
    let mut sizes = Vec::new();
    loop {
        match reader.next(&payload) {
            Ok(Some(event)) => sizes.push(event.header.event_size),
            Ok(None) => return Ok(sizes),
            Err(error) => {
                assert_eq!(reader.next(&payload).unwrap().map(|e| e.header), None, "ended");
                return Err(error);
            }
        }
    }
}

fn reason(result: Result<Vec<u32>, DecodeError>) -> String {
    match result.unwrap_err().kind {
        DecodeErrorKind::Inflate { reason, .. } => reason.into(),
        other => other.to_string(),
    }
}

#[test]
fn a_payload_is_read_whole_or_not_at_all() {
    let events =
        [inner(t::QUERY, &[0; 100]), inner(t::XID, &[7; 8]), inner(t::ROWS_QUERY, &[1; 5000])].concat();
    let sizes = vec![119, 27, 5019];
    let size = events.len() as u64;
    let packed = zstd_of(&events);
    for (compression, data) in [(ZSTD, &packed), (NONE, &events)] {
        assert_eq!(read(&body(compression, Some(size), data)), Ok(sizes.clone()));
        assert_eq!(read(&body(compression, None, data)), Ok(sizes.clone()));
        for claimed in [size - 1, size + 1, 0, u64::MAX] {
            let reason = reason(read(&body(compression, Some(claimed), data)));
            let expected = if claimed < size { "more" } else { "fewer" };
            assert_eq!(reason, format!("{expected} bytes than the event claims"));
        }
        // Cut off anywhere, also between two events.
        for len in 0..data.len() {
            assert!(read(&body(compression, Some(size), &data[..len])).is_err(), "{len}");
        }
    }
    for len in 1..packed.len() {
        assert!(read(&body(ZSTD, None, &packed[..len])).is_err(), "{len}");
    }
    // More frames than one are one stream; what is none is an error, and so is a frame that would be passed over.
    let two = [zstd_of(&events[..50]), zstd_of(&events[50..])].concat();
    assert_eq!(read(&body(ZSTD, Some(size), &two)), Ok(sizes));
    for behind in [&b"\0"[..], b"\x50\x2a\x4d\x18\x01\0\0\0\0", b"\x27\xb5\x2f\xfd\0\0\0\0"] {
        let data = [&packed[..], behind].concat();
        assert_eq!(reason(read(&body(ZSTD, Some(size), &data))), "not a frame of zstd");
    }
    let mut broken = packed.clone();
    broken[4] ^= 0x18;
    assert!(read(&body(ZSTD, Some(size), &broken)).is_err());
}

#[test]
fn the_fields_in_front_are_checked() {
    let good = body(ZSTD, Some(27), &zstd_of(&inner(t::XID, &[7; 8])));
    assert_eq!(read(&good), Ok(vec![27]));
    assert!(read(&[&good[..], b"x"].concat()).is_err(), "bytes behind the payload");
    for wrong in [
        &[0][..],                                          // no compression
        &[2, 1, 1, 0],                                     // an unknown one
        &[2, 2, 0, 0, 0],                                  // bytes behind a value
        &[9, 1, 0, 2, 1, 0, 0],                            // an unknown field
        &[2, 1, 0, 1, 1, 5, 0, 1, 2],                      // a false size
        &[2, 250, 0],                                      // a field longer than the event
        &[2, 254, 255, 255, 255, 255, 255, 255, 255, 255], // and more so
        &[2, 1, 0],                                        // no end
    ] {
        assert!(read(wrong).is_err(), "{wrong:?}");
    }
    let other = raw(t::XID, &good);
    assert!(Payload::of(&other).is_err());
}

#[test]
fn events_within_must_be_events() {
    let header = |event_type: u8, size: u32| {
        Header { timestamp: 0, event_type, server_id: 1, event_size: size, log_pos: 0, flags: 0 }
            .encode()
            .to_vec()
    };
    let read = |events: &[u8]| reason(read(&body(ZSTD, Some(events.len() as u64), &zstd_of(events))));
    for size in [0, 18, MAX_EVENT as u32 + 1, u32::MAX] {
        assert_eq!(read(&header(t::XID, size)), format!("size of an event in a payload can't be {size}"));
    }
    for size in [20, MAX_EVENT as u32] {
        assert_eq!(read(&header(t::XID, size)), "the last event is cut off");
    }
    assert_eq!(read(&header(t::XID, 19)[..18]), "the last event is cut off");
    for nested in [t::TRANSACTION_PAYLOAD, t::FORMAT_DESCRIPTION, t::ROTATE] {
        assert_eq!(read(&inner(nested, &[0; 9])), format!("type of an event in a payload can't be {nested}"));
    }
}

#[test]
fn windows_are_bounded() {
    let compress = |log: u32| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(CParameter::WindowLog(log)).unwrap();
        encoder.write_all(&inner(t::XID, &[7; 8])).unwrap();
        // Flushed before its end: the frame can't tell its size, so its window counts.
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(read(&body(ZSTD, Some(27), &compress(WINDOW_LOG_MAX))), Ok(vec![27]));
    let reason = reason(read(&body(ZSTD, Some(27), &compress(WINDOW_LOG_MAX + 1))));
    assert_eq!(reason, "not readable by zstd");
}

/// 300 MiB come out of some kilobytes, and an event claims to be a gigabyte.
#[test]
fn memory_is_bounded_by_what_is_there() {
    let one = inner(t::ROWS_QUERY, &vec![0; (1 << 20) - Header::LEN]);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..300 {
        encoder.write_all(&one).unwrap();
    }
    let bomb = body(ZSTD, Some(300 << 20), &encoder.finish().unwrap());
    let mut reader = PayloadReader::new();
    let used = allocation_counter::measure(|| {
        assert_eq!(read_with(&mut reader, &bomb).unwrap().len(), 300);
    });
    assert!(used.bytes_max < 4 << 20, "{}", used.bytes_max);
    let mut claims = one;
    claims[9..13].copy_from_slice(&(MAX_EVENT as u32).to_le_bytes());
    let liar = body(ZSTD, Some(u64::MAX), &zstd_of(&claims));
    let used = allocation_counter::measure(|| {
        assert!(read_with(&mut PayloadReader::new(), &liar).is_err());
    });
    assert!(used.bytes_max < 4 << 20, "{}", used.bytes_max);
}

#[test]
fn buffers_are_kept() {
    let packed = zstd_of(&[inner(t::QUERY, &[0; 100]), inner(t::XID, &[7; 8])].concat());
    let good = body(ZSTD, Some(146), &packed);
    let cut = body(ZSTD, Some(146), &packed[..packed.len() - 1]);
    let outer = raw(t::TRANSACTION_PAYLOAD, &good);
    let mut reader = PayloadReader::new();
    read_with(&mut reader, &good).unwrap();
    let used = allocation_counter::measure(|| {
        for _ in 0..10 {
            let payload = Payload::of(&outer).unwrap();
            reader.open();
            while let Some(event) = reader.next(&payload).unwrap() {
                assert!(event.body.len() >= 8);
            }
        }
    });
    assert_eq!(used.count_total, 0);
    // Left in the middle, or broken: the next one is read all the same.
    assert!(read_with(&mut reader, &cut).is_err());
    let garbage = body(ZSTD, Some(146), b"within a frame?");
    assert_eq!(reason(read_with(&mut reader, &garbage)), "not a frame of zstd");
    assert!(read_with(&mut reader, &cut).is_err());
    assert_eq!(read_with(&mut reader, &good), Ok(vec![119, 27]));
    reader.open();
    reader.next(&Payload::of(&outer).unwrap()).unwrap();
    assert_eq!(read_with(&mut reader, &good), Ok(vec![119, 27]));
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn decoder() -> Decoder {
    let mut decoder = Decoder::new();
    decoder.decode(&RawEvent::parse(&common::format_description(), true).unwrap()).unwrap();
    decoder
}

/// Compressed data of MariaDB, in the place of `plain`'s end from `head` on.
fn compressed(kind: u8, head: &[u8], len: &[u8], data: &[u8]) -> Vec<u8> {
    common::event(kind, &[head, &[0x80 | len.len() as u8], len, data].concat())
}

/// All seven types, of which servers only write four.
#[test]
fn mariadb_events_become_what_they_were() {
    let mut decoder = decoder();
    let mut inflater = Inflater::new();
    decoder.decode(&RawEvent::parse(&common::table_map(7), true).unwrap()).unwrap();
    let v2 = |kind: u8| common::rows(kind, 7, 1, 300);
    // Version 1 has no extra data.
    let v1 = |kind: u8, of: u8| {
        let mut event = v2(of);
        event.truncate(event.len() - 4);
        event.drain(27..29);
        common::event(kind, &event[19..])
    };
    let query = common::event(
        t::QUERY,
        &[&[1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 5, 0][..], &[0; 5], b"shop\0", &b"SELECT 1 ".repeat(99)]
            .concat(),
    );
    for (kind, plain, head) in [
        (165, query, 13 + 5 + 5),
        (166, v1(t::WRITE_ROWS_V1, t::WRITE_ROWS_V2), 11),
        (167, v1(t::UPDATE_ROWS_V1, t::UPDATE_ROWS_V2), 13),
        (168, v1(t::DELETE_ROWS_V1, t::DELETE_ROWS_V2), 11),
        (169, v2(t::WRITE_ROWS_V2), 13),
        (170, v2(t::UPDATE_ROWS_V2), 15),
        (171, v2(t::DELETE_ROWS_V2), 13),
    ] {
        let expected = RawEvent::parse(&plain, true).unwrap();
        let (head, data) = expected.body.split_at(head);
        for bytes in 2..=4 {
            let len = (data.len() as u32).to_be_bytes();
            let len = &len[4 - bytes..];
            if u64::from(u32::from_be_bytes([0, 0, len[len.len() - 2], len[len.len() - 1]]))
                != data.len() as u64
            {
                continue;
            }
            let event = compressed(kind, head, len, &zlib(data));
            let raw = RawEvent::parse(&event, true).unwrap();
            assert!(raw.is_compressed());
            assert!(matches!(decoder.decode(&raw), Ok(Event::Unsupported { may_carry_rows: true, .. })));
            let inflated = inflater.inflate(&raw, &decoder).unwrap();
            assert_eq!(inflated.header.event_type, expected.header.event_type);
            assert_eq!(inflated.header.event_size as usize, Header::LEN + expected.body.len());
            assert_eq!(inflated.body, expected.body);
            assert!(decoder.decode(&inflated).is_ok(), "{kind}");
        }
    }
}

#[test]
fn false_lengths_and_broken_data_are_errors() {
    let decoder = decoder();
    let mut inflater = Inflater::new();
    let head = [7, 0, 0, 0, 0, 0, 1, 0, 0];
    let data = b"row".repeat(1000);
    let packed = zlib(&data);
    let len = |n: usize| (n as u32).to_be_bytes();
    let mut inflate = |kind: u8, head: &[u8], len: &[u8], data: &[u8]| {
        let event = compressed(kind, head, len, data);
        let raw = RawEvent::parse(&event, true).unwrap();
        inflater.inflate(&raw, &decoder).map(|e| e.body.len()).map_err(|e| {
            assert!(e.offset <= event.len(), "{e}");
            e.to_string().rsplit_once(": ").unwrap().1.to_owned()
        })
    };
    assert_eq!(inflate(166, &head, &len(3000), &packed), Ok(3009));
    assert_eq!(inflate(166, &head, &[11, 184], &packed), Ok(3009));
    let mut broken = packed.clone();
    broken[7] ^= 0xff;
    for (length, data, reason) in [
        (2999, &packed, "more bytes than the event claims, 3000 bytes inflated"),
        (3001, &packed, "fewer bytes than the event claims, 3000 bytes inflated"),
        (0, &packed, "more bytes than the event claims, 1 bytes inflated"),
        (MAX_EVENT, &packed, "fewer bytes than the event claims, 3000 bytes inflated"),
        (3000, &[&packed[..], b"x"].concat(), "bytes behind the compressed data, 3000 bytes inflated"),
        (3000, &packed[..packed.len() - 1].to_vec(), "the compressed data is cut off, 3000 bytes inflated"),
        (3000, &Vec::new(), "the compressed data is cut off, 0 bytes inflated"),
    ] {
        assert_eq!(inflate(166, &head, &len(length), data).unwrap_err(), reason);
    }
    assert!(inflate(166, &head, &len(3000), &broken).is_err());
    assert!(inflate(166, &head, &len(MAX_EVENT + 1), &packed).unwrap_err().contains("uncompressed length"));
    for cut in 0..packed.len() {
        assert!(inflate(166, &head, &len(3000), &packed[..cut]).is_err(), "{cut}");
    }
    // Other algorithms, no mark, no length, five bytes of it.
    for byte in [0x94, 0x04, 0x80, 0x85, 0xff] {
        let event = common::event(166, &[&head[..], &[byte], &len(3000), &[0], &packed].concat());
        let error = inflater.inflate(&RawEvent::parse(&event, true).unwrap(), &decoder).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Invalid { what: "compression header", got: byte.into() });
    }
    // The checksum is that of the compressed event.
    let mut event = compressed(166, &head, &len(3000), &packed);
    *event.last_mut().unwrap() ^= 1;
    assert!(inflater.inflate(&RawEvent::parse(&event, true).unwrap(), &decoder).is_err());
    let plain = common::event(t::XID, &[0; 8]);
    assert!(inflater.inflate(&RawEvent::parse(&plain, true).unwrap(), &decoder).is_err());
    // A claim costs nothing.
    let liar = compressed(166, &head, &len(MAX_EVENT), &zlib(b"few"));
    let used = allocation_counter::measure(|| {
        assert!(Inflater::new().inflate(&RawEvent::parse(&liar, true).unwrap(), &decoder).is_err());
    });
    assert!(used.bytes_max < 1 << 20, "{}", used.bytes_max);
}
