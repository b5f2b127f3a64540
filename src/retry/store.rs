//! The disk queue's file: tables, transactions, recovery. Synchronous; one thread owns it.
//!
//! Guarantees: what [`Store::commit`] returned `Ok` for survives kill -9 and power loss (one transaction, fsync); a file that fails
//! its checksums is refused and left as it is; an I/O error closes the file, and a later call opens it again.
//! Memory: redb's cache ([`CACHE_BYTES`]) and one page of records. May depend on [`super::codec`], [`super::record`],
//! [`super::shelf`], [`super::tables`].

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableHandle,
};

use super::{
    Listed, Record, RetryError,
    codec::{self, Letter},
    filter::Matcher,
    policy::{MARGIN, millis},
    shelf::{PendingKey, Place, Shelf},
    tables::{DEAD, Level, Tables, existing, level, shelve},
};
use crate::config::RetryPolicy;

/// The one file in the queue's folder.
const FILE: &str = "queue.redb";
/// 1: one table for all that waits. 2: shelves.
const SCHEMA: u64 = 2;
const CACHE_BYTES: usize = 8 << 20;
/// Records that one step of a long change (requeue, clock repair) touches.
const PAGE: usize = 4096;
/// After a failed attempt to open the file again, the next one waits for this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// One change. All changes of a commit are durable together or not at all.
#[derive(Debug)]
pub(super) enum Change {
    Add(Record),
    /// A dead letter that never waited.
    AddLetter(Letter),
    Remove(Place),
    Forward(Place, Record),
    Bury(Place, Letter),
}

type Undecoded = (String, Vec<u8>);

/// Due records of a shelf, and when its next one is due.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// A record that can't be decoded: why, and its bytes.
    pub(super) due: Vec<(Place, Result<Record, Undecoded>)>,
    pub(super) next_due_ms: Option<u64>,
}

/// What a sweep does with the dead letters that it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Back to the first tier, due then.
    Requeue {
        now_ms: u64,
    },
    Drop,
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
    policy: RetryPolicy,
    db: Option<Database>,
    next_seq: u64,
    shelves: BTreeSet<Arc<Shelf>>,
    retry_open: Instant,
    #[cfg(test)]
    pub(super) fault: Option<tests::Fault>,
}

impl Store {
    /// Opens the file of `folder`, or creates both, and checks every page.
    pub(super) fn open(folder: &Path, policy: RetryPolicy) -> Result<Self, RetryError> {
        let file = folder.join(FILE);
        let path = file.clone();
        let io = |source| RetryError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let mut store = Self {
            db: None,
            policy,
            next_seq: 0,
            shelves: BTreeSet::new(),
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

    /// Creates the tables, brings an older schema up to date; `Some`: a schema version that is not known.
    fn initialise(&mut self) -> Result<Option<u64>, redb::Error> {
        let Some(db) = &self.db else { return Ok(None) };
        let txn = db.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let schema = meta.get("schema")?.map(|value| value.value());
            match schema {
                None | Some(SCHEMA) => {}
                Some(1) => {
                    let moved = shelve(&txn, self.policy)?;
                    tracing::info!(records = moved, "retry queue brought to schema version {SCHEMA}");
                }
                Some(found) => return Ok(Some(found)),
            }
            if schema != Some(SCHEMA) {
                meta.insert("schema", SCHEMA)?;
            }
            self.next_seq = meta.get("next_seq")?.map_or(0, |value| value.value());
            txn.open_table(DEAD)?;
        }
        for table in txn.list_tables()? {
            self.shelves.extend(Shelf::of_table(table.name()).map(Arc::new));
        }
        txn.commit()?;
        Ok(None)
    }

    /// Where records wait, or have waited.
    pub(super) fn shelves(&self) -> &BTreeSet<Arc<Shelf>> {
        &self.shelves
    }

    /// Runs `work` on the database, opened again if an earlier error closed it.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&Database, &mut u64, &mut BTreeSet<Arc<Shelf>>) -> Result<T, redb::Error>,
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
        work(db, &mut self.next_seq, &mut self.shelves).map_err(|error| {
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
        let policy = self.policy;
        self.with(|db, next_seq, shelves| {
            let txn = db.begin_write()?;
            {
                let mut tables = Tables::new(&txn, policy, shelves);
                let mut dead = txn.open_table(DEAD)?;
                let mut number = || std::mem::replace(next_seq, *next_seq + 1);
                for change in changes {
                    match change {
                        Change::Add(record) => tables.add(number(), record)?,
                        Change::AddLetter(letter) => {
                            dead.insert(number(), codec::encode_letter(letter).as_slice())?;
                        }
                        Change::Remove(place) => tables.remove(place)?,
                        Change::Forward(place, record) => {
                            tables.remove(place)?;
                            let first_failed_ms = place.first_failed_ms;
                            tables.add(place.seq, &Record { first_failed_ms, ..record.clone() })?;
                        }
                        Change::Bury(place, letter) => {
                            tables.remove(place)?;
                            dead.insert(place.seq, codec::encode_letter(letter).as_slice())?;
                        }
                    }
                }
                drop((tables, dead));
                txn.open_table(META)?.insert("next_seq", *next_seq)?;
            }
            txn.commit()?;
            level(&db.begin_read()?, shelves)
        })
    }

    /// Up to `limit` records of a shelf that are due at `now_ms` and stand not in `skip`.
    pub(super) fn due(
        &mut self,
        shelf: &Arc<Shelf>,
        now_ms: u64,
        limit: usize,
        skip: &HashSet<Place>,
    ) -> Result<Page, StoreError> {
        self.clamp(shelf, now_ms)?;
        self.with(|db, _, _| {
            let txn = db.begin_read()?;
            let mut page = Page::default();
            let Some(pending) = existing(txn.open_table(shelf.pending()))? else { return Ok(page) };
            for entry in pending.range::<PendingKey>(..)? {
                let (key, value) = entry?;
                let place = Place::new(shelf, key.value());
                if place.due_ms > now_ms || page.due.len() == limit {
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
            Ok(page)
        })
    }

    /// Brings records nearer whose due time no correct clock can have meant.
    fn clamp(&mut self, shelf: &Shelf, now_ms: u64) -> Result<(), StoreError> {
        let due_ms = now_ms.saturating_add(millis(shelf.delay(self.policy)));
        let bound = due_ms.saturating_add(millis(MARGIN));
        loop {
            let far: Vec<PendingKey> = self.with(|db, _, _| {
                let txn = db.begin_read()?;
                let Some(pending) = existing(txn.open_table(shelf.pending()))? else { return Ok(Vec::new()) };
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
            self.with(|db, _, _| {
                let txn = db.begin_write()?;
                {
                    let mut pending = txn.open_table(shelf.pending())?;
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

    /// What waits, by due time.
    pub(super) fn pending(&mut self, matcher: &Matcher, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.with(|db, _, shelves| {
            let txn = db.begin_read()?;
            let mut found: Vec<(u64, Listed)> = Vec::new();
            for shelf in shelves.iter() {
                let Some(pending) = existing(txn.open_table(shelf.pending()))? else { continue };
                let before = found.len();
                for entry in pending.range::<PendingKey>(..)? {
                    let (key, value) = entry?;
                    let place = Place::new(shelf, key.value());
                    let mut line = listed(place.seq, value.value(), String::new(), None);
                    if let Some(record) = &mut line.record {
                        record.not_before_ms = place.due_ms;
                    }
                    if matcher.takes(&line) {
                        found.push((place.due_ms, line));
                        if found.len() - before == limit {
                            break;
                        }
                    }
                }
            }
            found.sort_by_key(|(due_ms, _)| *due_ms);
            Ok(found.into_iter().map(|(_, line)| line).take(limit).collect())
        })
    }

    /// Dead letters, oldest first.
    pub(super) fn dead(&mut self, matcher: &Matcher, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.with(|db, _, _| {
            let txn = db.begin_read()?;
            let mut out = Vec::new();
            for entry in txn.open_table(DEAD)?.range::<u64>(..)? {
                let (seq, value) = entry?;
                let line = listed_letter(seq.value(), value.value());
                if matcher.takes(&line) {
                    out.push(line);
                    if out.len() == limit {
                        break;
                    }
                }
            }
            Ok(out)
        })
    }

    /// Sends up to `limit` dead letters back, or drops them, a page per transaction. Returns how many, whether there may be more,
    /// and the sizes then.
    pub(super) fn sweep(
        &mut self,
        matcher: &Matcher,
        sweep: Sweep,
        limit: usize,
    ) -> Result<(u64, bool, Level), StoreError> {
        let policy = self.policy;
        let (mut from, mut count) = (0, 0);
        loop {
            let rest = limit - usize::try_from(count).unwrap_or(limit).min(limit);
            let (next, moved, now) = self.with(|db, _, shelves| {
                let txn = db.begin_write()?;
                let (mut moved, mut next) = (0, None);
                {
                    let mut dead = txn.open_table(DEAD)?;
                    let mut meant = Vec::new();
                    for entry in dead.range(from..)?.take(PAGE) {
                        if meant.len() == rest {
                            break;
                        }
                        let (seq, value) = entry?;
                        next = Some(seq.value() + 1);
                        let line = listed_letter(seq.value(), value.value());
                        if matcher.takes(&line) && (sweep == Sweep::Drop || line.can_be_requeued()) {
                            meant.push((seq.value(), line.record));
                        }
                    }
                    let mut tables = Tables::new(&txn, policy, shelves);
                    for (seq, record) in meant {
                        dead.remove(seq)?;
                        if let (Sweep::Requeue { now_ms }, Some(record)) = (sweep, record) {
                            let not_before_ms = now_ms.saturating_add(millis(policy.first.delay));
                            tables.add(seq, &Record { attempt: 0, not_before_ms, ..record })?;
                        }
                        moved += 1;
                    }
                }
                txn.commit()?;
                Ok((next, moved, level(&db.begin_read()?, shelves)?))
            })?;
            count += moved;
            match next {
                Some(_) if count >= limit as u64 => return Ok((count, true, now)),
                Some(seq) => from = seq,
                None => return Ok((count, false, now)),
            }
        }
    }
}

fn listed_letter(seq: u64, value: &[u8]) -> Listed {
    match codec::decode_letter(value) {
        Ok(letter) => listed(seq, &letter.payload, letter.reason, Some(letter.died_ms)),
        Err(error) => listed(seq, value, format!("damaged letter: {error}"), None),
    }
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
