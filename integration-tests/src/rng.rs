//! Replayable random numbers: SplitMix64 (Steele, Lea, Flood 2014).

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator; the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The run's seed: `ROWBUST_SEED`, else the clock. It is printed, so that a failure can be replayed.
///
/// # Panics
/// When `ROWBUST_SEED` is no number.
#[must_use]
#[allow(clippy::panic, reason = "fails the test that asks")]
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("ROWBUST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("ROWBUST_SEED: {e}")),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() ^ u64::from(d.subsec_nanos())),
    };
    eprintln!("{test}: ROWBUST_SEED={seed}");
    seed
}
