//! Which of many prefixes a key begins with.
//!
//! Guarantees: exact, byte for byte (see the model in the tests). May depend on `flush`.

use crate::flush::common_glob;

/// Prefixes of which none begins with another: what is under a longer one is under the shorter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<Vec<u8>>);

impl Prefixes {
    /// Of these; duplicates, and what begins with another, are dropped.
    pub fn new<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut all: Vec<&[u8]> = all.into_iter().collect();
        all.sort_unstable();
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for prefix in all {
            // Sorted: whatever begins with it follows directly.
            if !kept.last().is_some_and(|last| prefix.starts_with(last)) {
                kept.push(prefix.to_vec());
            }
        }
        Self(kept)
    }

    /// The place of the one that `key` begins with.
    pub fn of(&self, key: &[u8]) -> Option<usize> {
        // What stands between a prefix and a key that begins with it begins with it too: so only the last one can be it.
        let at = self.0.partition_point(|prefix| &prefix[..] <= key).checked_sub(1)?;
        key.starts_with(self.0.get(at)?).then_some(at)
    }

    /// A prefix by its place.
    pub fn get(&self, at: usize) -> &[u8] {
        self.0.get(at).map_or(&[], Vec::as_slice)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For `MATCH`: takes whatever begins with any of those at `places`.
    pub fn glob(&self, places: &[usize]) -> Vec<u8> {
        common_glob(places.iter().map(|at| self.get(*at)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_take_what_all_have_in_common() {
        let glob = |all: &[&str]| {
            let prefixes = Prefixes::new(all.iter().map(|p| p.as_bytes()));
            String::from_utf8_lossy(&prefixes.glob(&(0..prefixes.len()).collect::<Vec<_>>())).into_owned()
        };
        assert_eq!(glob(&["feed:7:"]), "feed:7:*");
        assert_eq!(glob(&["feed:7:", "feed:8:"]), "feed:*");
        assert_eq!(glob(&["a*[b]?\\"]), "a\\*\\[b\\]\\?\\\\*");
        assert_eq!(glob(&["a:", "b:"]), "*");
        // Covered by a shorter one.
        assert_eq!(glob(&["feed:7:", "feed:7:x", "feed:7:"]), "feed:7:*");
    }

    proptest! {
        /// A key is under one exactly if it begins with any of those given.
        #[test]
        fn equals_a_naive_model(
            all in prop::collection::vec("[ab*\\[]{1,4}", 0..12),
            keys in prop::collection::vec("[ab*\\[]{0,6}", 1..30),
        ) {
            let prefixes = Prefixes::new(all.iter().map(|p| p.as_bytes()));
            for key in &keys {
                let naive = all.iter().filter(|p| key.starts_with(p.as_str())).min_by_key(|p| p.len());
                let found = prefixes.of(key.as_bytes()).map(|at| prefixes.get(at));
                prop_assert_eq!(found, naive.map(|p| p.as_bytes()), "{} of {:?}", key, all);
            }
            // Each one given is under one of those kept.
            prop_assert!(all.iter().all(|p| prefixes.of(p.as_bytes()).is_some()));
        }
    }
}
