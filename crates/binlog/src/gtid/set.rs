//! MySQL's GTID sets: per server and tag, sorted disjoint intervals of transaction numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidParseError, Tag, Tsid, Uuid};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::Reader;
use crate::varlen;

/// The highest transaction number that MySQL gives (`GNO_END` - 1 in `sql/rpl_gtid.h`).
pub(super) const MAX_GNO: u64 = i64::MAX as u64 - 1;

/// Transaction numbers from `start` to `end`, both included.
///
/// ```
/// use rowbust_binlog::{GtidSet, gtid::Interval};
/// let set: GtidSet = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:9".parse()?;
/// let (_, intervals) = set.iter().next().unwrap();
/// assert_eq!(intervals, [Interval { start: 1, end: 5 }, Interval { start: 9, end: 9 }]);
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The first number.
    pub start: u64,
    /// The last number.
    pub end: u64,
}

impl Interval {
    /// The number behind the last one: `COM_BINLOG_DUMP_GTID` and PREVIOUS_GTIDS count this way.
    pub fn end_exclusive(&self) -> u64 {
        self.end.saturating_add(1)
    }
}

/// A set of GTIDs (`@@gtid_executed`).
///
/// ```
/// use rowbust_binlog::GtidSet;
/// let server = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
/// let mut done: GtidSet = format!("{server}:1-5").parse()?;
/// done.add(server.parse::<rowbust_binlog::Uuid>()?, 6);
/// assert_eq!(done.to_string(), format!("{server}:1-6"));
/// let purged: GtidSet = format!("{server}:1-9").parse()?;
/// // What can't be had any more.
/// assert_eq!(purged.subtract(&done).to_string(), format!("{server}:7-9"));
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// Never holds an empty list; intervals are sorted, and at least one number apart.
    sources: BTreeMap<Tsid, Vec<Interval>>,
}

impl GtidSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one transaction.
    pub fn add(&mut self, source: impl Into<Tsid>, gno: u64) {
        self.add_range(source, gno, gno);
    }

    /// Adds the transactions from `start` to `end`, both included; nothing if `start > end`.
    pub fn add_range(&mut self, source: impl Into<Tsid>, start: u64, end: u64) {
        if start > end {
            return;
        }
        let list = self.sources.entry(source.into()).or_default();
        // The usual case: the next transaction of the last interval.
        if let Some(last) = list.last_mut()
            && start >= last.start
            && start <= last.end_exclusive()
        {
            last.end = last.end.max(end);
            return;
        }
        // All that overlaps or touches [start, end] becomes one interval.
        let from = list.partition_point(|i| i.end_exclusive() < start);
        let to = list.partition_point(|i| i.start <= end.saturating_add(1));
        let merged = match list.get(from..to) {
            Some([first, .., last]) => Interval { start: start.min(first.start), end: end.max(last.end) },
            Some([one]) => Interval { start: start.min(one.start), end: end.max(one.end) },
            _ => Interval { start, end },
        };
        list.splice(from..to.max(from), [merged]);
    }

    /// Is the transaction in the set?
    pub fn contains(&self, source: impl Into<Tsid>, gno: u64) -> bool {
        self.contains_range(source.into(), Interval { start: gno, end: gno })
    }

    fn contains_range(&self, source: Tsid, range: Interval) -> bool {
        self.sources.get(&source).is_some_and(|list| {
            let at = list.partition_point(|i| i.end < range.start);
            list.get(at).is_some_and(|i| i.start <= range.start && range.end <= i.end)
        })
    }

    /// Is every transaction of this set in `other`?
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.iter().all(|(source, list)| list.iter().all(|i| other.contains_range(source, *i)))
    }

    /// Adds all transactions of `other`.
    pub fn union(&mut self, other: &Self) {
        for (source, list) in other.iter() {
            for i in list {
                self.add_range(source, i.start, i.end);
            }
        }
    }

    /// The transactions of this set that `other` lacks (`GTID_SUBTRACT`).
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut left = Self::new();
        for (source, list) in self.iter() {
            let taken = other.sources.get(&source).map_or(&[][..], Vec::as_slice);
            for Interval { start, end } in list {
                let mut start = *start;
                let from = taken.partition_point(|i| i.end < start);
                for i in taken.get(from..).unwrap_or_default().iter().take_while(|i| i.start <= *end) {
                    if start < i.start {
                        left.add_range(source, start, i.start - 1);
                    }
                    start = i.end_exclusive();
                }
                left.add_range(source, start, *end);
            }
        }
        left
    }

    /// Holds no transaction.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The sources by UUID and tag, each with its sorted intervals.
    pub fn iter(&self) -> impl Iterator<Item = (Tsid, &[Interval])> {
        self.sources.iter().map(|(source, list)| (*source, list.as_slice()))
    }

    /// Reads the body of a PREVIOUS_GTIDS event, or the set in a `COM_BINLOG_DUMP_GTID` packet: what
    /// [`GtidSet::encode`] writes. `event_type` and offsets of errors: as if in such an event.
    pub fn decode(body: &[u8], event_type: u8) -> Result<Self, DecodeError> {
        let mut r = Reader::body(body, event_type);
        let head = r.u64("number of servers")?;
        let tagged = head >> 56 == TAGGED && head & 0xff == TAGGED;
        let sources = if tagged { (head << 8) >> 16 } else { head };
        let mut set = Self::new();
        for _ in 0..sources {
            let uuid = Uuid(r.array("server UUID")?);
            let mut tag = Tag::NONE;
            if tagged {
                let len = varlen::unsigned(&mut r, "length of a tag")?;
                let invalid = DecodeErrorKind::Invalid { what: "length of a tag", got: len };
                let len = usize::try_from(len).ok().filter(|len| *len <= Tag::MAX_LEN);
                let text = r.take(len.ok_or_else(|| r.error(invalid))?, "tag")?;
                tag = tag_of(text).ok_or_else(|| r.error(DecodeErrorKind::BadTag))?;
            }
            if set.sources.contains_key(&Tsid { uuid, tag }) {
                return Err(r.error(DecodeErrorKind::Invalid { what: "a server twice in the set", got: 0 }));
            }
            // The servers write them in order; any other would cost more than the bytes are worth.
            let mut last = 1;
            for _ in 0..r.u64("number of intervals")? {
                let start = r.u64("interval start")?;
                let end = r.u64("interval end")?;
                if start < last || start >= end || end - 1 > MAX_GNO {
                    return Err(r.error(DecodeErrorKind::Invalid { what: "GTID interval's end", got: end }));
                }
                last = end;
                set.add_range(Tsid { uuid, tag }, start, end - 1);
            }
        }
        if !r.is_empty() {
            return Err(
                r.error(DecodeErrorKind::Invalid { what: "bytes behind the set", got: r.left() as u64 })
            );
        }
        Ok(set)
    }

    /// Appends the binary form, which `COM_BINLOG_DUMP_GTID` and PREVIOUS_GTIDS use: number of sources, then of each
    /// its UUID, the number of intervals, and each one's start and exclusive end. With any tag in the set it is the
    /// form of MySQL 8.3: the number stands between two bytes of 1, and a tag behind each UUID
    /// (`Gtid_set::encode` in `sql/rpl_gtid_set.cc`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let tagged = self.sources.keys().any(|source| !source.tag.is_none());
        let sources = self.sources.len() as u64;
        let head = if tagged { TAGGED << 56 | sources << 8 | TAGGED } else { sources };
        out.extend(head.to_le_bytes());
        for (source, list) in self.iter() {
            out.extend(source.uuid.0);
            if tagged {
                let tag = source.tag.as_str();
                // One byte of variable length: at most 32, so that it always is enough.
                #[allow(clippy::cast_possible_truncation)]
                out.push((tag.len() as u8) << 1);
                out.extend(tag.as_bytes());
            }
            out.extend((list.len() as u64).to_le_bytes());
            for i in list {
                out.extend(i.start.to_le_bytes());
                out.extend(i.end_exclusive().to_le_bytes());
            }
        }
    }
}

/// `Gtid_format::tagged` in MySQL's `mysql/gtid/gtid_format.h`.
const TAGGED: u64 = 1;

/// A tag as the servers store it: already in lower case.
pub(super) fn tag_of(text: &[u8]) -> Option<Tag> {
    Tag::new(text).filter(|tag| tag.as_str().as_bytes() == text)
}

impl fmt::Display for GtidSet {
    /// As MySQL prints it, without its line breaks: `uuid:1-5:7,uuid:3:tag:1-2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut uuid = None;
        for (source, list) in self.iter() {
            if uuid == Some(source.uuid) {
                write!(f, ":{}", source.tag)?;
            } else {
                if uuid.is_some() {
                    f.write_str(",")?;
                }
                source.fmt(f)?;
                uuid = Some(source.uuid);
            }
            for Interval { start, end } in list {
                write!(f, ":{start}")?;
                if end > start {
                    write!(f, "-{end}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = GtidParseError;

    /// As MySQL prints and reads it: whitespace is allowed anywhere between the parts, intervals may overlap, a tag
    /// holds for the intervals behind it, up to the next tag or server.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::new();
        for server in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let mut parts = server.split(':').map(str::trim);
            let uuid: Uuid = parts.next().unwrap_or_default().parse()?;
            let mut source = Tsid::from(uuid);
            let mut any = false;
            for part in parts {
                if is_tag(part) {
                    if !any && !source.tag.is_none() {
                        break;
                    }
                    source.tag = part.parse()?;
                    any = false;
                    continue;
                }
                let (start, end) = part.split_once('-').unwrap_or((part, part));
                let (start, end) = (parse_gno(start, server)?, parse_gno(end, server)?);
                if start > end {
                    return Err(GtidParseError::malformed(part, "an interval of transaction numbers"));
                }
                set.add_range(source, start, end);
                any = true;
            }
            if !any {
                return Err(GtidParseError::malformed(server, "a GTID set (uuid:1-5:7:tag:3,…)"));
            }
        }
        Ok(set)
    }
}

/// Between colons: a tag, or an interval?
pub(super) fn is_tag(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// A transaction number: digits, 1 or more.
pub(super) fn parse_gno(text: &str, whole: &str) -> Result<u64, GtidParseError> {
    let text = text.trim();
    Some(text)
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|t| t.parse().ok())
        .filter(|gno| (1..=MAX_GNO).contains(gno))
        .ok_or_else(|| GtidParseError::malformed(whole, "a GTID with a transaction number from 1"))
}
