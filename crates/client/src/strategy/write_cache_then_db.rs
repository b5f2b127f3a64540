//! Set the key, update the database.

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{Error, Step, change::Change, context::Context};

/// `write-cache-then-db`: a write puts the new value into the cache, then updates the database.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: `SET` the new value ([`Change::value`]), update the database. If the update fails, `UNLINK`.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 1 and the update.
///
/// # The race that is left
/// | writer A | writer B | cache | database |
/// |---|---|---|---|
/// | SET 1 | | 1 | 0 |
/// | | SET 2 | 2 | 0 |
/// | | update to 2 | 2 | 2 |
/// | update to 1 | | **2** | 1 |
///
/// An eviction between the two steps lets a reader bring the old value back. A process that dies between its steps leaves a value that
/// the database never had. And readers see values before they are committed.
///
/// # When it is enough
/// Never for what the database is the truth of.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::WriteCacheThenDb};
/// let client = Client::builder(redis).strategy(WriteCacheThenDb).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteCacheThenDb;

const NAME: &str = "write-cache-then-db";

impl Sealed for WriteCacheThenDb {}

impl Strategy for WriteCacheThenDb {
    fn name(&self) -> &'static str {
        NAME
    }

    fn before_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async {
            cx.set_all(NAME, change).await?;
            Ok(Prepared::default())
        })
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
                true => Ok(()),
                false => cx.remove_all(Step::Delete, change.keys()).await,
            }
        })
    }
}
