//! What flushes have done, and what the one that runs is doing.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Distinct causes that are told apart; more are `other`.
const CAUSES: usize = 16;

/// Of one target.
#[derive(Debug, Default)]
pub struct FlushStats {
    /// Keys and fields removed.
    pub removed: AtomicU64,
    /// Keys looked at, as Redis was asked to.
    pub scanned: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    waiting: usize,
    totals: BTreeMap<String, (u64, u64)>,
}

/// The pass that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Tables as the config writes them.
    pub tables: Vec<String>,
    /// Why.
    pub causes: Vec<String>,
    /// Since when.
    pub since: Instant,
    /// [`FlushStats::removed`] when it began.
    pub removed_before: u64,
    /// [`FlushStats::scanned`] when it began.
    pub scanned_before: u64,
    /// Keys that it looks at, if nothing goes wrong; as the database had them when it began.
    pub to_scan: Option<u64>,
    /// Why it doesn't go on at the moment.
    pub held_by: Option<String>,
}

/// All of it, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The pass that runs.
    pub running: Option<Running>,
    /// Requests that wait for their first or second pass.
    pub waiting: usize,
    /// By cause: requests that came, and those that are done.
    pub totals: BTreeMap<String, (u64, u64)>,
}

impl FlushStats {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came.
    pub fn started(&self, causes: &[String]) {
        self.count(causes, |(started, _)| *started += 1);
    }

    /// A request is done.
    pub fn finished(&self, causes: &[String]) {
        self.count(causes, |(_, finished)| *finished += 1);
    }

    fn count(&self, causes: &[String], add: impl Fn(&mut (u64, u64))) {
        let mut labels: Vec<String> = causes.iter().map(|cause| label(cause)).collect();
        labels.sort_unstable();
        labels.dedup();
        let mut state = self.lock();
        for label in labels {
            let full = state.totals.len() >= CAUSES && !state.totals.contains_key(&label);
            add(state.totals.entry(if full { "other".into() } else { label }).or_default());
        }
    }

    /// How many requests wait.
    pub fn waiting(&self, waiting: usize) {
        self.lock().waiting = waiting;
    }

    /// A pass begins or ends.
    pub fn running(&self, running: Option<Running>) {
        self.lock().running = running;
    }

    /// The pass that runs can't go on (or can again).
    pub fn held_by(&self, why: Option<String>) {
        if let Some(running) = &mut self.lock().running {
            running.held_by = why;
        }
    }

    /// Its state.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot { running: state.running.clone(), waiting: state.waiting, totals: state.totals.clone() }
    }

    /// Keys and fields removed, and keys looked at, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.removed.load(Relaxed), self.scanned.load(Relaxed))
    }
}

/// A cause's first word: labels of metrics hold no names of tables.
fn label(cause: &str) -> String {
    let word = cause.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).next();
    let word: String = word.unwrap_or_default().chars().take(24).collect();
    if word.is_empty() { "other".into() } else { word.to_ascii_lowercase() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_few_words_without_names() {
        let stats = FlushStats::default();
        stats.started(&["TRUNCATE shop.products".into(), "truncate shop.orders".into()]);
        stats.finished(&["TRUNCATE shop.products".into()]);
        for n in 0..100 {
            stats.started(&[format!("cause{n} x")]);
        }
        let totals = stats.snapshot().totals;
        assert_eq!(totals["truncate"], (1, 1));
        assert_eq!(totals.len(), CAUSES + 1);
        assert_eq!(totals["other"].0, 85);
    }
}
