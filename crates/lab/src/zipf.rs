//! Zipf's law: few things are asked for and changed often, most rarely.
//!
//! Example: see [`Zipf`].

use rand::{
    Rng,
    distr::{Distribution as _, weighted::WeightedIndex},
};

/// Chooses among numbers from 0; number k in proportion to 1/(k + 1).
///
/// ```
/// use rand::{SeedableRng as _, rngs::StdRng};
/// use rowbust_lab::zipf::Zipf;
/// let products = Zipf::new(1000);
/// // The same seed makes the same choices.
/// let mut rng = StdRng::seed_from_u64(1);
/// let sales: Vec<u32> = (0..10_000).map(|_| products.pick(&mut rng)).collect();
/// // One product in a hundred makes 39 % of the sales.
/// let popular = sales.iter().filter(|product| **product < 10).count();
/// assert!((3_700..4_100).contains(&popular));
/// ```
#[derive(Debug, Clone)]
pub struct Zipf(WeightedIndex<f64>);

impl Zipf {
    /// Below `count`; 0 counts as 1.
    ///
    /// Example: see [`Zipf`].
    #[must_use]
    pub fn new(count: u32) -> Self {
        let weights = (1..=count.max(1)).map(|rank| 1.0 / f64::from(rank));
        Self(WeightedIndex::new(weights).unwrap_or_else(|_| unreachable!("all weights are above 0")))
    }

    /// One of them.
    ///
    /// Example: see [`Zipf`].
    pub fn pick(&self, rng: &mut impl Rng) -> u32 {
        u32::try_from(self.0.sample(rng)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn the_first_ones_most_often_and_the_same_again() {
        let zipf = Zipf::new(100);
        let picked = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut counts = [0_u32; 100];
            (0..10_000).for_each(|_| counts[zipf.pick(&mut rng) as usize] += 1);
            counts
        };
        let counts = picked(1);
        assert_eq!(counts, picked(1));
        assert_ne!(counts, picked(2));
        // 1 / H(100) is 19.3 %, half of it 9.6 %.
        assert!((1800..2050).contains(&counts[0]) && (880..1050).contains(&counts[1]), "{counts:?}");
        assert!(counts[99] > 0);
    }

    #[test]
    fn of_one_it_is_that_one() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!([0, 1].map(|count| Zipf::new(count).pick(&mut rng)), [0, 0]);
    }
}
