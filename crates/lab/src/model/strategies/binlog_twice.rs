//! `binlog-twice`: rowbust with plain keys. The follower removes the key when the event arrives, and again once the commit is visible at every
//! source and the fill grace is over; fills are plain SETs.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Follows, Say, Strategy, only_commit, plain_read},
};

pub(crate) struct BinlogTwice;

impl Strategy for BinlogTwice {
    fn name(&self) -> &'static str {
        "binlog-twice"
    }

    fn about(&self) -> &'static str {
        "rowbust with plain keys: a second removal when the commit is visible everywhere and the fill grace is over"
    }

    fn follows(&self) -> Follows {
        Follows::Twice
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "a reader is slower than the fill grace", Expect::Stale(8))
                .with(&[Condition::Window]),
            Setup::new(
                "grace",
                "no fill takes longer than the grace; everything else may happen",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&[
                Condition::Grace,
                Condition::Window,
                Condition::Replica,
                Condition::Eviction,
                Condition::Duplicates,
                Condition::FollowerCrash,
                Condition::ReaderCrash,
                Condition::RedisErrors,
                Condition::Backlog,
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
