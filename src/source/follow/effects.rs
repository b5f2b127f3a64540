//! What no row image tells: statements, definitions, events and rows that can't be read. By the policies, keys are removed
//! more widely, or the daemon stops at the event's coordinates.
//!
//! Guarantees: what may have changed rows of a mapped table ends in [`Sink::widen`] within its transaction, or in a
//! [`Halt`](crate::source::Halt), unless the config says that it is to be kept; each is counted and logged. May depend on `policy` and `statement`.

use rowbust_binlog::{Header, Query};
use tracing::{info, warn};

use super::{
    Follower, Slot,
    halts::{BEHIND_HELP, DDL_HELP, FORMAT_HELP, SCHEMA_HELP, UNDECODABLE_HELP, excerpt},
};
use crate::{
    config::{DdlPolicy, OnDdl, Policy},
    source::{
        Scope, Sink,
        error::{Refusal, SourceError},
        policy::Cause,
        position::Coordinates,
        statement::{Ddl, Name, Statement, Targets, Wipe},
    },
};

/// Something that isn't exact: what it is, and what is said about it where it halts.
pub(super) struct Inexact<'a> {
    pub(super) cause: Cause,
    pub(super) code: &'static str,
    pub(super) what: &'a str,
    pub(super) help: &'static str,
}

impl Follower {
    /// A statement that neither opens nor ends a transaction, within its transaction.
    pub(super) fn effect<S: Sink>(
        &mut self,
        statement: Statement,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        match statement {
            Statement::Dml => {
                let what = format!("a change logged as a statement: {}", excerpt(query.sql));
                self.statement("source.statement_format", &what, header, sink)
            }
            // Rows are changed between BEGIN and COMMIT, definitions are not.
            Statement::Unknown if self.open.as_ref().is_some_and(|open| open.block) => {
                let what = format!("a statement that isn't understood: {}", excerpt(query.sql));
                self.statement("source.unknown_statement", &what, header, sink)
            }
            Statement::Unknown => {
                self.stats.unknown_statement();
                warn!(at = %self.begins(header), statement = excerpt(query.sql), "statement not understood, tables are looked at anew");
                let ddl = Ddl { tables: Targets::Unknown, defines: true, wipes: None, renames: Vec::new() };
                self.definitions(&ddl, header, sink)
            }
            Statement::Ddl(ddl) => self.ddl(ddl.in_schema(query.schema), query, header, sink),
            _ => Ok(()),
        }
    }

    /// Rows changed, but only a statement was logged. Triggers, functions and views: it may touch more than it names.
    fn statement<S: Sink>(
        &mut self,
        code: &'static str,
        what: &str,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let inexact = Inexact { cause: Cause::Statement, code, what, help: FORMAT_HELP };
        self.inexact(self.policies.source().on_statement, &inexact, Scope::All, header, sink)
    }

    /// The start of the event at hand.
    pub(super) fn begins(&self, header: &Header) -> Coordinates {
        let position = self.here.position.saturating_sub(u64::from(header.event_size));
        Coordinates { file: self.here.file.clone(), position }
    }

    fn ddl<S: Sink>(
        &mut self,
        ddl: Ddl,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if let Some(wipe) = ddl.wipes {
            let (cause, which): (_, fn(&OnDdl) -> DdlPolicy) = match wipe {
                Wipe::Truncate => (Cause::Truncate, |on| on.truncate),
                Wipe::Drop => (Cause::Drop, |on| on.drop),
            };
            for scope in mapped_scopes(&ddl.tables, sink) {
                self.by_ddl_policy(cause, which, scope, query, header, sink)?;
            }
        }
        if ddl
            .renames
            .iter()
            .any(|(from, to)| [from, to].into_iter().any(|name| mapped(name, sink).is_some()))
        {
            for moved in ddl.moved() {
                let Some(scope) = mapped(&moved.name, sink) else { continue };
                if moved.is_online_schema_change() {
                    info!(at = %self.begins(header), table = %scope, "swapped by an online schema change");
                } else {
                    self.by_ddl_policy(Cause::Rename, |on| on.rename, scope, query, header, sink)?;
                }
            }
        } else if ddl.tables == Targets::Unknown && ddl.wipes.is_none() && ddl.defines {
            // A RENAME of which no name can be read.
            self.by_ddl_policy(Cause::Rename, |on| on.rename, Scope::All, query, header, sink)?;
        }
        if ddl.defines { self.definitions(&ddl, header, sink) } else { Ok(()) }
    }

    fn by_ddl_policy<S: Sink>(
        &mut self,
        cause: Cause,
        which: fn(&OnDdl) -> DdlPolicy,
        scope: Scope,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let what = format!("rows of a mapped table without row events: {}", excerpt(query.sql));
        let policy = match self.policies.ddl(&scope, which) {
            DdlPolicy::Keep => {
                info!(at = %self.begins(header), %scope, cause = cause.as_str(), "keys are kept, by on_ddl");
                return Ok(());
            }
            DdlPolicy::Flush => Policy::Flush,
            DdlPolicy::Halt => Policy::Halt,
        };
        let inexact = Inexact { cause, code: "source.ddl", what: &what, help: DDL_HELP };
        self.inexact(policy, &inexact, scope, header, sink)
    }

    /// Columns may be others from here on.
    fn definitions<S: Sink>(&mut self, ddl: &Ddl, header: &Header, sink: &mut S) -> Result<(), SourceError> {
        let Some(position) = &self.position else { return Ok(()) };
        let gtid = self.open.as_ref().and_then(|open| open.gtid).map(|gtid| gtid.to_string());
        let tables = self
            .schema
            .altered(ddl, &self.here, gtid, &position.gtids, |schema, table| sink.is_mapped(schema, table))?;
        for (schema, table) in tables {
            let what = format!(
                "{schema}.{table} may have been altered between the rows before and the moment when its columns were asked for: \
                 those rows' keys may be wrong"
            );
            let policy = self.policies.schema(&schema, &table);
            self.stats.schema_mismatch();
            let inexact = Inexact {
                cause: Cause::Schema,
                code: "source.schema_behind",
                what: &what,
                help: BEHIND_HELP,
            };
            self.inexact(policy, &inexact, Scope::Table { schema, table }, header, sink)?;
        }
        Ok(())
    }

    /// The table in `slot` doesn't fit the mappings, or its columns aren't known.
    pub(super) fn unfit<S: Sink>(
        &mut self,
        slot: usize,
        refusal: Refusal,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let _ = sink;
        let table = self.decoder.table(slot);
        self.stats.schema_mismatch();
        match self.policies.schema(&table.schema, &table.table) {
            Policy::Halt => Err(self.refused(header, refusal).into()),
            Policy::Flush => {
                warn!(
                    at = %self.begins(header), table = %format_args!("{}.{}", table.schema, table.table), reason = refusal.what,
                    "table doesn't fit its mappings: every key of it is removed at each transaction that changes it"
                );
                self.set_slot(slot, Slot::Wide);
                Ok(())
            }
        }
    }

    /// Rows of the table in `slot`, whose columns aren't known.
    pub(super) fn wide_rows<S: Sink>(
        &mut self,
        slot: usize,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let scope = self.scope_of(slot);
        let what = format!("rows of {scope}, which doesn't fit its mappings");
        let inexact = Inexact { cause: Cause::Schema, code: "source.schema", what: &what, help: SCHEMA_HELP };
        // Said once, when the table was met.
        self.widen(&inexact, scope, header, sink)
    }

    /// A row of the table in `slot` from which no key can be made.
    #[cold]
    pub(super) fn refused_rows<S: Sink>(
        &mut self,
        slot: usize,
        refusal: Refusal,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if self.policies.source().on_undecodable == Policy::Halt {
            return Err(self.refused(header, refusal).into());
        }
        let inexact =
            Inexact { cause: Cause::Row, code: refusal.code, what: &refusal.what, help: UNDECODABLE_HELP };
        self.inexact(Policy::Flush, &inexact, self.scope_of(slot), header, sink)
    }

    /// Something that may have changed rows of any table.
    #[cold]
    pub(super) fn undecodable<S: Sink>(
        &mut self,
        cause: Cause,
        code: &'static str,
        what: &str,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let policy = self.policies.source().on_undecodable;
        let inexact = Inexact { cause, code, what, help: UNDECODABLE_HELP };
        self.inexact(policy, &inexact, Scope::All, header, sink)
    }

    /// An event of a type that isn't read, and may carry rows.
    #[cold]
    pub(super) fn unsupported<S: Sink>(
        &mut self,
        event_type: u8,
        name: &str,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        use rowbust_binlog::event_type as t;
        let what = format!("an event that can't be read, {name} (type {event_type}),");
        match event_type {
            // LOAD DATA in statement format: the file in blocks, and the statement.
            t::LOAD
            | t::CREATE_FILE
            | t::APPEND_BLOCK
            | t::EXEC_LOAD
            | t::DELETE_FILE
            | t::NEW_LOAD
            | t::BEGIN_LOAD_QUERY
            | t::EXECUTE_LOAD_QUERY => {
                let what = format!("LOAD DATA logged as a statement: {name}");
                let inexact = Inexact {
                    cause: Cause::Statement,
                    code: "source.statement_format",
                    what: &what,
                    help: FORMAT_HELP,
                };
                self.inexact(self.policies.source().on_statement, &inexact, Scope::All, header, sink)
            }
            // Nothing behind it can be read.
            t::MARIA_START_ENCRYPTION => {
                let help = "the server should decrypt what it sends";
                Err(self.halt(header, "source.unsupported_event", &what, help).into())
            }
            _ => self.undecodable(Cause::Undecodable, "source.unsupported_event", &what, header, sink),
        }
    }

    /// Halts, or removes every key of the scope. Within a transaction once for each scope.
    pub(super) fn inexact<S: Sink>(
        &mut self,
        policy: Policy,
        inexact: &Inexact<'_>,
        scope: Scope,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if policy == Policy::Halt {
            return Err(self.halt(header, inexact.code, inexact.what, inexact.help).into());
        }
        if self.open.as_ref().is_some_and(|open| open.widened.iter().any(|known| known.includes(&scope))) {
            return Ok(());
        }
        warn!(
            at = %self.begins(header), cause = inexact.cause.as_str(), %scope, what = inexact.what,
            "removing every key that may be concerned"
        );
        self.widen(inexact, scope, header, sink)
    }

    fn widen<S: Sink>(
        &mut self,
        inexact: &Inexact<'_>,
        scope: Scope,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if let Some(open) = &mut self.open {
            if open.widened.iter().any(|known| known.includes(&scope)) {
                return Ok(());
            }
            open.widened.push(scope.clone());
        }
        self.stats.widen(inexact.cause);
        let cause = format!("{}: {}", inexact.cause.as_str(), inexact.what);
        sink.widen(&scope, &cause).map_err(|refusal| self.refused(header, refusal).into())
    }

    fn scope_of(&self, slot: usize) -> Scope {
        let table = self.decoder.table(slot);
        Scope::Table { schema: table.schema.clone(), table: table.table.clone() }
    }
}

/// The table under the name by which it is mapped. With `lower_case_table_names` the server means the lower-case name but logs what
/// was typed.
fn mapped<S: Sink>(name: &Name, sink: &S) -> Option<Scope> {
    let schema = name.schema.as_deref()?;
    let typed = (schema.to_owned(), name.table.clone());
    let lower = (schema.to_lowercase(), name.table.to_lowercase());
    [typed, lower]
        .into_iter()
        .find(|(schema, table)| sink.is_mapped(schema, table))
        .map(|(schema, table)| Scope::Table { schema, table })
}

/// What of it mappings name. What can't be read may be anything.
fn mapped_scopes<S: Sink>(targets: &Targets, sink: &S) -> Vec<Scope> {
    match targets {
        Targets::Unknown => vec![Scope::All],
        Targets::Schema(schema) => {
            let both = [schema.clone(), schema.to_lowercase()];
            both.into_iter()
                .find(|schema| sink.is_schema_mapped(schema))
                .map(Scope::Schema)
                .into_iter()
                .collect()
        }
        Targets::Tables(names) => names.iter().filter_map(|name| mapped(name, sink)).collect(),
    }
}
