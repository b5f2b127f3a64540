//! Counters of the follower, for metrics and status.
//!
//! Guarantees: one writer, so each is a plain store. May depend on `policy`.

use super::policy::Cause;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What was read. All counts are since the process started.
#[derive(Debug)]
pub struct SourceStats {
    started: Instant,
    events: AtomicU64,
    bytes: AtomicU64,
    transactions: AtomicU64,
    row_events: AtomicU64,
    heartbeats: AtomicU64,
    reconnects: AtomicU64,
    clashes: AtomicU64,
    decode_errors: AtomicU64,
    ignored_events: AtomicU64,
    unknown_statements: AtomicU64,
    schema_mismatches: AtomicU64,
    gaps: AtomicU64,
    server_changes: AtomicU64,
    prepared: AtomicU64,
    /// By cause.
    widened: [AtomicU64; Cause::ALL.len()],
    last_timestamp: AtomicU64,
    last_event_micros: AtomicU64,
    connected: AtomicU64,
    idle_since_micros: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> u64 { self.$name.load(Relaxed) })*
    };
}

impl Default for SourceStats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            row_events: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            clashes: AtomicU64::new(0),
            decode_errors: AtomicU64::new(0),
            ignored_events: AtomicU64::new(0),
            unknown_statements: AtomicU64::new(0),
            schema_mismatches: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            server_changes: AtomicU64::new(0),
            prepared: AtomicU64::new(0),
            widened: [const { AtomicU64::new(0) }; Cause::ALL.len()],
            last_timestamp: AtomicU64::new(0),
            last_event_micros: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            idle_since_micros: AtomicU64::new(0),
        }
    }
}

impl SourceStats {
    counters! {
        /// Events read, heartbeats and artificial ones included.
        events;
        /// Bytes of those events.
        bytes;
        /// Transactions read to their end, empty and standalone ones included.
        transactions;
        /// Row events read, of mapped tables or not.
        row_events;
        /// Heartbeats of a quiet server.
        heartbeats;
        /// Connections lost and to be made again.
        reconnects;
        /// Times that another replica with the same id took the server's place.
        clashes;
        /// Events whose bytes contradicted the format.
        decode_errors;
        /// Events of unknown types that were passed over because they say themselves that they may be ignored.
        ignored_events;
        /// Statements that weren't understood and passed over, as they stood outside of a transaction.
        unknown_statements;
        /// Versions of tables that don't fit the mappings, or whose columns aren't known.
        schema_mismatches;
        /// Times that the binlog behind the checkpoint was gone, or another one.
        gaps;
        /// Times that another server answered which has everything that was read.
        server_changes;
        /// XA transactions that are prepared now, and whose keys are kept.
        prepared;
        /// Newest timestamp of a real event: seconds since 1970, by the server's clock. 0: none yet.
        last_timestamp;
    }

    /// Times that all keys of a scope were to be removed, for this cause.
    pub fn widened(&self, cause: Cause) -> u64 {
        self.widened.get(cause as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// Time since anything was read, heartbeats included; `None` before the first event.
    pub fn event_age(&self) -> Option<Duration> {
        let at = self.last_event_micros.load(Relaxed);
        (at != 0).then(|| self.started.elapsed().saturating_sub(Duration::from_micros(at)))
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed) != 0
    }

    /// How long the stream has had nothing ready while everything that was read is handed on; `None`: it is being read.
    pub fn idle_for(&self) -> Option<Duration> {
        let at = self.idle_since_micros.load(Relaxed);
        (at != 0 && self.is_connected())
            .then(|| self.started.elapsed().saturating_sub(Duration::from_micros(at)))
    }

    pub(super) fn idle(&self, yes: bool) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.idle_since_micros.store(if yes { micros.max(1) } else { 0 }, Relaxed);
    }

    fn bump(counter: &AtomicU64, by: u64) {
        counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
    }

    pub(super) fn event(&self, bytes: u32, timestamp: u32) {
        Self::bump(&self.events, 1);
        Self::bump(&self.bytes, u64::from(bytes));
        if timestamp != 0 {
            self.last_timestamp.store(u64::from(timestamp), Relaxed);
        }
    }

    /// Called at the pauses of the stream: a clock reading per event would cost more than the rest.
    pub(super) fn alive(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_event_micros.store(micros.max(1), Relaxed);
    }

    pub(super) fn transaction(&self) {
        Self::bump(&self.transactions, 1);
    }

    pub(super) fn row_event(&self) {
        Self::bump(&self.row_events, 1);
    }

    pub(super) fn heartbeat(&self) {
        Self::bump(&self.heartbeats, 1);
    }

    pub(super) fn reconnect(&self) {
        Self::bump(&self.reconnects, 1);
    }

    pub(super) fn clash(&self) {
        Self::bump(&self.clashes, 1);
    }

    pub(super) fn decode_error(&self) {
        Self::bump(&self.decode_errors, 1);
    }

    pub(super) fn ignored_event(&self) {
        Self::bump(&self.ignored_events, 1);
    }

    pub(super) fn unknown_statement(&self) {
        Self::bump(&self.unknown_statements, 1);
    }

    pub(super) fn schema_mismatch(&self) {
        Self::bump(&self.schema_mismatches, 1);
    }

    pub(super) fn gap(&self) {
        Self::bump(&self.gaps, 1);
    }

    pub(super) fn server_change(&self) {
        Self::bump(&self.server_changes, 1);
    }

    pub(super) fn widen(&self, cause: Cause) {
        if let Some(count) = self.widened.get(cause as usize) {
            Self::bump(count, 1);
        }
    }

    pub(super) fn set_prepared(&self, now: u64) {
        self.prepared.store(now, Relaxed);
    }

    pub(super) fn connected(&self, yes: bool) {
        self.connected.store(u64::from(yes), Relaxed);
    }
}
