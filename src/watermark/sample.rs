//! What a server said, when, and which commits that covers.
//!
//! Guarantees: a sample covers a commit only if the witness proves it; coordinates are compared only within one server's
//! files, by their numbers. May depend on `source::position`.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    time::{Duration, Instant},
};

use rowbust_binlog::{GtidSet, MariaGtidPos};

use crate::source::position::{CommitSpan, Coordinates};

/// What is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Visible {
    /// These transactions.
    Gtids(GtidSet),
    /// Everything up to these GTIDs of each domain.
    MariaPos(MariaGtidPos),
    /// Everything before these coordinates, in files of the primary.
    UpTo {
        at: Coordinates,
        /// Older files count as visible too: see [`super::Witness::BinlogSnapshot`].
        older_files: bool,
    },
}

impl Visible {
    fn covers(&self, span: &Span<'_>) -> bool {
        match self {
            Self::Gtids(set) => !span.span.is_anonymous() && span.gtids.is_subset_of(set),
            Self::MariaPos(pos) => !span.span.is_anonymous() && pos.is_at_or_past(&span.maria),
            Self::UpTo { at, older_files } => match compare_files(&span.span.last.file, &at.file) {
                Some(Ordering::Equal) => span.span.last.position <= at.position,
                Some(Ordering::Less) => *older_files,
                _ => false,
            },
        }
    }
}

/// A span with its sets, which are made once per question.
struct Span<'a> {
    span: &'a CommitSpan,
    gtids: GtidSet,
    maria: MariaGtidPos,
}

/// Files of one server: the same base name, ordered by the number behind the last dot. `None`: not of one server.
pub(super) fn compare_files(a: &str, b: &str) -> Option<Ordering> {
    if a == b {
        return Some(Ordering::Equal);
    }
    let number = |file: &str| file.rsplit_once('.').and_then(|(_, n)| n.parse::<u64>().ok());
    let base = |file: &str| file.rsplit_once('.').map(|(base, _)| base.to_owned());
    if base(a) != base(b) {
        return None;
    }
    Some(number(a)?.cmp(&number(b)?))
}

/// Samples of the last time, the newest one among them. What is visible only grows, so they are ordered.
#[derive(Debug, Default)]
pub(super) struct Ring {
    history: VecDeque<(Instant, Visible)>,
    newest: Option<(Instant, Visible)>,
}

/// History has at most this many samples, this far apart or more. When it is full, one goes that has neighbours close by
/// for its age, so that it reaches back for a day: the answer for an old commit may get later, but by no more than about
/// half of its age.
const HISTORY: usize = 64;
const SPACING: Duration = Duration::from_millis(250);

impl Ring {
    /// `at`: when the answer had arrived.
    pub(super) fn push(&mut self, at: Instant, visible: Visible) {
        if self.history.back().is_none_or(|(last, _)| at.duration_since(*last) >= SPACING) {
            if self.history.len() == HISTORY {
                let close = (1..HISTORY - 1).find(|&i| {
                    let (before, after) = (self.history[i - 1].0, self.history[i + 1].0);
                    after.duration_since(before) * 2 <= at.duration_since(after)
                });
                self.history.remove(close.unwrap_or(0));
            }
            self.history.push_back((at, visible.clone()));
        }
        self.newest = Some((at, visible));
    }

    /// Another witness, or another server: what was sampled says nothing any more.
    pub(super) fn clear(&mut self) {
        self.history.clear();
        self.newest = None;
    }

    pub(super) fn newest(&self) -> Option<Instant> {
        self.newest.as_ref().map(|(at, _)| *at)
    }

    /// When the oldest sample that covers the span was taken.
    pub(super) fn since(&self, span: &CommitSpan) -> Option<Instant> {
        let (newest_at, newest) = self.newest.as_ref()?;
        let span = Span { span, gtids: span.gtid_set(), maria: span.maria_pos() };
        if !newest.covers(&span) {
            return None;
        }
        let first = self.history.partition_point(|(_, visible)| !visible.covers(&span));
        Some(self.history.get(first).map_or(*newest_at, |(at, _)| *at))
    }
}

/// When things were received.
#[derive(Debug, Default)]
pub(super) struct Received {
    marks: VecDeque<(Instant, Coordinates)>,
}

/// Marks are this far apart; what comes in between counts from the later one.
const MARK_SPACING: Duration = Duration::from_millis(10);
const MARKS: usize = 512;

impl Received {
    pub(super) fn push(&mut self, last: &Coordinates, now: Instant) {
        // A batch's time may only get later, so the mark that is replaced is the newest, by the newest.
        if self.marks.len() > 1
            && let (Some(back), Some(before)) = (self.marks.back(), self.marks.get(self.marks.len() - 2))
            && back.0.duration_since(before.0) < MARK_SPACING
        {
            self.marks.pop_back();
        }
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, last.clone()));
    }

    pub(super) fn newest(&self) -> Option<Coordinates> {
        self.marks.back().map(|(_, at)| at.clone())
    }

    /// The newest mark that is at least `delay` old.
    pub(super) fn older_than(&self, delay: Duration, now: Instant) -> Option<&Coordinates> {
        let upto = self.marks.partition_point(|(at, _)| now.duration_since(*at) >= delay);
        upto.checked_sub(1).and_then(|i| self.marks.get(i)).map(|(_, c)| c)
    }

    /// `delay` after `last` was received, if that is past.
    pub(super) fn delayed(&self, last: &Coordinates, delay: Duration) -> Option<Instant> {
        let at = self.marks.iter().find(|(_, mark)| match compare_files(&last.file, &mark.file) {
            Some(Ordering::Equal) => last.position <= mark.position,
            Some(Ordering::Less) => true,
            _ => false,
        })?;
        let since = at.0 + delay;
        (since <= Instant::now()).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(file: &str, position: u64) -> Coordinates {
        Coordinates { file: file.into(), position }
    }

    fn span(file: &str, position: u64) -> CommitSpan {
        CommitSpan::new(None, at(file, position))
    }

    #[test]
    fn files_are_ordered_by_number() {
        assert_eq!(compare_files("bin.000009", "bin.000010"), Some(Ordering::Less));
        assert_eq!(compare_files("bin.999999", "bin.1000000"), Some(Ordering::Less));
        assert_eq!(compare_files("a.000001", "b.000002"), None);
        assert_eq!(compare_files("bin", "bin.000001"), None);
        assert_eq!(compare_files("bin.000001", "bin.000001"), Some(Ordering::Equal));
    }

    #[test]
    fn a_newer_file_covers_older_ones_only_by_the_rule() {
        let mut ring = Ring::default();
        let now = Instant::now();
        ring.push(now, Visible::UpTo { at: at("b.000002", 300), older_files: false });
        assert_eq!(ring.since(&span("b.000001", 9_000)), None);
        assert_eq!(ring.since(&span("b.000002", 300)), Some(now));
        assert_eq!(ring.since(&span("b.000002", 301)), None);
        ring.push(now, Visible::UpTo { at: at("b.000002", 700), older_files: true });
        assert_eq!(ring.since(&span("b.000001", 9_000)), Some(now));
        assert_eq!(ring.since(&span("b.000003", 4)), None);
        assert_eq!(ring.since(&span("other.000001", 4)), None);
    }

    #[test]
    fn the_oldest_covering_sample_answers() {
        let mut ring = Ring::default();
        let start = Instant::now();
        let step = Duration::from_millis(250);
        for i in 0..10_u32 {
            ring.push(
                start + step * i,
                Visible::UpTo { at: at("b.000001", u64::from(i) * 100), older_files: true },
            );
        }
        assert_eq!(ring.since(&span("b.000001", 250)), Some(start + step * 3));
        assert_eq!(ring.since(&span("b.000001", 901)), None);
        // Between two samples of the history only the newest one knows.
        let soon = start + step * 9 + Duration::from_millis(10);
        ring.push(soon, Visible::UpTo { at: at("b.000001", 950), older_files: true });
        assert_eq!(ring.since(&span("b.000001", 901)), Some(soon));
        ring.clear();
        assert_eq!(ring.since(&span("b.000001", 1)), None);
    }

    #[test]
    fn old_commits_stay_old() {
        let mut ring = Ring::default();
        let start = Instant::now();
        let step = Duration::from_millis(250);
        for i in 1..=20_000_u32 {
            ring.push(
                start + step * i,
                Visible::UpTo { at: at("b.000001", u64::from(i)), older_files: true },
            );
            assert!(ring.history.len() <= HISTORY);
        }
        let now = start + step * 20_000;
        for age in [4, 40, 400, 4_000] {
            let since = ring.since(&span("b.000001", 20_000 - age)).unwrap();
            let known = now.duration_since(since);
            let truth = step * u32::try_from(age).unwrap();
            assert!(known <= truth && known >= truth / 3, "{age}: known {known:?}, true {truth:?}");
        }
    }

    #[test]
    fn gtids_must_be_in_the_set() {
        let uuid: rowbust_binlog::Uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse().unwrap();
        let gtid = |gno| Some(rowbust_binlog::Gtid::MySql { tsid: uuid.into(), gno });
        let mut ring = Ring::default();
        let now = Instant::now();
        ring.push(now, Visible::Gtids(format!("{uuid}:1-5:7").parse().unwrap()));
        let mut span = CommitSpan::new(gtid(4), at("b.1", 4));
        assert_eq!(ring.since(&span), Some(now));
        span.add(gtid(6), &at("b.1", 5));
        assert_eq!(ring.since(&span), None);
        // No GTID is no proof.
        assert_eq!(ring.since(&CommitSpan::new(None, at("b.1", 4))), None);
    }

    #[test]
    fn marks_may_only_get_later() {
        let mut received = Received::default();
        let start = Instant::now();
        for i in 0..100_u64 {
            received.push(&at("b.1", i), start + Duration::from_millis(i));
        }
        for i in 0..100_u64 {
            let (mark, _) = received.marks.iter().find(|(_, c)| c.position >= i).unwrap();
            assert!(*mark >= start + Duration::from_millis(i), "{i}");
        }
        assert!(received.marks.len() <= 12);
        let later = start + Duration::from_millis(1_050);
        let older = received.older_than(DELAYED, later).unwrap();
        assert!(older.position <= 50 && older.position >= 39, "{older}");
    }

    const DELAYED: Duration = Duration::from_secs(1);
}
