//! The disk queue's tables: what one transaction writes, the sizes, and how an older schema is brought up to date.
//!
//! What waits stands on *shelves*: one table for each target, tier and kind of work, by due time. So a target that is down is passed
//! over without reading what it is owed, and a tier's due times only grow. Beside them stands one table for each target by first
//! failure. May depend on [`super::shelf`] and [`super::codec`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata as _, Table, TableDefinition, TableError,
    WriteTransaction,
};

use super::{
    Record, codec,
    shelf::{Pending, PendingKey, Place, Shelf},
};
use crate::config::RetryPolicy;

/// (first failure, sequence number) of a target's pending ones: its head is the oldest.
pub(super) type Age<'a> = TableDefinition<'a, (u64, u64), ()>;
type PendingTable<'t> = Table<'t, PendingKey, &'static [u8]>;
type AgeTable<'t> = Table<'t, (u64, u64), ()>;
const AGE_PREFIX: &str = "age:";
/// Of schema 1.
pub(super) const OLD_PENDING: Pending<'_> = TableDefinition::new("pending");
pub(super) const OLD_AGE: Age<'_> = TableDefinition::new("age");
/// Dead letters by sequence number.
pub(super) const DEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead");

/// Sizes after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// By target: how many wait, and the oldest first failure among them. None that is empty.
    pub(super) pending: BTreeMap<String, (u64, u64)>,
    pub(super) dead: u64,
}

/// The tables that one transaction writes to, opened when first needed.
pub(super) struct Tables<'t> {
    txn: &'t WriteTransaction,
    policy: RetryPolicy,
    pending: BTreeMap<Arc<Shelf>, PendingTable<'t>>,
    age: BTreeMap<String, AgeTable<'t>>,
    shelves: &'t mut BTreeSet<Arc<Shelf>>,
}

impl<'t> Tables<'t> {
    pub(super) fn new(
        txn: &'t WriteTransaction,
        policy: RetryPolicy,
        shelves: &'t mut BTreeSet<Arc<Shelf>>,
    ) -> Self {
        Self { txn, policy, pending: BTreeMap::new(), age: BTreeMap::new(), shelves }
    }

    fn of(&mut self, shelf: &Arc<Shelf>) -> Result<(&mut PendingTable<'t>, &mut AgeTable<'t>), redb::Error> {
        if !self.pending.contains_key(shelf) {
            self.pending.insert(Arc::clone(shelf), self.txn.open_table(shelf.pending())?);
            self.shelves.insert(Arc::clone(shelf));
        }
        if !self.age.contains_key(&shelf.target) {
            let name = age_table(&shelf.target);
            self.age.insert(shelf.target.clone(), self.txn.open_table(Age::new(&name))?);
        }
        match (self.pending.get_mut(shelf), self.age.get_mut(&shelf.target)) {
            (Some(pending), Some(age)) => Ok((pending, age)),
            _ => Err(redb::Error::Corrupted("a table vanished".into())),
        }
    }

    pub(super) fn add(&mut self, seq: u64, record: &Record) -> Result<(), redb::Error> {
        let shelf = Shelf::of(record, self.policy);
        // Known ones are shared.
        let shelf = self.shelves.get(&shelf).cloned().unwrap_or_else(|| Arc::new(shelf));
        let (pending, age) = self.of(&shelf)?;
        let key = (record.not_before_ms, seq, record.first_failed_ms);
        pending.insert(key, codec::encode(record).as_slice())?;
        age.insert((record.first_failed_ms, seq), ())?;
        Ok(())
    }

    pub(super) fn remove(&mut self, place: &Place) -> Result<(), redb::Error> {
        let (pending, age) = self.of(&place.shelf)?;
        pending.remove(place.key())?;
        age.remove((place.first_failed_ms, place.seq))?;
        Ok(())
    }
}

fn age_table(target: &str) -> String {
    format!("{AGE_PREFIX}{target}")
}

/// Brings what waits in a file of schema 1 to its shelves. What can't be decoded goes where no target is: there it is found when it
/// is due. Returns how many records there were.
pub(super) fn shelve(txn: &WriteTransaction, policy: RetryPolicy) -> Result<u64, redb::Error> {
    let mut shelves = BTreeSet::new();
    let mut moved = 0;
    {
        let old = txn.open_table(OLD_PENDING)?;
        let mut tables = Tables::new(txn, policy, &mut shelves);
        for entry in old.range::<PendingKey>(..)? {
            let (key, value) = entry?;
            let shelf = match codec::decode(value.value()) {
                Ok(record) => Shelf::of(&record, policy),
                Err(_) => Shelf::new("", false, false),
            };
            let (pending, age) = tables.of(&Arc::new(shelf))?;
            let (_, seq, first_failed_ms) = key.value();
            pending.insert(key.value(), value.value())?;
            age.insert((first_failed_ms, seq), ())?;
            moved += 1;
        }
    }
    txn.delete_table(OLD_PENDING)?;
    txn.delete_table(OLD_AGE)?;
    Ok(moved)
}

/// `None`: nothing was ever written to it.
pub(super) fn existing<T>(opened: Result<T, TableError>) -> Result<Option<T>, redb::Error> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn level(txn: &ReadTransaction, shelves: &BTreeSet<Arc<Shelf>>) -> Result<Level, redb::Error> {
    let mut level = Level { pending: BTreeMap::new(), dead: txn.open_table(DEAD)?.len()? };
    let targets: BTreeSet<&str> = shelves.iter().map(|shelf| shelf.target.as_str()).collect();
    for target in targets {
        let Some(age) = existing(txn.open_table(Age::new(&age_table(target))))? else { continue };
        if let Some((oldest, _)) = age.first()? {
            level.pending.insert(target.to_owned(), (age.len()?, oldest.value().0));
        }
    }
    Ok(level)
}
