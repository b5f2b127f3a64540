//! What a life begins with: the checkpoint, the servers, and where reading is to begin.
//!
//! Guarantees: what stands here has changed nothing yet, but for the lock of the store; where Redis has forgotten removals, reading begins
//! at the mark that it remembers, or its keyspaces are to be flushed. May depend on everything that [`super::life`] wires.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rowbust_binlog::GtidState;

use super::{End, Process, RunError};
use crate::{
    checkpoint::{
        self, CheckpointError, Store,
        file::{Generation, Published, Saved},
    },
    config::{Config, Policy},
    coverage::Coverage,
    flush,
    invalidate::{
        classify::Class,
        target::{ConnectError, Target},
    },
    published::{self, Survey},
    retry::{Queue, RetryError},
    source::{self, Preflight, Resume, Source, lease::Lease, position::Position, start},
};

/// Where a life begins, and with whom.
pub(super) struct Beginning {
    pub store: Store,
    /// What the store had.
    pub saved: Option<Saved>,
    pub source: Source,
    pub server: Preflight,
    pub queue: Arc<Queue>,
    pub targets: Vec<Arc<Target>>,
    /// `None`: at `source.start`.
    pub resume: Option<Resume>,
    /// When following began, in Unix seconds.
    pub since: u32,
    pub epoch: u64,
    pub marks: Marks,
    pub coverage: Coverage,
    /// The keyspaces of new mappings are flushed.
    pub flushed: bool,
    /// Tables of new mappings that aren't.
    pub uncovered: Vec<String>,
}

/// For the [`published::Keeper`].
pub(super) struct Marks {
    pub lineage: String,
    /// No mark is written before this epoch.
    pub from_epoch: u64,
    pub expected: BTreeMap<String, Published>,
}

impl Beginning {
    /// `Ok(Err(_))`: a signal came first.
    pub(super) async fn find(
        config: &Arc<Config>,
        process: &mut Process,
        lease: &Lease,
    ) -> Result<Result<Self, End>, RunError> {
        let (store, found) = tokio::select! {
            taken = Store::take(config, process.fence, process.running) => taken?,
            _ = process.signals.next() => return Ok(Err(process.ended())),
        };
        process.fence = store.fence().max(process.fence);
        let epoch = found.as_ref().map_or(1, |(saved, _)| saved.epoch);
        process.epoch = epoch;
        process.gap.take_if(|gap| gap.epoch != epoch);
        let since = found.as_ref().map_or_else(source::now, |(saved, _)| saved.followed_since);
        let gap = process.gap.as_ref().map(|gap| gap.what.clone());
        let mut resume = match &found {
            None => None,
            Some((saved, generation)) => {
                if *generation == Generation::Previous {
                    tracing::warn!(path = %store,
                        "newest checkpoint is torn or missing, resuming from the one before");
                }
                let position = checkpoint::position(saved)
                    .map_err(|why| anyhow::anyhow!("checkpoint {store}: {why}"))?;
                Some(Resume {
                    anchor: saved.anchor,
                    gap,
                    since,
                    ..Resume::new(position, saved.source.clone())
                })
            }
        };
        let saved = found.map(|(saved, _)| saved);
        let covered = saved.as_ref().map_or(Some(&[][..]), |saved| saved.covered.as_deref());
        let coverage = Coverage::new(config, covered);
        let flushed = process.flush_new && !coverage.new.is_empty();
        let uncovered = if flushed { Vec::new() } else { tables(config, &coverage.new) };
        if flushed {
            check_flushable(config, &coverage.new)?;
        }

        let source = Source::with_stats(Arc::clone(config), Arc::clone(&process.stats))
            .running(process.running)
            .gated(lease.gate())
            .keeping(store.keeper())
            .pausing(process.control.pause.clone());
        let server = tokio::select! {
            found = source.preflight() => found?,
            _ = process.signals.next() => return Ok(Err(process.ended())),
        };
        if saved.is_none() && store.is_shared() {
            // On another host `source.start` would be a place behind what nobody has removed.
            if config.source.policies.on_gap != Policy::Flush {
                return Err(CheckpointError::Absent { place: store.to_string() }.into());
            }
            let position = Position { gtids: GtidState::empty(server.flavor), at: start::nowhere() };
            let gap = format!("checkpoint {store}: there is none, so nothing is known of what was done");
            resume = Some(Resume { gap: Some(gap), since, ..Resume::new(position, server.identity.clone()) });
        }
        let queue = match &process.queue {
            Some(queue) => Arc::clone(queue),
            None => Arc::clone(process.queue.insert(Arc::new(open_queue(config).await?))),
        };
        let targets = connect_targets(config).await?;

        let lineage = saved.as_ref().map(|saved| saved.lineage.clone()).filter(|name| !name.is_empty());
        let lineage = lineage.unwrap_or_else(published::new_lineage);
        let out_of_reach = process.out_of_reach.take();
        let survey =
            published::survey(&targets, saved.as_ref(), &lineage, out_of_reach, &process.published).await;
        let (epoch, from_epoch) = go_back(&mut resume, &survey, epoch)?;
        let marks = Marks { lineage, from_epoch, expected: survey.expected };
        Ok(Ok(Self {
            store,
            saved,
            source,
            server,
            queue,
            targets,
            resume,
            since,
            epoch,
            marks,
            coverage,
            flushed,
            uncovered,
        }))
    }
}

/// Redis has forgotten something: reading begins earlier, or a flush is due. Says the epoch, and the first one whose marks may be written.
fn go_back(resume: &mut Option<Resume>, survey: &Survey, epoch: u64) -> Result<(u64, u64), RunError> {
    let Some(resume) = resume else { return Ok((epoch, 0)) };
    // A gap flushes everything anyway, and marks are written again when that is done.
    if resume.gap.is_some() {
        return Ok((epoch, epoch + 1));
    }
    let mut epoch = epoch;
    if let Some(mark) = &survey.rewind {
        let position = mark.place().map_err(|why| anyhow::anyhow!("mark in redis: {why}"))?;
        let since = resume.since;
        *resume = Resume {
            anchor: mark.anchor,
            rewound: true,
            since,
            ..Resume::new(position, mark.source.clone())
        };
        epoch += 1;
    }
    resume.forgotten.clone_from(&survey.forgotten);
    Ok((epoch, if resume.forgotten.is_some() { epoch + 1 } else { 0 }))
}

/// Another daemon of this host that had it is ending.
const QUEUE_LOCKED_WITHIN: Duration = Duration::from_secs(5);

async fn open_queue(config: &Config) -> Result<Queue, RetryError> {
    let until = Instant::now() + QUEUE_LOCKED_WITHIN;
    loop {
        match Queue::open(&config.retry).await {
            Err(RetryError::Locked { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

/// Connects each target. One that can't be reached doesn't keep the daemon from starting (its removals are queued until it is back); one that refuses the
/// login does.
pub(crate) async fn connect_targets(config: &Config) -> Result<Vec<Arc<Target>>, RunError> {
    let mut targets = Vec::new();
    for redis in &config.redis {
        let target = Target::new(redis.clone());
        match target.connect().await {
            Ok(()) => {}
            Err(ConnectError::Redis { failure, host, port, .. })
                if failure.class == Class::Target && is_outage(&failure.code) =>
            {
                target.breaker.trip(&failure.code);
                tracing::warn!(target = target.name(), host, port, %failure,
                    "redis target can't be used yet: removals go to the retry queue until it can");
            }
            Err(error) => return Err(error.into()),
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Heals without anybody's doing, unlike a wrong password.
fn is_outage(code: &str) -> bool {
    !matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM" | "PROTOCOL")
}

/// The tables of mappings, as the config writes them.
pub(super) fn tables(config: &Config, mappings: &[usize]) -> Vec<String> {
    let mut tables: Vec<String> = mappings
        .iter()
        .filter_map(|at| config.mappings.get(*at))
        .map(|mapping| mapping.table.clone())
        .collect();
    tables.dedup();
    tables
}

pub(super) fn say_coverage(uncovered: &[String], new: &[String]) {
    if !uncovered.is_empty() {
        tracing::warn!(
            tables = ?uncovered,
            "new mappings: keys cached before now were never covered and may be stale; remove them with `rowbust flush --table TABLE`, or start with --flush-new"
        );
    } else if !new.is_empty() {
        tracing::warn!(tables = ?new, "new mappings: removing every key that they could make");
    }
}

/// Refuses mappings whose keyspace is bounded by nothing.
fn check_flushable(config: &Config, mappings: &[usize]) -> Result<(), RunError> {
    let endless = mappings
        .iter()
        .filter_map(|at| config.mappings.get(*at))
        .find_map(|mapping| flush::unflushable(mapping).map(|rule| (mapping, rule)));
    match endless {
        None => Ok(()),
        Some((mapping, rule)) => Err(RunError::Other(anyhow::anyhow!(
            "--flush-new: the keys of {} can't be flushed, for `{}` (line {}) begins with a column and may be any key; begin it with a \
             text of its own, or remove its keys by hand and start without --flush-new",
            mapping.table,
            rule.key.source(),
            rule.line
        ))),
    }
}
