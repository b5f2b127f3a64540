//! The client's strategies by name, and what each wants of the daemon.

use std::{sync::Arc, time::Duration};

use rowbust_client::strategy::{
    Binlog, BinlogLease, BinlogTwice, CacheAside, DelayedDoubleDelete, DeleteFirst, Guarded, LockSerialized,
    LogicalExpiry, Strategy as Steps, TtlOnly, WriteCacheThenDb, WriteDbThenCache, WriteThrough,
};

use crate::names::named;

named! {
    /// A strategy, as `docs/strategies.md` describes it.
    ///
    /// ```
    /// use rowbust_lab::live::Strategy;
    /// let names: Vec<&str> = Strategy::ALL.iter().map(|strategy| strategy.name()).collect();
    /// println!("{}", names.join(", "));
    /// assert_eq!(Strategy::named("write-through"), Some(Strategy::WriteThrough));
    /// ```
    pub enum Strategy {
        /// Writers leave the cache alone; entries expire.
        TtlOnly = "ttl-only",
        /// Update, then delete the key.
        CacheAside = "cache-aside",
        /// Delete the key, then update.
        DeleteFirst = "delete-first",
        /// Update, then set the key.
        WriteDbThenCache = "write-db-then-cache",
        /// Set the key, then update.
        WriteCacheThenDb = "write-cache-then-db",
        /// Delete the key, update, and delete the key again after a while.
        DelayedDoubleDelete = "delayed-double-delete",
        /// A read-write lock per key; a fill counts only while its fence hasn't moved.
        LockSerialized = "lock-serialized",
        /// The same without the fence.
        LockSerializedUnfenced = "lock-serialized-unfenced",
        /// Behind its time an entry is still served while one reader rebuilds it.
        LogicalExpiry = "logical-expiry",
        /// Update and set the key under a lock.
        WriteThrough = "write-through",
        /// The daemon removes once, when the event arrives.
        Binlog = "binlog",
        /// The daemon removes twice: the second time behind visibility and the fill grace.
        BinlogTwice = "binlog-twice",
        /// The daemon removes once, and fills need a lease.
        BinlogLease = "binlog-lease",
        /// The daemon removes twice, and fills need a lease.
        Guarded = "guarded",
    }
}

/// The times that strategies know. What takes seconds in production takes a part of one here, so that its end is seen in a short run.
///
/// ```
/// use std::time::Duration;
/// use rowbust_lab::live::{Plan, Timing, Workload};
/// // Locks that outlast any pause of their holders.
/// let timing = Timing { lock: Duration::from_secs(30), ..Timing::default() };
/// assert_eq!(timing.to_json()["lock"], 30_000);
/// let plan = Plan { timing, ..Plan::new(Workload::WriteHeavy) };
/// ```
#[derive(Debug, Clone)]
pub struct Timing {
    /// TTL of entries where something else removes them. Default: 10 minutes.
    pub ttl: Duration,
    /// TTL where nothing else ends an entry: `ttl-only`, `logical-expiry`. Default: 1 s.
    pub short_ttl: Duration,
    /// Between the deletes of `delayed-double-delete`. Default: 200 ms.
    pub delay: Duration,
    /// How long a lock lasts that is no longer renewed. Default: 300 ms.
    pub lock: Duration,
    /// How long a lease keeps others from loading. Default: 5 s; with [`Fault::LockExpiry`](super::Fault::LockExpiry) as
    /// [`Timing::lock`].
    pub lease: Duration,
    /// The daemon's `fill_grace`, for `binlog-twice`. Default: 200 ms.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            short_ttl: Duration::from_secs(1),
            delay: Duration::from_millis(200),
            lock: Duration::from_millis(300),
            lease: Duration::from_secs(5),
            grace: Duration::from_millis(200),
        }
    }
}

impl Timing {
    /// In milliseconds, by name.
    ///
    /// Example: see [`Timing`].
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        serde_json::json!({
            "ttl": ms(self.ttl),
            "short_ttl": ms(self.short_ttl),
            "delay": ms(self.delay),
            "lock": ms(self.lock),
            "lease": ms(self.lease),
            "grace": ms(self.grace),
        })
    }
}

/// What the daemon does after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removals {
    Once,
    TwiceWithGrace,
    Guarded,
}

impl Strategy {
    /// All of them, in the documentation's order.
    ///
    /// Example: see [`Strategy`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name on the command line.
    ///
    /// Example: see [`Strategy`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// By its name.
    ///
    /// Example: see [`Strategy`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|strategy| strategy.name() == name)
    }

    /// Whether the daemon removes for it.
    pub(super) fn has_daemon(self) -> bool {
        self.removals().is_some()
    }

    /// Whether it fills under a lock or lease that can expire.
    pub(super) fn has_lock(self) -> bool {
        matches!(
            self,
            Self::LockSerialized | Self::LockSerializedUnfenced | Self::BinlogLease | Self::Guarded
        )
    }

    /// Whether it writes under a lock that can expire.
    pub(super) fn writers_lock(self) -> bool {
        matches!(self, Self::LockSerialized | Self::LockSerializedUnfenced | Self::WriteThrough)
    }

    /// Whether a write must know what the value becomes.
    pub(super) fn writes_values(self) -> bool {
        matches!(self, Self::WriteDbThenCache | Self::WriteCacheThenDb | Self::WriteThrough)
    }

    /// Entries end by TTL alone.
    pub(super) fn is_timed(self) -> bool {
        matches!(self, Self::TtlOnly | Self::LogicalExpiry)
    }

    pub(super) fn removals(self) -> Option<Removals> {
        match self {
            Self::Binlog | Self::BinlogLease => Some(Removals::Once),
            Self::BinlogTwice => Some(Removals::TwiceWithGrace),
            Self::Guarded => Some(Removals::Guarded),
            _ => None,
        }
    }

    /// Its steps. `source`: the daemon's `source.name`; `owed`: the key of the list of owed deletes.
    pub(super) fn steps(self, timing: &Timing, source: &str, owed: &str) -> Arc<dyn Steps> {
        // A writer waits out what the slow-reader fault holds up.
        let wait = Duration::from_secs(3);
        match self {
            Self::TtlOnly => Arc::new(TtlOnly),
            Self::CacheAside => Arc::new(CacheAside),
            Self::DeleteFirst => Arc::new(DeleteFirst),
            Self::WriteDbThenCache => Arc::new(WriteDbThenCache),
            Self::WriteCacheThenDb => Arc::new(WriteCacheThenDb),
            Self::DelayedDoubleDelete => Arc::new(
                DelayedDoubleDelete::new(timing.delay).update_within(Duration::from_secs(5)).list(owed),
            ),
            Self::LockSerialized => Arc::new(LockSerialized::new().hold(timing.lock).wait(wait)),
            Self::LockSerializedUnfenced => Arc::new(LockSerialized::unfenced().hold(timing.lock).wait(wait)),
            Self::LogicalExpiry => Arc::new(LogicalExpiry::new().keep(timing.short_ttl)),
            Self::WriteThrough => Arc::new(WriteThrough::new().hold(timing.lock).wait(wait)),
            Self::Binlog => Arc::new(Binlog),
            Self::BinlogTwice => Arc::new(BinlogTwice),
            Self::BinlogLease => Arc::new(BinlogLease::new().hold(timing.lease).source_name(source)),
            Self::Guarded => Arc::new(Guarded::new().hold(timing.lease).source_name(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_client_and_of_the_model() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.steps(&Timing::default(), "main", "owed").name(), strategy.name());
            assert_eq!(Strategy::named(strategy.name()), Some(*strategy));
        }
        let names: Vec<_> = Strategy::ALL.iter().map(|strategy| strategy.name()).collect();
        assert!(crate::model::NAMES.iter().all(|name| names.contains(name)));
    }
}
