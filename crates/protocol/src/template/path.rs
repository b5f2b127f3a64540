//! JSON paths in templates: `{doc->>$.a.b}`, as MySQL's operators `->>` and `->` take them.
//!
//! | Written | Means |
//! |---|---|
//! | `$` | the whole document |
//! | `.key` | the member `key` of an object; letters, digits, `_`, `$` and non-ASCII characters |
//! | `."odd key"` | any other key, as a JSON string |
//! | `[0]`, `[last]`, `[last-1]` | an element of an array; what is no array counts as an array of itself |
//!
//! Example: see [`JsonPath`].
//!
//! Wildcards (`*`, `**`, `[0 to 2]`) would give several values, and are refused.

use std::fmt;

/// Most legs of a path: a document has no more levels (`JSON_DOCUMENT_MAX_DEPTH` in MySQL's `json_dom.h`).
///
/// ```
/// use rowbust_protocol::template::{Template, path::MAX_LEGS};
/// let deeper = format!("{{doc->>${}}}", ".a".repeat(MAX_LEGS + 1));
/// assert_eq!(Template::parse(&deeper).unwrap_err().code(), "template_json_path");
/// ```
pub const MAX_LEGS: usize = 100;

/// A path behind a column's name.
///
/// ```
/// use rowbust_protocol::template::{Template, path::{JsonPath, PathLeg}};
/// let template = Template::parse("product:tag:{doc->>$.tags[last]}")?;
/// let path = JsonPath {
///     source: "->>$.tags[last]".into(),
///     unquote: true,
///     legs: [PathLeg::Key("tags".into()), PathLeg::Last(0)].into(),
/// };
/// assert_eq!(template.columns()[0].path, Some(path));
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPath {
    /// As written, with the operator: `->>$.a.b`.
    pub source: Box<str>,
    /// `->>`: a string without its quotes and escapes.
    pub unquote: bool,
    /// From the outermost; none is `$`.
    pub legs: Box<[PathLeg]>,
}

/// One step of a path.
///
/// Example: see [`JsonPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathLeg {
    /// The member of an object.
    Key(Box<str>),
    /// The element of an array, from 0.
    Index(u32),
    /// The element so many before the last.
    Last(u32),
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// What is wrong with a path.
///
/// ```
/// use rowbust_protocol::template::{Template, TemplateErrorKind, path::PathMistake};
/// let error = Template::parse("product:tag:{doc->>$.tags[*]}").unwrap_err();
/// assert_eq!(error.kind, TemplateErrorKind::Path(PathMistake::Wildcard));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMistake {
    /// It doesn't begin with `$`.
    NoDollar,
    /// `.` without a key, or a key that needs quotes.
    Key,
    /// A quoted key that isn't closed, or isn't a JSON string.
    QuotedKey,
    /// What stands between `[` and `]` is no index.
    Index,
    /// `*`, `**` or `to`.
    Wildcard,
    /// More than [`MAX_LEGS`] legs.
    TooLong,
    /// The template ends within it.
    Ends,
}

impl PathMistake {
    /// What to write instead.
    pub(super) fn help(self) -> &'static str {
        match self {
            Self::NoDollar => "a path begins with `$`: `{doc->>$.a.b}`, without quotes around it",
            Self::Key => {
                "letters, digits, `_` and `$` can be written as they are, not beginning with a digit; other keys go into \
                 double quotes: `$.\"odd key\"`"
            }
            Self::QuotedKey => {
                "write the key as a JSON string: `$.\"odd key\"`, with `\\\"` for a quote within it"
            }
            Self::Index => "write `[0]`, `[last]` or `[last-1]`",
            Self::Wildcard => "name one member or element: a key is made of one value",
            Self::TooLong | Self::Ends => "write a shorter path",
        }
    }
}

impl fmt::Display for PathMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDollar => f.write_str("the JSON path does not begin with `$`"),
            Self::Key => f.write_str("not a key of a JSON path"),
            Self::QuotedKey => f.write_str("not a quoted key of a JSON path"),
            Self::Index => f.write_str("not an index of a JSON path"),
            Self::Wildcard => f.write_str("a JSON path with a wildcard"),
            Self::TooLong => write!(f, "a JSON path of more than {MAX_LEGS} legs"),
            Self::Ends => f.write_str("the JSON path is cut off"),
        }
    }
}

/// Reads the path at the front of `text`, behind the operator; the path and its length, or the mistake and its offset.
pub(super) fn parse(text: &str, unquote: bool) -> Result<(JsonPath, usize), (usize, PathMistake)> {
    let mut at = match text.chars().next() {
        Some('$') => 1,
        Some(_) => return Err((0, PathMistake::NoDollar)),
        None => return Err((0, PathMistake::Ends)),
    };
    let mut legs = Vec::new();
    loop {
        let (leg, length) = match text[at..].chars().next() {
            Some('.') => key(&text[at + 1..]),
            Some('[') => index(&text[at + 1..]),
            Some('*') => Err((0, PathMistake::Wildcard)),
            Some('}' | '|') => break,
            None => return Err((at, PathMistake::Ends)),
            Some(_) => return Err((at, PathMistake::Key)),
        }
        .map_err(|(offset, mistake)| (at + 1 + offset, mistake))?;
        if legs.len() == MAX_LEGS {
            return Err((at, PathMistake::TooLong));
        }
        legs.push(leg);
        at += 1 + length;
    }
    let operator = if unquote { "->>" } else { "->" };
    let source = format!("{operator}{}", &text[..at]).into();
    Ok((JsonPath { source, unquote, legs: legs.into() }, at))
}

type Leg = Result<(PathLeg, usize), (usize, PathMistake)>;

/// A key at the front, behind the dot.
fn key(text: &str) -> Leg {
    match text.chars().next() {
        Some('"') => {
            return match quoted_key(&text[1..]) {
                Ok((leg, length)) => Ok((leg, length + 1)),
                Err((offset, mistake)) => Err((offset + 1, mistake)),
            };
        }
        Some('*') => return Err((0, PathMistake::Wildcard)),
        Some(c) if c.is_ascii_digit() => return Err((0, PathMistake::Key)),
        None => return Err((0, PathMistake::Ends)),
        Some(_) => {}
    }
    let length = text.find(|c| !super::parse::is_name_char(c)).unwrap_or(text.len());
    if length == 0 { Err((0, PathMistake::Key)) } else { Ok((PathLeg::Key(text[..length].into()), length)) }
}

/// A key at the front, behind its opening quote.
fn quoted_key(text: &str) -> Leg {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((PathLeg::Key(key.into()), at + 1)),
            '\\' => {
                let (unescaped, rest) = escape(chars.as_str()).ok_or((at, PathMistake::QuotedKey))?;
                key.push(unescaped);
                let behind = text.len() - rest.len();
                while chars.offset() < behind {
                    chars.next();
                }
            }
            _ => key.push(c),
        }
    }
    Err((text.len(), PathMistake::Ends))
}

/// The character that a JSON escape means, behind its backslash, and what is behind it.
fn escape(text: &str) -> Option<(char, &str)> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let unescaped = match c {
        '"' | '\\' | '/' => c,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let hex = |text: &str| {
                text.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_owned)
            };
            let unit = |text: &str| u16::from_str_radix(&hex(text)?, 16).ok();
            let high = unit(rest)?;
            let rest = rest.get(4..)?;
            return match char::from_u32(high.into()) {
                Some(c) => Some((c, rest)),
                None => {
                    let low = rest.strip_prefix("\\u")?;
                    let c = char::decode_utf16([high, unit(low)?]).next()?.ok()?;
                    Some((c, low.get(4..)?))
                }
            };
        }
        _ => return None,
    };
    Some((unescaped, rest))
}

/// An index at the front, behind the bracket.
fn index(text: &str) -> Leg {
    let end = text.find([']', '}', '|']).ok_or((text.len(), PathMistake::Ends))?;
    let inner = &text[..end];
    if inner.contains('*') || inner.contains(" to ") {
        return Err((0, PathMistake::Wildcard));
    }
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse().ok(),
        false => None,
    };
    let leg = match inner.strip_prefix("last") {
        Some("") => Some(PathLeg::Last(0)),
        Some(back) => back.strip_prefix('-').and_then(number).map(PathLeg::Last),
        None => number(inner).map(PathLeg::Index),
    };
    match leg {
        Some(leg) if text[end..].starts_with(']') => Ok((leg, end + 1)),
        _ => Err((0, PathMistake::Index)),
    }
}
