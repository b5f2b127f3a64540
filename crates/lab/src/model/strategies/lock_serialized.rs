//! `lock-serialized`: a read-write lock per key around the fill, and around the write with its delete. The lock remembers a fence, a number
//! that the write lock moves and the delete moves once more; a fill is carried out only if the fence is what its reader was told with its
//! lock, whether or not the lock is still held. `lock-serialized-unfenced` doesn't look.
//!
//! In the textbook form only the write lock moves the fence.
//!
//! A lock that has expired is gone here. In Redis its holder may renew it as long as no writer has taken it since, which only keeps others
//! out for longer: it adds no order of reads, commits, fills and deletes.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::{Cell, Reader, State},
    strategy::{Say, Strategy, advance, begin, commit, committed, delete, get, loaded, select},
};

pub(crate) struct LockSerialized {
    pub(crate) fenced: bool,
}

impl Strategy for LockSerialized {
    fn name(&self) -> &'static str {
        if self.fenced { "lock-serialized" } else { "lock-serialized-unfenced" }
    }

    fn about(&self) -> &'static str {
        match self.fenced {
            true => {
                "a read-write lock per key; a fill counts only while the lock's fence is what its reader was told"
            }
            false => "a read-write lock per key, and nobody checks that it is still held",
        }
    }

    fn setups(&self) -> Vec<Setup> {
        let pause = [Condition::LockExpiry, Condition::LockLoss, Condition::Eviction, Condition::ReaderCrash];
        let control =
            Setup::new("no-pause", "control: no lock expires while its holder works", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&[Condition::Eviction, Condition::ReaderCrash]);
        if !self.fenced {
            return vec![
                Setup::new("default", "a reader's lock expires while it pauses", Expect::Stale(10))
                    .with(&[Condition::LockExpiry]),
                control,
            ];
        }
        vec![
            Setup::new(
                "default",
                "locks expire while their holders pause, or are lost with their fence; readers may die",
                Expect::Holds,
            )
            .readers(2)
            .writers(2)
            .writes(2)
            .with(&pause),
            Setup::new("crash", "a writer may die between its commit and its delete", Expect::Stale(9))
                .with(&[Condition::WriterCrash]),
            Setup::new("replica", "readers may read from a replica that lags", Expect::Stale(10))
                .with(&[Condition::Replica]),
            control,
            Setup::new(
                "textbook",
                "the fence is moved by the write lock alone, and a writer's lock expires while it pauses",
                Expect::Stale(10),
            )
            .with(&[Condition::Textbook, Condition::LockExpiry]),
        ]
    }

    // Without a second look behind the lock: a reader that got it late fills once more.
    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        let r = usize::from(reader);
        let key = state.readers[r].key;
        match state.readers[r].step {
            0 => get(setup, state, reader, choice, say),
            1 => {
                let lock = &mut state.locks[usize::from(key)];
                if choice != 0 || lock.write != 0 {
                    return false;
                }
                lock.read |= 1 << reader;
                if lock.fence == 0 {
                    lock.move_fence();
                }
                let fence = lock.fence;
                state.readers[r].step = 2;
                state.readers[r].fence = if self.fenced { fence } else { 0 };
                say.it(|| match self.fenced {
                    true => format!("read lock; the fence is {fence}"),
                    false => "read lock".into(),
                });
                true
            }
            2 => select(state, setup.sources(), reader, choice, 3, say),
            _ if choice != 0 => false,
            3 => {
                let write = loaded(state, reader);
                let (had, fence) = (state.readers[r].fence, state.locks[usize::from(key)].fence);
                state.readers[r] = Reader { step: 4, key, ..Reader::default() };
                if self.fenced && had != fence {
                    say.it(|| format!("fill with v{write}, fence {had}: refused"));
                } else {
                    *state.cell(key) = Cell::value(write);
                    say.it(|| match self.fenced {
                        true => format!("fill with v{write}, fence {had}: accepted"),
                        false => format!("SET v{write}"),
                    });
                }
                true
            }
            _ => {
                state.locks[usize::from(key)].read &= !(1 << reader);
                state.end_read(reader);
                say.it(|| "unlocks".into());
                true
            }
        }
    }

    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
        let me = state.writers[usize::from(writer)];
        match me.step {
            0 => {
                if choice >= setup.keys
                    || !state.locks[usize::from(choice)].is_free()
                    || !begin(setup, state, writer, choice)
                {
                    return false;
                }
                let lock = &mut state.locks[usize::from(choice)];
                lock.write = writer + 1;
                lock.move_fence();
                let fence = lock.fence;
                advance(state, writer, 1);
                say.it(|| match self.fenced {
                    true => format!("write lock; the fence is {fence}"),
                    false => "write lock".into(),
                });
                true
            }
            _ if choice != 0 => false,
            1 => commit(setup, state, writer, 2, say),
            2 => {
                if !committed(state, writer) {
                    return false;
                }
                delete(state, writer, 3, say);
                if self.fenced && !setup.has(Condition::Textbook) {
                    let lock = &mut state.locks[usize::from(me.key)];
                    lock.move_fence();
                    let fence = lock.fence;
                    say.it(|| format!("DEL; the fence is {fence}"));
                }
                true
            }
            _ => {
                state.locks[usize::from(me.key)].unlock_write(writer);
                advance(state, writer, 0);
                say.it(|| "unlocks".into());
                true
            }
        }
    }
}
