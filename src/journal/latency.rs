//! A histogram that is added to by batch and read once a second. May depend on nothing of ours.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets: each is twice as wide as the one before, from 64 µs to about 19 hours.
pub const BUCKETS: usize = 31;
/// Upper bound of the first.
const FIRST: u64 = 64;

/// Durations in microseconds. Each writer adds one to one counter.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; BUCKETS],
}

/// What lies between two looks at a [`Latency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer, in microseconds; the upper bound of its bucket.
    pub p50: u64,
    /// 99 in 100 took no longer.
    pub p99: u64,
    /// None took longer.
    pub max: u64,
}

impl Latency {
    /// One that took `micros`.
    pub fn add(&self, micros: u64) {
        if let Some(count) = self.counts.get(bucket(micros)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// All counts since the start.
    pub fn counts(&self) -> [u64; BUCKETS] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }

    /// Of what came between two looks; `None`: nothing.
    pub fn between(before: &[u64; BUCKETS], now: &[u64; BUCKETS]) -> Option<Quantiles> {
        let mut new = [0; BUCKETS];
        for (new, (now, before)) in new.iter_mut().zip(now.iter().zip(before)) {
            *new = now.saturating_sub(*before);
        }
        let count: u64 = new.iter().sum();
        let at = |rank: u64| {
            let mut seen = 0;
            let found = new.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            bound(found.unwrap_or(BUCKETS - 1))
        };
        (count > 0).then(|| Quantiles {
            count,
            p50: at(count.div_ceil(2)),
            p99: at(count - count / 100),
            max: at(count),
        })
    }
}

fn bucket(micros: u64) -> usize {
    let doublings = (micros.max(1) - 1) / FIRST;
    ((u64::BITS - doublings.leading_zeros()) as usize).min(BUCKETS - 1)
}

fn bound(bucket: usize) -> u64 {
    FIRST << bucket
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double() {
        for (micros, expected) in
            [(0, 0), (64, 0), (65, 1), (128, 1), (129, 2), (256, 2), (257, 3), (u64::MAX, 30)]
        {
            assert_eq!(bucket(micros), expected, "{micros}");
            assert!(bucket(micros) == BUCKETS - 1 || micros <= bound(bucket(micros)));
        }
    }

    #[test]
    fn quantiles_are_of_what_is_new() {
        let latency = Latency::default();
        latency.add(1_000_000);
        let before = latency.counts();
        assert_eq!(Latency::between(&before, &before), None);
        for _ in 0..99 {
            latency.add(100);
        }
        latency.add(5_000);
        let new = Latency::between(&before, &latency.counts()).unwrap();
        assert_eq!(new, Quantiles { count: 100, p50: 128, p99: 128, max: 8192 });
    }
}
