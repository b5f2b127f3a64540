//! `delayed-double-delete`: delete the key, update the database, and delete the key again after a delay. The second delete is owed in Redis
//! before the first, due when the longest update and the delay are over, and after the update anew, due when the delay is over. In the
//! textbook form the writer's memory owes it, after the update.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, advance, begin, commit, committed, delete, plain_read},
};

pub(crate) struct DelayedDoubleDelete;

const OWED: u8 = 1;
const TO_UPDATE: u8 = 2;
const UPDATED: u8 = 3;

impl Strategy for DelayedDoubleDelete {
    fn name(&self) -> &'static str {
        "delayed-double-delete"
    }

    fn about(&self) -> &'static str {
        "delete the key, update the database, and delete the key again after a delay"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader is slower than the delay", Expect::Stale(8)),
            Setup::new(
                "replica",
                "the delay is longer than any read, but a replica lags longer",
                Expect::Stale(9),
            )
            .with(&[Condition::Grace, Condition::Replica]),
            Setup::new(
                "slow-commit",
                "prompt readers; an update takes longer than the first debt allows for, and its process dies",
                Expect::Stale(8),
            )
            .with(&[Condition::PromptReaders, Condition::WriterCrash]),
            Setup::new(
                "owed",
                "control: the delay is longer than any read, no update takes longer than allowed for, one server; writers may die",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[Condition::Grace, Condition::WriterCrash, Condition::Eviction]),
            Setup::new(
                "prompt",
                "control: prompt readers, one server; updates take as long as they like, and no writer dies",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[Condition::PromptReaders, Condition::Eviction]),
            Setup::new(
                "textbook",
                "the delay is longer than any read, but the process whose memory owes the second delete dies",
                Expect::Stale(6),
            )
            .with(&[Condition::Textbook, Condition::Grace, Condition::WriterCrash]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        let me = state.writers[usize::from(writer)];
        let textbook = setup.has(Condition::Textbook);
        match me.step {
            0 if textbook => begin(setup, state, writer, choice) && delete(state, writer, TO_UPDATE, say),
            0 => {
                if !begin(setup, state, writer, choice) {
                    return false;
                }
                state.timers |= 1 << state.begun;
                advance(state, writer, OWED);
                say.it(|| "owes a second DEL".into());
                true
            }
            _ if choice != 0 => false,
            OWED => delete(state, writer, TO_UPDATE, say),
            TO_UPDATE => commit(setup, state, writer, UPDATED, say),
            // As built, this brings back a debt that was paid too early.
            _ if committed(state, writer) => {
                state.timers |= 1 << me.write;
                advance(state, writer, 0);
                say.it(|| match textbook {
                    true => "owes a second DEL".into(),
                    false => "owes it from now on".into(),
                });
                true
            }
            _ => false,
        }
    }
}
