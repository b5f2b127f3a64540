//! Exact quantiles.

use serde::{Deserialize, Serialize};

use crate::history::Nanos;

/// Quantiles of what was measured, in nanoseconds: the smallest value that at least this share doesn't exceed.
///
/// ```
/// use rowbust_lab::{
///     checker::{Quantiles, Settings, check},
///     history::{Kind, Op, Outcome},
/// };
/// let write = Op { start: 12, end: 20, version: 2, key: 7, process: 2, kind: Kind::Write, outcome: Outcome::Ok };
/// let report = check(&mut [write], &[], &Settings::default())?;
/// assert_eq!(report.write_latency, Quantiles { count: 1, p50: 8, p99: 8, p999: 8, max: 8 });
/// # Ok::<(), rowbust_lab::checker::Impossible>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many there are. 0: the others mean nothing.
    pub count: u64,
    /// Half of them.
    pub p50: Nanos,
    /// 99 %.
    pub p99: Nanos,
    /// 99.9 %.
    pub p999: Nanos,
    /// All of them.
    pub max: Nanos,
}

impl Quantiles {
    pub(crate) fn of(values: &mut [Nanos]) -> Self {
        let mut at = |permille: usize| {
            let rank = (values.len() * permille).div_ceil(1000).max(1) - 1;
            if values.is_empty() { 0 } else { *values.select_nth_unstable(rank).1 }
        };
        let (p50, p99, p999, max) = (at(500), at(990), at(999), at(1000));
        Self { count: values.len() as u64, p50, p99, p999, max }
    }
}

/// Of each hundredth: its greatest value, and which share has at most this one. Sorts.
#[allow(clippy::cast_precision_loss)]
pub(super) fn shares(values: &mut [Nanos]) -> Vec<(Nanos, f64)> {
    values.sort_unstable();
    let count = values.len();
    let steps = (1..=100_usize).filter_map(|step| {
        let rank = (count * step).div_ceil(100);
        values.get(rank.checked_sub(1)?).map(|value| (*value, rank as f64 / count as f64))
    });
    let mut shares: Vec<_> = steps.collect();
    shares.dedup();
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_rank() {
        assert_eq!(Quantiles::of(&mut []), Quantiles::default());
        assert_eq!(Quantiles::of(&mut [7]), Quantiles { count: 1, p50: 7, p99: 7, p999: 7, max: 7 });
        let mut values: Vec<u64> = (1..=1000).rev().collect();
        assert_eq!(
            Quantiles::of(&mut values),
            Quantiles { count: 1000, p50: 500, p99: 990, p999: 999, max: 1000 }
        );
        assert_eq!(Quantiles::of(&mut [1, 2, 3]).p50, 2);
        assert_eq!(shares(&mut []), []);
        assert_eq!(shares(&mut [8, 4]), [(4, 0.5), (8, 1.0)]);
        assert_eq!(shares(&mut (1..=1000).collect::<Vec<_>>())[98], (990, 0.99));
    }
}
