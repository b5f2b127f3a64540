//! `guarded`: both removals, and a fill needs a lease, which each removal takes away.
//!
//! A lease and a value are in one key. A reader takes the lease, then reads the pool, then opens a fresh snapshot at a member, then fills;
//! the fill is carried out only if the key still holds its own lease. To load a value anew before its time, the lease is put before the
//! value in the same key.

use crate::model::{
    mutant::Mutant,
    setup::{Condition, Expect, Setup},
    state::{Cell, State},
    strategy::{Follows, Say, Strategy, loaded, only_commit, select},
};

pub(crate) struct Guarded;

impl Strategy for Guarded {
    fn name(&self) -> &'static str {
        "guarded"
    }

    fn about(&self) -> &'static str {
        "both removals, and fills need a lease: no stale value is left behind, with no clock in the argument"
    }

    fn follows(&self) -> Follows {
        Follows::Twice
    }

    fn setups(&self) -> Vec<Setup> {
        use Condition::*;
        let faults = [Window, Replica, Eviction, Duplicates, LostReplies, ReaderCrash, Backlog];
        let with = |name, about, more: &[Condition]| {
            Setup::new(name, about, Expect::Holds).readers(2).writers(2).writes(2).with(&faults).with(more)
        };
        vec![
            with(
                "base",
                "a window, a replica that lags, eviction, duplicates, lost replies, readers that die",
                &[],
            ),
            with("crash", "and the follower may be killed at any time", &[FollowerCrash]),
            with("queue", "and removals may fail: the queue owes them", &[FollowerCrash, RedisErrors]),
            with(
                "pool",
                "and the replica leaves and joins the pool",
                &[FollowerCrash, ReplicaLeaves, ReplicaJoins],
            ),
            with(
                "refresh",
                "as pool, and readers load anew what is cached, under a lease before the value",
                &[FollowerCrash, ReplicaLeaves, ReplicaJoins, EarlyRefresh],
            ),
            with("join", "and the replica joins the pool", &[FollowerCrash, ReplicaJoins]),
            with("rollback", "and Redis falls back to earlier states", &[RedisRollback]),
            with(
                "rollback-refresh",
                "Redis falls back, and readers load anew what is cached",
                &[RedisRollback, EarlyRefresh],
            ),
            with(
                "rollback-queue",
                "Redis falls back, and removals may fail: what the queue owes holds F",
                &[RedisRollback, RedisErrors],
            ),
            with(
                "rollback-crash",
                "Redis falls back, and the follower may be killed",
                &[RedisRollback, FollowerCrash],
            ),
            with(
                "rollback-pool",
                "Redis falls back, and the replica leaves and joins",
                &[RedisRollback, ReplicaLeaves, ReplicaJoins],
            ),
            with("runs", "as rollback-crash, told by runs", &[RedisRollback, FollowerCrash, LooksAtRuns]),
            with(
                "runs-pool",
                "as rollback-pool, told by runs, and the follower may be killed; one write",
                &[RedisRollback, FollowerCrash, LooksAtRuns, ReplicaLeaves, ReplicaJoins],
            )
            .writes(1),
            with(
                "everything",
                "all of these at once, for one write",
                &[FollowerCrash, RedisErrors, RedisRollback, ReplicaLeaves, ReplicaJoins],
            )
            .writes(1),
            with("keys", "two keys: settled changes behind unsettled ones", &[FollowerCrash]).keys(2),
            with("readers", "three readers", &[FollowerCrash]).readers(3),
            with("writes", "three writes", &[FollowerCrash]).writes(3),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        leased_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        only_commit(setup, state, writer, choice, say)
    }
}

/// Steps of a reader; without a pool that changes, step 2 is left out.
const LEASED: u8 = 1;
const POOL_READ: u8 = 2;
const LOADED: u8 = 3;
/// Only of mutants: the step that belongs behind the lease was taken before it.
const TOO_EARLY: u8 = 4;

/// GET and LEASE; the pool; SELECT; FILL.
pub(crate) fn leased_read(setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
    let r = usize::from(reader);
    match state.readers[r].step {
        0 if setup.is(Mutant::OldSnapshot) => {
            // Key 1 only: choices are sources here.
            *state.cell(0) == Cell::Absent && select(state, setup.sources(), reader, choice, TOO_EARLY, say)
        }
        0 if setup.is(Mutant::PoolBeforeLease) => {
            if choice != 0 || *state.cell(0) != Cell::Absent {
                return false;
            }
            state.readers[r].step = TOO_EARLY;
            state.readers[r].pool = state.redis.pool;
            say.it(|| "GET: nothing; reads the pool".into());
            true
        }
        0 => choice < setup.keys && lease(setup, state, reader, choice, LEASED, say),
        TOO_EARLY => {
            let next = if setup.is(Mutant::OldSnapshot) { LOADED } else { POOL_READ };
            choice == 0 && lease(setup, state, reader, 0, next, say)
        }
        LEASED if setup.pool_changes() => {
            if choice != 0 {
                return false;
            }
            state.readers[r].step = POOL_READ;
            state.readers[r].pool = state.redis.pool;
            say.it(|| "reads the pool".into());
            true
        }
        LEASED => select(state, setup.sources(), reader, choice, LOADED, say),
        POOL_READ => select(state, state.readers[r].pool, reader, choice, LOADED, say),
        _ => fill(setup, state, reader, choice, say),
    }
}

/// GET: a miss, or no step at all. LEASE: granted, or no step (the reader backs off, and reads without filling).
fn lease(setup: &Setup, state: &mut State, reader: u8, key: u8, next: u8, say: &mut Say) -> bool {
    match *state.cell(key) {
        Cell::Absent => {}
        Cell::Value { write, .. } if setup.has(Condition::EarlyRefresh) => {
            *state.cell(key) = Cell::Early { write, owner: reader };
            let me = &mut state.readers[usize::from(reader)];
            me.step = next;
            me.key = key;
            me.early = setup.is(Mutant::RefreshUnchecked);
            say.it(|| format!("GET: v{write}; EARLY: granted"));
            return true;
        }
        _ => return false,
    }
    let plain = setup.is(Mutant::NoLease);
    if !plain {
        *state.cell(key) = Cell::Lease(reader);
    }
    let me = &mut state.readers[usize::from(reader)];
    me.step = next;
    me.key = key;
    say.it(|| if plain { "GET: nothing".into() } else { "GET: nothing; LEASE: granted".into() });
    true
}

/// FILL. With the second choice the reply gets lost, and the reader sends it again.
fn fill(setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
    let key = state.readers[usize::from(reader)].key;
    let write = loaded(state, reader);
    let cell = *state.cell(key);
    let unchecked = state.readers[usize::from(reader)].early;
    let accepted = cell.owner() == Some(reader)
        || unchecked
        || cell == Cell::Absent && setup.is(Mutant::FillOnAbsence)
        || setup.is(Mutant::NoLease);
    if choice == 1 && !(accepted && setup.has(Condition::LostReplies)) {
        return false;
    }
    if accepted {
        *state.cell(key) = Cell::value(write);
    }
    if choice == 0 {
        state.end_read(reader);
    }
    say.it(|| match (accepted, choice) {
        (true, 0) if unchecked || setup.is(Mutant::NoLease) => format!("SET v{write}"),
        (true, 0) => format!("FILL v{write}: accepted"),
        (true, _) => format!("FILL v{write}: accepted, the reply is lost"),
        (false, _) => format!("FILL v{write}: refused"),
    });
    true
}
