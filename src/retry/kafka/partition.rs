//! What one partition's records are doing: read, waiting, in work, done. No I/O.
//!
//! Guarantees: the offset that may be stored is the end of the contiguous done prefix, so a record that isn't done is read again
//! after a crash. Bounded in records and bytes by [`Partition::is_full`]. May depend on [`super::super::record`].

use std::collections::{BTreeMap, VecDeque};

use super::{super::record::Record, message::Outgoing};

/// A partition that holds this many isn't read further.
const MOST_RECORDS: usize = 1024;
const MOST_BYTES: usize = 256 << 10;

/// Which partition: place of its topic in `Settings::retry`, and its number.
pub(super) type At = (usize, i32);

/// A message as it was read.
#[derive(Debug)]
pub(super) enum Item {
    Record(Box<Record>),
    /// Can't be decoded: the message as it is, and why.
    Poison(Box<Outgoing>, String),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => {
                300 + record.key.len() + record.op.field().map_or(0, <[u8]>::len) + record.origin.gtid.len()
            }
            Self::Poison(message, _) => {
                300 + message.key.as_ref().map_or(0, Vec::len) + message.value.as_ref().map_or(0, Vec::len)
            }
        }
    }
}

#[derive(Debug)]
enum State {
    Waiting { item: Item, due_ms: u64 },
    InWork,
    Done,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    /// The broker's time of the message; -1: none.
    time_ms: i64,
    /// When it was first due in memory: a removal that isn't possible yet is forwarded after a while.
    since_ms: u64,
    /// When it was parked; 0: never.
    parked_ms: u64,
    first_failed_ms: u64,
    target: String,
    bytes: usize,
    state: State,
}

/// A record in work, and where it goes back to.
#[derive(Debug)]
pub(super) struct Job<T = Item> {
    pub(super) at: At,
    /// Of the assignment: work that outlives it is forgotten.
    pub(super) generation: u64,
    pub(super) offset: i64,
    pub(super) time_ms: i64,
    pub(super) since_ms: u64,
    /// When it was parked; 0: never.
    pub(super) parked_ms: u64,
    pub(super) item: T,
}

impl<T> Job<T> {
    /// The place alone, and what stood there.
    pub(super) fn split(self) -> (Job<()>, T) {
        let Self { at, generation, offset, time_ms, since_ms, parked_ms, item } = self;
        (Job { at, generation, offset, time_ms, since_ms, parked_ms, item: () }, item)
    }

    /// The same place with this in it.
    pub(super) fn with<U>(self, item: U) -> Job<U> {
        let Self { at, generation, offset, time_ms, since_ms, parked_ms, .. } = self;
        Job { at, generation, offset, time_ms, since_ms, parked_ms, item }
    }
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) at: At,
    pub(super) generation: u64,
    /// What librdkafka was told last.
    pub(super) paused: bool,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Behind the newest that was read.
    read_to: Option<i64>,
    /// Smallest due time of those that wait; too small is harmless.
    next_due_ms: u64,
}

impl Partition {
    pub(super) fn new(at: At, generation: u64) -> Self {
        // librdkafka keeps the pause of an earlier assignment, so it is lifted explicitly.
        let (slots, bytes, read_to) = (VecDeque::new(), 0, None);
        Self { at, generation, paused: true, slots, bytes, read_to, next_due_ms: u64::MAX }
    }

    pub(super) fn push(&mut self, offset: i64, time_ms: i64, item: Item, due_ms: u64, parked_ms: u64) {
        // Read again after a resume or a reconnect: it is here already.
        if self.slots.back().is_some_and(|last| last.offset >= offset) {
            return;
        }
        self.read_to = Some(offset + 1);
        let (first_failed_ms, target) = match &item {
            Item::Record(record) => (record.first_failed_ms, record.target.clone()),
            Item::Poison(..) => (u64::MAX, String::new()),
        };
        let bytes = item.bytes();
        self.bytes += bytes;
        self.next_due_ms = self.next_due_ms.min(due_ms);
        let state = State::Waiting { item, due_ms };
        let since_ms = due_ms;
        self.slots.push_back(Slot {
            offset,
            time_ms,
            since_ms,
            parked_ms,
            first_failed_ms,
            target,
            bytes,
            state,
        });
    }

    /// Moves the records that are due into work.
    pub(super) fn take_due(&mut self, now_ms: u64, jobs: &mut Vec<Job>) {
        if self.next_due_ms > now_ms {
            return;
        }
        self.next_due_ms = u64::MAX;
        for slot in &mut self.slots {
            let State::Waiting { due_ms, .. } = &slot.state else { continue };
            if *due_ms > now_ms {
                self.next_due_ms = self.next_due_ms.min(*due_ms);
                continue;
            }
            if let State::Waiting { item, .. } = std::mem::replace(&mut slot.state, State::InWork) {
                jobs.push(Job {
                    at: self.at,
                    generation: self.generation,
                    offset: slot.offset,
                    time_ms: slot.time_ms,
                    since_ms: slot.since_ms,
                    parked_ms: slot.parked_ms,
                    item,
                });
            }
        }
    }

    /// A record is done. Returns the offset to store when the contiguous prefix has grown.
    pub(super) fn done(&mut self, offset: i64) -> Option<i64> {
        let at = self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()?;
        self.slots[at].state = State::Done;
        let mut next = None;
        while let Some(slot) = self.slots.front()
            && matches!(slot.state, State::Done)
        {
            next = Some(slot.offset + 1);
            self.bytes -= slot.bytes;
            self.slots.pop_front();
        }
        next
    }

    /// A record stays, and is due again at `due_ms`.
    pub(super) fn again(&mut self, job: Job, due_ms: u64) {
        if let Ok(at) = self.slots.binary_search_by_key(&job.offset, |slot| slot.offset) {
            self.slots[at].since_ms = job.since_ms;
            self.slots[at].state = State::Waiting { item: job.item, due_ms };
            self.next_due_ms = self.next_due_ms.min(due_ms);
        }
    }

    /// Adds what isn't done: by target, how many and the oldest first failure.
    pub(super) fn owed(&self, by_target: &mut BTreeMap<String, (u64, u64)>) {
        for slot in self.slots.iter().filter(|slot| !matches!(slot.state, State::Done)) {
            match by_target.get_mut(&slot.target) {
                Some((count, oldest)) => {
                    *count += 1;
                    *oldest = slot.first_failed_ms.min(*oldest);
                }
                None => _ = by_target.insert(slot.target.clone(), (1, slot.first_failed_ms)),
            }
        }
    }

    /// Behind the newest that was read; `None`: nothing was read yet.
    pub(super) fn read_to(&self) -> Option<i64> {
        self.read_to
    }

    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.next_due_ms != u64::MAX).then_some(self.next_due_ms)
    }

    /// First failure of the record at the head.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.first_failed_ms).filter(|at| *at != u64::MAX)
    }

    /// Whether it should be read further. The two bounds lie apart, as each pause throws away what was fetched ahead.
    pub(super) fn is_full(&self) -> bool {
        let share = if self.paused { 2 } else { 1 };
        self.slots.len() >= MOST_RECORDS / share || self.bytes >= MOST_BYTES / share
    }

    /// The newest one read is due later than `at_ms`, and so is all behind it.
    pub(super) fn waits_beyond(&self, at_ms: u64) -> bool {
        self.slots
            .back()
            .is_some_and(|last| matches!(&last.state, State::Waiting { due_ms, .. } if *due_ms > at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::policy::tests::record, *};

    fn partition(dues: &[u64]) -> Partition {
        let mut partition = Partition::new((0, 3), 1);
        for (offset, due) in (10..).zip(dues) {
            partition.push(offset, -1, Item::Record(Box::new(record("k"))), *due, 0);
        }
        partition
    }

    fn take(partition: &mut Partition, now_ms: u64) -> Vec<Job> {
        let mut jobs = Vec::new();
        partition.take_due(now_ms, &mut jobs);
        jobs
    }

    fn owed(partition: &Partition) -> u64 {
        let mut by_target = BTreeMap::new();
        partition.owed(&mut by_target);
        by_target.get("main").map_or(0, |(count, _)| *count)
    }

    #[test]
    fn only_the_contiguous_prefix_is_stored() {
        let mut partition = partition(&[1, 1, 1, 1]);
        let mut jobs = take(&mut partition, 1);
        assert_eq!(jobs.iter().map(|job| job.offset).collect::<Vec<_>>(), [10, 11, 12, 13]);
        assert_eq!(partition.done(11), None);
        assert_eq!(partition.done(13), None);
        assert_eq!((owed(&partition), partition.read_to()), (2, Some(14)));
        partition.again(jobs.swap_remove(2), 5);
        assert_eq!(partition.done(10), Some(12));
        assert!(take(&mut partition, 4).is_empty());
        assert_eq!(take(&mut partition, 5).len(), 1);
        assert_eq!(partition.done(12), Some(14));
        assert_eq!((owed(&partition), partition.read_to()), (0, Some(14)));
        assert_eq!((partition.slots.len(), partition.bytes), (0, 0));
        // Of an earlier assignment: nothing happens.
        assert_eq!(partition.done(12), None);
    }

    #[test]
    fn nothing_is_taken_early_or_twice() {
        let mut partition = partition(&[5, 6, 7]);
        assert!(take(&mut partition, 4).is_empty());
        assert!(partition.waits_beyond(4) && !partition.waits_beyond(7));
        assert_eq!(take(&mut partition, 5).len(), 1);
        assert_eq!(partition.next_due_ms(), Some(6));
        assert_eq!(take(&mut partition, 6).len(), 1);
        assert!(take(&mut partition, 6).is_empty());
        assert_eq!(partition.next_due_ms(), Some(7));
        partition.push(11, -1, Item::Record(Box::new(record("again"))), 1, 0);
        assert_eq!(partition.slots.len(), 3);
    }

    #[test]
    fn bounds_lie_apart() {
        let mut partition = Partition::new((0, 3), 1);
        partition.paused = false;
        let mut offset = 0;
        while !partition.is_full() {
            partition.push(offset, -1, Item::Record(Box::new(record("k"))), 1, 0);
            offset += 1;
        }
        assert!(offset > 500 && partition.bytes <= MOST_BYTES + 1000, "{offset} records");
        partition.paused = true;
        take(&mut partition, 1);
        (0..offset / 2 - 10).for_each(|n| _ = partition.done(n));
        assert!(partition.is_full());
        (offset / 2 - 10..offset / 2 + 10).for_each(|n| _ = partition.done(n));
        assert!(!partition.is_full());
    }
}
