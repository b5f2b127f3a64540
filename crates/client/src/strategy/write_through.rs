//! The cache is written together with the database, one writer of a key at a time.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{
    Error, Step,
    change::Change,
    context::{Context, new_values},
    lock::{Locks, release_all, take_all},
};

/// `write-through`: a write takes the key's lock, updates the database and sets the new value.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: lock, update the database, `SET` the new value ([`Change::value`]), unlock. If the update fails, `UNLINK` in place of `SET`.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 3 and the update; more while another writer has the lock.
///
/// # The race that is left
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | GET: nothing, load: 1 | | – | 1 |
/// | | lock, update to 2, SET 2, unlock | 2 | 2 |
/// | SET 1 | | **1** | 2 |
///
/// The lock orders writers, not readers. A writer that stands still for longer than its lock lasts makes `write-db-then-cache`'s race, and one that dies before its `SET`
/// leaves the old value. Whoever writes the row otherwise isn't seen at all.
///
/// # When it is enough
/// Where all writers use it, reads of a fresh write must hit, and a value that is old for a TTL harms nobody.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::WriteThrough};
/// let client = Client::builder(redis).strategy(WriteThrough::new()).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct WriteThrough {
    locks: Locks,
}

const NAME: &str = "write-through";

impl WriteThrough {
    /// Locks of 10 s, renewed while they are held; 5 s of waiting for one.
    ///
    /// ```
    /// use rowbust_client::strategy::{WriteThrough, Strategy};
    /// assert_eq!(WriteThrough::new().name(), "write-through");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a lock lasts that is no longer renewed. Default: 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::WriteThrough;
    /// // Of a process that died in a write, others wait for 3 s at most.
    /// let strategy = WriteThrough::new().hold(Duration::from_secs(3));
    /// ```
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.locks.hold = hold;
        self
    }

    /// How long a write waits for its lock before it fails. Default: 5 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::WriteThrough;
    /// let strategy = WriteThrough::new().wait(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.locks.wait = wait;
        self
    }
}

impl Sealed for WriteThrough {}

impl Strategy for WriteThrough {
    fn name(&self) -> &'static str {
        NAME
    }

    fn before_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async {
            new_values(NAME, change)?;
            Ok(Prepared { locks: take_all(self.locks, cx, change).await?, ..Prepared::default() })
        })
    }

    fn after_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
        prepared: Prepared,
        committed: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let done = match committed {
                true => cx.set_all(NAME, change).await,
                false => cx.remove_all(Step::Delete, change.keys()).await,
            };
            release_all(cx, change, prepared.locks).await;
            done
        })
    }
}
