//! One state of the model: what the database, Redis, the follower and each process hold between two steps.
//!
//! Small and `Copy`, as millions of them are made. Two states that differ only in the names of readers or writers hash alike: the
//! checker visits one of them (symmetry reduction), and traces keep their names.

use std::hash::{Hash, Hasher};

use super::setup::{Condition, Setup};

/// Most readers of a set-up.
pub(crate) const READERS: usize = 4;
/// Most writers of a set-up.
pub(crate) const WRITERS: usize = 3;
/// Most writes of a set-up.
pub(crate) const WRITES: usize = 4;
/// Most keys of a set-up.
pub(crate) const KEYS: usize = 2;
/// The primary, and one replica.
pub(crate) const SOURCES: usize = 2;

/// The primary's index.
pub(crate) const PRIMARY: u8 = 0;
/// The replica's index.
pub(crate) const REPLICA: u8 = 1;

/// Owner of a lease or lock whose process is gone, or went on to something else.
pub(crate) const NOBODY: u8 = 15;

/// What Redis holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cell {
    /// Nothing.
    #[default]
    Absent,
    /// A value, by the number of the write that made it; 0 was there before all writes.
    Value {
        write: u8,
        /// Behind its logical deadline (logical expiry only).
        expired: bool,
    },
    /// A lease of this reader's, or of [`NOBODY`].
    Lease(u8),
    /// A value that is served on, and before it the lease of who loads it anew: a reader, or [`NOBODY`].
    Early { write: u8, owner: u8 },
}

impl Cell {
    pub(crate) fn value(write: u8) -> Self {
        Cell::Value { write, expired: false }
    }

    /// Whose lease it is.
    pub(crate) fn owner(self) -> Option<u8> {
        match self {
            Cell::Lease(owner) | Cell::Early { owner, .. } => Some(owner),
            _ => None,
        }
    }

    /// The value that readers are served.
    pub(crate) fn served(self) -> Option<u8> {
        match self {
            Cell::Value { write, .. } | Cell::Early { write, .. } => Some(write),
            _ => None,
        }
    }

    /// The process that had the lease is gone, or went on to something else.
    fn forget(&mut self, reader: u8) {
        match self {
            Cell::Lease(owner) | Cell::Early { owner, .. } if *owner == reader => *owner = NOBODY,
            _ => {}
        }
    }

    /// Encoded without a reader's name.
    fn code(self) -> u8 {
        match self {
            Cell::Absent => 0,
            Cell::Lease(NOBODY) => 1,
            Cell::Lease(_) => 2,
            Cell::Value { write, expired } => 16 + 2 * write + u8::from(expired),
            Cell::Early { write, owner } => 64 + 2 * write + u8::from(owner == NOBODY),
        }
    }
}

/// The lock of a key (lock-serialized: read and write; logical expiry: its write side is the rebuild lock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lock {
    /// Who holds it alone: index + 1, [`NOBODY`], or 0.
    pub(crate) write: u8,
    /// Readers that share it; bit 7: some that are gone.
    pub(crate) read: u8,
    /// The fence that it remembers (lock-serialized); 0: none, for it was never taken, or Redis lost it.
    pub(crate) fence: u8,
    /// The greatest fence ever given. It outlives the lock's memory, as Redis' clock does, from which a fence is taken then.
    pub(crate) given: u8,
}

impl Lock {
    /// Nobody has it.
    pub(crate) fn is_free(self) -> bool {
        self.write == 0 && self.read == 0
    }

    /// The write lock is given back, unless it was lost and is another's.
    pub(crate) fn unlock_write(&mut self, writer: u8) {
        if self.write == writer + 1 {
            self.write = 0;
        }
    }

    /// A fence that nobody was ever given.
    pub(crate) fn move_fence(&mut self) {
        self.given += 1;
        self.fence = self.given;
    }
}

/// A process that reads through the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reader {
    /// Where it stands; 0: not reading. The numbers are its strategy's.
    pub(crate) step: u8,
    pub(crate) key: u8,
    /// How many commits of this key's had been visible in what it read.
    pub(crate) snapshot: u8,
    /// Whether `snapshot` says something.
    pub(crate) loaded: bool,
    /// The pool of sources as it read it.
    pub(crate) pool: u8,
    /// The lock's fence as it was told (lock-serialized).
    pub(crate) fence: u8,
    /// It loads anew what is cached (told apart only by a mutant).
    pub(crate) early: bool,
}

/// A process that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Writer {
    /// Where it stands; 0: not writing.
    pub(crate) step: u8,
    pub(crate) key: u8,
    /// The number of its write.
    pub(crate) write: u8,
}

/// The way of a change through the follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(crate) enum Stage {
    #[default]
    Unread,
    /// First removal acknowledged.
    Removed,
    /// Seen visible at every source.
    Gated,
    /// Done, or owed by the queue.
    Settled,
}

/// A record of the retry queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Owed {
    #[default]
    No,
    Waiting,
    /// Its consumer has seen the commit visible at every source.
    Gated,
}

/// The daemon. All but the queue is lost by a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Follower {
    pub(crate) stage: [Stage; WRITES],
    pub(crate) queue: [Owed; WRITES],
    /// Sources that a commit must be visible at.
    pub(crate) sources: u8,
    /// The pool that it published last.
    pub(crate) pool: u8,
    /// Commits visible at the primary when the newest source was taken in.
    pub(crate) sampled: u8,
    /// The pool must be published before any removal counts.
    pub(crate) republish: bool,
    /// F as published last (only for the mutant that detects a rollback by F alone).
    pub(crate) published: u8,
}

/// What Redis keeps and can lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Redis {
    pub(crate) cells: [Cell; KEYS],
    /// The published pool of sources.
    pub(crate) pool: u8,
    /// The published F.
    pub(crate) published: u8,
    /// Changes whose counting removal is part of this history (bits by position): the history itself, no key holds it.
    pub(crate) acked: u8,
    /// What the daemon wrote last isn't what is here.
    pub(crate) mismatch: bool,
}

/// A point that Redis can fall back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) redis: Redis,
    /// The daemon wrote its record since.
    pub(crate) record_written: bool,
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Write numbers in the order of their commits, which is the binlog's.
    pub(crate) order: [u8; WRITES],
    pub(crate) commits: u8,
    /// Commits visible at each source.
    pub(crate) visible: [u8; SOURCES],
    /// Writes begun so far.
    pub(crate) begun: u8,
    /// Key of each write (bit by number).
    pub(crate) keys: u8,
    /// Sources that the operator wants.
    pub(crate) wanted: u8,
    /// Row locks: writer's index + 1.
    pub(crate) row_locks: [u8; KEYS],
    pub(crate) redis: Redis,
    pub(crate) saved: Option<Saved>,
    pub(crate) locks: [Lock; KEYS],
    pub(crate) follower: Follower,
    pub(crate) readers: [Reader; READERS],
    pub(crate) writers: [Writer; WRITERS],
    /// Second deletes that a timer owes (bits by write number).
    pub(crate) timers: u8,
}

impl State {
    /// Before anything happened: every key's row has value 0, and nothing is cached.
    pub(crate) fn new(setup: &Setup) -> Self {
        let late = setup.has(Condition::ReplicaJoins) && !setup.has(Condition::ReplicaLeaves);
        let replica = setup.has(Condition::Replica) && !late;
        let sources = 1 | if replica { 2 } else { 0 };
        Self {
            order: [0; WRITES],
            commits: 0,
            visible: [0; SOURCES],
            begun: 0,
            keys: 0,
            wanted: sources,
            row_locks: [0; KEYS],
            redis: Redis { pool: sources, ..Redis::default() },
            saved: None,
            locks: [Lock::default(); KEYS],
            follower: Follower { sources, pool: sources, ..Follower::default() },
            readers: [Reader::default(); READERS],
            writers: [Writer::default(); WRITERS],
            timers: 0,
        }
    }

    /// The key of a write.
    pub(crate) fn key_of(&self, write: u8) -> u8 {
        (self.keys >> write) & 1
    }

    /// The key of the commit at a position.
    pub(crate) fn key_at(&self, position: u8) -> u8 {
        self.key_of(self.order[usize::from(position)])
    }

    /// The key's row after that many commits: the write that it holds.
    pub(crate) fn row(&self, key: u8, commits: u8) -> u8 {
        let log = &self.order[..usize::from(commits)];
        log.iter().rev().copied().find(|write| self.key_of(*write) == key).unwrap_or(0)
    }

    /// How many commits there were right after this write's, or nothing if it isn't committed.
    pub(crate) fn commits_with(&self, write: u8) -> Option<u8> {
        if write == 0 {
            return Some(0);
        }
        (0..self.commits).find(|p| self.order[usize::from(*p)] == write).map(|p| p + 1)
    }

    /// The last commit of this key's among so many, as a count. Snapshots are kept so: later commits of other keys make no difference.
    pub(crate) fn snapshot(&self, key: u8, commits: u8) -> u8 {
        self.commits_with(self.row(key, commits)).unwrap_or(0)
    }

    pub(crate) fn cell(&mut self, key: u8) -> &mut Cell {
        &mut self.redis.cells[usize::from(key)]
    }

    /// Whether the cache holds another value than the row has after all commits.
    pub(crate) fn is_stale(&self, key: u8) -> bool {
        let served = self.redis.cells[usize::from(key)].served();
        served.is_some_and(|write| write != self.row(key, self.commits))
    }

    /// The reader's operation is over: its tokens are nobody's from now on.
    pub(crate) fn end_read(&mut self, reader: u8) {
        self.readers[usize::from(reader)] = Reader::default();
        let saved = self.saved.iter_mut().flat_map(|saved| saved.redis.cells.iter_mut());
        for cell in self.redis.cells.iter_mut().chain(saved) {
            cell.forget(reader);
        }
        for lock in &mut self.locks {
            if lock.read & (1 << reader) != 0 {
                lock.read = lock.read & !(1 << reader) | 0x80;
            }
        }
    }

    /// F: the end of the longest prefix whose counting removals Redis itself acknowledged: what is owed in the queue holds it.
    pub(crate) fn f(&self, is_held: impl Fn(Owed) -> bool) -> u8 {
        let done = |p: &u8| {
            let p = usize::from(*p);
            self.follower.stage[p] == Stage::Settled && !is_held(self.follower.queue[p])
        };
        (0..self.commits).find(|p| !done(p)).unwrap_or(self.commits)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0u8; 64];
        let mut at = 0;
        let mut put = |byte: u8| {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            at += 1;
        };
        self.order.iter().for_each(|b| put(*b));
        self.visible.iter().for_each(|b| put(*b));
        [self.commits, self.begun, self.keys, self.wanted, self.timers].into_iter().for_each(&mut put);
        let redis = |redis: &Redis, put: &mut dyn FnMut(u8)| {
            redis.cells.iter().for_each(|cell| put(cell.code()));
            put(redis.pool | redis.published << 4);
            put(redis.acked | u8::from(redis.mismatch) << 7);
        };
        redis(&self.redis, &mut put);
        put(self.saved.map_or(0, |saved| 1 + u8::from(saved.record_written)));
        if let Some(saved) = &self.saved {
            redis(&saved.redis, &mut put);
        }
        for lock in self.locks {
            put(u8::from(lock.write == NOBODY) | lock.read & 0x80);
        }
        let f = &self.follower;
        f.stage.iter().zip(&f.queue).for_each(|(stage, owed)| put(*stage as u8 | (*owed as u8) << 4));
        [f.sources | f.pool << 4, f.sampled | f.published << 4, u8::from(f.republish)]
            .into_iter()
            .for_each(&mut put);
        debug_assert!(at <= bytes.len());
        hasher.write(&bytes);

        let mut readers = [0u64; READERS];
        for (index, (key, reader)) in (0u8..).zip(readers.iter_mut().zip(&self.readers)) {
            let mut owns = 0u64;
            let saved = self.saved.iter().flat_map(|saved| saved.redis.cells);
            for (bit, cell) in self.redis.cells.into_iter().chain(saved).enumerate() {
                owns |= u64::from(cell.owner() == Some(index)) << bit;
            }
            for (bit, lock) in self.locks.iter().enumerate() {
                owns |= u64::from(lock.read & (1 << index) != 0) << (4 + bit);
                // Readers' own exclusive locks are numbered behind the writers'.
                owns |= u64::from(lock.write == reader_owner(index)) << (6 + bit);
            }
            // A fence's number says nothing but whether it is still the lock's: new ones are given to nobody before.
            let fence = self.locks[usize::from(reader.key)].fence;
            let fenced = fence != 0 && reader.fence == fence;
            *key = owns
                | u64::from(reader.step) << 8
                | u64::from(reader.key) << 16
                | u64::from(reader.snapshot) << 24
                | u64::from(reader.loaded) << 32
                | u64::from(reader.pool) << 40
                | u64::from(fenced) << 48
                | u64::from(reader.early) << 56;
        }
        readers.sort_unstable();
        readers.iter().for_each(|key| hasher.write_u64(*key));

        let mut writers = [0u64; WRITERS];
        for (index, (key, writer)) in (0u8..).zip(writers.iter_mut().zip(&self.writers)) {
            let mut owns = 0u64;
            for (bit, lock) in self.locks.iter().enumerate() {
                owns |= u64::from(lock.write == index + 1) << bit;
            }
            for (bit, owner) in self.row_locks.iter().enumerate() {
                owns |= u64::from(*owner == index + 1) << (2 + bit);
            }
            *key = owns
                | u64::from(writer.step) << 8
                | u64::from(writer.key) << 16
                | u64::from(writer.write) << 24;
        }
        writers.sort_unstable();
        writers.iter().for_each(|key| hasher.write_u64(*key));
    }
}

/// How a reader signs a lock that it holds alone.
pub(crate) fn reader_owner(reader: u8) -> u8 {
    8 + reader
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;
    use crate::model::setup::Expect;

    fn code(state: &State) -> u64 {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish()
    }

    fn state() -> State {
        State::new(&Setup::new("t", "", Expect::Holds).readers(3).writers(2))
    }

    /// Readers 1 and 2 in different places, and everything that names one of them.
    fn named(a: u8, b: u8) -> State {
        let mut state = state();
        state.readers[usize::from(a)] =
            Reader { step: 2, key: 0, snapshot: 1, loaded: true, pool: 0, fence: 1, early: false };
        state.readers[usize::from(b)] =
            Reader { step: 1, key: 1, snapshot: 0, loaded: false, pool: 3, fence: 0, early: false };
        state.redis.cells = [Cell::Lease(a), Cell::Lease(b)];
        let saved = Redis { cells: [Cell::Lease(b), Cell::value(1)], ..Redis::default() };
        state.saved = Some(Saved { redis: saved, record_written: true });
        state.locks[0] = Lock { read: 1 << a, fence: 1, given: 1, ..Lock::default() };
        state.locks[1].write = reader_owner(b);
        state.writers[usize::from(a % 2)] = Writer { step: 1, key: 0, write: 1 };
        state.row_locks[0] = a % 2 + 1;
        state
    }

    #[test]
    fn names_make_no_difference() {
        assert_eq!(code(&named(0, 1)), code(&named(1, 0)));
        assert_eq!(code(&named(0, 1)), code(&named(2, 1)));
    }

    #[test]
    fn fences_are_only_compared() {
        let mut later = named(0, 1);
        later.locks[0].move_fence();
        later.readers[0].fence = later.locks[0].fence;
        assert_eq!(code(&later), code(&named(0, 1)));
        // One that is gone is like one that nobody holds.
        let (mut moved, mut gone) = (later, later);
        moved.locks[0].move_fence();
        gone.locks[0].fence = 0;
        assert_eq!(code(&moved), code(&gone));
    }

    #[test]
    fn everything_else_does() {
        let base = named(0, 1);
        type Change = fn(&mut State);
        let changes: &[Change] = &[
            |s| s.order[0] = 1,
            |s| s.commits = 1,
            |s| s.visible[0] = 1,
            |s| s.visible[1] = 1,
            |s| s.begun = 2,
            |s| s.keys = 2,
            |s| s.wanted = 3,
            |s| s.timers = 2,
            |s| s.row_locks[0] = 0,
            |s| s.row_locks[0] = 2,
            |s| s.redis.cells[0] = Cell::Absent,
            |s| s.redis.cells[0] = Cell::Lease(1),
            |s| s.redis.cells[0] = Cell::Lease(NOBODY),
            |s| s.redis.cells[0] = Cell::value(0),
            |s| s.redis.cells[0] = Cell::Early { write: 0, owner: 0 },
            |s| s.redis.cells[0] = Cell::Early { write: 0, owner: 1 },
            |s| s.redis.cells[0] = Cell::Early { write: 0, owner: NOBODY },
            |s| s.redis.cells[0] = Cell::Early { write: 1, owner: 0 },
            |s| s.redis.cells[0] = Cell::Value { write: 0, expired: true },
            |s| s.redis.pool = 3,
            |s| s.redis.published = 1,
            |s| s.redis.acked = 1,
            |s| s.redis.mismatch = true,
            |s| s.saved = None,
            |s| s.saved = s.saved.map(|saved| Saved { record_written: false, ..saved }),
            |s| s.saved = s.saved.map(|saved| Saved { redis: s.redis, ..saved }),
            |s| s.locks[0].read = 2,
            |s| s.locks[0].read = 0x81,
            |s| s.locks[0].move_fence(),
            |s| s.locks[1].write = 0,
            |s| s.locks[1].write = NOBODY,
            |s| s.locks[1].write = 1,
            |s| s.follower.stage[0] = Stage::Removed,
            |s| s.follower.stage[0] = Stage::Gated,
            |s| s.follower.stage[1] = Stage::Removed,
            |s| s.follower.queue[0] = Owed::Waiting,
            |s| s.follower.sources = 3,
            |s| s.follower.pool = 3,
            |s| s.follower.sampled = 1,
            |s| s.follower.republish = true,
            |s| s.follower.published = 1,
            |s| s.readers[0].step = 1,
            |s| s.readers[0].key = 1,
            |s| s.readers[0].snapshot = 0,
            |s| s.readers[0].loaded = false,
            |s| s.readers[0].pool = 1,
            |s| s.readers[0].early = true,
            |s| s.readers[2].step = 1,
            |s| s.writers[0].step = 2,
            |s| s.writers[0].key = 1,
            |s| s.writers[0].write = 2,
        ];
        let mut codes = vec![code(&base)];
        for (number, change) in changes.iter().enumerate() {
            let mut state = base;
            change(&mut state);
            assert_ne!(state, base, "change {number} changes nothing");
            let code = code(&state);
            assert!(!codes.contains(&code), "change {number} is like another");
            codes.push(code);
        }
    }
}
