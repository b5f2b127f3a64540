//! The plots of a workload.

use super::{
    Chart,
    chart::{Axis, Series},
    scale::{Scale, duration, number},
};
use crate::{
    checker::Quantiles,
    history::Nanos,
    summary::{Fault, Run},
};

/// All that there is something to show in.
pub(super) fn all(runs: &[&Run], names: &[String]) -> Vec<Chart> {
    let runs: Vec<&Run> = runs.iter().copied().filter(|run| run.void.is_none()).collect();
    [stale_keys, stale_reads, staleness, trade, read_latency, write_latency]
        .into_iter()
        .map(|plot| plot(&runs, names))
        .filter(|chart| chart.series.iter().any(|series| !series.values.is_empty()))
        .collect()
}

fn series(runs: &[&Run], names: &[String], values: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Series> {
    let one = |run: &&Run| {
        let number = names.iter().position(|name| *name == run.strategy)?;
        Some(Series { name: run.strategy.clone(), number, values: values(run) })
    };
    runs.iter().filter_map(one).collect()
}

fn greatest(series: &[Series], of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    series.iter().flat_map(|s| &s.values).map(of).fold(0.0, f64::max)
}

#[allow(clippy::cast_precision_loss)]
fn seconds(runs: &[&Run]) -> Axis {
    let length = runs.iter().map(|run| run.length).max().unwrap_or(0) as f64 / 1e9;
    Axis { label: "time, s", scale: Scale::linear(length), text: number }
}

#[allow(clippy::cast_precision_loss)]
fn shades(runs: &[&Run]) -> Vec<Vec<(f64, f64, String)>> {
    let shade = |fault: &Fault| (fault.from as f64 / 1e9, fault.to as f64 / 1e9, fault.name.clone());
    runs.iter().map(|run| run.faults.iter().map(shade).collect()).collect()
}

/// How many steps a line of counted keys has at most.
const STEPS: u64 = 30;
/// How many keys are stale is counted so often, or less often.
const COUNTED: Nanos = 250_000_000;

/// Counted keys: in a long run the mean of some counts that follow one another, but the last count by itself.
#[allow(clippy::cast_precision_loss)]
fn counted(run: &Run) -> Vec<(f64, f64)> {
    let Some((end, last)) = run.stale_keys.last().copied() else { return Vec::new() };
    let width = end.div_ceil(STEPS * COUNTED).max(1) * COUNTED;
    let means = run.stale_keys.chunk_by(|(a, _), (b, _)| a / width == b / width).map(|counts| {
        let sum: u64 = counts.iter().map(|(_, keys)| keys).sum();
        (counts.first().map_or(0, |(time, _)| *time), sum as f64 / counts.len() as f64)
    });
    means.chain([(end, last as f64)]).map(|(time, keys)| (time as f64 / 1e9, keys)).collect()
}

#[allow(clippy::cast_precision_loss)]
fn stale_keys(runs: &[&Run], names: &[String]) -> Chart {
    // Zero stands below one, at the axis' begin.
    let series = series(runs, names, |run| {
        counted(run).into_iter().map(|(time, keys)| (time, keys.max(0.1))).collect()
    });
    let scale = Scale::log(0.1, greatest(&series, |(_, y)| *y));
    let text = |value: f64| if value < 1.0 { "0".into() } else { number(value) };
    let last_write = runs.iter().map(|run| run.length).max().unwrap_or(0) as f64 / 1e9;
    let end = greatest(&series, |(x, _)| *x).max(last_write);
    Chart {
        id: "stale-keys",
        title: "Keys whose cached value isn't the database's",
        x: Axis { label: "time, s", scale: Scale::linear(end), text: number },
        y: Axis { label: "stale keys", scale, text },
        series,
        shades: shades(runs),
        mark: (end > last_write).then_some((last_write, "last write")),
        steps: true,
    }
}

#[allow(clippy::cast_precision_loss)]
fn stale_reads(runs: &[&Run], names: &[String]) -> Chart {
    let series = series(runs, names, |run| {
        let width = run.report.bucket as f64 / 1e9;
        let share =
            |bucket: &crate::checker::Bucket| 100.0 * bucket.stale as f64 / bucket.reads.max(1) as f64;
        run.report.timeline.iter().map(|(number, bucket)| (*number as f64 * width, share(bucket))).collect()
    });
    Chart {
        id: "stale-reads",
        title: "Stale reads over time",
        x: seconds(runs),
        y: Axis {
            label: "stale reads, %",
            scale: Scale::linear(greatest(&series, |(_, y)| *y)),
            text: number,
        },
        series,
        shades: shades(runs),
        mark: None,
        steps: true,
    }
}

#[allow(clippy::cast_precision_loss)]
fn staleness(runs: &[&Run], names: &[String]) -> Chart {
    let series = series(runs, names, |run| {
        run.report.staleness_shares.iter().map(|(nanos, share)| (*nanos as f64, share * 100.0)).collect()
    });
    let least = series.iter().flat_map(|s| &s.values).map(|(x, _)| *x).fold(f64::INFINITY, f64::min).max(1e3);
    Chart {
        id: "staleness",
        title: "How stale the stale reads were: share of them that was at most so stale",
        x: Axis {
            label: "staleness",
            scale: Scale::log(least, greatest(&series, |(x, _)| *x)),
            text: duration,
        },
        y: Axis { label: "stale reads, %", scale: Scale::linear(100.0), text: number },
        series,
        shades: Vec::new(),
        mark: None,
        steps: true,
    }
}

fn trade(runs: &[&Run], names: &[String]) -> Chart {
    // None in a run of n reads isn't none at all: it stands at the axis' begin.
    const LEAST: f64 = 1e-4;
    let series = series(runs, names, |run| vec![(run.throughput(), (run.stale_ratio() * 100.0).max(LEAST))]);
    let text = |value: f64| if value <= LEAST { "0".into() } else { number(value) };
    Chart {
        id: "throughput",
        title: "Throughput against staleness: right and low is better",
        x: Axis {
            label: "operations/s",
            scale: Scale::linear(greatest(&series, |(x, _)| *x) * 1.25),
            text: number,
        },
        y: Axis { label: "stale reads, %", scale: Scale::log(LEAST, greatest(&series, |(_, y)| *y)), text },
        series,
        shades: Vec::new(),
        mark: None,
        steps: false,
    }
}

fn read_latency(runs: &[&Run], names: &[String]) -> Chart {
    latency("read-latency", "Latency of reads", runs, names, |run| run.report.read_latency)
}

fn write_latency(runs: &[&Run], names: &[String]) -> Chart {
    latency("write-latency", "Latency of writes", runs, names, |run| run.report.write_latency)
}

/// By nines, as one reads them from a percentile plot.
#[allow(clippy::cast_precision_loss)]
fn latency(
    id: &'static str,
    title: &'static str,
    runs: &[&Run],
    names: &[String],
    of: impl Fn(&Run) -> Quantiles,
) -> Chart {
    let series = series(runs, names, |run| {
        let q = of(run);
        let values = [q.p50, q.p99, q.p999, q.max];
        let values = (0_u8..).zip(values).map(|(place, nanos)| (f64::from(place), nanos as f64));
        if q.count == 0 { Vec::new() } else { values.collect() }
    });
    let least = series.iter().flat_map(|s| &s.values).map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let text = |place: f64| match place {
        p if p < 0.5 => "p50".to_owned(),
        p if p < 1.5 => "p99".to_owned(),
        p if p < 2.5 => "p99.9".to_owned(),
        _ => "max".to_owned(),
    };
    Chart {
        id,
        title,
        x: Axis { label: "quantile", scale: Scale::Linear { most: 3.0 }, text },
        y: Axis {
            label: "latency",
            scale: Scale::log(least, greatest(&series, |(_, y)| *y)),
            text: duration,
        },
        series,
        shades: Vec::new(),
        mark: None,
        steps: false,
    }
}
