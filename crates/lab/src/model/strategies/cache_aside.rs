//! `cache-aside`: update the database, then delete the key

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, begin, commit, committed, delete, plain_read},
};

pub(crate) struct CacheAside;

impl Strategy for CacheAside {
    fn name(&self) -> &'static str {
        "cache-aside"
    }

    fn about(&self) -> &'static str {
        "update the database, then delete the key"
    }

    fn setups(&self) -> Vec<Setup> {
        let prompt = [Condition::PromptReaders];
        vec![
            Setup::new("default", "a reader is slower than a writer", Expect::Stale(5)),
            Setup::new(
                "replica",
                "prompt readers, but they may read from a replica that lags",
                Expect::Stale(6),
            )
            .with(&[Condition::PromptReaders, Condition::Replica]),
            Setup::new(
                "crash",
                "prompt readers, but a writer may be killed before it deletes",
                Expect::Stale(5),
            )
            .with(&[Condition::PromptReaders, Condition::WriterCrash]),
            Setup::new("prompt", "control: nobody is slow, nobody dies, one server", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(3)
                .with(&prompt),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        match state.writers[usize::from(writer)].step {
            0 => begin(setup, state, writer, choice) && commit(setup, state, writer, 1, say),
            _ => choice == 0 && committed(state, writer) && delete(state, writer, 0, say),
        }
    }
}
