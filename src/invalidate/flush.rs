//! Flushing a target: the mapped keyspaces are removed, twice, at a pace.
//!
//! Guarantees: a request's ticket is settled only when every key of its keyspace that was there when its last pass began is removed,
//! and that pass began after its commits were visible everywhere and the fill grace had passed; whatever Redis does meanwhile, the
//! pass is repeated until it worked. Only what a template can make is removed ([`crate::flush`]). Memory is that of one page. May
//! depend on `pipeline`, `watermark`, `flush`, `config` and the rest of `invalidate`.
//!
//! A pass is complete because `SCAN` returns every element that is there from the beginning of the iteration to its end
//! (<https://redis.io/docs/latest/commands/scan/>, "Scan guarantees"): of a key that is filled anew meanwhile, with an old value, the
//! second pass takes care, as with exact keys. A cursor means something only to the process that gave it, so an iteration
//! whose connection breaks begins anew. On a cluster every master is iterated over; a slot that moves meanwhile takes its keys past
//! the iteration, perhaps, so then all masters are iterated over once more: a key that moves once is met in one of the two rounds.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    backoff,
    classify::Failure,
    second::{Due, due, one_is_enough},
    sweep::{Sweeper, Tell},
    target::{Master, Rounds, Target},
};
use crate::{
    config::Mapping,
    flush::{Fields, FlushStats, Owed, Plan, Running, Scan},
    pipeline::{
        BATCH_KEYS, Flush,
        batch::Removal,
        pace::{Pace, Paces},
    },
    watermark::Watermark,
};

/// Buckets that one SCAN looks at: a tenth of a millisecond of Redis' time, in which nobody else is served.
const SCAN_COUNT: usize = 500;
/// And of an HSCAN, whose reply has the values in it.
const HSCAN_COUNT: usize = 100;
/// A key that is only looked at costs Redis a fraction of a removal.
const LOOKS_PER_REMOVAL: usize = 10;
/// Time between two lines of progress in the log.
const PROGRESS: Duration = Duration::from_secs(5);

async fn wait_for(watermark: &mut Watermark, due: Due) {
    match due {
        Due::Never => std::future::pending().await,
        Due::At(at) => tokio::time::sleep_until(at.into()).await,
        Due::WithSample => {
            watermark.demand();
            watermark.changed().await;
        }
    }
}

/// Flushes one target. While it has nothing to do it costs nothing.
#[derive(Debug)]
pub struct Flusher {
    keyspaces: Keyspaces,
    mappings: Vec<Mapping>,
    watermark: Watermark,
}

/// Goes once over the keyspace of a target.
#[derive(Debug)]
pub struct Keyspaces {
    target: Arc<Target>,
    pace: Arc<Pace>,
    stats: Arc<FlushStats>,
    /// For sets and their members.
    sweeper: Arc<Sweeper>,
    /// Nothing is removed.
    only_counts: bool,
}

impl Keyspaces {
    /// `per_second`: [`crate::config::Limits::flush_keys_per_second`].
    pub fn new(target: Arc<Target>, per_second: u64, stats: Arc<FlushStats>, sweeper: Arc<Sweeper>) -> Self {
        Self { target, pace: Arc::new(Pace::new(per_second)), stats, sweeper, only_counts: false }
    }

    /// Counts what it would remove, and removes nothing. Of a set of keys only the set is counted.
    #[must_use]
    pub fn only_counting(mut self) -> Self {
        self.only_counts = true;
        self
    }
}

/// A request on its way.
#[derive(Debug)]
struct Waiting {
    flush: Flush,
    /// When its first pass was done.
    first_done: Option<Instant>,
    /// When its second may begin; kept, for the watermark's answer may only get later.
    due: Option<Instant>,
}

impl Waiting {
    fn is_due(&mut self, watermark: &Watermark, now: Instant) -> Due {
        let Some(first_done) = self.first_done else { return Due::At(now) };
        due(&mut self.due, &self.flush.lane, &self.flush.segment, first_done, watermark)
    }
}

impl Flusher {
    /// `mappings`: all of the config. `per_second`: [`crate::config::Limits::flush_keys_per_second`].
    pub fn new(
        target: Arc<Target>,
        mappings: Vec<Mapping>,
        watermark: Watermark,
        per_second: u64,
        stats: Arc<FlushStats>,
        sweeper: Arc<Sweeper>,
    ) -> Self {
        Self { keyspaces: Keyspaces::new(target, per_second, stats, sweeper), mappings, watermark }
    }

    /// Does what `requests` bring until it is closed and everything is settled. What waits when a pass begins is done by it
    /// together; what comes while it runs waits for one of its own, for keys that it has passed may be filled again.
    pub async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Flush>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            while let Ok(flush) = requests.try_recv() {
                self.accept(&mut waiting, flush);
            }
            self.keyspaces.stats.waiting(waiting.len());
            let begun = Instant::now();
            let (ready, later): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting)
                .into_iter()
                .map(|mut one| (one.is_due(&self.watermark, begun), one))
                .partition(|(due, _)| matches!(due, Due::At(at) if *at <= begun));
            let next = later.iter().fold(Due::Never, |next, (due, _)| next.sooner(*due));
            waiting = later.into_iter().map(|(_, one)| one).collect();
            if !ready.is_empty() {
                let ready = ready.into_iter().map(|(_, one)| one).collect();
                waiting.extend(self.pass(ready, begun).await);
                continue;
            }
            tokio::select! {
                flush = requests.recv() => match flush {
                    Some(flush) => self.accept(&mut waiting, flush),
                    None if waiting.is_empty() => return,
                    // Closed: from now on only time passes.
                    None => wait_for(&mut self.watermark, next).await,
                },
                () = wait_for(&mut self.watermark, next) => {}
            }
        }
    }

    fn accept(&self, waiting: &mut Vec<Waiting>, flush: Flush) {
        self.keyspaces.stats.started(&flush.causes);
        waiting.push(Waiting { flush, first_done: None, due: None });
    }

    /// One pass over the keyspaces of all of these. Returns those that owe another.
    async fn pass(&self, ready: Vec<Waiting>, begun: Instant) -> Vec<Waiting> {
        let is_last = |one: &Waiting| {
            one.first_done.is_some()
                || one_is_enough(&one.flush.lane, &one.flush.segment, &self.watermark, begun)
        };
        let last: Vec<bool> = ready.iter().map(is_last).collect();
        let mut mappings: Vec<usize> =
            ready.iter().flat_map(|one| one.flush.mappings.iter().copied()).collect();
        mappings.sort_unstable();
        mappings.dedup();
        let mappings: Vec<&Mapping> = mappings.iter().filter_map(|at| self.mappings.get(*at)).collect();
        let mut causes: Vec<String> = ready.iter().flat_map(|one| one.flush.causes.iter().cloned()).collect();
        causes.sort_unstable();
        causes.dedup();
        causes.truncate(8);
        let tables = mappings.iter().map(|mapping| mapping.table.clone()).collect();
        self.keyspaces.run(&Plan::new(mappings.iter().copied()), tables, causes).await;
        let done = Instant::now();
        let mut owed = Vec::new();
        for (one, last) in ready.into_iter().zip(last) {
            if last {
                self.keyspaces.stats.finished(&one.flush.causes);
                one.flush.settle();
            } else {
                owed.push(Waiting { first_done: Some(done), ..one });
            }
        }
        owed
    }
}

impl Keyspaces {
    /// Removes everything of the plan that is there when it begins; whatever Redis does meanwhile, it is repeated until it worked.
    pub async fn run(&self, plan: &Plan, tables: Vec<String>, causes: Vec<String>) {
        let since = Instant::now();
        let (removed_before, scanned_before) = self.stats.counts();
        let size = match plan.scans.len() {
            0 => None,
            scans => self.target.size().await.map(|size| size.saturating_mul(scans as u64)),
        };
        tracing::info!(target = self.target.name(), ?causes, ?tables, keys = size, "flush begins");
        self.stats.running(Some(Running {
            tables,
            causes,
            since,
            removed_before,
            scanned_before,
            to_scan: size,
            held_by: None,
        }));
        let removals = plan.keys.iter().map(|key| Owing::Key(key));
        let fields = plan.hashes.iter().map(|(key, fields)| Owing::Fields(key, fields));
        let sets = plan.sets.iter().map(|key| Owing::Set(key));
        let scans = plan.scans.iter().map(Owing::Scan);
        let mut progress = Instant::now();
        // Sets first: a set that is removed as a key is one whose members nobody knows.
        for owing in sets.chain(removals).chain(fields).chain(scans) {
            self.until_done(&owing, &mut progress).await;
        }
        self.stats.running(None);
        let (removed, scanned) = self.stats.counts();
        tracing::info!(
            target = self.target.name(),
            removed = removed - removed_before,
            scanned = scanned - scanned_before,
            ms = since.elapsed().as_millis(),
            "flush done"
        );
    }

    /// Tries until it works.
    async fn until_done(&self, owing: &Owing<'_>, progress: &mut Instant) {
        let mut pauses = backoff(Duration::from_secs(5));
        loop {
            let done = match owing {
                Owing::Set(key) => self.set(key, false).await,
                Owing::Key(key) => self.remove(&[Removal { key, field: None }]).await,
                Owing::Fields(key, fields) => self.fields(key, fields).await,
                Owing::Scan(scan) => self.scan(scan, progress).await,
            };
            let Err(failure) = done else { return self.stats.held_by(None) };
            // An open breaker says so itself, once.
            if !self.target.breaker.is_open() {
                tracing::warn!(target = self.target.name(), %failure, "flush fails, trying again");
            }
            self.stats.held_by(Some(failure.to_string()));
            pauses.wait().await;
            self.target.breaker.closed().await;
        }
    }

    /// One iteration over all keys of all servers; two if slots moved.
    async fn scan(&self, scan: &Scan, progress: &mut Instant) -> Result<(), Failure> {
        let mut rounds = Rounds::of(&self.target);
        while let Some(masters) = rounds.next().await? {
            for master in masters {
                self.keys_of(master, scan, progress).await?;
            }
        }
        Ok(())
    }

    async fn keys_of(&self, mut master: Master, scan: &Scan, progress: &mut Instant) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            self.pace.take(SCAN_COUNT / LOOKS_PER_REMOVAL).await;
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&scan.glob).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) = master.ask(&command).await?;
            self.stats.held_by(None);
            self.stats.scanned.fetch_add(SCAN_COUNT.max(keys.len()) as u64, Relaxed);
            let mut whole = Vec::new();
            for key in &keys {
                match scan.owed(key) {
                    Owed::Nothing => {}
                    Owed::Key => whole.push(Removal { key, field: None }),
                    Owed::Fields(fields) => self.fields(key, &fields).await?,
                    Owed::Members { whole } => self.set(key, whole).await?,
                }
            }
            self.remove(&whole).await?;
            self.tell(progress);
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// The members of a set; `whole`: and then what is left of it.
    async fn set(&self, key: &[u8], whole: bool) -> Result<(), Failure> {
        if self.only_counts {
            self.stats.removed.fetch_add(1, Relaxed);
            return Ok(());
        }
        let removed =
            self.sweeper.members(key, true, &Paces::new([Arc::clone(&self.pace)]), Tell::NOBODY).await?;
        self.stats.removed.fetch_add(removed, Relaxed);
        if whole { self.remove(&[Removal { key, field: None }]).await } else { Ok(()) }
    }

    /// The fields of one hash. A key of another type has none.
    async fn fields(&self, key: &[u8], fields: &Fields) -> Result<(), Failure> {
        if let Some(field) = fields.only() {
            return self.remove(&[Removal { key, field: Some(field) }]).await;
        }
        let glob = fields.glob();
        let command = |cursor: u64| {
            let mut command = redis::cmd("HSCAN");
            command.arg(key).arg(cursor).arg("MATCH").arg(&glob).arg("COUNT").arg(HSCAN_COUNT);
            command
        };
        self.pace.take(HSCAN_COUNT / LOOKS_PER_REMOVAL).await;
        let (mut master, mut page) = match self.target.master_of::<Page>(key, &command(0)).await {
            Err(failure) if failure.code == WRONG_TYPE => return Ok(()),
            found => found?,
        };
        loop {
            let (next, flat) = page;
            // Names, without their values.
            let found: Vec<Vec<u8>> = flat.into_iter().step_by(2).collect();
            self.stats.scanned.fetch_add(found.len() as u64, Relaxed);
            let taken = found.iter().filter(|field| fields.takes(field));
            let removals: Vec<_> = taken.map(|field| Removal { key, field: Some(field) }).collect();
            self.remove(&removals).await?;
            if next == 0 {
                return Ok(());
            }
            self.pace.take(HSCAN_COUNT / LOOKS_PER_REMOVAL).await;
            page = match master.ask(&command(next)).await {
                Err(failure) if failure.code == WRONG_TYPE => return Ok(()),
                page => page?,
            };
        }
    }

    async fn remove(&self, removals: &[Removal<'_>]) -> Result<(), Failure> {
        if self.only_counts {
            self.stats.removed.fetch_add(removals.len() as u64, Relaxed);
            return Ok(());
        }
        for chunk in removals.chunks(BATCH_KEYS) {
            self.pace.take(chunk.len()).await;
            if chunk.iter().any(|removal| removal.field.is_some()) {
                for result in self.target.remove_each(chunk).await? {
                    match result {
                        // Of another type by now: the field is gone.
                        Err(failure) if failure.code != WRONG_TYPE => return Err(failure),
                        _ => {}
                    }
                }
            } else {
                let failed = self.target.unlink(chunk.iter().map(|removal| removal.key)).await?;
                if let Some((_, failure)) = failed.into_iter().next() {
                    return Err(failure);
                }
            }
            self.stats.removed.fetch_add(chunk.len() as u64, Relaxed);
        }
        Ok(())
    }

    fn tell(&self, progress: &mut Instant) {
        if progress.elapsed() < PROGRESS {
            return;
        }
        *progress = Instant::now();
        if let Some(running) = self.stats.snapshot().running {
            let (removed, scanned) = self.stats.counts();
            tracing::info!(
                target = self.target.name(),
                removed = removed - running.removed_before,
                scanned = scanned - running.scanned_before,
                keys = running.to_scan,
                "flush runs"
            );
        }
    }
}

pub(super) const WRONG_TYPE: &str = "WRONGTYPE";

/// A part of a pass, repeated as a whole.
enum Owing<'a> {
    Set(&'a [u8]),
    Key(&'a [u8]),
    Fields(&'a [u8], &'a Fields),
    Scan(&'a Scan),
}

/// A cursor, and what `HSCAN` found.
type Page = (u64, Vec<Vec<u8>>);

impl Target {
    /// `DBSIZE` of all servers; `None` where it can't be had: it is for the progress only.
    async fn size(&self) -> Option<u64> {
        let mut size: u64 = 0;
        for master in &mut self.masters().await.ok()? {
            size = size.saturating_add(master.peek(&redis::cmd("DBSIZE")).await.ok()?);
        }
        Some(size)
    }
}
