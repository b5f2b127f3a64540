//! The keys of the running transaction that earlier segments have handed on.
//!
//! Guarantees: says only of a key that was added that it was, byte by byte; memory is bounded ([`LIMIT`]), and keys that come again
//! and again stay when it is reached. May depend on `batch`.

use hashbrown::HashTable;

use super::batch::Removal;

/// Bytes of keys that are remembered.
const LIMIT: usize = 512 << 10;
/// And their number: what a place costs.
const ENTRIES: usize = 16 << 10;

/// A bounded set of removals; empty, and without memory, for transactions that fit into one segment.
#[derive(Debug, Default)]
pub(super) struct Handed {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    places: HashTable<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    start: u32,
    key_len: u32,
    /// `None`: the whole key.
    field_len: Option<u32>,
    lane: u32,
    /// It was asked for since the last clearing.
    hit: bool,
}

impl Entry {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &bytes[start..start + self.key_len as usize]
    }

    fn field<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let start = self.start as usize + self.key_len as usize;
        self.field_len.map(|len| &bytes[start..start + len as usize])
    }

    fn is(&self, bytes: &[u8], lane: usize, removal: Removal<'_>) -> bool {
        self.lane as usize == lane && self.key(bytes) == removal.key && self.field(bytes) == removal.field
    }
}

impl Handed {
    /// Whether anything is remembered.
    pub(super) fn is_used(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Forgets all, and gives the memory back.
    pub(super) fn clear(&mut self) {
        if self.is_used() {
            *self = Self::default();
        }
    }

    /// `hash` is [`super::batch::hash_key`] of the key.
    pub(super) fn contains(&mut self, lane: usize, hash: u64, removal: Removal<'_>) -> bool {
        let Self { bytes, entries, places } = self;
        let found = places
            .find(hash, |at| entries.get(*at as usize).is_some_and(|entry| entry.is(bytes, lane, removal)));
        match found.and_then(|at| entries.get_mut(*at as usize)) {
            Some(entry) => {
                entry.hit = true;
                true
            }
            None => false,
        }
    }

    /// Remembers a removal, unless it is too large for it.
    pub(super) fn add(&mut self, lane: usize, hash: u64, removal: Removal<'_>) {
        let field = removal.field.unwrap_or_default();
        let len = removal.key.len() + field.len();
        // Keys are at most 64 KiB; few of that size fit.
        if len > LIMIT / 8 {
            return;
        }
        if self.bytes.len() + len > LIMIT || self.entries.len() == ENTRIES {
            self.make_room();
        }
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let entry = Entry {
            hash,
            start: small(self.bytes.len()),
            key_len: small(removal.key.len()),
            field_len: removal.field.map(|field| small(field.len())),
            lane: small(lane),
            hit: false,
        };
        self.bytes.extend_from_slice(removal.key);
        self.bytes.extend_from_slice(field);
        self.insert(entry);
    }

    fn insert(&mut self, entry: Entry) {
        let at = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(entry);
        let entries = &self.entries;
        let hash_of = |at: &u32| entries.get(*at as usize).map_or(0, |entry| entry.hash);
        self.places.insert_unique(entry.hash, at, hash_of);
    }

    /// Keeps what came again, if that is not more than half.
    fn make_room(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let entries = std::mem::take(&mut self.entries);
        self.places.clear();
        let hit = || entries.iter().filter(|entry| entry.hit);
        let size: usize = hit().map(|e| e.key_len as usize + e.field_len.map_or(0, |len| len as usize)).sum();
        if size > LIMIT / 2 || hit().count() > ENTRIES / 2 {
            return;
        }
        for entry in hit() {
            let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(entry.key(&bytes));
            self.bytes.extend_from_slice(entry.field(&bytes).unwrap_or_default());
            self.insert(Entry { start, hit: false, ..*entry });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn removal(key: &str) -> Removal<'_> {
        Removal { key: key.as_bytes(), field: None }
    }

    #[test]
    fn what_comes_again_and_again_stays_and_memory_is_bounded() {
        let mut handed = Handed::default();
        assert!(!handed.is_used());
        handed.add(0, 1, removal("hot"));
        for n in 0..200_000_u64 {
            assert!(handed.contains(0, 1, removal("hot")), "{n}");
            handed.add(0, n, removal(&format!("product:{n}")));
            assert!(handed.bytes.len() <= LIMIT && handed.entries.len() <= ENTRIES);
        }
        handed.clear();
        assert!(!handed.is_used() && handed.bytes.capacity() == 0);
    }

    #[test]
    fn all_hot_is_forgotten_rather_than_kept() {
        let mut handed = Handed::default();
        for n in 0..100_000_u64 {
            let key = format!("k:{n}");
            handed.add(0, n, removal(&key));
            assert!(handed.contains(0, n, removal(&key)));
        }
        assert!(handed.entries.len() <= ENTRIES);
    }

    proptest! {
        /// Never says of a removal that wasn't added that it was, also where hashes agree.
        #[test]
        fn is_exact(
            all in prop::collection::vec(("[ab]{0,3}", prop::option::of("[ab]{0,2}"), 0_usize..2), 0..60)
        ) {
            let mut handed = Handed::default();
            let mut model = HashSet::new();
            for (key, field, lane) in all {
                // As bad as can be.
                let hash = key.len() as u64 % 2;
                let removal = Removal { key: key.as_bytes(), field: field.as_deref().map(str::as_bytes) };
                let known = model.contains(&(key.clone(), field.clone(), lane));
                prop_assert_eq!(handed.contains(lane, hash, removal), known);
                handed.add(lane, hash, removal);
                model.insert((key.clone(), field.clone(), lane));
            }
        }
    }
}
