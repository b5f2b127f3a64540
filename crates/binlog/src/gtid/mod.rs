//! GTIDs and sets of them, of both flavours.

pub(crate) mod event;
mod maria;
mod set;
mod tag;
mod uuid;

use std::fmt;
use std::str::FromStr;

pub use maria::{MariaGtid, MariaGtidPos};
pub use set::{GtidSet, Interval};
pub use tag::{Tag, Tsid};
pub use uuid::Uuid;

use crate::Flavor;

/// Text that is no GTID, GTID set or position.
///
/// ```
/// use rowbust_binlog::{Gtid, GtidParseError};
/// let refused = "0-1".parse::<Gtid>();
/// assert!(matches!(refused, Err(GtidParseError::Malformed { .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GtidParseError {
    /// Not of the form that the flavour prints.
    #[error("`{text}` is not {expected}")]
    Malformed {
        /// The part that doesn't fit.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl GtidParseError {
    fn malformed(text: &str, expected: &'static str) -> Self {
        Self::Malformed { text: text.to_owned(), expected }
    }
}

/// The GTID of one transaction.
///
/// ```
/// use rowbust_binlog::{Gtid, MariaGtid};
/// let gtid: Gtid = "0-1-41".parse()?;
/// assert_eq!(gtid, Gtid::MariaDb(MariaGtid { domain: 0, server: 1, seq: 41 }));
/// let gtid: Gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".parse()?;
/// assert!(matches!(gtid, Gtid::MySql { gno: 23, .. }));
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// MySQL: `uuid:gno`, or `uuid:tag:gno`.
    MySql {
        /// The server on which the transaction was first committed, and its tag.
        tsid: Tsid,
        /// Its number there, from 1.
        gno: u64,
    },
    /// MariaDB: `domain-server-sequence`.
    MariaDb(MariaGtid),
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql { tsid, gno } => write!(f, "{tsid}:{gno}"),
            Self::MariaDb(gtid) => gtid.fmt(f),
        }
    }
}

impl FromStr for Gtid {
    type Err = GtidParseError;

    /// Either flavour, told apart by MySQL's colon.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let Some((uuid, rest)) = text.split_once(':') else {
            return text.parse().map(Self::MariaDb);
        };
        let mut tsid = Tsid::from(uuid.parse::<Uuid>()?);
        let gno = match rest.split_once(':') {
            Some((tag, gno)) => {
                tsid.tag = tag.trim().parse()?;
                gno
            }
            None => rest,
        };
        Ok(Self::MySql { tsid, gno: set::parse_gno(gno, text)? })
    }
}

/// What has been done so far, in GTIDs: what a replica sends to say where to go on.
///
/// ```
/// use rowbust_binlog::{Flavor, GtidState};
/// let mut done = GtidState::parse(Flavor::MariaDb, "0-1-40")?;
/// assert!(!done.contains("0-1-41".parse()?));
/// done.add("0-1-41".parse()?);
/// assert_eq!(done.to_string(), "0-1-41");
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidState {
    /// MySQL: the set of all transactions.
    MySql(GtidSet),
    /// MariaDB: the last one of each domain.
    MariaDb(MariaGtidPos),
}

impl GtidState {
    /// Nothing done yet.
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => Self::MySql(GtidSet::new()),
            Flavor::MariaDb => Self::MariaDb(MariaGtidPos::new()),
        }
    }

    /// Reads `@@gtid_executed` or `@@gtid_binlog_pos`; whitespace is allowed around its parts.
    pub fn parse(flavor: Flavor, text: &str) -> Result<Self, GtidParseError> {
        match flavor {
            Flavor::MySql => text.parse().map(Self::MySql),
            Flavor::MariaDb => text.parse().map(Self::MariaDb),
        }
    }

    /// The flavour of these GTIDs.
    pub fn flavor(&self) -> Flavor {
        match self {
            Self::MySql(_) => Flavor::MySql,
            Self::MariaDb(_) => Flavor::MariaDb,
        }
    }

    /// Adds a finished transaction. False, and nothing changes, if it is of the other flavour.
    pub fn add(&mut self, gtid: Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql { tsid, gno }) => set.add(tsid, gno),
            (Self::MariaDb(pos), Gtid::MariaDb(gtid)) => pos.update(gtid),
            _ => return false,
        }
        true
    }

    /// Is this transaction done? On MariaDB: has its domain reached its sequence number?
    pub fn contains(&self, gtid: Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql { tsid, gno }) => set.contains(tsid, gno),
            (Self::MariaDb(pos), Gtid::MariaDb(gtid)) => {
                pos.get(gtid.domain).is_some_and(|last| last.seq >= gtid.seq)
            }
            _ => false,
        }
    }

    /// Is all of `other` done here? False for the other flavour.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(a), Self::MySql(b)) => b.is_subset_of(a),
            (Self::MariaDb(a), Self::MariaDb(b)) => a.is_at_or_past(b),
            _ => false,
        }
    }

    /// Nothing done yet.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MySql(set) => set.is_empty(),
            Self::MariaDb(pos) => pos.is_empty(),
        }
    }
}

impl fmt::Display for GtidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => set.fmt(f),
            Self::MariaDb(pos) => pos.fmt(f),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn reads_what_mysql_prints() {
        let text = format!("{UUID}:1-3:11:47-49,\n 00000000-0000-0000-0000-000000000001:5");
        let set: GtidSet = text.parse().unwrap();
        assert_eq!(set.to_string(), format!("00000000-0000-0000-0000-000000000001:5,{UUID}:1-3:11:47-49"));
        assert!(set.contains(UUID.to_ascii_uppercase().parse::<Uuid>().unwrap(), 48));
        assert!(!set.contains(UUID.parse::<Uuid>().unwrap(), 4));
        assert!("".parse::<GtidSet>().unwrap().is_empty());
        for wrong in ["x", UUID, &format!("{UUID}:"), &format!("{UUID}:0"), &format!("{UUID}:3-1"), "1-2-3"] {
            assert!(matches!(wrong.parse::<GtidSet>(), Err(GtidParseError::Malformed { .. })), "{wrong}");
        }
    }

    #[test]
    fn tags_hold_for_the_intervals_behind_them() {
        let set: GtidSet = format!("{UUID}:b:5:A_1:3-4:1:b:6:a_1:2, {UUID}:7").parse().unwrap();
        assert_eq!(set.to_string(), format!("{UUID}:7:a_1:1-4:b:5-6"));
        let tagged = |tag: &str| Tsid { uuid: UUID.parse().unwrap(), tag: tag.parse().unwrap() };
        assert!(set.contains(tagged("A_1"), 4) && !set.contains(tagged("b"), 4));
        assert!(!set.contains(tagged("a_1").uuid, 4));
        let long = "t".repeat(33);
        for wrong in ["tag", "tag:", "1:tag", "a:b:1", "-a:1", "1a:1", "a-b:1", "ž:1", &format!("{long}:1")]
        {
            let wrong = format!("{UUID}:{wrong}");
            assert!(wrong.parse::<GtidSet>().is_err(), "{wrong}");
        }
        let gtid: Gtid = format!("{UUID}:Tag_9:11").parse().unwrap();
        assert_eq!(gtid, Gtid::MySql { tsid: tagged("tag_9"), gno: 11 });
        assert_eq!(gtid.to_string(), format!("{UUID}:tag_9:11"));
        for wrong in ["tag", "tag:", "tag:tag:1", "1:tag", ":1", "9:1"] {
            assert!(format!("{UUID}:{wrong}").parse::<Gtid>().is_err(), "{wrong}");
        }
        assert_eq!(Tag::new(b""), Some(Tag::NONE));
        assert!("".parse::<Tag>().is_err() && Tag::new(b"a\0").is_none());
        assert_eq!(Tag::new(&long.as_bytes()[1..]).unwrap().as_str().len(), 32);
    }

    #[test]
    fn reads_what_mariadb_prints() {
        let pos: MariaGtidPos = "1-2-7, 0-1-5".parse().unwrap();
        assert_eq!(pos.to_string(), "0-1-5,1-2-7");
        for wrong in ["0-1", "0-1-2-3", "0-1-x", "+0-1-2", "0-1-5,0-2-6", "0-1-5,"] {
            assert!(wrong.parse::<MariaGtidPos>().is_err(), "{wrong}");
        }
        assert_eq!("0-1-5".parse::<Gtid>().unwrap().to_string(), "0-1-5");
    }

    #[test]
    fn states_grow_only_by_their_own_flavour() {
        let mysql: Gtid = format!("{UUID}:4").parse().unwrap();
        let maria: Gtid = "0-1-5".parse().unwrap();
        let mut state = GtidState::parse(Flavor::MySql, &format!("{UUID}:1-3")).unwrap();
        let start = state.clone();
        assert!(!state.contains(mysql) && state.add(mysql) && state.contains(mysql));
        assert!(!state.add(maria) && !state.contains(maria));
        assert_eq!(state.to_string(), format!("{UUID}:1-4"));
        assert!(state.includes(&start) && !start.includes(&state));
        let mut state = GtidState::empty(Flavor::MariaDb);
        assert!(state.is_empty() && state.add(maria) && !state.add(mysql));
        assert!(state.contains("0-9-4".parse().unwrap()) && !state.contains("1-1-1".parse().unwrap()));
        assert!(!state.includes(&start));
    }
}
