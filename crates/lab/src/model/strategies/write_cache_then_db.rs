//! `write-cache-then-db`: set the key to the new value, then update the database; if that fails, unlink the key. The textbook form leaves the
//! key as it is.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, advance, begin, commit, delete, plain_read, put},
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
            Setup::new("crash", "one writer, which may be killed between its steps", Expect::Stale(2))
                .readers(0)
                .with(&[Condition::WriterCrash]),
            Setup::new(
                "prompt",
                "control: one writer, whose update the database may refuse; readers that are never interrupted",
                Expect::Holds,
            )
            .readers(2)
            .writes(2)
            .with(&[Condition::PromptReaders, Condition::CommitFails]),
            Setup::new(
                "textbook",
                "one writer, and nothing is done about an update that the database refuses",
                Expect::Stale(2),
            )
            .readers(0)
            .with(&[Condition::Textbook, Condition::CommitFails]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match (state.writers[usize::from(writer)].step, choice) {
            (0, _) => begin(setup, state, writer, choice) && put(state, writer, 1, say),
            (1, 0) => commit(setup, state, writer, 0, say),
            (1, _) if setup.has(Condition::CommitFails) => {
                advance(state, writer, if setup.has(Condition::Textbook) { 0 } else { 2 });
                say.it(|| "UPDATE: refused".into());
                true
            }
            (2, 0) => delete(state, writer, 0, say),
            _ => false,
        }
    }
}
