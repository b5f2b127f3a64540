//! One transaction: its begin, its statements and table maps, its end.
//!
//! Guarantees: as [`super`]; the position moves in `end_at` alone.

use rowbust_binlog::{Gtid, GtidEvent, GtidState, Header, Query, XaPhase};
use tracing::warn;

use super::{
    Follower, Open, Slot, Then,
    halts::{BUG, METADATA_HELP},
    header_micros,
};
use crate::source::{
    Sink, Transaction,
    error::{Refusal, SourceError},
    schema::Undefined,
    statement::{Statement, classify},
};

impl Follower {
    pub(super) fn gtid<S: Sink>(
        &mut self,
        gtid: &GtidEvent<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        // MySQL's GTID event doesn't tell what follows, its BEGIN does.
        let block = matches!(gtid.gtid, Gtid::MariaDb(_)) && !gtid.standalone;
        let commit_micros = gtid.commit_micros.unwrap_or_else(|| header_micros(header));
        self.begin(Some(gtid.gtid), block, commit_micros, header, sink)?;
        if gtid.xa == Some(XaPhase::Prepared) && self.skip.is_none() {
            sink.xa_started();
        }
        Ok(())
    }

    pub(super) fn begin<S: Sink>(
        &mut self,
        gtid: Option<Gtid>,
        block: bool,
        commit_micros: u64,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if let Some(open) = &self.open {
            if open.rows && self.skip.is_none() {
                return Err(self
                    .halt(header, "source.no_end", "a transaction without an end before the next", BUG)
                    .into());
            }
            // Only events without effect stood in it, and none that is known to have ended it.
            self.last = None;
            self.end_at(self.here.position.saturating_sub(u64::from(header.event_size)), sink)?;
        }
        if let Some(skip) = &mut self.skip {
            skip.head = true;
            let begins_at = self.here.position.saturating_sub(u64::from(header.event_size));
            let missing = |done: &GtidState| gtid.is_some_and(|gtid| !done.contains(gtid));
            if begins_at >= skip.to || skip.done.as_ref().is_some_and(missing) {
                self.skipped(begins_at, sink);
            }
        }
        self.tail.within();
        self.open = Some(Open { gtid, block, rows: false, widened: Vec::new() });
        if self.skip.is_none() {
            sink.begin(Transaction { gtid, at: &self.here, commit_micros });
        }
        Ok(())
    }

    pub(super) fn query<S: Sink>(
        &mut self,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        // The usual one, without looking at its words.
        let statement = if query.sql == b"BEGIN" { Statement::Begin } else { classify(query) };
        match statement {
            Statement::Begin => {
                match &mut self.open {
                    Some(open) => open.block = true,
                    None => self.begin(None, true, header_micros(header), header, sink)?,
                }
                return Ok(());
            }
            Statement::Commit | Statement::Rollback => return self.end(sink),
            Statement::Savepoint | Statement::Comment => return Ok(()),
            Statement::Xa(verb) => return self.xa(verb, query, header, sink),
            _ => {}
        }
        if self.open.is_none() {
            // No GTID event before it: files from before GTIDs.
            self.begin(None, false, header_micros(header), header, sink)?;
        }
        if self.skip.is_none() {
            self.effect(statement, query, header, sink)?;
        }
        if self.open.as_ref().is_some_and(|open| open.block) { Ok(()) } else { self.end(sink) }
    }

    pub(super) fn table_map<S: Sink>(
        &mut self,
        slot: usize,
        fresh: bool,
        header: &Header,
        sink: &mut S,
    ) -> Result<Then, SourceError> {
        if let Some(open) = &mut self.open {
            open.rows = true;
        }
        if !fresh {
            return Ok(Then::Nothing);
        }
        let table = self.decoder.table(slot);
        let mapped = sink.is_mapped(&table.schema, &table.table);
        let complete = table.columns.iter().all(|column| column.is_complete());
        self.set_slot(slot, if mapped { Slot::Mapped } else { Slot::Unmapped });
        match (mapped, complete) {
            (false, _) => Ok(Then::Nothing),
            (true, false) => Ok(Then::Complete(slot)),
            (true, true) => self.plan(slot, header, sink).map(|()| Then::Nothing),
        }
    }

    pub(super) fn set_slot(&mut self, slot: usize, kind: Slot) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::Unmapped);
        }
        if let Some(known) = self.slots.get_mut(slot) {
            *known = kind;
        }
    }

    fn plan<S: Sink>(&mut self, slot: usize, header: &Header, sink: &mut S) -> Result<(), SourceError> {
        match sink.table(slot, self.decoder.table(slot)) {
            Ok(()) => Ok(()),
            Err(refusal) => self.unfit(slot, refusal, header, sink),
        }
    }

    /// Adds to a table map what the binlog leaves out.
    pub(super) async fn complete<S: Sink>(
        &mut self,
        slot: usize,
        header: Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let none = GtidState::empty(rowbust_binlog::Flavor::MySql);
        let done = self.position.as_ref().map_or(&none, |position| &position.gtids);
        match self.schema.complete(self.decoder.table_mut(slot), done).await? {
            Ok(()) => self.plan(slot, &header, sink),
            Err(Undefined(why)) => {
                let help = format!("grant SELECT on the table to the account, or {METADATA_HELP}");
                self.unfit(slot, Refusal::new("source.schema", why, help), &header, sink)
            }
        }
    }

    pub(super) fn end<S: Sink>(&mut self, sink: &mut S) -> Result<(), SourceError> {
        self.end_at(self.here.position, sink)
    }

    pub(super) fn end_at<S: Sink>(&mut self, end: u64, sink: &mut S) -> Result<(), SourceError> {
        self.decoder.end_transaction();
        let Some(open) = self.open.take() else { return Ok(()) };
        if let Some(skip) = &mut self.skip {
            if let Some(gtid) = open.gtid {
                skip.gtids.add(gtid);
            }
            if end > skip.to {
                return Err(Refusal::new(
                    "source.start_position",
                    format!("{}:{} is within a transaction that ends at {end}", self.here.file, skip.to),
                    "choose the end of a transaction, as SHOW BINLOG EVENTS shows it",
                )
                .into());
            }
            if end == skip.to && skip.head {
                self.skipped(end, sink);
            }
            return Ok(());
        }
        self.stats.transaction();
        if let Some(position) = &mut self.position {
            if let Some(gtid) = open.gtid {
                position.gtids.add(gtid);
            }
            if position.at.file != self.here.file {
                position.at.file = self.here.file.clone();
            }
            position.at.position = end;
            self.anchor = self.last;
            sink.commit(&position.at, self.last);
        }
        Ok(())
    }

    /// The rest of an open transaction won't come.
    pub(super) fn cut_off<S: Sink>(&mut self, sink: &mut S) {
        self.decoder.end_transaction();
        if let Some(open) = self.open.take() {
            if open.rows {
                warn!(at = %self.here, "transaction without an end, server crashed there");
            }
            if self.skip.is_none() {
                sink.abandon();
            }
        }
    }
}
