//! `write-db-then-cache`: update the database, then set the key to the new value

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, begin, commit, committed, plain_read, put},
};

pub(crate) struct WriteDbThenCache;

impl Strategy for WriteDbThenCache {
    fn name(&self) -> &'static str {
        "write-db-then-cache"
    }

    fn about(&self) -> &'static str {
        "update the database, then set the key to the new value"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "two writers, nobody reads", Expect::Stale(4))
                .readers(0)
                .writers(2)
                .writes(2),
            Setup::new("one-writer", "one writer, and a reader slower than it", Expect::Stale(5)),
            Setup::new(
                "prompt",
                "control: one writer, and readers that are never interrupted",
                Expect::Holds,
            )
            .readers(2)
            .writes(2)
            .with(&[Condition::PromptReaders]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match state.writers[usize::from(writer)].step {
            0 => begin(setup, state, writer, choice) && commit(setup, state, writer, 1, say),
            _ => choice == 0 && committed(state, writer) && put(state, writer, 0, say),
        }
    }
}
