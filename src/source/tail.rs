//! Whether the server crashed and may have lost its newest commits, of which readers may have cached what they wrote.
//!
//! Guarantees: a file that is left for another without a STOP or ROTATE is a [`SourceError::Gap`], unless the server loses nothing in a
//! crash, or it was before anything was followed. Ends of files are seen in
//! the stream ([`super::follow`]), and where that begins behind one, on the way there ([`super::anchor`]). May depend on `position` and
//! `error`.

use super::{error::SourceError, position::Coordinates};

/// What is known of the end of the file at hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    /// Nothing is lost by a crash.
    safe: bool,
    since: u32,
    /// A file was entered since the stream began: the first one says where it begins.
    entered: bool,
    /// The file's end lies behind what was read.
    within: bool,
    /// It was written in order.
    closed: bool,
    /// Where the file before ends that wasn't.
    cut: Option<Coordinates>,
}

impl Tail {
    /// `safe`: the server loses nothing in a crash.
    pub(super) fn connected(&mut self, safe: bool) {
        self.safe = safe;
    }

    /// What was lost before `time` (Unix seconds) concerns nobody.
    pub(super) fn covers_from(&mut self, time: u32) {
        self.since = time;
    }

    /// A stream begins: what was read of the file before tells nothing of its end.
    pub(super) fn begins(&mut self) {
        (self.entered, self.within, self.closed, self.cut) = (false, false, false, None);
    }

    /// The stream is at a place behind which nothing was read.
    pub(super) fn within(&mut self) {
        self.within = true;
    }

    /// STOP or ROTATE.
    pub(super) fn closed(&mut self) {
        self.closed = true;
    }

    /// The dump thread says that `file` begins. The one before ends at `here`, whose file is `file` if its ROTATE was read.
    pub(super) fn enters(&mut self, file: &str, here: &Coordinates) {
        if std::mem::replace(&mut self.entered, true) {
            let cut = *here.file != *file && self.within && !self.closed;
            self.cut = cut.then(|| here.clone());
            self.within = true;
        }
        self.closed = false;
    }

    /// Whether the file before has no end.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The format description of the file at hand, which was written at `time` by the server's clock. Whether it says that the server
    /// was started then is no matter: MySQL takes that out of streams by GTIDs (`m_gtid_clear_fd_created_flag`).
    pub(super) fn described(&mut self, time: u32) -> Result<(), SourceError> {
        match self.cut.take() {
            Some(at) if !self.safe && time >= self.since => Err(lost(&at)),
            _ => Ok(()),
        }
    }
}

/// The gap behind `at`.
fn lost(at: &Coordinates) -> SourceError {
    SourceError::gap(format!(
        "the server crashed at {at} and may have lost commits that readers saw: its sync_binlog and \
         innodb_flush_log_at_trx_commit aren't both 1, and `source.lossless` isn't true"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: &str) -> Coordinates {
        Coordinates { file: file.into(), position: 99 }
    }

    fn crash(before: impl FnOnce(&mut Tail)) -> Result<(), SourceError> {
        let mut tail = Tail::default();
        tail.begins();
        tail.enters("b.1", &at(""));
        tail.within();
        before(&mut tail);
        tail.enters("b.2", &at("b.1"));
        tail.described(1_000)
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
            tail.enters("b.1", &at("b.1"));
        };
        assert!(crash(rotated).is_err());
    }

    /// A file without a transaction, but for which the server was started or that was rotated to.
    #[test]
    fn an_empty_file_may_end_in_a_crash() {
        let mut tail = Tail::default();
        tail.begins();
        tail.enters("b.1", &at(""));
        tail.within();
        tail.closed();
        tail.enters("b.2", &at("b.1"));
        assert!(tail.described(1_000).is_ok());
        tail.enters("b.3", &at("b.2"));
        assert!(tail.described(1_001).is_err());
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
