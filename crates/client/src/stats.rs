//! What a client has done, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the client was made, at one moment.
        ///
        /// ```no_run
        /// # fn example(client: rowbust_client::Client) {
        /// let stats = client.stats();
        /// println!("{} hits, {} misses, {} fills refused", stats.hits, stats.misses, stats.refused);
        /// # }
        /// ```
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads answered by the cache, *absent* included.
    hits,
    /// Reads that found nothing.
    misses,
    /// Loaders run.
    loads,
    /// Loaders that failed.
    load_failures,
    /// Loads shared with another caller of this process.
    shared,
    /// Fills accepted.
    fills,
    /// Fills refused: a writer was there since. The reader got its value all the same.
    refused,
    /// Reads that loaded without filling, as somebody else had the right to fill.
    busy,
    /// Entries refreshed before they expired.
    early,
    /// Loads refused by a limit or breaker.
    overloaded,
    /// Answers that may be stale, given instead.
    stale,
    /// Bytes that were no such value.
    foreign,
    /// Commands of reads that failed.
    cache_errors,
    /// Deletes that failed after a write.
    not_removed,
    /// Locks that were lost while they were held.
    locks_lost,
    /// Second deletes carried out.
    second_deletes,
    /// Pools of read sources that couldn't be read: the primary was used.
    unknown_pools,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
