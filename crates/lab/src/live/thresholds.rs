//! What runs must show.
//!
//! A YAML list. Each entry names a strategy and, if it is to hold for some runs only, a workload and a fault; then measures, each with
//! `min`, `max` or both. It holds if every run that it names is within. A void run is not within anything; what is above a `max` in it was
//! found all the same, and is a miss.
//!
//! ```yaml
//! - { strategy: guarded, permanently_stale: { max: 0 } }
//! - { strategy: cache-aside, fault: slow-reader, permanently_stale: { min: 1 }, read_p99_ms: { max: 50 } }
//! ```
//!
//! Example: see [`judge`].

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{Fault, LiveError, Strategy, Workload, error::LiveError as Error};
use crate::summary::Run;

/// The built-in ones: what a comparison must find to count for something.
const DEFAULT: &str = include_str!("thresholds.yaml");

/// A range. What isn't given bounds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    /// At least this.
    min: Option<f64>,
    /// At most this.
    max: Option<f64>,
}

/// What some runs must show.
///
/// Example: see [`load`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Of this strategy.
    strategy: String,
    /// Under this workload. Default: any.
    workload: Option<String>,
    /// Under this fault, or `none`. Default: any.
    fault: Option<String>,
    /// Keys that were stale for good.
    permanently_stale: Option<Range>,
    /// Share of reads that were stale, from 0 to 1.
    stale_ratio: Option<Range>,
    /// Of the stale reads: how stale, p99, in milliseconds.
    staleness_p99_ms: Option<Range>,
    /// Of the stale reads: how stale at most, in milliseconds.
    staleness_max_ms: Option<Range>,
    /// Reads of a client that lacked its own write.
    own_write_missed: Option<Range>,
    /// Reads of a client that gave less than one before.
    went_back: Option<Range>,
    /// Reads of what was never committed.
    dirty_reads: Option<Range>,
    /// Hits among reads, from 0 to 1.
    hit_ratio: Option<Range>,
    /// Reads and writes per second.
    operations_per_second: Option<Range>,
    /// Latency of reads, in milliseconds.
    read_p99_ms: Option<Range>,
    /// Latency of writes, in milliseconds.
    write_p99_ms: Option<Range>,
    /// What the workload found wrong in itself: more sold than there was.
    broken: Option<Range>,
}

/// How a measure is found in a run.
type Measure = fn(&Run) -> f64;

impl Threshold {
    /// The measures that it bounds.
    fn bounds(&self) -> impl Iterator<Item = (&'static str, Range, Measure)> {
        // Without `..`, so that none is forgotten.
        let &Self {
            strategy: _,
            workload: _,
            fault: _,
            permanently_stale,
            stale_ratio,
            staleness_p99_ms,
            staleness_max_ms,
            own_write_missed,
            went_back,
            dirty_reads,
            hit_ratio,
            operations_per_second,
            read_p99_ms,
            write_p99_ms,
            broken,
        } = self;
        let all: [(&'static str, Option<Range>, Measure); 12] = [
            ("permanently_stale", permanently_stale, |run| number(run.report.permanently_stale.len() as u64)),
            ("stale_ratio", stale_ratio, Run::stale_ratio),
            ("staleness_p99_ms", staleness_p99_ms, |run| number(run.report.staleness.p99) / 1e6),
            ("staleness_max_ms", staleness_max_ms, |run| number(run.report.staleness.max) / 1e6),
            ("own_write_missed", own_write_missed, |run| number(run.report.own_write_missed)),
            ("went_back", went_back, |run| number(run.report.went_back)),
            ("dirty_reads", dirty_reads, |run| number(run.report.dirty_reads)),
            ("hit_ratio", hit_ratio, |run| number(run.report.hits) / number(run.report.reads.max(1))),
            ("operations_per_second", operations_per_second, Run::throughput),
            ("read_p99_ms", read_p99_ms, |run| number(run.report.read_latency.p99) / 1e6),
            ("write_p99_ms", write_p99_ms, |run| number(run.report.write_latency.p99) / 1e6),
            ("broken", broken, |run| number(run.measures.broken.len() as u64)),
        ];
        all.into_iter().filter_map(|(name, range, of)| Some((name, range?, of)))
    }
}

#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}

/// A threshold and a run.
///
/// Example: see [`judge`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The run's strategy.
    pub strategy: String,
    /// The run's workload.
    pub workload: String,
    /// The run's faults.
    pub fault: String,
    /// Which measure.
    pub measure: &'static str,
    /// What it is.
    pub value: f64,
    /// At least this.
    pub min: Option<f64>,
    /// At most this.
    pub max: Option<f64>,
    /// Whether it is. None: the run is void, and nothing was found that may not be.
    pub met: Option<bool>,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { strategy, workload, fault, measure, value, min, max, .. } = self;
        write!(f, "{strategy} {workload} {fault}: {measure} is {value}")?;
        if let Some(min) = min {
            write!(f, ", at least {min} was to be found")?;
        }
        if let Some(max) = max {
            write!(f, ", at most {max} may be")?;
        }
        Ok(())
    }
}

/// Reads thresholds from YAML. `name`: for messages.
///
/// # Errors
/// What isn't right, with its place.
fn parse(text: &str, name: &str) -> Result<Vec<Threshold>, LiveError> {
    let wrong = |why: String| Error::Usage(format!("{name}: {why}"));
    let all: Vec<Threshold> = serde_saphyr::from_str(text).map_err(|e| wrong(e.to_string()))?;
    for threshold in &all {
        let Threshold { strategy, workload, fault, .. } = threshold;
        if Strategy::named(strategy).is_none() {
            return Err(wrong(format!(
                "there is no strategy {strategy}; `rowbust lab run --list` lists them"
            )));
        }
        if let Some(workload) = workload.as_ref().filter(|name| Workload::named(name).is_none()) {
            return Err(wrong(format!(
                "there is no workload {workload}; `rowbust lab run --list` lists them"
            )));
        }
        if let Some(fault) = fault.as_ref().filter(|name| *name != "none" && Fault::named(name).is_none()) {
            return Err(wrong(format!("there is no fault {fault}; `rowbust lab run --list` lists them")));
        }
        for (measure, range, _) in threshold.bounds() {
            if range == Range::default() {
                return Err(wrong(format!("{strategy}: {measure} has neither min nor max")));
            }
        }
    }
    Ok(all)
}

/// Those of a file, or the built-in ones.
///
/// # Errors
/// When it can't be read, or isn't right.
///
/// ```
/// use rowbust_lab::live::thresholds::{Threshold, load};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("mine.yaml");
/// std::fs::write(&path, "- { strategy: guarded, permanently_stale: { max: 0 }, read_p99_ms: { max: 20 } }")?;
/// let mine: Vec<Threshold> = load(Some(&path))?;
/// assert_eq!(mine.len(), 1);
/// // The built-in ones ask something of each strategy whose race the lab can show.
/// assert!(load(None)?.len() > 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load(path: Option<&Path>) -> Result<Vec<Threshold>, LiveError> {
    match path {
        None => parse(DEFAULT, "the built-in thresholds"),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|e| Error::Usage(format!("thresholds: {}: {e}", path.display())))?;
            parse(&text, &path.display().to_string())
        }
    }
}

/// Whether a run showed nothing, which may be chance: a fault never struck, or less was found than is asked for. What is more than may
/// be is no chance.
///
/// ```no_run
/// use rowbust_lab::live::{self, Plan, World, thresholds::{self, is_too_mild}};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example(world: &World, mut plan: Plan) -> Result<(), rowbust_lab::live::LiveError> {
/// let thresholds = thresholds::load(None)?;
/// // Whether a race is met is chance: three times, then it counts.
/// for _ in 0..3 {
///     let finished = live::run(world, &plan, &CancellationToken::new(), &|_| {}).await?;
///     if !finished.iter().any(|one| is_too_mild(&thresholds, &one.run)) {
///         break;
///     }
///     plan.seed += 1;
/// }
/// # Ok(()) }
/// ```
#[must_use]
pub fn is_too_mild(thresholds: &[Threshold], run: &Run) -> bool {
    let verdicts = judge(thresholds, std::slice::from_ref(run));
    let is_above = verdicts.iter().any(|v| v.max.is_some_and(|max| v.value > max));
    let lacks = verdicts.iter().any(|v| v.min.is_some_and(|min| v.value < min));
    !is_above && (lacks || run.void.is_some())
}

/// Holds thresholds against runs.
///
/// ```
/// use rowbust_lab::{
///     checker::{Final, Report},
///     live::thresholds::{Verdict, judge, load},
///     summary::{Measures, Run},
/// };
/// let stale = vec![Final { key: 7, cached: Some(1), database: 2 }];
/// let run = Run {
///     strategy: "guarded".to_owned(),
///     workload: "read-mostly".to_owned(),
///     length: 10_000_000_000,
///     fault: "none".to_owned(),
///     struck: Default::default(),
///     faults: Vec::new(),
///     stale_keys: Vec::new(),
///     report: Report { permanently_stale: stale, ..Report::default() },
///     measures: Measures::default(),
///     void: None,
///     repeats: 0,
/// };
/// let verdicts: Vec<Verdict> = judge(&load(None)?, &[run]);
/// let missed = verdicts.iter().find(|verdict| verdict.met == Some(false)).map(Verdict::to_string);
/// assert_eq!(missed.as_deref(), Some("guarded read-mostly none: permanently_stale is 1, at most 0 may be"));
/// # Ok::<(), rowbust_lab::live::LiveError>(())
/// ```
#[must_use]
pub fn judge(thresholds: &[Threshold], runs: &[Run]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for threshold in thresholds {
        let names = |wanted: &Option<String>, is: &String| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let matching = runs.iter().filter(|run| {
            run.strategy == threshold.strategy
                && names(&threshold.workload, &run.workload)
                && names(&threshold.fault, &run.fault)
        });
        for run in matching {
            for (measure, Range { min, max }, of) in threshold.bounds() {
                let value = of(run);
                let is_above = max.is_some_and(|max| value > max);
                let met = match run.void {
                    _ if is_above => Some(false),
                    Some(_) => None,
                    None => Some(min.is_none_or(|min| value >= min)),
                };
                verdicts.push(Verdict {
                    strategy: run.strategy.clone(),
                    workload: run.workload.clone(),
                    fault: run.fault.clone(),
                    measure,
                    value,
                    min,
                    max,
                    met,
                });
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        checker::{Final, Report},
        live::compare,
        summary::Measures,
    };

    fn run(strategy: &str, fault: &str, stale: u32) -> Run {
        let stale = (0..stale).map(|key| Final { key, cached: Some(1), database: 2 }).collect();
        Run {
            strategy: strategy.into(),
            workload: "read-mostly".into(),
            length: 1,
            fault: fault.into(),
            struck: Default::default(),
            faults: Vec::new(),
            stale_keys: Vec::new(),
            report: Report { permanently_stale: stale, ..Report::default() },
            measures: Measures::default(),
            void: None,
            repeats: 0,
        }
    }

    fn met(runs: &[Run]) -> Vec<Option<bool>> {
        judge(&load(None).unwrap(), runs).iter().map(|verdict| verdict.met).collect()
    }

    #[test]
    fn the_built_in_ones_judge_each_run_that_the_quick_comparison_must_show() {
        let thresholds = load(None).unwrap();
        for threshold in &thresholds {
            let is_named = |case: &compare::Case| {
                case.strategy.name() == threshold.strategy
                    && threshold.fault.as_ref().is_none_or(|fault| case.fault_name() == fault)
            };
            assert!(compare::quick().iter().any(is_named), "{threshold:?}");
        }
        assert_eq!(met(&[run("guarded", "slow-reader", 0)]), [Some(true), Some(true)]);
        assert_eq!(met(&[run("guarded", "evictions", 1)]), [Some(false), Some(true)]);
        assert_eq!(met(&[run("cache-aside", "slow-reader", 0)]), [Some(false)]);
        assert_eq!(met(&[run("cache-aside", "slow-reader", 3)]), [Some(true)]);
        assert_eq!(met(&[run("cache-aside", "none", 0)]), []);
        let void = Run { void: Some("it never struck".into()), ..run("guarded", "slow-reader", 0) };
        assert_eq!(met(std::slice::from_ref(&void)), [None, None]);
        // What was found was found.
        let harmed = Run { report: run("guarded", "slow-reader", 1).report, ..void };
        assert_eq!(met(&[harmed]), [Some(false), None]);
        let void = Run { void: Some("it never struck".into()), ..run("cache-aside", "slow-reader", 3) };
        assert_eq!(met(&[void]), [None]);
    }

    #[test]
    fn chance_is_tried_again_and_harm_is_not() {
        let thresholds = load(None).unwrap();
        let mild = |run: &Run| is_too_mild(&thresholds, run);
        assert!(mild(&run("cache-aside", "slow-reader", 0)));
        assert!(!mild(&run("cache-aside", "slow-reader", 1)));
        assert!(!mild(&run("guarded", "evictions", 0)));
        assert!(!mild(&run("guarded", "evictions", 1)));
        let void = |stale| Run { void: Some("it never struck".into()), ..run("guarded", "evictions", stale) };
        assert!(mild(&void(0)));
        assert!(!mild(&void(1)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("- { strategy: cache-asid }", "cache-asid"),
            ("- { strategy: guarded, fault: rain }", "rain"),
            ("- { strategy: guarded, permanently_stale: {} }", "neither"),
            ("- { strategy: guarded, permanent: { max: 0 } }", "permanent"),
            ("guarded: { max: 0 }", "file"),
        ] {
            let message = parse(text, "file").unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        assert!(load(Some(Path::new("/nothing"))).unwrap_err().to_string().contains("/nothing"));
    }
}
