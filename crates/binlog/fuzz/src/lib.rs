//! What the fuzz targets do with their input. The plain tests do the same over the seeds (`tests/seeds.rs`).
//!
//! Everywhere: no panic, and where something is read, it is what was written.

use rowbust_binlog::{
    Decoder, Event, FileEvents, Gtid, GtidSet, Header, Inflater, MariaGtidPos, PayloadReader, Projection,
    RawEvent, RowSlots, Rows, Value, XidBuf, event_type as t, json::Document,
};

thread_local! {
    /// Kept from one input to the next, as a follower keeps it from one transaction to the next.
    static READER: std::cell::Cell<PayloadReader> = std::cell::Cell::default();
}

/// Any bytes as a binlog file, without checksums: every event is decoded, also those within others, its rows walked
/// with all columns, each value printed.
pub fn stream(data: &[u8]) {
    let Ok(events) = FileEvents::new(data) else { return };
    let mut walk = Walk::default();
    for raw in events.map_while(Result::ok) {
        // Nobody guesses a checksum.
        walk.event(&RawEvent::from_parts(raw.header, raw.body, None));
    }
}

/// The first byte chooses: the body of a compressed transaction, the same without compression around the rest, the
/// body of one of MariaDB's compressed events, or bytes that are compressed here and must come back.
pub fn payload(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let mut walk = Walk::with_format();
    let kind = t::MARIA_QUERY_COMPRESSED + how / 4 % 7;
    match how % 4 {
        0 => walk.event(&event(t::TRANSACTION_PAYLOAD, rest)),
        1 => walk.event(&event(t::TRANSACTION_PAYLOAD, &[&[2, 3, 252, 255, 0, 0], rest].concat())),
        2 => walk.event(&event(kind, rest)),
        _ => {
            // A row event of no columns, or a statement of no status variables.
            let head: &[u8] = match kind {
                t::MARIA_QUERY_COMPRESSED => &[0; 14],
                166..=168 => &[0; 9],
                _ => &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0],
            };
            let len = u32::try_from(rest.len()).expect("libFuzzer's inputs are small").to_be_bytes();
            let body = [head, &[0x84][..], &len[..], &deflate(rest)].concat();
            let mut inflater = Inflater::new();
            let plain = inflater.inflate(&event(kind, &body), &walk.decoder).expect("what was compressed");
            assert_eq!(plain.body, [head, rest].concat());
            assert_eq!(plain.header.event_size as usize, Header::LEN + plain.body.len());
        }
    }
}

/// Any bytes as the body of a table map.
pub fn table_map(data: &[u8]) {
    let mut walk = Walk::with_format();
    let Ok(Event::TableMap { slot, .. }) = walk.decoder.decode(&event(t::TABLE_MAP, data)) else { return };
    let map = walk.decoder.table(slot);
    let columns: Vec<usize> = (0..map.columns.len()).collect();
    let _ = Projection::new(map, &columns);
    for column in &map.columns {
        let _ = (column.decimals(), column.is_binary(), column.is_complete());
        if let Some(name) = &column.name {
            assert!(map.column_index(name).is_some());
        }
    }
    // The same bytes are the same table.
    let again = walk.decoder.decode(&event(t::TABLE_MAP, data));
    assert!(matches!(again, Ok(Event::TableMap { fresh: false, .. })));
}

/// A byte that chooses the type of a row event, a table map's length in two bytes, the table map, and the row event:
/// with all columns, and then with every third, which must be the same values.
pub fn row_image(data: &[u8]) {
    const TYPES: [u8; 7] = [23, 24, 25, 30, 31, 32, 39];
    let Some((&[kind, low, high], rest)) = data.split_first_chunk() else { return };
    let Some((map, rows)) = rest.split_at_checked(u16::from_le_bytes([low, high]).into()) else { return };
    let kind = TYPES[usize::from(kind) % TYPES.len()];
    let mut walk = Walk::with_format();
    if walk.decoder.decode(&event(t::TABLE_MAP, map)).is_ok() {
        walk.event(&event(kind, rows));
    }
}

/// Any bytes as sets and ids of transactions, in binary and in text: what is read must be written as what reads the
/// same.
pub fn gtid(data: &[u8]) {
    let mut walk = Walk::with_format();
    for kind in [t::GTID, t::GTID_TAGGED, t::MARIA_GTID, t::MARIA_GTID_LIST, t::XA_PREPARE] {
        if let Ok(Event::Gtid(gtid)) = walk.decoder.decode(&event(kind, data)) {
            assert_eq!(gtid.gtid.to_string().parse(), Ok(gtid.gtid));
        }
    }
    if let Ok(set) = GtidSet::decode(data, t::PREVIOUS_GTIDS) {
        let mut body = Vec::new();
        set.encode(&mut body);
        assert!(body.len() <= data.len());
        assert_eq!(GtidSet::decode(&body, t::PREVIOUS_GTIDS).as_ref(), Ok(&set));
        // A set without any source is the empty text, too; one without intervals isn't written.
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    }
    if let Some((xid, _)) = XidBuf::parse(data) {
        let text = xid.as_xid().to_string();
        assert_eq!(XidBuf::in_statement(format!("XA COMMIT {text}").as_bytes()), Some(xid));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((a, b)) = text.split_once('/')
        && let (Ok(a), Ok(b)) = (a.parse::<GtidSet>(), b.parse::<GtidSet>())
    {
        let (only_a, mut both) = (a.subtract(&b), a.clone());
        both.union(&b);
        assert!(a.is_subset_of(&both) && b.is_subset_of(&both) && only_a.is_subset_of(&a));
        assert_eq!(only_a.is_empty(), a.is_subset_of(&b));
        let mut again = only_a;
        again.union(&b);
        assert_eq!(again, both);
    }
    if let Ok(set) = text.parse::<GtidSet>() {
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
        let mut body = Vec::new();
        set.encode(&mut body);
        assert_eq!(GtidSet::decode(&body, t::PREVIOUS_GTIDS), Ok(set));
    }
    if let Ok(pos) = text.parse::<MariaGtidPos>() {
        assert_eq!(pos.to_string().parse(), Ok(pos));
    }
    if let Ok(gtid) = text.parse::<Gtid>() {
        assert_eq!(gtid.to_string().parse(), Ok(gtid));
    }
}

fn event(event_type: u8, body: &[u8]) -> RawEvent<'_> {
    let event_size = u32::try_from(Header::LEN + body.len()).expect("libFuzzer's inputs are small");
    let header = Header { timestamp: 0, event_type, server_id: 1, event_size, log_pos: 0, flags: 0 };
    RawEvent::from_parts(header, body, None)
}

fn deflate(data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("a vector takes all")
}

#[derive(Default)]
struct Walk {
    decoder: Decoder,
    inflater: Inflater,
    text: Vec<u8>,
}

impl Walk {
    /// As behind the head of a file of today.
    fn with_format() -> Self {
        let mut walk = Self::default();
        let mut body = [&[4, 0][..], b"9.7.0", &[0; 45], &[0; 4], &[19], &[0; 41], &[0]].concat();
        for (kind, len) in
            [(2_usize, 13), (4, 8), (19, 8), (23, 8), (24, 8), (25, 8), (30, 10), (31, 10), (32, 10)]
        {
            body[57 + kind - 1] = len;
        }
        walk.decoder.decode(&event(t::FORMAT_DESCRIPTION, &body)).expect("a format description");
        walk
    }

    fn event(&mut self, raw: &RawEvent<'_>) {
        if raw.is_compressed() {
            let mut inflater = std::mem::take(&mut self.inflater);
            if let Ok(plain) = inflater.inflate(raw, &self.decoder) {
                assert!(!plain.is_compressed());
                self.event(&plain);
            }
            self.inflater = inflater;
            return;
        }
        match self.decoder.decode(raw) {
            Ok(Event::Rows(rows)) => self.rows(&rows),
            Ok(Event::TransactionPayload(payload)) => {
                let mut reader = READER.take();
                reader.open();
                let mut sum = 0;
                while let Ok(Some(inner)) = reader.next(&payload) {
                    assert_ne!(inner.header.event_type, t::TRANSACTION_PAYLOAD);
                    sum += u64::from(inner.header.event_size);
                    self.event(&RawEvent::from_parts(inner.header, inner.body, None));
                }
                assert!(payload.uncompressed_size.is_none_or(|size| sum <= size));
                READER.set(reader);
            }
            _ => {}
        }
    }

    fn rows(&mut self, rows: &Rows<'_>) {
        let map = self.decoder.table(rows.slot);
        let columns: Vec<usize> = (0..map.columns.len()).collect();
        let Ok(all) = Projection::new(map, &columns) else { return };
        let some: Vec<usize> = (0..map.columns.len()).step_by(3).collect();
        let Ok(third) = Projection::new(map, &some) else { return };
        let (Ok(mut cursor), Ok(mut thirds)) = (rows.cursor(map, &all), rows.cursor(map, &third)) else {
            return;
        };
        let (mut slots, mut few) = (RowSlots::new(), RowSlots::new());
        while let Ok(true) = cursor.next(&mut slots) {
            assert_eq!(thirds.next(&mut few), Ok(true));
            for (before, after) in slots.before.iter().zip(&slots.after) {
                if let (Value::Json(document), Value::JsonDiff(diffs)) = (before, after) {
                    let _ = Document::patched(document, diffs).write_text(&mut self.text);
                }
            }
            for (values, few) in [(&slots.before, &few.before), (&slots.after, &few.after)] {
                for (value, column) in values.iter().zip(&map.columns) {
                    let _ = value.write_text(column, &mut self.text);
                }
                let picked: Vec<String> = values.iter().step_by(3).map(|v| format!("{v:?}")).collect();
                // By their text: not every float equals itself.
                assert_eq!(few.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>(), picked);
            }
            self.text.clear();
        }
    }
}
