//! Delete the key, update the database.

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{Error, Step, change::Change, context::Context};

/// `delete-first`: a write deletes the key, then updates the database.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: `UNLINK`, update the database. If the `UNLINK` fails, there is no update.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 1 and the update.
///
/// # The race that is left
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | | UNLINK | – | 1 |
/// | GET: nothing, load: 1 | | – | 1 |
/// | SET 1 | | 1 | 1 |
/// | | update to 2 | **1** | 2 |
///
/// It needs no slow reader: any read between the two steps leaves the old value until its TTL ends, so hot keys nearly always lose.
///
/// # When it is enough
/// Hardly ever; `cache-aside` costs the same and is better. What it has over that: a process that dies between the steps leaves nothing
/// stale.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::DeleteFirst};
/// let client = Client::builder(redis).strategy(DeleteFirst).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteFirst;

impl Sealed for DeleteFirst {}

impl Strategy for DeleteFirst {
    fn name(&self) -> &'static str {
        "delete-first"
    }

    fn before_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async {
            cx.remove_all(Step::Delete, change.keys()).await?;
            Ok(Prepared::default())
        })
    }
}
