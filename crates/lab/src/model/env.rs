//! What happens by itself: the database and its replica, Redis, time, and the faults of processes.

use super::{
    mutant::Mutant,
    setup::{Condition, Setup},
    state::{Cell, NOBODY, PRIMARY, REPLICA, Saved, State},
    strategy::{Follows, Say, Strategy},
};

/// The oldest logged commit becomes visible at the primary.
pub(crate) fn visible(state: &mut State, say: &mut Say) -> bool {
    let visible = &mut state.visible[usize::from(PRIMARY)];
    if *visible >= state.commits {
        return false;
    }
    *visible += 1;
    say.it(|| format!("v{} becomes visible", state.order[usize::from(state.visible[0]) - 1]));
    true
}

/// The replica applies the next commit.
pub(crate) fn apply(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let visible = &mut state.visible[usize::from(REPLICA)];
    if !setup.has(Condition::Replica) || *visible >= state.commits {
        return false;
    }
    *visible += 1;
    say.it(|| format!("replica applies v{}", state.order[usize::from(state.visible[1]) - 1]));
    true
}

/// Whether the replica must catch up some day: it is in use, or should be.
pub(crate) fn replica_counts(state: &State) -> bool {
    (state.wanted | state.redis.pool | state.follower.sources) & (1 << REPLICA) != 0
}

pub(crate) fn evict(setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
    if !setup.has(Condition::Eviction) || *state.cell(key) == Cell::Absent {
        return false;
    }
    *state.cell(key) = Cell::Absent;
    say.it(|| "the key is evicted".into());
    true
}

pub(crate) fn lease_expires(setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
    if !matches!(state.cell(key), Cell::Lease(_)) || setup.is(Mutant::LeaseWithoutExpiry) {
        return false;
    }
    *state.cell(key) = Cell::Absent;
    say.it(|| "the lease expires".into());
    true
}

/// A lock expires: the exclusive one, or a reader's share. One whose holder works on expires only where the set-up says so.
pub(crate) fn lock_expires(setup: &Setup, state: &mut State, key: u8, share: u8, say: &mut Say) -> bool {
    let lock = &mut state.locks[usize::from(key)];
    let pauses = setup.has(Condition::LockExpiry);
    let expired = match share {
        0 if lock.write == NOBODY || lock.write != 0 && pauses => {
            lock.write = 0;
            true
        }
        1 if lock.read & 0x80 != 0 => {
            lock.read &= 0x7f;
            true
        }
        2.. if pauses && lock.read & (1 << (share - 2)) != 0 => {
            lock.read &= !(1 << (share - 2));
            true
        }
        _ => false,
    };
    if expired {
        say.it(|| match share {
            0 => "the lock expires".into(),
            1 => "a dead reader's lock expires".into(),
            share => format!("reader {}'s lock expires", share - 1),
        });
    }
    expired
}

/// Redis drops a lock and what it remembers: nobody has it, and it has no fence.
pub(crate) fn lock_lost(setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
    let lock = &mut state.locks[usize::from(key)];
    if !setup.has(Condition::LockLoss) || lock.is_free() && lock.fence == 0 {
        return false;
    }
    *lock = super::state::Lock { given: lock.given, ..Default::default() };
    say.it(|| "drops the lock and its fence".into());
    true
}

/// The delayed second delete of a write, owed by a timer.
pub(crate) fn timer(setup: &Setup, state: &mut State, write: u8, say: &mut Say) -> bool {
    if state.timers & (1 << write) == 0 {
        return false;
    }
    let key = state.key_of(write);
    let commits = state.commits_with(write).unwrap_or(0);
    let late =
        |reader: &super::state::Reader| reader.loaded && reader.key == key && reader.snapshot < commits;
    let writing = state.writers.iter().any(|writer| writer.write == write);
    if setup.has(Condition::Grace) && (writing || state.readers.iter().any(late)) {
        return false;
    }
    state.timers &= !(1 << write);
    *state.cell(key) = Cell::Absent;
    say.it(|| "the delay is over: second DEL".into());
    true
}

/// A removal that was sent before comes again.
pub(crate) fn duplicate(
    setup: &Setup,
    strategy: &dyn Strategy,
    state: &mut State,
    p: u8,
    say: &mut Say,
) -> bool {
    if !setup.has(Condition::Duplicates) || strategy.follows() == Follows::No || p >= state.commits {
        return false;
    }
    let key = state.key_at(p);
    if *state.cell(key) == Cell::Absent {
        return false;
    }
    *state.cell(key) = Cell::Absent;
    say.it(|| "an old UNLINK comes again".into());
    true
}

pub(crate) fn reader_crash(setup: &Setup, state: &mut State, reader: u8, say: &mut Say) -> bool {
    if !setup.has(Condition::ReaderCrash) || state.readers[usize::from(reader)].step == 0 {
        return false;
    }
    for lock in &mut state.locks {
        if lock.write == super::state::reader_owner(reader) {
            lock.write = NOBODY;
        }
    }
    state.end_read(reader);
    say.it(|| "killed".into());
    true
}

/// A writer is killed: its connection breaks, so an open transaction is rolled back.
pub(crate) fn writer_crash(setup: &Setup, state: &mut State, writer: u8, say: &mut Say) -> bool {
    if !setup.has(Condition::WriterCrash) || state.writers[usize::from(writer)].step == 0 {
        return false;
    }
    for owner in &mut state.row_locks {
        if *owner == writer + 1 {
            *owner = 0;
        }
    }
    for lock in &mut state.locks {
        if lock.write == writer + 1 {
            lock.write = NOBODY;
        }
    }
    state.writers[usize::from(writer)] = super::state::Writer::default();
    say.it(|| "killed".into());
    true
}

/// The operator takes the replica out.
pub(crate) fn leave(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let replica = 1 << REPLICA;
    if !setup.has(Condition::ReplicaLeaves) || state.wanted & replica == 0 {
        return false;
    }
    state.wanted &= !replica;
    say.it(|| "the operator takes the replica out".into());
    true
}

/// The operator adds the replica.
pub(crate) fn join(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let replica = 1 << REPLICA;
    if !setup.has(Condition::ReplicaJoins) || state.wanted & replica != 0 {
        return false;
    }
    state.wanted |= replica;
    say.it(|| "the operator adds the replica".into());
    true
}

/// Redis' state as of now is what it can fall back to.
pub(crate) fn save(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    if !setup.has(Condition::RedisRollback) || state.saved.is_some() {
        return false;
    }
    state.saved = Some(Saved { redis: state.redis, record_written: false });
    say.it(|| "takes a snapshot".into());
    true
}

/// Redis falls back.
pub(crate) fn roll_back(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let Some(saved) = state.saved.take() else { return false };
    // Only another process, or the same one after a resynchronisation, has another state: that is another run.
    let mismatch = saved.redis.mismatch || saved.record_written || setup.has(Condition::LooksAtRuns);
    state.redis = super::state::Redis { mismatch, ..saved.redis };
    say.it(|| "falls back to the snapshot".into());
    true
}
