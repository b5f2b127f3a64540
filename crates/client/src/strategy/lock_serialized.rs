//! A read and write lock per key, with or without a fence.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Acquired, Prepared, Right, Sealed, Strategy, Ticket};
use crate::{
    Error, Step,
    change::Change,
    context::Context,
    lock::{Locks, release_all, remove_all_fenced, take_all},
};

/// `lock-serialized`: readers that fill and writers exclude each other by a lock in Redis; the fill checks the lock's fence.
/// `lock-serialized-unfenced` ([`LockSerialized::unfenced`]) doesn't, for comparison.
///
/// # Steps
/// - Read: `GET`. On a miss: read lock (shared by readers), load, `SET` if the fence is what it was, unlock.
/// - Write: write lock, which moves the fence; update the database; `UNLINK`, which moves the fence once more, for the writer's own lock
///   may have expired and a reader be at work; unlock. A change of several keys takes their locks in the keys' order.
///
/// Locks have an owner's token, are renewed by a watchdog for as long as they are held, and last for [`LockSerialized::hold`] after a
/// process has died. A writer that waits lets no further readers in. The lock stands beside the key, in its cluster slot.
///
/// # Cost
/// A hit is 1 round trip; a miss 4 (`GET`, lock, fill, unlock) and the load, and it waits while a writer has the lock; a write 3 and the
/// update, and it waits for readers' loads.
///
/// # The race that is left
/// Without the fence:
///
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | GET: nothing, read lock, load: 1 | | – | 1 |
/// | *stands still; its lock expires* | | – | 1 |
/// | | write lock, update to 2, UNLINK, unlock | – | 2 |
/// | SET 1 | | **1** | 2 |
///
/// With the fence the last step is refused. What is left then: a writer that dies between its update and its `UNLINK` leaves the old
/// value, as does one whose `UNLINK` fails; a load from a replica that lags; a row changed by who doesn't take the lock; a Redis that
/// loses the lock in a failover.
///
/// # When it is enough
/// Where every writer of the row uses it, reads go to the primary, and a process that dies at the wrong moment may cost a TTL of
/// staleness. Hot keys that are written often pay with waiting.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::LockSerialized};
/// let client = Client::builder(redis).strategy(LockSerialized::new()).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LockSerialized {
    locks: Locks,
    fenced: bool,
}

impl Default for LockSerialized {
    fn default() -> Self {
        Self::new()
    }
}

impl LockSerialized {
    /// Locks of 10 s, renewed while they are held; 5 s of waiting for one; the fence is checked.
    ///
    /// ```
    /// use rowbust_client::strategy::{LockSerialized, Strategy};
    /// assert_eq!(LockSerialized::new().name(), "lock-serialized");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { locks: Locks::default(), fenced: true }
    }

    /// The same without the fence, which leaves the race above.
    ///
    /// ```
    /// use rowbust_client::strategy::{LockSerialized, Strategy};
    /// assert_eq!(LockSerialized::unfenced().name(), "lock-serialized-unfenced");
    /// ```
    #[must_use]
    pub fn unfenced() -> Self {
        Self { fenced: false, ..Self::new() }
    }

    /// How long a lock lasts that is no longer renewed. Default: 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::LockSerialized;
    /// // Of a process that died in a write, others wait for 3 s at most.
    /// let strategy = LockSerialized::new().hold(Duration::from_secs(3));
    /// ```
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.locks.hold = hold;
        self
    }

    /// How long to wait for a lock: a write then fails, a read loads without filling. Default: 5 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::LockSerialized;
    /// let strategy = LockSerialized::new().wait(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.locks.wait = wait;
        self
    }
}

impl Sealed for LockSerialized {}

impl Strategy for LockSerialized {
    fn name(&self) -> &'static str {
        if self.fenced { "lock-serialized" } else { "lock-serialized-unfenced" }
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn acquire<'a>(
        &'a self,
        cx: &'a Context,
        key: &'a str,
        wait: bool,
    ) -> BoxFuture<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            cx.before(Step::Lock, key).await;
            let locks = if wait { self.locks } else { Locks { wait: Duration::ZERO, ..self.locks } };
            match locks.take(cx, key, false).await {
                Ok(guard) => Ok(Acquired::Turn(Ticket::new(Right::Lock(guard, self.fenced)))),
                Err(Error::LockBusy { .. }) => Ok(Acquired::Busy),
                Err(error) => Err(error),
            }
        })
    }

    fn before_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async {
            Ok(Prepared { locks: take_all(self.locks, cx, change).await?, ..Prepared::default() })
        })
    }

    fn after_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
        prepared: Prepared,
        _: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let removed = match self.fenced {
                true => remove_all_fenced(cx, change).await,
                false => cx.remove_all(Step::Delete, change.keys()).await,
            };
            release_all(cx, change, prepared.locks).await;
            removed
        })
    }
}
