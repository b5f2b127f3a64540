//! Places between a strategy's steps at which a test can hold it up.

use std::fmt;

use futures_util::future::BoxFuture;

/// The step that comes next. Which ones there are, and in which order, is on the strategy's page; a look at the pool that goes out
/// together with the request for a lease is no step of its own.
///
/// ```
/// use rowbust_client::Step;
/// /// Where a reader that is held up has read a row, and not filled yet.
/// fn is_race(step: Step) -> bool {
///     matches!(step, Step::Fill)
/// }
/// assert!(is_race(Step::Fill) && !is_race(Step::Load));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Reading the key.
    Get,
    /// Asking for a lease.
    Lease,
    /// Taking a lock.
    Lock,
    /// Reading the pool of read sources.
    Pool,
    /// Running the caller's loader.
    Load,
    /// Filling: SET, or FILL under a lease or fence.
    Fill,
    /// Running the caller's update.
    Update,
    /// A writer's SET.
    Set,
    /// A writer's first, or only, delete.
    Delete,
    /// The second delete of a delayed double delete, by whichever process carries it out.
    SecondDelete,
    /// Giving a lock back.
    Unlock,
}

/// Called before each step, with its key. A hook can only delay what the strategy does anyway: it has no way to change, add or skip
/// a step. For tests and the lab; without one there is no cost.
///
/// ```
/// use futures_util::future::BoxFuture;
/// use rowbust_client::{Hooks, Step};
///
/// #[derive(Debug)]
/// struct SlowFills;
///
/// impl Hooks for SlowFills {
///     fn before<'a>(&'a self, step: Step, _key: &'a str) -> BoxFuture<'a, ()> {
///         Box::pin(async move {
///             if step == Step::Fill {
///                 tokio::time::sleep(std::time::Duration::from_millis(50)).await;
///             }
///         })
///     }
/// }
/// ```
pub trait Hooks: fmt::Debug + Send + Sync {
    /// Completes when the step may be taken. `key` is what the step is about: of one that several keys share, the first; of [`Step::Pool`], the
    /// key at which the pool is published.
    ///
    /// Example: see [`Hooks`].
    fn before<'a>(&'a self, step: Step, key: &'a str) -> BoxFuture<'a, ()>;
}
