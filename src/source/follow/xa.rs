//! XA: rows are logged with XA PREPARE, and become visible with XA COMMIT, in a group of its own and perhaps hours later.
//!
//! MySQL's first group is `XA START`, rows, `XA END`, an XA_PREPARE event; MariaDB's GTID event says that it is one. The second
//! group is a statement, `XA COMMIT` or `XA ROLLBACK`, on both. Guarantees: what a transaction changed is owed to its XA COMMIT; one
//! whose first group wasn't read goes by `on_undecodable`. May depend on `statement`.

use rowbust_binlog::{Header, Query, XaPrepare, XidBuf};

use super::{
    Follower,
    effects::Inexact,
    halts::{UNDECODABLE_HELP, excerpt},
    header_micros,
};
use crate::{
    config::Policy,
    source::{Prepared, Sink, error::SourceError, policy::Cause, statement::XaVerb},
};

impl Follower {
    pub(super) fn xa<S: Sink>(
        &mut self,
        verb: XaVerb,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        if self.open.is_none() {
            // Files from before GTIDs.
            self.begin(None, false, header_micros(header), header, sink)?;
        }
        match verb {
            XaVerb::Start => {
                if let Some(open) = &mut self.open {
                    open.block = true;
                }
                if self.skip.is_none() {
                    sink.xa_started();
                }
                Ok(())
            }
            XaVerb::End => Ok(()),
            XaVerb::Commit | XaVerb::Rollback => {
                if self.skip.is_none() {
                    self.xa_finish(verb == XaVerb::Commit, query, header, sink)?;
                    self.stats.set_prepared(sink.xa_count());
                }
                self.end(sink)
            }
            XaVerb::Other if self.skip.is_some() => Ok(()),
            XaVerb::Other => {
                let what = format!("an XA statement that isn't understood: {}", excerpt(query.sql));
                self.undecodable(Cause::Xa, "source.xa", &what, header, sink)
            }
        }
    }

    fn xa_finish<S: Sink>(
        &mut self,
        committed: bool,
        query: &Query<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let xid = XidBuf::in_statement(query.sql);
        let prepared = xid.as_ref().map_or(Prepared::Unknown, |xid| sink.xa_finished(xid, committed));
        match prepared {
            Prepared::Known => Ok(()),
            _ if !committed => Ok(()),
            Prepared::Wide(scopes) => {
                for scope in scopes {
                    let what = "an XA transaction whose keys aren't all kept";
                    let inexact =
                        Inexact { cause: Cause::Xa, code: "source.xa", what, help: UNDECODABLE_HELP };
                    self.inexact(Policy::Flush, &inexact, scope, header, sink)?;
                }
                Ok(())
            }
            Prepared::Unknown => {
                let id = xid.map_or_else(String::new, |xid| format!(" {}", xid.as_xid()));
                let what = format!("XA COMMIT{id}, whose XA PREPARE was not read,");
                self.undecodable(Cause::Xa, "source.xa_unprepared", &what, header, sink)
            }
        }
    }

    pub(super) fn xa_prepare<S: Sink>(
        &mut self,
        prepare: &XaPrepare<'_>,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        // In one phase it is committed here, as any other transaction.
        if self.skip.is_none() && !prepare.one_phase {
            sink.xa_prepared(&XidBuf::from(prepare.xid));
            self.stats.set_prepared(sink.xa_count());
        }
        self.end(sink)
    }
}
