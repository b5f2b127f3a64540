//! The seed of a test's random choices.

use std::time::{SystemTime, UNIX_EPOCH};

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
