//! The source of a transaction: a server's UUID, and since MySQL 8.3 a tag.

use std::fmt;
use std::str::FromStr;

use super::{GtidParseError, Uuid};

/// A tag: up to 32 of `[a-z0-9_]`, the first of them no digit; or none, which is the default.
///
/// The manual's "GTID Format and Storage"; `Tag` in MySQL's `mysql/gtid/tag.h`.
///
/// ```
/// use rowbust_binlog::Tag;
/// assert_eq!(Tag::new(b"Import_1").unwrap().as_str(), "import_1");
/// assert_eq!(Tag::new(b"1st"), None);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(
    /// Filled with zero bytes, so that arrays are in the order of their texts.
    [u8; Tag::MAX_LEN],
);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self([0; Self::MAX_LEN]);

    /// Most bytes of a tag.
    pub const MAX_LEN: usize = 32;

    /// Reads a tag's letters, of either case; empty text is no tag. `None`: no tag can be so.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut tag = Self::NONE;
        let dest = tag.0.get_mut(..text.len())?;
        for (i, (to, from)) in dest.iter_mut().zip(text).enumerate() {
            *to = match from {
                b'a'..=b'z' | b'_' => *from,
                b'A'..=b'Z' => from.to_ascii_lowercase(),
                b'0'..=b'9' if i > 0 => *from,
                _ => return None,
            };
        }
        Some(tag)
    }

    /// Its text in lower case; empty for none.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(Self::MAX_LEN);
        self.0.get(..len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// No tag?
    pub fn is_none(&self) -> bool {
        self.0[0] == 0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl FromStr for Tag {
    type Err = GtidParseError;

    /// As [`Tag::new`]; empty text is an error.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.as_bytes())
            .filter(|tag| !tag.is_none())
            .ok_or_else(|| GtidParseError::malformed(text, "a tag (a-z, 0-9, _; at most 32)"))
    }
}

/// What numbers transactions: a server, under a tag or none (MySQL's `Tsid`). Ordered as MySQL prints them.
///
/// ```
/// use rowbust_binlog::{Tag, Tsid, Uuid};
/// let server: Uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse()?;
/// assert_eq!(Tsid::from(server), Tsid { uuid: server, tag: Tag::NONE });
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsid {
    /// The server's `server_uuid`.
    pub uuid: Uuid,
    /// The tag, or [`Tag::NONE`].
    pub tag: Tag,
}

impl From<Uuid> for Tsid {
    /// Without a tag.
    fn from(uuid: Uuid) -> Self {
        Self { uuid, tag: Tag::NONE }
    }
}

impl fmt::Display for Tsid {
    /// `uuid`, or `uuid:tag`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.fmt(f)?;
        if self.tag.is_none() { Ok(()) } else { write!(f, ":{}", self.tag) }
    }
}
