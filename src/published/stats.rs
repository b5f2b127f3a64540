//! What the status and the metrics say of marks and pools.
//!
//! Guarantees: a trouble is logged once, when it begins. May depend on `checkpoint` and `invalidate`'s classes of failures.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::mark::Mark;
use crate::{checkpoint::file::Saved, invalidate::classify::Failure};

/// Counts of the whole process, and what is seen now.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) rewinds: AtomicU64,
    pub(super) flushes: AtomicU64,
    evicted: AtomicU64,
    targets: Mutex<BTreeMap<String, TargetState>>,
}

/// What is known of a target's marks.
#[derive(Debug, Clone, Default)]
pub struct TargetState {
    /// The oldest mark among its servers; `None`: at least one has none yet.
    pub frontier: Option<Mark>,
    /// When the checkpoint stood there.
    pub at: Option<Instant>,
    /// Why its marks can't be read or written.
    pub failure: Option<String>,
    /// The read sources that are listed for guarded readers; empty before the first look.
    pub pool: Vec<String>,
    /// The account may not ask for the run: a restart that loses less than was done since the last mark goes unseen.
    pub blind: bool,
}

impl TargetState {
    /// How long ago the frontier was what is done; zero where it still is. `None`: there is none yet.
    pub fn lag(&self, saved: Option<&Saved>) -> Option<Duration> {
        let (mark, at) = self.frontier.as_ref().zip(self.at)?;
        let is_newest = saved.is_some_and(|saved| Mark::of(saved).is_at(mark));
        Some(if is_newest { Duration::ZERO } else { at.elapsed() })
    }
}

impl Stats {
    /// Times that the binlog was read again from an earlier place, because Redis had forgotten removals.
    pub fn rewinds(&self) -> u64 {
        self.rewinds.load(Relaxed)
    }

    /// Times that mapped keyspaces were flushed for the same reason.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Times that a mark was evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// By target.
    pub fn targets(&self) -> BTreeMap<String, TargetState> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn target(&self, name: &str, change: impl FnOnce(&mut TargetState)) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        change(targets.entry(name.to_owned()).or_default());
    }

    pub(super) fn failed(&self, target: &str, failure: &Failure) {
        self.target(target, |state| {
            if state.failure.is_none() {
                tracing::warn!(target, %failure,
                    "mark can't be read or written: if redis loses its memory now, that goes unseen until it can");
            }
            state.failure = Some(failure.to_string());
        });
    }

    pub(super) fn works(&self, target: &str, blind: bool) {
        self.target(target, |state| {
            state.failure = None;
            if blind && !state.blind {
                tracing::warn!(target,
                    "the redis account may not run INFO: a restart that loses only what was removed since the last mark goes unseen");
            }
            state.blind = blind;
        });
    }

    pub(super) fn note_evicted(&self, address: &str) {
        self.evicted.fetch_add(1, Relaxed);
        tracing::warn!(
            address,
            "redis has evicted the mark: it is written again. `maxmemory-policy volatile-…` or `allkeys-lru` keep it"
        );
    }
}
