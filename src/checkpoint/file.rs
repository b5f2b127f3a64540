//! The checkpoint as a file: CRC, two generations, never a moment without a whole one.
//!
//! Guarantees: after [`CheckpointFile::save`] returned, the position survives kill -9 and loss of power (file and folder are
//! synced). At any moment `PATH` or `PATH.prev` is whole. A torn or corrupt file is never taken for a position, and two of them
//! are an error, not a fresh start. One process at a time, by a lock on `PATH.lock`. May depend on `source::position`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use crate::{kill_point, source::position::Anchor};

const MAGIC: &str = "rowbust-checkpoint 1";

/// What a checkpoint says. Positions are in the server's own text forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Counts the saves; the higher one of two is the newer.
    pub generation: u64,
    /// Changes with each gap: positions of different epochs can't be compared.
    pub epoch: u64,
    /// `mysql` or `mariadb`.
    pub flavor: String,
    /// `@@server_uuid` on MySQL, the server id on MariaDB.
    pub source: String,
    /// Executed set (MySQL), or last GTID of each domain (MariaDB).
    pub gtids: String,
    /// Binlog file on that server.
    pub file: String,
    /// Offset in it: everything before it is done.
    pub position: u64,
    /// The event that ends there; by it a log that began anew is told apart.
    #[serde(default)]
    pub anchor: Option<Anchor>,
    /// Unix time in seconds of the first start: what the server lost in a crash before it concerns nobody. 0: not known.
    #[serde(default)]
    pub followed_since: u32,
    /// Unix time in seconds of the newest transaction that is done, by the server's clock; 0: none yet.
    pub commit_time: u32,
    /// Unix time in seconds of the save.
    pub saved_at: u64,
    /// Which mappings it stands for: see [`crate::coverage`]. `None`: written by a version that didn't say.
    #[serde(default)]
    pub covered: Option<Vec<String>>,
    /// Names this checkpoint and all that follow it: the marks that are left in Redis are under this name.
    #[serde(default)]
    pub lineage: String,
    /// The newest mark that may stand in each Redis server, by target and hash tag.
    #[serde(default)]
    pub published: BTreeMap<String, Published>,
    /// Counts the takings-over: a shared store refuses a save with an older number. 0: by a version that didn't count.
    #[serde(default)]
    pub fence: u64,
}

/// What was published in a Redis server, and in which of its runs: see `published::mark`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Published {
    /// The mark's id; empty: none stood there.
    pub id: String,
    /// That of the mark before: it stands there if publishing this one was cut off.
    pub before: String,
    /// Which process and replication history that was.
    pub run: String,
    /// How many keys it had evicted.
    pub evicted: u64,
}

/// Which file a checkpoint was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The newest.
    Newest,
    /// The one before: the newest is missing or corrupt.
    Previous,
}

/// A checkpoint file that this process has locked.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    generation: u64,
    /// The file at `path` is torn: it must not take the place of the generation that was used instead.
    newest_is_torn: bool,
    _lock: File,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn prev_path(path: &Path) -> PathBuf {
    with_suffix(path, ".prev")
}

/// What tells this checkpoint from every other one, wherever its folder is mounted: a random number in `PATH.id`, made when it is first
/// asked for.
///
/// # Errors
/// It can't be read or made.
pub fn identity(path: &Path) -> io::Result<String> {
    let id = with_suffix(path, ".id");
    let read = || {
        let text = fs::read_to_string(&id)?;
        let text = text.trim();
        let plain = !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric());
        plain.then(|| text.to_owned()).ok_or_else(|| io::Error::other("not a name of a checkpoint"))
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // Seeded by the system for each process, and apart for each call.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let tmp = with_suffix(path, &format!(".id.{random:016x}"));
    fs::write(&tmp, format!("{random:016x}\n"))?;
    // Whoever comes first names it.
    let linked = fs::hard_link(&tmp, &id);
    fs::remove_file(&tmp)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read(),
    }
}

/// Reads a checkpoint without locking it: for `rowbust checkpoint show`.
///
/// `None`: there is none yet.
pub fn load(path: &Path) -> Result<Option<(Saved, Generation)>, CheckpointError> {
    let newest = read(path);
    let previous = read(&prev_path(path));
    match (newest, previous) {
        // A crash between two saves can't leave the older one newer; a restored backup can.
        (Ok(Some(saved)), _) => Ok(Some((saved, Generation::Newest))),
        (Ok(None), Ok(None)) => Ok(None),
        (_, Ok(Some(saved))) => Ok(Some((saved, Generation::Previous))),
        (newest, previous) => Err(CheckpointError::Corrupt {
            path: path.to_owned(),
            newest: describe(newest),
            previous_path: prev_path(path),
            previous: describe(previous),
        }),
    }
}

fn describe(read: Result<Option<Saved>, String>) -> String {
    match read {
        Ok(_) => "missing".to_owned(),
        Err(error) => error,
    }
}

/// `Ok(None)`: there is no such file.
fn read(path: &Path) -> Result<Option<Saved>, String> {
    // A checkpoint is some kilobytes; a GTID set of a large fleet some hundred.
    const LARGEST: u64 = 64 << 20;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(meta) if meta.len() > LARGEST => return Err(format!("{} bytes are no checkpoint", meta.len())),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    decode(&bytes).map(Some)
}

/// The inverse of `encode`. Public for fuzzing.
pub fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let (head, body) = text.split_once('\n').ok_or("no header line")?;
    let crc = head
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.strip_prefix(" crc32="))
        .ok_or("not a checkpoint of this version")?;
    let crc = u32::from_str_radix(crc, 16).map_err(|_| "unreadable checksum".to_owned())?;
    let found = crc32fast::hash(body.as_bytes());
    if found != crc {
        return Err(format!("checksum {found:08x} instead of {crc:08x}: torn or changed"));
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

pub(super) fn encode(saved: &Saved) -> io::Result<Vec<u8>> {
    let mut body = serde_json::to_string_pretty(saved)?;
    body.push('\n');
    Ok(format!("{MAGIC} crc32={:08x}\n{body}", crc32fast::hash(body.as_bytes())).into_bytes())
}

impl CheckpointFile {
    /// Locks the checkpoint for this process and reads it. Makes the folder if it is missing.
    pub fn open(path: &Path) -> Result<(Self, Option<(Saved, Generation)>), CheckpointError> {
        let io = |action| move |source| CheckpointError::Io { path: path.to_owned(), action, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(io("make its folder"))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(with_suffix(path, ".lock"))
            .map_err(io("open its lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CheckpointError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock it")(source)),
        }
        let found = load(path)?;
        let generation = found.as_ref().map_or(0, |(saved, _)| saved.generation);
        let newest_is_torn = matches!(found, Some((_, Generation::Previous)));
        Ok((Self { path: path.to_owned(), generation, newest_is_torn, _lock: lock }, found))
    }

    /// Keeps what is saved now at `PATH.backup`, for [`CheckpointFile::backup`]. Says whether there was anything.
    pub fn keep_backup(&self) -> Result<bool, CheckpointError> {
        let Some((saved, _)) = load(&self.path)? else { return Ok(false) };
        let path = with_suffix(&self.path, ".backup");
        let tmp = with_suffix(&self.path, ".backup.tmp");
        let write = || {
            let mut file = File::create(&tmp)?;
            file.write_all(&encode(&saved)?)?;
            file.sync_all()?;
            fs::rename(&tmp, &path)
        };
        write().map_err(|source| CheckpointError::Io {
            path: path.clone(),
            action: "keep a backup",
            source,
        })?;
        Ok(true)
    }

    /// What was kept last.
    pub fn backup(&self) -> Result<Option<Saved>, CheckpointError> {
        let path = with_suffix(&self.path, ".backup");
        read(&path).map_err(|why| CheckpointError::Unreadable { place: path.display().to_string(), why })
    }

    /// Saves durably. `saved.generation` is set here.
    pub fn save(&mut self, mut saved: Saved) -> Result<Saved, CheckpointError> {
        saved.generation = self.generation + 1;
        self.write(&saved).map_err(|(action, source)| CheckpointError::Io {
            path: self.path.clone(),
            action,
            source,
        })?;
        self.generation = saved.generation;
        self.newest_is_torn = false;
        Ok(saved)
    }

    fn write(&self, saved: &Saved) -> Result<(), (&'static str, io::Error)> {
        let step = |action: &'static str| move |error: io::Error| (action, error);
        let tmp = with_suffix(&self.path, ".tmp");
        kill_point!("before_checkpoint_write");
        let mut file = File::create(&tmp).map_err(step("create the new generation"))?;
        file.write_all(&encode(saved).map_err(step("encode"))?).map_err(step("write"))?;
        kill_point!("before_checkpoint_fsync");
        file.sync_all().map_err(step("sync"))?;
        kill_point!("before_checkpoint_rename");
        // The old generation gets its second name before the new one takes its first: there is always a whole one.
        if self.path.exists() && !self.newest_is_torn {
            let spare = with_suffix(&self.path, ".prev.tmp");
            match fs::remove_file(&spare) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(("clear an old link", error));
                }
                _ => {}
            }
            // A file system without hard links gets a copy.
            fs::hard_link(&self.path, &spare)
                .or_else(|_| fs::copy(&self.path, &spare).and_then(|_| File::open(&spare)?.sync_all()))
                .map_err(step("keep the old generation"))?;
            fs::rename(&spare, prev_path(&self.path)).map_err(step("keep the old generation"))?;
        }
        fs::rename(&tmp, &self.path).map_err(step("rename the new generation"))?;
        kill_point!("after_checkpoint_rename");
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(step("sync the folder"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved(position: u64) -> Saved {
        Saved {
            generation: 0,
            epoch: 1,
            flavor: "mariadb".into(),
            source: "1".into(),
            gtids: "0-1-7".into(),
            file: "mysql-bin.000001".into(),
            position,
            anchor: Some(Anchor { size: 31, event_type: 16, timestamp: 5, crc: 7 }),
            followed_since: 4,
            commit_time: 5,
            saved_at: 6,
            covered: None,
            lineage: "a".into(),
            published: BTreeMap::new(),
            fence: 2,
        }
    }

    #[test]
    fn keeps_two_generations_and_falls_back_to_the_older() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/checkpoint");
        let (mut file, found) = CheckpointFile::open(&path).unwrap();
        assert!(found.is_none());
        for position in [4, 100, 200] {
            file.save(saved(position)).unwrap();
        }
        let (newest, generation) = load(&path).unwrap().unwrap();
        assert_eq!((newest.position, newest.generation, generation), (200, 3, Generation::Newest));

        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 3);
        fs::write(&path, &bytes).unwrap();
        let (older, generation) = load(&path).unwrap().unwrap();
        assert_eq!((older.position, generation), (100, Generation::Previous));

        // The good one is kept until a new one stands beside it: also when that save is cut off before its rename.
        drop(file);
        let (mut file, found) = CheckpointFile::open(&path).unwrap();
        assert_eq!(found.unwrap().1, Generation::Previous);
        file.save(saved(300)).unwrap();
        assert_eq!(read(&prev_path(&path)).unwrap().unwrap().position, 100);
        assert_eq!(load(&path).unwrap().unwrap().0.position, 300);

        fs::write(&path, &bytes).unwrap();
        fs::write(prev_path(&path), b"garbage").unwrap();
        drop(file);
        let error = CheckpointFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("Refusing to guess") && error.contains("checksum"), "{error}");
    }

    #[test]
    fn is_held_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let held = CheckpointFile::open(&path).unwrap();
        assert!(matches!(CheckpointFile::open(&path), Err(CheckpointError::Locked { .. })));
        drop(held);
        CheckpointFile::open(&path).unwrap();
    }

    #[test]
    fn a_checkpoint_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = identity(&dir.path().join("deep/checkpoint")).unwrap();
        assert_eq!(name.len(), 16);
        assert_eq!(identity(&dir.path().join("deep/checkpoint")).unwrap(), name);
        assert_ne!(identity(&dir.path().join("checkpoint")).unwrap(), name);
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
        fs::write(dir.path().join("checkpoint.id"), "../x y").unwrap();
        assert!(identity(&dir.path().join("checkpoint")).is_err());
    }

    proptest! {
        /// Whatever byte of a checkpoint is changed, it is refused or says the same.
        #[test]
        fn a_changed_byte_is_never_a_position(at in any::<prop::sample::Index>(), byte: u8) {
            let good = encode(&saved(77)).unwrap();
            let mut bad = good.clone();
            let at = at.index(bad.len());
            bad[at] = byte;
            match decode(&bad) {
                Ok(saved) => prop_assert_eq!(saved, decode(&good).unwrap()),
                Err(_) => prop_assert_ne!(&bad, &good),
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }
    }
}
