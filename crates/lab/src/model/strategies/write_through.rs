//! `write-through`: in one transaction: update the row (and so lock it), set the key, commit

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, advance, begin, commit, plain_read, put},
};

pub(crate) struct WriteThrough;

impl Strategy for WriteThrough {
    fn name(&self) -> &'static str {
        "write-through"
    }

    fn about(&self) -> &'static str {
        "in one transaction: update the row (and so lock it), set the key, commit"
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader is slower than the transaction", Expect::Stale(6)),
            Setup::new("commit-fails", "nobody reads, but the commit may fail", Expect::Stale(3))
                .readers(0)
                .with(&[Condition::CommitFails]),
            Setup::new(
                "writers",
                "control: two writers and no reader; the row lock orders them",
                Expect::Holds,
            )
            .readers(0)
            .writers(2)
            .writes(3),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
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
}
