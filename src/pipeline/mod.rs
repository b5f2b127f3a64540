//! From routed keys to batches with tickets: segments, lanes, the byte budget.
//!
//! Guarantees: every key that is pushed goes to exactly one worker (by the key's hash) under a ticket of its segment, unless an
//! earlier segment of the same transaction has it; the position of a transaction becomes done only with the segment that its commit was read in, and all
//! before it. Keys in flight take at most the budget's bytes: [`Assembler::flush`] waits, and with it the reading of the socket.
//! May depend on `source::position` and `config`.

pub mod assembler;
pub mod batch;
pub mod budget;
pub mod frontier;
mod handed;
pub mod pace;
pub mod prepared;
pub mod refused;
pub mod sink;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

pub use self::{assembler::Assembler, budget::Budget};
use self::{
    batch::KeyBatch,
    budget::Permit,
    frontier::{Append, Ticket},
    prepared::Riders,
};
use crate::{
    config::{Config, SecondRemoval},
    route::Kind,
    source::position::{Anchor, CommitSpan, Position},
};

/// Keys of one batch at most: what one `UNLINK` takes. Longer commands gain nothing and hold Redis up.
pub const BATCH_KEYS: usize = 512;
/// Bytes of one batch at most.
const BATCH_BYTES: usize = 64 << 10;
/// Transactions that may wait for a flush: bounds how long the checkpoint stands while only unmapped tables change.
const SEGMENT_COMMITS: u32 = 2048;
/// A transaction with more keys is bulk, where bulk is paced: its further keys go a way of their own.
pub const BULK_KEYS: usize = 10_000;
/// Batches that may wait before a worker.
pub const WORKER_QUEUE: usize = 16;

/// What a segment adds to the position when it is done. Nothing: the segment lies within one transaction.
#[derive(Debug, Default)]
pub struct Done {
    /// The position is this one from here on: see [`Assembler::restart`].
    pub restart: Option<Box<Restart>>,
    /// The transactions whose end was read in it, behind `restart`.
    pub commits: Option<Commits>,
}

/// Transactions that are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commits {
    /// Which; `last` is the end of the newest one.
    pub span: CommitSpan,
    /// The newest one's time: Unix seconds, the server's clock.
    pub time: u32,
    /// The newest one's last event.
    pub anchor: Option<Anchor>,
}

/// Where reading goes on, in another log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// The new position.
    pub position: Position,
    /// The server that it belongs to: [`crate::source::Preflight::identity`].
    pub identity: String,
    /// Something in between is lost: positions before and behind can't be compared.
    pub gap: bool,
}

impl Append for Done {
    fn append(&mut self, later: Self) {
        if let Some(mut restart) = later.restart {
            restart.gap |= self.restart.as_ref().is_some_and(|own| own.gap);
            *self = Self { restart: Some(restart), commits: later.commits };
            return;
        }
        match (self.commits.as_mut(), later.commits) {
            (Some(own), Some(later)) => {
                own.span.append(&later.span);
                (own.time, own.anchor) = (later.time, later.anchor);
            }
            (None, later) => self.commits = later,
            (Some(_), None) => {}
        }
    }
}

/// One way of removing: a target and a policy. Mappings that agree in them share a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Index into the config's Redis targets.
    pub target: usize,
    /// When the second removal runs.
    pub second: SecondRemoval,
    /// How much longer than visibility it waits.
    pub fill_grace: Duration,
    /// Index into [`TargetQueues::paced`].
    pub paced: usize,
}

/// The lanes of a config, and which lane each mapping uses.
#[derive(Debug, Clone)]
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    of_mapping: Vec<usize>,
    rates: Vec<Vec<u64>>,
}

impl Lanes {
    /// Finds the distinct ways of removing.
    pub fn new(config: &Config) -> Self {
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        let mut rates: Vec<Vec<u64>> = config.redis.iter().map(|_| vec![0]).collect();
        let of_mapping = config
            .mappings
            .iter()
            .map(|mapping| {
                let paced = match rates.get_mut(mapping.target) {
                    Some(rates) if mapping.keys_per_second > 0 => {
                        rates.push(mapping.keys_per_second);
                        rates.len() - 1
                    }
                    _ => 0,
                };
                let lane = Lane {
                    target: mapping.target,
                    second: mapping.second_removal,
                    fill_grace: mapping.fill_grace,
                    paced,
                };
                lanes.iter().position(|known| **known == lane).unwrap_or_else(|| {
                    lanes.push(Arc::new(lane));
                    lanes.len() - 1
                })
            })
            .collect();
        Self { lanes, of_mapping, rates }
    }

    /// Whether transactions with many keys are kept apart: `limits`, or a mapping, has a rate for them.
    pub fn is_paced(&self, config: &Config) -> bool {
        config.limits.keys_per_second > 0 || self.rates.iter().any(|rates| rates.len() > 1)
    }

    /// Keys a second of each of the [`TargetQueues::paced`] of a target; 0: only the target's own rate holds.
    pub fn rates(&self, target: usize) -> &[u64] {
        self.rates.get(target).map_or(&[0], Vec::as_slice)
    }
}

/// What the keys of a segment share.
#[derive(Debug)]
pub struct Segment {
    /// The commits that must be visible before the second removal.
    pub span: CommitSpan,
    /// The file that the rows were read from.
    pub file: Arc<str>,
    /// When the first key of it was read.
    pub received: Instant,
    /// Unix time in microseconds of its oldest transaction's commit, by the server's clock.
    pub commit_micros: u64,
    /// Frees the bytes when the last batch is settled.
    _budget: Permit,
}

/// Keys for one worker, with the duty to acknowledge them.
#[derive(Debug)]
pub struct Batch {
    /// What to remove.
    pub keys: KeyBatch,
    /// What `keys` stand for.
    pub kind: Kind,
    /// How.
    pub lane: Arc<Lane>,
    /// Where from.
    pub segment: Arc<Segment>,
    /// Settled when all removals that are owed are acknowledged.
    pub ticket: Ticket<Done>,
    /// What else is done when the whole segment is.
    pub riders: Option<Arc<Riders>>,
}

impl Batch {
    /// All that is owed for it is acknowledged.
    pub fn settle(self) {
        self.ticket.settle();
        if let Some(riders) = self.riders {
            riders.settle_one();
        }
    }
}

/// The keyspaces of some mappings are owed a removal: what may have changed there no row image tells.
#[derive(Debug)]
pub struct Flush {
    /// Indices into [`Config::mappings`], without duplicates. All of one lane.
    pub mappings: Vec<usize>,
    /// Why, each once, the first few.
    pub causes: Vec<String>,
    /// How.
    pub lane: Arc<Lane>,
    /// The commits that must be visible before the second removal.
    pub segment: Arc<Segment>,
    /// Settled when the last removal that is owed is done.
    pub ticket: Ticket<Done>,
    /// What else is done when the whole segment is.
    pub riders: Option<Arc<Riders>>,
}

impl Flush {
    /// The last removal that is owed is done.
    pub fn settle(self) {
        self.ticket.settle();
        if let Some(riders) = self.riders {
            riders.settle_one();
        }
    }
}

/// The ways to the tasks of one target.
#[derive(Debug, Clone)]
pub struct TargetQueues {
    /// By worker; at least one. Of small transactions: never paced.
    pub workers: Vec<mpsc::Sender<Batch>>,
    /// By [`Lane::paced`]: the first for all mappings without a rate of their own, then one for each with.
    pub paced: Vec<PacedQueues>,
    /// To the one that flushes. Not bounded by length: each request holds a part of the [`Budget`].
    pub flush: mpsc::UnboundedSender<Flush>,
}

/// The ways of what is paced. What waits here is bounded by the [`Budget`], of which bulk takes half at most, so that handing one on
/// never waits for the pace.
#[derive(Debug, Clone)]
pub struct PacedQueues {
    /// Batches of transactions with many keys.
    pub bulk: mpsc::UnboundedSender<Batch>,
    /// Of [`Kind::Prefix`].
    pub prefixes: mpsc::UnboundedSender<Batch>,
    /// Of [`Kind::MembersOf`].
    pub members: mpsc::UnboundedSender<Batch>,
}

/// A worker has ended: the daemon is on its way down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a worker has ended")]
pub struct Closed;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    /// Mappings share a lane where they agree; one with a rate of its own has its own.
    #[test]
    fn lanes_and_their_rates() {
        let text = r#"
source: { url: "mysql://u@h" }
redis: { a: { url: "redis://h" }, b: { url: "redis://h" } }
mappings:
  - { table: s.t, keys: ["1"], to: a }
  - { table: s.u, keys: ["2"], to: a }
  - { table: s.v, keys: ["3"], to: b, keys_per_second: 7 }
  - { table: s.w, keys: ["4"], to: a, keys_per_second: 5 }
  - { table: s.x, keys: ["5"], to: a, keys_per_second: 5 }
  - { table: s.y, keys: ["6"], to: a, guarded: true }
"#;
        let config = crate::config::parse(text, Path::new("test.yaml"), &|_| None).unwrap();
        let lanes = Lanes::new(&config);
        assert_eq!((lanes.rates(0), lanes.rates(1)), (&[0, 5, 5][..], &[0, 7][..]));
        assert!(lanes.is_paced(&config));
        let of = |mapping: usize| &lanes.lanes[lanes.of_mapping[mapping]];
        assert!(Arc::ptr_eq(of(0), of(1)));
        assert_eq!([0, 2, 3, 4, 5].map(|at| of(at).paced), [0, 1, 1, 2, 0]);
        assert_eq!((of(0).fill_grace, of(5).fill_grace), (Duration::from_secs(1), Duration::ZERO));
    }
}
