//! Nothing removes anything.

use super::{Sealed, Strategy};

/// `ttl-only`: a write only writes the database; entries end with their TTL.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: update the database.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write none but the update.
///
/// # The race that is left
/// None is needed: every change is unseen until the TTL ends.
///
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | GET, load: 1, SET 1 | | 1 | 1 |
/// | | update to 2 | **1** | 2 |
/// | GET: 1, for a TTL | | **1** | 2 |
///
/// # When it is enough
/// Where the data may be as old as the TTL at any time: rankings, counts, texts that change at night. The bound is honest: nothing is stale
/// for longer than TTL and load, unless early refresh reads from a replica that lags.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::TtlOnly};
/// let client = Client::builder(redis).strategy(TtlOnly).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TtlOnly;

impl Sealed for TtlOnly {}

impl Strategy for TtlOnly {
    fn name(&self) -> &'static str {
        "ttl-only"
    }
}
