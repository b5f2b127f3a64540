//! Which runs a comparison consists of, and what has become worse since an older one.
//!
//! Example: see [`quick`].

use super::{Fault, Plan, Strategy, Workload};
use crate::summary::{Run, Summary};

/// One run of a comparison.
///
/// Example: see [`quick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Which strategy.
    pub strategy: Strategy,
    /// What applications do.
    pub workload: Workload,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

impl Case {
    /// The case with everything else as in `base`.
    ///
    /// Example: see [`quick`].
    #[must_use]
    pub fn plan(self, base: &Plan) -> Plan {
        Plan {
            strategies: vec![self.strategy],
            workload: self.workload,
            faults: self.fault.into_iter().collect(),
            ..base.clone()
        }
    }

    /// The name of its fault, or `none`.
    ///
    /// Example: see [`quick`].
    #[must_use]
    pub fn fault_name(self) -> &'static str {
        self.fault.map_or("none", Fault::name)
    }
}

/// Every strategy under the fault that shows its race, `guarded` under all that need no further servers: some two minutes.
///
/// ```
/// use rowbust_lab::live::{Plan, Strategy, Workload, compare::{Case, quick}};
/// let base = Plan { seed: 7, ..Plan::new(Workload::ReadMostly) };
/// let ours: Vec<Case> = quick().into_iter().filter(|case| case.strategy == Strategy::Guarded).collect();
/// for case in &ours {
///     let plan = case.plan(&base);
///     println!("guarded under {}, for {:?}", case.fault_name(), plan.length);
/// }
/// assert!(ours.iter().any(|case| case.fault_name() == "visibility-window"));
/// ```
#[must_use]
pub fn quick() -> Vec<Case> {
    use {Fault as F, Strategy as S};
    let all = [
        (S::TtlOnly, None),
        (S::CacheAside, Some(F::SlowReader)),
        (S::DeleteFirst, Some(F::SlowReader)),
        (S::WriteDbThenCache, Some(F::SlowWriter)),
        (S::WriteCacheThenDb, Some(F::SlowWriter)),
        (S::DelayedDoubleDelete, Some(F::SlowReader)),
        (S::LockSerialized, Some(F::LockExpiry)),
        (S::LockSerializedUnfenced, Some(F::LockExpiry)),
        (S::LogicalExpiry, None),
        (S::WriteThrough, Some(F::SlowReader)),
        (S::Binlog, Some(F::VisibilityWindow)),
        (S::Binlog, Some(F::ReplicaLag)),
        (S::BinlogTwice, Some(F::SlowReader)),
        (S::BinlogLease, Some(F::VisibilityWindow)),
        (S::Guarded, Some(F::SlowReader)),
        (S::Guarded, Some(F::VisibilityWindow)),
        (S::Guarded, Some(F::ReplicaLag)),
        (S::Guarded, Some(F::LockExpiry)),
        (S::Guarded, Some(F::Evictions)),
        (S::Guarded, Some(F::DaemonKill)),
        (S::Guarded, Some(F::RedisPause)),
        (S::Guarded, Some(F::RedisRestart)),
    ];
    let case = |(strategy, fault)| Case { strategy, workload: Workload::ReadMostly, fault };
    all.into_iter().map(case).collect()
}

/// Every strategy under every fault that can strike it, then under every other workload: without a fault, and with slow readers.
///
/// Example: see [`worlds`].
#[must_use]
pub fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for workload in Workload::ALL.iter().copied() {
        for strategy in Strategy::ALL.iter().copied() {
            cases.push(Case { strategy, workload, fault: None });
            let all = Fault::ALL.iter().copied().filter(|fault| fault.misses(strategy).is_none());
            let first = workload == Workload::ReadMostly;
            let faults = all.filter(|fault| first || *fault == Fault::SlowReader);
            cases.extend(faults.map(|fault| Case { strategy, workload, fault: Some(fault) }));
        }
    }
    // Those that need the same servers one after the other.
    cases.sort_by_key(|case| match case.fault {
        Some(Fault::RedisFailover) => 1,
        Some(Fault::KafkaStop) => 2,
        _ => 0,
    });
    cases
}

/// Cases that can use the same servers.
///
/// ```
/// use rowbust_lab::live::{Plan, Workload, WorldOptions, compare::{full, worlds}};
/// let base = Plan::new(Workload::ReadMostly);
/// let worlds = worlds(&full());
/// assert_eq!(worlds.len(), 3);
/// for cases in worlds {
///     let plans: Vec<Plan> = cases.iter().map(|case| case.plan(&base)).collect();
///     let options = WorldOptions::for_plans("target/debug/rowbust", &plans);
///     println!("{} runs with sentinels: {}, Kafka: {}", plans.len(), options.sentinels, options.kafka);
/// }
/// ```
#[must_use]
pub fn worlds(cases: &[Case]) -> Vec<Vec<Case>> {
    let kind = |case: &Case| match case.fault {
        Some(Fault::RedisFailover) => 1,
        Some(Fault::KafkaStop) => 2,
        _ => 0,
    };
    cases.chunk_by(|a, b| kind(a) == kind(b)).map(<[Case]>::to_vec).collect()
}

/// What is worse than it was: a key that is stale for good where none was, a run that is void where none was; twice the share of stale
/// reads (and 1 % of reads more), three times the p99 of reads (and 5 ms more), half the throughput. Runs that only one of both has
/// aren't compared.
///
/// ```
/// use rowbust_lab::{live::compare::regressions, summary::Summary};
/// # use rowbust_lab::{checker::Report, summary::{Environment, FORMAT, Measures, Run}};
/// # let run = Run {
/// #     strategy: "cache-aside".to_owned(),
/// #     workload: "read-mostly".to_owned(),
/// #     length: 1_000_000_000,
/// #     fault: "none".to_owned(),
/// #     struck: Default::default(),
/// #     faults: Vec::new(),
/// #     stale_keys: Vec::new(),
/// #     report: Report { reads: 1000, stale_reads: 10, ..Report::default() },
/// #     measures: Measures::default(),
/// #     void: None,
/// #     repeats: 0,
/// # };
/// # let (database, redis, command) = (String::new(), String::new(), String::new());
/// # let environment = Environment { seed: 1, database, redis, cores: 2, command };
/// # let file = tempfile::NamedTempFile::new()?;
/// # let path = file.path();
/// # std::fs::write(path, serde_json::to_vec(&Summary { format: FORMAT, environment, runs: vec![run] })?)?;
/// let old = Summary::load(path)?;
/// let mut new = old.clone();
/// assert!(regressions(&old, &new).is_empty());
/// new.runs[0].report.stale_reads = 40;
/// assert_eq!(regressions(&old, &new), ["cache-aside read-mostly none: 4.00 % of reads stale, 1.00 % before"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn regressions(old: &Summary, new: &Summary) -> Vec<String> {
    let mut all = Vec::new();
    for now in &new.runs {
        let same = |run: &&Run| {
            (&run.strategy, &run.workload, &run.fault) == (&now.strategy, &now.workload, &now.fault)
        };
        let Some(was) = old.runs.iter().find(same) else { continue };
        let name = format!("{} {} {}", now.strategy, now.workload, now.fault);
        if was.void.is_some() {
            continue;
        }
        if now.void.is_some() {
            all.push(format!("{name}: void, which it wasn't"));
            continue;
        }
        let stale = |run: &Run| run.report.permanently_stale.len();
        if stale(was) == 0 && stale(now) > 0 {
            all.push(format!("{name}: {} keys stale for good, none before", stale(now)));
        }
        let (before, after) = (was.stale_ratio(), now.stale_ratio());
        if after > before * 2.0 && after > before + 0.01 {
            all.push(format!(
                "{name}: {:.2} % of reads stale, {:.2} % before",
                after * 100.0,
                before * 100.0
            ));
        }
        let (before, after) = (was.report.read_latency.p99, now.report.read_latency.p99);
        if after > before.saturating_mul(3) && after > before + 5_000_000 {
            all.push(format!(
                "{name}: p99 of reads {} ms, {} ms before",
                after / 1_000_000,
                before / 1_000_000
            ));
        }
        let (before, after) = (was.throughput(), now.throughput());
        if after < before / 2.0 {
            all.push(format!("{name}: {after:.0} operations a second, {before:.0} before"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::{Final, Quantiles, Report},
        summary::{Environment, FORMAT, Measures},
    };

    fn summary(change: impl FnOnce(&mut Run)) -> Summary {
        let mut run = Run {
            strategy: "guarded".into(),
            workload: "read-mostly".into(),
            length: 1_000_000_000,
            fault: "none".into(),
            struck: Default::default(),
            faults: Vec::new(),
            stale_keys: Vec::new(),
            report: Report {
                reads: 1000,
                stale_reads: 10,
                read_latency: Quantiles { p99: 2_000_000, ..Quantiles::default() },
                ..Report::default()
            },
            measures: Measures::default(),
            void: None,
            repeats: 0,
        };
        change(&mut run);
        let environment = Environment {
            seed: 1,
            database: String::new(),
            redis: String::new(),
            cores: 2,
            command: String::new(),
        };
        Summary { format: FORMAT, environment, runs: vec![run] }
    }

    #[test]
    fn only_what_is_clearly_worse_is_a_regression() {
        let old = summary(|_| {});
        let worse = |change: fn(&mut Run)| regressions(&old, &summary(change));
        assert!(worse(|_| {}).is_empty());
        assert!(worse(|run| run.report.stale_reads = 20).is_empty());
        assert!(worse(|run| run.report.reads = 501).is_empty());
        assert!(worse(|run| run.fault = "evictions".into()).is_empty());
        let stale = |run: &mut Run| {
            run.report.permanently_stale = vec![Final { key: 1, cached: Some(1), database: 2 }];
        };
        for (change, word) in [
            (stale as fn(&mut Run), "stale for good"),
            (|run| run.report.stale_reads = 31, "3.10 % of reads"),
            (|run| run.report.read_latency.p99 = 8_000_000, "8 ms"),
            (|run| run.length = 3_000_000_000, "operations"),
            (|run| run.void = Some("why".into()), "void"),
        ] {
            let worse = worse(change);
            assert!(worse.len() == 1 && worse[0].contains(word), "{worse:?}");
        }
        let void = summary(|run| run.void = Some("why".into()));
        assert!(regressions(&void, &summary(stale)).is_empty());
    }

    #[test]
    fn every_strategy_is_in_both_and_every_fault_strikes() {
        for cases in [quick(), full()] {
            for strategy in Strategy::ALL {
                assert!(cases.iter().any(|case| case.strategy == *strategy), "{}", strategy.name());
            }
            assert!(cases.iter().all(|case| case.fault.is_none_or(|f| f.misses(case.strategy).is_none())));
        }
        assert!(Fault::ALL.iter().all(|fault| full().iter().any(|case| case.fault == Some(*fault))));
        assert!(Workload::ALL.iter().all(|workload| full().iter().any(|case| case.workload == *workload)));
        assert_eq!(worlds(&quick()).len(), 1);
        assert_eq!(worlds(&full()).len(), 3);
    }
}
