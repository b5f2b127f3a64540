//! Choices that a seed repeats.

/// SplitMix64: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// A stream of its own for each seed and number.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut rng = Self(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `end`, which is above 0.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end.max(1))).unwrap_or(0)
    }
}

/// Numbers from 0, the first ones the most often: Zipf's law.
#[derive(Debug)]
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    /// `exponent` 0: all alike; 1: the second half as often as the first.
    pub(super) fn new(count: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=count.max(1))
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        sums.iter_mut().for_each(|s| *s /= sum);
        Self(sums)
    }

    pub(super) fn pick(&self, rng: &mut Rng) -> u32 {
        let share = rng.share();
        let place = self.0.partition_point(|s| *s <= share).min(self.0.len() - 1);
        u32::try_from(place).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_most_often_and_the_same_again() {
        let zipf = Zipf::new(100, 1.0);
        let picked = |seed| {
            let mut rng = Rng::new(seed, 3);
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
}
