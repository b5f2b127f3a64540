//! The disk queue's file: tables, transactions, recovery. Synchronous; one thread owns it.
//!
//! Guarantees: what [`Store::commit`] returned `Ok` for survives kill -9 and power loss (one transaction, fsync); a file that fails
//! its checksums is refused and left as it is; an I/O error closes the file, and a later call opens it again.
//! Memory: redb's cache ([`CACHE_BYTES`]) and one page of records. May depend on [`super::codec`], [`super::record`].

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, Value};

use super::{
    Filter, Listed, Record, RetryError, Which,
    codec::{self, Letter},
    policy::{MARGIN, millis},
};

/// The one file in the queue's folder.
const FILE: &str = "queue.redb";
const SCHEMA: u64 = 1;
const CACHE_BYTES: usize = 8 << 20;
/// Records that one step of a long change (requeue, clock repair) touches.
const PAGE: usize = 4096;
/// After a failed attempt to open the file again, the next one waits for this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// By due time. The first failure is part of the key, so that a record that can't be decoded can be removed whole.
const PENDING: TableDefinition<'_, (u64, u64, u64), &[u8]> = TableDefinition::new("pending");
/// (first failure, sequence number) of the pending ones: its head is the oldest.
const AGE: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("age");
const DEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Where a pending record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) due_ms: u64,
    pub(super) seq: u64,
    pub(super) first_failed_ms: u64,
}

impl Place {
    fn key(self) -> (u64, u64, u64) {
        (self.due_ms, self.seq, self.first_failed_ms)
    }
}

/// One change. All changes of a commit are durable together or not at all.
#[derive(Debug)]
pub(super) enum Change {
    Add(Record),
    Remove(Place),
    Forward(Place, Record),
    Bury(Place, Letter),
}

type Undecoded = (String, Vec<u8>);

/// Due records, and when the next one is due.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// A record that can't be decoded: why, and its bytes.
    pub(super) due: Vec<(Place, Result<Record, Undecoded>)>,
    pub(super) next_due_ms: Option<u64>,
}

/// Sizes after a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Level {
    pub(super) pending: u64,
    pub(super) oldest_ms: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Fatal(RetryError),
}

pub(super) struct Store {
    file: PathBuf,
    db: Option<Database>,
    next_seq: u64,
    retry_open: Instant,
    #[cfg(test)]
    pub(super) fault: Option<tests::Fault>,
}

impl Store {
    /// Opens the file of `folder`, or creates both, and checks every page.
    pub(super) fn open(folder: &Path) -> Result<Self, RetryError> {
        let file = folder.join(FILE);
        let path = file.clone();
        let io = |source| RetryError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let mut store = Self {
            db: None,
            next_seq: 0,
            retry_open: Instant::now(),
            #[cfg(test)]
            fault: None,
            file: file.clone(),
        };
        let db = store.database(true)?;
        // The file's name must survive a power failure as its content does.
        for dir in
            [Some(folder), folder.parent()].into_iter().flatten().filter(|dir| !dir.as_os_str().is_empty())
        {
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        store.db = Some(db);
        match store.initialise() {
            Ok(None) => Ok(store),
            Ok(Some(found)) => Err(RetryError::Schema { path: file, found, known: SCHEMA }),
            Err(error) => Err(store.report(error)),
        }
    }

    fn database(&self, check: bool) -> Result<Database, RetryError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check);
        #[cfg(test)]
        if let Some(fault) = &self.fault {
            let backend = fault
                .open(&self.file)
                .map_err(|source| RetryError::Io { path: self.file.clone(), source })?;
            return builder.create_with_backend(backend).map_err(|error| self.open_error(error));
        }
        builder.create(&self.file).map_err(|error| self.open_error(error))
    }

    fn open_error(&self, error: DatabaseError) -> RetryError {
        let path = self.file.clone();
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                RetryError::Locked { path }
            }
            // redb reports a file that doesn't begin as its own does, or ends too early, as invalid data.
            DatabaseError::Storage(StorageError::Io(source))
                if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                RetryError::Io { path, source }
            }
            other => RetryError::Corrupt { path, detail: other.to_string() },
        }
    }

    /// What an error of redb means once the file was opened.
    fn report(&self, error: redb::Error) -> RetryError {
        let path = self.file.clone();
        match error {
            redb::Error::Io(source) => RetryError::Io { path, source },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                RetryError::Unavailable(error.to_string())
            }
            other => RetryError::Corrupt { path, detail: other.to_string() },
        }
    }

    /// Creates the tables; `Some`: a schema version that is not known.
    fn initialise(&mut self) -> Result<Option<u64>, redb::Error> {
        let Some(db) = &self.db else { return Ok(None) };
        let txn = db.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let schema = meta.get("schema")?.map(|value| value.value());
            match schema {
                None => {
                    meta.insert("schema", SCHEMA)?;
                }
                Some(SCHEMA) => {}
                Some(found) => return Ok(Some(found)),
            }
            self.next_seq = meta.get("next_seq")?.map_or(0, |value| value.value());
            txn.open_table(PENDING)?;
            txn.open_table(AGE)?;
            txn.open_table(DEAD)?;
        }
        txn.commit()?;
        Ok(None)
    }

    /// Runs `work` on the database, opened again if an earlier error closed it.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&Database, &mut u64) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.db.is_none() {
            if Instant::now() < self.retry_open {
                return Err(StoreError::Unavailable(format!(
                    "{} waits to be opened again",
                    self.file.display()
                )));
            }
            self.retry_open = Instant::now() + REOPEN_PAUSE;
            match self.database(false) {
                Ok(db) => self.db = Some(db),
                Err(error @ RetryError::Corrupt { .. }) => return Err(StoreError::Fatal(error)),
                Err(error) => return Err(StoreError::Unavailable(error.to_string())),
            }
        }
        let Some(db) = &self.db else { return Err(StoreError::Fatal(RetryError::Closed)) };
        work(db, &mut self.next_seq).map_err(|error| {
            // redb refuses everything after an I/O error until the file is opened again.
            self.db = None;
            match self.report(error) {
                fatal @ RetryError::Corrupt { .. } => StoreError::Fatal(fatal),
                heals => StoreError::Unavailable(heals.to_string()),
            }
        })
    }

    /// Makes `changes` durable in one transaction.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<Level, StoreError> {
        self.with(|db, next_seq| {
            let txn = db.begin_write()?;
            let level = {
                let mut pending = txn.open_table(PENDING)?;
                let mut age = txn.open_table(AGE)?;
                let mut dead = txn.open_table(DEAD)?;
                for change in changes {
                    match change {
                        Change::Add(record) => {
                            let seq = *next_seq;
                            *next_seq += 1;
                            let key = (record.not_before_ms, seq, record.first_failed_ms);
                            pending.insert(key, codec::encode(record).as_slice())?;
                            age.insert((record.first_failed_ms, seq), ())?;
                        }
                        Change::Remove(place) => {
                            pending.remove(place.key())?;
                            age.remove((place.first_failed_ms, place.seq))?;
                        }
                        Change::Forward(place, record) => {
                            pending.remove(place.key())?;
                            let key = (record.not_before_ms, place.seq, place.first_failed_ms);
                            pending.insert(key, codec::encode(record).as_slice())?;
                        }
                        Change::Bury(place, letter) => {
                            pending.remove(place.key())?;
                            age.remove((place.first_failed_ms, place.seq))?;
                            dead.insert(place.seq, codec::encode_letter(letter).as_slice())?;
                        }
                    }
                }
                txn.open_table(META)?.insert("next_seq", *next_seq)?;
                level(&pending, &age)?
            };
            txn.commit()?;
            Ok(level)
        })
    }

    /// Up to `limit` records that are due at `now_ms` and stand not in `skip`.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        delay: Duration,
        limit: usize,
        skip: &HashSet<Place>,
    ) -> Result<(Page, Level), StoreError> {
        self.clamp(now_ms, delay)?;
        self.with(|db, _| {
            let txn = db.begin_read()?;
            let pending = txn.open_table(PENDING)?;
            let mut page = Page::default();
            for entry in pending.range::<(u64, u64, u64)>(..)? {
                let (key, value) = entry?;
                let place = place(key.value());
                if place.due_ms > now_ms {
                    page.next_due_ms = Some(place.due_ms);
                    break;
                }
                if page.due.len() == limit {
                    page.next_due_ms = Some(place.due_ms);
                    break;
                }
                if skip.contains(&place) {
                    continue;
                }
                let record = match codec::decode(value.value()) {
                    // The key holds the truth: a repaired clock changes it alone.
                    Ok(record) => Ok(Record { not_before_ms: place.due_ms, ..record }),
                    Err(error) => Err((error.to_string(), value.value().to_vec())),
                };
                page.due.push((place, record));
            }
            let level = level(&pending, &txn.open_table(AGE)?)?;
            Ok((page, level))
        })
    }

    /// Brings records nearer whose due time no correct clock can have meant.
    fn clamp(&mut self, now_ms: u64, delay: Duration) -> Result<(), StoreError> {
        let due_ms = now_ms.saturating_add(millis(delay));
        let bound = due_ms.saturating_add(millis(MARGIN));
        loop {
            let far: Vec<(u64, u64, u64)> = self.with(|db, _| {
                let txn = db.begin_read()?;
                let pending = txn.open_table(PENDING)?;
                let Some((last, _)) = pending.last()? else { return Ok(Vec::new()) };
                if last.value().0 <= bound {
                    return Ok(Vec::new());
                }
                let far = pending.range((bound.saturating_add(1), 0, 0)..)?.take(PAGE);
                far.map(|entry| Ok(entry?.0.value())).collect()
            })?;
            if far.is_empty() {
                return Ok(());
            }
            tracing::warn!(records = far.len(), "clock jumped back, due times clamped");
            self.with(|db, _| {
                let txn = db.begin_write()?;
                {
                    let mut pending = txn.open_table(PENDING)?;
                    for key in &far {
                        let bytes = pending.remove(key)?.map(|value| value.value().to_vec());
                        if let Some(bytes) = bytes {
                            pending.insert((due_ms, key.1, key.2), bytes.as_slice())?;
                        }
                    }
                }
                txn.commit()?;
                Ok(())
            })?;
        }
    }

    pub(super) fn list(&mut self, which: Which, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.with(|db, _| {
            let txn = db.begin_read()?;
            let mut out = Vec::new();
            match which {
                Which::Pending => {
                    for entry in txn.open_table(PENDING)?.range::<(u64, u64, u64)>(..)?.take(limit) {
                        let (key, value) = entry?;
                        let place = place(key.value());
                        let mut line = listed(place.seq, value.value(), String::new(), None);
                        if let Some(record) = &mut line.record {
                            record.not_before_ms = place.due_ms;
                        }
                        out.push(line);
                    }
                }
                Which::Dead => {
                    for entry in txn.open_table(DEAD)?.range::<u64>(..)?.take(limit) {
                        let (seq, value) = entry?;
                        out.push(match codec::decode_letter(value.value()) {
                            Ok(letter) => {
                                listed(seq.value(), &letter.payload, letter.reason, Some(letter.died_ms))
                            }
                            Err(error) => {
                                listed(seq.value(), value.value(), format!("damaged letter: {error}"), None)
                            }
                        });
                    }
                }
            }
            Ok(out)
        })
    }

    /// Moves dead letters back, a page per transaction.
    pub(super) fn requeue(&mut self, filter: &Filter, due_ms: u64) -> Result<(u64, Level), StoreError> {
        let (mut from, mut count) = (0, 0);
        loop {
            let (next, moved, now) = self.with(|db, _| {
                let txn = db.begin_write()?;
                let (mut moved, mut next) = (0, None);
                let level = {
                    let (mut pending, mut age, mut dead) =
                        (txn.open_table(PENDING)?, txn.open_table(AGE)?, txn.open_table(DEAD)?);
                    let mut back = Vec::new();
                    for entry in dead.range(from..)?.take(PAGE) {
                        let (seq, value) = entry?;
                        next = Some(seq.value() + 1);
                        let record = codec::decode_letter(value.value())
                            .and_then(|letter| codec::decode(&letter.payload));
                        if let Ok(record) = record
                            && filter.matches(&record)
                        {
                            back.push((seq.value(), Record { attempt: 0, not_before_ms: due_ms, ..record }));
                        }
                    }
                    for (seq, record) in &back {
                        dead.remove(seq)?;
                        pending.insert(
                            (due_ms, *seq, record.first_failed_ms),
                            codec::encode(record).as_slice(),
                        )?;
                        age.insert((record.first_failed_ms, *seq), ())?;
                        moved += 1;
                    }
                    level(&pending, &age)?
                };
                txn.commit()?;
                Ok((next, moved, level))
            })?;
            count += moved;
            match next {
                Some(seq) => from = seq,
                None => return Ok((count, now)),
            }
        }
    }
}

fn place((due_ms, seq, first_failed_ms): (u64, u64, u64)) -> Place {
    Place { due_ms, seq, first_failed_ms }
}

fn level<V: Value + 'static>(
    pending: &impl ReadableTable<(u64, u64, u64), V>,
    age: &impl ReadableTable<(u64, u64), ()>,
) -> Result<Level, redb::Error> {
    Ok(Level { pending: pending.len()?, oldest_ms: age.first()?.map(|(key, _)| key.value().0) })
}

fn listed(seq: u64, payload: &[u8], reason: String, died_ms: Option<u64>) -> Listed {
    let (record, raw) = match codec::decode(payload) {
        Ok(record) => (Some(record), Vec::new()),
        Err(_) => (None, payload.to_vec()),
    };
    Listed { id: seq.to_string(), record, raw, reason, died_ms, original: None }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
