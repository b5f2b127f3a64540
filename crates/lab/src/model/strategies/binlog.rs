//! `binlog`: a follower of the binlog deletes the key once, when the event arrives; fills are plain SETs.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Follows, Say, Strategy, only_commit, plain_read},
};

pub(crate) struct Binlog;

impl Strategy for Binlog {
    fn name(&self) -> &'static str {
        "binlog"
    }

    fn about(&self) -> &'static str {
        "a follower of the binlog deletes the key once, when the event arrives"
    }

    fn follows(&self) -> Follows {
        Follows::Once
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new(
                "default",
                "the event comes before the commit is visible; prompt readers",
                Expect::Stale(6),
            )
            .with(&[Condition::PromptReaders, Condition::Window]),
            Setup::new(
                "replica",
                "no window, prompt readers, but they may read from a replica that lags",
                Expect::Stale(6),
            )
            .with(&[Condition::PromptReaders, Condition::Replica]),
            Setup::new(
                "slow-reader",
                "no window, one server, but a reader slower than the follower",
                Expect::Stale(5),
            ),
            Setup::new(
                "no-window",
                "control: no window, one server, prompt readers; all else may happen",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[
                Condition::PromptReaders,
                Condition::Eviction,
                Condition::Duplicates,
                Condition::FollowerCrash,
            ]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        plain_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        only_commit(setup, state, writer, choice, say)
    }
}
