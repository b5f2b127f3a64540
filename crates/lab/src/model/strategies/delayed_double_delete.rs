//! `delayed-double-delete`: delete the key, update the database, and delete the key again after a delay

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, advance, begin, commit, committed, delete, plain_read},
};

pub(crate) struct DelayedDoubleDelete;

impl Strategy for DelayedDoubleDelete {
    fn name(&self) -> &'static str {
        "delayed-double-delete"
    }

    fn about(&self) -> &'static str {
        "delete the key, update the database, and delete the key again after a delay"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader is slower than the delay", Expect::Stale(7)),
            Setup::new(
                "replica",
                "the delay is longer than any read, but a replica lags longer",
                Expect::Stale(8),
            )
            .with(&[Condition::Grace, Condition::Replica]),
            Setup::new(
                "crash",
                "the delay is longer than any read, but the process that owes the second delete dies",
                Expect::Stale(6),
            )
            .with(&[Condition::Grace, Condition::WriterCrash]),
            Setup::new(
                "slow-commit",
                "the second delete is owed in Redis from the start; the commit is slower than the delay, no reader is",
                Expect::Stale(6),
            )
            .with(&[Condition::OwedInRedis, Condition::PromptReaders]),
            Setup::new(
                "owed",
                "the second delete is owed in Redis from the start, and the delay is longer than any read and any commit; writers may die",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[Condition::Grace, Condition::OwedInRedis, Condition::WriterCrash, Condition::Eviction]),
            Setup::new(
                "grace",
                "control: the delay is longer than any read, one server, nobody dies",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[Condition::Grace, Condition::Eviction]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        let me = state.writers[usize::from(writer)];
        match me.step {
            0 => {
                let begun = begin(setup, state, writer, choice) && delete(state, writer, 1, say);
                if begun && setup.has(Condition::OwedInRedis) {
                    state.timers |= 1 << state.begun;
                    say.it(|| "DEL, and owes a second".into());
                }
                begun
            }
            _ if choice != 0 => false,
            1 if setup.has(Condition::OwedInRedis) => commit(setup, state, writer, 0, say),
            1 => commit(setup, state, writer, 2, say),
            // In the memory of the process until now.
            _ if committed(state, writer) => {
                state.timers |= 1 << me.write;
                advance(state, writer, 0);
                say.it(|| "owes a second DEL".into());
                true
            }
            _ => false,
        }
    }
}
