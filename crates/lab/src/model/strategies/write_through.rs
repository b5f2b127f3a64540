//! `write-through`: writers take a lock in Redis, update the database, and set the key to the new value, or unlink it if the update failed.
//! In the textbook form the row's lock orders the writers: in one transaction the row is updated, the key set, and then committed.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::{Cell, State},
    strategy::{Say, Strategy, advance, begin, commit, committed, plain_read, put},
};

pub(crate) struct WriteThrough;

impl Strategy for WriteThrough {
    fn name(&self) -> &'static str {
        "write-through"
    }

    fn about(&self) -> &'static str {
        "under a write lock in Redis: update the database, then set the key"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader is slower than a writer", Expect::Stale(7)),
            Setup::new(
                "lock-expiry",
                "two writers and no reader; a lock expires while its writer pauses",
                Expect::Stale(9),
            )
            .readers(0)
            .writers(2)
            .writes(2)
            .with(&[Condition::LockExpiry]),
            Setup::new(
                "crash",
                "prompt readers, but a writer may be killed before it sets the key",
                Expect::Stale(7),
            )
            .with(&[Condition::PromptReaders, Condition::WriterCrash]),
            Setup::new(
                "prompt",
                "control: prompt readers, no lock expires, no writer dies; updates may fail",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(3)
            .with(&[Condition::PromptReaders, Condition::CommitFails, Condition::Eviction]),
            Setup::new(
                "textbook",
                "in one transaction: update, set the key, commit; the commit may fail",
                Expect::Stale(3),
            )
            .readers(0)
            .with(&[Condition::Textbook, Condition::CommitFails]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match setup.has(Condition::Textbook) {
            true => in_a_transaction(setup, state, writer, choice, say),
            false => under_a_lock(setup, state, writer, choice, say),
        }
    }
}

const COMMITTED: u8 = 2;
const REFUSED: u8 = 3;
const TO_UNLOCK: u8 = 4;

fn under_a_lock(setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
    let me = state.writers[usize::from(writer)];
    match (me.step, choice) {
        (0, key) => {
            if key >= setup.keys
                || !state.locks[usize::from(key)].is_free()
                || !begin(setup, state, writer, key)
            {
                return false;
            }
            state.locks[usize::from(key)].write = writer + 1;
            advance(state, writer, 1);
            say.it(|| "write lock".into());
            true
        }
        (1, 0) => commit(setup, state, writer, COMMITTED, say),
        (1, _) if setup.has(Condition::CommitFails) => {
            advance(state, writer, REFUSED);
            say.it(|| "UPDATE: refused".into());
            true
        }
        (COMMITTED, 0) => committed(state, writer) && put(state, writer, TO_UNLOCK, say),
        (REFUSED, 0) => {
            *state.cell(me.key) = Cell::Absent;
            advance(state, writer, TO_UNLOCK);
            say.it(|| "UNLINK".into());
            true
        }
        (TO_UNLOCK, 0) => {
            state.locks[usize::from(me.key)].unlock_write(writer);
            advance(state, writer, 0);
            say.it(|| "unlocks".into());
            true
        }
        _ => false,
    }
}

fn in_a_transaction(setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
    let me = state.writers[usize::from(writer)];
    match (me.step, choice) {
        (0, key) => {
            if key >= setup.keys
                || state.row_locks[usize::from(key)] != 0
                || !begin(setup, state, writer, key)
            {
                return false;
            }
            state.row_locks[usize::from(key)] = writer + 1;
            advance(state, writer, 1);
            let write = state.begun;
            say.it(|| format!("BEGIN, UPDATE to v{write}"));
            true
        }
        (1, 0) => put(state, writer, 2, say),
        (2, 0) => {
            state.row_locks[usize::from(me.key)] = 0;
            commit(setup, state, writer, 0, say);
            say.it(|| "COMMIT".into());
            true
        }
        (2, _) if setup.has(Condition::CommitFails) => {
            state.row_locks[usize::from(me.key)] = 0;
            advance(state, writer, 0);
            say.it(|| "COMMIT fails: rolled back".into());
            true
        }
        _ => false,
    }
}
