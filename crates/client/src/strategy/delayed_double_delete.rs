//! Delete, update, and delete once more after a while.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Prepared, Sealed, Strategy};
use crate::{Error, Step, change::Change, commands::token, context::Context, stats::count};

/// `delayed-double-delete`: a write deletes the key, updates the database, and deletes the key once more after a delay. The second delete
/// is owed in Redis, so that it survives the process.
///
/// # Steps
/// - Read: `GET`; on a miss: load, `SET`.
/// - Write: note the second delete in Redis as owed (a sorted set by due time, Redis' clock), `UNLINK`, update the database, move its due
///   time to the delay from now. Any client of this strategy carries out what is due, strikes it out after the `UNLINK`, and takes up what
///   another one took and didn't finish. A process that dies anywhere after the first step still gets its second delete, at the latest
///   after [`DelayedDoubleDelete::update_within`] and the delay.
///
/// # Cost
/// A hit is 1 round trip, a miss 2 and the load, a write 3 and the update; later 2 in the background, and a look every second or less.
///
/// # The race that is left
/// A reader slower than the delay:
///
/// | reader | writer | cache | database |
/// |---|---|---|---|
/// | GET: nothing, load: 1 | | – | 1 |
/// | | owe, UNLINK, update to 2 | – | 2 |
/// | | *delay*, UNLINK | – | 2 |
/// | SET 1 | | **1** | 2 |
///
/// And between first and second delete, any read may bring the old value back, so that it is seen for the whole delay, every time.
/// A longer delay makes the first race rarer and the second one longer. A process that dies in an update longer than `update_within` and
/// the delay leaves the old value: what it owed was carried out before its commit.
///
/// # When it is enough
/// Where the old value may be seen for the delay after every write, and readers that are held up for longer are rare enough.
///
/// ```no_run
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use std::time::Duration;
/// use rowbust_client::{Client, strategy::DelayedDoubleDelete};
/// let strategy = DelayedDoubleDelete::new(Duration::from_millis(500));
/// let client = Client::builder(redis).strategy(strategy).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DelayedDoubleDelete {
    delay: Duration,
    update_within: Duration,
    list: String,
}

/// How long a process has to carry out what it took, before another one takes it.
const CLAIM: Duration = Duration::from_secs(5);
/// Taken at once.
const MOST: usize = 100;
/// What precedes the key in a member: a token, so that each write's debt is its own.
const TOKEN_LEN: usize = 32;

impl DelayedDoubleDelete {
    /// With this delay from the update to the second delete, an `update_within` of 30 s, and the list `rowbust:owed`.
    ///
    /// Example: see [`DelayedDoubleDelete`].
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay, update_within: Duration::from_secs(30), list: "rowbust:owed".to_owned() }
    }

    /// How long an update takes at most. Of a process that died in it, the second delete comes this and the delay after the first.
    /// Default: 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::DelayedDoubleDelete;
    /// // The database ends statements after 5 s.
    /// let strategy = DelayedDoubleDelete::new(Duration::from_millis(500)).update_within(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn update_within(mut self, time: Duration) -> Self {
        self.update_within = time;
        self
    }

    /// The key of the sorted set. Default: `rowbust:owed`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::strategy::DelayedDoubleDelete;
    /// // Two applications share a Redis; each carries out its own.
    /// let strategy = DelayedDoubleDelete::new(Duration::from_millis(500)).list("shop:owed");
    /// ```
    #[must_use]
    pub fn list(mut self, key: &str) -> Self {
        self.list = key.to_owned();
        self
    }

    async fn sweep(&self, cx: &Context) -> Result<Duration, Error> {
        let taken = cx.redis.take(&self.list, CLAIM, MOST).await?;
        for (member, score) in &taken.due {
            // A member of another form is none of ours, and is struck out.
            if let Some(key) = member.get(TOKEN_LEN..).and_then(|key| std::str::from_utf8(key).ok()) {
                cx.remove(Step::SecondDelete, key).await?;
                count(&cx.counters.second_deletes);
            } else {
                tracing::warn!(list = self.list, "an owed delete in an unknown form was struck out");
            }
            cx.redis.settle(&self.list, member, score).await?;
        }
        // A write that comes now is due in a delay at the earliest.
        let soon = self.delay.min(taken.next.unwrap_or(Duration::MAX));
        Ok(soon.clamp(Duration::from_millis(5), Duration::from_secs(1)))
    }
}

impl Sealed for DelayedDoubleDelete {}

impl Strategy for DelayedDoubleDelete {
    fn name(&self) -> &'static str {
        "delayed-double-delete"
    }

    fn before_write<'a>(
        &'a self,
        cx: &'a Context,
        change: &'a Change,
    ) -> BoxFuture<'a, Result<Prepared, Error>> {
        Box::pin(async {
            let member = |key: &str| [&token().to_hex(), key.as_bytes()].concat();
            let owed: Vec<Vec<u8>> = change.keys().map(member).collect();
            cx.redis.owe(&self.list, self.update_within + self.delay, &owed).await?;
            cx.remove_all(Step::Delete, change.keys()).await?;
            Ok(Prepared { owed, ..Prepared::default() })
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
            let owed = cx.redis.owe(&self.list, self.delay, &prepared.owed).await;
            // Else it comes all the same, later.
            owed.map_err(|source| Error::NotRemoved {
                keys: change.keys().map(str::to_owned).collect(),
                source: Box::new(source),
            })
        })
    }

    fn background(&self, cx: Arc<Context>) -> Option<BoxFuture<'static, ()>> {
        let strategy = self.clone();
        Some(Box::pin(async move {
            loop {
                let pause = strategy.sweep(&cx).await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "owed deletes can't be carried out now");
                    Duration::from_secs(1)
                });
                tokio::time::sleep(pause).await;
            }
        }))
    }
}
