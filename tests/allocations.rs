//! No allocation per row on the way from an event's bytes to a pushed key, in the steady state.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../crates/binlog/tests/common/mod.rs"]
mod common;

use std::path::Path;

use hashbrown::HashTable;
use rowbust::{
    config,
    pipeline::batch::{KeyBatch, Removal, RowPlace, hash_key},
    route::{Plan, RoutedKey, Router, Scratch},
};
use rowbust_binlog::{Decoder, Event, RawEvent, RowSlots, event_type};

const CONFIG: &str = r#"
source: { url: "mysql://rowbust@db1:3306", password: secret }
redis: { main: "redis://cache:6379/0" }
mappings:
  - table: shop.products
    keys: [KEYS]
"#;

/// The stages of the daemon's reading task, with what they keep.
struct Stages {
    decoder: Decoder,
    plan: Plan,
    slots: RowSlots<'static>,
    scratch: Scratch,
    batch: KeyBatch,
    seen: HashTable<u32>,
    rows: u64,
    keys: u64,
}

impl Stages {
    fn new(keys: &str) -> Self {
        let config = config(keys);
        let mut decoder = Decoder::new();
        decoder.decode(&RawEvent::parse(&common::format_description(), true).unwrap()).unwrap();
        let bytes = common::table_map(7);
        let Event::TableMap { slot, fresh: true } =
            decoder.decode(&RawEvent::parse(&bytes, true).unwrap()).unwrap()
        else {
            panic!()
        };
        decoder.end_transaction();
        let map = decoder.table_mut(slot);
        map.complete(&common::schema()).unwrap();
        let plan = Router::new(&config).plan(map).unwrap().unwrap();
        Self {
            decoder,
            plan,
            slots: RowSlots::new(),
            scratch: Scratch::new(),
            batch: KeyBatch::default(),
            seen: HashTable::new(),
            rows: 0,
            keys: 0,
        }
    }

    /// As `Follower` and `RouteSink` do it.
    fn transaction(&mut self, events: &[Vec<u8>]) {
        for bytes in events {
            match self.decoder.decode(&RawEvent::parse(bytes, true).unwrap()).unwrap() {
                Event::TableMap { fresh, .. } => assert!(!fresh),
                Event::Rows(rows) => {
                    let mut slots = std::mem::take(&mut self.slots).recycle();
                    let mut cursor =
                        rows.cursor(self.decoder.table(rows.slot), self.plan.projection()).unwrap();
                    while cursor.next(&mut slots).unwrap() {
                        let (batch, seen, pushed) = (&mut self.batch, &mut self.seen, &mut self.keys);
                        let mut sink = |key: RoutedKey<'_>| {
                            let removal = Removal { key: key.key, field: key.field };
                            batch.push(seen, hash_key(key.key), removal, RowPlace { position: 4, row: 0 });
                            *pushed += 1;
                        };
                        self.plan.route(rows.kind, &slots, &mut self.scratch, &mut sink).unwrap();
                        self.rows += 1;
                    }
                    self.slots = slots.recycle();
                }
                Event::Xid(_) => self.decoder.end_transaction(),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// One transaction of `events` row events with `rows` rows each, from this id on.
fn transaction(kind: u8, first: u32, events: u32, rows: u32) -> Vec<Vec<u8>> {
    let mut all = vec![common::table_map(7)];
    all.extend((0..events).map(|i| common::rows(kind, 7, first + i * rows, rows)));
    all.push(common::event(event_type::XID, &1_u64.to_le_bytes()));
    all
}

fn config(keys: &str) -> config::Config {
    let text = CONFIG.replace("KEYS", keys);
    config::parse(&text, Path::new("/etc/rowbust/rowbust.yaml"), &|_| None).unwrap()
}

#[test]
fn decode_route_and_push_allocate_nothing() {
    let one = r#""product:{id}""#;
    let all = r#""{id}:{name|lower}:{sku}:{price}:{made}:{category_id|hex}:{kind}:{seen|raw}:{active}:{weight}", { key: "{kind}", op: hdel, field: "{id}" }"#;
    for (keys, keys_per_row) in [(one, 1), (all, 2)] {
        for (events, rows) in [(40, 1), (1, 40)] {
            for kind in [event_type::WRITE_ROWS_V2, event_type::UPDATE_ROWS_V2, event_type::DELETE_ROWS_V2] {
                let mut stages = Stages::new(keys);
                let transactions: Vec<_> = (0..10).map(|i| transaction(kind, i * 40, events, rows)).collect();
                // Buffers grow to their size: these keys go into the batch.
                transactions.iter().for_each(|t| stages.transaction(t));
                assert_eq!((stages.rows, stages.keys), (400, 400 * keys_per_row));
                let before = stages.batch.len();
                let counted =
                    allocation_counter::measure(|| transactions.iter().for_each(|t| stages.transaction(t)));
                assert_eq!(counted.count_total, 0, "{keys}: {events} events of {rows} rows, type {kind}");
                assert_eq!((stages.rows, stages.batch.len()), (800, before));
            }
        }
    }
}

#[test]
fn new_keys_allocate_only_as_a_batch_doubles() {
    let mut stages = Stages::new(r#""product:{id}""#);
    stages.transaction(&transaction(event_type::UPDATE_ROWS_V2, 0, 1, 1));
    let events = transaction(event_type::UPDATE_ROWS_V2, 1, 64, 64);
    let counted = allocation_counter::measure(|| stages.transaction(&events));
    assert_eq!(stages.batch.len(), 1 + 64 * 64);
    // Bytes, entries and the table of what was seen: each about twelve times.
    assert!(counted.count_total < 50, "{} allocations", counted.count_total);
}
