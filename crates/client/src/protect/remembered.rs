//! What this process saw last, for when nothing else is to be had.
//!
//! Guarantees: never more than `entries` values, none older than `max_age` by the monotonic clock.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::commands::Cached;

/// Values by key, in two generations: when the young one is half of all, the old one is dropped.
#[derive(Debug)]
pub(crate) struct Remembered {
    half: usize,
    max_age: Duration,
    generations: Mutex<[Generation; 2]>,
}

/// When each was seen, and what.
type Generation = HashMap<String, (Instant, Arc<Cached>)>;

impl Remembered {
    pub(crate) fn new(entries: usize, max_age: Duration) -> Self {
        Self { half: (entries / 2).max(1), max_age, generations: Mutex::default() }
    }

    pub(crate) fn put(&self, key: &str, value: Arc<Cached>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if young.len() >= self.half && !young.contains_key(key) {
            *old = mem::take(young);
        }
        old.remove(key);
        young.insert(key.to_owned(), (Instant::now(), value));
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Cached>> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = generations.iter().find_map(|generation| generation.get(key))?;
        (at.elapsed() <= self.max_age).then(|| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_newest_and_never_too_many() {
        let remembered = Remembered::new(10, Duration::from_secs(60));
        for n in 0..1000u32 {
            remembered.put(&format!("k{}", n % 50), Arc::new(Cached::Value(n.to_be_bytes().to_vec())));
            let held: usize =
                remembered.generations.lock().map(|g| g.iter().map(HashMap::len).sum()).unwrap_or(99);
            assert!(held <= 10, "{held}");
        }
        assert_eq!(remembered.get("k49").as_deref(), Some(&Cached::Value(999u32.to_be_bytes().to_vec())));
        assert!(remembered.get("k0").is_none());
        let short = Remembered::new(10, Duration::ZERO);
        short.put("k", Arc::new(Cached::Null));
        std::thread::sleep(Duration::from_millis(1));
        assert!(short.get("k").is_none(), "older than it may be");
    }
}
