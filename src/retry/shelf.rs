//! Where a record waits: with those of the same target, tier and kind of work, so that none waits behind another's trouble.
//!
//! May depend on `config` (the policy) and [`super::record`].

use std::{sync::Arc, time::Duration};

use redb::TableDefinition;

use super::Record;
use crate::config::RetryPolicy;

/// (due, sequence number, first failure). The first failure is part of the key, so that a record that can't be decoded can be
/// removed whole.
pub(super) type PendingKey = (u64, u64, u64);
pub(super) type Pending<'a> = TableDefinition<'a, PendingKey, &'static [u8]>;

/// A place for records that are handled alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shelf {
    pub(super) target: String,
    /// The second tier.
    pub(super) second: bool,
    /// Operations that may remove many keys, and take long.
    pub(super) wide: bool,
    /// Of its table.
    name: String,
}

impl Shelf {
    pub(super) fn of(record: &Record, policy: RetryPolicy) -> Self {
        Self::new(&record.target, policy.is_second(record.attempt), record.op.is_wide())
    }

    pub(super) fn new(target: &str, second: bool, wide: bool) -> Self {
        let kind = match (second, wide) {
            (false, false) => "pending.1",
            (false, true) => "pending.1w",
            (true, false) => "pending.2",
            (true, true) => "pending.2w",
        };
        Self { target: target.to_owned(), second, wide, name: format!("{kind}:{target}") }
    }

    /// The shelf of a table's name; `None`: it is another kind of table.
    pub(super) fn of_table(name: &str) -> Option<Self> {
        let (kind, target) = name.split_once(':')?;
        let (second, wide) = match kind {
            "pending.1" => (false, false),
            "pending.1w" => (false, true),
            "pending.2" => (true, false),
            "pending.2w" => (true, true),
            _ => return None,
        };
        Some(Self::new(target, second, wide))
    }

    pub(super) fn pending(&self) -> Pending<'_> {
        Pending::new(&self.name)
    }

    /// The delay of its tier.
    pub(super) fn delay(&self, policy: RetryPolicy) -> Duration {
        policy.second.filter(|_| self.second).unwrap_or(policy.first).delay
    }
}

/// Where a pending record stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) shelf: Arc<Shelf>,
    pub(super) due_ms: u64,
    pub(super) seq: u64,
    pub(super) first_failed_ms: u64,
}

impl Place {
    pub(super) fn new(shelf: &Arc<Shelf>, (due_ms, seq, first_failed_ms): PendingKey) -> Self {
        Self { shelf: Arc::clone(shelf), due_ms, seq, first_failed_ms }
    }

    pub(super) fn key(&self) -> PendingKey {
        (self.due_ms, self.seq, self.first_failed_ms)
    }
}
