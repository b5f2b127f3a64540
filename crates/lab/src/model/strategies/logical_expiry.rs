//! `logical-expiry`: an entry past its TTL stays in Redis for a while longer; one reader rebuilds it under a lock, the others get the old
//! value. Who finds no entry at all waits for the lock, and in the end loads without it.

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
        "past its TTL an entry stays for a while: one reader rebuilds it under a lock, the others get the old value"
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
            Setup::new("no-deadline", "control: without a TTL nothing ever rebuilds", Expect::Stale(5)),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        let r = usize::from(reader);
        match state.readers[r].step {
            0 => {
                if choice >= setup.keys || matches!(state.cell(choice), Cell::Value { expired: false, .. }) {
                    return false;
                }
                let is_absent = *state.cell(choice) == Cell::Absent;
                let lock = &mut state.locks[usize::from(choice)].write;
                let is_free = *lock == 0;
                // Who finds the lock taken hands the old entry out.
                if !is_free && !is_absent {
                    return false;
                }
                if is_free {
                    *lock = reader_owner(reader);
                }
                state.readers[r].step = 1;
                state.readers[r].key = choice;
                say.it(|| match (is_free, is_absent) {
                    (true, true) => "GET: nothing; rebuild lock".into(),
                    (true, false) => "GET: past its TTL; rebuild lock".into(),
                    _ => "GET: nothing; waits in vain for the rebuild lock".into(),
                });
                true
            }
            1 => select(state, setup.sources(), reader, choice, 2, say),
            _ if choice != 0 => false,
            2 => {
                let (key, write) = (state.readers[r].key, loaded(state, reader));
                *state.cell(key) = Cell::value(write);
                state.readers[r] = crate::model::state::Reader { step: 3, key, ..Default::default() };
                say.it(|| format!("SET v{write}"));
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

    /// The TTL passes, and the value stays; then the time that it is kept for, and it goes.
    fn expire(&self, setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
        let cell = state.cell(key);
        let Cell::Value { expired, .. } = cell else { return false };
        if !setup.has(Condition::Ttl) {
            return false;
        }
        if *expired {
            *cell = Cell::Absent;
            say.it(|| "the value expires".into());
        } else {
            *expired = true;
            say.it(|| "the TTL passes".into());
        }
        true
    }
}
