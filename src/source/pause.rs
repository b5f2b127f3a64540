//! Whether reading is held.
//!
//! Guarantees: a stream that is held ends at a transaction's end, and is asked for again behind it. May depend on nothing of ours.

use std::time::{Instant, SystemTime};

use tokio::sync::watch;

/// Since when reading is held.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// By the monotonic clock.
    pub since: Instant,
    /// By the wall clock.
    pub at: SystemTime,
}

/// Holds reading, or lets it go on. Cheap to clone; all clones are one. A new one lets it go on.
#[derive(Debug, Clone)]
pub struct Pause {
    held: watch::Sender<Option<Held>>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { held: watch::Sender::new(None) }
    }
}

impl Pause {
    /// Since when it is held; `None`: it goes on.
    pub fn held(&self) -> Option<Held> {
        *self.held.borrow()
    }

    /// Holds it. Says whether it went on before.
    pub fn hold(&self) -> bool {
        self.held.send_if_modified(|held| {
            let goes_on = held.is_none();
            held.get_or_insert_with(|| Held { since: Instant::now(), at: SystemTime::now() });
            goes_on
        })
    }

    /// Lets it go on. Says since when it was held.
    pub fn release(&self) -> Option<Held> {
        self.held.send_replace(None)
    }

    /// Completes while it is held.
    pub async fn holds(&self) {
        // The sender is in `self`.
        let _ = self.held.subscribe().wait_for(Option::is_some).await;
    }

    /// Completes while it goes on.
    pub async fn goes_on(&self) {
        let _ = self.held.subscribe().wait_for(Option::is_none).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn holds_until_it_is_released() {
        let pause = Pause::default();
        pause.goes_on().await;
        assert!(pause.hold() && !pause.hold());
        let since = pause.held().map(|held| held.since);
        pause.clone().holds().await;
        let waiting = tokio::spawn({
            let pause = pause.clone();
            async move { pause.goes_on().await }
        });
        assert_eq!(pause.release().map(|held| held.since), since);
        assert!(waiting.await.is_ok() && pause.held().is_none() && pause.release().is_none());
    }
}
