//! Removals that failed: kept durably and retried until they work.
//!
//! Guarantees: an `Ok` of [`Queue::enqueue`] means that every record survives kill -9 (disk: committed with fsync; Kafka: acknowledged by
//! all in-sync replicas). A record leaves the queue only after the handler said [`Verdict::Done`], or after its successor
//! (next attempt, or dead letter) was acknowledged. Duplicates happen. May depend on nothing of ours but [`record`].

pub mod record;

use std::{future::Future, pin::Pin};

pub use record::{Origin, Record};

/// What became of one record's removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Removed, after the commit was visible and the grace had passed.
    Done,
    /// The key's own fault (WRONGTYPE…): uses up an attempt.
    KeyError(String),
    /// The target's fault (down, LOADING, READONLY…): uses up none; the consumer waits for the target.
    TargetError(String),
    /// The commit isn't visible at every read source yet, or the grace hasn't passed: try again shortly, no attempt used.
    NotYet,
}

/// What the queue hands due records to. Implemented by the invalidate part.
pub trait Handler: Send + Sync + 'static {
    /// Removes the records' keys; one verdict per record, in order.
    fn remove<'a>(&'a self, records: &'a [Record])
    -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>>;

    /// Completes when every target takes removals (no breaker is open). Consumption pauses until then.
    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}
