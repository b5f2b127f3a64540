//! Keys of XA transactions that are prepared and not committed yet.
//!
//! Guarantees: the checkpoint stays before the begin of the oldest one, by a ticket of the frontier, until what is owed at its end is
//! acknowledged. The keys take at most a bound of their own, apart from the budget of what is on its way (which would never be
//! freed while reading waits for it): beyond, the tables are remembered instead of the keys. May depend on `batch` and `frontier`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::HashTable;
use rowbust_binlog::{TableMap, XidBuf};

use super::{
    Done,
    batch::{KeyBatch, Removal, RowPlace, hash_key},
    frontier::Ticket,
};
use crate::source::Scope;

/// What one prepared transaction takes besides its keys.
const OVERHEAD: usize = 512;

/// By XID: what is owed when it is committed.
#[derive(Debug)]
pub struct PreparedKeys {
    limit: usize,
    used: usize,
    running: Option<Kept>,
    by_xid: HashMap<Vec<u8>, Held>,
}

/// What one transaction changed.
#[derive(Debug, Default)]
pub struct Kept {
    /// By way: see [`super::Assembler::way`].
    pub keys: Vec<KeyBatch>,
    seen: Vec<HashTable<u32>>,
    /// Tables whose keys aren't kept.
    pub wide: Vec<Scope>,
    tables: Vec<Scope>,
    /// There are too many keys.
    overflow: bool,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    kept: Kept,
    tickets: Vec<Ticket<Done>>,
}

impl Kept {
    fn widen(&mut self, scope: &Scope) {
        if !self.wide.iter().any(|known| known.includes(scope)) {
            self.wide.push(scope.clone());
        }
    }

    /// The tables instead of the keys.
    fn give_up(&mut self) {
        self.overflow = true;
        self.keys.clear();
        self.seen.clear();
        self.bytes = 0;
        for table in std::mem::take(&mut self.tables) {
            self.widen(&table);
        }
    }
}

/// The next start begins before what is prepared now.
impl Drop for PreparedKeys {
    fn drop(&mut self) {
        for held in std::mem::take(&mut self.by_xid).into_values() {
            held.tickets.into_iter().for_each(Ticket::keep);
        }
    }
}

impl PreparedKeys {
    /// `limit`: bytes of the keys of all.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: 0, running: None, by_xid: HashMap::new() }
    }

    /// The running transaction may be prepared.
    pub fn start(&mut self) {
        self.running = Some(Kept::default());
    }

    /// Whether [`PreparedKeys::push`] is to be called.
    pub fn is_keeping(&self) -> bool {
        self.running.is_some()
    }

    /// Rows of this table follow.
    pub fn table(&mut self, table: &TableMap) {
        let Some(kept) = &mut self.running else { return };
        let known = |scope: &Scope| matches!(scope, Scope::Table { schema, table: t } if *schema == table.schema && *t == table.table);
        if kept.overflow {
            kept.widen(&Scope::Table { schema: table.schema.clone(), table: table.table.clone() });
        } else if !kept.tables.iter().any(known) {
            kept.tables.push(Scope::Table { schema: table.schema.clone(), table: table.table.clone() });
        }
    }

    /// A key of the running transaction.
    pub fn push(&mut self, way: usize, removal: Removal<'_>) {
        let Some(kept) = self.running.as_mut().filter(|kept| !kept.overflow) else { return };
        if kept.keys.len() <= way {
            kept.keys.resize_with(way + 1, KeyBatch::default);
            kept.seen.resize_with(way + 1, HashTable::new);
        }
        if let (Some(keys), Some(seen)) = (kept.keys.get_mut(way), kept.seen.get_mut(way)) {
            let before = keys.footprint();
            keys.push(seen, hash_key(removal.key), removal, RowPlace { position: 0, row: 0 });
            kept.bytes += keys.footprint() - before;
        }
        if self.used + kept.bytes > self.limit {
            kept.give_up();
        }
    }

    /// All keys of a scope are owed for the running transaction.
    pub fn widen(&mut self, scope: &Scope) {
        if let Some(kept) = &mut self.running {
            kept.widen(scope);
        }
    }

    /// It is prepared. `ticket` is of a place before it.
    pub fn prepared(&mut self, xid: &XidBuf, ticket: Option<Ticket<Done>>) {
        let mut kept = self.running.take().unwrap_or_default();
        kept.seen = Vec::new();
        kept.keys.iter_mut().for_each(KeyBatch::shrink);
        kept.bytes = kept.keys.iter().map(KeyBatch::footprint).sum::<usize>() + OVERHEAD;
        self.used += kept.bytes;
        let mut held = Held { kept, tickets: ticket.into_iter().collect() };
        if let Some(before) = self.by_xid.remove(&xid.key()) {
            // An id that is prepared twice: its end was not read. What it changed is owed at this one's, at the latest.
            self.used -= before.kept.bytes;
            held.tickets.extend(before.tickets);
            before.kept.wide.iter().chain(&before.kept.tables).for_each(|scope| held.kept.widen(scope));
        }
        self.by_xid.insert(xid.key(), held);
    }

    /// The running transaction ends, prepared or not.
    pub fn end(&mut self) {
        self.running = None;
    }

    /// What is owed for it, and the tickets to settle when that is acknowledged.
    pub fn finish(&mut self, xid: &XidBuf) -> Option<(Kept, Vec<Ticket<Done>>)> {
        let held = self.by_xid.remove(&xid.key())?;
        self.used -= held.kept.bytes;
        Some((held.kept, held.tickets))
    }

    /// How many are prepared.
    pub fn len(&self) -> usize {
        self.by_xid.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_xid.is_empty()
    }
}

/// Tickets of places further back that are settled with the last batch of a segment.
#[derive(Debug)]
pub struct Riders {
    left: AtomicUsize,
    tickets: Mutex<Vec<Ticket<Done>>>,
}

impl Riders {
    /// With a segment of so many batches.
    pub fn new(tickets: Vec<Ticket<Done>>, batches: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(batches), tickets: Mutex::new(tickets) })
    }

    /// One of the batches is settled.
    pub fn settle_one(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let tickets = std::mem::take(&mut *self.tickets.lock().unwrap_or_else(PoisonError::into_inner));
            tickets.into_iter().for_each(Ticket::settle);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pipeline::frontier::Frontier;

    fn xid(text: &str) -> XidBuf {
        XidBuf::in_statement(text.as_bytes()).unwrap()
    }

    fn key(n: u32) -> Vec<u8> {
        format!("product:{n}").into_bytes()
    }

    #[test]
    fn keys_come_back_once() {
        let mut prepared = PreparedKeys::new(1 << 20);
        let a = xid("XA COMMIT X'61',X'',1");
        prepared.push(0, Removal { key: b"not in one", field: None });
        prepared.start();
        for n in [1, 2, 1] {
            prepared.push(1, Removal { key: &key(n), field: None });
        }
        prepared.prepared(&a, None);
        prepared.end();
        // Rolled back before it was prepared.
        prepared.start();
        prepared.push(1, Removal { key: &key(9), field: None });
        prepared.end();
        assert_eq!(prepared.len(), 1);
        let (kept, _) = prepared.finish(&a).unwrap();
        let keys: Vec<_> = kept.keys.iter().flat_map(KeyBatch::iter).map(|r| r.key.to_vec()).collect();
        assert_eq!(keys, [key(1), key(2)]);
        assert!(prepared.finish(&a).is_none() && prepared.is_empty());
        assert_eq!(prepared.used, 0);
    }

    #[test]
    fn too_many_keys_become_their_tables() {
        let mut prepared = PreparedKeys::new(64 << 10);
        let a = xid("XA COMMIT X'61'");
        prepared.start();
        let scope = Scope::Table { schema: "shop".into(), table: "t".into() };
        prepared.running.as_mut().unwrap().tables.push(scope.clone());
        for n in 0..100_000 {
            prepared.push(0, Removal { key: &key(n), field: None });
        }
        prepared.prepared(&a, None);
        assert!(prepared.used <= OVERHEAD);
        let (kept, _) = prepared.finish(&a).unwrap();
        assert_eq!(kept.wide, [scope]);
        assert!(kept.keys.is_empty());
    }

    #[test]
    fn the_frontier_waits_for_the_end_of_what_is_prepared() {
        let frontier: Frontier<Done> = Frontier::default();
        let held = frontier.open(1, Done::default()).pop().unwrap();
        let commit = frontier.open(2, Done::default());
        let riders = Riders::new(vec![held], 2);
        for ticket in commit {
            assert!(frontier.drain_done().is_none());
            ticket.settle();
            riders.settle_one();
        }
        assert!(frontier.drain_done().is_some());
        // Still prepared at the end: nothing is lost, and nothing else is waited for.
        let mut prepared = PreparedKeys::new(1 << 20);
        prepared.start();
        prepared.prepared(&xid("XA PREPARE X'61'"), frontier.open(1, Done::default()).pop());
        assert_eq!(frontier.stats().open, 1);
        drop(prepared);
        let stats = frontier.stats();
        assert_eq!((stats.open, stats.lost), (0, 0));
        // Dropped before the last one: never done.
        let held = frontier.open(1, Done::default()).pop().unwrap();
        let riders = Riders::new(vec![held], 2);
        riders.settle_one();
        drop(riders);
        assert_eq!(frontier.stats().lost, 1);
    }
}
