//! Values to places, and the ticks beside them. May depend on nothing of ours.

/// What is less isn't told from 0.
const SMALLEST: f64 = 1e-12;
/// What is more isn't told from it: an axis' end stays finite.
const GREATEST: f64 = 1e300;

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From 0.
    Linear {
        /// The greatest value.
        most: f64,
    },
    /// Decades; what is smaller than the least stands at its begin, so that zero has a place.
    Log {
        /// A power of ten.
        least: f64,
        /// A power of ten.
        most: f64,
    },
}

impl Scale {
    /// Up to a round number that holds `most`.
    pub(super) fn linear(most: f64) -> Self {
        let most = if most.is_finite() && most > SMALLEST { most.min(GREATEST) } else { 1.0 };
        let step = step(most);
        Self::Linear { most: (most / step).ceil() * step }
    }

    /// Whole decades from `least` to `most`, at least one.
    pub(super) fn log(least: f64, most: f64) -> Self {
        let least = if least.is_finite() && least > SMALLEST { least.min(GREATEST) } else { 1.0 };
        let least = 10_f64.powf(least.log10().floor());
        let most = if most.is_finite() { most.min(GREATEST).max(least * 10.0) } else { least * 10.0 };
        Self::Log { least, most: 10_f64.powf((most.log10() - 1e-9).ceil()) }
    }

    /// 0 at the begin of the axis, 1 at its end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { most } => value / most,
            Self::Log { least, most } => (value.max(least) / least).log10() / (most / least).log10(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Values that get a line.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { most } => {
                let step = step(most);
                let mut ticks = vec![0.0];
                while let Some(last) = ticks.last().copied().filter(|last| last + step <= most * (1.0 + 1e-9))
                {
                    ticks.push(last + step);
                }
                ticks
            }
            Self::Log { least, most } => {
                let mut ticks = vec![least];
                while let Some(last) = ticks.last().copied().filter(|last| last * 10.0 <= most * (1.0 + 1e-9))
                {
                    ticks.push(last * 10.0);
                }
                ticks
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, four to ten of which make `most`.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let times = most / 4.0 / power;
    power
        * if times < 2.0 {
            1.0
        } else if times < 5.0 {
            2.0
        } else {
            5.0
        }
}

/// Nanoseconds as a person says them.
pub(super) fn duration(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{} ns", number(n)),
        n if n < 1e6 => format!("{} µs", number(n / 1e3)),
        n if n < 1e9 => format!("{} ms", number(n / 1e6)),
        n => format!("{} s", number(n / 1e9)),
    }
}

/// Three digits, thousands as k and M.
pub(super) fn number(value: f64) -> String {
    let short = |value: f64| {
        let decimals = if value >= 100.0 || value.fract() == 0.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match value {
        0.0 => "0".into(),
        v if v >= 1e6 => format!("{} M", short(v / 1e6)),
        v if v >= 1e4 => format!("{} k", short(v / 1e3)),
        v if v >= 0.01 => short(v),
        v => format!("{v:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::linear(17.0), Scale::Linear { most: 18.0 });
        assert_eq!(Scale::linear(20.0).ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(Scale::log(3.0, 4000.0).ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(Scale::log(1.0, 10.0).ticks(), [1.0, 10.0]);
    }

    #[test]
    fn in_words() {
        let words: Vec<_> = [0.0, 120.0, 1500.0, 25e6, 3.25e9].map(duration).into();
        assert_eq!(words, ["0 ns", "120 ns", "1.5 µs", "25 ms", "3.25 s"]);
        assert_eq!([0.0, 0.5, 12_345.0, 2e6, 0.001].map(number), ["0", "0.5", "12.3 k", "2 M", "1e-3"]);
    }

    #[test]
    fn an_axis_ends() {
        for value in [f64::MAX, f64::INFINITY, f64::MIN_POSITIVE, f64::NAN, -f64::MAX, 1e307] {
            for scale in [Scale::linear(value), Scale::log(value, value), Scale::log(1.0, value)] {
                let (Scale::Linear { most } | Scale::Log { most, .. }) = scale;
                assert!(most.is_finite(), "{value}: {scale:?}");
                assert!((2..400).contains(&scale.ticks().len()), "{value}: {scale:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_value_has_a_place(most: f64, least: f64, value: f64) {
            for scale in [Scale::linear(most), Scale::log(least, most)] {
                let place = scale.place(value);
                prop_assert!(place.is_nan() && value.is_nan() || (0.0..=1.0).contains(&place), "{scale:?} {place}");
                prop_assert!((2..400).contains(&scale.ticks().len()), "{scale:?}");
            }
        }
    }
}
