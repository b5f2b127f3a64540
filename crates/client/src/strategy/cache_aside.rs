//! Update the database, delete the key.

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{Error, Step, change::Change, context::Context};

/// `cache-aside`: a write updates the database, then deletes the key; a reader that misses loads and sets. What most services do.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: update the database, `UNLINK`.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 1 and the update.
///
/// # The race that is left
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | GET: nothing | | – | 1 |
/// | load: 1 | | – | 1 |
/// | | update to 2 | – | 2 |
/// | | UNLINK | – | 2 |
/// | SET 1 | | **1** | 2 |
///
/// The old value stays until its TTL ends. It takes a reader that is held up between load and fill: a collected heap, a slow network, a
/// load from a replica that lags. And a writer that dies between its two steps, or whose `UNLINK` fails, leaves the old value too.
///
/// # When it is enough
/// Where a value that is old for a TTL harms nobody, and the TTL is short.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::CacheAside};
/// let client = Client::builder(redis).strategy(CacheAside).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheAside;

impl Sealed for CacheAside {}

impl Strategy for CacheAside {
    fn name(&self) -> &'static str {
        "cache-aside"
    }

    fn after_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
        _: Prepared,
        _: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(cx.remove_all(Step::Delete, change.keys()))
    }
}
