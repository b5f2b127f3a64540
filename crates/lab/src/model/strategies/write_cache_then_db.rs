//! `write-cache-then-db`: set the key to the new value, then update the database

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, advance, begin, commit, plain_read, put},
};

pub(crate) struct WriteCacheThenDb;

impl Strategy for WriteCacheThenDb {
    fn name(&self) -> &'static str {
        "write-cache-then-db"
    }

    fn about(&self) -> &'static str {
        "set the key to the new value, then update the database"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "two writers, nobody reads", Expect::Stale(4))
                .readers(0)
                .writers(2)
                .writes(2),
            Setup::new("commit-fails", "one writer, whose update the database may refuse", Expect::Stale(2))
                .readers(0)
                .with(&[Condition::CommitFails]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match (state.writers[usize::from(writer)].step, choice) {
            (0, _) => begin(setup, state, writer, choice) && put(state, writer, 1, say),
            (_, 0) => commit(setup, state, writer, 0, say),
            _ if setup.has(Condition::CommitFails) => {
                advance(state, writer, 0);
                say.it(|| "UPDATE: refused".into());
                true
            }
            _ => false,
        }
    }
}
