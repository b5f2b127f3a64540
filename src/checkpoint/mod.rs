//! Where to resume from, saved only up to what is done.
//!
//! Guarantees (I2, I4): what is saved is the position that the frontier has released, so everything before it is acknowledged by Redis or
//! by the queue; within an epoch it only moves forward. Behind a gap the old position stays until everything is removed that the gap calls for. A save that fails is counted and tried again: meanwhile the daemon serves on
//! and the checkpoint holds. A save that is *fenced*, because another daemon has taken over, ends the writer.
//! May depend on `pipeline::frontier`, `source::position`, and for its stores on `config` and `invalidate::target`.

mod error;
pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
mod redis;
pub mod store;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rowbust_binlog::{Flavor, GtidState};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::file::{Published, Saved};
pub use self::{
    error::CheckpointError,
    store::{Store, look, place},
};
use crate::{
    pipeline::{Commits, Done, frontier::Frontier},
    source::position::{Anchor, Coordinates, Position},
};

/// The least time between two saves: what a crash may repeat. An fsync costs milliseconds.
const SAVE_INTERVAL: Duration = Duration::from_millis(200);
/// The pause after a save that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A shared store is written so often even if nothing has moved: it may have lost the record, and another daemon may have taken it
/// over.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether what holds the checkpoint is gone.
const HELD_INTERVAL: Duration = Duration::from_millis(100);

/// What was saved last, for status and metrics.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The newest save.
    pub saved: Option<Saved>,
    /// When it was made.
    pub at: Option<Instant>,
    /// Whether the frontier has moved since.
    pub behind: bool,
    /// Whether it waits for the disk queue of this host.
    pub held: bool,
    /// Saves since the start.
    pub saves: u64,
    /// Saves that failed since the start.
    pub failures: u64,
}

/// Who the positions belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of the server.
    pub flavor: Flavor,
    /// `@@server_uuid`, or the server id on MariaDB.
    pub source: String,
    /// Changes with each gap, and each time that Redis was seen to have forgotten something.
    pub epoch: u64,
    /// See [`Saved::lineage`].
    pub lineage: String,
    /// When following began, in Unix seconds.
    pub since: u32,
}

/// Shares what the writer has done.
#[derive(Debug, Clone)]
pub struct Watch {
    snapshot: Arc<Mutex<Snapshot>>,
    /// Counts the saves.
    saves: watch::Receiver<u64>,
    published: watch::Sender<BTreeMap<String, Published>>,
}

impl Watch {
    /// The newest state.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Completes when a position is on disk. Until then nothing that was read may be acknowledged: a crash would begin at `source.start`
    /// again and skip it.
    pub async fn saved_once(&self) {
        let mut saves = self.saves.clone();
        // The writer is gone only when the daemon ends.
        let _ = saves.wait_for(|saves| *saves > 0).await;
    }

    /// These marks may stand in Redis: saved soon, unless the position is held.
    pub fn may_publish(&self, published: BTreeMap<String, Published>) {
        self.published.send_if_modified(|now| {
            let is_new = *now != published;
            *now = published;
            is_new
        });
    }

    /// Completes when it is saved that these marks may stand in Redis. `false`: it won't be, another daemon has taken over.
    pub async fn will_publish(&self, published: BTreeMap<String, Published>) -> bool {
        let mut saves = self.saves.clone();
        self.published.send_replace(published.clone());
        let is_saved = |_: &u64| self.snapshot().saved.is_some_and(|saved| saved.published == published);
        saves.wait_for(is_saved).await.is_ok()
    }
}

/// Says whether something else that only this host knows of is still owed: then the position that others would go on from stays.
pub struct Hold(Box<dyn Fn() -> bool + Send + Sync>);

impl Hold {
    /// Asked after the position has moved and before it is saved.
    pub fn new(owed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(owed))
    }

    /// Nothing is.
    pub fn never() -> Self {
        Self::new(|| false)
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&(self.0)()).finish()
    }
}

/// Follows the frontier and saves it.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    hold: Hold,
    identity: Identity,
    started: Option<oneshot::Receiver<Position>>,
    position: Position,
    anchor: Option<Anchor>,
    commit_time: u32,
    frontier: Frontier<Done>,
    snapshot: Arc<Mutex<Snapshot>>,
    saves: watch::Sender<u64>,
    published: watch::Receiver<BTreeMap<String, Published>>,
    covered: Vec<String>,
}

impl Writer {
    /// Which mappings the position stands for from the beginning on: see [`crate::coverage`].
    pub fn covering(mut self, digests: Vec<String>) -> Self {
        self.covered = digests;
        self
    }

    /// `started`: where reading begins, and `anchor` the last event before. That is saved at once, with what was `published` before.
    pub fn new(
        store: Store,
        hold: Hold,
        identity: Identity,
        started: oneshot::Receiver<Position>,
        anchor: Option<Anchor>,
        frontier: Frontier<Done>,
        published: BTreeMap<String, Published>,
    ) -> (Self, Watch) {
        let snapshot = Arc::new(Mutex::new(Snapshot {
            saved: None,
            at: None,
            behind: true,
            held: false,
            saves: 0,
            failures: 0,
        }));
        let saves = watch::Sender::new(0);
        let (publish, published) = watch::channel(published);
        let watch = Watch { snapshot: Arc::clone(&snapshot), saves: saves.subscribe(), published: publish };
        let nowhere = Coordinates { file: "".into(), position: 0 };
        let position = Position { gtids: GtidState::empty(identity.flavor), at: nowhere };
        let started = Some(started);
        let this = Self {
            store,
            hold,
            identity,
            started,
            position,
            anchor,
            commit_time: 0,
            frontier,
            snapshot,
            saves,
            published,
            covered: Vec::new(),
        };
        (this, watch)
    }

    /// Saves until `shutdown`, then once more.
    ///
    /// # Errors
    /// When the last save fails.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), CheckpointError> {
        if let Some(started) = self.started.take() {
            tokio::select! {
                // Not started: nothing was read, and there is nothing to save.
                () = shutdown.cancelled() => return Ok(()),
                position = started => match position {
                    Ok(position) => self.position = position,
                    Err(_) => return Ok(()),
                },
            }
        }
        let mut ending = false;
        let mut dirty = true;
        // The first is the place that was found, or where reading begins: it passes nothing.
        let mut first = true;
        loop {
            dirty |= self.advance();
            dirty |= self.published.has_changed().unwrap_or(false);
            if dirty && (first || !self.is_held()) {
                let pause = match self.save().await {
                    Ok(()) => {
                        (dirty, first) = (false, false);
                        SAVE_INTERVAL
                    }
                    Err(error @ CheckpointError::Fenced { .. }) => return Err(error),
                    Err(error) if ending => return Err(error),
                    Err(error) => {
                        tracing::error!(%error, "checkpoint not saved, holding it");
                        RETRY_INTERVAL
                    }
                };
                if !ending {
                    self.pause(pause, &shutdown).await;
                }
            } else if ending {
                if dirty {
                    tracing::warn!(
                        "checkpoint held by the disk queue: what it owes is repeated at the next start"
                    );
                }
                return Ok(());
            } else if dirty {
                self.pause(HELD_INTERVAL, &shutdown).await;
            } else {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.frontier.advanced() => {}
                    Ok(()) = self.published.changed() => dirty = true,
                    () = tokio::time::sleep(RENEW_INTERVAL), if self.store.is_shared() => dirty = true,
                }
            }
            ending = shutdown.is_cancelled();
        }
    }

    async fn pause(&self, pause: Duration, shutdown: &CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// The position has moved before this is asked: what is owed for it counts already.
    fn is_held(&self) -> bool {
        let held = (self.hold.0)();
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).held = held;
        held
    }

    /// Adds what became done to the position.
    fn advance(&mut self) -> bool {
        let Done { restart, commits, covers } = self.frontier.drain_done().unwrap_or_default();
        if restart.is_none() && commits.is_none() && covers.is_empty() {
            return false;
        }
        self.covered.extend(covers);
        self.covered.sort_unstable();
        self.covered.dedup();
        if let Some(restart) = restart {
            // Behind a gap the order of positions begins anew, and so it does in another server's files.
            self.identity.epoch += u64::from(restart.gap);
            self.identity.source = restart.identity;
            self.position = restart.position;
            self.anchor = None;
        } else if let Some(Commits { span, .. }) = &commits {
            assert!(
                span.last.file != self.position.at.file || span.last.position >= self.position.at.position,
                "I4 violated: the frontier moves from {} back to {}",
                self.position.at,
                span.last
            );
        }
        if let Some(Commits { span, time, anchor }) = commits {
            span.apply(&mut self.position.gtids);
            self.position.at = span.last;
            self.anchor = anchor;
            self.commit_time = time;
        }
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).behind = true;
        true
    }

    async fn save(&mut self) -> Result<(), CheckpointError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let saved = Saved {
            generation: 0,
            epoch: self.identity.epoch,
            flavor: flavor_name(self.identity.flavor).to_owned(),
            source: self.identity.source.clone(),
            gtids: self.position.gtids.to_string(),
            file: self.position.at.file.to_string(),
            position: self.position.at.position,
            anchor: self.anchor,
            followed_since: self.identity.since,
            commit_time: self.commit_time,
            saved_at: now.as_secs(),
            lineage: self.identity.lineage.clone(),
            published: self.published.borrow_and_update().clone(),
            fence: 0,
            covered: Some(self.covered.clone()),
        };
        let result = self.store.save(saved).await;
        let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(saved) => {
                snapshot.saved = Some(saved);
                snapshot.at = Some(Instant::now());
                snapshot.behind = false;
                snapshot.saves += 1;
                drop(snapshot);
                self.saves.send_modify(|saves| *saves += 1);
                Ok(())
            }
            Err(error) => {
                snapshot.failures += 1;
                Err(error)
            }
        }
    }
}

/// `mysql` or `mariadb`, as in [`Saved::flavor`].
pub fn flavor_name(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MySql => "mysql",
        Flavor::MariaDb => "mariadb",
    }
}

/// The position that a checkpoint names.
///
/// # Errors
/// What can't be read in it: it was written by another version, or by hand.
pub fn position(saved: &Saved) -> Result<Position, String> {
    let flavor = match saved.flavor.as_str() {
        "mysql" => Flavor::MySql,
        "mariadb" => Flavor::MariaDb,
        other => return Err(format!("unknown flavor {other}")),
    };
    let gtids = GtidState::parse(flavor, &saved.gtids).map_err(|error| error.to_string())?;
    Ok(Position { gtids, at: Coordinates { file: saved.file.as_str().into(), position: saved.position } })
}
