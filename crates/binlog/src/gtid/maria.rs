//! MariaDB's GTIDs: a domain is a stream of its own, and a position is the last GTID of each.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::GtidParseError;

/// `domain-server-sequence`.
///
/// ```
/// use rowbust_binlog::MariaGtid;
/// let gtid: MariaGtid = "0-1-41".parse()?;
/// assert_eq!(gtid, MariaGtid { domain: 0, server: 1, seq: 41 });
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MariaGtid {
    /// `gtid_domain_id`: the stream.
    pub domain: u32,
    /// `server_id` of the server on which the transaction was first committed.
    pub server: u32,
    /// The number within the domain.
    pub seq: u64,
}

impl fmt::Display for MariaGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}

impl FromStr for MariaGtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let mut parts = text.split('-');
        let gtid = (|| {
            let gtid = Self {
                domain: digits(parts.next()?)?.parse().ok()?,
                server: digits(parts.next()?)?.parse().ok()?,
                seq: digits(parts.next()?)?.parse().ok()?,
            };
            parts.next().is_none().then_some(gtid)
        })();
        gtid.ok_or_else(|| GtidParseError::malformed(text, "a MariaDB GTID (domain-server-sequence)"))
    }
}

/// Digits only: `parse` alone would accept a plus sign.
fn digits(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

/// The last GTID of each domain: `@@gtid_binlog_pos`, `@@gtid_slave_pos`.
///
/// ```
/// use rowbust_binlog::MariaGtidPos;
/// let mut done: MariaGtidPos = "0-1-40,1-1-7".parse()?;
/// done.update("0-2-41".parse()?);
/// assert_eq!(done.to_string(), "0-2-41,1-1-7");
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MariaGtidPos {
    domains: BTreeMap<u32, MariaGtid>,
}

impl MariaGtidPos {
    /// No domain yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the GTID's domain to it, backwards too: the stream's order decides, not the number.
    pub fn update(&mut self, gtid: MariaGtid) {
        self.domains.insert(gtid.domain, gtid);
    }

    /// The last GTID of a domain.
    pub fn get(&self, domain: u32) -> Option<MariaGtid> {
        self.domains.get(&domain).copied()
    }

    /// Has every domain of `other` got at least as far here?
    pub fn is_at_or_past(&self, other: &Self) -> bool {
        other.iter().all(|theirs| self.get(theirs.domain).is_some_and(|ours| ours.seq >= theirs.seq))
    }

    /// The GTIDs, by domain.
    pub fn iter(&self) -> impl Iterator<Item = MariaGtid> {
        self.domains.values().copied()
    }

    /// No domain yet.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }
}

impl fmt::Display for MariaGtidPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, gtid) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            gtid.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for MariaGtidPos {
    type Err = GtidParseError;

    /// As the servers print it; empty text is the empty position. A domain named twice is an error, as for
    /// `SET GLOBAL gtid_slave_pos`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pos = Self::new();
        if text.trim().is_empty() {
            return Ok(pos);
        }
        for part in text.split(',') {
            let gtid: MariaGtid = part.parse()?;
            if pos.domains.insert(gtid.domain, gtid).is_some() {
                return Err(GtidParseError::malformed(text, "one GTID per domain"));
            }
        }
        Ok(pos)
    }
}
