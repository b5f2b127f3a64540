//! What the journal of removals costs: recording a batch of 512 keys, and a batch of one, as the workers do after each removal.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, sync::Arc, time::Instant};

use hashbrown::HashTable;
use rowbust::{
    config::SecondRemoval,
    journal::{By, CAPACITY, Journal},
    pipeline::{
        Batch, Budget, Done, Lane, Segment,
        batch::{KeyBatch, Removal, RowPlace, hash_key},
        frontier::Frontier,
    },
    route::Kind,
    source::position::{CommitSpan, Coordinates},
};

fn batch(runtime: &tokio::runtime::Runtime, frontier: &Frontier<Done>, keys: u32) -> Batch {
    let mut batch = KeyBatch::default();
    let mut seen = HashTable::new();
    for n in 0..keys {
        let key = format!("product:{}", 1_000_000 + n);
        let removal = Removal { key: key.as_bytes(), field: None };
        batch.push(
            &mut seen,
            hash_key(removal.key),
            removal,
            RowPlace { position: u64::from(n) * 80, row: 0 },
        );
    }
    let at = Coordinates { file: "b.000001".into(), position: 4 };
    let budget = Budget::new(1 << 20);
    let segment = runtime.block_on(Segment::of(CommitSpan::new(None, at), &budget)).unwrap();
    let lane =
        Lane { target: 0, second: SecondRemoval::Never, fill_grace: std::time::Duration::ZERO, paced: 0 };
    let ticket = frontier.open(1, Done::default()).pop().unwrap();
    Batch { keys: batch, kind: Kind::Exact, lane: Arc::new(lane), segment, ticket, riders: None }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let frontier = Frontier::default();
    for keys in [1_u32, 512] {
        let batch = batch(&runtime, &frontier, keys);
        let target = Journal::default().target("main");
        let record = |times: u32| {
            for _ in 0..times {
                target.acknowledged(black_box(&batch), &[], By::First, true, Instant::now());
            }
        };
        // Full, as it is after the first seconds.
        let fill = u32::try_from(CAPACITY).unwrap() / keys + 1;
        record(fill);
        let rounds = 20 * fill;
        let began = Instant::now();
        record(rounds);
        let nanos = began.elapsed().as_nanos();
        println!(
            "batch of {keys}: {} ns, {:.1} ns per key",
            nanos / u128::from(rounds),
            began.elapsed().as_secs_f64() * 1e9 / f64::from(rounds) / f64::from(keys)
        );
        batch.settle();
    }
}
