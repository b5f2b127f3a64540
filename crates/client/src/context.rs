//! What strategies work with.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    Error, Hooks, Redis, Settings, Step,
    change::Change,
    commands::Cached,
    protect::load_times::LoadTimes,
    source::{ReadSource, parse_pool},
    stats::{Counters, count},
};

/// Redis, the settings, hooks and counters. Shared by a client's calls and its background task.
#[derive(Debug)]
pub struct Context {
    pub(crate) redis: Redis,
    pub(crate) settings: Settings,
    pub(crate) hooks: Option<Arc<dyn Hooks>>,
    pub(crate) counters: Counters,
    pub(crate) load_times: LoadTimes,
}

impl Context {
    pub(crate) async fn before(&self, step: Step, key: &str) {
        if let Some(hooks) = &self.hooks {
            hooks.before(step, key).await;
        }
    }

    /// Removes one key.
    pub(crate) async fn remove(&self, step: Step, key: &str) -> Result<(), Error> {
        self.before(step, key).await;
        self.redis.unlink(key).await
    }

    /// Removes all keys of a change, all at once; tries each.
    pub(crate) async fn remove_all<'a>(
        &self,
        step: Step,
        keys: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        self.removed(join_all(keys.map(async |key| (key, self.remove(step, key).await))).await)
    }

    /// # Errors
    /// Which keys were not removed.
    pub(crate) fn removed(&self, removed: Vec<(&str, Result<(), Error>)>) -> Result<(), Error> {
        let mut failed = removed.into_iter().filter_map(|(key, done)| Some((key.to_owned(), done.err()?)));
        let Some((first, source)) = failed.next() else { return Ok(()) };
        count(&self.counters.not_removed);
        let keys = std::iter::once(first).chain(failed.map(|(key, _)| key)).collect();
        Err(Error::NotRemoved { keys, source: Box::new(source) })
    }

    /// Puts a change's values there, all at once.
    pub(crate) async fn set_all(&self, strategy: &'static str, change: &Change) -> Result<(), Error> {
        let entries = new_values(strategy, change)?;
        let set = join_all(entries.iter().map(async |(key, cached, own_ttl)| {
            self.before(Step::Set, key).await;
            match self.entry_ttl(cached, *own_ttl) {
                Some(ttl) => self.redis.set(key, cached.bytes(), ttl).await,
                None => self.redis.unlink(key).await,
            }
        }))
        .await;
        set.into_iter().collect()
    }

    /// For how long this is kept; `None`: not at all.
    fn entry_ttl(&self, cached: &Cached, own: Option<Duration>) -> Option<Duration> {
        let ttl = match cached {
            Cached::Value(_) => Some(self.settings.ttl),
            Cached::Null => self.settings.null_ttl,
        };
        own.or(ttl).map(|ttl| self.settings.jittered(ttl))
    }

    /// The pool of read sources, asked for now.
    pub(crate) async fn pool(&self, key: &str) -> Result<ReadSource, Error> {
        self.before(Step::Pool, key).await;
        Ok(self.listed(key, self.redis.get_raw(key).await?.as_deref()))
    }

    /// What stands at the pool's key. What can't be read means the primary alone, which is always a member.
    pub(crate) fn listed(&self, key: &str, text: Option<&[u8]>) -> ReadSource {
        let Some(text) = text else { return ReadSource::primary() };
        parse_pool(text).unwrap_or_else(|| {
            count(&self.counters.unknown_pools);
            tracing::warn!(key, "pool of read sources in an unknown form: reading from the primary");
            ReadSource::primary()
        })
    }
}

/// A key, what it becomes, and for how long if that is told.
type NewValue<'a> = (&'a str, &'a Cached, Option<Duration>);

/// What a change makes of its keys.
///
/// # Errors
/// When one isn't known.
pub(crate) fn new_values<'a>(strategy: &'static str, change: &'a Change) -> Result<Vec<NewValue<'a>>, Error> {
    let value = |entry: &'a crate::change::Entry| {
        let missing = || Error::NoValue { strategy, key: entry.key.clone() };
        Ok((entry.key.as_str(), entry.becomes.as_ref().ok_or_else(missing)?, entry.ttl))
    };
    change.entries().map(value).collect()
}

/// A pause around `base`, so that those who wait don't all come back at once.
pub(crate) fn jittered_pause(base: Duration) -> Duration {
    base.mul_f64(0.5 + rand::random::<f64>())
}
