//! Records that are due, by target and kind of work: one lane's trouble or a long operation holds up no other. No I/O.
//!
//! May depend on [`super::partition`].

use std::collections::VecDeque;

use super::{
    super::{BATCH, policy::Pause, record::Record},
    partition::{Item, Job},
};

/// Wide operations that the handler gets at once: each may take long, and is done only with all of them.
const WIDE_BATCH: usize = 8;

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId {
    /// Empty for what can't be decoded.
    pub(super) target: String,
    pub(super) wide: bool,
}

impl LaneId {
    pub(super) fn of(item: &Item) -> Self {
        match item {
            Item::Record(record) => {
                let Record { target, op, .. } = record.as_ref();
                Self { target: target.clone(), wide: op.is_wide() }
            }
            Item::Poison(..) => Self { target: String::new(), wide: false },
        }
    }
}

/// What one lane is doing.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Due, in the order of arrival.
    pub(super) ready: VecDeque<Job>,
    /// A batch is with the handler or on its way to Kafka.
    pub(super) busy: bool,
    /// The target takes no removals.
    pub(super) down: bool,
    /// Before the target is tried again.
    pub(super) pause: Pause,
}

impl Lane {
    /// The next batch; jobs whose partition has another owner now are forgotten.
    pub(super) fn batch(&mut self, wide: bool, is_ours: impl Fn(&Job) -> bool) -> Vec<Job> {
        let limit = if wide { WIDE_BATCH } else { BATCH };
        let mut jobs = Vec::new();
        while jobs.len() < limit
            && let Some(job) = self.ready.pop_front()
        {
            if is_ours(&job) {
                jobs.push(job);
            }
        }
        jobs
    }

    /// Up to a batch of jobs that may give way to others behind them: those that `may` takes.
    pub(super) fn give_way(&mut self, may: impl Fn(&Job) -> bool) -> Vec<Job> {
        let (mut away, mut kept) = (Vec::new(), VecDeque::new());
        for job in self.ready.drain(..) {
            if away.len() < BATCH && may(&job) { away.push(job) } else { kept.push_back(job) }
        }
        self.ready = kept;
        away
    }
}
