//! `logical-expiry`: values never expire in Redis, but carry a deadline; behind it one reader rebuilds, the others get the old value.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::{Cell, State, reader_owner},
    strategy::{Say, Strategy, loaded, only_commit, select},
};

pub(crate) struct LogicalExpiry;

impl Strategy for LogicalExpiry {
    fn name(&self) -> &'static str {
        "logical-expiry"
    }

    fn about(&self) -> &'static str {
        "values carry a deadline; behind it one reader rebuilds under a lock, the others get the old value"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "readers come again and again, and may die; a replica lags", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&[
                    Condition::Ttl,
                    Condition::Window,
                    Condition::Replica,
                    Condition::ReaderCrash,
                    Condition::LockExpiry,
                ]),
            Setup::new(
                "no-deadline",
                "control: without the deadline nothing ever rebuilds",
                Expect::Stale(5),
            ),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        let r = usize::from(reader);
        match state.readers[r].step {
            0 => {
                if choice >= setup.keys || matches!(state.cell(choice), Cell::Value { expired: false, .. }) {
                    return false;
                }
                let lock = &mut state.locks[usize::from(choice)].write;
                if *lock != 0 {
                    return false;
                }
                *lock = reader_owner(reader);
                state.readers[r].step = 1;
                state.readers[r].key = choice;
                say.it(|| "GET: nothing, or expired; rebuild lock".into());
                true
            }
            1 => select(state, setup.sources(), reader, choice, 2, say),
            _ if choice != 0 => false,
            2 => {
                let (key, write) = (state.readers[r].key, loaded(state, reader));
                *state.cell(key) = Cell::value(write);
                state.readers[r] = crate::model::state::Reader { step: 3, key, ..Default::default() };
                say.it(|| format!("SET v{write}, with a new deadline"));
                true
            }
            _ => {
                let lock = &mut state.locks[usize::from(state.readers[r].key)].write;
                if *lock == reader_owner(reader) {
                    *lock = 0;
                }
                state.end_read(reader);
                say.it(|| "unlocks".into());
                true
            }
        }
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        only_commit(setup, state, writer, choice, say)
    }

    /// The deadline passes; the value stays.
    fn expire(&self, setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
        let Cell::Value { expired: expired @ false, .. } = state.cell(key) else { return false };
        if !setup.has(Condition::Ttl) {
            return false;
        }
        *expired = true;
        say.it(|| "the deadline passes".into());
        true
    }
}
