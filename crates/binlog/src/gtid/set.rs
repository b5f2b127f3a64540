//! MySQL's GTID sets: per server UUID, sorted disjoint intervals of transaction numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidParseError, Uuid};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::Reader;

/// The highest transaction number that MySQL gives (`GNO_END` - 1 in `sql/rpl_gtid.h`).
const MAX_GNO: u64 = i64::MAX as u64 - 1;

/// Transaction numbers from `start` to `end`, both included.
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

/// A set of untagged GTIDs (`@@gtid_executed`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// Never holds an empty list; intervals are sorted, and at least one number apart.
    servers: BTreeMap<Uuid, Vec<Interval>>,
}

impl GtidSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one transaction.
    pub fn add(&mut self, uuid: Uuid, gno: u64) {
        self.add_range(uuid, gno, gno);
    }

    /// Adds the transactions from `start` to `end`, both included; nothing if `start > end`.
    pub fn add_range(&mut self, uuid: Uuid, start: u64, end: u64) {
        if start > end {
            return;
        }
        let list = self.servers.entry(uuid).or_default();
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
    pub fn contains(&self, uuid: Uuid, gno: u64) -> bool {
        self.contains_range(uuid, Interval { start: gno, end: gno })
    }

    fn contains_range(&self, uuid: Uuid, range: Interval) -> bool {
        self.servers.get(&uuid).is_some_and(|list| {
            let at = list.partition_point(|i| i.end < range.start);
            list.get(at).is_some_and(|i| i.start <= range.start && range.end <= i.end)
        })
    }

    /// Is every transaction of this set in `other`?
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.iter().all(|(uuid, list)| list.iter().all(|i| other.contains_range(uuid, *i)))
    }

    /// Adds all transactions of `other`.
    pub fn union(&mut self, other: &Self) {
        for (uuid, list) in other.iter() {
            for i in list {
                self.add_range(uuid, i.start, i.end);
            }
        }
    }

    /// Holds no transaction.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The servers in the order of their UUIDs, each with its sorted intervals.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &[Interval])> {
        self.servers.iter().map(|(uuid, list)| (*uuid, list.as_slice()))
    }

    /// Reads the body of a PREVIOUS_GTIDS event, or the set in a `COM_BINLOG_DUMP_GTID` packet: number of
    /// servers, then per server its UUID, the number of intervals, and each one's start and exclusive end.
    pub fn decode(body: &[u8], event_type: u8) -> Result<Self, DecodeError> {
        let mut r = Reader::body(body, event_type);
        let servers = r.u64("number of servers")?;
        // Format 1 (MySQL 8.3) tells itself by the first and the last byte: `Gtid_set::get_encoding`.
        if servers >> 56 == 1 {
            return Err(r.error(DecodeErrorKind::Unsupported("a GTID set with tagged GTIDs is")));
        }
        let mut set = Self::new();
        for _ in 0..servers {
            let uuid = Uuid(r.array("server UUID")?);
            for _ in 0..r.u64("number of intervals")? {
                let start = r.u64("interval start")?;
                let end = r.u64("interval end")?;
                if start == 0 || start >= end || end - 1 > MAX_GNO {
                    return Err(r.error(DecodeErrorKind::Invalid { what: "GTID interval's end", got: end }));
                }
                set.add_range(uuid, start, end - 1);
            }
        }
        if !r.is_empty() {
            return Err(
                r.error(DecodeErrorKind::Invalid { what: "bytes behind the set", got: r.left() as u64 })
            );
        }
        Ok(set)
    }
}

impl fmt::Display for GtidSet {
    /// As MySQL prints it, without its line breaks: `uuid:1-5:7,uuid:3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (uuid, list)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            uuid.fmt(f)?;
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

    /// As MySQL prints and reads it: whitespace is allowed anywhere between the parts, intervals may overlap.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::new();
        for server in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let mut parts = server.split(':').map(str::trim);
            let uuid: Uuid = parts.next().unwrap_or_default().parse()?;
            let mut any = false;
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    return Err(GtidParseError::Tagged(server.to_owned()));
                }
                let (start, end) = part.split_once('-').unwrap_or((part, part));
                let (start, end) = (parse_gno(start, server)?, parse_gno(end, server)?);
                if start > end {
                    return Err(GtidParseError::malformed(part, "an interval of transaction numbers"));
                }
                set.add_range(uuid, start, end);
                any = true;
            }
            if !any {
                return Err(GtidParseError::malformed(server, "a GTID set (uuid:1-5:7,…)"));
            }
        }
        Ok(set)
    }
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
