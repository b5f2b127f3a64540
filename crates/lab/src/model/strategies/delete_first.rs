//! `delete-first`: delete the key, then update the database

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, begin, commit, delete, plain_read},
};

pub(crate) struct DeleteFirst;

impl Strategy for DeleteFirst {
    fn name(&self) -> &'static str {
        "delete-first"
    }

    fn about(&self) -> &'static str {
        "delete the key, then update the database"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader comes between the two steps", Expect::Stale(5)),
            Setup::new("prompt", "even if no reader is ever interrupted", Expect::Stale(5))
                .with(&[Condition::PromptReaders]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match state.writers[usize::from(writer)].step {
            0 => begin(setup, state, writer, choice) && delete(state, writer, 1, say),
            _ => choice == 0 && commit(setup, state, writer, 0, say),
        }
    }
}
