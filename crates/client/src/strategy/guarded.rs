//! Both removals by the daemon, and a lease for every fill.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rowbust_protocol::lease::Token;

use super::{Acquired, Found, Right, Sealed, Strategy, Ticket};
use crate::{
    Error, Step,
    commands::{LeaseReply, token},
    context::{Context, jittered_pause},
    source::ReadSource,
};

/// `guarded`, the default: a fill needs a lease, and the daemon's removals revoke leases. **Nothing can put an old value back.**
///
/// # Steps
/// - Read: `GET`. On a miss: `LEASE`; then the pool of read sources; then the load, in a fresh snapshot on one of its members; then
///   `FILL`, which Redis refuses unless the key still holds this very lease. While another reader has the lease: wait a little, with
///   jitter, and ask again; then load without filling.
///
///   The pool must be read after the lease stands: one read before may name a server that visibility has stopped waiting for since
///   (`rowbust lab model --mutant pool-before-lease`). On one server both go out in one write over one connection, `LEASE` first, and
///   a server carries out what one connection sends in order; where the script has to be sent anew, both are. On a cluster the two keys
///   stand on servers of their own, and the pool is asked for when `LEASE` is answered. [`Client::get_many`](crate::Client::get_many)
///   asks for it once, when all leases are answered.
/// - With [`Settings::early_refresh`](crate::Settings::early_refresh), of a value near its end: `EARLY`, a lease *before the value*, in the
///   same key, by one reader while the others are served the value; then as after a miss: the pool, the load, `FILL`. A removal takes the
///   lease with the value, so this `FILL` is refused like any. A load that failed takes the lease away and leaves the value.
/// - Write: update the database. The daemon removes the keys that its mappings name, when the event arrives and once more when the
///   commit is visible at every member of the pool (`second_removal: when_visible`, `guarded: true`).
///
/// # Cost
/// A hit is 1 round trip and no script: a bare `GET`. A miss is 3 (`GET`, `LEASE` with the pool, `FILL`) and the load, as with plain
/// fills and one more; on a cluster 4, or 3 with [`Guarded::primary_only`]. A write none but the update.
///
/// # Why no race is left
/// | reader | daemon | cache | database |
/// |---|---|---|---|
/// | GET: nothing, LEASE: granted | | lease | 1 |
/// | load: 1 | | lease | 1 |
/// | | | lease | 2 committed |
/// | | second removal: UNLINK | – | 2 |
/// | FILL 1: **refused** | | – | 2 |
///
/// A lease taken before the second removal is revoked by it; a lease taken after it reads a source that has the commit. No clock, TTL or
/// version is part of the argument, and eviction, duplicates and reordering do no harm. It assumes that every fill of the key goes
/// through a lease, that Redis isn't rolled back (the daemon sees that and repeats the removals), that loads read in a snapshot begun
/// after [`ReadSource`] was handed out, at READ COMMITTED or above, from the member it names, and that a mapping covers the key.
///
/// Between commit and removal, which is milliseconds, readers may see the old value. [`Client::invalidate`](crate::Client::invalidate)
/// after a write removes the key, and any lease, at once, and can do no harm. Where every client loads from the primary (no replica is in
/// the pool, or all have [`Guarded::primary_only`]), reads that begin after it show the write; a replica in the pool may not have it yet,
/// and what was loaded there may be filled again, until the second removal.
///
/// # When it is enough
/// Always, where the daemon runs.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use std::time::Duration;
/// use rowbust_client::{Client, strategy::Guarded};
/// let client = Client::builder(redis).strategy(Guarded::new().hold(Duration::from_secs(10))).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Guarded {
    leases: Leases,
}

/// How leases are asked for; shared with `binlog-lease`.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    pub(crate) hold: Duration,
    pub(crate) busy_wait: Duration,
    /// `None`: read from the primary.
    pub(crate) pool: Option<String>,
}

/// Where the pool of the source of this name is published.
pub(crate) fn pool_key(source: &str) -> String {
    format!("rowbust:pool:{source}")
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(5),
            busy_wait: Duration::from_millis(100),
            pool: Some(pool_key("main")),
        }
    }
}

impl Default for Guarded {
    fn default() -> Self {
        Self::new()
    }
}

impl Guarded {
    /// Leases of 5 s, 100 ms of waiting for another's fill, the pool of the source `main`.
    ///
    /// ```
    /// use rowbust_client::strategy::{Guarded, Strategy};
    /// assert_eq!(Guarded::new().name(), "guarded");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { leases: Leases::default() }
    }

    /// How long a lease keeps others from loading. A load that takes longer may find its fill refused, no more: the time is no part of
    /// what keeps old values out. Default: 5 s.
    ///
    /// Example: see [`Guarded`].
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.leases.hold = hold;
        self
    }

    /// How long to wait for another's fill before loading without filling. Default: 100 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::Guarded;
    /// // Loads take half a second: rather wait for another one's than load twice.
    /// let strategy = Guarded::new().busy_wait(Duration::from_millis(600));
    /// ```
    #[must_use]
    pub fn busy_wait(mut self, wait: Duration) -> Self {
        self.leases.busy_wait = wait;
        self
    }

    /// The daemon's `source.name`, under which it publishes the pool of read sources. Default: `main`.
    ///
    /// ```
    /// use rowbust_client::strategy::Guarded;
    /// // The daemon's configuration says `source: { name: shop, … }`.
    /// let strategy = Guarded::new().source_name("shop");
    /// ```
    #[must_use]
    pub fn source_name(mut self, name: &str) -> Self {
        self.leases.pool = Some(pool_key(name));
        self
    }

    /// Loads read from the primary only, which is always a member: saves the look at the pool.
    ///
    /// ```
    /// use rowbust_client::strategy::Guarded;
    /// // There are no replicas.
    /// let strategy = Guarded::new().primary_only();
    /// ```
    #[must_use]
    pub fn primary_only(mut self) -> Self {
        self.leases.pool = None;
        self
    }
}

impl Leases {
    pub(crate) async fn acquire(&self, cx: &Context, key: &str, wait: bool) -> Result<Acquired, Error> {
        let token = token();
        let begun = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            cx.before(Step::Lease, key).await;
            let (reply, source) = self.ask(cx, key, token, wait).await?;
            let left = match reply {
                LeaseReply::Granted => {
                    return Ok(Acquired::Turn(Ticket::new(Right::Lease(token)).reading_from(source)));
                }
                LeaseReply::Hit(Some(cached)) => return Ok(Acquired::Hit(Found(cached))),
                // An entry of a later version: its own clients know what to do with it.
                LeaseReply::Hit(None) => return Ok(Acquired::Busy),
                LeaseReply::Busy(left) => left,
            };
            let remaining = self.busy_wait.saturating_sub(begun.elapsed());
            if !wait || remaining.is_zero() {
                return Ok(Acquired::Busy);
            }
            let longest = left.min(remaining).max(Duration::from_millis(1));
            tokio::time::sleep(jittered_pause(pause).min(longest)).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// A lease before the value. Its reader reads the pool behind it, as behind any.
    pub(crate) async fn acquire_early(&self, cx: &Context, key: &str) -> Result<Acquired, Error> {
        let token = token();
        cx.before(Step::Lease, key).await;
        Ok(match cx.redis.early(key, token).await? {
            true => Acquired::Turn(Ticket::new(Right::Early(token))),
            false => Acquired::Busy,
        })
    }

    /// One of several keys gets no pool along: there is one for all, read behind the last of their leases.
    async fn ask(
        &self,
        cx: &Context,
        key: &str,
        token: Token,
        alone: bool,
    ) -> Result<(LeaseReply, Option<ReadSource>), Error> {
        let (true, Some(pool)) = (alone, &self.pool) else {
            return Ok((cx.redis.lease(key, token, self.hold).await?, None));
        };
        let (reply, text) = cx.redis.lease_and_pool(key, token, self.hold, pool).await?;
        Ok((reply, text.map(|text| cx.listed(pool, text.as_deref()))))
    }

    pub(crate) async fn source(&self, cx: &Context) -> Result<ReadSource, Error> {
        match &self.pool {
            Some(key) => cx.pool(key).await,
            None => Ok(ReadSource::primary()),
        }
    }
}

impl Sealed for Guarded {}

impl Strategy for Guarded {
    fn name(&self) -> &'static str {
        "guarded"
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn refreshes_early(&self) -> bool {
        true
    }

    fn acquire<'a>(
        &'a self,
        cx: &'a Context,
        key: &'a str,
        wait: bool,
    ) -> BoxFuture<'a, Result<Acquired, Error>> {
        Box::pin(self.leases.acquire(cx, key, wait))
    }

    fn acquire_early<'a>(&'a self, cx: &'a Context, key: &'a str) -> BoxFuture<'a, Result<Acquired, Error>> {
        Box::pin(self.leases.acquire_early(cx, key))
    }

    fn source<'a>(&'a self, cx: &'a Context) -> BoxFuture<'a, Result<ReadSource, Error>> {
        Box::pin(self.leases.source(cx))
    }
}
