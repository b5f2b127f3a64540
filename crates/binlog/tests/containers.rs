//! Events that hold others, and those that only some settings write: files of real servers, and what no server writes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use rowbust_binlog::{
    Decoder, Event, FileEvents, Gtid, Inflater, PayloadReader, Projection, RawEvent, RowKind, RowSlots, Rows,
    Value,
};

const MYSQL: &[u8] = include_bytes!("fixtures/mysql-9.7.containers.binlog");
const MARIADB: &[u8] = include_bytes!("fixtures/mariadb-10.11.containers.binlog");

/// What a file says, in short: one line per event that isn't mere framing.
#[derive(Default)]
struct Reading {
    decoder: Decoder,
    inflater: Inflater,
    payload: PayloadReader,
    lines: Vec<String>,
}

impl Reading {
    fn of(file: &[u8]) -> Vec<String> {
        let mut reading = Self::default();
        for raw in FileEvents::new(file).unwrap() {
            let raw = raw.unwrap();
            if raw.is_compressed() {
                let mut inflater = std::mem::take(&mut reading.inflater);
                reading.one(&inflater.inflate(&raw, &reading.decoder).unwrap(), "inflated ");
                reading.inflater = inflater;
            } else {
                reading.one(&raw, "");
            }
        }
        reading.lines
    }

    fn one(&mut self, raw: &RawEvent<'_>, prefix: &str) {
        let line = match self.decoder.decode(raw).unwrap() {
            Event::TransactionPayload(payload) => {
                self.lines.push(format!("payload of {}", payload.uncompressed_size.unwrap()));
                let mut reader = std::mem::take(&mut self.payload);
                reader.open();
                while let Some(raw) = reader.next(&payload).unwrap() {
                    self.one(&raw, "  ");
                }
                self.payload = reader;
                return;
            }
            Event::Rows(rows) => return self.rows(&rows, prefix),
            Event::Query(query) => String::from_utf8_lossy(query.sql).into_owned(),
            Event::Gtid(gtid) => match (gtid.gtid, gtid.xa, gtid.xid) {
                (_, Some(phase), Some(xid)) => format!("gtid of {phase:?} {xid}"),
                (Gtid::MySql { tsid, gno }, ..) if !tsid.tag.is_none() => {
                    assert!(gtid.commit_micros.unwrap() > 1 << 50 && gtid.transaction_length.unwrap() > 0);
                    format!("gtid {}:{gno}", tsid.tag)
                }
                _ => return,
            },
            Event::PreviousGtids(set) => {
                let mut again = Vec::new();
                set.encode(&mut again);
                assert_eq!(again, raw.body);
                set.iter()
                    .map(|(tsid, list)| format!("{}:{}", tsid.tag, list.len()))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Event::XaPrepare(prepare) => format!("prepare {} {}", prepare.one_phase, prepare.xid),
            Event::Xid(_) => "commit".into(),
            Event::Unsupported { name, .. } => panic!("{name}"),
            _ => return,
        };
        if line != "COMMIT" && line != "BEGIN" {
            self.lines.push(format!("{prefix}{line}"));
        }
    }

    fn rows(&mut self, rows: &Rows<'_>, prefix: &str) {
        let map = self.decoder.table(rows.slot);
        let all: Vec<usize> = (0..map.columns.len()).collect();
        let projection = Projection::new(map, &all).unwrap();
        let mut cursor = rows.cursor(map, &projection).unwrap();
        let (mut slots, mut count, mut last) = (RowSlots::new(), 0, String::new());
        while cursor.next(&mut slots).unwrap() {
            count += 1;
            let values = if rows.kind == RowKind::Delete { &slots.before } else { &slots.after };
            last = values.iter().map(show).collect::<Vec<_>>().join(" ");
        }
        let line = format!("{prefix}{:?} {} {count}: {last}", rows.kind, map.table);
        self.lines.push(line);
    }
}

/// Long strings by their beginning, JSON by its length, differences by their bytes.
fn show(value: &Value<'_>) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Str(text) => String::from_utf8_lossy(&text[..text.len().min(12)]).into_owned(),
        Value::Json(bytes) => format!("json{}", bytes.len()),
        Value::JsonDiff(bytes) => format!("diff[{}]", String::from_utf8_lossy(bytes).escape_debug()),
        other => format!("{other:?}"),
    }
}

/// `expected` was compared by eye with the statements of `generate-containers.sh`.
fn compare(file: &[u8], expected: &str) {
    let lines = Reading::of(file).join("\n");
    assert!(lines.trim() == expected.trim(), "{lines}");
}

#[test]
fn mysql_compressed_partial_tagged_and_xa() {
    compare(MYSQL, include_str!("fixtures/mysql-9.7.containers.txt"));
}

#[test]
fn mariadb_compressed_and_xa() {
    compare(MARIADB, include_str!("fixtures/mariadb-10.11.containers.txt"));
}
