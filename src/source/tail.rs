//! Whether the server crashed and may have lost its newest commits, of which readers may have cached what they wrote.
//!
//! Guarantees: a file that is left without a STOP or ROTATE, for one that a new start of the server wrote, is a
//! [`SourceError::Gap`], unless the server loses nothing in a crash. May depend on `position` and `error`.

use crate::source::{error::SourceError, position::Coordinates};

/// What is known of the end of the file at hand.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Nothing is lost by a crash.
    safe: bool,
    from: u32,
    /// An event of the file was read since the stream began.
    read: bool,
    /// Its end was written in order.
    closed: bool,
    /// Where the file before ends that wasn't.
    cut: Option<Coordinates>,
}

impl Tail {
    pub(super) fn connected(&mut self, safe: bool) {
        self.safe = safe;
    }

    pub(super) fn covers_from(&mut self, time: u32) {
        self.from = time;
    }

    /// A stream begins: what was read of the file before tells nothing of its end.
    pub(super) fn begins(&mut self) {
        (self.read, self.closed, self.cut) = (false, false, None);
    }

    /// A transaction was read to its end.
    pub(super) fn read(&mut self) {
        self.read = true;
    }

    /// The file at hand begins: a ROTATE before was the end of another.
    pub(super) fn opened(&mut self) {
        self.closed = false;
    }

    /// STOP or ROTATE.
    pub(super) fn closed(&mut self) {
        self.closed = true;
    }

    /// The server goes on with another file than `here`.
    pub(super) fn left(&mut self, here: &Coordinates) {
        self.cut = (self.read && !self.closed).then(|| here.clone());
        (self.read, self.closed) = (false, false);
    }

    /// The file at hand is the first since the server's start at `time`, by its clock.
    pub(super) fn server_started(&mut self, time: u32) -> Result<(), SourceError> {
        match self.cut.take() {
            Some(at) if !self.safe && time >= self.from => Err(lost(&at)),
            _ => Ok(()),
        }
    }
}

/// The gap behind `at`.
pub(in crate::source) fn lost(at: &Coordinates) -> SourceError {
    SourceError::gap(format!(
        "the server crashed at {at} and may have lost commits that readers saw: its sync_binlog and \
         innodb_flush_log_at_trx_commit aren't both 1, and `source.lossless` isn't true"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(before: impl FnOnce(&mut Tail)) -> Result<(), SourceError> {
        let mut tail = Tail::default();
        tail.begins();
        tail.read();
        before(&mut tail);
        tail.left(&Coordinates { file: "b.1".into(), position: 99 });
        tail.server_started(1_000)
    }

    #[test]
    fn a_file_without_an_end_is_a_crash() {
        let gap = crash(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(gap.contains("crashed at b.1:99"), "{gap}");
    }

    #[test]
    fn an_orderly_end_is_none() {
        assert!(crash(Tail::closed).is_ok());
    }

    #[test]
    fn the_end_of_an_earlier_file_counts_for_that_one() {
        let rotated = |tail: &mut Tail| {
            tail.closed();
            tail.opened();
        };
        assert!(crash(rotated).is_err());
    }

    #[test]
    fn a_server_that_loses_nothing_may_crash() {
        assert!(crash(|tail| tail.connected(true)).is_ok());
    }

    #[test]
    fn what_was_before_the_first_start_was_never_followed() {
        assert!(crash(|tail| tail.covers_from(1_001)).is_ok());
        assert!(crash(|tail| tail.covers_from(1_000)).is_err());
    }

    #[test]
    fn a_stream_that_begins_with_the_new_file_tells_nothing() {
        assert!(crash(Tail::begins).is_ok());
    }
}
