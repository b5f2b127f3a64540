//! Looks at the marks while the daemon runs, and writes the newest.
//!
//! Guarantees: before a mark is written the checkpoint says that it may be; none is while the queue owes something, or a flush for a loss
//! isn't done. May depend on `checkpoint`, `invalidate`'s targets, `pipeline`'s frontier, `retry`'s counts and `source`'s errors.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Seen, Stats, is_of, judge_all, look_at_all,
    mark::{Mark, Verdict},
    oldest, redis,
};
use crate::{
    checkpoint::{
        self,
        file::{Published, Saved},
    },
    invalidate::target::{Master, Target},
    pipeline::{Done, frontier::Frontier},
    retry::Queue,
    source::SourceError,
};

/// Time between two looks, and the least between two marks.
const INTERVAL: Duration = Duration::from_secs(1);

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
    /// See `lineage` of the checkpoint.
    pub lineage: String,
    /// The name under which clients find the frontier.
    pub name: String,
    /// No mark before the checkpoint has come to this epoch: a flush isn't done.
    pub from_epoch: u64,
    /// Servers may be dropped from the pool of read sources.
    pub servers_leave: bool,
    /// From the survey.
    pub expected: BTreeMap<String, Published>,
    /// Of the process.
    pub stats: Arc<Stats>,
    /// What clients were told, by target.
    pub told: BTreeMap<String, Mark>,
    /// And at which keys: on a cluster they change when slots move.
    pub told_at: BTreeMap<String, Vec<String>>,
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
                    self.stats.note_evicted(one.master.address());
                    written.remove(&one.place);
                    self.expected.insert(one.place.clone(), one.look.as_published());
                }
                // The list of read sources may be an old one too, with a server that was dropped since: then each target waits for it again
                // until the list is written anew, as it does when a life begins.
                Verdict::Rewind(mark, _) if !self.servers_leave && self.nothing_is_behind(&mark) => {
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
        match &newest {
            Some(newest) => self.publish(newest, &mut seen, written).await,
            None => self.remember(&seen),
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

    /// In which run a server is that has no mark yet: what it forgets until then is known by that.
    fn remember(&self, seen: &[Seen]) {
        let flushed = |saved: &Saved| saved.epoch >= self.from_epoch;
        let Some(saved) = self.checkpoint.snapshot().saved.filter(flushed) else { return };
        let is_new = |one: &&Seen| !saved.published.contains_key(&one.place);
        if seen.iter().any(|one| is_new(&one)) {
            let new = seen.iter().filter(is_new).map(|one| (one.place.clone(), one.look.as_published()));
            self.checkpoint.may_publish(new.chain(saved.published.clone()).collect());
        }
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
        let mut is_first = false;
        for one in seen {
            if written.get(&one.place).is_some_and(|mark| mark.is_at(newest)) {
                continue;
            }
            let published = redis::publish(&mut one.master, &one.key, one.look.found.as_deref(), &text).await;
            if let Some(will) = will.get_mut(&one.place) {
                if matches!(published, Ok(true)) && will.before.is_empty() {
                    will.before.clone_from(&will.id);
                    is_first = true;
                }
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
        if is_first {
            // It is there: once that is saved, its lack is a loss.
            self.checkpoint.may_publish(will);
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
            let keys: Vec<String> =
                own().map(|one| redis::frontier_key(one.master.least_tag(), &self.name)).collect();
            if self.told.get(target.name()).is_some_and(|told| told.is_at(&frontier))
                && self.told_at.get(target.name()) == Some(&keys)
            {
                continue;
            }
            let text = frontier.text();
            for (one, key) in seen.iter_mut().filter(|one| one.target == index).zip(&keys) {
                if let Err(failure) = redis::set(&mut one.master, key, &text).await {
                    self.stats.failed(target.name(), &failure);
                }
            }
            self.told_at.insert(target.name().to_owned(), keys);
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
