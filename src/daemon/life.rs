//! One life: from a beginning at the checkpoint to the next, or to the end.
//!
//! Guarantees: every part runs as a named task of one supervisor, and none outlives the life; what is read is handed on only after the
//! beginning is complete. May depend on everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    End, Ended, Process, RunError,
    begin::{Beginning, say_coverage, tables},
    drain::{drain, drain_deadline, first_failure},
};
use crate::{
    admin::{self, status::Status},
    checkpoint::{self, CheckpointError, Hold, Watch},
    config::{Config, Retry},
    flush::FlushStats,
    invalidate::{self, refused, retrying::RetryRemover, sweep::Sweeper, target::Target, worker},
    pipeline::{
        Assembler, Budget, Done, Lanes, TargetQueues,
        frontier::Frontier,
        refused::REFUSED_QUEUE,
        sink::{RouteSink, RouteStats},
    },
    published::{Keeper, pool::Pool},
    reload::Next,
    retry::Queue,
    route::Router,
    source::{
        Sink as _, SourceError, SourceStats,
        connect::Connector,
        lease::{Lease, LeaseLost},
        retention,
    },
    standby,
    supervisor::{Shutdown, Supervisor},
    telemetry::Metrics,
    watermark::{Gate, Watermark},
};

/// The part of `limits.memory` that keys of prepared XA transactions may take.
const PREPARED_SHARE: u64 = 8;

/// What a new beginning waits for the tasks of the life before.
const ANEW_DRAIN: Duration = Duration::from_secs(5);

/// From one beginning at the checkpoint to the next.
pub(super) async fn life(
    config: Arc<Config>,
    process: &mut Process,
    lease: &mut Lease,
) -> Result<Ended, RunError> {
    let begun = match Beginning::find(&config, process, lease).await? {
        Ok(begun) => begun,
        Err(end) => return Ok(Ended::End(end)),
    };
    let shutdown = Shutdown::default();
    let mut parts = Parts { supervisor: Supervisor::default(), shutdown, frontier: Frontier::default() };
    parts.start(&config, process, begun).await?;
    if let Some(begun) = process.begun.take() {
        // Who asked may have gone.
        let _ = begun.send(Ok(()));
    }
    parts.live(&config, process, lease).await
}

/// What runs.
struct Parts {
    supervisor: Supervisor,
    shutdown: Shutdown,
    frontier: Frontier<Done>,
}

/// The parts of all targets, by target.
#[derive(Default)]
struct Targets {
    queues: Vec<TargetQueues>,
    flushes: Vec<Arc<FlushStats>>,
    sweepers: Vec<Arc<Sweeper>>,
    /// What gates second removals.
    watermarks: Vec<Watermark>,
}

/// What the parts of each target share.
struct Shared<'a> {
    config: &'a Config,
    process: &'a Process,
    queue: &'a Arc<Queue>,
    watermark: &'a Watermark,
    checkpoint: &'a Watch,
    metrics: Arc<Metrics>,
    lanes: &'a Lanes,
    source: &'a str,
    epoch: u64,
}

impl Parts {
    /// Starts everything; the source last but for what only looks on.
    async fn start(
        &mut self,
        config: &Arc<Config>,
        process: &mut Process,
        begun: Beginning,
    ) -> Result<(), RunError> {
        let Beginning { store, source, server, queue, targets, resume, epoch, marks, coverage, .. } = begun;
        let watermark = Watermark::new(config, &server);
        let budget = Budget::new(config.limits.memory);
        let route_stats = Arc::new(RouteStats::default());
        let identity = checkpoint::Identity {
            flavor: server.flavor,
            // Until the source says that it is another server now.
            source: begun.saved.as_ref().map_or(&server.identity, |saved| &saved.source).clone(),
            epoch,
            lineage: marks.lineage.clone(),
            since: begun.since,
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
        let anchor = resume.as_ref().and_then(|resume| resume.anchor);
        let mut may_stand = begun.saved.map(|saved| saved.published).unwrap_or_default();
        if marks.from_epoch <= epoch {
            // Before anything is removed: a server that has no mark yet is known by its run. Not where a flush for a loss is due, which is
            // begun again until it is done.
            may_stand = marks.expected.clone().into_iter().chain(may_stand).collect();
        }
        let (writer, saved) =
            checkpoint::Writer::new(store, hold, identity, begins, anchor, self.frontier.clone(), may_stand);

        let lanes = Lanes::new(config);
        let shared = Shared {
            config,
            process,
            queue: &queue,
            watermark: &watermark,
            checkpoint: &saved,
            metrics: Arc::default(),
            lanes: &lanes,
            source: &server.identity,
            epoch,
        };
        let Targets { queues, flushes, sweepers, watermarks } = self.start_targets(&targets, &shared);
        let status = Arc::new(Status {
            started: Instant::now(),
            config: Arc::clone(config),
            server: server.clone(),
            source: source.stats(),
            route: Arc::clone(&route_stats),
            frontier: self.frontier.clone(),
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
            uncovered: begun.uncovered.clone(),
        });
        process.systemd.following(Arc::clone(&status));
        match &process.admin {
            Some(server) => server.hub.show(status),
            None => process.admin = Some(admin::Server::start(status).await?),
        }

        let stop = || self.shutdown.all.clone();
        let keeper = Keeper {
            targets,
            checkpoint: saved.clone(),
            frontier: self.frontier.clone(),
            queue: Arc::clone(&queue),
            lineage: marks.lineage,
            name: config.source.name.clone(),
            from_epoch: marks.from_epoch,
            servers_leave: config.source.replica_timeout.is_some() && !config.source.replicas.is_empty(),
            expected: marks.expected,
            stats: Arc::clone(&process.published),
            told: Default::default(),
            told_at: Default::default(),
        };
        let keeping = keeper.run(stop());
        self.supervisor.spawn("marks", async { Ok(keeping.await?) });

        let paced = lanes.is_paced(config);
        let assembler = Assembler::new(lanes, queues, self.frontier.clone(), budget, paced)
            .journal(Arc::clone(&process.control.journal));
        say_coverage(&begun.uncovered, &tables(config, &coverage.new));
        let writer = writer.covering(if begun.flushed { coverage.known.clone() } else { coverage.all() });
        let (letters, rows) = mpsc::channel(REFUSED_QUEUE);
        let filing = refused::run(rows, Arc::clone(&queue), server.identity.clone(), epoch);
        self.supervisor.spawn_sure("refused rows", filing);
        let mark = retained(saved.clone(), self.frontier.clone(), source.stats());
        let keeping = retention::watch(Connector::new(&config.source), mark, stop());
        self.supervisor.spawn_sure("retention", keeping);
        let mut sink = RouteSink::new(
            Router::new(config),
            assembler,
            watermark.clone(),
            route_stats,
            saved,
            started,
            usize::try_from(config.limits.memory / PREPARED_SHARE).unwrap_or(usize::MAX),
        )
        .with_letters(letters);
        if begun.flushed {
            sink = sink.flushing(coverage.new, coverage.new_digests);
        }
        let reading = self.shutdown.reading.clone();
        self.supervisor.spawn("source", async move {
            source.run(resume, &mut sink, &reading, |_| {}).await?;
            // What was read and not handed on yet.
            sink.flush().await?;
            Ok(())
        });
        let sampling = stop();
        self.supervisor.spawn_sure("watermark", async move { watermark.run(sampling).await });
        let remover = RetryRemover::new(&sweepers, watermarks, server.identity);
        let remover = Arc::new(remover.journal(Arc::clone(&process.control.journal)));
        let consuming = stop();
        self.supervisor.spawn("retry", async move { Ok(queue.run(remover, consuming).await?) });
        let saving = writer.run(stop());
        self.supervisor.spawn("checkpoint", async { Ok(saving.await?) });
        Ok(())
    }

    fn start_targets(&mut self, targets: &[Arc<Target>], shared: &Shared<'_>) -> Targets {
        let Shared { config, process, .. } = shared;
        let mut all = Targets::default();
        for (at, target) in targets.iter().enumerate() {
            let gate = Arc::new(Gate::default());
            let visible = shared.watermark.behind(Arc::clone(&gate));
            let pool = Pool::new(
                Arc::clone(target),
                gate,
                shared.watermark.clone(),
                shared.checkpoint.clone(),
                &config.source.name,
                config.source.replica_timeout,
                Arc::clone(&process.published),
            );
            self.supervisor.spawn_sure("pool", pool.run(self.shutdown.all.clone()));
            let workers = Arc::new(worker::Shared {
                queue: Arc::clone(shared.queue),
                watermark: visible.clone(),
                metrics: Arc::clone(&shared.metrics),
                journal: process.control.journal.target(target.name()),
                source: shared.source.to_owned(),
                epoch: shared.epoch,
            });
            let started = invalidate::start(target, at, config, shared.lanes, &workers, |name, task| {
                self.supervisor.spawn_sure(name, task);
            });
            all.queues.push(started.queues);
            all.flushes.push(started.flush);
            all.sweepers.push(started.sweeper);
            all.watermarks.push(visible);
            let (target, stop) = (Arc::clone(target), self.shutdown.all.clone());
            self.supervisor.spawn_sure("redis probe", async move { target.heal(stop).await });
        }
        all
    }

    /// Until something ends it, and then to its end.
    async fn live(
        mut self,
        config: &Config,
        process: &mut Process,
        lease: &mut Lease,
    ) -> Result<Ended, RunError> {
        let deadline = drain_deadline(config);
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
            () = self.frontier.lost() => Some(anyhow::anyhow!("a batch was dropped before it was acknowledged: the checkpoint holds before it")),
            failure = first_failure(&mut self.supervisor) => Some(failure),
            lost = lease.lost() => Some(lost.into()),
        };
        if failure.as_ref().is_some_and(standby::ends_turn) {
            // What is on its way may never be seen visible there. It is behind the checkpoint, or in the gap. Or another daemon repeats it.
            invalidate::TASKS.iter().for_each(|name| self.supervisor.abort(name));
            self.shutdown.reading.cancel();
            self.shutdown.all.cancel();
            let (unfinished, _) = tokio::select! {
                drained = self.supervisor.drain(ANEW_DRAIN) => drained,
                signal = process.signals.next() => {
                    tracing::info!(signal, "not beginning anew: the rest is repeated at the next start");
                    return Ok(Ended::End(End::Unfinished));
                }
            };
            if !unfinished.is_empty() {
                tracing::warn!(?unfinished, "tasks ended where they stood");
            }
        }
        let ended = drain(&mut self.supervisor, &self.shutdown, &self.frontier, failure.is_some(), deadline);
        let drained = tokio::select! {
            drained = ended => drained,
            signal = process.signals.next() => {
                tracing::warn!(signal, "second signal, not waiting: what isn't finished is repeated at the next start");
                return Ok(Ended::End(End::Interrupted));
            }
        };
        match failure {
            Some(error) => Err(of_task(error)),
            None => Ok(ended_with(next, drained)),
        }
    }
}

fn ended_with(next: Option<Next>, drained: bool) -> Ended {
    match next {
        // What isn't finished is read again.
        Some(next) => Ended::Reload { next, drained },
        None if drained => Ended::End(End::Drained),
        None => Ended::End(End::Unfinished),
    }
}

/// What a task said, as an error of a kind that has its own exit code.
fn of_task(error: anyhow::Error) -> RunError {
    match error.downcast::<SourceError>() {
        Ok(error) => RunError::Source(error),
        Err(error) => match error.downcast::<LeaseLost>() {
            Ok(lost) => RunError::Lease(lost),
            Err(error) => match error.downcast::<CheckpointError>() {
                Ok(error) => RunError::Checkpoint(error),
                Err(error) => RunError::Other(error),
            },
        },
    }
}

/// What of the binlog is still needed; `None`: nothing.
fn retained(
    saved: Watch,
    frontier: Frontier<Done>,
    source: Arc<SourceStats>,
) -> impl Fn() -> Option<retention::Mark> {
    move || {
        let newest = saved.snapshot().saved?;
        let is_done = source.idle_for().is_some() && frontier.stats().open == 0;
        let commit_time = if newest.commit_time == 0 { newest.saved_at } else { newest.commit_time.into() };
        (!is_done).then_some(retention::Mark { file: newest.file, commit_time })
    }
}
