//! The strategies, one file each (variants of one beside it).

mod binlog;
mod binlog_lease;
mod binlog_twice;
mod cache_aside;
mod delayed_double_delete;
mod delete_first;
mod guarded;
mod lock_serialized;
mod logical_expiry;
mod ttl_only;
mod write_cache_then_db;
mod write_db_then_cache;
mod write_through;

use super::strategy::Strategy;

const ALL: &[&dyn Strategy] = &[
    &ttl_only::TtlOnly,
    &cache_aside::CacheAside,
    &delete_first::DeleteFirst,
    &write_db_then_cache::WriteDbThenCache,
    &write_cache_then_db::WriteCacheThenDb,
    &write_through::WriteThrough,
    &delayed_double_delete::DelayedDoubleDelete,
    &lock_serialized::LockSerialized { fenced: true },
    &lock_serialized::LockSerialized { fenced: false },
    &logical_expiry::LogicalExpiry,
    &binlog::Binlog,
    &binlog_twice::BinlogTwice,
    &binlog_lease::BinlogLease,
    &guarded::Guarded,
];

/// The strategies' names.
///
/// Example: see [`about`](super::about).
pub const NAMES: &[&str] = &[
    "ttl-only",
    "cache-aside",
    "delete-first",
    "write-db-then-cache",
    "write-cache-then-db",
    "write-through",
    "delayed-double-delete",
    "lock-serialized",
    "lock-serialized-unfenced",
    "logical-expiry",
    "binlog",
    "binlog-twice",
    "binlog-lease",
    "guarded",
];

pub(crate) fn find(name: &str) -> Option<&'static dyn Strategy> {
    ALL.iter().copied().find(|strategy| strategy.name() == name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_complete() {
        let names: Vec<_> = super::ALL.iter().map(|strategy| strategy.name()).collect();
        assert_eq!(names, super::NAMES);
    }
}
