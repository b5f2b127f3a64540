//! How long loads take, for probabilistic early refresh (XFetch).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A moving mean; each load counts an eighth.
#[derive(Debug, Default)]
pub(crate) struct LoadTimes(AtomicU64);

impl LoadTimes {
    pub(crate) fn add(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Two that add at once may lose one of the two: it is an estimate.
        let mean = self.0.load(Relaxed);
        self.0.store(if mean == 0 { took } else { mean - mean / 8 + took / 8 }, Relaxed);
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }

    /// Whether an entry with this much time left is refreshed now.
    pub(crate) fn is_early(&self, beta: f64, left: Duration) -> bool {
        is_early(self.mean(), beta, left, rand::random())
    }
}

/// δ·β·(−ln r) ≥ left, r in (0, 1].
fn is_early(delta: Duration, beta: f64, left: Duration, random: f64) -> bool {
    delta.as_secs_f64() * beta * -(1.0 - random).ln() >= left.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_likelier_a_refresh() {
        let delta = Duration::from_millis(100);
        let share = |left: u64| {
            let early = |n: u32| is_early(delta, 1.0, Duration::from_millis(left), f64::from(n) / 1000.0);
            (0..1000).filter(|n| early(*n)).count()
        };
        // P(δ·Exp(1) ≥ left) = e^(−left/δ).
        assert_eq!(share(0), 1000);
        assert!((360..=375).contains(&share(100)), "{}", share(100));
        assert!((128..=142).contains(&share(200)), "{}", share(200));
        assert_eq!(share(10_000), 0);
        assert!(!is_early(Duration::ZERO, 1.0, Duration::from_millis(1), 0.999));
    }

    #[test]
    fn the_mean_follows() {
        let times = LoadTimes::default();
        times.add(Duration::from_millis(8));
        assert_eq!(times.mean(), Duration::from_millis(8));
        for _ in 0..100 {
            times.add(Duration::from_millis(80));
        }
        assert!(times.mean() > Duration::from_millis(79) && times.mean() <= Duration::from_millis(80));
    }
}
