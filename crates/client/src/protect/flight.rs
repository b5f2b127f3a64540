//! Single-flight: callers of one process that miss the same key share a load.
//!
//! The rule (the project's protocol): *share another caller's load only if its database read began after your call*. Whoever joins an
//! older one may be handed a value that lacks a change made before the call: known single-flights do that. Here each outcome carries the
//! instant before its read, and who called later than that takes the next turn instead.
//!
//! Guarantees: at most one turn per key is under way. A turn whose caller was cancelled ends, and another caller takes over.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

/// What a turn gave, and the instant before its read.
#[derive(Debug, Clone)]
pub(crate) struct Outcome<T> {
    pub(crate) began: Instant,
    pub(crate) value: T,
}

/// Turns under way, by key.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<String, watch::Receiver<Option<Outcome<T>>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// What a caller does.
#[derive(Debug)]
pub(crate) enum Turn<'a, T> {
    /// Takes the turn.
    Lead(Lead<'a, T>),
    /// Another caller's outcome, of a read that began after the call.
    Shared(T),
}

/// The turn: finished by [`Lead::finish`], or given up when dropped.
#[derive(Debug)]
pub(crate) struct Lead<'a, T> {
    flights: &'a Flights<T>,
    key: &'a str,
    sender: watch::Sender<Option<Outcome<T>>>,
}

impl<T: Clone> Flights<T> {
    /// Waits for a turn whose read began after `called`, or takes one.
    pub(crate) async fn turn<'a>(&'a self, key: &'a str, called: Instant) -> Turn<'a, T> {
        loop {
            let mut receiver = match self.join(key) {
                Ok(lead) => return Turn::Lead(lead),
                Err(receiver) => receiver,
            };
            let outcome = receiver.wait_for(Option::is_some).await.map(|outcome| (*outcome).clone());
            if let Ok(Some(outcome)) = outcome
                && outcome.began > called
            {
                return Turn::Shared(outcome.value);
            }
            // Until it is out of the list: without a value its caller was cancelled, with one it is about to be.
            while receiver.changed().await.is_ok() {}
        }
    }

    /// A turn, if nobody has it.
    pub(crate) fn try_lead<'a>(&'a self, key: &'a str) -> Option<Lead<'a, T>> {
        self.join(key).ok()
    }

    fn join<'a>(&'a self, key: &'a str) -> Result<Lead<'a, T>, watch::Receiver<Option<Outcome<T>>>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = flights.get(key) {
            return Err(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.to_owned(), receiver);
        Ok(Lead { flights: self, key, sender })
    }
}

impl<T> Lead<'_, T> {
    /// Hands the outcome to those who wait.
    pub(crate) fn finish(self, outcome: Outcome<T>) {
        self.sender.send_replace(Some(outcome));
        // Dropped: whoever comes from now on starts anew.
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_load_is_shared_only_by_callers_that_came_before_its_read() {
        let flights = Arc::new(Flights::<u32>::default());
        let Turn::Lead(lead) = flights.turn("k", Instant::now()).await else { panic!() };
        let early = Instant::now();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let late = Instant::now();
        let joined = |called| {
            let flights = flights.clone();
            tokio::spawn(async move {
                match flights.turn("k", called).await {
                    Turn::Shared(value) => Some(value),
                    Turn::Lead(lead) => {
                        lead.finish(Outcome { began: Instant::now(), value: 8 });
                        None
                    }
                }
            })
        };
        let (before, behind) = (joined(early), joined(late));
        // Both wait now: they hold receivers.
        while lead.sender.receiver_count() < 3 {
            tokio::task::yield_now().await;
        }
        lead.finish(Outcome { began, value: 7 });
        assert_eq!(before.await.unwrap(), Some(7));
        assert_eq!(behind.await.unwrap(), None, "joined a load whose read began before its call");
        assert!(flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_turn_is_taken_over() {
        let flights = Arc::new(Flights::<u32>::default());
        let lead = flights.try_lead("k").unwrap();
        assert!(flights.try_lead("k").is_none());
        let other = {
            let flights = flights.clone();
            tokio::spawn(async move { matches!(flights.turn("k", Instant::now()).await, Turn::Lead(_)) })
        };
        while lead.sender.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
        drop(lead);
        assert!(other.await.unwrap());
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
