//! The queue in a file of this machine: the default without Kafka.
//!
//! Guarantees: those of the parent module. A dedicated thread owns the file; changes that arrive while one commit runs share the
//! next one. In memory stand at most one batch of due records and the calls that wait.
//! May depend on `store`, `policy`, [`super::record`].

use std::{
    collections::HashSet,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    BATCH, Clock, Counters, EnqueueError, Filter, Handler, Listed, Record, RetryError, Stats, Verdict, Which,
    codec::{self, Letter},
    log_dead,
    policy::{self, Next, Pause, millis},
    store::{Change, Level, Page, Place, Store, StoreError},
};
use crate::config::RetryPolicy;

/// Changes that share one commit; more wait for the next.
const GROUP: usize = 16_384;
/// Calls that may wait for the thread before callers wait for a place.
const CALLS: usize = 1024;
/// The file is looked at this often even when nothing seems due.
const IDLE: Duration = Duration::from_secs(1);
/// How long a running batch may go on after the shutdown began.
const LAST_BATCH: Duration = Duration::from_secs(5);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Call {
    Commit(Vec<Change>, Reply<()>),
    Due(u64, usize, HashSet<Place>, Reply<Page>),
    List(Which, usize, Reply<Vec<Listed>>),
    Requeue(Filter, u64, Reply<u64>),
}

/// The disk queue. See [`super::Queue`] for what its methods promise.
#[derive(Debug)]
pub struct DiskQueue {
    folder: PathBuf,
    policy: RetryPolicy,
    clock: Clock,
    calls: mpsc::Sender<Call>,
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
        let thread = std::thread::Builder::new().name("retry-disk".into()).spawn({
            let (folder, counters) = (folder.to_owned(), Arc::clone(&counters));
            move || match Store::open(&folder) {
                Ok(store) => {
                    if opened.send(Ok(())).is_ok() {
                        serve(store, inbox, policy.delay, &counters);
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
        let not_before_ms = now_ms.saturating_add(millis(self.policy.delay));
        let add = |record: Record| {
            let first_failed_ms = if record.first_failed_ms == 0 { now_ms } else { record.first_failed_ms };
            Change::Add(Record { not_before_ms, first_failed_ms, ..record })
        };
        let changes = records.into_iter().map(add).collect();
        let (reply, answer) = oneshot::channel();
        let closed = || EnqueueError::Refused(RetryError::Closed.to_string());
        self.calls.send(Call::Commit(changes, reply)).await.map_err(|_| closed())?;
        crate::kill_point!("before_queue_ack");
        let outcome = answer.await.map_err(|_| closed())?;
        outcome.map_err(|error| match error {
            StoreError::Unavailable(detail) => EnqueueError::Unavailable(detail),
            StoreError::Fatal(error) => EnqueueError::Refused(error.to_string()),
        })?;
        crate::kill_point!("after_queue_ack");
        Counters::add(&self.counters.produced, count);
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
        if self.running.swap(true, Ordering::AcqRel) {
            return Err(RetryError::AlreadyRunning);
        }
        let outcome = self.consume(handler.as_ref(), &shutdown).await;
        self.running.store(false, Ordering::Release);
        outcome
    }

    async fn consume(&self, handler: &dyn Handler, shutdown: &CancellationToken) -> Result<(), RetryError> {
        let mut held: Vec<Held> = Vec::new();
        let mut pause = Pause::default();
        while !shutdown.is_cancelled() {
            let wait = match self.step(&mut held, handler, shutdown, &mut pause).await {
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
        held: &mut Vec<Held>,
        handler: &dyn Handler,
        shutdown: &CancellationToken,
        pause: &mut Pause,
    ) -> Result<Duration, StoreError> {
        let mut next_due_ms = None;
        if held.len() < BATCH {
            let skip = held.iter().map(|held| held.place).collect();
            let now_ms = self.clock.now_ms();
            let limit = BATCH - held.len();
            let page = self.ask(|reply| Call::Due(now_ms, limit, skip, reply)).await?;
            next_due_ms = page.next_due_ms;
            self.take(page, now_ms, held).await?;
        }
        let now_ms = self.clock.now_ms();
        let (batch, rest): (Vec<_>, Vec<_>) =
            std::mem::take(held).into_iter().partition(|held| held.again_ms <= now_ms);
        *held = rest;
        if batch.is_empty() {
            let next = held.iter().map(|held| held.again_ms).chain(next_due_ms).min();
            let idle = IDLE.min(self.policy.delay);
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
                    down = Some((verdict, record.target.clone()));
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
            self.ask(|reply| Call::Commit(changes, reply)).await?;
            Counters::add(&self.counters.acked, acked);
            Counters::add(&self.counters.forwarded, forwarded);
            Counters::add(&self.counters.dead, buried.len());
            for (record, reason) in &buried {
                log_dead(record, reason);
            }
        }
        let Some((verdict, target)) = down else {
            pause.reset();
            return Ok(Duration::ZERO);
        };
        tracing::info!(?verdict, held = held.len(), "target takes no removals, retries wait for it");
        tokio::select! {
            () = shutdown.cancelled() => Ok(Duration::ZERO),
            () = handler.ready(&target) => {
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

    /// See [`super::Queue::list`].
    ///
    /// # Errors
    /// See there.
    pub async fn list(&self, which: Which, limit: usize) -> Result<Vec<Listed>, RetryError> {
        Ok(self.ask(|reply| Call::List(which, limit, reply)).await?)
    }

    /// See [`super::Queue::requeue`].
    ///
    /// # Errors
    /// See there.
    pub async fn requeue(&self, filter: Filter) -> Result<u64, RetryError> {
        let due_ms = self.clock.now_ms().saturating_add(millis(self.policy.delay));
        let count = self.ask(|reply| Call::Requeue(filter, due_ms, reply)).await?;
        self.counters.requeued.fetch_add(count, Ordering::Relaxed);
        Ok(count)
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

/// The thread: ends when every sender is gone.
fn serve(mut store: Store, mut inbox: mpsc::Receiver<Call>, delay: Duration, counters: &Counters) {
    let publish = |level: Level| {
        counters.pending.store(level.pending, Ordering::Relaxed);
        counters.oldest_ms.store(level.oldest_ms.unwrap_or(0), Ordering::Relaxed);
    };
    let mut waiting = None;
    while let Some(call) = waiting.take().or_else(|| inbox.blocking_recv()) {
        match call {
            Call::Commit(mut changes, reply) => {
                let mut replies = vec![reply];
                while changes.len() < GROUP {
                    match inbox.try_recv() {
                        Ok(Call::Commit(more, reply)) => {
                            changes.extend(more);
                            replies.push(reply);
                        }
                        Ok(other) => {
                            waiting = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let outcome = store.commit(&changes).map(publish);
                for reply in replies {
                    let _ = reply.send(match &outcome {
                        Ok(()) => Ok(()),
                        Err(StoreError::Unavailable(detail)) => Err(StoreError::Unavailable(detail.clone())),
                        Err(StoreError::Fatal(error)) => Err(StoreError::Fatal(copy(error))),
                    });
                }
            }
            Call::Due(now_ms, limit, skip, reply) => {
                let _ = reply.send(store.due(now_ms, delay, limit, &skip).map(|(page, level)| {
                    publish(level);
                    page
                }));
            }
            Call::List(which, limit, reply) => {
                let _ = reply.send(store.list(which, limit));
            }
            Call::Requeue(filter, due_ms, reply) => {
                let _ = reply.send(store.requeue(&filter, due_ms).map(|(count, level)| {
                    publish(level);
                    count
                }));
            }
        }
    }
}

/// One error for each of the callers that shared a commit. Only damage is fatal once the file is open.
fn copy(error: &RetryError) -> RetryError {
    match error {
        RetryError::Corrupt { path, detail } => {
            RetryError::Corrupt { path: path.clone(), detail: detail.clone() }
        }
        _ => RetryError::Closed,
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
