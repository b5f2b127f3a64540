//! One transaction: its begin, its statements and table maps, its end.
//!
//! Guarantees: as [`super`]; the position moves in `end_at` alone.

use rowbust_binlog::{Gtid, GtidEvent, Header, Query};
use tracing::warn;

use super::{
    Follower, Open, Then,
    halts::{BUG, FORMAT_HELP, METADATA_HELP, PASS_HELP, WIPE_HELP, XA_HELP, excerpt},
    header_micros,
};
use crate::source::{
    Sink, Transaction,
    error::{Refusal, SourceError},
    statement::{Statement, classify},
};

impl Follower {
    pub(super) fn gtid<S: Sink>(
        &mut self,
        gtid: &GtidEvent<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if gtid.xa.is_some() && self.skip.is_none() {
            let mut halt =
                self.halt(header, "source.xa", "an XA transaction, which can't be followed yet", XA_HELP);
            halt.gtid = Some(gtid.gtid);
            return Err(halt.into());
        }
        // MySQL's GTID event doesn't tell what follows, its BEGIN does.
        let block = matches!(gtid.gtid, Gtid::MariaDb(_)) && !gtid.standalone;
        let commit_micros = gtid.commit_micros.unwrap_or_else(|| header_micros(header));
        self.begin(Some(gtid.gtid), block, commit_micros, header, sink)
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
            // Only events without effect stood in it.
            self.end_at(self.here.position.saturating_sub(u64::from(header.event_size)), sink)?;
        }
        if let Some(skip) = &mut self.skip {
            skip.head = true;
            let begins_at = self.here.position.saturating_sub(u64::from(header.event_size));
            if begins_at >= skip.to {
                self.skipped(begins_at, sink);
            }
        }
        self.open = Some(Open { gtid, block, rows: false });
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
        let statement = if query.sql == b"BEGIN" { Statement::Begin } else { classify(query.sql) };
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
            _ if self.skip.is_some() => {}
            Statement::Xa => {
                return Err(self
                    .halt(header, "source.xa", "an XA transaction, which can't be followed yet", XA_HELP)
                    .into());
            }
            Statement::Dml => {
                let what = format!("a change logged as a statement: {}", excerpt(query.sql));
                return Err(self.halt(header, "source.statement_format", &what, FORMAT_HELP).into());
            }
            Statement::Unknown => {
                let what = format!("a statement that isn't understood: {}", excerpt(query.sql));
                return Err(self.halt(header, "source.unknown_statement", &what, PASS_HELP).into());
            }
            Statement::Wipe(targets) => {
                self.schema.forget();
                if targets.touch(query.schema, |s, t| sink.is_mapped(s, t), |s| sink.is_schema_mapped(s)) {
                    let what = format!("a table that a mapping names loses its rows: {}", excerpt(query.sql));
                    return Err(self.halt(header, "source.wipe", &what, WIPE_HELP).into());
                }
            }
            Statement::Ddl => self.schema.forget(),
        }
        match &self.open {
            Some(open) if open.block => Ok(()),
            Some(_) => self.end(sink),
            // No GTID event before it: files from before GTIDs.
            None => {
                self.begin(None, false, header_micros(header), header, sink)?;
                self.end(sink)
            }
        }
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
        if self.mapped.len() <= slot {
            self.mapped.resize(slot + 1, false);
        }
        let table = self.decoder.table(slot);
        let mapped = sink.is_mapped(&table.schema, &table.table);
        if let Some(m) = self.mapped.get_mut(slot) {
            *m = mapped;
        }
        if !mapped {
            return Ok(Then::Nothing);
        }
        if table.columns.iter().any(|column| !column.is_complete()) {
            return Ok(Then::Complete(slot));
        }
        sink.table(slot, self.decoder.table(slot))
            .map_err(|refusal| self.refused(header, refusal).into())
            .map(|()| Then::Nothing)
    }

    /// Adds to a table map what the binlog leaves out.
    pub(super) async fn complete<S: Sink>(
        &mut self,
        slot: usize,
        header: Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let table = self.decoder.table_mut(slot);
        let columns = self.schema.columns(&table.schema, &table.table).await?;
        let name = format!("{}.{}", table.schema, table.table);
        if columns.is_empty() {
            let what = format!(
                "the columns of {name} aren't known: the table is gone, or the account may not see it"
            );
            let help = format!("GRANT SELECT ON {name} to the account, or {METADATA_HELP}");
            return Err(self.halt(&header, "source.schema", &what, &help).into());
        }
        if let Err(mismatch) = table.complete(columns) {
            return Err(self.halt(&header, "source.schema", &mismatch.to_string(), METADATA_HELP).into());
        }
        sink.table(slot, self.decoder.table(slot)).map_err(|refusal| self.refused(&header, refusal).into())
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
            sink.commit(&position.at);
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
