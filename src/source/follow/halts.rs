//! What stops the following, and what to do about it.

use rowbust_binlog::Header;

use super::Follower;
use crate::source::{
    error::{Halt, Refusal},
    position::Coordinates,
};

pub(in crate::source) const BUG: &str =
    "this shouldn't happen: please report it with the output of SHOW BINLOG EVENTS around it";
pub(super) const XA_HELP: &str =
    "pass it by hand: remove the keys that it changed, then start behind it with `start: {gtid: …}`";
pub(super) const FORMAT_HELP: &str = "use binlog_format=ROW in every session; then remove the keys that it changed, and start behind it \
                           with `start: {gtid: …}`";
pub(super) const WIPE_HELP: &str = "flushing a table's keys isn't there yet: remove them by hand, and start behind it with `start: {gtid: …}`";
pub(super) const PASS_HELP: &str = "if it changes no mapped table, start behind it with `start: {gtid: …}`";
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

    #[cold]
    pub(super) fn unsupported(&self, header: &Header, event_type: u8, name: &str) -> Halt {
        use rowbust_binlog::event_type as t;
        let help = match event_type {
            t::XA_PREPARE => XA_HELP,
            t::INCIDENT => "the server lost events: flush the mapped keys and start at the newest position",
            _ => PASS_HELP,
        };
        self.halt(
            header,
            "source.unsupported_event",
            &format!("an event that can't be read yet, {name} (type {event_type}),"),
            help,
        )
    }
}

/// The beginning of a statement, for a message. Values may be secrets: not more than a name's worth.
pub(super) fn excerpt(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql);
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    words.join(" ").chars().take(60).collect()
}
