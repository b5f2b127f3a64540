//! The state of a running daemon, as JSON and as metrics.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};

use super::control::{Control, held_json};
use crate::{
    checkpoint,
    config::Config,
    flush::FlushStats,
    invalidate::{
        sweep::SweepStats,
        target::{ServerState, Target},
    },
    pipeline::{Budget, Done, frontier::Frontier, sink::RouteStats},
    published,
    retry::Queue,
    source::{Preflight, SourceStats, policy::Cause},
    telemetry::{self as t, set_counter, set_gauge, target_counter, target_gauge},
    watermark::{Watermark, Witness},
};

/// A stream that has had nothing ready for so long is taken for caught up: events in transit come sooner.
const CAUGHT_UP: Duration = Duration::from_millis(30);

/// Handles to the state of every part.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is a part's own handle")]
pub struct Status {
    pub started: Instant,
    pub config: Arc<Config>,
    pub server: Preflight,
    pub source: Arc<SourceStats>,
    pub route: Arc<RouteStats>,
    pub frontier: Frontier<Done>,
    pub budget: Budget,
    pub checkpoint: checkpoint::Watch,
    pub queue: Arc<Queue>,
    pub targets: Vec<Arc<Target>>,
    /// By target.
    pub flushes: Vec<Arc<FlushStats>>,
    /// By target.
    pub sweeps: Vec<Arc<SweepStats>>,
    pub watermark: Watermark,
    pub published: Arc<published::Stats>,
    pub metrics: PrometheusHandle,
    pub control: Arc<Control>,
    /// Tables of mappings that the checkpoint didn't cover, and that weren't flushed.
    pub uncovered: Vec<String>,
}

impl Status {
    /// Why the daemon isn't doing its work at the moment; `None`: it is.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(held) = self.control.pause.held() {
            return Some(format!(
                "paused for {} s: `rowbust resume` goes on",
                held.since.elapsed().as_secs()
            ));
        }
        if !self.source.is_connected() {
            return Some("the source is not connected".into());
        }
        if self.checkpoint.snapshot().saved.is_none() {
            return Some("no checkpoint is saved yet".into());
        }
        None
    }

    /// Whether everything that was read is done and checkpointed, and the source has nothing newer.
    pub fn caught_up(&self) -> bool {
        self.source.idle_for().is_some_and(|idle| idle >= CAUGHT_UP)
            && self.frontier.stats().open == 0
            && !self.frontier.stats().undrained
            && !self.checkpoint.snapshot().behind
    }

    /// Age of the newest event; 0 when the source has nothing newer.
    pub fn lag_seconds(&self) -> f64 {
        match (self.source.idle_for(), self.source.last_timestamp()) {
            (Some(idle), _) if idle >= CAUGHT_UP => 0.0,
            (_, 0) => 0.0,
            (_, newest) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.saturating_sub(Duration::from_secs(newest)).as_secs_f64()
            }
        }
    }

    /// What `/status` answers. Fields are only ever added within a `schema_version`.
    pub fn json(&self) -> Value {
        let checkpoint = self.checkpoint.snapshot();
        let queue = self.queue.stats();
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                let since = target.breaker.since();
                let removed = self.control.journal.target(target.name()).counts();
                json!({
                    "name": target.name(),
                    "removed": { "first": removed.first, "last": removed.last, "queued": removed.queued, "retried": removed.retried },
                    "breaker": if since.is_some() { "open" } else { "closed" },
                    "open_seconds": since.as_ref().map(|(at, _)| at.elapsed().as_secs_f64()),
                    "error": since.map(|(_, code)| code),
                    "times_opened": target.breaker.times_opened(),
                    "servers": servers_json(target),
                })
            })
            .collect();
        json!({
            "schema_version": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "state": "active",
            "ready": self.not_ready().is_none(),
            "not_ready": self.not_ready(),
            "pause": held_json(self.control.pause.held()),
            "config": {
                "reloads": self.control.reloads.done(),
                "reload_failures": self.control.reloads.failed(),
                "last_reload": self.control.reloads.last().map(|(at_ms, outcome)| json!({ "at_ms": at_ms, "outcome": outcome.json() })),
                "uncovered": self.uncovered,
            },
            "caught_up": self.caught_up(),
            "lag_seconds": self.lag_seconds(),
            "witness": self.watermark.witness().to_string(),
            "visibility": self.watermark.status().iter().map(|server| json!({
                "server": server.address,
                "witness": server.witness.to_string(),
                "sample_age_seconds": server.age.map(|age| age.as_secs_f64()),
                "failures": server.failures,
                "delays": server.delays,
                "held_seconds": server.held.as_secs_f64(),
            })).collect::<Vec<_>>(),
            "source": {
                "flavor": self.server.flavor.to_string(),
                "version": self.server.version,
                "identity": self.server.identity,
                "connected": self.source.is_connected(),
                "reconnects": self.source.reconnects(),
                "events": self.source.events(),
                "transactions": self.source.transactions(),
                "gaps": self.source.gaps(),
                "changes": self.source.server_changes(),
                "widened": Cause::ALL.iter()
                    .map(|cause| (cause.as_str().to_owned(), self.source.widened(*cause).into()))
                    .collect::<serde_json::Map<_, _>>(),
                "xa_prepared": self.source.prepared(),
            },
            "rows": self.route.rows.load(Relaxed),
            "keys": {
                "routed": self.route.keys.load(Relaxed),
                "null": self.route.null.load(Relaxed),
                "filtered": self.route.filtered.load(Relaxed),
                "escaped": self.route.escaped.load(Relaxed),
            },
            "frontier": { "open_segments": self.frontier.stats().open },
            "in_flight_bytes": self.budget.used(),
            "in_flight_limit_bytes": self.budget.total(),
            "checkpoint": checkpoint.saved.as_ref().map(|saved| json!({
                "generation": saved.generation,
                "epoch": saved.epoch,
                "gtids": saved.gtids,
                "file": saved.file,
                "position": saved.position,
                "behind": checkpoint.behind,
                "fence": saved.fence,
                "held_by_queue": checkpoint.held,
                "age_seconds": checkpoint.at.map(|at| at.elapsed().as_secs_f64()),
                "saves": checkpoint.saves,
                "failures": checkpoint.failures,
            })),
            "queue": {
                "pending": queue.pending,
                "oldest_seconds": queue.oldest_age.map(|age| age.as_secs_f64()),
                "dead_letters": queue.letters,
                "dead": queue.dead,
                "poison": queue.poison,
                "requeued": queue.requeued,
                "dropped": queue.dropped,
                "parked": queue.parked,
            },
            "targets": targets,
            "marks": {
                "rewinds": self.published.rewinds(),
                "flushes": self.published.flushes(),
                "evicted": self.published.evicted(),
                "targets": self.published.targets().iter().map(|(name, state)| json!({
                    "name": name,
                    "frontier": state.frontier.as_ref().map(|mark| json!({
                        "gtids": mark.gtids, "file": mark.file, "position": mark.position,
                    })),
                    "lag_seconds": state.lag(checkpoint.saved.as_ref()).map(|lag| lag.as_secs_f64()),
                    "error": state.failure,
                    "sees_restarts": !state.blind,
                    "pool": state.pool,
                })).collect::<Vec<_>>(),
            },
            "flush": self.targets.iter().zip(&self.flushes).map(|(target, flush)| flush_json(target.name(), flush)).collect::<Vec<_>>(),
            "sweep": self.targets.iter().zip(&self.sweeps).map(|(target, sweep)| sweep_json(target.name(), sweep)).collect::<Vec<_>>(),
        })
    }

    /// Brings the gauges, and the counters that are kept elsewhere, up to date.
    pub fn refresh_metrics(&self) {
        #[allow(clippy::cast_precision_loss, reason = "gauges are doubles")]
        let f = |n: u64| n as f64;
        let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
        set_counter(t::EVENTS, self.source.events());
        set_counter(t::BYTES, self.source.bytes());
        set_counter(t::TRANSACTIONS, self.source.transactions());
        set_counter(t::RECONNECTS, self.source.reconnects());
        set_counter(t::HEARTBEATS, self.source.heartbeats());
        set_counter(t::IGNORED_EVENTS, self.source.ignored_events());
        set_counter(t::CLASHES, self.source.clashes());
        set_counter(t::GAPS, self.source.gaps());
        set_counter(t::SERVER_CHANGES, self.source.server_changes());
        for cause in Cause::ALL {
            metrics::counter!(t::WIDENED, "cause" => cause.as_str()).absolute(self.source.widened(cause));
        }
        set_counter(t::UNKNOWN_STATEMENTS, self.source.unknown_statements());
        set_counter(t::SCHEMA_MISMATCHES, self.source.schema_mismatches());
        set_gauge(t::XA_PREPARED, f(self.source.prepared()));
        set_counter(t::ROWS, self.route.rows.load(Relaxed));
        set_counter(t::KEYS_ROUTED, self.route.keys.load(Relaxed));
        for (reason, count) in [("null", &self.route.null), ("filtered", &self.route.filtered)] {
            metrics::counter!(t::KEYS_SKIPPED, "reason" => reason).absolute(count.load(Relaxed));
        }
        set_gauge(t::CONNECTED, flag(self.source.is_connected()));
        set_gauge(t::LAG, self.lag_seconds());
        set_gauge(t::IN_FLIGHT, f(self.budget.used() as u64));
        set_gauge(t::SEGMENTS_OPEN, f(self.frontier.stats().open as u64));
        let checkpoint = self.checkpoint.snapshot();
        let age = checkpoint.at.filter(|_| checkpoint.behind).map_or(0.0, |at| at.elapsed().as_secs_f64());
        set_gauge(t::CHECKPOINT_AGE, age);
        set_counter(t::CHECKPOINT_SAVES, checkpoint.saves);
        set_counter(t::CHECKPOINT_FAILURES, checkpoint.failures);
        for target in &self.targets {
            target_gauge(t::BREAKER_OPEN, target.name()).set(flag(target.breaker.is_open()));
            target_counter(t::BREAKER_OPENED, target.name()).absolute(target.breaker.times_opened());
            let failing = target.servers().iter().filter(|server| server.error.is_some()).count();
            target_gauge(t::SERVERS_FAILING, target.name()).set(f(failing as u64));
            // There from the start: a series that begins above zero is no increase to an alert.
            for name in [t::COMMANDS, t::KEYS_QUEUED, t::QUEUE_REFUSED] {
                target_counter(name, target.name()).increment(0);
            }
        }
        set_counter(t::REWINDS, self.published.rewinds());
        set_counter(t::MEMORY_FLUSHES, self.published.flushes());
        set_counter(t::MARKS_EVICTED, self.published.evicted());
        for (name, state) in self.published.targets() {
            if let Some(lag) = state.lag(checkpoint.saved.as_ref()) {
                target_gauge(t::FRONTIER_LAG, &name).set(lag.as_secs_f64());
            }
            target_gauge(t::POOL_MEMBERS, &name).set(f(state.pool.len() as u64));
            target_gauge(t::MARK_FAILING, &name).set(flag(state.failure.is_some()));
        }
        let queue = self.queue.stats();
        if let Some(pending) = queue.pending {
            set_gauge(t::QUEUE_PENDING, f(pending));
        }
        set_gauge(t::QUEUE_OLDEST, queue.oldest_age.map_or(0.0, |age| age.as_secs_f64()));
        if let Some(letters) = queue.letters {
            set_gauge(t::DEAD_LETTERS_NOW, f(letters));
        }
        set_counter(t::QUEUE_REMOVED, queue.acked);
        set_counter(t::QUEUE_FORWARDED, queue.forwarded);
        set_counter(t::QUEUE_PARKED, queue.parked);
        set_counter(t::QUEUE_REQUEUED, queue.requeued);
        set_counter(t::QUEUE_DROPPED, queue.dropped);
        set_counter(t::DEAD_LETTERS, queue.dead);
        set_counter(t::POISON, queue.poison);
        for (target, flush) in self.targets.iter().zip(&self.flushes) {
            let (snapshot, (removed, scanned)) = (flush.snapshot(), flush.counts());
            target_gauge(t::FLUSH_RUNNING, target.name()).set(flag(snapshot.running.is_some()));
            target_gauge(t::FLUSH_WAITING, target.name()).set(f(snapshot.waiting as u64));
            target_counter(t::FLUSH_REMOVED, target.name()).absolute(removed);
            target_counter(t::FLUSH_SCANNED, target.name()).absolute(scanned);
            for (cause, (started, finished)) in snapshot.totals {
                let counter = |name: &'static str| metrics::counter!(name, "target" => target.name().to_owned(), "cause" => cause.clone());
                counter(t::FLUSH_STARTED).absolute(started);
                counter(t::FLUSH_FINISHED).absolute(finished);
            }
        }
        for (target, sweep) in self.targets.iter().zip(&self.sweeps) {
            let gauges = [(t::SWEEP_RUNNING, &sweep.running), (t::SWEEP_WAITING, &sweep.waiting)];
            for (name, now) in gauges {
                target_gauge(name, target.name()).set(f(now.load(Relaxed) as u64));
            }
            for (name, total) in [
                (t::SWEEP_REMOVED, &sweep.removed),
                (t::SWEEP_SCANNED, &sweep.scanned),
                (t::SWEEP_PASSES, &sweep.passes),
                (t::SWEEP_SETS, &sweep.sets),
                (t::PREFIX_ALARMS, &sweep.alarms),
                (t::MEMBERS_LEFT, &sweep.left),
                (t::NO_SETS, &sweep.no_sets),
            ] {
                target_counter(name, target.name()).absolute(total.load(Relaxed));
            }
        }
        for server in self.watermark.status() {
            metrics::counter!(t::VISIBILITY_DELAYS, "server" => server.address.clone())
                .absolute(server.delays);
            metrics::gauge!(t::VISIBILITY_HELD, "server" => server.address.clone())
                .set(server.held.as_secs_f64());
            if let Some(age) = server.age {
                metrics::gauge!(t::VISIBILITY_AGE, "server" => server.address).set(age.as_secs_f64());
            }
        }
        set_gauge(t::PAUSED, flag(self.control.pause.is_held()));
        set_counter(t::RELOADS, self.control.reloads.done());
        set_counter(t::RELOAD_FAILURES, self.control.reloads.failed());
        set_gauge(t::WITNESS_DELAY, flag(self.watermark.witness() == Witness::Delay));
    }
}

fn sweep_json(target: &str, sweep: &SweepStats) -> Value {
    json!({
        "target": target,
        "removed": sweep.removed.load(Relaxed),
        "scanned": sweep.scanned.load(Relaxed),
        "passes": sweep.passes.load(Relaxed),
        "sets": sweep.sets.load(Relaxed),
        "alarms": sweep.alarms.load(Relaxed),
        "members_left": sweep.left.load(Relaxed),
        "no_sets": sweep.no_sets.load(Relaxed),
        "running": sweep.running.load(Relaxed),
        "waiting": sweep.waiting.load(Relaxed),
    })
}

/// The server, or a cluster's masters, each with its own breaker.
fn servers_json(target: &Target) -> Value {
    let server =
        |server: &ServerState| json!({ "host": server.host, "port": server.port, "error": server.error });
    target.servers().iter().map(server).collect()
}

fn flush_json(target: &str, flush: &FlushStats) -> Value {
    let (snapshot, (removed, scanned)) = (flush.snapshot(), flush.counts());
    json!({
        "target": target,
        "removed": removed,
        "scanned": scanned,
        "waiting": snapshot.waiting,
        "running": snapshot.running.map(|running| json!({
            "tables": running.tables,
            "causes": running.causes,
            "seconds": running.since.elapsed().as_secs_f64(),
            "removed": removed.saturating_sub(running.removed_before),
            "scanned": scanned.saturating_sub(running.scanned_before),
            "to_scan": running.to_scan,
            "held_by": running.held_by,
        })),
        "causes": snapshot.totals.iter().map(|(cause, (started, finished))| {
            (cause.clone(), json!({ "started": started, "finished": finished }))
        }).collect::<serde_json::Map<_, _>>(),
    })
}
