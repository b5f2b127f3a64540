//! What the checker doesn't see: what the client counted, and what the daemon measured.

use rowbust_client::Stats;

use crate::summary::{Measures, Removal};

/// Sums over the processes of a stage.
pub(super) fn clients(all: &[Stats]) -> Measures {
    let sum = |of: fn(&Stats) -> u64| all.iter().map(of).sum();
    Measures {
        database_reads: sum(|s| s.loads),
        fills: sum(|s| s.fills),
        refused_fills: sum(|s| s.refused),
        lock_waits: sum(|s| s.busy),
        locks_lost: sum(|s| s.locks_lost),
        second_deletes: sum(|s| s.second_deletes),
        cache_errors: sum(|s| s.cache_errors),
        not_removed: sum(|s| s.not_removed),
        ..Measures::default()
    }
}

/// One of the daemon's histograms, in the Prometheus text format.
pub(super) fn removal(text: &str, metric: &str, which: &str) -> Option<Removal> {
    let name = format!("{metric}_bucket");
    let label = format!("removal=\"{which}\"");
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut count = 0;
    for line in text.lines().filter(|line| line.starts_with(&name) && line.contains(&label)) {
        let (head, value) = line.rsplit_once(' ')?;
        let bound = head.split("le=\"").nth(1)?.split('"').next()?;
        let below: u64 = value.parse().ok()?;
        match bound.parse::<f64>() {
            Ok(bound) if bound.is_finite() => buckets.push((bound, below)),
            _ => count = below,
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    #[allow(clippy::cast_precision_loss)]
    let at = |share: f64| {
        let rank = count as f64 * share;
        buckets.iter().find(|(_, below)| *below as f64 >= rank).map(|(bound, _)| *bound)
    };
    (count > 0).then(|| Removal { count, p50: at(0.5), p99: at(0.99), buckets: buckets.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let text = "# TYPE lag histogram\n\
            lag_bucket{removal=\"first\",le=\"0.001\"} 50\nlag_bucket{removal=\"first\",le=\"0.01\"} 98\n\
            lag_bucket{removal=\"first\",le=\"+Inf\"} 100\nlag_bucket{removal=\"last\",le=\"+Inf\"} 7\n";
        let first = removal(text, "lag", "first");
        let expected =
            Removal { count: 100, p50: Some(0.001), p99: None, buckets: vec![(0.001, 50), (0.01, 98)] };
        assert_eq!(first, Some(expected));
        assert_eq!(removal(text, "lag", "last").map(|r| r.count), Some(7));
        assert_eq!(removal(text, "lag", "none"), None);
    }
}
