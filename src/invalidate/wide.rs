//! Prefixes and sets that the retry queue hands over.
//!
//! Guarantees: a result is that of a sweep that began after it was asked for. Nobody waits: who asks again is told whether it is done. What
//! is asked for while a sweep runs is done together by the next one. Memory is that of the records that the queue has in hand ([`KEPT`]).
//! May depend on `retry` and the rest of `invalidate`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    classify::{Class, Failure},
    prefixes::Prefixes,
    sweep::{Sweeper, Tell},
};
use crate::{
    pipeline::pace::Paces,
    retry::{Op, Record},
};

/// Results that nobody has asked for again: the record went to another consumer.
const KEPT: Duration = Duration::from_secs(900);

/// Which record: its operation and place, for it may be filed anew meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    op: Op,
    key: Vec<u8>,
    file: String,
    position: u64,
    gtid: String,
}

#[derive(Debug)]
enum Slot {
    Waits,
    Done(Result<(), Failure>, Instant),
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Asked, Slot>,
    waiting: Vec<Asked>,
    running: bool,
}

/// Of one target.
#[derive(Debug)]
pub(super) struct Wide {
    sweeper: Arc<Sweeper>,
    state: Mutex<State>,
}

impl Wide {
    pub(super) fn new(sweeper: Arc<Sweeper>) -> Arc<Self> {
        Arc::new(Self { sweeper, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of it; `None`: it isn't done yet, ask again.
    pub(super) fn ask(self: &Arc<Self>, record: &Record) -> Option<Result<(), Failure>> {
        let asked = Asked {
            op: record.op.clone(),
            key: record.key.clone(),
            file: record.origin.file.clone(),
            position: record.origin.position,
            gtid: record.origin.gtid.clone(),
        };
        let mut state = self.lock();
        match state.slots.remove(&asked) {
            Some(Slot::Done(result, _)) => return Some(result),
            Some(Slot::Waits) => _ = state.slots.insert(asked, Slot::Waits),
            None => {
                state.slots.retain(|_, slot| !matches!(slot, Slot::Done(_, at) if at.elapsed() > KEPT));
                state.slots.insert(asked.clone(), Slot::Waits);
                state.waiting.push(asked);
                if !std::mem::replace(&mut state.running, true) {
                    let this = Arc::clone(self);
                    tokio::spawn(async move { this.run().await });
                }
            }
        }
        None
    }

    /// Until nothing waits.
    async fn run(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.lock();
                let waiting = std::mem::take(&mut state.waiting);
                state.running = !waiting.is_empty();
                waiting
            };
            if waiting.is_empty() {
                return;
            }
            let (prefixes, sets): (Vec<Asked>, Vec<Asked>) =
                waiting.into_iter().partition(|asked| asked.op == Op::Prefix);
            let unpaced = Paces::new([]);
            for asked in sets {
                let result = self.sweeper.members(&asked.key, true, &unpaced, Tell::NOBODY).await;
                self.done(asked, result.map(drop));
            }
            let wanted = Prefixes::new(prefixes.iter().map(|asked| &asked.key[..]));
            let at = |place: usize| {
                let found = prefixes.iter().find(|asked| wanted.of(&asked.key) == Some(place));
                found.map_or_else(String::new, |asked| format!("{}:{}", asked.file, asked.position))
            };
            let results = self.sweeper.prefixes(&wanted, &unpaced, Tell { at: &at, ..Tell::NOBODY }).await;
            for asked in prefixes {
                let result = wanted.of(&asked.key).and_then(|place| results.get(place)).cloned();
                self.done(asked, result.unwrap_or(Ok(0)).map(drop));
            }
        }
    }

    fn done(&self, asked: Asked, result: Result<(), Failure>) {
        let result = result.map_err(|failure| match failure.class {
            // A right to SCAN that is missing is no outage: waiting doesn't heal it, and somebody has to be told.
            Class::Target if !failure.is_outage() => Failure { class: Class::Key, ..failure },
            _ => failure,
        });
        self.lock().slots.insert(asked, Slot::Done(result, Instant::now()));
    }
}
