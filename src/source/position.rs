//! Places in a binlog, and what a group of commits needs to be told visible.
//!
//! Guarantees: coordinates of different files are never compared as "less"; a [`CommitSpan`] names every commit that
//! was added to it. May depend on `rowbust-binlog` only.

use std::{fmt, sync::Arc};

use rowbust_binlog::{Gtid, GtidSet, GtidState, MariaGtidPos, RawEvent, Tsid};
use serde::{Deserialize, Serialize};
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

    /// Whether this place is behind the other one in the same server's log; `None`: their files aren't of one log.
    pub fn is_behind(&self, other: &Self) -> Option<bool> {
        if self.file == other.file {
            return Some(self.position > other.position);
        }
        let parts = |file: &str| {
            let (base, number) = file.rsplit_once('.')?;
            Some((base.to_owned(), number.parse::<u64>().ok()?))
        };
        let (own, others) = (parts(&self.file)?, parts(&other.file)?);
        (own.0 == others.0).then_some(own.1 > others.1)
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// The last event of the newest transaction. Read again before a stream goes on behind it, it tells whether the log is still
/// the one that was read: after RESET MASTER files, positions and GTIDs come again, with other events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Bytes of the event, which ends at the position.
    pub size: u32,
    /// Its type code.
    pub event_type: u8,
    /// Its time, in Unix seconds.
    pub timestamp: u32,
    /// The checksum behind it; without one, that of its body.
    pub crc: u32,
}

impl Anchor {
    /// The longest event that is worth being read again.
    const LARGEST: u32 = 1 << 20;

    /// Of an event that ends a transaction.
    pub fn of(event: &RawEvent<'_>) -> Option<Self> {
        let header = &event.header;
        (header.event_size <= Self::LARGEST).then(|| Self {
            size: header.event_size,
            event_type: header.event_type,
            timestamp: header.timestamp,
            crc: event.crc.unwrap_or_else(|| crc32fast::hash(event.body)),
        })
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
    /// One of them is an XA COMMIT on MariaDB, where no witness but a locking read tells when it is visible: after all others are, a
    /// delay stands for it.
    pub by_delay: bool,
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

/// From here on ranges are joined before more memory is taken.
const MANY_RANGES: usize = 64;

impl CommitSpan {
    /// A span of one transaction. `at`: the end of its GTID event.
    pub fn new(gtid: Option<Gtid>, at: Coordinates) -> Self {
        let mut span = Self { gtids: SmallVec::new(), last: at, by_delay: false };
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
        self.by_delay |= later.by_delay;
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
            (range, _) => {
                if self.gtids.len() >= MANY_RANGES && self.gtids.len() == self.gtids.capacity() {
                    self.compact();
                }
                self.gtids.push(range);
            }
        }
    }

    /// Joins what follows each other somewhere: commits of several servers or domains in turn must not add up while something
    /// holds the checkpoint.
    fn compact(&mut self) {
        let (set, pos) = (self.gtid_set(), self.maria_pos());
        self.gtids.clear();
        self.extend(&set, &pos);
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

    /// Everything before a position.
    pub fn of_position(position: &Position) -> Self {
        let mut span = Self { gtids: SmallVec::new(), last: position.at.clone(), by_delay: false };
        match &position.gtids {
            GtidState::MySql(set) => span.extend(set, &MariaGtidPos::default()),
            GtidState::MariaDb(pos) => span.extend(&GtidSet::default(), pos),
        }
        span
    }

    fn extend(&mut self, set: &GtidSet, pos: &MariaGtidPos) {
        for (tsid, intervals) in set.iter() {
            let ranges = intervals.iter();
            self.gtids.extend(ranges.map(|i| GtidRange::MySql { tsid, first: i.start, last: i.end }));
        }
        self.gtids.extend(pos.iter().map(GtidRange::MariaDb));
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
        let mut span = Self { gtids: SmallVec::new(), last, by_delay: false };
        if gtids.is_empty() {
            return Some(span);
        }
        if let Ok(set) = gtids.parse::<GtidSet>() {
            span.extend(&set, &MariaGtidPos::default());
            return Some(span);
        }
        let pos = gtids.parse::<MariaGtidPos>().ok()?;
        span.extend(&GtidSet::default(), &pos);
        Some(span)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Commits of two servers in turn, as a replica's log has them.
    #[test]
    fn ranges_do_not_add_up() {
        let uuids: [rowbust_binlog::Uuid; 2] =
            ["3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"]
                .map(|uuid| uuid.parse().unwrap());
        let at = Coordinates { file: "b.000001".into(), position: 4 };
        let mut span = CommitSpan::new(None, at.clone());
        for gno in 1..=50_000 {
            for uuid in uuids {
                span.add(Some(Gtid::MySql { tsid: uuid.into(), gno }), &at);
            }
        }
        assert_eq!(span.gtid_text(), format!("{}:1-50000,{}:1-50000", uuids[0], uuids[1]));
        assert!(span.footprint() < 20_000, "{}", span.footprint());
    }
}
