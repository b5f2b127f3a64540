//! Paths into documents: `sql-common/json_path.cc`, without its wildcards and ranges.

/// One step of a path.
///
/// Example: see [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Leg {
    /// `.key`: the member of an object.
    Key(Box<str>),
    /// `[3]`: the element of an array, from 0. `[0]` of what is no array is the value itself.
    Index(u32),
    /// `[last]`, `[last-3]`: the element so many before the last. `[last]` of what is no array is the value itself.
    Last(u32),
}

/// A path into a document.
///
/// ```
/// use rowbust_binlog::json::{Leg, MAX_DEPTH, Path};
/// let path = Path::parse("$.tags[last]").unwrap();
/// assert_eq!(path.legs(), [Leg::Key("tags".into()), Leg::Last(0)]);
/// assert_eq!(Path::parse(&format!("${}", ".a".repeat(MAX_DEPTH + 1))), None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Path(Box<[Leg]>);

impl Path {
    /// From its legs; none is `$`, the whole document.
    pub fn new(legs: impl Into<Box<[Leg]>>) -> Self {
        Self(legs.into())
    }

    /// Reads a path as the server writes it. `None` if it is none, has wildcards, or more legs than a document can have
    /// levels.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('$')?;
        let mut legs = Vec::new();
        while !rest.is_empty() {
            let leg;
            (leg, rest) = match rest.strip_prefix('.') {
                Some(key) => key_leg(key)?,
                None => index_leg(rest.strip_prefix('[')?)?,
            };
            legs.push(leg);
            if legs.len() > super::MAX_DEPTH {
                return None;
            }
        }
        Some(Self(legs.into()))
    }

    /// Its legs, from the outermost.
    pub fn legs(&self) -> &[Leg] {
        &self.0
    }
}

fn key_leg(text: &str) -> Option<(Leg, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let (key, rest) = (quoted.get(..end)?, quoted.get(end + 1..)?);
        let mut unescaped = Vec::new();
        super::plain::unescape(key.as_bytes(), &mut unescaped)?;
        return Some((Leg::Key(String::from_utf8(unescaped).ok()?.into()), rest));
    }
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (key, rest) = text.split_at_checked(end)?;
    if key.is_empty() || key.contains(['*', '"', ' ']) {
        return None;
    }
    Some((Leg::Key(key.into()), rest))
}

fn index_leg(text: &str) -> Option<(Leg, &str)> {
    let (inner, rest) = text.split_once(']')?;
    let leg = match inner.strip_prefix("last") {
        Some("") => Leg::Last(0),
        Some(back) => Leg::Last(number(back.strip_prefix('-')?)?),
        None => Leg::Index(number(inner)?),
    };
    Some((leg, rest))
}

fn number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}
