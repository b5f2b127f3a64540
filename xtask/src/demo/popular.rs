//! Few rows are read and written often, most rarely, as in a real shop.

use rand::rngs::StdRng;
use rowbust_lab::zipf::Zipf;

/// Chooses ids `1..=count`; the k-th most popular with a probability proportional to 1/k.
#[derive(Debug)]
pub(crate) struct Popular {
    law: Zipf,
    count: u32,
}

/// Spreads neighbouring ranks over all ids; prime, and larger than any table of the shop.
const SPREAD: u64 = 2_147_483_647;

impl Popular {
    /// Over ids `1..=count`; `count` is at least 1.
    pub(crate) fn new(count: u32) -> Self {
        Self { law: Zipf::new(count), count: count.max(1) }
    }

    /// An id.
    pub(crate) fn id(&self, rng: &mut StdRng) -> u32 {
        self.id_of(self.law.pick(rng))
    }

    /// A permutation, as the multiplier has no factor in common with the number of ids.
    fn id_of(&self, rank: u32) -> u32 {
        u32::try_from(u64::from(rank) * SPREAD % u64::from(self.count)).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_rank_has_its_own_id() {
        let popular = Popular::new(200_000);
        let ids: HashSet<u32> = (0..200_000).map(|rank| popular.id_of(rank)).collect();
        assert_eq!(ids.len(), 200_000);
        assert!(ids.iter().all(|id| (1..=200_000).contains(id)));
    }
}
