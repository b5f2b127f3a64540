//! From routed keys to batches with tickets: segments, lanes, the byte budget.
//!
//! Guarantees: every key that is pushed goes to exactly one worker (by the key's hash, so the order per key holds) under a
//! ticket of its segment; the position of a transaction becomes done only with the segment that its commit was read in, and all
//! before it. Keys in flight take at most the budget's bytes: [`Assembler::flush`] waits, and with it the reading of the socket.
//! May depend on `source::position` and `config`.

pub mod batch;
pub mod frontier;
pub mod prepared;
pub mod sink;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashTable;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::{
    batch::{KeyBatch, Removal, RowPlace, hash_key},
    frontier::{Append, Frontier, Ticket},
    prepared::Riders,
};
use crate::{
    config::{Config, SecondRemoval},
    source::{
        self,
        position::{Anchor, CommitSpan, Coordinates, Position},
    },
};

/// Keys of one batch at most: what one `UNLINK` takes. Longer commands gain nothing and hold Redis up.
pub const BATCH_KEYS: usize = 512;
/// Bytes of one batch at most.
const BATCH_BYTES: usize = 64 << 10;
/// Transactions that may wait for a flush: bounds how long the checkpoint stands while only unmapped tables change.
const SEGMENT_COMMITS: u32 = 2048;
/// Batches that may wait before a worker.
pub const WORKER_QUEUE: usize = 16;

/// What a segment adds to the position when it is done. `None`: it lies within one transaction.
pub type Done = Option<Progress>;

/// See [`Done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Reading went on elsewhere before these commits: what was done before counts no more.
    pub rebase: Option<Rebase>,
    /// The transactions whose end was read.
    pub commits: Option<Commits>,
}

/// Transactions that are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commits {
    /// Which; `last` is the end of the newest one.
    pub span: CommitSpan,
    /// The newest one's time: Unix seconds, the server's clock.
    pub time: u32,
    /// The newest one's last event.
    pub anchor: Option<Anchor>,
}

/// The log that is read is another one from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebase {
    /// Where reading goes on.
    pub position: Position,
    /// The server that is read.
    pub identity: String,
    /// Something in between is missing: positions before and behind can't be compared.
    pub gap: bool,
}

impl From<Commits> for Progress {
    fn from(commits: Commits) -> Self {
        Self { rebase: None, commits: Some(commits) }
    }
}

impl Append for Done {
    fn append(&mut self, later: Self) {
        let Some(later) = later else { return };
        let Some(own) = self.as_mut().filter(|_| later.rebase.is_none()) else {
            // Of two gaps in a row the epoch counts one: nothing was done in between.
            let gap = self.as_ref().and_then(|own| own.rebase.as_ref()).is_some_and(|rebase| rebase.gap);
            let mut later = later;
            if let Some(rebase) = &mut later.rebase {
                rebase.gap |= gap;
            }
            *self = Some(later);
            return;
        };
        match (&mut own.commits, later.commits) {
            (Some(own), Some(later)) => {
                own.span.append(&later.span);
                (own.time, own.anchor) = (later.time, later.anchor);
            }
            (own, later) => *own = later.or(own.take()),
        }
    }
}

/// One way of removing: a target and a policy. Mappings that agree in them share a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Index into the config's Redis targets.
    pub target: usize,
    /// When the second removal runs.
    pub second: SecondRemoval,
    /// How much longer than visibility it waits.
    pub fill_grace: Duration,
}

/// The lanes of a config, and which lane each mapping uses.
#[derive(Debug, Clone)]
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    of_mapping: Vec<usize>,
}

impl Lanes {
    /// Finds the distinct ways of removing.
    pub fn new(config: &Config) -> Self {
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        let of_mapping = config
            .mappings
            .iter()
            .map(|mapping| {
                let lane = Lane {
                    target: mapping.target,
                    second: mapping.second_removal,
                    fill_grace: mapping.fill_grace,
                };
                lanes.iter().position(|known| **known == lane).unwrap_or_else(|| {
                    lanes.push(Arc::new(lane));
                    lanes.len() - 1
                })
            })
            .collect();
        Self { lanes, of_mapping }
    }
}

/// What the keys of a segment share.
#[derive(Debug)]
pub struct Segment {
    /// The commits that must be visible before the second removal.
    pub span: CommitSpan,
    /// The file that the rows were read from.
    pub file: Arc<str>,
    /// When the first key of it was read.
    pub received: Instant,
    /// Unix time in microseconds of its oldest transaction's commit, by the server's clock.
    pub commit_micros: u64,
    /// Frees the bytes when the last batch is settled.
    _budget: OwnedSemaphorePermit,
}

/// Keys for one worker, with the duty to acknowledge them.
#[derive(Debug)]
pub struct Batch {
    /// What to remove.
    pub keys: KeyBatch,
    /// How.
    pub lane: Arc<Lane>,
    /// Where from.
    pub segment: Arc<Segment>,
    /// Settled when all removals that are owed are acknowledged.
    pub ticket: Ticket<Done>,
    /// What else is done when the whole segment is.
    pub riders: Option<Arc<Riders>>,
}

impl Batch {
    /// All that is owed for it is acknowledged.
    pub fn settle(self) {
        self.ticket.settle();
        if let Some(riders) = self.riders {
            riders.settle_one();
        }
    }
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    gtid: Option<rowbust_binlog::Gtid>,
    commit_micros: u64,
}

/// The bytes that keys in flight may take.
#[derive(Debug, Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// `limit` is `limits.memory`. Half of it is for keys: the rest is for what they are copied into on their way, the retry queue's
    /// buffers and the allocator's slack.
    pub fn new(limit: u64) -> Self {
        let total = u32::try_from((limit / 2).max(1 << 20)).unwrap_or(u32::MAX);
        Self { semaphore: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        (self.total as usize).saturating_sub(self.semaphore.available_permits())
    }

    /// Bytes there are.
    pub fn total(&self) -> usize {
        self.total as usize
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        Arc::clone(&self.semaphore).acquire_many_owned(bytes).await.map_err(|_| Closed)
    }
}

/// A worker has ended: the daemon is on its way down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a worker has ended")]
pub struct Closed;

/// Collects keys into segments. Owned by the one task that reads the binlog.
#[derive(Debug)]
pub struct Assembler {
    lanes: Lanes,
    /// By target, by worker.
    workers: Vec<Vec<mpsc::Sender<Batch>>>,
    frontier: Frontier<Done>,
    budget: Budget,
    /// By lane, by worker.
    open: Vec<Vec<OpenBatch>>,
    transaction: Option<Open>,
    /// The end of its GTID event; kept from one to the next for the sake of the file's name.
    begun_at: Coordinates,
    /// Whether the running transaction is part of `visible` already.
    transaction_in_segment: bool,
    visible: Option<CommitSpan>,
    done: Option<Commits>,
    commits: u32,
    full: bool,
    received: Option<Instant>,
    commit_micros: u64,
    /// Settled with the next segment.
    riders: Vec<Ticket<Done>>,
    /// No witness tells when its commits are visible.
    by_delay: bool,
}

#[derive(Debug, Default)]
struct OpenBatch {
    keys: KeyBatch,
    seen: HashTable<u32>,
}

impl Assembler {
    /// `workers`: by target, by worker; each target has at least one.
    pub fn new(
        lanes: Lanes,
        workers: Vec<Vec<mpsc::Sender<Batch>>>,
        frontier: Frontier<Done>,
        budget: Budget,
    ) -> Self {
        let open = lanes
            .lanes
            .iter()
            .map(|lane| workers[lane.target].iter().map(|_| OpenBatch::default()).collect())
            .collect();
        Self {
            lanes,
            workers,
            frontier,
            budget,
            open,
            transaction: None,
            begun_at: Coordinates { file: "".into(), position: 0 },
            transaction_in_segment: false,
            visible: None,
            done: None,
            commits: 0,
            full: false,
            received: None,
            commit_micros: 0,
            riders: Vec::new(),
            by_delay: false,
        }
    }

    /// A transaction begins. One that was cut off before its end is forgotten: it will be read again as a whole.
    pub fn begin(&mut self, transaction: source::Transaction<'_>) {
        let rotated = |span: &CommitSpan| span.last.file != transaction.at.file;
        // A segment's places are offsets into one file.
        self.full |= self.visible.as_ref().is_some_and(rotated)
            || self.done.as_ref().is_some_and(|done| rotated(&done.span));
        self.begun_at.move_to(transaction.at);
        self.transaction = Some(Open { gtid: transaction.gtid, commit_micros: transaction.commit_micros });
        self.transaction_in_segment = false;
    }

    /// A key of the running transaction. `place.position` is the end of its rows event.
    pub fn push(&mut self, mapping: usize, removal: Removal<'_>, place: RowPlace) {
        self.push_to(self.lane(mapping), removal, place);
    }

    /// The lane of a mapping.
    pub fn lane(&self, mapping: usize) -> usize {
        self.lanes.of_mapping[mapping]
    }

    /// A place before the running transaction that isn't done until the ticket is settled.
    pub fn hold(&self) -> Option<Ticket<Done>> {
        self.frontier.open(1, None).pop()
    }

    /// Hands on what was kept under another transaction: its keys are the running transaction's now, by lane, and the tickets are
    /// settled with them. `by_delay`: no witness tells when the running transaction is visible.
    pub fn resume(&mut self, keys: &[KeyBatch], tickets: Vec<Ticket<Done>>, by_delay: bool) {
        let place = RowPlace { position: self.begun_at.position, row: 0 };
        for (lane, keys) in keys.iter().enumerate() {
            for removal in keys.iter() {
                self.push_to(lane, removal, place);
            }
        }
        self.riders.extend(tickets);
        self.by_delay |= by_delay;
        self.full = true;
    }

    fn push_to(&mut self, lane: usize, removal: Removal<'_>, place: RowPlace) {
        if !self.transaction_in_segment {
            self.join_segment(place);
        }
        let hash = hash_key(removal.key);
        let open = &mut self.open[lane];
        // The upper bits choose the worker, as the table takes the lower ones.
        let worker = usize::try_from(hash >> 32).unwrap_or(0) % open.len();
        let OpenBatch { keys, seen } = &mut open[worker];
        if keys.push(seen, hash, removal, place) {
            self.full |= keys.len() >= BATCH_KEYS || keys.footprint() >= BATCH_BYTES;
        }
    }

    #[cold]
    fn join_segment(&mut self, place: RowPlace) {
        self.transaction_in_segment = true;
        let Some(transaction) = &self.transaction else {
            // Rows outside a transaction: the follower halts on them before it comes to this.
            debug_assert!(false, "rows outside a transaction at {}", place.position);
            return;
        };
        self.received.get_or_insert_with(Instant::now);
        if self.visible.is_none() {
            self.commit_micros = transaction.commit_micros;
        }
        match &mut self.visible {
            Some(span) => span.add(transaction.gtid, &self.begun_at),
            None => self.visible = Some(CommitSpan::new(transaction.gtid, self.begun_at.clone())),
        }
    }

    /// The running transaction ends at `end` (exclusive), committed or not. Without one (a standalone statement) only the
    /// coordinates move.
    pub fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>) {
        let transaction = self.transaction.take();
        // A segment with keys waits for all its commits, mapped or not: so their GTIDs are one range, not one each.
        if let (Some(span), Some(transaction), false) =
            (&mut self.visible, &transaction, self.transaction_in_segment)
        {
            span.add(transaction.gtid, &self.begun_at);
        }
        let gtid = transaction.as_ref().and_then(|transaction| transaction.gtid);
        let time = transaction.map_or(0, |transaction| transaction.commit_micros / 1_000_000);
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        self.transaction_in_segment = false;
        match &mut self.done {
            Some(done) => {
                done.span.add(gtid, end);
                (done.time, done.anchor) = (time, anchor);
            }
            None => self.done = Some(Commits { span: CommitSpan::new(gtid, end.clone()), time, anchor }),
        }
        self.commits += 1;
        self.full |= self.commits >= SEGMENT_COMMITS;
    }

    /// Reading goes on elsewhere. Nothing is collected yet; what was owed before comes before it.
    pub fn rebase(&mut self, rebase: Rebase) {
        let none = self.frontier.open(0, Some(Progress { rebase: Some(rebase), commits: None }));
        debug_assert!(none.is_empty());
    }

    /// Whether [`Assembler::flush`] should be called before more is pushed.
    pub fn wants_flush(&self) -> bool {
        self.full
    }

    /// The newest commit whose keys the next flush hands on.
    pub fn newest(&self) -> Option<&Coordinates> {
        self.visible.as_ref().map(|span| &span.last)
    }

    /// Forgets a transaction that was cut off before its end: the stream begins anew. Its keys that were pushed are kept (they cost a miss).
    pub fn abort(&mut self) {
        self.transaction = None;
        self.transaction_in_segment = false;
    }

    /// Hands what was collected to the workers as one segment; waits while the byte budget is used up.
    pub async fn flush(&mut self) -> Result<(), Closed> {
        self.full = false;
        self.commits = 0;
        let batches: usize = self.open.iter().flatten().map(|open| usize::from(!open.keys.is_empty())).sum();
        let done = self.done.take();
        self.transaction_in_segment = false;
        let riders = std::mem::take(&mut self.riders);
        let by_delay = std::mem::take(&mut self.by_delay);
        let Some(mut span) = self.visible.take().filter(|_| batches > 0) else {
            if done.is_some() {
                let none = self.frontier.open(0, done.map(Progress::from));
                debug_assert!(none.is_empty());
            }
            riders.into_iter().for_each(Ticket::settle);
            return Ok(());
        };
        span.by_delay = by_delay;
        let riders = (!riders.is_empty()).then(|| Riders::new(riders, batches));
        let keys: usize = self.open.iter().flatten().map(|open| open.keys.footprint()).sum();
        let spans = span.footprint() + done.as_ref().map_or(0, |done| done.span.footprint());
        let footprint = keys + spans;
        let segment = Arc::new(Segment {
            file: Arc::clone(&span.last.file),
            span,
            received: self.received.take().unwrap_or_else(Instant::now),
            commit_micros: self.commit_micros,
            _budget: self
                .budget
                .take(footprint + size_of::<Segment>() + batches * size_of::<Batch>())
                .await?,
        });
        let tickets =
            self.frontier.open(u32::try_from(batches).map_err(|_| Closed)?, done.map(Progress::from));
        let mut tickets = tickets.into_iter();
        for (lane, open) in self.open.iter_mut().enumerate() {
            let lane = &self.lanes.lanes[lane];
            for (worker, open) in open.iter_mut().enumerate().filter(|(_, open)| !open.keys.is_empty()) {
                let Some(ticket) = tickets.next() else { return Err(Closed) };
                let keys = std::mem::take(&mut open.keys);
                open.seen.clear();
                let riders = riders.clone();
                let batch =
                    Batch { keys, lane: Arc::clone(lane), segment: Arc::clone(&segment), ticket, riders };
                self.workers[lane.target][worker].send(batch).await.map_err(|_| Closed)?;
            }
        }
        Ok(())
    }
}
