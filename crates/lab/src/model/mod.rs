//! The model: every strategy's steps against every interleaving of a small world.
//!
//! A world has one or two keys, a few readers and writers, a primary (and a replica that lags), Redis, and for some strategies a
//! follower of the binlog. Each step of each of them is indivisible; between two steps anything that the set-up allows may happen, for
//! any length of time: there are no clocks. [stateright](https://docs.rs/stateright) visits every reachable state, breadth first, and looks
//! at the [properties](Property). What a set-up leaves out is not shown: `docs/lab.md` says what that is.
//!
//! ```
//! use rowbust_lab::model::{self, Condition, Limits, Mutant};
//! // Guarded without its leases fails; with them it holds, whatever Redis evicts.
//! let mut case = model::mutant_case(Mutant::NoLease);
//! assert!(!model::check(&case, Limits::default(), &mut |_| {})?.holds());
//! case.setup.mutant = None;
//! case.setup.set(Condition::Eviction, true);
//! assert!(model::check(&case, Limits::default(), &mut |_| {})?.holds());
//! # Ok::<(), model::CheckError>(())
//! ```
//!
//! Guarantees: a trace given is one of the shortest; "holds" is said only if no bound cut the search. Fingerprints of states have 64
//! bits: [`Outcome::omission`] bounds the probability that a state was missed. Depends on nothing of ours.

mod check;
mod env;
mod follower;
mod mutant;
mod outcome;
mod property;
mod report;
mod setup;
mod state;
mod strategies;
mod strategy;
mod trace;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

pub use self::{
    mutant::Mutant,
    outcome::{CheckError, Limits, Outcome, Progress, Violation},
    property::Property,
    report::{expected, verdict},
    setup::{Condition, Expect, Setup},
    strategies::NAMES,
    trace::Trace,
};

/// A strategy in a set-up, to be explored.
///
/// Example: see [`cases`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// One of [`NAMES`].
    pub strategy: &'static str,
    /// The set-up.
    pub setup: Setup,
}

/// What a strategy does, in one line. Nothing if there is none of that name.
///
/// ```
/// use rowbust_lab::model::{NAMES, about};
/// for name in NAMES {
///     println!("{name}: {}", about(name).unwrap_or_default());
/// }
/// assert_eq!(about("cache-aside"), Some("update the database, then delete the key"));
/// assert_eq!(about("no-cache"), None);
/// ```
pub fn about(strategy: &str) -> Option<&'static str> {
    strategies::find(strategy).map(|strategy| strategy.about())
}

/// All set-ups of a strategy, the default one first. None if there is no strategy of that name.
///
/// ```
/// use rowbust_lab::model::{Case, Expect, cases, expected};
/// for Case { strategy, setup } in cases("binlog-twice") {
///     println!("{strategy} {}: {} ({}); {}", setup.name, setup.about, setup.summary(), expected(&setup));
/// }
/// assert!(matches!(cases("binlog-twice")[0].setup.expect, Expect::Stale(_)));
/// assert!(cases("no-cache").is_empty());
/// ```
pub fn cases(strategy: &str) -> Vec<Case> {
    let Some(strategy) = strategies::find(strategy) else { return Vec::new() };
    strategy.setups().into_iter().map(|setup| Case { strategy: strategy.name(), setup }).collect()
}

/// Every strategy in each of its set-ups.
///
/// Example: see [`check_all`].
pub fn all_cases() -> Vec<Case> {
    NAMES.iter().flat_map(|name| cases(name)).collect()
}

/// `guarded` with a sentence left out, in the smallest set-up that shows it.
///
/// Example: see [`Mutant`].
pub fn mutant_case(mutant: Mutant) -> Case {
    Case { strategy: "guarded", setup: mutant.setup() }
}

/// Explores one case; `progress` is called now and then.
///
/// # Errors
/// If the set-up's numbers are out of bounds, or the model has a bug.
///
/// ```
/// use rowbust_lab::model::{Condition, Limits, cases, check};
/// // One delete per event: a commit is in the binlog before readers can see it.
/// let mut case = cases("binlog").remove(0);
/// let outcome = check(&case, Limits::default(), &mut |at| eprintln!("{} states", at.states))?;
/// println!("{}", outcome.trace.as_ref().map_or(String::new(), |trace| trace.table(Some(120))));
/// assert!(outcome.stale().is_some());
/// // On a primary where what is logged is visible at once there is no such window.
/// case.setup.set(Condition::Window, false);
/// assert!(check(&case, Limits::default(), &mut |_| {})?.holds());
/// # Ok::<(), rowbust_lab::model::CheckError>(())
/// ```
pub fn check(case: &Case, limits: Limits, progress: &mut dyn FnMut(Progress)) -> Result<Outcome, CheckError> {
    let strategy = strategies::find(case.strategy)
        .ok_or_else(|| CheckError::Setup(format!("no strategy {}", case.strategy)))?;
    check::run(strategy, &case.setup, limits, progress)
}

/// Explores many cases, `limits.threads` at a time, each by one thread. Outcomes come in the order of the cases; `done` is called with
/// the number of each as soon as it is there, `progress` with the number of one that is being explored.
///
/// # Errors
/// The first that [`check`] gives.
///
/// ```
/// use rowbust_lab::model::{Limits, Progress, all_cases, check_all, verdict};
/// let cases: Vec<_> = all_cases().into_iter().filter(|case| case.setup.name == "default" && case.strategy != "guarded").collect();
/// let limits = Limits { threads: 2, ..Limits::default() };
/// let progress = |place: usize, at: Progress| eprintln!("{}: {} states", cases[place].strategy, at.states);
/// for outcome in check_all(&cases, limits, &progress, &|_, _| {})? {
///     println!("{}: {}", outcome.strategy, verdict(&outcome));
///     assert!(outcome.is_expected());
/// }
/// # Ok::<(), rowbust_lab::model::CheckError>(())
/// ```
pub fn check_all(
    cases: &[Case],
    limits: Limits,
    progress: &(dyn Fn(usize, Progress) + Sync),
    done: &(dyn Fn(usize, &Outcome) + Sync),
) -> Result<Vec<Outcome>, CheckError> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Result<Outcome, CheckError>>>> =
        Mutex::new(cases.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..limits.threads.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let limits = Limits { threads: 1, ..limits };
                    let outcome = check(case, limits, &mut |at| progress(index, at));
                    if let Ok(outcome) = &outcome {
                        done(index, outcome);
                    }
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes[index] = Some(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outcomes.into_iter().flatten().collect()
}
