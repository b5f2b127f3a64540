//! Values outlive their TTL while one reader at a time rebuilds them.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Acquired, Found, Lookup, Sealed, Strategy, Ticket};
use crate::{Error, RebuildLock, Step, context::Context, protect::rebuild};

/// `logical-expiry`: an entry past its TTL is still handed out, and one reader rebuilds it. The hot key that never makes anybody wait.
///
/// # Steps
/// - Read: `GET` and `PTTL` together. Past its TTL (Redis keeps the entry for [`LogicalExpiry::keep`] longer): one reader takes the
///   rebuild lock, loads, `SET`, gives the lock back; the others return the old value at once. No entry: the same lock, and the others
///   wait for the value.
/// - Write: update the database.
///
/// The time left is Redis' own, so the value stands at the key as the application's bytes, without an envelope.
///
/// # Cost
/// A hit is 1 round trip, of two commands; a rebuild 4 and the load (lock, a second look, `SET`, unlock), for the reader that makes it; a
/// write none but the update.
///
/// # The race that is left
/// As `ttl-only`: every change is unseen until the TTL ends, and then until somebody reads the key and its rebuild is done. For a key
/// that is read seldom that is up to [`LogicalExpiry::keep`] longer.
///
/// | reader A | reader B | cache | database |
/// |---|---|---|---|
/// | | | 1, past its TTL | 2 |
/// | GET: 1, rebuild lock | | 1 | 2 |
/// | | GET: 1, lock taken: returns **1** | 1 | 2 |
/// | load: 2, SET 2, unlock | | 2 | 2 |
///
/// # When it is enough
/// Hot keys that are dear to load and may be old by a TTL.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use std::time::Duration;
/// use rowbust_client::{Client, strategy::LogicalExpiry};
/// let client = Client::builder(redis).strategy(LogicalExpiry::new().keep(Duration::from_secs(600))).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LogicalExpiry {
    keep: Duration,
    lock: RebuildLock,
}

impl Default for LogicalExpiry {
    fn default() -> Self {
        Self::new()
    }
}

impl LogicalExpiry {
    /// Entries kept an hour past their TTL; a rebuild lock of 10 s; 100 ms of waiting where there is no entry at all.
    ///
    /// ```
    /// use rowbust_client::strategy::{LogicalExpiry, Strategy};
    /// assert_eq!(LogicalExpiry::new().name(), "logical-expiry");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        let lock = RebuildLock { hold: Duration::from_secs(10), wait: Duration::from_millis(100) };
        Self { keep: Duration::from_secs(3600), lock }
    }

    /// For how long past its TTL an entry may still be handed out. Default: an hour.
    ///
    /// Example: see [`LogicalExpiry`].
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// The rebuild lock. Default: held for 10 s, waited for for 100 ms where there is no entry at all.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::{RebuildLock, strategy::LogicalExpiry};
    /// // Loads take up to 20 s; who finds no entry at all waits for half a second.
    /// let lock = RebuildLock { hold: Duration::from_secs(30), wait: Duration::from_millis(500) };
    /// let strategy = LogicalExpiry::new().lock(lock);
    /// ```
    #[must_use]
    pub fn lock(mut self, lock: RebuildLock) -> Self {
        self.lock = lock;
        self
    }

    async fn look(&self, cx: &Context, key: &str) -> Result<Lookup, Error> {
        cx.before(Step::Get, key).await;
        Ok(match cx.redis.get_with_ttl(key).await? {
            None => Lookup::Miss,
            Some((cached, Some(left))) if left <= self.keep => Lookup::Early(Found(cached)),
            Some((cached, _)) => Lookup::Hit(Found(cached)),
        })
    }
}

impl Sealed for LogicalExpiry {}

impl Strategy for LogicalExpiry {
    fn name(&self) -> &'static str {
        "logical-expiry"
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn lookup<'a>(&'a self, cx: &'a Context, key: &'a str) -> BoxFuture<'a, Result<Lookup, Error>> {
        Box::pin(self.look(cx, key))
    }

    fn acquire<'a>(
        &'a self,
        cx: &'a Context,
        key: &'a str,
        wait: bool,
    ) -> BoxFuture<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            let acquired = rebuild::acquire(cx, self.lock, key, wait).await?;
            let Acquired::Turn(ticket) = acquired else { return Ok(acquired) };
            if wait {
                return Ok(Acquired::Turn(ticket));
            }
            // Whoever had the lock before may have rebuilt it.
            match self.look(cx, key).await {
                Ok(Lookup::Hit(found)) => {
                    super::abandon(cx, key, ticket).await;
                    Ok(Acquired::Hit(found))
                }
                _ => Ok(Acquired::Turn(ticket)),
            }
        })
    }

    fn fill<'a>(
        &'a self,
        cx: &'a Context,
        key: &'a str,
        ticket: Ticket,
        value: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(super::fill(cx, key, ticket, value, ttl.saturating_add(self.keep)))
    }
}
