//! A ring of removals by the hash of their key, and the transactions that they come from. May depend on `rowbust-binlog`'s GTIDs.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rowbust_binlog::Gtid;

use super::{By, CAPACITY};

/// Transactions whose GTIDs are remembered.
pub(super) const TRANSACTIONS: usize = 1 << 15;

/// A removal that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Name of the Redis target.
    pub target: String,
    /// Who acknowledged it.
    pub by: By,
    /// A field of the key, not the key.
    pub is_field: bool,
    /// When: microseconds since 1970, by this host's clock.
    pub at_micros: u64,
    /// Its transaction's commit, by the server's clock; of several in one batch, the oldest's.
    pub commit_micros: u64,
    /// From the receipt of the batch's first row until then; zero where it isn't known.
    pub waited: Duration,
    /// File of the row event. Of several changes in one batch, the first one's.
    pub file: Arc<str>,
    /// The row event's end.
    pub position: u64,
    /// Number of the row in the event; 65535 stands for all beyond.
    pub row: u16,
    /// Its transaction; `None`: anonymous, or too long ago.
    pub gtid: Option<String>,
}

/// What the removals of one batch share.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) file: Arc<str>,
    /// Where the row's own isn't asked for by its place.
    pub(super) gtid: Option<Box<str>>,
    pub(super) at_micros: u64,
    pub(super) commit_micros: u64,
    pub(super) waited: Duration,
    pub(super) by: By,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    position: u64,
    /// Number of its note; counts on.
    note: u32,
    row: u16,
    is_field: bool,
}

/// The newest [`CAPACITY`] removals.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: Vec<Entry>,
    /// The oldest, once it is full.
    next: usize,
    notes: VecDeque<Note>,
    /// Number of the first note that is kept.
    first_note: u32,
}

impl Ring {
    /// What the next removals share.
    pub(super) fn note(&mut self, note: Note) {
        self.notes.push_back(note);
    }

    pub(super) fn push(&mut self, hash: u64, position: u64, row: u16, is_field: bool) {
        let newest = u32::try_from(self.notes.len()).unwrap_or(u32::MAX).wrapping_sub(1);
        let entry = Entry { hash, position, note: self.first_note.wrapping_add(newest), row, is_field };
        if self.entries.len() < CAPACITY {
            self.entries.push(entry);
            return;
        }
        self.entries[self.next] = entry;
        self.next = (self.next + 1) % CAPACITY;
        // What the oldest that is left doesn't need.
        let needed = self.entries[self.next].note;
        while self.first_note != needed && !self.notes.is_empty() {
            self.notes.pop_front();
            self.first_note = self.first_note.wrapping_add(1);
        }
    }

    fn note_of(&self, entry: &Entry) -> Option<&Note> {
        self.notes.get(entry.note.wrapping_sub(self.first_note) as usize)
    }

    /// Newest first.
    pub(super) fn find(&self, hash: u64, limit: usize, target: &str) -> Vec<Removed> {
        let (newer, older) = self.entries.split_at(self.next.min(self.entries.len()));
        let all = newer.iter().rev().chain(older.iter().rev());
        all.filter(|entry| entry.hash == hash)
            .filter_map(|entry| {
                let note = self.note_of(entry)?;
                Some(Removed {
                    target: target.to_owned(),
                    by: note.by,
                    is_field: entry.is_field,
                    at_micros: note.at_micros,
                    commit_micros: note.commit_micros,
                    waited: note.waited,
                    file: Arc::clone(&note.file),
                    position: entry.position,
                    row: entry.row,
                    gtid: note.gtid.as_deref().map(str::to_owned),
                })
            })
            .take(limit)
            .collect()
    }

    /// When the oldest was acknowledged; `None`: nothing was forgotten yet.
    pub(super) fn oldest(&self) -> Option<u64> {
        if self.entries.len() < CAPACITY {
            return None;
        }
        self.entries.get(self.next).and_then(|entry| self.note_of(entry)).map(|note| note.at_micros)
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.notes.len())
    }
}

/// The newest transactions, by place.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Within one, places only grow.
    runs: VecDeque<Run>,
    len: usize,
}

#[derive(Debug)]
struct Run {
    file: Arc<str>,
    begun: VecDeque<(u64, Option<Gtid>)>,
}

impl Transactions {
    pub(super) fn add(&mut self, file: &Arc<str>, begun: impl Iterator<Item = (u64, Option<Gtid>)>) {
        for (position, gtid) in begun {
            let goes_on =
                |run: &Run| *run.file == **file && run.begun.back().is_none_or(|(last, _)| *last < position);
            if !self.runs.back().is_some_and(goes_on) {
                self.runs.push_back(Run { file: Arc::clone(file), begun: VecDeque::new() });
            }
            if let Some(run) = self.runs.back_mut() {
                run.begun.push_back((position, gtid));
                self.len += 1;
            }
            while self.len > TRANSACTIONS {
                let Some(run) = self.runs.front_mut() else { break };
                if run.begun.pop_front().is_some() {
                    self.len -= 1;
                }
                if run.begun.is_empty() {
                    self.runs.pop_front();
                }
            }
        }
    }

    /// The transaction in which a row event ends there.
    pub(super) fn gtid(&self, file: &str, position: u64) -> Option<Gtid> {
        let run = self.runs.iter().rev().find(|run| {
            *run.file == *file && run.begun.front().is_some_and(|(first, _)| *first <= position)
        })?;
        let behind = run.begun.partition_point(|(begin, _)| *begin <= position);
        run.begun.get(behind.checked_sub(1)?)?.1
    }
}
