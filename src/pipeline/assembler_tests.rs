#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use tokio::sync::mpsc;

use super::*;
use crate::{config, pipeline::PacedQueues};

/// One mapping and one worker. The receivers hold what is handed on, as busy workers do.
fn assembler(
    budget: &Budget,
    paced: bool,
) -> (Assembler, mpsc::Receiver<Batch>, mpsc::UnboundedReceiver<Flush>) {
    let text = "source: { url: \"mysql://u@db:3306\", tls: disabled }\nredis: { main: \"redis://cache\" }\n\
                mappings: [ { table: shop.products, keys: [\"product:{id}\"] } ]\n";
    let config = config::parse(text, Path::new("/test.yaml"), &|_| None).unwrap();
    let (batches, kept) = mpsc::channel(16);
    let (flush, flushes) = mpsc::unbounded_channel();
    let nobody = || mpsc::unbounded_channel().0;
    let paced_queues = PacedQueues { bulk: nobody(), prefixes: nobody(), members: nobody() };
    let queues = vec![TargetQueues { workers: vec![batches], paced: vec![paced_queues], flush }];
    let assembler = Assembler::new(Lanes::new(&config), queues, Frontier::default(), budget.clone(), paced);
    (assembler, kept, flushes)
}

/// One row event of long keys, of which a later row can't be decoded: the keys and a flush go on together. With the smallest
/// budget that a config may have, both need more than there is.
#[tokio::test(start_paused = true)]
async fn keys_and_a_flush_larger_than_the_budget_pass_together() {
    let budget = Budget::new(1 << 20);
    let (mut assembler, mut batches, mut flushes) = assembler(&budget, false);
    let at = Coordinates { file: "b.000001".into(), position: 100 };
    assembler.begin(source::Transaction { gtid: None, at: &at, commit_micros: 0 });
    let mut bytes = 0;
    for n in 0_u32.. {
        let mut key = vec![b'k'; 60_000];
        key.extend(n.to_be_bytes());
        assembler.push(0, Removal { key: &key, field: None }, RowPlace { position: 200, row: 0 });
        bytes += key.len();
        if bytes > budget.total() {
            break;
        }
    }
    assembler.widen([0], "a row that can't be decoded");
    tokio::time::timeout(Duration::from_secs(60), assembler.flush())
        .await
        .expect("waits for itself")
        .unwrap();
    let (batch, flush) = (batches.try_recv().unwrap(), flushes.try_recv().unwrap());
    assert!(batch.keys.len() > 16);
    assert_eq!(budget.used(), budget.total(), "all of it is in use");
    // What waits for a flush is little: the bytes of the keys are free as soon as these are done.
    batch.settle();
    assert!(budget.used() < 4096, "{}", budget.used());
    assert!(budget.used() > 0, "a flush counts too");
    flush.settle();
    assert_eq!(budget.used(), 0);
}
