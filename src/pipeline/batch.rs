//! Keys of one segment for one worker: an arena without duplicates, nothing allocated per key.
//!
//! May depend on nothing of ours.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// What is removed, borrowed from a [`KeyBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Removal<'a> {
    /// The cache key.
    pub key: &'a [u8],
    /// `Some`: `HDEL key field`; `None`: `UNLINK key`.
    pub field: Option<&'a [u8]>,
}

/// Where one key of a batch came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// End of the rows event in the segment's file.
    pub position: u64,
    /// Number of the row within the event, capped at 65535.
    pub row: u16,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key_end: u32,
    /// End of the field; equal to `key_end` when there is none.
    end: u32,
    position_delta: u32,
    row: u16,
    has_field: bool,
}

/// Removals in the order of their arrival, each once.
#[derive(Debug, Default)]
pub struct KeyBatch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// What `position_delta` counts from.
    base_position: u64,
    fields: u32,
}

/// The hash that chooses a key's worker and finds its duplicates. Fields don't count: all of one hash go one way.
pub fn hash_key(key: &[u8]) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

impl KeyBatch {
    /// Adds a removal unless it is there already; says whether it was added. `seen` belongs to this batch.
    /// `hash` is [`hash_key`] of the key.
    pub fn push(
        &mut self,
        seen: &mut HashTable<u32>,
        hash: u64,
        removal: Removal<'_>,
        place: RowPlace,
    ) -> bool {
        if seen.find(hash, |at| self.get(*at as usize) == Some(removal)).is_some() {
            return false;
        }
        if self.entries.is_empty() {
            self.base_position = place.position;
        }
        let field_len = removal.field.map_or(0, <[u8]>::len);
        let total = self.bytes.len() + removal.key.len() + field_len;
        // Batches are flushed by size long before: a place that doesn't fit would be a removal that is lost.
        assert!(total <= u32::MAX as usize, "batch of {total} bytes");
        let at = low32(self.entries.len());
        let end = low32(total);
        self.bytes.extend_from_slice(removal.key);
        self.bytes.extend_from_slice(removal.field.unwrap_or_default());
        self.fields += u32::from(removal.field.is_some());
        self.entries.push(Entry {
            key_end: end - low32(field_len),
            end,
            // Segments are far shorter than 4 GiB; a huge row saturates to a place near its own.
            position_delta: u32::try_from(place.position.saturating_sub(self.base_position))
                .unwrap_or(u32::MAX),
            row: place.row,
            has_field: removal.field.is_some(),
        });
        // The table stores places only, so the hash is made anew when it grows.
        let (bytes, entries) = (&self.bytes, &self.entries);
        seen.insert_unique(hash, at, |at| hash_key(key_of(bytes, entries, *at as usize)));
        true
    }

    /// The removal at `at`.
    pub fn get(&self, at: usize) -> Option<Removal<'_>> {
        let entry = self.entries.get(at)?;
        let key = key_of(&self.bytes, &self.entries, at);
        let field = entry.has_field.then(|| &self.bytes[entry.key_end as usize..entry.end as usize]);
        Some(Removal { key, field })
    }

    /// Where the removal at `at` came from.
    pub fn place(&self, at: usize) -> Option<RowPlace> {
        let entry = self.entries.get(at)?;
        Some(RowPlace { position: self.base_position + u64::from(entry.position_delta), row: entry.row })
    }

    /// All removals, in order.
    pub fn iter(&self) -> impl Iterator<Item = Removal<'_>> {
        (0..self.entries.len()).filter_map(|at| self.get(at))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any removal is an `HDEL`.
    pub fn has_fields(&self) -> bool {
        self.fields > 0
    }

    /// Bytes that it takes in memory.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Gives back what was reserved and not used, before it waits for its second removal.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }
}

/// For lengths that were compared with `u32::MAX` before.
fn low32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn key_of<'a>(bytes: &'a [u8], entries: &[Entry], at: usize) -> &'a [u8] {
    let start =
        at.checked_sub(1).and_then(|before| entries.get(before)).map_or(0, |entry| entry.end as usize);
    let end = entries.get(at).map_or(start, |entry| entry.key_end as usize);
    &bytes[start..end]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A batch is a set in the order of first arrival, and keeps where each came from.
        #[test]
        fn is_an_ordered_set(
            removals in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..4), prop::option::of(prop::collection::vec(any::<u8>(), 0..2)), 0u32..1000),
                0..80,
            )
        ) {
            let mut batch = KeyBatch::default();
            let mut seen = HashTable::new();
            let mut model: Vec<(Vec<u8>, Option<Vec<u8>>, u64)> = Vec::new();
            let mut position = 5_000_000_000u64;
            for (key, field, step) in removals {
                position += u64::from(step);
                let removal = Removal { key: &key, field: field.as_deref() };
                let fresh = !model.iter().any(|(k, f, _)| *k == key && *f == field);
                let added = batch.push(&mut seen, hash_key(&key), removal, RowPlace { position, row: 7 });
                prop_assert_eq!(added, fresh);
                if fresh {
                    model.push((key, field, position));
                }
            }
            prop_assert_eq!(batch.len(), model.len());
            for (at, (key, field, position)) in model.iter().enumerate() {
                let got = batch.get(at).unwrap();
                prop_assert_eq!((got.key, got.field), (key.as_slice(), field.as_deref()));
                prop_assert_eq!(batch.place(at).unwrap(), RowPlace { position: *position, row: 7 });
            }
        }
    }
}
