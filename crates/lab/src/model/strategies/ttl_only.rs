//! `ttl-only`: writers update the database; cached values expire

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Say, Strategy, only_commit, plain_read},
};

pub(crate) struct TtlOnly;

impl Strategy for TtlOnly {
    fn name(&self) -> &'static str {
        "ttl-only"
    }

    fn about(&self) -> &'static str {
        "writers update the database; cached values expire"
    }

    fn setups(&self) -> Vec<Setup> {
        let all = [
            Condition::Ttl,
            Condition::Window,
            Condition::Replica,
            Condition::Eviction,
            Condition::ReaderCrash,
        ];
        vec![
            Setup::new("default", "values expire; two readers, a replica that lags", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&all),
            Setup::new("no-ttl", "control: without expiry nothing ever removes the value", Expect::Stale(4)),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        only_commit(setup, state, writer, choice, say)
    }
}
