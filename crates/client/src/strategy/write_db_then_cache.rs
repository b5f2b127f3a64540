//! Update the database, set the key.

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{
    Error, Step,
    change::Change,
    context::{Context, new_values},
};

/// `write-db-then-cache`: a write updates the database, then puts the new value into the cache.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: update the database, `SET` the new value ([`Change::value`]). If the update fails, `UNLINK` instead: it may have been
///   committed.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 1 and the update. No miss after a write.
///
/// # The race that is left
/// | writer A | writer B | cache | database |
/// |---|---|---|---|
/// | update to 1 | | – | 1 |
/// | | update to 2 | – | 2 |
/// | | SET 2 | 2 | 2 |
/// | SET 1 | | **1** | 2 |
///
/// And `cache-aside`'s race with a slow reader.
///
/// # When it is enough
/// Where each key has one writer at a time, reads of a fresh write must hit, and a value that is old for a TTL harms nobody.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::WriteDbThenCache};
/// let client = Client::builder(redis).strategy(WriteDbThenCache).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteDbThenCache;

const NAME: &str = "write-db-then-cache";

impl Sealed for WriteDbThenCache {}

impl Strategy for WriteDbThenCache {
    fn name(&self) -> &'static str {
        NAME
    }

    fn before_write<'a>(
        &'a self,
        _: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        // What is missing is said before there is a change.
        Box::pin(async { new_values(NAME, change).map(|_| Prepared::default()) })
    }

    fn after_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
        _: Prepared,
        committed: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            match committed {
                true => cx.set_all(NAME, change).await,
                false => cx.remove_all(Step::Delete, change.keys()).await,
            }
        })
    }
}
