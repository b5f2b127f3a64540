//! The breaker of one target: open while the target itself fails, so that nobody waits for its time-outs.
//!
//! Guarantees: while it is open nothing but the probe is sent; after a probe that worked, the next removal decides. May depend on
//! nothing of ours.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

/// Whether removals are sent.
#[derive(Debug)]
pub struct Breaker {
    open: watch::Sender<bool>,
    since: Mutex<Option<(Instant, String)>>,
    opened: std::sync::atomic::AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(false),
            since: Mutex::new(None),
            opened: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

impl Breaker {
    /// Whether removals go straight to the queue.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// The target failed. Says whether the breaker was closed until now.
    pub fn trip(&self, code: &str) -> bool {
        // Over both: who opens it and who closes it at once agree on what is said of it.
        let mut since = self.lock();
        let tripped = self.open.send_if_modified(|open| !std::mem::replace(open, true));
        if tripped {
            self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            *since = Some((Instant::now(), code.to_owned()));
        }
        tripped
    }

    /// The target works again.
    pub fn close(&self) {
        let mut since = self.lock();
        self.open.send_replace(false);
        *since = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when it is closed.
    pub async fn closed(&self) {
        // The sender lives as long as self, so waiting can't fail.
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }

    /// Completes when it is open.
    pub async fn opened(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Since when it is open, and by which error.
    pub fn since(&self) -> Option<(Instant, String)> {
        self.lock().clone()
    }

    /// How often it opened.
    pub fn times_opened(&self) -> u64 {
        self.opened.load(std::sync::atomic::Ordering::Relaxed)
    }
}
