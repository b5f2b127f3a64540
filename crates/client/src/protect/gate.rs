//! How many loads run at once, and when none is tried.
//!
//! Guarantees: never more loads than the limit; after `failures` in a row none until `cool_down` has passed by the monotonic clock, then
//! one. A load that is cancelled counts as neither.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Breaker, Error, LoadLimit};

/// Before every load.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: Option<(LoadLimit, Semaphore)>,
    breaker: Option<(Breaker, Mutex<State>)>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Open since then.
    opened: Option<Instant>,
    /// One load is trying whether it works again.
    trying: bool,
}

/// A load under way; says at its end how it went.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    gate: &'a Gate,
    is_trial: bool,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Gate {
    pub(crate) fn new(limit: Option<LoadLimit>, breaker: Option<Breaker>) -> Self {
        Self {
            limit: limit.map(|limit| (limit, Semaphore::new(limit.concurrent.min(Semaphore::MAX_PERMITS)))),
            breaker: breaker.map(|breaker| (breaker, Mutex::default())),
        }
    }

    /// # Errors
    /// When the load is refused.
    pub(crate) async fn enter(&self) -> Result<Load<'_>, Error> {
        let permit = match &self.limit {
            None => None,
            Some((limit, semaphore)) => match tokio::time::timeout(limit.wait, semaphore.acquire()).await {
                // It is never closed.
                Ok(permit) => permit.ok(),
                Err(_) => {
                    return Err(Error::Overloaded {
                        reason: "as many loads as `load_limit` allows are running",
                    });
                }
            },
        };
        // After the wait: it may have opened meanwhile.
        let is_trial = self.pass()?;
        Ok(Load { gate: self, is_trial, _permit: permit })
    }

    /// Whether this load is the one that tries.
    fn pass(&self) -> Result<bool, Error> {
        let Some((breaker, state)) = &self.breaker else { return Ok(false) };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.opened {
            None => Ok(false),
            Some(at) if at.elapsed() >= breaker.cool_down && !state.trying => {
                state.trying = true;
                Ok(true)
            }
            Some(_) => Err(Error::Overloaded { reason: "loads have failed in a row, and `breaker` is open" }),
        }
    }

    fn end(&self, is_trial: bool, went_well: Option<bool>) {
        let Some((breaker, state)) = &self.breaker else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if is_trial {
            state.trying = false;
        }
        match went_well {
            Some(true) => *state = State { trying: state.trying, ..State::default() },
            Some(false) => {
                state.failures = state.failures.saturating_add(1);
                if is_trial || state.opened.is_none() && state.failures >= breaker.failures {
                    state.opened = Some(Instant::now());
                }
            }
            None => {}
        }
    }
}

impl Load<'_> {
    pub(crate) fn finish(mut self, went_well: bool) {
        self.gate.end(self.is_trial, Some(went_well));
        self.is_trial = false;
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.gate.end(true, None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    const FEW: Breaker = Breaker { failures: 2, cool_down: Duration::from_millis(20) };

    async fn after_cool_down() {
        tokio::time::sleep(FEW.cool_down * 2).await;
    }

    #[tokio::test]
    async fn the_breaker_opens_after_failures_in_a_row_and_one_load_tries() {
        let gate = Gate::new(None, Some(FEW));
        gate.enter().await.unwrap().finish(false);
        gate.enter().await.unwrap().finish(true);
        gate.enter().await.unwrap().finish(false);
        gate.enter().await.unwrap().finish(false);
        assert!(matches!(gate.enter().await, Err(Error::Overloaded { .. })));
        after_cool_down().await;
        let trial = gate.enter().await.unwrap();
        assert!(gate.enter().await.is_err(), "two tried at once");
        trial.finish(false);
        assert!(gate.enter().await.is_err(), "closed by a failed trial");
        after_cool_down().await;
        drop(gate.enter().await.unwrap());
        // Cancelled: another one may try.
        gate.enter().await.unwrap().finish(true);
        let (_one, _two) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
    }

    #[tokio::test]
    async fn a_load_over_the_limit_waits_and_is_refused() {
        let gate = Gate::new(Some(LoadLimit { concurrent: 1, wait: Duration::from_millis(20) }), None);
        let first = gate.enter().await.unwrap();
        assert!(matches!(gate.enter().await, Err(Error::Overloaded { .. })));
        let (second, ()) = tokio::join!(gate.enter(), async { first.finish(true) });
        second.unwrap();
    }
}
