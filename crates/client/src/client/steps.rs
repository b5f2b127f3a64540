//! A read, step by step.

use std::{sync::Arc, time::Instant};

use super::{Answer, Inner, Loader, Origin};
use crate::{
    CallOptions, Error, Foreign, OnCacheError, Step,
    commands::Cached,
    protect::{
        flight::{Outcome, Turn},
        rebuild,
    },
    source::ReadSource,
    stats::count,
    strategy::{Acquired, Found, Lookup, Ticket},
};

impl Inner {
    /// What a read makes of an error of Redis: goes on with this, or fails.
    pub(super) fn despite<T>(
        &self,
        options: &CallOptions,
        answer: Result<T, Error>,
        instead: T,
    ) -> Result<T, Error> {
        match answer {
            Err(error) if error.is_cache() => {
                count(&self.cx.counters.cache_errors);
                match options.on_cache_error.unwrap_or(self.cx.settings.on_cache_error) {
                    OnCacheError::Load => {
                        tracing::debug!(%error, "reading without the cache");
                        Ok(instead)
                    }
                    OnCacheError::Fail => Err(error),
                }
            }
            other => other,
        }
    }

    pub(super) async fn lookup(&self, key: &str, options: &CallOptions) -> Result<Lookup, Error> {
        let looked = self.strategy.lookup(&self.cx, key).await;
        self.despite(options, looked, Lookup::Miss)
    }

    pub(super) async fn remove(&self, key: &str, options: &CallOptions) -> Result<(), Error> {
        let removed = self.cx.remove(Step::Delete, key).await;
        self.despite(options, removed, ())
    }

    /// Removes bytes that are no such value, or fails.
    pub(super) async fn foreign(&self, key: &str, options: &CallOptions, error: Error) -> Result<(), Error> {
        count(&self.cx.counters.foreign);
        match options.foreign.unwrap_or(self.cx.settings.foreign) {
            Foreign::Fail => Err(error),
            Foreign::Reload => {
                tracing::debug!(key, %error, "removed, and loaded anew");
                self.remove(key, options).await
            }
        }
    }

    pub(super) async fn acquire(
        &self,
        key: &str,
        options: &CallOptions,
        wait: bool,
    ) -> Result<Acquired, Error> {
        let acquired = match self.cx.settings.rebuild_lock {
            Some(lock) => rebuild::acquire(&self.cx, lock, key, wait).await,
            None => self.strategy.acquire(&self.cx, key, wait).await,
        };
        self.despite(options, acquired, Acquired::Busy)
    }

    /// For an entry that may be refreshed.
    pub(super) async fn acquire_early(&self, key: &str, options: &CallOptions) -> Result<Acquired, Error> {
        let acquired = match self.cx.settings.rebuild_lock {
            Some(lock) => rebuild::acquire(&self.cx, lock, key, false).await,
            None => self.strategy.acquire_early(&self.cx, key).await,
        };
        self.despite(options, acquired, Acquired::Busy)
    }

    /// A miss: shares a load, or loads.
    pub(super) async fn miss(
        &self,
        key: &str,
        options: &CallOptions,
        called: Instant,
        loader: &mut Option<Loader<'_>>,
    ) -> Result<Answer, Error> {
        if !self.cx.settings.single_flight {
            return self.turn(key, options, true, loader).await.value;
        }
        match self.flights.turn(key, called).await {
            Turn::Shared(answer) => {
                count(&self.cx.counters.shared);
                answer.map(|answer| match answer.origin {
                    Origin::Database => Answer { origin: Origin::Shared, ..answer },
                    _ => answer,
                })
            }
            Turn::Lead(lead) => {
                let outcome = self.turn(key, options, true, loader).await;
                lead.finish(outcome.clone());
                outcome.value
            }
        }
    }

    /// An entry that may be refreshed: by this caller, if it gets the turn and the load works.
    pub(super) async fn early(
        &self,
        key: &str,
        options: &CallOptions,
        loader: &mut Option<Loader<'_>>,
    ) -> Option<Answer> {
        let lead = self.flights.try_lead(key)?;
        let outcome = self.turn(key, options, false, loader).await;
        lead.finish(outcome.clone());
        let answer = outcome.value.ok()?;
        if answer.origin == Origin::Database {
            count(&self.cx.counters.early);
        }
        Some(answer)
    }

    /// One turn: the strategy's steps after a miss. `must`: a value is needed; else there is one, and it is only to be refreshed.
    pub(super) async fn turn(
        &self,
        key: &str,
        options: &CallOptions,
        must: bool,
        loader: &mut Option<Loader<'_>>,
    ) -> Outcome<Result<Answer, Error>> {
        let mut began = Instant::now();
        let value = self.steps(key, options, must, loader, &mut began).await;
        Outcome { began, value }
    }

    pub(super) async fn steps(
        &self,
        key: &str,
        options: &CallOptions,
        must: bool,
        loader: &mut Option<Loader<'_>>,
        began: &mut Instant,
    ) -> Result<Answer, Error> {
        let acquired = match must {
            true => self.acquire(key, options, true).await?,
            false => self.acquire_early(key, options).await?,
        };
        let mut ticket = match acquired {
            Acquired::Hit(Found(cached)) => {
                return Ok(Answer { cached: Arc::new(cached), origin: Origin::Cache });
            }
            Acquired::Turn(ticket) => Some(ticket),
            Acquired::Busy => {
                count(&self.cx.counters.busy);
                None
            }
        };
        let spare = || Error::Overloaded { reason: "another caller is refreshing it" };
        if !must && ticket.is_none() {
            return Err(spare());
        }
        let loaded = async {
            let source = match ticket.as_mut().and_then(Ticket::take_source) {
                Some(source) => source,
                None => self.source(options).await?,
            };
            let load = self.gate.enter().await?;
            self.cx.before(Step::Load, key).await;
            let run = loader.take().ok_or_else(spare)?;
            *began = Instant::now();
            count(&self.cx.counters.loads);
            let loaded = run(source).await;
            self.cx.load_times.add(began.elapsed());
            load.finish(!matches!(loaded, Err(Error::Load(_))));
            loaded
        }
        .await;
        let cached = match loaded {
            Ok(cached) => cached,
            Err(error) => {
                if let Some(ticket) = ticket {
                    self.strategy.abandon(&self.cx, key, ticket).await;
                }
                return self.instead(key, error);
            }
        };
        self.fill(key, options, ticket, &cached).await?;
        let cached = Arc::new(cached);
        if let Some(remembered) = &self.remembered {
            remembered.put(key, cached.clone());
        }
        Ok(Answer { cached, origin: Origin::Database })
    }

    /// What can't be asked for means the primary.
    pub(super) async fn source(&self, options: &CallOptions) -> Result<ReadSource, Error> {
        let source = self.strategy.source(&self.cx).await;
        self.despite(options, source, ReadSource::primary())
    }

    /// A remembered value instead of a load that was refused.
    pub(super) fn instead(&self, key: &str, error: Error) -> Result<Answer, Error> {
        match &error {
            Error::Load(_) => count(&self.cx.counters.load_failures),
            Error::Overloaded { .. } => {
                count(&self.cx.counters.overloaded);
                if let Some(cached) = self.remembered.as_ref().and_then(|remembered| remembered.get(key)) {
                    count(&self.cx.counters.stale);
                    return Ok(Answer { cached, origin: Origin::Stale });
                }
            }
            _ => {}
        }
        Err(error)
    }

    pub(super) fn remember(&self, key: &str, cached: Cached) {
        if let Some(remembered) = &self.remembered {
            remembered.put(key, Arc::new(cached));
        }
    }

    /// Fills, if there is a right to, and the value is one that is kept.
    pub(super) async fn fill(
        &self,
        key: &str,
        options: &CallOptions,
        ticket: Option<Ticket>,
        cached: &Cached,
    ) -> Result<(), Error> {
        let Some(ticket) = ticket else { return Ok(()) };
        let settings = &self.cx.settings;
        let ttl = match cached {
            Cached::Value(_) => Some(options.ttl.unwrap_or(settings.ttl)),
            Cached::Null => options.null_ttl.unwrap_or(settings.null_ttl),
        };
        let Some(ttl) = ttl else {
            self.strategy.abandon(&self.cx, key, ticket).await;
            return Ok(());
        };
        let filled = self.strategy.fill(&self.cx, key, ticket, cached.bytes(), settings.jittered(ttl)).await;
        match filled {
            Ok(true) => count(&self.cx.counters.fills),
            Ok(false) => count(&self.cx.counters.refused),
            Err(error) => self.despite(options, Err(error), ())?,
        }
        Ok(())
    }
}
