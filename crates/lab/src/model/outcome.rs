//! What is asked of a search, and what comes out of it.

use std::time::Duration;

use super::{property::Property, setup::Setup, trace::Trace};

/// How far a search may go.
///
/// ```
/// use rowbust_lab::model::{Limits, cases, check, verdict};
/// let limits = Limits { states: 1000, ..Limits::default() };
/// let outcome = check(&cases("guarded")[0], limits, &mut |_| {})?;
/// // What a bound cuts proves nothing.
/// assert!(outcome.cut == Some("states") && !outcome.holds());
/// assert_eq!(verdict(&outcome), "not exhausted: cut by the bound of states");
/// # Ok::<(), rowbust_lab::model::CheckError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// Steps from the start; 0: no bound.
    pub depth: usize,
    /// Unique states; each takes about 40 bytes, and those that wait to be explored about 400 more.
    pub states: usize,
}

impl Default for Limits {
    /// One thread, no bound of depth, 100 million states.
    fn default() -> Self {
        Self { threads: 1, depth: 0, states: 100_000_000 }
    }
}

/// How far a search is.
///
/// Example: see [`check_all`](super::check_all).
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Unique states so far.
    pub states: usize,
    /// Steps from the start.
    pub depth: usize,
    /// Since the search began.
    pub elapsed: Duration,
}

/// A property that doesn't hold, and the number of steps of the shortest way there.
///
/// Example: see [`Property`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// Steps.
    pub steps: usize,
}

/// What came out of a search.
///
/// ```
/// use rowbust_lab::model::{CheckError, Limits, Mutant, Outcome, check, mutant_case};
/// /// Whether it counts as a proof.
/// fn is_proved(outcome: &Outcome) -> bool {
///     outcome.holds() && outcome.omission() < 1e-6
/// }
/// let mut case = mutant_case(Mutant::NoLease);
/// let broken = check(&case, Limits::default(), &mut |_| {})?;
/// assert!(!is_proved(&broken) && broken.stale() == Some(Mutant::NoLease.steps()));
/// // As expected of the mutant, so that nothing is contradicted.
/// assert!(broken.is_expected() && !broken.contradicts());
///
/// case.setup.mutant = None;
/// let whole = check(&case, Limits::default(), &mut |_| {})?;
/// assert!(is_proved(&whole));
/// println!("{:#}", whole.to_json(false));
/// # Ok::<(), CheckError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The strategy's name.
    pub strategy: &'static str,
    /// The set-up that was explored.
    pub setup: Setup,
    /// Unique states visited (up to the names of readers and writers).
    pub states: usize,
    /// Steps from the start to the farthest state visited.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// A bound cut the search, so that what wasn't found may still exist.
    pub cut: Option<&'static str>,
    /// The search came to its end by itself: every reachable state was visited.
    pub exhausted: bool,
    /// Properties that don't hold, the shortest way first.
    pub violations: Vec<Violation>,
    /// The shortest way to a value that is stale for good; else to the first violation.
    pub trace: Option<Trace>,
    /// A value can be cached for good. Says something only if the search was exhausted.
    pub fills: bool,
}

impl Outcome {
    /// Steps to a value that is stale for good.
    ///
    /// Example: see [`Outcome`].
    pub fn stale(&self) -> Option<usize> {
        self.violations.iter().find(|v| v.property == Property::StaleForGood).map(|v| v.steps)
    }

    /// Every state was visited, no property is violated, and values can be cached.
    ///
    /// Example: see [`Outcome`].
    pub fn holds(&self) -> bool {
        self.exhausted && self.violations.is_empty() && self.fills
    }

    /// The upper bound of the probability that two different states had one 64-bit fingerprint, so that one wasn't explored:
    /// n² / 2⁶⁵.
    ///
    /// Example: see [`Outcome`].
    pub fn omission(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a bound to one digit")]
        let n = self.states as f64;
        n * n / 2f64.powi(65)
    }
}

/// What went wrong with a search itself.
///
/// ```
/// use rowbust_lab::model::{CheckError, Limits, cases, check};
/// let mut case = cases("cache-aside").remove(0);
/// case.setup.readers = 100;
/// match check(&case, Limits::default(), &mut |_| {}) {
///     Err(CheckError::Setup(why)) => assert_eq!(why, "readers must be 0 to 4, not 100"),
///     _ => unreachable!(),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Numbers that the model has no room for.
    #[error("{0}")]
    Setup(String),
    /// A bug of the model.
    #[error("the search of {strategy} in {setup} broke off: a thread panicked")]
    Panicked {
        /// The strategy.
        strategy: &'static str,
        /// The set-up.
        setup: &'static str,
    },
}
