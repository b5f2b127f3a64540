//! `rowbust run`: wires the parts together, lets them live, and ends them in order.
//!
//! Guarantees: nothing is read before Redis, the queue and the checkpoint are there; at SIGTERM reading stops first, what was read is
//! finished within a deadline ([`DRAIN`]), and the checkpoint is saved last. May depend on everything.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use rowbust_binlog::GtidState;
use tokio::sync::{mpsc, oneshot};

use crate::{
    admin::{self, Control, status::Status},
    checkpoint::{self, CheckpointError, Hold, Store},
    cli::Exit,
    config::{Config, Policy, Retry, SecondRemoval},
    coverage::Coverage,
    flush,
    invalidate::{
        self,
        classify::Class,
        refused,
        retrying::RetryRemover,
        target::{ConnectError, Target},
        worker,
    },
    journal::Journal,
    pipeline::{
        Assembler, Budget, Lanes,
        frontier::Frontier,
        refused::REFUSED_QUEUE,
        sink::{RouteSink, RouteStats},
    },
    published::{self, Keeper, pool::Pool},
    reload::{Next, Reloader},
    retry::{Queue, RetryError},
    route::Router,
    source::{
        self, Pause, Resume, Sink as _, Source, SourceError, SourceStats,
        connect::Connector,
        lease::{Lease, LeaseLost},
        position::Position,
        retention, start,
    },
    standby::{self, Turns},
    supervisor::{Shutdown, Signals, Supervisor, hangups, signals},
    telemetry::{self, Metrics},
    watermark::{Gate, Watermark},
};

/// How long a drain may take beyond the longest fill grace or fixed delay of the config, which the second removals that are owed have to
/// wait for.
pub const DRAIN: Duration = Duration::from_secs(15);

/// The most of it: nobody waits longer for a daemon to end. What isn't finished then is repeated at the next start.
const DRAIN_GRACE: Duration = Duration::from_secs(30);

/// The part of `limits.memory` that keys of prepared XA transactions may take.
const PREPARED_SHARE: u64 = 8;

/// What a new beginning waits for the tasks of the life before.
const ANEW_DRAIN: Duration = Duration::from_secs(5);

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Drained: nothing will be read again.
    Drained,
    /// Stopped by a signal, but not all was finished: the rest is repeated at the next start.
    Unfinished,
    /// A second signal.
    Interrupted,
}

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// A Redis target.
    #[error("{0}")]
    Redis(#[from] ConnectError),
    /// The checkpoint.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Another daemon has the lease. The command line never sees it: the daemon goes back to waiting.
    #[error("{0}")]
    Lease(#[from] LeaseLost),
    /// The retry queue.
    #[error("{0}")]
    Retry(#[from] RetryError),
    /// Anything else; the text says what to do.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl RunError {
    /// What the command line exits with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Source(error) => match error.exit_code() {
                69 => Exit::Unavailable,
                78 => Exit::Config,
                _ => Exit::Failure,
            },
            // An outage doesn't keep the daemon from starting: this is the login.
            Self::Redis(_) | Self::Retry(RetryError::Refused(_)) => Exit::Config,
            Self::Retry(RetryError::Unreachable { .. })
            | Self::Checkpoint(CheckpointError::Unavailable { .. }) => Exit::Unavailable,
            Self::Checkpoint(_) | Self::Lease(_) | Self::Retry(_) | Self::Other(_) => Exit::Failure,
        }
    }
}

/// How a daemon is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The config's file, which a reload reads again.
    pub path: PathBuf,
    /// Remove the keyspaces of mappings that the checkpoint doesn't cover: see [`crate::coverage`].
    pub flush_new: bool,
}

/// Follows, removes and serves until a signal or an error.
///
/// # Errors
/// See [`RunError`]; each says what to do.
pub async fn run(config: Config, options: Options) -> Result<End, RunError> {
    let mut config = Arc::new(config);
    let (next_sender, next) = mpsc::channel(1);
    let (reloader, reloads) = Reloader::new(&options.path, Arc::clone(&config), next_sender);
    let mut hangup = hangups().context("signals can't be listened for")?;
    let on_hangup = reloads.clone();
    // Both end with the runtime.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            on_hangup.ask();
        }
    });
    tokio::spawn(reloader.run());
    let control = Control { pause: Pause::default(), journal: Arc::new(Journal::default()), reloads };
    let mut process = Process {
        metrics: telemetry::install_metrics().context("metrics can't be set up")?,
        signals: signals().context("signals can't be listened for")?,
        stats: Arc::default(),
        published: Arc::default(),
        queue: None,
        fence: 0,
        admin: None,
        control: Arc::new(control),
        next,
        flush_new: options.flush_new,
        begun: None,
        running: false,
        epoch: 0,
        gap: None,
        out_of_reach: None,
    };
    // What is gone back to if a new config can't begin.
    let mut before: Option<Arc<Config>> = None;
    let mut turns = Turns::new(Arc::clone(&config), process.metrics.clone());
    let mut kept = None;
    loop {
        let mut lease = match kept.take() {
            Some(lease) => lease,
            None => match turns.next(&mut process.signals).await? {
                Some(lease) => lease,
                None => return Ok(End::Drained),
            },
        };
        process.running |= turns.has_waited();
        let ended = life(Arc::clone(&config), &mut process, &mut lease).await;
        let began = process.begun.take();
        let old = before.take();
        match ended {
            Err(over) if standby::is_over(&over) => {
                // The new config is in force, or begins with the next turn.
                if let Some(began) = began {
                    let _ = began.send(Ok(()));
                }
                process.close_queue().await;
                turns.ended(&over, &mut lease).await;
                lease.release().await;
                continue;
            }
            // It failed before it began: nothing was read with it. The reloader says it.
            Err(error) if began.is_some() => {
                kept = Some(lease);
                if let (Some(began), Some(old)) = (began, old) {
                    let _ = began.send(Err(error.to_string()));
                    config = old;
                    turns.reloaded(Arc::clone(&config));
                }
                process.flush_new = options.flush_new;
                continue;
            }
            Ok(Ended::Reload(Next { config: new, flush_new, begun })) => {
                kept = Some(lease);
                tracing::info!("beginning anew at the checkpoint with the new config");
                before = Some(std::mem::replace(&mut config, new));
                turns.reloaded(Arc::clone(&config));
                process.running = true;
                process.flush_new = flush_new || options.flush_new;
                process.begun = Some(begun);
                continue;
            }
            Err(RunError::Source(SourceError::OutOfReach(why))) => {
                kept = Some(lease);
                tracing::warn!(
                    why,
                    "the binlog no longer reaches back to what redis remembers: flushing instead"
                );
                process.running = true;
                process.out_of_reach = Some(why);
            }
            Err(RunError::Source(SourceError::Anew { why, gap })) => {
                kept = Some(lease);
                tracing::warn!(why, "beginning anew at the checkpoint");
                process.running = true;
                if gap {
                    process.gap = Some(Gap { what: why, epoch: process.epoch });
                }
            }
            Ok(Ended::End(End::Drained)) => {
                process.close_queue().await;
                // Only now: whoever takes over finds everything saved and free.
                lease.release().await;
                return Ok(End::Drained);
            }
            Ok(Ended::End(end)) => return Ok(end),
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = process.signals.next() => return Ok(End::Unfinished),
            () = tokio::time::sleep(ANEW_PAUSE) => {}
        }
    }
}

/// How a life ended.
enum Ended {
    End(End),
    /// Drained, for this.
    Reload(Next),
}

/// Between two lives.
const ANEW_PAUSE: Duration = Duration::from_millis(500);

/// What outlives a new beginning.
struct Process {
    metrics: PrometheusHandle,
    signals: Signals,
    stats: Arc<SourceStats>,
    published: Arc<published::Stats>,
    queue: Option<Arc<Queue>>,
    /// The highest that it has had.
    fence: u64,
    /// Serves from the first life of a turn on.
    admin: Option<admin::Server>,
    control: Arc<Control>,
    /// Configs to go on with.
    next: mpsc::Receiver<Next>,
    flush_new: bool,
    /// Waits for this life's beginning.
    begun: Option<oneshot::Sender<Result<(), String>>>,
    /// It is not the first beginning: what doesn't answer is waited for.
    running: bool,
    /// Of the checkpoint at the last beginning.
    epoch: u64,
    gap: Option<Gap>,
    /// The binlog doesn't reach back to the mark that was found in Redis.
    out_of_reach: Option<String>,
}

/// How long the tasks of a life may go on using the queue that they were ended with.
const QUEUE_CLOSES_WITHIN: Duration = Duration::from_secs(5);

impl Process {
    /// By a signal, while nothing is being read.
    fn ended(&self) -> End {
        if self.running { End::Unfinished } else { End::Drained }
    }

    /// Another daemon of this host may open it next.
    async fn close_queue(&mut self) {
        self.admin = None;
        let Some(mut queue) = self.queue.take() else { return };
        let until = tokio::time::Instant::now() + QUEUE_CLOSES_WITHIN;
        loop {
            match Arc::try_unwrap(queue) {
                Ok(queue) => return queue.close().await,
                Err(_) if tokio::time::Instant::now() > until => {
                    return tracing::warn!("the retry queue is still in use, it closes later");
                }
                Err(shared) => queue = shared,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What is known to be lost behind the checkpoint of an epoch. The next epoch has it behind itself.
struct Gap {
    what: String,
    epoch: u64,
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

/// From one beginning at the checkpoint to the next.
async fn life(config: Arc<Config>, process: &mut Process, lease: &mut Lease) -> Result<Ended, RunError> {
    let shutdown = Shutdown::default();

    let (store, found) = tokio::select! {
        taken = Store::take(&config, process.fence, process.running) => taken?,
        _ = process.signals.next() => return Ok(Ended::End(process.ended())),
    };
    process.fence = store.fence().max(process.fence);
    let epoch = found.as_ref().map_or(1, |(saved, _)| saved.epoch);
    process.epoch = epoch;
    process.gap.take_if(|gap| gap.epoch != epoch);
    let since = found.as_ref().map_or_else(source::now, |(saved, _)| saved.followed_since);
    let mut resume = match &found {
        None => None,
        Some((saved, generation)) => {
            if *generation == checkpoint::file::Generation::Previous {
                tracing::warn!(path = %store,
                    "newest checkpoint is torn or missing, resuming from the one before");
            }
            let position =
                checkpoint::position(saved).map_err(|why| anyhow::anyhow!("checkpoint {store}: {why}"))?;
            let gap = process.gap.as_ref().map(|gap| gap.what.clone());
            Some(Resume { anchor: saved.anchor, gap, since, ..Resume::new(position, saved.source.clone()) })
        }
    };
    let covered = found.as_ref().map_or(Some(&[][..]), |(saved, _)| saved.covered.as_deref());
    let coverage = Coverage::new(&config, covered);
    let flushed = process.flush_new && !coverage.new.is_empty();
    let uncovered = if flushed { Vec::new() } else { tables(&config, &coverage.new) };
    if flushed {
        check_flushable(&config, &coverage.new)?;
    }

    let source = Source::with_stats(Arc::clone(&config), Arc::clone(&process.stats))
        .running(process.running)
        .gated(lease.gate())
        .keeping(store.keeper())
        .pausing(process.control.pause.clone());
    let server = tokio::select! {
        found = source.preflight() => found?,
        _ = process.signals.next() => return Ok(Ended::End(process.ended())),
    };
    if found.is_none() && store.is_shared() {
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
        None => Arc::clone(process.queue.insert(Arc::new(open_queue(&config).await?))),
    };
    let targets = connect_targets(&config).await?;
    let saved = found.as_ref().map(|(saved, _)| saved);
    let lineage = saved.map(|saved| saved.lineage.clone()).filter(|name| !name.is_empty());
    let lineage = lineage.unwrap_or_else(published::new_lineage);
    let out_of_reach = process.out_of_reach.take();
    let survey = published::survey(&targets, saved, &lineage, out_of_reach, &process.published).await;
    let is_gap = resume.as_ref().is_some_and(|resume| resume.gap.is_some());
    let mut epoch = epoch;
    // A gap flushes everything anyway, and marks are written again when that is done.
    let mut from_epoch = if is_gap { epoch + 1 } else { 0 };
    if let Some(resume) = resume.as_mut().filter(|_| !is_gap) {
        if let Some(mark) = &survey.rewind {
            let position = mark.place().map_err(|why| anyhow::anyhow!("mark in redis: {why}"))?;
            *resume = Resume {
                anchor: mark.anchor,
                rewound: true,
                since,
                ..Resume::new(position, mark.source.clone())
            };
            epoch += 1;
        }
        if survey.forgotten.is_some() {
            resume.forgotten = survey.forgotten;
            from_epoch = epoch + 1;
        }
    }
    let anchor = resume.as_ref().and_then(|resume| resume.anchor);
    let watermark = Watermark::new(&config, &server);
    let metrics = Arc::new(Metrics::default());
    let frontier = Frontier::default();
    let budget = Budget::new(config.limits.memory);
    let route_stats = Arc::new(RouteStats::default());
    // Until the source says that it is another server now.
    let known = found.as_ref().map_or(&server.identity, |(saved, _)| &saved.source);
    let identity = checkpoint::Identity {
        flavor: server.flavor,
        source: known.clone(),
        epoch,
        lineage: lineage.clone(),
        since,
    };
    let (started, begins) = oneshot::channel();
    let hold = match (&config.retry, store.is_shared()) {
        // What this host's disk owes, a daemon of another host doesn't see.
        (Retry::Disk { .. }, true) => {
            let queue = Arc::clone(&queue);
            Hold::new(move || queue.stats().pending != Some(0))
        }
        _ => Hold::never(),
    };
    let may_stand = saved.map(|saved| saved.published.clone()).unwrap_or_default();
    let (writer, saved) =
        checkpoint::Writer::new(store, hold, identity, begins, anchor, frontier.clone(), may_stand);

    let mut supervisor = Supervisor::default();
    let mut queues = Vec::new();
    let (mut flushes, mut sweepers) = (Vec::new(), Vec::new());
    let mut watermarks = Vec::new();
    let lanes = Lanes::new(&config);
    for (at, target) in targets.iter().enumerate() {
        let gate = Arc::new(Gate::default());
        let visible = watermark.behind(Arc::clone(&gate));
        let pool = Pool::new(
            Arc::clone(target),
            gate,
            watermark.clone(),
            saved.clone(),
            &config.source.name,
            config.source.replica_timeout,
            Arc::clone(&process.published),
        );
        let stop = shutdown.all.clone();
        supervisor.spawn("pool", async move {
            pool.run(stop).await;
            Ok(())
        });
        let shared = Arc::new(worker::Shared {
            queue: Arc::clone(&queue),
            watermark: visible.clone(),
            metrics: Arc::clone(&metrics),
            journal: process.control.journal.target(target.name()),
            source: server.identity.clone(),
            epoch,
        });
        let started = invalidate::start(target, at, &config, &lanes, &shared, |name, task| {
            supervisor.spawn(name, async move {
                task.await;
                Ok(())
            });
        });
        queues.push(started.queues);
        flushes.push(started.flush);
        sweepers.push(started.sweeper);
        watermarks.push(visible);
        let (target, stop) = (Arc::clone(target), shutdown.all.clone());
        supervisor.spawn("redis probe", async move {
            target.heal(stop).await;
            Ok(())
        });
    }

    let status = Arc::new(Status {
        started: Instant::now(),
        config: Arc::clone(&config),
        server: server.clone(),
        source: source.stats(),
        route: Arc::clone(&route_stats),
        frontier: frontier.clone(),
        budget: budget.clone(),
        checkpoint: saved.clone(),
        queue: Arc::clone(&queue),
        targets: targets.clone(),
        flushes,
        sweeps: sweepers.iter().map(|sweeper| Arc::clone(&sweeper.stats)).collect(),
        watermark: watermark.clone(),
        published: Arc::clone(&process.published),
        metrics: process.metrics.clone(),
        control: Arc::clone(&process.control),
        uncovered: uncovered.clone(),
    });
    match &process.admin {
        Some(server) => server.hub.show(status),
        None => process.admin = Some(admin::Server::start(status).await?),
    }

    let keeper = Keeper {
        targets: targets.clone(),
        checkpoint: saved.clone(),
        frontier: frontier.clone(),
        queue: Arc::clone(&queue),
        lineage,
        name: config.source.name.clone(),
        from_epoch,
        expected: survey.expected,
        stats: Arc::clone(&process.published),
        told: Default::default(),
    };
    let stop = shutdown.all.clone();
    supervisor.spawn("marks", async move { keeper.run(stop).await.map_err(anyhow::Error::from) });

    let paced = lanes.is_paced(&config);
    let assembler = Assembler::new(lanes, queues, frontier.clone(), budget, paced)
        .journal(Arc::clone(&process.control.journal));
    say_coverage(&uncovered, &tables(&config, &coverage.new));
    let writer = writer.covering(if flushed { coverage.known.clone() } else { coverage.all() });
    let (letters, rows) = mpsc::channel(REFUSED_QUEUE);
    let filing = refused::run(rows, Arc::clone(&queue), server.identity.clone(), epoch);
    supervisor.spawn("refused rows", async move {
        filing.await;
        Ok(())
    });
    let mark = {
        let (saved, frontier, source) = (saved.clone(), frontier.clone(), source.stats());
        move || {
            let newest = saved.snapshot().saved?;
            let is_done = source.idle_for().is_some() && frontier.stats().open == 0;
            let commit_time =
                if newest.commit_time == 0 { newest.saved_at } else { newest.commit_time.into() };
            (!is_done).then_some(retention::Mark { file: newest.file, commit_time })
        }
    };
    let keeping = retention::watch(Connector::new(&config.source), mark, shutdown.all.clone());
    supervisor.spawn("retention", async move {
        keeping.await;
        Ok(())
    });
    let mut sink = RouteSink::new(
        Router::new(&config),
        assembler,
        watermark.clone(),
        route_stats,
        saved,
        started,
        usize::try_from(config.limits.memory / PREPARED_SHARE).unwrap_or(usize::MAX),
    )
    .with_letters(letters);
    if flushed {
        sink = sink.flushing(coverage.new, coverage.new_digests);
    }
    let reading = shutdown.reading.clone();
    supervisor.spawn("source", async move {
        source.run(resume, &mut sink, &reading, |_| {}).await?;
        // What was read and not handed on yet.
        sink.flush().await?;
        Ok(())
    });
    let (sampler, stop) = (watermark.clone(), shutdown.all.clone());
    supervisor.spawn("watermark", async move {
        sampler.run(stop).await;
        Ok(())
    });
    let (consumer, stop) = (Arc::clone(&queue), shutdown.all.clone());
    let remover = RetryRemover::new(&sweepers, watermarks, server.identity);
    let remover = Arc::new(remover.journal(Arc::clone(&process.control.journal)));
    supervisor.spawn("retry", async move { consumer.run(remover, stop).await.map_err(anyhow::Error::from) });
    let stop = shutdown.all.clone();
    supervisor.spawn("checkpoint", async move { writer.run(stop).await.map_err(anyhow::Error::from) });

    if let Some(begun) = process.begun.take() {
        // Who asked may have gone.
        let _ = begun.send(Ok(()));
    }

    let deadline = drain_deadline(&config);
    let mut next = None;
    let failure = tokio::select! {
        signal = process.signals.next() => {
            tracing::info!(signal, deadline_s = deadline.as_secs(), "draining: reading stops, what was read is finished");
            None
        }
        Some(new) = process.next.recv() => {
            tracing::info!(deadline_s = deadline.as_secs(), "new config: draining, what was read is finished with the old one");
            next = Some(new);
            None
        }
        () = frontier.lost() => Some(anyhow::anyhow!("a batch was dropped before it was acknowledged: the checkpoint holds before it")),
        failure = first_failure(&mut supervisor) => Some(failure),
        lost = lease.lost() => Some(lost.into()),
    };
    if failure.as_ref().is_some_and(standby::ends_turn) {
        // What is on its way may never be seen visible there. It is behind the checkpoint, or in the gap. Or another daemon repeats it.
        invalidate::TASKS.iter().for_each(|name| supervisor.abort(name));
        shutdown.reading.cancel();
        shutdown.all.cancel();
        let (unfinished, _) = tokio::select! {
            drained = supervisor.drain(ANEW_DRAIN) => drained,
            signal = process.signals.next() => {
                tracing::info!(signal, "not beginning anew: the rest is repeated at the next start");
                return Ok(Ended::End(End::Unfinished));
            }
        };
        if !unfinished.is_empty() {
            tracing::warn!(?unfinished, "tasks ended where they stood");
        }
    }
    let drained = tokio::select! {
        drained = drain(&mut supervisor, &shutdown, &frontier, failure.is_some(), deadline) => drained,
        signal = process.signals.next() => {
            tracing::warn!(signal, "second signal, not waiting: what isn't finished is repeated at the next start");
            return Ok(Ended::End(End::Interrupted));
        }
    };
    match failure {
        Some(error) => Err(match error.downcast::<SourceError>() {
            Ok(error) => RunError::Source(error),
            Err(error) => match error.downcast::<LeaseLost>() {
                Ok(lost) => RunError::Lease(lost),
                Err(error) => match error.downcast::<CheckpointError>() {
                    Ok(error) => RunError::Checkpoint(error),
                    Err(error) => RunError::Other(error),
                },
            },
        }),
        None => Ok(match next {
            // What isn't finished is read again.
            Some(next) => Ended::Reload(next),
            None if drained => Ended::End(End::Drained),
            None => Ended::End(End::Unfinished),
        }),
    }
}

/// The tables of mappings, as the config writes them.
fn tables(config: &Config, mappings: &[usize]) -> Vec<String> {
    let mut tables: Vec<String> = mappings
        .iter()
        .filter_map(|at| config.mappings.get(*at))
        .map(|mapping| mapping.table.clone())
        .collect();
    tables.dedup();
    tables
}

fn say_coverage(uncovered: &[String], new: &[String]) {
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

fn drain_deadline(config: &Config) -> Duration {
    let longest = config.mappings.iter().map(|mapping| match mapping.second_removal {
        SecondRemoval::Never => Duration::ZERO,
        SecondRemoval::After(delay) => delay,
        SecondRemoval::WhenVisible => mapping.fill_grace,
    });
    DRAIN + longest.max().unwrap_or_default().min(DRAIN_GRACE)
}

/// A task that fails takes others along, whose ends may be noticed before its own: so long its error is waited for.
const CAUSE_WITHIN: Duration = Duration::from_secs(2);

/// The first task that fails, or ends before it was asked to.
async fn first_failure(supervisor: &mut Supervisor) -> anyhow::Error {
    let mut ended = None;
    loop {
        let next = match ended {
            None => supervisor.next().await,
            Some(_) => tokio::time::timeout(CAUSE_WITHIN, supervisor.next()).await.unwrap_or(None),
        };
        match next {
            Some(Err(failure)) => {
                if standby::ends_turn(&failure.error) {
                    return failure.error;
                }
                tracing::error!(
                    task = failure.task,
                    error = format!("{:#}", failure.error),
                    "task failed, ending"
                );
                return failure.error;
            }
            Some(Ok(task)) => _ = ended.get_or_insert(task),
            None => {
                return anyhow::anyhow!("{} ended without being asked to", ended.unwrap_or("every task"));
            }
        }
    }
}

/// Tasks that end when reading has, and all that they had is settled.
fn is_owed(task: &str) -> bool {
    ["source", "refused rows"].contains(&task) || invalidate::TASKS.contains(&task)
}

/// Stops reading, waits until the rest is settled, then stops the rest. Says whether all finished.
async fn drain(
    supervisor: &mut Supervisor,
    shutdown: &Shutdown,
    frontier: &Frontier<crate::pipeline::Done>,
    failed: bool,
    deadline: Duration,
) -> bool {
    let until = tokio::time::Instant::now() + deadline;
    shutdown.reading.cancel();
    let settled = async {
        // A source that failed has read all that it will, too: what it read is finished in the same way.
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut workers_and_source = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                ended = supervisor.next() => match ended {
                    Some(Ok(name)) if is_owed(name) => workers_and_source += 1,
                    Some(Ok(_)) => {}
                    Some(Err(failure)) => tracing::error!(task = failure.task, error = format!("{:#}", failure.error), "task failed"),
                    None => return,
                },
            }
            let reading_ended = workers_and_source > 0 || failed;
            if reading_ended && frontier.stats().open == 0 {
                return;
            }
        }
    };
    let settled = tokio::time::timeout_at(until, settled).await.is_ok();
    shutdown.all.cancel();
    let rest = until.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(2));
    let (unfinished, failures) = supervisor.drain(rest).await;
    for failure in &failures {
        tracing::error!(task = failure.task, error = format!("{:#}", failure.error), "task failed");
    }
    if !unfinished.is_empty() || !settled {
        tracing::warn!(
            ?unfinished,
            segments = frontier.stats().open,
            "not drained: the rest is repeated at the next start"
        );
    }
    settled && unfinished.is_empty() && failures.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cause_is_named_and_not_what_it_took_along() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("worker", async { Ok(()) });
        supervisor.spawn("source", async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            anyhow::bail!("refused")
        });
        assert_eq!(first_failure(&mut supervisor).await.to_string(), "refused");
        let mut supervisor = Supervisor::default();
        supervisor.spawn("worker", async { Ok(()) });
        assert_eq!(first_failure(&mut supervisor).await.to_string(), "worker ended without being asked to");
    }
}
