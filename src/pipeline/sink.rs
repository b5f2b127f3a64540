//! What the follower hands row changes to: plans per table, keys into the assembler.
//!
//! Guarantees: every row of a mapped table is routed under the plan of its own table map, or stops the daemon with a refusal. May depend on
//! `source`'s seam, `route` and `flush`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{mpsc, oneshot};

use rowbust_binlog::{Gtid, RowSlots, Rows, TableMap, XidBuf};

use super::{
    Assembler, Closed,
    batch::{Removal, RowPlace},
    prepared::PreparedKeys,
    refused::RefusedRow,
};
use crate::{
    checkpoint, flush,
    route::{Plans, Router, Scratch, unreadable_rows},
    source::{
        self, Prepared, Refusal,
        position::{Anchor, Coordinates, Position},
    },
    watermark::Watermark,
};

/// Counts of what was routed. Added to once per row event.
#[derive(Debug, Default)]
pub struct RouteStats {
    /// Rows of mapped tables.
    pub rows: AtomicU64,
    /// Keys made, duplicates included.
    pub keys: AtomicU64,
    /// Keys in which a value was escaped.
    pub escaped: AtomicU64,
    /// Images without a key, for a column was NULL.
    pub null: AtomicU64,
    /// Row changes that `when` or `when_changed` left out.
    pub filtered: AtomicU64,
}

/// Routes rows into the assembler.
#[derive(Debug)]
pub struct RouteSink {
    router: Router,
    assembler: Assembler,
    watermark: Watermark,
    plans: Plans,
    slots: RowSlots<'static>,
    scratch: Scratch,
    stats: Arc<RouteStats>,
    checkpoint: checkpoint::Watch,
    saved_once: bool,
    prepared: PreparedKeys,
    /// Of the running transaction.
    is_mariadb: bool,
    delay_was_said: bool,
    /// Told the first position.
    started: Option<oneshot::Sender<Position>>,
    /// Flushed first of all.
    uncovered: Option<(Vec<usize>, Vec<String>)>,
    /// Where rows that gave no key are filed.
    letters: Option<mpsc::Sender<RefusedRow>>,
    /// The newest of them, until it is known what is done about it.
    refused: Option<RefusedRow>,
    /// File, GTID and commit time of the running transaction.
    running: (Arc<str>, Option<Gtid>, u32),
}

impl RouteSink {
    /// `prepared_bytes`: what keys of prepared XA transactions may take. `started` is told where reading begins; nothing is handed on before `checkpoint` has saved that.
    pub fn new(
        router: Router,
        assembler: Assembler,
        watermark: Watermark,
        stats: Arc<RouteStats>,
        checkpoint: checkpoint::Watch,
        started: oneshot::Sender<Position>,
        prepared_bytes: usize,
    ) -> Self {
        Self {
            router,
            assembler,
            watermark,
            plans: Plans::default(),
            slots: RowSlots::new(),
            scratch: Scratch::new(),
            stats,
            checkpoint,
            saved_once: false,
            prepared: PreparedKeys::new(prepared_bytes),
            is_mariadb: false,
            delay_was_said: false,
            started: Some(started),
            uncovered: None,
            letters: None,
            refused: None,
            running: ("".into(), None, 0),
        }
    }

    /// Files rows that give no key there, where the daemon goes on behind them.
    #[must_use]
    pub fn with_letters(self, letters: mpsc::Sender<RefusedRow>) -> Self {
        Self { letters: Some(letters), ..self }
    }

    fn file_refused(&mut self) {
        let (Some(row), Some(letters)) = (self.refused.take(), &self.letters) else { return };
        match letters.try_reserve() {
            Ok(place) => place.send(RefusedRow { ticket: self.assembler.hold(), ..row }),
            Err(_) => tracing::error!(
                table = row.table,
                file = row.file,
                position = row.position,
                row = row.row,
                reason = row.what,
                "too many rows without a key, this one has no dead letter"
            ),
        }
    }

    /// The keyspaces of these mappings are flushed before the first transaction; `digests`: theirs, as in [`crate::coverage`].
    pub fn flushing(mut self, mappings: Vec<usize>, digests: Vec<String>) -> Self {
        self.uncovered = (!mappings.is_empty()).then_some((mappings, digests));
        self
    }
}

impl RouteSink {
    /// The keyspaces of these mappings are owed a removal.
    fn flush_mappings(&mut self, touched: Vec<usize>, cause: &str) -> Result<(), Refusal> {
        // Before anything is flushed: half of a scope is none.
        let endless = touched
            .iter()
            .filter_map(|at| self.router.mapping(*at))
            .find_map(|mapping| flush::unflushable(mapping).map(|rule| (mapping, rule)));
        if let Some((mapping, rule)) = endless {
            return Err(Refusal::new(
                "pipeline.unflushable",
                format!(
                    "{cause}: the keys of {} can't be flushed, for `{}` (line {}) begins with a column and may be any key",
                    mapping.table,
                    rule.key.source(),
                    rule.line
                ),
                "begin the key with a text of its own, such as \"product:{id}\"; or remove its keys by hand",
            ));
        }
        if touched.is_empty() {
            return Ok(());
        }
        self.assembler.widen(touched, cause);
        self.file_refused();
        Ok(())
    }
}

impl source::Sink for RouteSink {
    type Error = Closed;

    fn started(&mut self, position: &Position) {
        self.plans.clear();
        self.assembler.started(position);
        if let Some((mappings, digests)) = self.uncovered.take() {
            self.assembler.cover(&mappings, digests);
        }
        if let Some(started) = self.started.take() {
            // Without a receiver the daemon is on its way down.
            let _ = started.send(position.clone());
        }
    }

    fn begin(&mut self, transaction: source::Transaction<'_>) {
        self.is_mariadb = matches!(transaction.gtid, Some(Gtid::MariaDb(_)));
        self.refused = None;
        let time = u32::try_from(transaction.commit_micros / 1_000_000).unwrap_or(u32::MAX);
        self.running = (transaction.at.file.clone(), transaction.gtid, time);
        self.assembler.begin(transaction);
    }

    fn is_mapped(&self, schema: &str, table: &str) -> bool {
        self.router.is_mapped(schema, table)
    }

    fn is_schema_mapped(&self, schema: &str) -> bool {
        self.router.is_schema_mapped(schema)
    }

    fn table(&mut self, slot: usize, table: &TableMap) -> Result<(), Refusal> {
        self.plans.set(slot, &self.router, table)
    }

    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, end: u64) -> Result<(), Refusal> {
        let plan = self.plans.get(rows.slot, table)?;
        let mut slots = std::mem::take(&mut self.slots).recycle();
        let mut cursor = rows.cursor(table, plan.projection()).map_err(|e| unreadable_rows(&e, table))?;
        let mut count: u64 = 0;
        let keeping = self.prepared.is_keeping();
        if keeping {
            self.prepared.table(table);
        }
        while cursor.next(&mut slots).map_err(|e| unreadable_rows(&e, table))? {
            let place = RowPlace { position: end, row: u16::try_from(count).unwrap_or(u16::MAX) };
            let (assembler, prepared) = (&mut self.assembler, &mut self.prepared);
            plan.route(rows.kind, &slots, &mut self.scratch, &mut |key: crate::route::RoutedKey<'_>| {
                let removal = Removal { key: key.key, field: key.field };
                let way = assembler.way(key.mapping, key.kind);
                assembler.push_way(way, removal, place);
                if keeping {
                    prepared.push(way, removal);
                }
            })
            .map_err(|error| {
                let (file, gtid, commit_time) = &self.running;
                let what = format!("row {count}: {error}");
                self.refused = Some(RefusedRow {
                    table: format!("{}.{}", table.schema, table.table),
                    what: what.clone(),
                    file: file.to_string(),
                    position: place.position,
                    row: place.row,
                    gtid: gtid.map(|gtid| gtid.to_string()).unwrap_or_default(),
                    commit_time: *commit_time,
                    ticket: None,
                });
                Refusal::new("route.row", what, error.help())
            })?;
            count += 1;
        }
        self.slots = slots.recycle();
        let counts = self.scratch.take_counts();
        self.stats.rows.fetch_add(count, Relaxed);
        self.stats.keys.fetch_add(counts.keys, Relaxed);
        self.stats.escaped.fetch_add(counts.escaped, Relaxed);
        self.stats.null.fetch_add(counts.null, Relaxed);
        self.stats.filtered.fetch_add(counts.filtered, Relaxed);
        Ok(())
    }

    fn widen(&mut self, scope: &source::Scope, cause: &str) -> Result<(), Refusal> {
        self.prepared.widen(scope);
        let touched = self.router.touched(scope);
        self.flush_mappings(touched, cause)
    }

    fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>) {
        self.prepared.end();
        self.assembler.commit(end, anchor);
    }

    fn xa_started(&mut self) {
        self.prepared.start();
    }

    fn xa_prepared(&mut self, xid: &XidBuf) {
        let ticket = self.assembler.hold();
        self.prepared.prepared(xid, ticket);
    }

    fn xa_finished(&mut self, xid: &XidBuf, committed: bool) -> Prepared {
        // MariaDB shows an XA transaction's rows at a moment of its own.
        let by_delay = committed && self.is_mariadb;
        if by_delay && !std::mem::replace(&mut self.delay_was_said, true) {
            tracing::warn!(
                "XA on MariaDB: no witness tells when its commit is visible, the second removal comes after a delay"
            );
        }
        let Some((kept, tickets)) = self.prepared.finish(xid) else {
            // What is flushed in its place waits as its keys would.
            self.assembler.resume(&[], Vec::new(), by_delay);
            return Prepared::Unknown;
        };
        // Rolled back, a removal too many is harmless; but none is owed.
        self.assembler.resume(if committed { &kept.keys } else { &[] }, tickets, by_delay);
        if kept.wide.is_empty() || !committed { Prepared::Known } else { Prepared::Wide(kept.wide) }
    }

    fn xa_count(&self) -> u64 {
        self.prepared.len() as u64
    }

    fn moved(&mut self, position: &Position, identity: &str) {
        self.assembler.restart(position, identity, false);
    }

    fn gap(&mut self, position: &Position, identity: &str, cause: &str) -> Result<(), Refusal> {
        // The second removals wait for what lies before it.
        self.assembler.started(position);
        self.widen(&source::Scope::All, &format!("gap: {cause}"))?;
        self.assembler.restart(position, identity, true);
        Ok(())
    }

    fn forgotten(
        &mut self,
        position: &Position,
        identity: &str,
        targets: &[usize],
        cause: &str,
    ) -> Result<(), Refusal> {
        self.assembler.started(position);
        let mut touched = self.router.touched(&source::Scope::All);
        touched
            .retain(|at| self.router.mapping(*at).is_some_and(|mapping| targets.contains(&mapping.target)));
        self.flush_mappings(touched, cause)?;
        self.assembler.restart(position, identity, true);
        Ok(())
    }

    fn abandon(&mut self) {
        self.prepared.end();
        self.assembler.abort();
    }

    fn wants_flush(&self) -> bool {
        self.assembler.wants_flush()
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        if self.started.is_some() {
            // Still on the way to the first position: nothing is collected, and there is nothing to save that could be waited for.
            return Ok(());
        }
        if !self.saved_once {
            self.checkpoint.saved_once().await;
            self.saved_once = true;
        }
        if let Some(newest) = self.assembler.newest() {
            self.watermark.received(newest);
        }
        self.assembler.flush().await
    }
}
