//! Leases, and one removal when the event is read.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    Acquired, Sealed, Strategy,
    guarded::{Leases, pool_key},
};
use crate::{Error, context::Context, source::ReadSource};

/// `binlog-lease`: fills need a lease, and the daemon removes once, when the event arrives (`second_removal: never`). For comparison: it shows
/// that leases alone aren't enough.
///
/// # Steps
/// - Read: as [`Guarded`](super::Guarded).
/// - Write: update the database. The daemon: `UNLINK`.
///
/// # Cost
/// As [`Guarded`](super::Guarded).
///
/// # The race that is left
/// The visibility window, as for `binlog`: a lease taken after the removal is as good as any, and the row isn't visible yet.
///
/// | reader | daemon | cache | row as readers see it |
/// |---|---|---|---|
/// | | | 1 | 1; the commit of 2 is in the binlog |
/// | | UNLINK | – | 1 |
/// | GET: nothing, LEASE: granted, load: 1 | | lease | 1 |
/// | FILL 1: accepted | | **1** | 2 |
///
/// # When it is enough
/// Never: `guarded` costs readers the same.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::BinlogLease};
/// let client = Client::builder(redis).strategy(BinlogLease::new()).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct BinlogLease {
    leases: Leases,
}

impl BinlogLease {
    /// Leases as those of [`Guarded::new`](super::Guarded::new).
    ///
    /// ```
    /// use rowbust_client::strategy::{BinlogLease, Strategy};
    /// assert_eq!(BinlogLease::new().name(), "binlog-lease");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Guarded::hold`](super::Guarded::hold). Default: 5 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::BinlogLease;
    /// let strategy = BinlogLease::new().hold(Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.leases.hold = hold;
        self
    }

    /// As [`Guarded::source_name`](super::Guarded::source_name). Default: `main`.
    ///
    /// ```
    /// use rowbust_client::strategy::BinlogLease;
    /// let strategy = BinlogLease::new().source_name("shop");
    /// ```
    #[must_use]
    pub fn source_name(mut self, name: &str) -> Self {
        self.leases.pool = Some(pool_key(name));
        self
    }
}

impl Sealed for BinlogLease {}

impl Strategy for BinlogLease {
    fn name(&self) -> &'static str {
        "binlog-lease"
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
