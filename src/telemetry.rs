//! Metrics, declared once with kind, unit and labels; and the log's set-up.
//!
//! Guarantees: every metric that the daemon emits stands in [`METRICS`] (a test renders them all); no key and no value of a row is
//! ever a label. Units are base units, counters end in `_total`. May depend on `pipeline` types for what it counts.

use std::{
    io::IsTerminal,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::pipeline::Batch;

/// What kind of series a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets in seconds.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! metrics_table {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// Every metric there is.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name, kind: Kind::$kind, unit: Unit::$unit, labels: &[$($label),*], help: $help,
        }),*];
    };
}

metrics_table! {
    EVENTS = "rowbust_binlog_events_total", Counter, Count, [], "Binlog events read";
    BYTES = "rowbust_binlog_bytes_total", Counter, Bytes, [], "Bytes of binlog events read";
    TRANSACTIONS = "rowbust_transactions_total", Counter, Count, [], "Transactions read to their end";
    ROWS = "rowbust_rows_total", Counter, Count, [], "Rows of mapped tables read";
    KEYS_ROUTED = "rowbust_keys_routed_total", Counter, Count, [], "Keys made from rows, duplicates included";
    KEYS_SKIPPED = "rowbust_keys_skipped_total", Counter, Count, ["reason"], "Keys that a mapping makes none of for a row: null column, unmet condition, unchanged columns";
    KEYS_REMOVED = "rowbust_keys_removed_total", Counter, Count, ["target", "removal"], "Keys that Redis acknowledged, by first and second removal";
    COMMANDS = "rowbust_redis_commands_total", Counter, Count, ["target"], "Removal commands sent";
    KEYS_QUEUED = "rowbust_keys_queued_total", Counter, Count, ["target"], "Removals handed to the retry queue and acknowledged by it";
    QUEUE_REFUSED = "rowbust_queue_refused_total", Counter, Count, ["target"], "Times that the retry queue refused removals: they are held";
    COMMIT_TO_REMOVAL = "rowbust_commit_to_removal_seconds", Histogram, Seconds, ["removal"], "From the commit, by the server's clock, to the acknowledged removal; MariaDB logs whole seconds only";
    RECEIPT_TO_REMOVAL = "rowbust_receipt_to_removal_seconds", Histogram, Seconds, ["removal"], "From the receipt of the row to the acknowledged removal";
    RECONNECTS = "rowbust_source_reconnects_total", Counter, Count, [], "Connections to the source that were made anew";
    HEARTBEATS = "rowbust_source_heartbeats_total", Counter, Count, [], "Heartbeats of the source";
    IGNORED_EVENTS = "rowbust_binlog_ignored_events_total", Counter, Count, [], "Unknown events that say of themselves that they may be ignored; each type is logged once";
    CLASHES = "rowbust_source_clashes_total", Counter, Count, [], "Times that another replica with the same server_id took the connection over";
    GAPS = "rowbust_gaps_total", Counter, Count, [], "Times that the binlog behind the checkpoint was gone, or another one";
    SERVER_CHANGES = "rowbust_source_changes_total", Counter, Count, [], "Times that another server answered that has everything which was read";
    WIDENED = "rowbust_widened_total", Counter, Count, ["cause"], "Times that every key of some tables was to be removed, as no row image told which";
    UNKNOWN_STATEMENTS = "rowbust_unknown_statements_total", Counter, Count, [], "Statements outside of transactions that weren't understood";
    SCHEMA_MISMATCHES = "rowbust_schema_mismatches_total", Counter, Count, [], "Versions of tables that don't fit their mappings, or whose columns aren't known for sure";
    XA_PREPARED = "rowbust_xa_prepared", Gauge, Count, [], "XA transactions that are prepared and not finished: the checkpoint waits for the oldest";
    LAG = "rowbust_lag_seconds", Gauge, Seconds, [], "Age of the newest event that was read; 0 when the source has nothing newer";
    CONNECTED = "rowbust_source_connected", Gauge, Count, [], "1 while the binlog is read";
    IN_FLIGHT = "rowbust_in_flight_bytes", Gauge, Bytes, [], "Bytes of keys in flight";
    SEGMENTS_OPEN = "rowbust_frontier_open_segments", Gauge, Count, [], "Segments that are read and not done";
    CHECKPOINT_AGE = "rowbust_checkpoint_age_seconds", Gauge, Seconds, [], "Time since the last saved checkpoint while something is behind it; 0 when all is saved";
    CHECKPOINT_SAVES = "rowbust_checkpoint_saves_total", Counter, Count, [], "Checkpoints saved";
    CHECKPOINT_FAILURES = "rowbust_checkpoint_failures_total", Counter, Count, [], "Checkpoints that couldn't be saved";
    CHECKPOINT_FENCED = "rowbust_checkpoint_fenced_total", Counter, Count, [], "Checkpoints that a shared store refused because another daemon had taken over";
    ACTIVE = "rowbust_active", Gauge, Count, [], "1 while this daemon is the active one, 0 while it stands by";
    TAKEOVERS = "rowbust_takeovers_total", Counter, Count, [], "Times that this daemon became the active one, its start included";
    BREAKER_OPEN = "rowbust_breaker_open", Gauge, Count, ["target"], "1 while the target fails and removals go straight to the queue";
    REDIRECTS = "rowbust_redis_redirects_total", Counter, Count, ["target", "code"], "Removals that a cluster sent elsewhere: MOVED, ASK, TRYAGAIN";
    SERVERS_FAILING = "rowbust_redis_servers_failing", Gauge, Count, ["target"], "Masters of the target whose removals go to the queue: of a cluster some may fail while its breaker is closed";
    BREAKER_OPENED = "rowbust_breaker_opened_total", Counter, Count, ["target"], "Times that the breaker opened";
    REWINDS = "rowbust_rewinds_total", Counter, Count, [], "Times that the binlog was read again from an earlier place, as Redis may have forgotten removals";
    MEMORY_FLUSHES = "rowbust_memory_flushes_total", Counter, Count, [], "Times that mapped keyspaces were flushed, as Redis had forgotten nobody knows how much";
    MARKS_EVICTED = "rowbust_marks_evicted_total", Counter, Count, [], "Times that Redis evicted the mark by which its memory is checked";
    MARK_FAILING = "rowbust_mark_failing", Gauge, Count, ["target"], "1 while a target's mark can't be read or written: a loss of its memory goes unseen";
    FRONTIER_LAG = "rowbust_frontier_lag_seconds", Gauge, Seconds, ["target"], "How long ago everything was done that Redis is known to have acknowledged; 0 when that is all. What a loss of Redis' memory would repeat";
    RETENTION = "rowbust_binlog_retention_seconds", Gauge, Seconds, [], "How long the server keeps a binlog file after its last write; +Inf without a retention";
    RETENTION_LEFT = "rowbust_binlog_retention_left_seconds", Gauge, Seconds, [], "How long the server keeps the binlog behind the checkpoint at least; all of its retention while nothing is behind it, +Inf without a retention";
    QUEUE_PENDING = "rowbust_queue_pending", Gauge, Count, [], "Removals in the retry queue";
    QUEUE_OLDEST = "rowbust_queue_oldest_seconds", Gauge, Seconds, [], "Age of the oldest of them";
    DEAD_LETTERS_NOW = "rowbust_dead_letters", Gauge, Count, [], "Dead letters that are there now: removals that somebody has to look at";
    QUEUE_REMOVED = "rowbust_queue_removed_total", Counter, Count, [], "Removals that left the queue because they worked";
    QUEUE_FORWARDED = "rowbust_queue_forwarded_total", Counter, Count, [], "Removals that were filed again for their next attempt";
    QUEUE_PARKED = "rowbust_queue_parked_total", Counter, Count, [], "Kafka: removals of a target that is down that were filed again, so that others behind them are reached";
    QUEUE_REQUEUED = "rowbust_queue_requeued_total", Counter, Count, [], "Dead letters that were sent back";
    QUEUE_DROPPED = "rowbust_queue_dropped_total", Counter, Count, [], "Dead letters that were dropped";
    DEAD_LETTERS = "rowbust_dead_letters_total", Counter, Count, [], "Removals that were given up since the start: see `rowbust retry ls --dead`";
    POISON = "rowbust_queue_poison_total", Counter, Count, [], "Records of the queue that couldn't be read";
    WRONG_TYPE = "rowbust_wrong_type_total", Counter, Count, ["target"], "Keys that were no hash when a field of them was to be removed: removed whole";
    FLUSH_RUNNING = "rowbust_flush_running", Gauge, Count, ["target"], "1 while mapped keyspaces are flushed";
    FLUSH_WAITING = "rowbust_flush_waiting", Gauge, Count, ["target"], "Flushes that wait for their first or second pass";
    FLUSH_REMOVED = "rowbust_flush_keys_removed_total", Counter, Count, ["target"], "Keys and hash fields removed by flushes";
    FLUSH_SCANNED = "rowbust_flush_keys_scanned_total", Counter, Count, ["target"], "Keys that flushes looked at, by the COUNT of their SCANs";
    FLUSH_STARTED = "rowbust_flush_started_total", Counter, Count, ["target", "cause"], "Flushes asked for";
    FLUSH_FINISHED = "rowbust_flush_finished_total", Counter, Count, ["target", "cause"], "Flushes done, second pass included";
    SWEEP_RUNNING = "rowbust_sweep_running", Gauge, Count, ["target"], "Sweeps of `prefix` and `members_of` that run";
    SWEEP_WAITING = "rowbust_sweep_waiting", Gauge, Count, ["target"], "Prefixes and sets that wait for their first or second removal";
    SWEEP_REMOVED = "rowbust_sweep_keys_removed_total", Counter, Count, ["target"], "Keys removed by `prefix` and `members_of`";
    SWEEP_SCANNED = "rowbust_sweep_keys_scanned_total", Counter, Count, ["target"], "Keys and members that sweeps looked at, by the COUNT of their SCANs";
    SWEEP_PASSES = "rowbust_sweep_passes_total", Counter, Count, ["target"], "Iterations over all keys for `prefix`; one serves all that wait";
    SWEEP_SETS = "rowbust_sweep_sets_total", Counter, Count, ["target"], "Sets that were gone through for `members_of`";
    PREFIX_ALARMS = "rowbust_prefix_alarms_total", Counter, Count, ["target"], "Times that more keys than `alarm_above` began with one prefix; all were removed";
    MEMBERS_LEFT = "rowbust_members_left_total", Counter, Count, ["target"], "Members that stayed, as they begin with none of `members_prefix`";
    NO_SETS = "rowbust_members_of_no_set_total", Counter, Count, ["target"], "Keys of `members_of` that were no sets, and were removed as they are";
    VISIBILITY_DELAYS = "rowbust_visibility_delays_total", Counter, Count, ["server"], "Times that the delay stood in for a read source's witness";
    VISIBILITY_AGE = "rowbust_visibility_sample_age_seconds", Gauge, Seconds, ["server"], "Age of a read source's newest sample: while it can't be asked, second removals wait";
    PAUSED = "rowbust_paused", Gauge, Count, [], "1 while reading is held by `rowbust pause`";
    RELOADS = "rowbust_reload_total", Counter, Count, [], "Times that the daemon went on with a new config";
    RELOAD_FAILURES = "rowbust_reload_failed_total", Counter, Count, [], "Times that a new config was refused and the old one kept";
    VISIBILITY_HELD = "rowbust_visibility_held_seconds", Gauge, Seconds, ["server"], "How long the oldest second removals that wait for a read source have waited: it lags, or can't be asked";
    POOL_MEMBERS = "rowbust_pool_members", Gauge, Count, ["target"], "Read sources that are listed for guarded readers, the primary included";
    WITNESS_DELAY = "rowbust_visibility_by_delay", Gauge, Count, [], "1 while visibility is assumed after a delay, for want of a witness";
}

/// Buckets from half a millisecond to five minutes.
const BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Installs the recorder for the whole process. Once.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), BUCKETS)?;
    }
    let handle = builder.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Handles that the hot path touches, made once. Nothing is emitted per row: counts are added by batch.
#[derive(Debug)]
pub struct Metrics {
    first: Removals,
    second: Removals,
}

struct Removals {
    commit: Histogram,
    receipt: Histogram,
    label: &'static str,
}

impl std::fmt::Debug for Removals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Removals").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let removals = |label: &'static str| Removals {
            commit: histogram!(COMMIT_TO_REMOVAL, "removal" => label),
            receipt: histogram!(RECEIPT_TO_REMOVAL, "removal" => label),
            label,
        };
        Self { first: removals("first"), second: removals("second") }
    }
}

impl Metrics {
    /// A batch whose removal Redis acknowledged, but for so many keys of it.
    pub fn removed(&self, batch: &Batch, but: usize, target: &str, second: bool, acked: Instant) {
        let removals = if second { &self.second } else { &self.first };
        let receipt = acked.saturating_duration_since(batch.segment.received).as_secs_f64();
        removals.receipt.record(receipt);
        removals.commit.record(age_seconds(batch.segment.commit_micros));
        counter!(KEYS_REMOVED, "target" => target.to_owned(), "removal" => removals.label)
            .increment(batch.keys.len().saturating_sub(but) as u64);
    }

    /// Commands sent.
    pub fn commands(&self, target: &str, commands: usize) {
        counter!(COMMANDS, "target" => target.to_owned()).increment(commands as u64);
    }

    /// Removals that the queue acknowledged.
    pub fn queued(&self, target: &str, keys: usize) {
        counter!(KEYS_QUEUED, "target" => target.to_owned()).increment(keys as u64);
    }

    /// Removals that the queue refused.
    pub fn queue_refused(&self, target: &str) {
        counter!(QUEUE_REFUSED, "target" => target.to_owned()).increment(1);
    }
}

/// Seconds since a Unix time in microseconds; never below zero, whatever the clocks say.
pub fn age_seconds(micros: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "microseconds since 1970 fit a double until 2255")]
    let then = micros as f64 / 1e6;
    (now.as_secs_f64() - then).max(0.0)
}

/// A gauge by name.
pub fn set_gauge(name: &'static str, value: f64) {
    gauge!(name).set(value);
}

/// A counter by name, set to a total that is counted elsewhere.
pub fn set_counter(name: &'static str, total: u64) {
    counter!(name).absolute(total);
}

/// A gauge of a target.
pub fn target_gauge(name: &'static str, target: &str) -> Gauge {
    gauge!(name, "target" => target.to_owned())
}

/// A counter of a target.
pub fn target_counter(name: &'static str, target: &str) -> Counter {
    counter!(name, "target" => target.to_owned())
}

/// Logs to stderr: for people on a terminal, JSON otherwise. `RUST_LOG` overrules the level `info`.
pub fn install_log() {
    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter).with(crate::recent::Keep);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        registry.with(lines.with_ansi(colour)).init();
    } else {
        registry.with(lines.json().flatten_event(true)).init();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for metric in METRICS {
            assert!(metric.name.starts_with("rowbust_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            if metric.unit == Unit::Seconds {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
        }
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn an_age_is_never_negative() {
        assert!(age_seconds(u64::MAX) <= 0.0);
        assert!(age_seconds(0) > 1.7e9);
    }
}
