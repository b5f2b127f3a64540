//! Places in a binlog, and what a group of commits needs to be told visible.
//!
//! Guarantees: coordinates of different files are never compared as "less"; a [`CommitSpan`] names every commit that
//! was added to it. May depend on `rowbust-binlog` only.

use std::{fmt, sync::Arc};

use rowbust_binlog::{Gtid, GtidSet, GtidState, MariaGtidPos, Tsid};
use smallvec::SmallVec;

/// A binlog file and a byte offset in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// File name as in `SHOW BINARY LOGS`.
    pub file: Arc<str>,
    /// Byte offset, 64 bits also where the event header only has 32.
    pub position: u64,
}

impl Coordinates {
    /// Takes over `other`. Within one file, which is nearly always, without touching the name's reference count: it is shared
    /// with other threads.
    pub fn move_to(&mut self, other: &Self) {
        if !Arc::ptr_eq(&self.file, &other.file) {
            self.file = Arc::clone(&other.file);
        }
        self.position = other.position;
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// Where a stream may begin: everything in `gtids` is done, and `at` is the end of the newest transaction of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Executed set (MySQL) or last GTID of each domain (MariaDB).
    pub gtids: GtidState,
    /// The end of the transaction, in the files of the server that it was read from.
    pub at: Coordinates,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.gtids, self.at)
    }
}

/// The commits whose rows a segment of keys came from: what must be visible before their second removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSpan {
    gtids: SmallVec<[GtidRange; 1]>,
    /// End of the newest transaction's GTID event: the witness by position asks for a snapshot at or past it. Snapshots lie on
    /// transaction boundaries, so one that is past the beginning of a transaction is past its end.
    pub last: Coordinates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GtidRange {
    MySql { tsid: Tsid, first: u64, last: u64 },
    MariaDb(rowbust_binlog::MariaGtid),
}

impl From<Gtid> for GtidRange {
    fn from(gtid: Gtid) -> Self {
        match gtid {
            Gtid::MySql { tsid, gno } => Self::MySql { tsid, first: gno, last: gno },
            Gtid::MariaDb(gtid) => Self::MariaDb(gtid),
        }
    }
}

impl CommitSpan {
    /// A span of one transaction. `at`: the end of its GTID event.
    pub fn new(gtid: Option<Gtid>, at: Coordinates) -> Self {
        let mut span = Self { gtids: SmallVec::new(), last: at };
        if let Some(gtid) = gtid {
            span.push(gtid.into());
        }
        span
    }

    /// Adds a transaction that came after the ones before.
    pub fn add(&mut self, gtid: Option<Gtid>, at: &Coordinates) {
        if let Some(gtid) = gtid {
            self.push(gtid.into());
        }
        self.last.move_to(at);
    }

    /// Adds the commits of a span that came after the ones before.
    pub fn append(&mut self, later: &Self) {
        for range in &later.gtids {
            self.push(*range);
        }
        self.last.move_to(&later.last);
    }

    /// Joins what follows the newest range without a hole.
    fn push(&mut self, range: GtidRange) {
        match (range, self.gtids.last_mut()) {
            (GtidRange::MySql { tsid, first, last: end }, Some(GtidRange::MySql { tsid: t, last, .. }))
                if *t == tsid && last.checked_add(1) == Some(first) =>
            {
                *last = end;
            }
            (GtidRange::MariaDb(new), Some(GtidRange::MariaDb(old))) if old.domain == new.domain => {
                *old = new
            }
            (range, _) => self.gtids.push(range),
        }
    }

    /// Bytes that it takes on the heap.
    pub fn footprint(&self) -> usize {
        if self.gtids.spilled() { self.gtids.capacity() * size_of::<GtidRange>() } else { 0 }
    }

    /// The commits as a MySQL GTID set; empty on MariaDB.
    pub fn gtid_set(&self) -> GtidSet {
        let mut set = GtidSet::default();
        for range in &self.gtids {
            if let GtidRange::MySql { tsid, first, last } = *range {
                set.add_range(tsid, first, last);
            }
        }
        set
    }

    /// The newest GTID of each domain; empty on MySQL.
    pub fn maria_pos(&self) -> MariaGtidPos {
        let mut pos = MariaGtidPos::default();
        for range in &self.gtids {
            if let GtidRange::MariaDb(gtid) = *range {
                pos.update(gtid);
            }
        }
        pos
    }

    /// The GTIDs as text: a set on MySQL, the newest of each domain on MariaDB, empty where there are none.
    pub fn gtid_text(&self) -> String {
        if matches!(self.gtids.first(), Some(GtidRange::MySql { .. })) {
            self.gtid_set().to_string()
        } else {
            self.maria_pos().to_string()
        }
    }

    /// Whether no GTID is known (anonymous transactions).
    pub fn is_anonymous(&self) -> bool {
        self.gtids.is_empty()
    }

    /// Marks every commit of this span as done in `state`. GTIDs of the other flavor are ignored.
    pub fn apply(&self, state: &mut GtidState) {
        for range in &self.gtids {
            match (state as &mut GtidState, *range) {
                (GtidState::MySql(set), GtidRange::MySql { tsid, first, last }) => {
                    set.add_range(tsid, first, last)
                }
                (GtidState::MariaDb(pos), GtidRange::MariaDb(gtid)) => pos.update(gtid),
                _ => {}
            }
        }
    }

    /// The inverse of [`CommitSpan::gtid_text`], for records that were stored. `None` when the text is neither form.
    pub fn parse(gtids: &str, last: Coordinates) -> Option<Self> {
        let mut span = Self { gtids: SmallVec::new(), last };
        if gtids.is_empty() {
            return Some(span);
        }
        if let Ok(set) = gtids.parse::<GtidSet>() {
            for (tsid, intervals) in set.iter() {
                span.gtids.extend(intervals.iter().map(|i| GtidRange::MySql {
                    tsid,
                    first: i.start,
                    last: i.end,
                }));
            }
            return Some(span);
        }
        let pos = gtids.parse::<MariaGtidPos>().ok()?;
        span.gtids.extend(pos.iter().map(GtidRange::MariaDb));
        Some(span)
    }
}
