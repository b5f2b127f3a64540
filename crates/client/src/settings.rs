//! What a client does beside its strategy. Defaults suit a service that would rather read its database than fail.

use std::time::Duration;

use crate::{Error, strategy::Strategy};

/// Settings of a [`Client`](crate::Client), for all its calls.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::{LoadLimit, Settings};
/// let settings = Settings {
///     ttl: Duration::from_secs(3600),
///     load_limit: Some(LoadLimit { concurrent: 32, wait: Duration::from_millis(200) }),
///     ..Settings::default()
/// };
/// assert!(settings.single_flight);
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a value is kept. Default: 10 minutes.
    pub ttl: Duration,
    /// How long it is kept that the database has no such row; `None`: not at all. Such an entry is removed like any other, so by the
    /// INSERT's invalidation. Default: 30 s.
    pub null_ttl: Option<Duration>,
    /// Part of the TTL, from 0 to 1, by which an entry may expire earlier, at random, so that what was filled together doesn't expire
    /// together. Default: 0.1.
    pub jitter: f64,
    /// What a read does when Redis fails. Default: [`OnCacheError::Load`].
    pub on_cache_error: OnCacheError,
    /// What a read does with bytes that are no such value. Default: [`Foreign::Reload`].
    pub foreign: Foreign,
    /// Callers in this process that miss the same key share a load, if its database read began after their call. Default: true.
    pub single_flight: bool,
    /// Refreshes entries at random before they expire, the more likely the nearer the end. Not for strategies with locks: a refresh
    /// under `lock-serialized` would make writers wait for a value that is still good; `logical-expiry` has a refresh of its own. Under
    /// `guarded` and `binlog-lease` the lease stands *before* the value meanwhile, in the same key: this library reads on, a program
    /// without it finds 48 bytes that it doesn't know. Each hit asks for the time left too, in the same round trip (on a cluster: at the same time). Default: none.
    pub early_refresh: Option<EarlyRefresh>,
    /// One process at a time loads a key. Only for strategies with plain fills: a lease or lock is one already. Default: none.
    pub rebuild_lock: Option<RebuildLock>,
    /// How many loads may run at once. Default: no limit.
    pub load_limit: Option<LoadLimit>,
    /// When to stop loading for a while. Default: never.
    pub breaker: Option<Breaker>,
    /// What a read does when a limit or breaker refuses its load. Default: [`OnOverload::Fail`].
    pub on_overload: OnOverload,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            null_ttl: Some(Duration::from_secs(30)),
            jitter: 0.1,
            on_cache_error: OnCacheError::Load,
            foreign: Foreign::Reload,
            single_flight: true,
            early_refresh: None,
            rebuild_lock: None,
            load_limit: None,
            breaker: None,
            on_overload: OnOverload::Fail,
        }
    }
}

impl Settings {
    /// # Errors
    /// What can't be.
    pub(crate) fn check(&self, strategy: &dyn Strategy) -> Result<(), Error> {
        let (takes_turns, refreshes) = (strategy.takes_turns(), strategy.refreshes_early());
        let strategy = strategy.name();
        let wrong = |text: String| Err(Error::Settings(text));
        if self.ttl.is_zero() || self.null_ttl.is_some_and(|ttl| ttl.is_zero()) {
            return wrong("a TTL of zero caches nothing: leave it out, or read the database directly".into());
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return wrong(format!("jitter is a part of the TTL, from 0 to 1, not {}", self.jitter));
        }
        if !refreshes && self.early_refresh.is_some() {
            return wrong(format!(
                "early_refresh needs plain fills or leases; {strategy} has locks of its own: leave it out"
            ));
        }
        if takes_turns && self.rebuild_lock.is_some() {
            return wrong(format!(
                "rebuild_lock needs plain fills; {strategy} has leases or locks of its own: leave it out"
            ));
        }
        if self.early_refresh.is_some_and(|early| !early.beta.is_finite() || early.beta <= 0.0) {
            return wrong("early_refresh.beta is a number above 0".into());
        }
        if self.load_limit.is_some_and(|limit| limit.concurrent == 0) {
            return wrong("load_limit.concurrent of 0 would let nothing load".into());
        }
        if self.breaker.is_some_and(|breaker| breaker.failures == 0) {
            return wrong("breaker.failures is at least 1".into());
        }
        Ok(())
    }

    /// An entry's time to live, jittered.
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * rand::random::<f64>()).max(Duration::from_millis(1))
    }
}

/// When Redis fails.
///
/// ```
/// use rowbust_client::{LoadLimit, OnCacheError, Settings};
/// use std::time::Duration;
/// // Without Redis the database gets every read, but no more than 32 at a time.
/// let limit = LoadLimit { concurrent: 32, wait: Duration::from_millis(100) };
/// let settings = Settings { on_cache_error: OnCacheError::Load, load_limit: Some(limit), ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCacheError {
    /// Read the database and fill nothing. Use it with a [`LoadLimit`], for now every read is a load.
    Load,
    /// Fail with [`Error::Redis`].
    Fail,
}

/// When a key holds bytes that are no such value. They are never handed out.
///
/// ```
/// use rowbust_client::{CallOptions, Foreign};
/// let strict = CallOptions::default().foreign(Foreign::Fail);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Remove them and load: right while a new version's format replaces an old one's. Counted.
    Reload,
    /// Fail with [`Error::Foreign`].
    Fail,
}

/// Probabilistic early refresh: XFetch, in A. Vattani, F. Chierichetti, K. Lowenstein, "Optimal Probabilistic Cache Stampede
/// Prevention", PVLDB 8(8), 2015. A reader refreshes when the time left is below δ·β·(−ln random), δ being how long loads take here.
///
/// ```
/// use rowbust_client::{EarlyRefresh, Settings};
/// let settings = Settings { early_refresh: Some(EarlyRefresh { beta: 1.0 }), ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyRefresh {
    /// Above 1: earlier than is optimal; below: later. The paper's, and the usual, value is 1.
    pub beta: f64,
}

/// A lock in Redis, taken by who misses; who has it looks at the key again before the load.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::{RebuildLock, Settings};
/// let lock = RebuildLock { hold: Duration::from_secs(5), wait: Duration::from_millis(200) };
/// let settings = Settings { rebuild_lock: Some(lock), ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildLock {
    /// After this the lock of a process that has died is free. Longer than a load takes.
    pub hold: Duration,
    /// How long others wait for the value before they load it themselves.
    pub wait: Duration,
}

/// A limit on the loads of one client that run at once.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::{LoadLimit, Settings};
/// let limit = LoadLimit { concurrent: 16, wait: Duration::from_millis(500) };
/// let settings = Settings { load_limit: Some(limit), ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimit {
    /// At most so many.
    pub concurrent: usize,
    /// How long a further one waits for its turn before it is refused.
    pub wait: Duration,
}

/// After some failed loads in a row none is tried for a while; then one, whose outcome decides.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::{Breaker, Settings};
/// let breaker = Breaker { failures: 5, cool_down: Duration::from_secs(2) };
/// let settings = Settings { breaker: Some(breaker), ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// How many in a row.
    pub failures: u32,
    /// For how long, by the monotonic clock.
    pub cool_down: Duration,
}

/// When a limit or breaker refuses a load.
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::{OnOverload, Settings};
/// let on_overload = OnOverload::ServeStale { entries: 10_000, max_age: Duration::from_secs(300) };
/// let settings = Settings { on_overload, ..Settings::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOverload {
    /// Fail at once with [`Error::Overloaded`].
    Fail,
    /// Hand out what this process saw last, **which may be stale**: the answer says [`Origin::Stale`](crate::Origin::Stale). Where there
    /// is nothing, fail.
    ServeStale {
        /// Values remembered at most.
        entries: usize,
        /// For how long.
        max_age: Duration,
    },
}

/// Options of one call; what is not set is as in [`Settings`].
///
/// ```
/// use std::time::Duration;
/// use rowbust_client::CallOptions;
/// let options = CallOptions::default().ttl(Duration::from_secs(5)).refresh();
/// ```
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) null_ttl: Option<Option<Duration>>,
    pub(crate) foreign: Option<Foreign>,
    pub(crate) on_cache_error: Option<OnCacheError>,
    pub(crate) refresh: bool,
}

impl CallOptions {
    /// Another time to live than [`Settings::ttl`], of at least a millisecond; jittered like that.
    ///
    /// ```no_run
    /// # async fn price_of(_: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use std::time::Duration;
    /// use rowbust_client::CallOptions;
    /// let options = CallOptions::default().ttl(Duration::from_secs(5));
    /// let price = client.get_or_load_with("price:7", &options, async |_| price_of(7).await).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Another time for *absent* than [`Settings::null_ttl`]; `None`: it isn't kept.
    ///
    /// ```no_run
    /// # async fn price_of(_: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::CallOptions;
    /// // The row may be inserted at any moment, by a program that removes nothing.
    /// let options = CallOptions::default().null_ttl(None);
    /// let price = client.get_or_load_with("price:7", &options, async |_| price_of(7).await).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn null_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.null_ttl = Some(ttl);
        self
    }

    /// What to do with bytes that are no such value, instead of [`Settings::foreign`].
    ///
    /// ```no_run
    /// # async fn price_of(_: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{CallOptions, Foreign};
    /// let options = CallOptions::default().foreign(Foreign::Fail);
    /// let price = client.get_or_load_with("price:7", &options, async |_| price_of(7).await).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn foreign(mut self, foreign: Foreign) -> Self {
        self.foreign = Some(foreign);
        self
    }

    /// What to do when Redis fails, instead of [`Settings::on_cache_error`].
    ///
    /// ```no_run
    /// # async fn price_of(_: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{CallOptions, OnCacheError};
    /// // A job at night that can wait for Redis: the database is spared.
    /// let options = CallOptions::default().on_cache_error(OnCacheError::Fail);
    /// let price = client.get_or_load_with("price:7", &options, async |_| price_of(7).await).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn on_cache_error(mut self, on_cache_error: OnCacheError) -> Self {
        self.on_cache_error = Some(on_cache_error);
        self
    }

    /// Removes the entry first, and loads. Default: no.
    ///
    /// ```no_run
    /// # async fn price_of(_: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::CallOptions;
    /// // Somebody who looks into a complaint wants the row itself.
    /// let options = CallOptions::default().refresh();
    /// let price = client.get_or_load_with("price:7", &options, async |_| price_of(7).await).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn refresh(mut self) -> Self {
        self.refresh = true;
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::{CacheAside, Guarded, LockSerialized};

    #[test]
    fn settings_that_cannot_be_are_refused_with_what_to_do() {
        let turns = Settings { early_refresh: Some(EarlyRefresh { beta: 1.0 }), ..Settings::default() };
        assert!(turns.check(&CacheAside).is_ok() && turns.check(&Guarded::new()).is_ok());
        let text = turns.check(&LockSerialized::new()).unwrap_err().to_string();
        assert!(
            text.contains("early_refresh")
                && text.contains("lock-serialized")
                && text.contains("leave it out"),
            "{text}"
        );
        let second = Duration::from_secs(1);
        for (bad, word) in [
            (Settings { ttl: Duration::ZERO, ..Settings::default() }, "TTL"),
            (Settings { null_ttl: Some(Duration::ZERO), ..Settings::default() }, "TTL"),
            (Settings { jitter: 1.5, ..Settings::default() }, "1.5"),
            (Settings { jitter: f64::NAN, ..Settings::default() }, "NaN"),
            (Settings { early_refresh: Some(EarlyRefresh { beta: 0.0 }), ..Settings::default() }, "beta"),
            (
                Settings {
                    load_limit: Some(LoadLimit { concurrent: 0, wait: second }),
                    ..Settings::default()
                },
                "concurrent",
            ),
            (
                Settings { breaker: Some(Breaker { failures: 0, cool_down: second }), ..Settings::default() },
                "failures",
            ),
        ] {
            let text = bad.check(&CacheAside).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
        let lock = Settings {
            rebuild_lock: Some(RebuildLock { hold: second, wait: second }),
            ..Settings::default()
        };
        assert!(lock.check(&Guarded::new()).unwrap_err().to_string().contains("rebuild_lock"));
    }

    proptest! {
        #[test]
        fn jitter_only_shortens_and_never_to_nothing(jitter in 0.0..=1.0f64, ms in 1..10_000_000u64) {
            let settings = Settings { jitter, ..Settings::default() };
            let ttl = Duration::from_millis(ms);
            let jittered = settings.jittered(ttl);
            prop_assert!(jittered <= ttl);
            prop_assert!(jittered >= Duration::from_millis(1).max(ttl.mul_f64(1.0 - jitter).saturating_sub(Duration::from_micros(1))));
        }
    }
}
