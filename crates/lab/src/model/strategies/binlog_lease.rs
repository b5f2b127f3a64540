//! `binlog-lease`: the follower removes once, when the event arrives; a fill needs a lease, which the removal takes away.

use super::guarded::leased_read;
use crate::model::{
    setup::{Condition, Expect, Setup},
    state::State,
    strategy::{Follows, Say, Strategy, only_commit},
};

pub(crate) struct BinlogLease;

impl Strategy for BinlogLease {
    fn name(&self) -> &'static str {
        "binlog-lease"
    }

    fn about(&self) -> &'static str {
        "a follower of the binlog deletes the key once, and fills need a lease"
    }

    fn follows(&self) -> Follows {
        Follows::Once
    }

    fn setups(&self) -> Vec<Setup> {
        vec![
            Setup::new("default", "the event comes before the commit is visible", Expect::Stale(6))
                .with(&[Condition::Window]),
            Setup::new(
                "replica",
                "no window, but readers may read from a replica that lags",
                Expect::Stale(6),
            )
            .with(&[Condition::Replica]),
            Setup::new("no-window", "control: no window, one server; all else may happen", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&[
                    Condition::Eviction,
                    Condition::Duplicates,
                    Condition::FollowerCrash,
                    Condition::ReaderCrash,
                    Condition::LostReplies,
                ]),
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        leased_read(setup, state, reader, choice, say)
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        only_commit(setup, state, writer, choice, say)
    }
}
