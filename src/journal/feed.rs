//! What listeners of `/events` are told, besides what is counted once a second.
//!
//! Guarantees: a listener that doesn't keep up is told so, once, and gets nothing more; nobody waits for it. While nobody listens it
//! costs one look at a counter per batch. Of the removals a sample is passed on: [`SAMPLES`] a second. May depend on nothing of ours
//! but `pipeline`'s removals.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::By;
use crate::pipeline::batch::{Removal, RowPlace};

/// Things that a listener may be behind.
const BEHIND: usize = 256;
/// Removals a second that are passed on as a sample.
const SAMPLES: u32 = 20;

/// Bytes of a key that are passed on; of a longer one this much.
const LONGEST: usize = 1024;

/// Something that was said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its kind: the event's name.
    pub kind: &'static str,
    /// Its content.
    pub data: Value,
    /// Keys are in it.
    pub has_keys: bool,
}

/// Tells all listeners.
#[derive(Debug)]
pub struct Feed {
    sender: broadcast::Sender<Said>,
    /// The sender's own count is behind a lock.
    heard_by: Arc<AtomicUsize>,
    sampled: Mutex<(Instant, u32)>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(BEHIND),
            heard_by: Arc::default(),
            sampled: Mutex::new((Instant::now(), 0)),
        }
    }
}

/// Hears what is said from now on.
#[derive(Debug)]
pub struct Listener {
    receiver: broadcast::Receiver<Said>,
    heard_by: Arc<AtomicUsize>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.heard_by.fetch_sub(1, Relaxed);
    }
}

impl Listener {
    /// The next one; the number of those that it missed, which ends it; `None`: nothing is said any more.
    pub async fn next(&mut self) -> Option<Result<Said, u64>> {
        match self.receiver.recv().await {
            Ok(said) => Some(Ok(said)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Feed {
    /// Listens; `None`: as many as `most` do already.
    pub fn listen(&self, most: usize) -> Option<Listener> {
        self.heard_by.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).ok()?;
        Some(Listener { receiver: self.sender.subscribe(), heard_by: Arc::clone(&self.heard_by) })
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.heard_by.load(Relaxed) > 0
    }

    /// Tells all.
    pub fn say(&self, kind: &'static str, data: Value, has_keys: bool) {
        // An error says that nobody listens.
        let _ = self.sender.send(Said { kind, data, has_keys });
    }

    /// The first removal of a batch: one of the sample, or not.
    pub(super) fn removal(
        &self,
        target: &str,
        removal: Removal<'_>,
        place: RowPlace,
        file: &str,
        by: By,
        waited: Duration,
    ) {
        {
            let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
            if sampled.0.elapsed() >= Duration::from_secs(1) {
                *sampled = (Instant::now(), 0);
            }
            if sampled.1 == SAMPLES {
                return;
            }
            sampled.1 += 1;
        }
        let text = |bytes: &[u8]| match bytes.get(..LONGEST) {
            Some(begin) => format!("{}…", begin.escape_ascii()),
            None => bytes.escape_ascii().to_string(),
        };
        let data = json!({
            "target": target,
            "op": if removal.field.is_some() { "hdel" } else { "unlink" },
            "key": text(removal.key),
            "field": removal.field.map(text),
            "removal": by.as_str(),
            "file": file,
            "position": place.position,
            "row": place.row,
            "waited_seconds": waited.as_secs_f64(),
        });
        self.say("removal", data, true);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_slow_is_told() {
        let feed = Feed::default();
        feed.say("error", json!({}), false);
        let (mut slow, mut quick) = (feed.listen(2).unwrap(), feed.listen(2).unwrap());
        for n in 0..BEHIND as u64 + 5 {
            feed.say("error", json!({ "n": n }), false);
            assert_eq!(quick.next().await.unwrap().unwrap().data["n"], n);
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err(), 5);
        assert!(feed.listen(2).is_none());
        drop(slow);
        drop((feed.listen(2).unwrap(), quick));
        assert!(!feed.is_heard());
    }

    #[tokio::test]
    async fn removals_are_a_sample() {
        let feed = Feed::default();
        let mut listener = feed.listen(1).unwrap();
        let place = RowPlace { position: 7, row: 1 };
        for n in 0..SAMPLES + 30 {
            let key = format!("k:{n}\n");
            let removal = Removal { key: key.as_bytes(), field: None };
            feed.removal("main", removal, place, "b.000001", By::First, Duration::from_millis(2));
        }
        feed.say("rates", json!({}), false);
        let mut heard = 0;
        loop {
            let said = listener.next().await.unwrap().unwrap();
            match said.kind {
                "removal" => {
                    assert!(said.has_keys && said.data["key"].as_str().unwrap().ends_with("\\n"), "{said:?}");
                    heard += 1;
                }
                _ => break,
            }
        }
        assert_eq!(heard, SAMPLES);
    }
}
