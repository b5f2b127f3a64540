//! Where the checkpoint is kept: a file of this machine, or a record that daemons on several hosts share.
//!
//! Guarantees: a save is durable when it returns, as far as its store is; in a shared store each taking-over gets a higher *fence* than all
//! before, and a save under an older one is refused ([`CheckpointError::Fenced`]). What can't be read is never taken for a position.
//! May depend on `file`, `redis`, `kafka`, `config` and the schema history's seam of `source`.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

#[cfg(feature = "kafka")]
use super::kafka::KafkaRecord;
use super::{
    CheckpointError,
    file::{self, CheckpointFile, Generation, Saved},
    redis::RedisRecord,
};
use crate::{
    config::{Config, Shared},
    source::schema::Keeper,
};

/// A daemon that takes over waits so long for a store that can't be reached, or for a file that a daemon which was just killed still
/// has locked.
const TAKE_WITHIN: Duration = Duration::from_secs(10);
const TAKE_PAUSE: Duration = Duration::from_millis(200);
/// An older daemon on this host that was killed has its locks for a moment.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);
/// A new beginning waits so long for the last save of the life before, which holds the file.
const LAST_SAVE: Duration = Duration::from_secs(60);

/// A part of a shared record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The position.
    Checkpoint,
    /// The schema history.
    Schema,
    /// The position from before `rowbust checkpoint set`.
    Backup,
}

impl Part {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Part::Checkpoint => "checkpoint",
            Part::Schema => "schema",
            Part::Backup => "backup",
        }
    }
}

/// What a taking-over finds.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) fence: u64,
    pub(super) checkpoint: Option<Vec<u8>>,
    pub(super) schema: Option<Vec<u8>>,
}

/// Why a shared store didn't do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another daemon has this higher number.
    Fenced(u64),
    /// In words.
    Unavailable(String),
}

/// The place of a shared record.
#[derive(Debug)]
enum Remote {
    Redis(Box<RedisRecord>),
    #[cfg(feature = "kafka")]
    Kafka(KafkaRecord),
}

impl Remote {
    fn new(config: &Config, shared: &Shared) -> Result<Self, Fault> {
        match shared {
            Shared::Redis { target, name } => {
                let target = config
                    .redis
                    .get(*target)
                    .ok_or_else(|| Fault::Unavailable("no such target in `redis`".into()))?;
                Ok(Self::Redis(Box::new(RedisRecord::new(target.clone(), name))))
            }
            #[cfg(feature = "kafka")]
            Shared::Kafka { brokers, prefix, properties, name } => {
                Ok(Self::Kafka(KafkaRecord::new(brokers, prefix, properties, name)))
            }
            #[cfg(not(feature = "kafka"))]
            Shared::Kafka { .. } => Err(Fault::Unavailable("this build has no Kafka".into())),
        }
    }

    /// A number above `least` and all that were given before; nobody with an older one can save from now on.
    async fn take(&self, least: u64) -> Result<Taken, Fault> {
        match self {
            Self::Redis(record) => record.take(least).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(record) => record.take(least).await,
        }
    }

    /// Saves a part. Gives the generation that stood there, where the store can tell; `Some(0)`: nothing did.
    async fn put(&self, part: Part, bytes: &[u8], fence: u64, generation: u64) -> Result<Option<u64>, Fault> {
        match self {
            Self::Redis(record) => record.put(part, bytes, fence, generation).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(record) => record.put(part, bytes, fence).await.map(|()| None),
        }
    }

    /// Reads a part without taking over.
    async fn get(&self, part: Part) -> Result<Option<Vec<u8>>, Fault> {
        match self {
            Self::Redis(record) => record.get(part).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(record) => record.get(part).await,
        }
    }
}

/// A record that several daemons share, one of which saves.
#[derive(Debug)]
pub struct SharedStore {
    remote: Remote,
    place: String,
    fence: u64,
    generation: AtomicU64,
    saved: AtomicBool,
    /// As last kept, for a store that has lost it.
    schema: Mutex<Option<Vec<u8>>>,
}

/// Where the checkpoint is saved by the one daemon that has taken it over. Clones share it.
#[derive(Debug, Clone)]
pub enum Store {
    /// A file.
    File(Arc<Mutex<CheckpointFile>>, PathBuf),
    /// A record of Redis or Kafka.
    Shared(Arc<SharedStore>),
}

/// What was saved last, and where it was found.
pub type Found = Option<(Saved, Generation)>;

/// In words, where the config has the checkpoint.
pub fn place(config: &Config) -> String {
    match &config.checkpoint.shared {
        None => config.checkpoint.path.display().to_string(),
        Some(Shared::Redis { target, name }) => {
            let target = config.redis.get(*target).map_or("", |target| target.name.as_str());
            format!("redis {target} {}", Shared::redis_key(name))
        }
        Some(Shared::Kafka { prefix, name, .. }) => format!("kafka {prefix}.checkpoint {name}"),
    }
}

/// Reads what is saved without taking over: for `rowbust checkpoint show`.
///
/// # Errors
/// See [`CheckpointError`].
pub async fn look(config: &Config) -> Result<Found, CheckpointError> {
    let Some(shared) = &config.checkpoint.shared else { return file::load(&config.checkpoint.path) };
    let place = place(config);
    let remote = Remote::new(config, shared).map_err(|fault| fault.at(&place, 0))?;
    let bytes = remote.get(Part::Checkpoint).await.map_err(|fault| fault.at(&place, 0))?;
    decoded(bytes, &place)
}

/// Which of the rights that a checkpoint in Kafka needs this account has: for `rowbust check --live`. Empty for any other store.
///
/// # Errors
/// The brokers can't be reached, or refuse the login.
#[cfg(feature = "kafka")]
pub async fn rights(config: &Config) -> Result<Vec<super::kafka::Right>, CheckpointError> {
    let Some(Shared::Kafka { brokers, prefix, properties, name }) = &config.checkpoint.shared else {
        return Ok(Vec::new());
    };
    let record = KafkaRecord::new(brokers, prefix, properties, name);
    record.rights().await.map_err(|fault| fault.at(&place(config), 0))
}

fn decoded(bytes: Option<Vec<u8>>, place: &str) -> Result<Found, CheckpointError> {
    let Some(bytes) = bytes else { return Ok(None) };
    match file::decode(&bytes) {
        // A start that was cut off before it had a position.
        Ok(saved) if saved.gtids.is_empty() && saved.file.is_empty() => Ok(None),
        Ok(saved) => Ok(Some((saved, Generation::Newest))),
        Err(why) => Err(CheckpointError::Unreadable { place: place.to_owned(), why }),
    }
}

impl Fault {
    fn at(self, place: &str, mine: u64) -> CheckpointError {
        let place = place.to_owned();
        match self {
            Self::Fenced(theirs) => CheckpointError::Fenced { place, mine, theirs },
            Self::Unavailable(why) => CheckpointError::Unavailable { place, why },
        }
    }
}

impl Store {
    /// Takes the checkpoint over: from now on this daemon saves, and nobody else. `least`: the highest fence that this process had
    /// before.
    ///
    /// `running`: it isn't this process' first; the last save of the one before may still hold the file.
    ///
    /// # Errors
    /// The file is locked, the store can't be reached within ten seconds, or what it holds can't be read.
    pub async fn take(config: &Config, least: u64, running: bool) -> Result<(Self, Found), CheckpointError> {
        let locked = if running { LAST_SAVE } else { LOCKED_WITHIN };
        match &config.checkpoint.shared {
            None => Self::take_file(config.checkpoint.path.clone(), locked).await,
            Some(shared) => Self::take_shared(config, shared, least, false).await,
        }
    }

    /// As [`Store::take`], to put another position in the place of what is there: in a shared store that may be unreadable.
    ///
    /// # Errors
    /// As there.
    pub async fn take_for_set(config: &Config) -> Result<(Self, Found), CheckpointError> {
        match &config.checkpoint.shared {
            None => Self::take_file(config.checkpoint.path.clone(), Duration::ZERO).await,
            Some(shared) => Self::take_shared(config, shared, 0, true).await,
        }
    }

    async fn take_file(path: PathBuf, locked: Duration) -> Result<(Self, Found), CheckpointError> {
        let until = Instant::now() + locked;
        loop {
            match CheckpointFile::open(&path) {
                Ok((file, found)) => return Ok((Self::File(Arc::new(Mutex::new(file)), path), found)),
                Err(CheckpointError::Locked { .. }) if Instant::now() < until => {
                    tokio::time::sleep(TAKE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn take_shared(
        config: &Config,
        shared: &Shared,
        least: u64,
        to_replace: bool,
    ) -> Result<(Self, Found), CheckpointError> {
        let place = place(config);
        let remote = Remote::new(config, shared).map_err(|fault| fault.at(&place, 0))?;
        let until = Instant::now() + TAKE_WITHIN;
        let taken = loop {
            match remote.take(least).await {
                Ok(taken) => break taken,
                Err(Fault::Unavailable(why)) if Instant::now() < until => {
                    tracing::warn!(place, why, "checkpoint can't be taken over yet");
                    tokio::time::sleep(TAKE_PAUSE).await;
                }
                Err(fault) => return Err(fault.at(&place, 0)),
            }
        };
        let found = match decoded(taken.checkpoint, &place) {
            Err(CheckpointError::Unreadable { .. }) if to_replace => None,
            found => found?,
        };
        let generation = found.as_ref().map_or(0, |(saved, _)| saved.generation);
        tracing::info!(place, fence = taken.fence, generation, "checkpoint taken over");
        let store = SharedStore {
            remote,
            place,
            fence: taken.fence,
            generation: generation.into(),
            saved: AtomicBool::new(false),
            schema: Mutex::new(taken.schema),
        };
        Ok((Self::Shared(Arc::new(store)), found))
    }

    /// Whether daemons on other hosts see it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// The number of this taking-over. 0: a file, which its lock fences.
    pub fn fence(&self) -> u64 {
        match self {
            Self::File(..) => 0,
            Self::Shared(shared) => shared.fence,
        }
    }

    /// Saves durably. Generation and fence are set here.
    ///
    /// # Errors
    /// [`CheckpointError::Fenced`]: for good. Everything else may heal.
    pub async fn save(&self, saved: Saved) -> Result<Saved, CheckpointError> {
        match self {
            Self::File(file, path) => {
                let (file, path) = (Arc::clone(file), path.clone());
                // An fsync must not hold up the workers.
                let save = move || file.lock().unwrap_or_else(PoisonError::into_inner).save(saved);
                tokio::task::spawn_blocking(save).await.unwrap_or_else(|error| {
                    let source = io::Error::other(error);
                    Err(CheckpointError::Io { path, action: "finish the save", source })
                })
            }
            Self::Shared(shared) => shared.save(saved).await,
        }
    }

    /// Where the schema history goes, if it isn't to stand beside the file.
    pub fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        match self {
            Self::File(..) => None,
            Self::Shared(shared) => Some(Arc::clone(shared) as Arc<dyn Keeper>),
        }
    }

    /// Keeps `saved`, what was found, for [`Store::backup`].
    ///
    /// # Errors
    /// As [`Store::save`].
    pub async fn keep_backup(&self, saved: &Saved) -> Result<(), CheckpointError> {
        match self {
            Self::File(file, _) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).keep_backup().map(drop)
            }
            Self::Shared(shared) => {
                let bytes = shared.encoded(saved)?;
                shared.put(Part::Backup, &bytes, saved.generation).await.map(drop)
            }
        }
    }

    /// What was kept last.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn backup(&self) -> Result<Option<Saved>, CheckpointError> {
        match self {
            Self::File(file, _) => file.lock().unwrap_or_else(PoisonError::into_inner).backup(),
            Self::Shared(shared) => {
                let bytes = shared.remote.get(Part::Backup).await.map_err(|f| f.at(&shared.place, 0))?;
                Ok(decoded(bytes, &shared.place)?.map(|(saved, _)| saved))
            }
        }
    }
}

impl SharedStore {
    fn encoded(&self, saved: &Saved) -> Result<Vec<u8>, CheckpointError> {
        let why = |error: io::Error| CheckpointError::Unavailable {
            place: self.place.clone(),
            why: format!("can't be encoded: {error}"),
        };
        file::encode(saved).map_err(why)
    }

    async fn put(&self, part: Part, bytes: &[u8], generation: u64) -> Result<Option<u64>, CheckpointError> {
        let put = self.remote.put(part, bytes, self.fence, generation).await;
        put.map_err(|fault| fault.at(&self.place, self.fence))
    }

    async fn save(&self, mut saved: Saved) -> Result<Saved, CheckpointError> {
        let last = self.generation.load(Ordering::Acquire);
        saved.generation = last + 1;
        saved.fence = self.fence;
        let before = self.put(Part::Checkpoint, &self.encoded(&saved)?, saved.generation).await?;
        self.generation.store(saved.generation, Ordering::Release);
        // A save whose answer was lost is saved again under its number.
        let first = !self.saved.swap(true, Ordering::AcqRel);
        match before {
            Some(0) if !first || last > 0 => {
                tracing::error!(place = self.place, "the store had lost the checkpoint: written again");
                let schema = self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(schema) = schema {
                    self.put(Part::Schema, &schema, 0).await?;
                }
            }
            Some(before) if before < last => {
                tracing::error!(
                    place = self.place,
                    before,
                    last,
                    "the store had gone back to an older checkpoint: it lost writes that it had acknowledged"
                );
            }
            _ => {}
        }
        Ok(saved)
    }
}

impl Keeper for SharedStore {
    fn load(&self) -> Option<Vec<u8>> {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Within a runtime of several threads: nothing may be read meanwhile, so its caller waits as for a file.
    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        let put = self.put(Part::Schema, bytes, 0);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put))
            .map_err(io::Error::other)?;
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
        Ok(())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_, path) => write!(f, "{}", path.display()),
            Self::Shared(shared) => f.write_str(&shared.place),
        }
    }
}
