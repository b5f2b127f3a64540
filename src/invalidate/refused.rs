//! Rows that gave no key: their places to the dead letters.
//!
//! Guarantees: a row's ticket is settled only once its place is durable. What its mappings could make of it is flushed all the same: the
//! letter is for people. May depend on `pipeline` and `retry`.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{LONGEST_PAUSE, backoff};
use crate::{
    pipeline::refused::RefusedRow,
    retry::{Op, Origin, Queue, Record},
};

/// Files what comes until nobody can send any more. `source`, `epoch`: as in [`Origin`].
pub async fn run(mut rows: mpsc::Receiver<RefusedRow>, queue: Arc<Queue>, source: String, epoch: u64) {
    while let Some(mut row) = rows.recv().await {
        let ticket = row.ticket.take();
        let (record, reason) = letter(row, &source, epoch);
        let mut pauses = backoff(LONGEST_PAUSE);
        while let Err(error) = queue.bury(record.clone(), reason.clone()).await {
            tracing::warn!(%error, "retry queue refuses a row's dead letter, holding it");
            pauses.wait().await;
        }
        if let Some(ticket) = ticket {
            ticket.settle();
        }
    }
}

fn letter(row: RefusedRow, source: &str, epoch: u64) -> (Record, String) {
    let RefusedRow { table, what, file, position, row, gtid, commit_time, ticket: _ } = row;
    let origin = Origin {
        source: source.to_owned(),
        gtid,
        visible_file: file.clone(),
        visible_position: position,
        file,
        position,
        row,
        commit_time,
        epoch,
    };
    let record = Record {
        target: String::new(),
        key: Vec::new(),
        op: Op::Row { table },
        origin,
        when_visible: false,
        fill_grace_ms: 0,
        attempt: 0,
        not_before_ms: 0,
        first_failed_ms: 0,
        error_code: "ROW".into(),
    };
    (record, what)
}
