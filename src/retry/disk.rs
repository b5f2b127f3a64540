//! The queue in a file of this machine: the default without Kafka.
//!
//! Guarantees: those of the parent module. A dedicated thread owns the file; changes that arrive while one commit runs share the
//! next one. Each shelf (target, tier, kind of work) is worked off by itself: one target's trouble or a long operation holds up no
//! other record. In memory stand at most one batch of due records for each shelf, and the calls that wait.
//! May depend on `store`, `shelf`, `policy`, [`super::record`].

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    BATCH, Clock, Counters, EnqueueError, Handler, Listed, Record, RetryError, Running, Stats, Swept,
    Verdict, Which,
    codec::{self, Letter},
    filter::Matcher,
    log_dead,
    policy::{self, Next, Pause, millis},
    shelf::{Place, Shelf},
    store::{Change, Page, Store, StoreError, Sweep},
};
use crate::config::RetryPolicy;

mod thread;

use self::thread::{Call, Reply, Shelves, serve};

/// Calls that may wait for the thread before callers wait for a place.
const CALLS: usize = 1024;
/// The file is looked at this often even when nothing seems due.
const IDLE: Duration = Duration::from_secs(1);
/// How long a running batch may go on after the shutdown began.
const LAST_BATCH: Duration = Duration::from_secs(5);

/// The disk queue. See [`super::Queue`] for what its methods promise.
#[derive(Debug)]
pub struct DiskQueue {
    folder: PathBuf,
    policy: RetryPolicy,
    clock: Clock,
    calls: mpsc::Sender<Call>,
    shelves: watch::Receiver<Shelves>,
    counters: Arc<Counters>,
    running: AtomicBool,
    thread: std::thread::JoinHandle<()>,
}

/// A due record in memory.
struct Held {
    place: Place,
    record: Record,
    since_ms: u64,
    again_ms: u64,
}

impl DiskQueue {
    /// Opens `queue.redb` in `folder`, or creates both, and checks every page of it.
    ///
    /// # Errors
    /// As [`super::Queue::open`].
    pub async fn open(folder: &Path, policy: RetryPolicy, clock: Clock) -> Result<Self, RetryError> {
        let (calls, inbox) = mpsc::channel(CALLS);
        let (opened, ready) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        let (known, shelves) = watch::channel(Shelves::new());
        let thread = std::thread::Builder::new().name("retry-disk".into()).spawn({
            let (folder, counters) = (folder.to_owned(), Arc::clone(&counters));
            move || match Store::open(&folder, policy) {
                Ok(store) => {
                    if opened.send(Ok(())).is_ok() {
                        serve(store, inbox, &known, &counters);
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        });
        let thread = thread.map_err(|source| RetryError::Io { path: folder.to_owned(), source })?;
        // redb's debug builds panic on some damage; the thread is gone then and the answer is the same.
        ready.await.unwrap_or_else(|_| {
            Err(RetryError::Corrupt {
                path: folder.to_owned(),
                detail: "the store gave up while it read the file".into(),
            })
        })?;
        let queue = Self {
            folder: folder.to_owned(),
            policy,
            clock,
            calls,
            shelves,
            counters,
            running: AtomicBool::new(false),
            thread,
        };
        // An empty commit reads the level for the first statistics.
        queue.ask(|reply| Call::Commit(Vec::new(), reply)).await.map_err(RetryError::from)?;
        Ok(queue)
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Fatal(RetryError::Closed);
        self.calls.send(call(reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// See [`super::Queue::enqueue`].
    ///
    /// # Errors
    /// See there.
    pub async fn enqueue(&self, records: Vec<Record>) -> Result<(), EnqueueError> {
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len();
        let now_ms = self.clock.now_ms();
        let not_before_ms = now_ms.saturating_add(millis(self.policy.first.delay));
        let add = |record: Record| {
            let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
            Change::Add(Record { not_before_ms, first_failed_ms, ..record })
        };
        self.make_durable(records.into_iter().map(add).collect()).await?;
        crate::kill_point!("after_queue_ack");
        Counters::add(&self.counters.produced, count);
        Ok(())
    }

    async fn make_durable(&self, changes: Vec<Change>) -> Result<(), EnqueueError> {
        let (reply, answer) = oneshot::channel();
        let closed = || EnqueueError::Refused(RetryError::Closed.to_string());
        self.calls.send(Call::Commit(changes, reply)).await.map_err(|_| closed())?;
        crate::kill_point!("before_queue_ack");
        let outcome = answer.await.map_err(|_| closed())?;
        outcome.map_err(|error| match error {
            StoreError::Unavailable(detail) => EnqueueError::Unavailable(detail),
            StoreError::Fatal(error) => EnqueueError::Refused(error.to_string()),
        })
    }

    /// See [`super::Queue::bury`].
    ///
    /// # Errors
    /// See there.
    pub async fn bury(&self, record: Record, reason: String) -> Result<(), EnqueueError> {
        let now_ms = self.clock.now_ms();
        let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
        let record = Record { first_failed_ms, ..record };
        let letter = Letter { died_ms: now_ms, reason: reason.clone(), payload: codec::encode(&record) };
        self.make_durable(vec![Change::AddLetter(letter)]).await?;
        Counters::add(&self.counters.dead, 1);
        log_dead(&record, &reason);
        Ok(())
    }

    /// See [`super::Queue::run`].
    ///
    /// # Errors
    /// See there.
    pub async fn run(
        &self,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Result<(), RetryError> {
        let _running = Running::begin(&self.running)?;
        self.consume(handler.as_ref(), &shutdown).await
    }

    /// A consumer for each shelf, as they come.
    async fn consume(&self, handler: &dyn Handler, shutdown: &CancellationToken) -> Result<(), RetryError> {
        let mut shelves = self.shelves.clone();
        let mut served = Shelves::new();
        let mut consumers = FuturesUnordered::new();
        loop {
            let known = shelves.borrow_and_update().clone();
            for shelf in known {
                if served.insert(Arc::clone(&shelf)) {
                    consumers.push(self.consume_shelf(shelf, handler, shutdown));
                }
            }
            tokio::select! {
                () = shutdown.cancelled(), if consumers.is_empty() => return Ok(()),
                Some(ended) = consumers.next() => ended?,
                // Without the thread, each consumer's next call says so.
                Ok(()) = shelves.changed(), if !shutdown.is_cancelled() => {}
                else => return Err(RetryError::Closed),
            }
        }
    }

    async fn consume_shelf(
        &self,
        shelf: Arc<Shelf>,
        handler: &dyn Handler,
        shutdown: &CancellationToken,
    ) -> Result<(), RetryError> {
        let mut held: Vec<Held> = Vec::new();
        let mut pause = Pause::default();
        while !shutdown.is_cancelled() {
            let wait = match self.step(&shelf, &mut held, handler, shutdown, &mut pause).await {
                Ok(wait) => wait,
                Err(StoreError::Fatal(error)) => return Err(error),
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(folder = %self.folder.display(), error, "retry queue unavailable, records stay in it");
                    // What became of these is unknown; the file has them all.
                    held.clear();
                    pause.grow()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// One batch. Returns how long to wait before the next.
    async fn step(
        &self,
        shelf: &Arc<Shelf>,
        held: &mut Vec<Held>,
        handler: &dyn Handler,
        shutdown: &CancellationToken,
        pause: &mut Pause,
    ) -> Result<Duration, StoreError> {
        let mut next_due_ms = None;
        if held.len() < BATCH {
            let skip = held.iter().map(|held| held.place.clone()).collect();
            let now_ms = self.clock.now_ms();
            let limit = BATCH - held.len();
            let page = self.ask(|reply| Call::Due(Arc::clone(shelf), now_ms, limit, skip, reply)).await?;
            next_due_ms = page.next_due_ms;
            self.take(page, now_ms, held).await?;
        }
        let now_ms = self.clock.now_ms();
        let (batch, rest): (Vec<_>, Vec<_>) =
            std::mem::take(held).into_iter().partition(|held| held.again_ms <= now_ms);
        *held = rest;
        if batch.is_empty() {
            let next = held.iter().map(|held| held.again_ms).chain(next_due_ms).min();
            let idle = IDLE.min(shelf.delay(self.policy));
            let wait = next.map_or(idle, |at| Duration::from_millis(at.saturating_sub(now_ms)));
            return Ok(wait.min(idle).max(Duration::from_millis(1)));
        }
        let (places, records): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|h| ((h.place, h.since_ms), h.record)).unzip();
        let Some(verdicts) = last_chance(handler.remove(&records), shutdown).await else {
            return Ok(Duration::ZERO);
        };
        if verdicts.len() != records.len() {
            tracing::error!(
                records = records.len(),
                verdicts = verdicts.len(),
                "handler lost verdicts, records stay"
            );
        }
        let now_ms = self.clock.now_ms();
        let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::NotYet));
        let (mut changes, mut buried) = (Vec::new(), Vec::new());
        let (mut acked, mut forwarded, mut down) = (0, 0, None);
        for (((place, since_ms), record), verdict) in places.into_iter().zip(records).zip(verdicts) {
            match policy::next(&record, &verdict, self.policy, now_ms, since_ms) {
                Next::Done => {
                    acked += 1;
                    changes.push(Change::Remove(place));
                }
                Next::Again(pause) => {
                    held.push(Held { place, record, since_ms, again_ms: now_ms + millis(pause) })
                }
                Next::AwaitTarget => {
                    down = Some(verdict);
                    held.push(Held { place, record, since_ms: u64::MAX, again_ms: 0 });
                }
                Next::Forward(next) => {
                    forwarded += 1;
                    changes.push(Change::Forward(place, *next));
                }
                Next::Dead(dead, reason) => {
                    let letter =
                        Letter { died_ms: now_ms, reason: reason.clone(), payload: codec::encode(&dead) };
                    changes.push(Change::Bury(place, letter));
                    buried.push((dead, reason));
                }
            }
        }
        if !changes.is_empty() {
            crate::kill_point!("before_retry_noted");
            self.ask(|reply| Call::Commit(changes, reply)).await?;
            Counters::add(&self.counters.acked, acked);
            Counters::add(&self.counters.forwarded, forwarded);
            Counters::add(&self.counters.dead, buried.len());
            for (record, reason) in &buried {
                log_dead(record, reason);
            }
        }
        let Some(verdict) = down else {
            pause.reset();
            return Ok(Duration::ZERO);
        };
        tracing::info!(
            target = shelf.target,
            ?verdict,
            held = held.len(),
            "target takes no removals, its retries wait for it"
        );
        tokio::select! {
            () = shutdown.cancelled() => Ok(Duration::ZERO),
            () = handler.ready(&shelf.target) => {
                // The wait for the target isn't the record's fault.
                let now_ms = self.clock.now_ms();
                held.iter_mut().for_each(|held| held.since_ms = now_ms);
                Ok(pause.grow())
            }
        }
    }

    /// Due records to memory; what can't be decoded to the dead letters.
    async fn take(&self, page: Page, now_ms: u64, held: &mut Vec<Held>) -> Result<(), StoreError> {
        let mut poison = Vec::new();
        for (place, record) in page.due {
            match record {
                Ok(record) => held.push(Held { place, record, since_ms: now_ms, again_ms: 0 }),
                Err((reason, payload)) => {
                    tracing::error!(seq = place.seq, reason, bytes = %payload.escape_ascii(), "record can't be decoded, dead letter written");
                    poison.push(Change::Bury(place, Letter { died_ms: now_ms, reason, payload }));
                }
            }
        }
        if !poison.is_empty() {
            let count = poison.len();
            self.ask(|reply| Call::Commit(poison, reply)).await?;
            Counters::add(&self.counters.poison, count);
            Counters::add(&self.counters.dead, count);
        }
        Ok(())
    }

    /// See [`super::Queue::stats`].
    pub fn stats(&self) -> Stats {
        self.counters.snapshot(self.clock.now_ms())
    }

    /// See [`super::Queue::find`].
    ///
    /// # Errors
    /// See there.
    pub async fn find(
        &self,
        which: Which,
        matcher: Matcher,
        limit: usize,
    ) -> Result<Vec<Listed>, RetryError> {
        Ok(self.ask(|reply| Call::List(which, Box::new(matcher), limit, reply)).await?)
    }

    /// See [`super::Queue::requeue`].
    ///
    /// # Errors
    /// See there.
    pub async fn requeue(&self, matcher: Matcher, limit: usize) -> Result<Swept, RetryError> {
        let sweep = Sweep::Requeue { now_ms: self.clock.now_ms() };
        let swept = self.ask(|reply| Call::Sweep(Box::new(matcher), sweep, limit, reply)).await?;
        self.counters.requeued.fetch_add(swept.letters, Ordering::Relaxed);
        Ok(swept)
    }

    /// See [`super::Queue::drop_letters`].
    ///
    /// # Errors
    /// See there.
    pub async fn drop_letters(&self, matcher: Matcher, limit: usize) -> Result<Swept, RetryError> {
        let swept = self.ask(|reply| Call::Sweep(Box::new(matcher), Sweep::Drop, limit, reply)).await?;
        self.counters.dropped.fetch_add(swept.letters, Ordering::Relaxed);
        Ok(swept)
    }

    /// See [`super::Queue::owed`].
    pub fn owed(&self, target: &str) -> super::Owed {
        self.counters.owed(target, self.clock.now_ms())
    }

    /// Unix time in milliseconds, by the queue's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// See [`super::Queue::close`].
    pub async fn close(self) {
        let Self { calls, thread, .. } = self;
        drop(calls);
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// Lets a batch end after the shutdown began, for a bounded time. `None`: it didn't.
pub(super) async fn last_chance<T>(
    batch: impl Future<Output = T>,
    shutdown: &CancellationToken,
) -> Option<T> {
    tokio::pin!(batch);
    tokio::select! {
        done = &mut batch => Some(done),
        () = shutdown.cancelled() => tokio::time::timeout(LAST_BATCH, batch).await.ok(),
    }
}

impl From<StoreError> for RetryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(detail) => Self::Unavailable(detail),
            StoreError::Fatal(error) => error,
        }
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
