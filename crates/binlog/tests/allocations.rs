//! No allocation per row or event in the steady state.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use rowbust_binlog::{Decoder, Event, Projection, RawEvent, RowSlots, event_type};

#[test]
fn steady_state_allocates_nothing() {
    let mut decoder = Decoder::new();
    decoder.decode(&RawEvent::parse(&common::format_description(), true).unwrap()).unwrap();
    let map = common::table_map(7);
    let xid = common::event(event_type::XID, &1_u64.to_le_bytes());
    let Event::TableMap { slot, fresh: true } =
        decoder.decode(&RawEvent::parse(&map, true).unwrap()).unwrap()
    else {
        panic!()
    };
    decoder.end_transaction();
    let all: Vec<usize> = (0..10).collect();
    let projection = Projection::new(decoder.table(slot), &all).unwrap();
    // The slots grow to their size with the first rows.
    let mut kept: RowSlots<'static> = RowSlots::new();
    let mut transaction = |first: u32| {
        let rows = common::rows(event_type::UPDATE_ROWS_V2, 7, first, 50);
        let mut seen = 0;
        let counted = allocation_counter::measure(|| {
            let mut slots = std::mem::take(&mut kept).recycle();
            for bytes in [&map, &rows, &xid] {
                match decoder.decode(&RawEvent::parse(bytes, true).unwrap()).unwrap() {
                    Event::TableMap { fresh, .. } => assert!(!fresh),
                    Event::Rows(rows) => {
                        let mut cursor = rows.cursor(decoder.table(rows.slot), &projection).unwrap();
                        while cursor.next(&mut slots).unwrap() {
                            assert_eq!((slots.before.len(), slots.after.len()), (10, 10));
                            seen += 1;
                        }
                    }
                    Event::Xid(_) => decoder.end_transaction(),
                    other => panic!("{other:?}"),
                }
            }
            kept = slots.recycle();
        });
        assert_eq!(seen, 50);
        counted.count_total
    };
    transaction(0);
    assert_eq!((1..20).map(|i| transaction(i * 50)).sum::<u64>(), 0);
}
