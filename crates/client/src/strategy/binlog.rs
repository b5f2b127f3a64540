//! The daemon removes keys when it reads the event.

use super::{Sealed, Strategy};

/// `binlog`: writers only write the database; a follower of the binlog removes the keys once, when the event arrives. What Canal's users do,
/// and what rowbust does under `second_removal: never`.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: update the database. The follower: `UNLINK`.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write none but the update. No write is forgotten, whoever makes it.
///
/// # The race that is left
/// The server sends the event *before* the row is visible to readers:
///
/// | reader | follower | cache | row as readers see it |
/// |---|---|---|---|
/// | | | 1 | 1; the commit of 2 is in the binlog |
/// | | UNLINK | – | 1 |
/// | GET: nothing, load: 1, SET 1 | | 1 | 1 |
/// | | | **1** | 2 |
///
/// The window is short on an idle server, and as long as the acknowledgement with semi-sync `AFTER_SYNC`; a load from a replica
/// that lags makes it as long as the lag. And `cache-aside`'s race with a slow reader.
///
/// # When it is enough
/// Where a value that is old for a TTL harms nobody; it misses less than `cache-aside`, for it sees every writer.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::Binlog};
/// let client = Client::builder(redis).strategy(Binlog).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Binlog;

impl Sealed for Binlog {}

impl Strategy for Binlog {
    fn name(&self) -> &'static str {
        "binlog"
    }
}
