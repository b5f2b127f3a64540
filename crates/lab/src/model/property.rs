//! What must hold in every state, and what must be possible.

use super::{
    check::World,
    setup::Condition,
    state::{Cell, Owed, State},
    strategy::{Follows, loaded},
};

/// A property of the model.
///
/// ```
/// use rowbust_lab::model::{Limits, Mutant, Property, Violation, check, mutant_case};
/// for property in Property::ALL {
///     println!("{}: {}", property.name(), property.about());
/// }
/// // The pool that readers choose from names a server that lacks a commit, before a stale value shows.
/// let outcome = check(&mutant_case(Mutant::SecondBeforeVisibility), Limits::default(), &mut |_| {})?;
/// assert_eq!(outcome.violations[0], Violation { property: Property::Pool, steps: 4 });
/// # Ok::<(), rowbust_lab::model::CheckError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// Never: the cache holds another value than the database, and nothing that must still happen can change it.
    StaleForGood,
    /// Never: a lease or lock is left, its holder is gone, and nothing that must still happen takes it away.
    Guards,
    /// Never: the checkpoint could pass a change whose counting removal is neither acknowledged by Redis nor owed by the queue.
    Coverage,
    /// Never: the counting removal of a commit is part of Redis' history, and the key holds a value without the commit or would accept it.
    Finality,
    /// Never: a source in the published pool lacks a commit whose counting removal is done.
    Pool,
    /// Possible: with nothing left to happen, the cache holds a value that a write has made.
    Fills,
}

impl Property {
    /// All, in the order of their indices.
    ///
    /// Example: see [`Property`].
    pub const ALL: &[Property] = &[
        Property::StaleForGood,
        Property::Guards,
        Property::Coverage,
        Property::Finality,
        Property::Pool,
        Property::Fills,
    ];

    /// Its name in output.
    ///
    /// Example: see [`Property`].
    pub fn name(self) -> &'static str {
        match self {
            Property::StaleForGood => "never-stale-for-good",
            Property::Guards => "guards-are-released",
            Property::Coverage => "coverage",
            Property::Finality => "finality",
            Property::Pool => "pool-has-what-is-done",
            Property::Fills => "values-get-cached",
        }
    }

    /// What it says, in one line.
    ///
    /// Example: see [`Property`].
    pub fn about(self) -> &'static str {
        match self {
            Property::StaleForGood => {
                "the cache never holds another value than the database once nothing that must still happen can change it"
            }
            Property::Guards => "no lease and no lock outlives its holder for good",
            Property::Coverage => {
                "a change is settled only when its counting removal is acknowledged by Redis or owed by the queue"
            }
            Property::Finality => {
                "after its counting removal Redis neither holds nor accepts a value that lacks the commit"
            }
            Property::Pool => {
                "every source that the pool names has every commit whose counting removal is done"
            }
            Property::Fills => "a value that a write made can get cached and stay",
        }
    }

    /// Something bad that must never be reached (else: something good that must be reachable).
    pub(crate) fn is_safety(self) -> bool {
        self != Property::Fills
    }

    /// Whether the state shows it: the bad thing, or the good one.
    pub(crate) fn seen(self, world: &World, state: &State) -> bool {
        match self {
            Property::StaleForGood => keys(world).any(|key| state.is_stale(key)) && world.is_quiet(state),
            Property::Guards => guarded_by_nobody(world, state) && world.is_quiet(state),
            Property::Coverage => is_uncovered(world, state),
            Property::Finality => {
                !is_unnoticed(world, state)
                    && keys(world).any(|key| is_not_final(state, key, world.setup().readers))
            }
            Property::Pool => !is_unnoticed(world, state) && done_commits(state) > pool_has(state),
            Property::Fills => {
                state.commits > 0
                    && keys(world).any(|key| {
                        matches!(state.redis.cells[usize::from(key)], Cell::Value { write, .. } if write > 0)
                            && !state.is_stale(key)
                    })
                    && world.is_settled(state)
            }
        }
    }

    /// Whether it says something about a strategy.
    pub(crate) fn applies(self, world: &World) -> bool {
        match self {
            Property::StaleForGood | Property::Guards => true,
            // Nobody fills without a reader.
            Property::Fills => world.setup().readers > 0,
            Property::Coverage | Property::Finality | Property::Pool => world.strategy().name() == "guarded",
        }
    }
}

fn keys(world: &World) -> impl Iterator<Item = u8> {
    0..world.setup().keys
}

fn guarded_by_nobody(world: &World, state: &State) -> bool {
    keys(world).any(|key| {
        matches!(state.redis.cells[usize::from(key)], Cell::Lease(_))
            || !state.locks[usize::from(key)].is_free()
    })
}

/// Redis fell back, and who looks at runs only hasn't looked yet: what is removed meanwhile will be repeated.
fn is_unnoticed(world: &World, state: &State) -> bool {
    world.setup().has(Condition::LooksAtRuns) && state.redis.mismatch
}

/// A settled prefix with a hole in it.
fn is_uncovered(world: &World, state: &State) -> bool {
    if world.strategy().follows() == Follows::No {
        return false;
    }
    let owed = |p: &u8| {
        let p = usize::from(*p);
        // What a repeat after a rollback still owes is not yet settled again, so this looks at what is.
        state.redis.acked & (1 << p) == 0 && state.follower.queue[p] == Owed::No
    };
    // A rollback that nobody has seen yet takes acknowledgements back; the record will show it.
    !state.redis.mismatch && (0..world.frontier(state)).any(|p| owed(&p))
}

/// A value without a commit that is done, or a reader whose fill of one would be accepted.
fn is_not_final(state: &State, key: u8, readers: u8) -> bool {
    let Some(done) =
        (0..state.commits).rev().find(|p| state.redis.acked & (1 << p) != 0 && state.key_at(*p) == key)
    else {
        return false;
    };
    let cell = state.redis.cells[usize::from(key)];
    let lacks = |write| state.commits_with(write).is_none_or(|commits| commits <= done);
    cell.served().is_some_and(lacks)
        || (0..readers).any(|r| {
            cell.owner() == Some(r) && state.readers[usize::from(r)].loaded && lacks(loaded(state, r))
        })
}

/// Commits up to the last whose counting removal is done.
fn done_commits(state: &State) -> u8 {
    (0..state.commits).rev().find(|p| state.redis.acked & (1 << p) != 0).map_or(0, |p| p + 1)
}

/// Commits that every member of the pool has.
fn pool_has(state: &State) -> u8 {
    let members = (0u8..).zip(state.visible).filter(|(source, _)| state.redis.pool & (1 << source) != 0);
    members.map(|(_, visible)| visible).min().unwrap_or(0)
}
