//! Any bytes as a stream of events, without checksums: `cargo +nightly fuzz run stream`, with
//! `tests/fixtures/*.binlog` as a corpus. Each event is decoded, its rows walked with all columns, each value printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust_binlog::{Decoder, Event, FileEvents, Projection, RawEvent, RowSlots};

fuzz_target!(|data: &[u8]| {
    let Ok(events) = FileEvents::new(data) else { return };
    let mut decoder = Decoder::new();
    let mut text = Vec::new();
    for raw in events.map_while(Result::ok) {
        // Nobody guesses a checksum.
        let raw = RawEvent::from_parts(raw.header, raw.body, None);
        let Ok(Event::Rows(rows)) = decoder.decode(&raw) else { continue };
        let map = decoder.table(rows.slot);
        let columns: Vec<usize> = (0..map.columns.len()).collect();
        let Ok(projection) = Projection::new(map, &columns) else { continue };
        let Ok(mut cursor) = rows.cursor(map, &projection) else { continue };
        let mut slots = RowSlots::new();
        while let Ok(true) = cursor.next(&mut slots) {
            for (value, column) in slots.before.iter().zip(&map.columns).chain(slots.after.iter().zip(&map.columns)) {
                let _ = value.write_text(column, &mut text);
            }
            text.clear();
        }
    }
});
