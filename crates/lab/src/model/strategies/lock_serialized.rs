//! `lock-serialized`: a read-write lock per key around the fill, and around the write with its delete. Fenced, a fill is carried out only if
//! its reader still holds its lock, in the same script, and a delete takes the readers' locks with it.
//! `lock-serialized-unfenced` does neither.

use crate::model::{
    setup::{Condition, Expect, Setup},
    state::{Cell, State},
    strategy::{Say, Strategy, advance, begin, commit, committed, delete, loaded, select},
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
            true => "a read-write lock per key; a fill counts only while its lock is held",
            false => "a read-write lock per key, and nobody checks that it is still held",
        }
    }

    fn setups(&self) -> Vec<Setup> {
        let pause = [Condition::LockExpiry, Condition::Eviction, Condition::ReaderCrash];
        let control =
            Setup::new("no-pause", "control: no lock expires while its holder works", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&[Condition::Eviction, Condition::ReaderCrash]);
        if !self.fenced {
            return vec![
                Setup::new("default", "a reader's lock expires while it pauses", Expect::Stale(9))
                    .with(&[Condition::LockExpiry]),
                control,
            ];
        }
        vec![
            Setup::new("default", "locks expire while their holders pause; readers may die", Expect::Holds)
                .readers(2)
                .writers(2)
                .writes(2)
                .with(&pause),
            Setup::new("crash", "a writer may die between its commit and its delete", Expect::Stale(8))
                .with(&[Condition::WriterCrash]),
            Setup::new("replica", "readers may read from a replica that lags", Expect::Stale(9))
                .with(&[Condition::Replica]),
            control,
        ]
    }

    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
        let r = usize::from(reader);
        let key = state.readers[r].key;
        match state.readers[r].step {
            0 => {
                if choice >= setup.keys || *state.cell(choice) != Cell::Absent {
                    return false;
                }
                let lock = &mut state.locks[usize::from(choice)];
                if lock.write != 0 {
                    return false;
                }
                lock.read |= 1 << reader;
                state.readers[r].step = 1;
                state.readers[r].key = choice;
                say.it(|| "GET: nothing; read lock; GET: still nothing".into());
                true
            }
            1 => select(state, setup.sources(), reader, choice, 2, say),
            _ if choice != 0 => false,
            2 => {
                let write = loaded(state, reader);
                let held = state.locks[usize::from(key)].read & (1 << reader) != 0;
                state.readers[r].step = 3;
                state.readers[r].loaded = false;
                state.readers[r].snapshot = 0;
                if self.fenced && !held {
                    say.it(|| format!("fill with v{write}: refused"));
                } else {
                    *state.cell(key) = Cell::value(write);
                    say.it(|| format!("SET v{write}"));
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
                    || state.locks[usize::from(choice)] != Default::default()
                    || !begin(setup, state, writer, choice)
                {
                    return false;
                }
                state.locks[usize::from(choice)].write = writer + 1;
                advance(state, writer, 1);
                say.it(|| "write lock".into());
                true
            }
            _ if choice != 0 => false,
            1 => commit(setup, state, writer, 2, say),
            2 => {
                if !committed(state, writer) {
                    return false;
                }
                delete(state, writer, 3, say);
                if self.fenced {
                    state.locks[usize::from(me.key)].read = 0;
                    say.it(|| "DEL, and the readers' locks".into());
                }
                true
            }
            _ => {
                let lock = &mut state.locks[usize::from(me.key)];
                if lock.write == writer + 1 {
                    lock.write = 0;
                }
                advance(state, writer, 0);
                say.it(|| "unlocks".into());
                true
            }
        }
    }
}
