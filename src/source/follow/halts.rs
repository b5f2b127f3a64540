//! What stops the following, and what to do about it.

use rowbust_binlog::Header;

use super::Follower;
use crate::source::{
    error::{Halt, Refusal},
    position::Coordinates,
};

pub(in crate::source) const BUG: &str =
    "this shouldn't happen: please report it with the output of SHOW BINLOG EVENTS around it";
pub(super) const FORMAT_HELP: &str = "use binlog_format=ROW in every session; `on_statement: flush` removes every key of every mapping instead, \
                           or remove the keys by hand and start behind it with `start: {gtid: …}`";
pub(super) const UNDECODABLE_HELP: &str = "`on_undecodable: flush` removes every key that may be concerned instead; or remove the keys by hand and \
                                start behind it with `start: {gtid: …}`";
pub(super) const DDL_HELP: &str =
    "by `on_ddl: halt`: remove the table's keys, and start behind it with `start: {gtid: …}`";
pub(super) const SCHEMA_HELP: &str = "adapt the mapping; or `on_schema: flush` removes every key of the table at each transaction that changes it";
pub(super) const BEHIND_HELP: &str = "`on_schema: flush` removes every key of the table here instead; SET GLOBAL binlog_row_metadata=FULL keeps it \
                           from happening";
pub(super) const METADATA_HELP: &str =
    "SET GLOBAL binlog_row_metadata=FULL, so that the binlog itself describes its tables";

impl Follower {
    /// `header`: of the event at hand, whose end is `here`.
    pub(super) fn halt(&self, header: &Header, code: &'static str, what: &str, help: &str) -> Halt {
        let position = self.here.position.saturating_sub(u64::from(header.event_size));
        Halt {
            code,
            at: Coordinates { file: self.here.file.clone(), position },
            gtid: self.open.as_ref().and_then(|open| open.gtid),
            what: what.to_owned(),
            help: help.to_owned(),
        }
    }

    #[cold]
    pub(super) fn refused(&self, header: &Header, refusal: Refusal) -> Halt {
        self.halt(header, refusal.code, &refusal.what, &refusal.help)
    }
}

/// The beginning of a statement, for a message. Values may be secrets: not more than a name's worth.
pub(super) fn excerpt(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql);
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    words.join(" ").chars().take(60).collect()
}
