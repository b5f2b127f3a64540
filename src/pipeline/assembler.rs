//! Collects keys into segments.
//!
//! Guarantees: as [`super`]. May depend on the other parts of `pipeline`, `source::position`, `route`'s kinds and `config`.

use std::{sync::Arc, time::Instant};

use hashbrown::HashTable;

use super::{
    BATCH_BYTES, BATCH_KEYS, BULK_KEYS, Batch, Budget, Closed, Commits, Done, Flush, Lane, Lanes, Restart,
    SEGMENT_COMMITS, Segment, TargetQueues,
    batch::{KeyBatch, Removal, RowPlace, hash_key},
    budget::Permit,
    frontier::{Frontier, Ticket},
    handed::Handed,
    prepared::Riders,
};
use crate::{
    config::SecondRemoval,
    route::Kind,
    source::{
        self,
        position::{Anchor, CommitSpan, Coordinates, Position},
    },
};

/// Causes of one flush that are kept.
const CAUSES: usize = 8;

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    gtid: Option<rowbust_binlog::Gtid>,
    commit_micros: u64,
    /// Keys of it that were taken, duplicates not counted.
    keys: usize,
}

/// Collects keys into segments. Owned by the one task that reads the binlog.
#[derive(Debug)]
pub struct Assembler {
    lanes: Lanes,
    /// By target.
    queues: Vec<TargetQueues>,
    frontier: Frontier<Done>,
    budget: Budget,
    /// Whether transactions with many keys are kept apart.
    paced: bool,
    /// By way, by worker. The ways are the lanes, once for each [`Kind`]; but for the exact ones each has one worker.
    open: Vec<Vec<OpenBatch>>,
    /// By lane.
    widened: Vec<Widened>,
    transaction: Option<Open>,
    /// The end of its GTID event; kept from one to the next for the sake of the file's name.
    begun_at: Coordinates,
    /// Whether the running transaction is part of `visible` already.
    transaction_in_segment: bool,
    visible: Option<CommitSpan>,
    /// Everything before where reading began; `None` once a transaction was read to its end, which is then the newest.
    before: Option<CommitSpan>,
    newest_gtid: Option<rowbust_binlog::Gtid>,
    done: Done,
    commits: u32,
    full: bool,
    /// Whether the segment is part of a transaction with many keys.
    bulk: bool,
    received: Option<Instant>,
    commit_micros: u64,
    handed: Handed,
    /// Settled with the next segment.
    riders: Vec<Ticket<Done>>,
    /// Theirs once the running transaction is read to its end.
    owed: Vec<Ticket<Done>>,
    /// No witness tells when its commits are visible.
    by_delay: bool,
}

#[derive(Debug, Default)]
struct OpenBatch {
    keys: KeyBatch,
    seen: HashTable<u32>,
    /// What was full before a flush could come.
    before: Vec<KeyBatch>,
}

impl OpenBatch {
    fn len(&self) -> usize {
        self.before.len() + usize::from(!self.keys.is_empty())
    }

    fn footprint(&self) -> usize {
        self.keys.footprint() + self.before.iter().map(KeyBatch::footprint).sum::<usize>()
    }

    /// Everything, batch by batch.
    fn take(&mut self) -> Vec<KeyBatch> {
        self.seen.clear();
        let mut all = std::mem::take(&mut self.before);
        if !self.keys.is_empty() {
            all.push(std::mem::take(&mut self.keys));
        }
        all
    }
}

/// What a lane is to flush.
#[derive(Debug, Default)]
struct Widened {
    mappings: Vec<usize>,
    causes: Vec<String>,
}

impl Assembler {
    /// `queues`: by target. `paced`: bulk has a rate, see [`Lanes::is_paced`].
    pub fn new(
        lanes: Lanes,
        queues: Vec<TargetQueues>,
        frontier: Frontier<Done>,
        budget: Budget,
        paced: bool,
    ) -> Self {
        let workers =
            |kind, lane: &Lane| if kind == Kind::Exact { queues[lane.target].workers.len() } else { 1 };
        let open = Kind::ALL
            .into_iter()
            .flat_map(|kind| lanes.lanes.iter().map(move |lane| workers(kind, lane)))
            .map(|workers| (0..workers).map(|_| OpenBatch::default()).collect())
            .collect();
        let widened = lanes.lanes.iter().map(|_| Widened::default()).collect();
        Self {
            lanes,
            queues,
            frontier,
            budget,
            paced,
            open,
            widened,
            transaction: None,
            begun_at: Coordinates { file: "".into(), position: 0 },
            transaction_in_segment: false,
            visible: None,
            before: None,
            newest_gtid: None,
            done: Done::default(),
            commits: 0,
            full: false,
            bulk: false,
            received: None,
            commit_micros: 0,
            handed: Handed::default(),
            riders: Vec::new(),
            owed: Vec::new(),
            by_delay: false,
        }
    }

    /// Reading begins at `position`.
    pub fn started(&mut self, position: &Position) {
        self.before = Some(CommitSpan::of_position(position));
    }

    /// The log begins anew at `position`: what lay between is gone (`gap`), or another server is followed. The checkpoint goes there once
    /// everything that was pushed and widened before is done.
    pub fn restart(&mut self, position: &Position, identity: &str, gap: bool) {
        self.abort();
        self.started(position);
        let restart = Restart { position: position.clone(), identity: identity.to_owned(), gap };
        self.done = Done { restart: Some(Box::new(restart)), commits: None };
        self.full = true;
    }

    /// A transaction begins. One that was cut off before its end is forgotten: it will be read again as a whole.
    pub fn begin(&mut self, transaction: source::Transaction<'_>) {
        let rotated = |span: &CommitSpan| span.last.file != transaction.at.file;
        // A segment's places are offsets into one file.
        self.full |= self.visible.as_ref().is_some_and(rotated)
            || self.done.commits.as_ref().is_some_and(|commits| rotated(&commits.span));
        self.begun_at.move_to(transaction.at);
        let source::Transaction { gtid, commit_micros, .. } = transaction;
        self.transaction = Some(Open { gtid, commit_micros, keys: 0 });
        self.transaction_in_segment = false;
        self.handed.clear();
    }

    /// A key of the running transaction. `place.position` is the end of its rows event.
    pub fn push(&mut self, mapping: usize, removal: Removal<'_>, place: RowPlace) {
        self.push_way(self.way(mapping, Kind::Exact), removal, place);
    }

    /// The way of a mapping's keys.
    pub fn way(&self, mapping: usize, kind: Kind) -> usize {
        let before = match kind {
            Kind::Exact => 0,
            Kind::Prefix => 1,
            Kind::MembersOf => 2,
        };
        before * self.lanes.lanes.len() + self.lanes.of_mapping[mapping]
    }

    /// A place before the running transaction that isn't done until the ticket is settled.
    pub fn hold(&self) -> Option<Ticket<Done>> {
        self.frontier.open(1, Done::default()).pop()
    }

    /// Hands on what was kept under another transaction: its keys are the running transaction's now, by way, and the tickets are
    /// settled with them, if it is read to its end: otherwise the place stays undone. `by_delay`: no witness tells when the running transaction is visible.
    pub fn resume(&mut self, keys: &[KeyBatch], tickets: Vec<Ticket<Done>>, by_delay: bool) {
        let place = RowPlace { position: self.begun_at.position, row: 0 };
        for (way, keys) in keys.iter().enumerate() {
            for removal in keys.iter() {
                self.push_way(way, removal, place);
            }
        }
        self.owed.extend(tickets);
        self.by_delay |= by_delay;
        self.full = true;
    }

    /// As [`Assembler::push`], by [`Assembler::way`]. What isn't exact has no field.
    pub fn push_way(&mut self, way: usize, removal: Removal<'_>, place: RowPlace) {
        let hash = hash_key(removal.key);
        if self.handed.is_used() && self.handed.contains(way, hash, removal) {
            return;
        }
        if !self.transaction_in_segment {
            self.join_segment();
        }
        let open = &mut self.open[way];
        // The upper bits choose the worker, as the table takes the lower ones.
        let worker = usize::try_from(hash >> 32).unwrap_or(0) % open.len();
        let OpenBatch { keys, seen, before } = &mut open[worker];
        // One event, or one XA COMMIT, may bring far more than a command should take.
        if keys.len() >= 2 * BATCH_KEYS {
            before.push(std::mem::take(keys));
            seen.clear();
        }
        if keys.push(seen, hash, removal, place) {
            self.full |= keys.len() >= BATCH_KEYS || keys.footprint() >= BATCH_BYTES;
            if let Some(transaction) = &mut self.transaction {
                transaction.keys += 1;
                // What was collected so far goes the usual way.
                self.full |= self.paced && transaction.keys == BULK_KEYS;
            }
        }
    }

    /// Something that no row image tells may have made any key of these mappings wrong: their keyspaces are flushed under the
    /// running transaction, or, outside of one, under the newest position that was read.
    pub fn widen(&mut self, mappings: impl IntoIterator<Item = usize>, cause: &str) {
        for mapping in mappings {
            let lane = self.lanes.of_mapping[mapping];
            let widened = &mut self.widened[lane];
            if !widened.mappings.contains(&mapping) {
                widened.mappings.push(mapping);
            }
            if widened.causes.len() < CAUSES && !widened.causes.iter().any(|known| known == cause) {
                widened.causes.push(cause.to_owned());
            }
            self.full = true;
        }
        if !self.full || self.transaction_in_segment {
            return;
        }
        if self.transaction.is_some() {
            self.join_segment();
            return;
        }
        self.received.get_or_insert_with(Instant::now);
        let mut newest = match &self.before {
            Some(before) => before.clone(),
            None => CommitSpan::new(self.newest_gtid, self.begun_at.clone()),
        };
        // Of what was read in this segment all commits, not only the newest.
        if let Some(done) = &self.done.commits {
            newest.append(&done.span);
            newest.last.move_to(&self.begun_at);
        }
        match &mut self.visible {
            Some(span) => span.append(&newest),
            None => self.visible = Some(newest),
        }
    }

    #[cold]
    fn join_segment(&mut self) {
        self.transaction_in_segment = true;
        let Some(transaction) = &self.transaction else {
            // Rows outside a transaction: the follower halts on them before it comes to this.
            debug_assert!(false, "rows outside a transaction at {}", self.begun_at);
            return;
        };
        self.received.get_or_insert_with(Instant::now);
        if self.visible.is_none() {
            self.commit_micros = transaction.commit_micros;
        }
        self.bulk = self.paced && transaction.keys >= BULK_KEYS;
        match &mut self.visible {
            Some(span) => span.add(transaction.gtid, &self.begun_at),
            None => self.visible = Some(CommitSpan::new(transaction.gtid, self.begun_at.clone())),
        }
    }

    /// The running transaction ends at `end` (exclusive), committed or not. Without one (a standalone statement) only the
    /// coordinates move.
    pub fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>) {
        let transaction = self.transaction.take();
        self.riders.append(&mut self.owed);
        // A segment with keys waits for all its commits, mapped or not: so their GTIDs are one range, not one each.
        if let (Some(span), Some(transaction), false) =
            (&mut self.visible, &transaction, self.transaction_in_segment)
        {
            span.add(transaction.gtid, &self.begun_at);
        }
        let gtid = transaction.as_ref().and_then(|transaction| transaction.gtid);
        self.before = None;
        self.newest_gtid = gtid;
        let time = transaction.map_or(0, |transaction| transaction.commit_micros / 1_000_000);
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        self.transaction_in_segment = false;
        self.handed.clear();
        match &mut self.done.commits {
            Some(done) => {
                done.span.add(gtid, end);
                (done.time, done.anchor) = (time, anchor);
            }
            None => {
                self.done.commits = Some(Commits { span: CommitSpan::new(gtid, end.clone()), time, anchor });
            }
        }
        self.commits += 1;
        // The keys of small transactions don't go with bulk.
        self.full |= self.commits >= SEGMENT_COMMITS || self.bulk;
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
        self.handed.clear();
        self.owed.drain(..).for_each(Ticket::keep);
    }

    /// Hands what was collected to the workers as one segment; waits while the byte budget is used up.
    pub async fn flush(&mut self) -> Result<(), Closed> {
        self.full = false;
        self.commits = 0;
        let bulk = std::mem::take(&mut self.bulk);
        let (exact, sweeps) = self.open.split_at(self.lanes.lanes.len());
        let count = |open: &[Vec<OpenBatch>]| open.iter().flatten().map(OpenBatch::len).sum::<usize>();
        let bytes = |open: &[Vec<OpenBatch>]| open.iter().flatten().map(OpenBatch::footprint).sum::<usize>();
        let (batches, keys) = (count(exact), bytes(exact));
        let (sweeps, sweep_keys) = (count(sweeps), bytes(sweeps));
        let flushes: usize = self.widened.iter().map(|lane| usize::from(!lane.mappings.is_empty())).sum();
        let slow = flushes + sweeps;
        let done = std::mem::take(&mut self.done);
        let joined = std::mem::take(&mut self.transaction_in_segment);
        let riders = std::mem::take(&mut self.riders);
        let by_delay = std::mem::take(&mut self.by_delay);
        let Some(mut span) = self.visible.take().filter(|_| batches + slow > 0) else {
            if done.restart.is_some() || done.commits.is_some() {
                let none = self.frontier.open(0, done);
                debug_assert!(none.is_empty());
            }
            riders.into_iter().for_each(Ticket::settle);
            return Ok(());
        };
        span.by_delay = by_delay;
        let riders = (!riders.is_empty()).then(|| Riders::new(riders, batches + slow));
        // Not of a segment that ends before the running transaction: its span lacks that.
        if joined && self.transaction.is_some() {
            self.remember();
        }
        let spans = span.footprint() + done.commits.as_ref().map_or(0, |commits| commits.span.footprint());
        let received = self.received.take().unwrap_or_else(Instant::now);
        // A flush or a sweep may last: it mustn't keep the bytes of keys that are long done. Sweeps leave half to others, as bulk does.
        let apart = match slow {
            0 => 0,
            _ => {
                let bytes = span.footprint() + size_of::<Segment>() + flushes * size_of::<Flush>();
                bytes + sweep_keys + sweeps * size_of::<Batch>()
            }
        };
        let only_sweeps = slow > 0 && flushes == 0;
        let bytes = keys + spans + size_of::<Segment>() + batches * size_of::<Batch>();
        // Taken at once: with the one in hand, waiting for the other may be waiting for oneself.
        let mut budget = self.budget.take(apart + bytes, bulk || only_sweeps).await?;
        let slow_segment =
            (slow > 0).then(|| self.segment(span.clone(), received, budget.split(apart, only_sweeps)));
        let segment = self.segment(span, received, budget);
        let tickets = self.frontier.open(u32::try_from(batches + slow).map_err(|_| Closed)?, done);
        let mut tickets = tickets.into_iter();
        let lanes = &self.lanes.lanes;
        for (way, open) in self.open.iter_mut().enumerate() {
            let (kind, lane) = (Kind::ALL[way / lanes.len()], &lanes[way % lanes.len()]);
            let queues = &self.queues[lane.target];
            let paced = &queues.paced[lane.paced];
            for (worker, open) in open.iter_mut().enumerate() {
                for keys in open.take() {
                    let Some(ticket) = tickets.next() else { return Err(Closed) };
                    let segment = if kind == Kind::Exact { Some(&segment) } else { slow_segment.as_ref() };
                    let segment = Arc::clone(segment.ok_or(Closed)?);
                    let (lane, riders) = (Arc::clone(lane), riders.clone());
                    let batch = Batch { keys, kind, lane, segment, ticket, riders };
                    match kind {
                        Kind::Exact if bulk => paced.bulk.send(batch).map_err(|_| Closed)?,
                        Kind::Exact => queues.workers[worker].send(batch).await.map_err(|_| Closed)?,
                        Kind::Prefix => paced.prefixes.send(batch).map_err(|_| Closed)?,
                        Kind::MembersOf => paced.members.send(batch).map_err(|_| Closed)?,
                    }
                }
            }
        }
        for (lane, widened) in self.widened.iter_mut().enumerate() {
            if widened.mappings.is_empty() {
                continue;
            }
            let Some(ticket) = tickets.next() else { return Err(Closed) };
            let Widened { mappings, causes } = std::mem::take(widened);
            let lane = Arc::clone(&self.lanes.lanes[lane]);
            let target = lane.target;
            let Some(segment) = slow_segment.clone() else { return Err(Closed) };
            let flush = Flush { mappings, causes, lane, segment, ticket, riders: riders.clone() };
            self.queues[target].flush.send(flush).map_err(|_| Closed)?;
        }
        Ok(())
    }

    fn segment(&self, span: CommitSpan, received: Instant, budget: Permit) -> Arc<Segment> {
        Arc::new(Segment {
            file: Arc::clone(&span.last.file),
            span,
            received,
            commit_micros: self.commit_micros,
            _budget: budget,
        })
    }

    /// Keys that come again later in the running transaction need not be removed again. Both removals of the segment at hand wait
    /// for its span, and the running transaction is part of that: its commit is as visible, and the grace as long over, at the
    /// second removal of this segment as it would be at that of a later one. Where the commit was seen visible before the first
    /// removal, nothing that comes later finds another value. With a fixed delay the same holds as far as the delay itself does:
    /// it counts from the first removal, and the commit is no later than the receipt of the transaction's beginning. Without a second
    /// removal nothing is gated by the commit: each is owed.
    #[cold]
    fn remember(&mut self) {
        for (way, open) in self.open.iter().enumerate() {
            if self.lanes.lanes[way % self.lanes.lanes.len()].second == SecondRemoval::Never {
                continue;
            }
            for removal in open.iter().flat_map(|open| open.keys.iter()) {
                self.handed.add(way, hash_key(removal.key), removal);
            }
        }
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
