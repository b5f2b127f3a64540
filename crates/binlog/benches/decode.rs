//! Nanoseconds per row: draining (event headers and a copy of the bytes), an unmapped table, one mapped column of
//! ten, all ten; for single-row events and for events of 100 rows. Checksums are verified in all but draining.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use rowbust_binlog::{Decoder, Event, FileEvents, Header, Projection, RowSlots, event_type};

const ROWS: u32 = 10_000;

/// A file of transactions: table map, rows, XID.
fn file(per_event: u32) -> Vec<u8> {
    let mut file = b"\xfebin".to_vec();
    file.extend(common::format_description());
    for first in (0..ROWS).step_by(per_event as usize) {
        file.extend(common::table_map(7));
        file.extend(common::rows(event_type::WRITE_ROWS_V2, 7, first, per_event));
        file.extend(common::event(event_type::XID, &1_u64.to_le_bytes()));
    }
    file
}

fn drain(file: &[u8], buffer: &mut Vec<u8>) -> usize {
    let mut rest = &file[4..];
    let mut events = 0;
    while !rest.is_empty() {
        let header = Header::parse(rest).unwrap();
        let (event, behind) = rest.split_at(header.event_size as usize);
        buffer.clear();
        buffer.extend_from_slice(event);
        black_box(&buffer);
        rest = behind;
        events += 1;
    }
    events
}

fn decode(file: &[u8], columns: &[usize], mapped: bool) -> u32 {
    let mut decoder = Decoder::new();
    let mut projection = None;
    let mut slots = RowSlots::new();
    let mut rows_seen = 0;
    for raw in FileEvents::new(file).unwrap() {
        match decoder.decode(&raw.unwrap()).unwrap() {
            Event::TableMap { slot, fresh: true } => {
                projection = mapped.then(|| Projection::new(decoder.table(slot), columns).unwrap());
            }
            Event::Rows(rows) => {
                let Some(projection) = &projection else { continue };
                let mut cursor = rows.cursor(decoder.table(rows.slot), projection).unwrap();
                while cursor.next(&mut slots).unwrap() {
                    black_box(&slots.after);
                    rows_seen += 1;
                }
            }
            Event::Xid(_) => decoder.end_transaction(),
            _ => {}
        }
    }
    rows_seen
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let all: Vec<usize> = (0..10).collect();
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Elements(ROWS.into()));
    for per_event in [1, 100] {
        let file = file(per_event);
        assert_eq!(decode(&file, &[0], true), ROWS);
        let mut buffer = Vec::new();
        group.bench_function(BenchmarkId::new("drain", per_event), |b| b.iter(|| drain(&file, &mut buffer)));
        let mut bench = |name: &str, columns: &[usize], mapped: bool| {
            group.bench_function(BenchmarkId::new(name, per_event), |b| {
                b.iter(|| decode(&file, columns, mapped))
            });
        };
        bench("unmapped", &[], false);
        bench("one column", &[0], true);
        bench("all columns", &all, true);
    }
    group.finish();
    criterion.final_summary();
}
