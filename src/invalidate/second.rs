//! Batches between their two removals.
//!
//! Guarantees: a batch comes out only when its commits were seen visible at every read source and the fill grace has passed since (or
//! its fixed delay); none is forgotten. May depend on `pipeline` and `watermark`.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::{
    config::SecondRemoval,
    pipeline::{BATCH_KEYS, Batch, Lane, Segment},
    watermark::Watermark,
};

/// When the next one may come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Never,
    WithSample,
    At(Instant),
}

impl Due {
    pub(super) fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::At(_), _) | (Self::WithSample, Self::Never) => self,
            _ => other,
        }
    }
}

/// Batches that wait for their second removal, in the order of their first within each lane.
#[derive(Debug)]
pub struct SecondQueue {
    lanes: Vec<(Arc<Lane>, VecDeque<Waiting>)>,
    watermark: Watermark,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    first_done: Instant,
    due: Option<Instant>,
}

impl SecondQueue {
    /// An empty queue.
    pub fn new(watermark: Watermark) -> Self {
        Self { lanes: Vec::new(), watermark }
    }

    /// Adds a batch whose first removal was acknowledged.
    pub fn push(&mut self, mut batch: Batch, first_done: Instant) {
        batch.keys.shrink();
        let at = self.lanes.iter().position(|(lane, _)| Arc::ptr_eq(lane, &batch.lane));
        let at = at.unwrap_or_else(|| {
            self.lanes.push((Arc::clone(&batch.lane), VecDeque::new()));
            self.lanes.len() - 1
        });
        self.lanes[at].1.push_back(Waiting { batch, first_done, due: None });
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|(_, waiting)| waiting.is_empty())
    }

    /// Completes when a batch is due. Safe to cancel. Never completes while none waits.
    pub async fn ready(&mut self) {
        loop {
            let watermark = &self.watermark;
            let due =
                self.lanes.iter_mut().fold(Due::Never, |due, lane| due.sooner(front_due(lane, watermark)));
            match due {
                Due::Never => std::future::pending().await,
                Due::At(at) if at <= Instant::now() => return,
                Due::At(at) => tokio::time::sleep_until(at.into()).await,
                Due::WithSample => {
                    self.watermark.demand();
                    self.watermark.changed().await;
                }
            }
        }
    }

    /// Takes what is due, up to one command's worth of keys.
    pub fn take_due(&mut self) -> Vec<Batch> {
        let now = Instant::now();
        let mut taken = Vec::new();
        let mut keys = 0;
        for lane in &mut self.lanes {
            while keys < BATCH_KEYS && matches!(front_due(lane, &self.watermark), Due::At(at) if at <= now) {
                if let Some(waiting) = lane.1.pop_front() {
                    keys += waiting.batch.keys.len();
                    taken.push(waiting.batch);
                }
            }
        }
        taken
    }
}

fn front_due((lane, waiting): &mut (Arc<Lane>, VecDeque<Waiting>), watermark: &Watermark) -> Due {
    let Some(Waiting { batch, first_done, due }) = waiting.front_mut() else { return Due::Never };
    self::due(due, lane, &batch.segment, *first_done, watermark)
}

/// When the second removal of a segment's keys may run. `known`: the answer, once there is one.
pub(super) fn due(
    known: &mut Option<Instant>,
    lane: &Lane,
    segment: &Segment,
    first_done: Instant,
    watermark: &Watermark,
) -> Due {
    if known.is_none() {
        *known = match lane.second {
            SecondRemoval::After(delay) => Some(first_done + delay),
            SecondRemoval::Never => Some(first_done),
            SecondRemoval::WhenVisible => {
                watermark.visible_since(&segment.span).map(|since| since + lane.fill_grace)
            }
        };
    }
    known.map_or(Due::WithSample, Due::At)
}

/// Whether keys that are not removed yet need only one removal: their commits were seen visible a grace ago, so no late fill is left.
pub(super) fn one_is_enough(lane: &Lane, segment: &Segment, watermark: &Watermark, now: Instant) -> bool {
    match lane.second {
        SecondRemoval::Never => true,
        SecondRemoval::After(_) => false,
        SecondRemoval::WhenVisible => {
            watermark.visible_since(&segment.span).is_some_and(|since| since + lane.fill_grace <= now)
        }
    }
}
