//! The strategies: in which order a key is read, loaded, filled and removed.
//!
//! | type | name | write | fill | what may stay stale |
//! |---|---|---|---|---|
//! | [`TtlOnly`] | `ttl-only` | database | SET | every change, for a TTL |
//! | [`CacheAside`] | `cache-aside` | database, UNLINK | SET | a slow reader's fill |
//! | [`DeleteFirst`] | `delete-first` | UNLINK, database | SET | any read in between |
//! | [`WriteDbThenCache`] | `write-db-then-cache` | database, SET | SET | two writers, crossed |
//! | [`WriteCacheThenDb`] | `write-cache-then-db` | SET, database | SET | a write that fails, two writers, crossed |
//! | [`WriteThrough`] | `write-through` | lock, database, SET | SET | a slow reader's fill |
//! | [`DelayedDoubleDelete`] | `delayed-double-delete` | UNLINK, database, UNLINK later | SET | a reader slower than the delay |
//! | [`LockSerialized`] | `lock-serialized` | lock, database, UNLINK | lock, SET with fence | a writer that dies before its UNLINK |
//! | [`LogicalExpiry`] | `logical-expiry` | database | one rebuilder | every change, for a TTL |
//! | [`Binlog`] | `binlog` | database | SET | the visibility window, a slow reader |
//! | [`BinlogTwice`] | `binlog-twice` | database | SET | a reader slower than the grace |
//! | [`BinlogLease`] | `binlog-lease` | database | lease | the visibility window |
//! | [`Guarded`] | `guarded` | database | lease | nothing |
//!
//! Each type's page has the steps, what they cost, the race that is left as an interleaving, and when it is enough.
//!
//! ```
//! use std::sync::Arc;
//! use rowbust_client::strategy::{CacheAside, Guarded, Strategy};
//!
//! /// The one that a configuration names.
//! fn strategy(name: &str) -> Option<Arc<dyn Strategy>> {
//!     let known: [Arc<dyn Strategy>; 2] = [Arc::new(Guarded::new()), Arc::new(CacheAside)];
//!     known.into_iter().find(|strategy| strategy.name() == name)
//! }
//! assert!(strategy("guarded").is_some() && strategy("fastest").is_none());
//! ```
//!
//! # Round trips to Redis
//!
//! Counted by a test on a real Redis, for one key and without contention:
//!
#![doc = include_str!("round_trips.md")]
//!
//! Guarantees: a strategy takes its steps in the order of its page, and calls the hook before each.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{Error, Step, change::Change, commands::Cached, context::Context, source::ReadSource};

mod binlog;
mod binlog_lease;
mod binlog_twice;
mod cache_aside;
mod delayed_double_delete;
mod delete_first;
mod guarded;
mod lock_serialized;
mod logical_expiry;
mod ttl_only;
mod turn;
mod write_cache_then_db;
mod write_db_then_cache;
mod write_through;

pub use binlog::Binlog;
pub use binlog_lease::BinlogLease;
pub use binlog_twice::BinlogTwice;
pub use cache_aside::CacheAside;
pub use delayed_double_delete::DelayedDoubleDelete;
pub use delete_first::DeleteFirst;
pub use guarded::Guarded;
pub use lock_serialized::LockSerialized;
pub use logical_expiry::LogicalExpiry;
pub use ttl_only::TtlOnly;
pub use write_cache_then_db::WriteCacheThenDb;
pub use write_db_then_cache::WriteDbThenCache;
pub use write_through::WriteThrough;

mod sealed {
    /// Only the strategies of this crate are strategies: the client relies on their steps.
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;
pub(crate) use turn::{Acquired, Found, Lookup, Prepared, Right, Ticket};

/// A strategy. Its methods are steps for [`Client`](crate::Client) to call; they are the same for one key and for many.
///
/// The defaults are those of a cache that nobody removes from: GET, load, SET; the write only writes the database.
///
/// ```
/// use rowbust_client::strategy::{Binlog, Guarded, Strategy};
/// let all: [&dyn Strategy; 2] = [&Binlog, &Guarded::new()];
/// assert_eq!(all.map(Strategy::name), ["binlog", "guarded"]);
/// ```
pub trait Strategy: Sealed + fmt::Debug + Send + Sync + 'static {
    /// Its name, as in `rowbust lab`.
    ///
    /// ```
    /// use rowbust_client::strategy::{DeleteFirst, Strategy};
    /// assert_eq!(DeleteFirst.name(), "delete-first");
    /// ```
    fn name(&self) -> &'static str;

    /// Whether it has one reader at a time fill a key, by a lease or lock of its own.
    #[doc(hidden)]
    fn takes_turns(&self) -> bool {
        false
    }

    /// Whether a value near its end can be loaded anew while it is served.
    #[doc(hidden)]
    fn refreshes_early(&self) -> bool {
        !self.takes_turns()
    }

    /// The first look.
    #[doc(hidden)]
    fn lookup<'a>(&'a self, cx: &'a Context, key: &'a str) -> BoxFuture<'a, Result<Lookup, Error>> {
        Box::pin(plain_lookup(cx, key))
    }

    /// After a miss: asks to fill. `wait`: whether it is worth waiting for another's fill; it isn't for one of several keys.
    #[doc(hidden)]
    fn acquire<'a>(
        &'a self,
        _: &'a Context,
        _: &'a str,
        _wait: bool,
    ) -> BoxFuture<'a, Result<Acquired, Error>> {
        Box::pin(async { Ok(Acquired::Turn(Ticket::plain())) })
    }

    /// After a hit: asks to load the value anew, which is served on. Nobody waits for that.
    #[doc(hidden)]
    fn acquire_early<'a>(&'a self, cx: &'a Context, key: &'a str) -> BoxFuture<'a, Result<Acquired, Error>> {
        self.acquire(cx, key, false)
    }

    /// Where the load may read; asked for after the turn was granted, unless that said so.
    #[doc(hidden)]
    fn source<'a>(&'a self, _: &'a Context) -> BoxFuture<'a, Result<ReadSource, Error>> {
        Box::pin(async { Ok(ReadSource::primary()) })
    }

    /// Fills; whether it was accepted.
    #[doc(hidden)]
    fn fill<'a>(
        &'a self,
        cx: &'a Context,
        key: &'a str,
        ticket: Ticket,
        value: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(fill(cx, key, ticket, value, ttl))
    }

    /// Gives the right to fill back, unused.
    #[doc(hidden)]
    fn abandon<'a>(&'a self, cx: &'a Context, key: &'a str, ticket: Ticket) -> BoxFuture<'a, ()> {
        Box::pin(abandon(cx, key, ticket))
    }

    /// Before the update. When it fails, there is none.
    #[doc(hidden)]
    fn before_write<'a>(&'a self, _: &'a Context, _: &'a Change) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async { Ok(Prepared::default()) })
    }

    /// After the update, whatever became of it: one that failed may have been committed.
    #[doc(hidden)]
    fn after_write<'a>(
        &'a self,
        _: &'a Context,
        _: &'a Change,
        _: Prepared,
        _committed: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    /// What goes on for as long as the client lives.
    #[doc(hidden)]
    fn background(&self, _: Arc<Context>) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// GET; with early refresh, the time left too.
pub(crate) async fn plain_lookup(cx: &Context, key: &str) -> Result<Lookup, Error> {
    cx.before(Step::Get, key).await;
    let found = |cached: Option<Cached>| cached.map_or(Lookup::Miss, |cached| Lookup::Hit(Found(cached)));
    let Some(early) = cx.settings.early_refresh else { return Ok(found(cx.redis.get(key).await?)) };
    Ok(match cx.redis.get_with_ttl(key).await? {
        Some((cached, Some(left))) if cx.load_times.is_early(early.beta, left) => {
            Lookup::Early(Found(cached))
        }
        other => found(other.map(|(cached, _)| cached)),
    })
}

/// Fills by the right that the ticket stands for, and gives back what it holds.
pub(crate) async fn fill(
    cx: &Context,
    key: &str,
    ticket: Ticket,
    value: &[u8],
    ttl: Duration,
) -> Result<bool, Error> {
    cx.before(Step::Fill, key).await;
    let set = async || cx.redis.set(key, value, ttl).await.map(|()| true);
    match ticket.right {
        Right::Plain => set().await,
        Right::Lease(token) | Right::Early(token) => cx.redis.fill(key, token, value, ttl).await,
        Right::Lock(guard, fenced) => {
            let filled = match fenced {
                true => cx.redis.fill_fenced(key, guard.name(), guard.fence(), value, ttl).await,
                false => set().await,
            };
            cx.before(Step::Unlock, key).await;
            guard.release_counted(cx).await;
            filled
        }
        Right::Rebuild(lock, token) => {
            let filled = set().await;
            // A lock that can't be given back expires.
            let _ = cx.redis.release(&lock, &token.to_hex()).await;
            filled
        }
    }
}

pub(crate) async fn abandon(cx: &Context, key: &str, ticket: Ticket) {
    // What can't be given back expires.
    match ticket.right {
        Right::Plain => {}
        Right::Lease(token) => drop(cx.redis.release(key, &token.lease_prefix()).await),
        Right::Early(token) => drop(cx.redis.release(key, &token.early_prefix()).await),
        Right::Lock(guard, _) => guard.release_counted(cx).await,
        Right::Rebuild(lock, token) => drop(cx.redis.release(&lock, &token.to_hex()).await),
    }
}
