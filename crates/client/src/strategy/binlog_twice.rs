//! The daemon removes keys when it reads the event, and once more when the commit is visible.

use super::{Sealed, Strategy};

/// `binlog-twice`: as `binlog`, and the daemon removes the keys once more when the commit is visible at every read source and a grace has
/// passed: `second_removal: when_visible` and `fill_grace`, its defaults.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: update the database. The daemon: `UNLINK`; waits for visibility and the grace; `UNLINK`.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write none but the update.
///
/// # The race that is left
/// A reader slower than the grace:
///
/// | reader | daemon | cache | database |
/// |---|---|---|---|
/// | GET: nothing, load: 1 | | – | 1 |
/// | | UNLINK | – | 2 |
/// | | *visible everywhere, and the grace*, UNLINK | – | 2 |
/// | SET 1 | | **1** | 2 |
///
/// # When it is enough
/// Where applications keep their own code for reading and filling, and from reading the row to `SET` takes less than the grace (1 s): the
/// one assumption. It needs no lease, so any language and library will do.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::{Client, strategy::BinlogTwice};
/// let client = Client::builder(redis).strategy(BinlogTwice).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct BinlogTwice;

impl Sealed for BinlogTwice {}

impl Strategy for BinlogTwice {
    fn name(&self) -> &'static str {
        "binlog-twice"
    }
}
