//! What a client has done, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($(#[$meta:meta])* pub struct $stats:ident { $($(#[$doc:meta])* pub $name:ident: u64,)* }) => {
        $(#[$meta])*
        pub struct $stats { $($(#[$doc])* pub $name: u64,)* }

        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        impl Counters {
            pub(crate) fn read(&self) -> $stats {
                $stats { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Counts since the client was made, at one moment; all clones of a client count together. They only grow.
    ///
    /// ```no_run
    /// # fn example(client: rowbust_client::Client) {
    /// use rowbust_client::Stats;
    /// /// Which part of the reads the cache has answered.
    /// fn hit_ratio(stats: Stats) -> f64 {
    ///     stats.hits as f64 / (stats.hits + stats.misses).max(1) as f64
    /// }
    /// println!("{:.1} % hits", 100.0 * hit_ratio(client.stats()));
    /// # }
    /// ```
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Stats {
        /// Reads answered by the cache, *absent* included.
        pub hits: u64,
        /// Reads that found nothing.
        pub misses: u64,
        /// Loaders run.
        pub loads: u64,
        /// Loaders that failed.
        pub load_failures: u64,
        /// Loads shared with another caller of this process.
        pub shared: u64,
        /// Fills accepted.
        pub fills: u64,
        /// Fills refused: a writer was there since. The reader got its value all the same.
        pub refused: u64,
        /// Reads that loaded without filling, as somebody else had the right to fill.
        pub busy: u64,
        /// Entries refreshed before they expired.
        pub early: u64,
        /// Loads refused by a limit or breaker.
        pub overloaded: u64,
        /// Answers that may be stale, given instead.
        pub stale: u64,
        /// Bytes that were no such value.
        pub foreign: u64,
        /// Commands of reads that failed.
        pub cache_errors: u64,
        /// Deletes that failed after a write.
        pub not_removed: u64,
        /// Locks that were lost while they were held.
        pub locks_lost: u64,
        /// Second deletes carried out.
        pub second_deletes: u64,
        /// Pools of read sources that couldn't be read: the primary was used.
        pub unknown_pools: u64,
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
