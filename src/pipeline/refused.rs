//! Rows that no key could be made of, on their way to the dead letters.
//!
//! May depend on `frontier`.

use super::{Done, frontier::Ticket};

/// Rows that may wait to be filed; beyond that each has its line in the log alone.
pub const REFUSED_QUEUE: usize = 256;

/// The place of a row that gave no key, and whose table was flushed for it.
#[derive(Debug)]
pub struct RefusedRow {
    /// `schema.table`
    pub table: String,
    /// What is wrong with it, without its values.
    pub what: String,
    /// Binlog file.
    pub file: String,
    /// End of its rows event.
    pub position: u64,
    /// Its number within the event, from 0; 65535 stands for all beyond.
    pub row: u16,
    /// The transaction's GTID; empty: it has none.
    pub gtid: String,
    /// Unix time in seconds of the commit, by the server's clock.
    pub commit_time: u32,
    /// Settled once the place is durable; the checkpoint waits for it.
    pub ticket: Option<Ticket<Done>>,
}
