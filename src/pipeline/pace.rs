//! So many a second.
//!
//! Guarantees: over any time no more pass than the rate and a burst of `BURST` allow; a rate of 0 holds nobody up. May depend on
//! nothing of ours.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What may come at once, as a time's worth of the rate.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket, kept as the time at which it is full again.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    full_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// `per_second`: 0 is unlimited.
    pub fn new(per_second: u64) -> Self {
        Self { per_second, full_at: Mutex::new(None) }
    }

    /// The rate; 0: unlimited.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Waits until `n` may pass; they count as passed from the call on, so who gives up has used them.
    pub async fn take(&self, n: usize) {
        if self.per_second == 0 || n == 0 {
            return;
        }
        let nanos = (n as u128 * 1_000_000_000 / u128::from(self.per_second)).min(u128::from(u64::MAX));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let at = {
            let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = full_at.map_or(now, |at| at.max(now));
            *full_at = Some(at.checked_add(cost).unwrap_or(at));
            at
        };
        tokio::time::sleep_until(at.checked_sub(BURST).unwrap_or(at)).await;
    }
}

/// Several rates that hold together, such as a target's and a mapping's.
#[derive(Debug, Clone)]
pub struct Paces(Vec<Arc<Pace>>);

impl Paces {
    /// Of these.
    pub fn new(paces: impl IntoIterator<Item = Arc<Pace>>) -> Self {
        Self(paces.into_iter().collect())
    }

    /// Waits until `n` may pass by each.
    pub async fn take(&self, n: usize) {
        for pace in &self.0 {
            pace.take(n).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passes_no_more_than_the_rate_and_a_burst() {
        let (pace, begun) = (Pace::new(1000), Instant::now());
        let mut passed = 0;
        while begun.elapsed() < Duration::from_secs(10) {
            pace.take(50).await;
            passed += 50;
            let most = begun.elapsed().as_millis() + 100 + 50;
            assert!(passed <= most, "{passed} of {most}");
        }
        assert!(passed >= 10_000, "{passed}");
        // What isn't used doesn't add up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..40 {
            pace.take(50).await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(1800), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let (pace, begun) = (Pace::new(0), Instant::now());
        for _ in 0..1000 {
            pace.take(usize::MAX).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
