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
#[derive(Debug, Clone, Copy)]
pub(super) struct Note<'a> {
    pub(super) file: &'a str,
    /// Where the row's own isn't asked for by its place.
    pub(super) gtid: Option<&'a str>,
    pub(super) at_micros: u64,
    pub(super) commit_micros: u64,
    pub(super) waited: Duration,
    pub(super) by: By,
}

/// The same, as it is kept: small, for with batches of one key there are as many as removals.
#[derive(Debug, Clone, Copy)]
struct Kept {
    at_micros: u64,
    commit_micros: u64,
    /// At most about 71 minutes.
    waited_micros: u32,
    by: By,
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
    notes: VecDeque<Kept>,
    /// Number of the first note that is kept.
    first_note: u32,
    /// Names of files, each from this note on.
    files: VecDeque<(u32, Arc<str>)>,
    /// Of the notes that have one.
    gtids: VecDeque<(u32, Box<str>)>,
}

/// Whether note `number` is `than`, or came after it. Numbers wrap; far fewer are kept than there are.
fn is_since(number: u32, than: u32) -> bool {
    number.wrapping_sub(than) < 1 << 31
}

impl Ring {
    /// What the next removals share.
    pub(super) fn note(&mut self, note: Note<'_>) {
        let number = self.first_note.wrapping_add(u32::try_from(self.notes.len()).unwrap_or(u32::MAX));
        if self.files.back().is_none_or(|(_, file)| **file != *note.file) {
            self.files.push_back((number, note.file.into()));
        }
        if let Some(gtid) = note.gtid {
            self.gtids.push_back((number, gtid.into()));
        }
        self.notes.push_back(Kept {
            at_micros: note.at_micros,
            commit_micros: note.commit_micros,
            waited_micros: u32::try_from(note.waited.as_micros()).unwrap_or(u32::MAX),
            by: note.by,
        });
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
        // The name of the first note's file stays, though it may begin before.
        while self.files.get(1).is_some_and(|(from, _)| is_since(self.first_note, *from)) {
            self.files.pop_front();
        }
        while self.gtids.front().is_some_and(|(of, _)| !is_since(*of, self.first_note)) {
            self.gtids.pop_front();
        }
    }

    fn note_of(&self, entry: &Entry) -> Option<&Kept> {
        self.notes.get(entry.note.wrapping_sub(self.first_note) as usize)
    }

    fn file_of(&self, note: u32) -> Option<&Arc<str>> {
        let behind = self.files.partition_point(|(from, _)| is_since(note, *from));
        self.files.get(behind.checked_sub(1)?).map(|(_, file)| file)
    }

    fn gtid_of(&self, note: u32) -> Option<&str> {
        let at = self.gtids.partition_point(|(of, _)| !is_since(*of, note));
        self.gtids.get(at).filter(|(of, _)| *of == note).map(|(_, gtid)| &**gtid)
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
                    waited: Duration::from_micros(note.waited_micros.into()),
                    file: Arc::clone(self.file_of(entry.note)?),
                    position: entry.position,
                    row: entry.row,
                    gtid: self.gtid_of(entry.note).map(str::to_owned),
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
        (self.entries.len(), self.notes.len().max(self.files.len()).max(self.gtids.len()))
    }

    /// As after so many notes.
    #[cfg(test)]
    pub(super) fn numbered(first_note: u32) -> Self {
        Self { first_note, ..Self::default() }
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
