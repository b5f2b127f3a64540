//! Zipf-distributed choice: few rows are read and written often, most rarely, as in a real shop.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Chooses ids `1..=n`; the k-th most popular with a probability proportional to 1/k.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// Sums of the weights up to each rank.
    cumulative: Vec<f64>,
}

/// Spreads neighbouring ranks over all ids; prime, and larger than any table of the shop.
const SPREAD: u64 = 2_147_483_647;

impl Zipf {
    /// Over ids `1..=n`; `n` is at least 1.
    pub(crate) fn new(n: u32) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=n.max(1))
            .map(|rank| {
                sum += 1.0 / f64::from(rank);
                sum
            })
            .collect();
        Self { cumulative }
    }

    /// An id.
    pub(crate) fn id(&self, rng: &mut StdRng) -> u32 {
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let point = rng.random::<f64>() * total;
        let rank = self.cumulative.partition_point(|sum| *sum <= point);
        self.id_of(rank)
    }

    /// A permutation, as the multiplier has no factor in common with the number of ids.
    fn id_of(&self, rank: usize) -> u32 {
        let n = self.cumulative.len() as u64;
        let rank = (rank as u64).min(n - 1);
        u32::try_from(rank * SPREAD % n).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_rank_has_its_own_id() {
        let zipf = Zipf::new(200_000);
        let ids: HashSet<u32> = (0..200_000).map(|rank| zipf.id_of(rank)).collect();
        assert_eq!(ids.len(), 200_000);
        assert!(ids.iter().all(|id| (1..=200_000).contains(id)));
        assert_eq!(Zipf::new(1).id_of(7), 1);
    }

    #[test]
    fn the_most_popular_is_twice_as_popular_as_the_next() {
        let zipf = Zipf::new(1000);
        let mut rng = StdRng::seed_from_u64(1);
        let (mut first, mut second) = (0.0, 0.0);
        for _ in 0..100_000 {
            let id = zipf.id(&mut rng);
            if id == zipf.id_of(0) {
                first += 1.0;
            } else if id == zipf.id_of(1) {
                second += 1.0;
            }
        }
        assert!((1.8..2.2).contains(&(first / second)), "{first} {second}");
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let zipf = Zipf::new(50);
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..20).map(|_| zipf.id(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
