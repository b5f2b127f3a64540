//! What is left in Redis, so that it is noticed when Redis loses its memory: after a restart from an older snapshot, or a failover to a
//! replica that lacked the last writes, removed values are back.
//!
//! A [`mark::Mark`] is the frontier F: the end of the longest prefix of the binlog whose second removals Redis itself has acknowledged.
//! The [`Keeper`] looks at each Redis server's mark about each second, and writes the newest one by compare-and-set. What it finds is
//! judged ([`mark::judge`]) against what the checkpoint says may stand there; at a start, [`survey`] does the same. A loss ends the daemon's
//! life at once ([`SourceError::Anew`]); the next one begins at the mark that was found, or flushes where there is none.
//!
//! F is known without counting removals: the checkpoint moves when Redis *or the queue* has acknowledged. A checkpoint that was read
//! before the queue was seen empty has nothing left in the queue: it is an F. Dead letters don't hold it; they are listed as owed.
//!
//! Guarantees: before a mark is written, the checkpoint says that it may be; so a daemon that is killed at any moment finds one of two
//! marks that it knows, and a third one is Redis' doing. No mark is written while a flush for a loss isn't done. Costs Redis one or two
//! commands a second, and nothing on the way of a removal. May depend on `checkpoint`, `invalidate`'s targets, `retry`'s counts and
//! `source`'s positions and errors.

pub mod mark;
pub mod pool;
mod redis;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::mark::{Look, Mark, Verdict, is_at_or_before, judge};
use crate::{
    checkpoint::{
        self,
        file::{Published, Saved},
    },
    invalidate::{
        classify::Failure,
        target::{Master, Target},
    },
    pipeline::{Done, frontier::Frontier},
    retry::Queue,
    source::{Forgotten, SourceError},
};

/// Time between two looks, and the least between two marks.
const INTERVAL: Duration = Duration::from_secs(1);

/// A name for a new checkpoint, which no other one has.
pub fn new_lineage() -> String {
    // Its keys come from the system's random numbers.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}

/// Counts of the whole process, and what is seen now.
#[derive(Debug, Default)]
pub struct Stats {
    rewinds: AtomicU64,
    flushes: AtomicU64,
    evicted: AtomicU64,
    targets: Mutex<BTreeMap<String, TargetState>>,
}

/// What is known of a target's marks.
#[derive(Debug, Clone, Default)]
pub struct TargetState {
    /// The oldest mark among its servers; `None`: at least one has none yet.
    pub frontier: Option<Mark>,
    /// When the checkpoint stood there.
    pub at: Option<Instant>,
    /// Why its marks can't be read or written.
    pub failure: Option<String>,
    /// The read sources that are listed for guarded readers; empty before the first look.
    pub pool: Vec<String>,
    /// The account may not ask for the run: a restart that loses less than was done since the last mark goes unseen.
    pub blind: bool,
}

impl TargetState {
    /// How long ago the frontier was what is done; zero where it still is. `None`: there is none yet.
    pub fn lag(&self, saved: Option<&Saved>) -> Option<Duration> {
        let (mark, at) = self.frontier.as_ref().zip(self.at)?;
        let is_newest = saved.is_some_and(|saved| Mark::of(saved).is_at(mark));
        Some(if is_newest { Duration::ZERO } else { at.elapsed() })
    }
}

impl Stats {
    /// Times that the binlog was read again from an earlier place, because Redis had forgotten removals.
    pub fn rewinds(&self) -> u64 {
        self.rewinds.load(Relaxed)
    }

    /// Times that mapped keyspaces were flushed for the same reason.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Times that a mark was evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// By target.
    pub fn targets(&self) -> BTreeMap<String, TargetState> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn target(&self, name: &str, change: impl FnOnce(&mut TargetState)) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        change(targets.entry(name.to_owned()).or_default());
    }

    fn failed(&self, target: &str, failure: &Failure) {
        self.target(target, |state| {
            if state.failure.is_none() {
                tracing::warn!(target, %failure,
                    "mark can't be read or written: if redis loses its memory now, that goes unseen until it can");
            }
            state.failure = Some(failure.to_string());
        });
    }

    fn works(&self, target: &str, blind: bool) {
        self.target(target, |state| {
            state.failure = None;
            if blind && !state.blind {
                tracing::warn!(target,
                    "the redis account may not run INFO: a restart that loses only what was removed since the last mark goes unseen");
            }
            state.blind = blind;
        });
    }
}

/// One server, looked at.
#[derive(Debug)]
struct Seen {
    target: usize,
    master: Master,
    key: String,
    /// In [`Saved::published`].
    place: String,
    look: Look,
}

/// Looks at every server of each target, or, where one of them can't be asked, at none.
async fn look_at_all(targets: &[Arc<Target>], lineage: &str, stats: &Stats) -> Vec<Seen> {
    let one = async |(index, target): (usize, &Arc<Target>)| {
        if target.breaker.is_open() {
            return Vec::new();
        }
        match look_at(index, target, lineage).await {
            Ok(seen) => {
                stats.works(target.name(), seen.iter().any(|seen| seen.look.run.is_empty()));
                seen
            }
            Err(failure) => {
                stats.failed(target.name(), &failure);
                Vec::new()
            }
        }
    };
    futures_util::future::join_all(targets.iter().enumerate().map(one)).await.into_iter().flatten().collect()
}

async fn look_at(index: usize, target: &Target, lineage: &str) -> Result<Vec<Seen>, Failure> {
    let mut seen = Vec::new();
    for mut master in target.masters().await? {
        let key = redis::mark_key(master.tag(), lineage);
        let look = redis::look(&mut master, &key).await?;
        let place = place(target.name(), master.tag());
        seen.push(Seen { target: index, master, key, place, look });
    }
    Ok(seen)
}

fn place(target: &str, tag: Option<&str>) -> String {
    format!("{target}/{}", tag.unwrap_or_default())
}

fn is_of(place: &str, target: &str) -> bool {
    place.rsplit_once('/').is_some_and(|(name, _)| name == target)
}

/// Judges each look by what was published. A server that appears where others are known, in a run that nobody has seen, may be an old one
/// under another tag: then what the others remember is repeated.
fn judge_all(
    published: &BTreeMap<String, Published>,
    targets: &[Arc<Target>],
    seen: &[Seen],
) -> Vec<Verdict> {
    let verdict = |one: &Seen| {
        let verdict = judge(published.get(&one.place), &one.look);
        let Some(target) = targets.get(one.target) else { return verdict };
        let known = || published.iter().filter(|(place, _)| is_of(place, target.name()));
        if verdict != Verdict::Keep
            || published.contains_key(&one.place)
            || known().next().is_none()
            || known().any(|(_, known)| known.run == one.look.run && !one.look.run.is_empty())
        {
            return verdict;
        }
        let others = seen.iter().filter(|other| other.target == one.target && other.place != one.place);
        let marks = others.filter_map(|other| Mark::parse(other.look.found.as_deref()?).ok());
        match oldest(marks) {
            Some(Some(mark)) => Verdict::Rewind(Box::new(mark), "a redis server appeared that has no mark"),
            Some(None) => Verdict::Lost("a redis server appeared that has no mark".to_owned()),
            None => verdict,
        }
    };
    seen.iter().map(verdict).collect()
}

/// `None`: there is none. `Some(None)`: they can't be compared.
fn oldest(marks: impl Iterator<Item = Mark>) -> Option<Option<Mark>> {
    let mut oldest: Option<Mark> = None;
    for mark in marks {
        let Some(before) = &oldest else {
            oldest = Some(mark);
            continue;
        };
        let places = mark.place().ok().zip(before.place().ok());
        match places.and_then(|(a, b)| is_at_or_before(&a, &b)) {
            Some(true) => oldest = Some(mark),
            Some(false) => {}
            None => return Some(None),
        }
    }
    oldest.map(Some)
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Survey {
    /// What stands in each server that could be asked, and what may in the others.
    pub expected: BTreeMap<String, Published>,
    /// Where to go back to.
    pub rewind: Option<Mark>,
    /// Where going back doesn't help.
    pub forgotten: Option<Forgotten>,
}

/// Looks at every server before anything is read, and compares with the checkpoint. `out_of_reach`: the binlog doesn't go back as far as
/// was found to be needed.
pub async fn survey(
    targets: &[Arc<Target>],
    saved: Option<&Saved>,
    lineage: &str,
    out_of_reach: Option<String>,
    stats: &Stats,
) -> Survey {
    let seen = look_at_all(targets, lineage, stats).await;
    let mut survey = Survey::default();
    if let Some(saved) = saved {
        survey.expected = saved.published.clone();
        let verdicts = judge_all(&saved.published, targets, &seen);
        let mut marks = Vec::new();
        for (one, verdict) in seen.iter().zip(verdicts) {
            match verdict {
                Verdict::Keep => {}
                Verdict::Evicted => note_evicted(stats, one.master.address()),
                Verdict::Lost(why) => survey.forget(one.target, format!("{}: {why}", one.master.address())),
                Verdict::Rewind(mark, why) => {
                    let why = format!("{}: {why}", one.master.address());
                    match (needed(&mark, saved), &out_of_reach) {
                        (Some(false), _) => {}
                        (Some(true), None) => {
                            tracing::warn!(
                                target = targets.get(one.target).map(|target| target.name()),
                                why,
                                mark_file = mark.file,
                                mark_position = mark.position,
                                mark_gtids = mark.gtids,
                                checkpoint_file = saved.file,
                                checkpoint_position = saved.position,
                                "redis may have forgotten removals"
                            );
                            marks.push((one.target, *mark));
                        }
                        (Some(true), Some(reach)) => survey.forget(one.target, format!("{why}; {reach}")),
                        (None, _) => survey.forget(one.target, format!("{why}, of another server's binlog")),
                    }
                }
            }
        }
        match oldest(marks.iter().map(|(_, mark)| mark.clone())) {
            Some(None) => {
                for (target, _) in marks {
                    survey.forget(target, "marks that can't be compared were found".to_owned());
                }
            }
            found => survey.rewind = found.flatten(),
        }
    }
    for one in seen {
        survey.expected.insert(one.place, one.look.as_published());
    }
    stats.rewinds.fetch_add(u64::from(survey.rewind.is_some()), Relaxed);
    stats.flushes.fetch_add(u64::from(survey.forgotten.is_some()), Relaxed);
    if let (Some(mark), Some(saved)) = (&survey.rewind, saved) {
        tracing::warn!(
            from_gtids = saved.gtids,
            from_file = saved.file,
            from_position = saved.position,
            to_gtids = mark.gtids,
            to_file = mark.file,
            to_position = mark.position,
            seconds = saved.commit_time.saturating_sub(mark.time),
            "rewinding the binlog to repeat removals"
        );
    }
    survey
}

impl Survey {
    fn forget(&mut self, target: usize, why: String) {
        let forgotten =
            self.forgotten.get_or_insert_with(|| Forgotten { targets: Vec::new(), why: String::new() });
        if !forgotten.targets.contains(&target) {
            forgotten.targets.push(target);
        }
        if !forgotten.why.is_empty() {
            forgotten.why.push_str("; ");
        }
        forgotten.why.push_str(&why);
    }
}

fn note_evicted(stats: &Stats, address: &str) {
    stats.evicted.fetch_add(1, Relaxed);
    tracing::warn!(
        address,
        "redis has evicted the mark: it is written again. `maxmemory-policy volatile-…` or `allkeys-lru` keep it"
    );
}

/// Whether a mark lies before the checkpoint. `None`: that can't be said.
fn needed(mark: &Mark, saved: &Saved) -> Option<bool> {
    if mark.source != saved.source {
        return None;
    }
    let (mark, checkpoint) = (mark.place().ok()?, checkpoint::position(saved).ok()?);
    is_at_or_before(&checkpoint, &mark).map(|reached| !reached)
}

/// Keeps the marks.
#[derive(Debug)]
pub struct Keeper {
    /// All of the config.
    pub targets: Vec<Arc<Target>>,
    /// What is saved.
    pub checkpoint: checkpoint::Watch,
    /// What is open.
    pub frontier: Frontier<Done>,
    /// What is owed.
    pub queue: Arc<Queue>,
    /// See [`Saved::lineage`].
    pub lineage: String,
    /// The name under which clients find the frontier.
    pub name: String,
    /// No mark before the checkpoint has come to this epoch: a flush isn't done.
    pub from_epoch: u64,
    /// From the [`Survey`].
    pub expected: BTreeMap<String, Published>,
    /// Of the process.
    pub stats: Arc<Stats>,
    /// What clients were told, by target.
    pub told: BTreeMap<String, Mark>,
}

impl Keeper {
    /// Looks and publishes until `stop`.
    ///
    /// # Errors
    /// [`SourceError::Anew`] when Redis has forgotten something.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let mut written = BTreeMap::new();
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                result = self.round(&mut written) => result?,
            }
        }
    }

    /// The newest frontier; `None`: something of the checkpoint is still in the queue, or being flushed.
    fn newest(&self) -> Option<Mark> {
        // In this order: what the checkpoint has passed was in the queue before, if it ever is.
        let saved = self.checkpoint.snapshot().saved?;
        let empty = self.queue.stats().pending == Some(0);
        (empty && saved.epoch >= self.from_epoch).then(|| Mark::of(&saved))
    }

    /// `written`: the newest mark of each place.
    async fn round(&mut self, written: &mut BTreeMap<String, Mark>) -> Result<(), SourceError> {
        let (newest, now) = (self.newest(), Instant::now());
        let mut seen = look_at_all(&self.targets, &self.lineage, &self.stats).await;
        for (one, verdict) in seen.iter().zip(judge_all(&self.expected, &self.targets, &seen)) {
            match verdict {
                Verdict::Keep => {
                    let expected = self.expected.entry(one.place.clone()).or_default();
                    if expected.run != one.look.run || one.look.found.is_none() {
                        written.remove(&one.place);
                        *expected = one.look.as_published();
                    }
                    expected.evicted = one.look.evicted;
                }
                Verdict::Evicted => {
                    note_evicted(&self.stats, one.master.address());
                    written.remove(&one.place);
                    self.expected.insert(one.place.clone(), one.look.as_published());
                }
                Verdict::Rewind(mark, _) if self.nothing_is_behind(&mark) => {
                    tracing::info!(
                        address = one.master.address(),
                        "redis was restarted, and nothing was removed since its mark"
                    );
                    self.expected.insert(one.place.clone(), one.look.as_published());
                }
                Verdict::Rewind(_, why) => return Err(anew(&one.master, why)),
                Verdict::Lost(why) => return Err(anew(&one.master, &why)),
            }
        }
        // A server that lost its mark has lost that, too.
        let lost =
            |index: &usize| seen.iter().any(|one| one.target == *index && !written.contains_key(&one.place));
        for index in (0..self.targets.len()).filter(lost) {
            if let Some(target) = self.targets.get(index) {
                self.told.remove(target.name());
            }
        }
        if let Some(newest) = &newest {
            self.publish(newest, &mut seen, written).await;
        }
        self.tell(now, &mut seen, written).await;
        Ok(())
    }

    /// Everything that was ever acknowledged lies before the mark.
    fn nothing_is_behind(&self, mark: &Mark) -> bool {
        let (snapshot, frontier) = (self.checkpoint.snapshot(), self.frontier.stats());
        frontier.open == 0
            && frontier.lost == 0
            && !frontier.undrained
            && !snapshot.behind
            && snapshot.saved.is_some_and(|saved| Mark::of(&saved).is_at(mark))
    }

    async fn publish(&mut self, newest: &Mark, seen: &mut [Seen], written: &mut BTreeMap<String, Mark>) {
        let is_due = |one: &Seen| written.get(&one.place).is_none_or(|mark| !mark.is_at(newest));
        if !seen.iter().any(is_due) {
            return;
        }
        let mut will = self.checkpoint.snapshot().saved.map(|saved| saved.published).unwrap_or_default();
        // What was published for servers that are no longer there.
        for (index, target) in self.targets.iter().enumerate() {
            let there = |place: &str| seen.iter().any(|one| one.target == index && one.place == place);
            if seen.iter().any(|one| one.target == index) {
                will.retain(|place, _| !is_of(place, target.name()) || there(place));
                self.expected.retain(|place, _| !is_of(place, target.name()) || there(place));
            }
        }
        for one in seen.iter().filter(|one| is_due(one)) {
            let before = one.look.as_published();
            will.insert(one.place.clone(), Published { id: newest.id.clone(), ..before });
        }
        if !self.checkpoint.will_publish(will.clone()).await {
            return;
        }
        let text = newest.text();
        for one in seen {
            if written.get(&one.place).is_some_and(|mark| mark.is_at(newest)) {
                continue;
            }
            let published = redis::publish(&mut one.master, &one.key, one.look.found.as_deref(), &text).await;
            if let Some(will) = will.get(&one.place) {
                // Also where the answer was lost: either one may stand there.
                self.expected.insert(one.place.clone(), will.clone());
            }
            match published {
                Ok(true) => _ = written.insert(one.place.clone(), newest.clone()),
                // The next look tells what does.
                Ok(false) => tracing::warn!(address = one.master.address(), "mark was changed meanwhile"),
                Err(failure) => {
                    if let Some(target) = self.targets.get(one.target) {
                        self.stats.failed(target.name(), &failure);
                    }
                }
            }
        }
    }

    /// Tells clients and the status: one frontier for all of a target's servers.
    async fn tell(&mut self, now: Instant, seen: &mut [Seen], written: &BTreeMap<String, Mark>) {
        for (index, target) in self.targets.iter().enumerate() {
            let own = || seen.iter().filter(|one| one.target == index);
            let marks = || own().filter_map(|one| written.get(&one.place)).cloned();
            if own().next().is_none() || marks().count() < own().count() {
                continue;
            }
            let Some(frontier) = oldest(marks()).flatten() else { continue };
            if self.told.get(target.name()).is_some_and(|told| told.is_at(&frontier)) {
                continue;
            }
            let text = frontier.text();
            for one in seen.iter_mut().filter(|one| one.target == index) {
                let key = redis::frontier_key(one.master.tag(), &self.name);
                if let Err(failure) = redis::set(&mut one.master, &key, &text).await {
                    self.stats.failed(target.name(), &failure);
                }
            }
            self.told.insert(target.name().to_owned(), frontier.clone());
            self.stats.target(target.name(), |state| {
                state.frontier = Some(frontier);
                state.at = Some(now);
            });
        }
    }
}

fn anew(master: &Master, why: &str) -> SourceError {
    SourceError::Anew { why: format!("redis at {}: {why}", master.address()), gap: false }
}
