//! JSON that is stored as text: MariaDB's JSON type, and paths into any text column.
//!
//! Values are found without reading the rest of the document. Their text is the document's own, as MariaDB's `JSON_EXTRACT` gives it;
//! objects and arrays are spaced anew, as there (`json_nice` with LOOSE in `sql/item_jsonfunc.cc`). Of several members with one key
//! the first counts, as there.

use super::{Found, Leg, MALFORMED, MAX_DEPTH, Path};
use crate::text::TextError;

/// Appends what stands at `path` of a document in UTF-8: with `unquote` as `JSON_UNQUOTE(JSON_EXTRACT(doc, '$.path'))`, else as
/// `JSON_EXTRACT`.
///
/// # Errors
/// The text is no JSON, as far as it had to be read. Nothing is appended.
///
/// ```
/// use rowbust_binlog::json::{Path, extract_text};
/// let mut text = Vec::new();
/// extract_text(br#"{"tags": ["new", "sale"]}"#, &Path::parse("$.tags[1]").unwrap(), true, &mut text)?;
/// assert_eq!(text, b"sale");
/// # Ok::<(), rowbust_binlog::TextError>(())
/// ```
pub fn extract_text(
    document: &[u8],
    path: &Path,
    unquote: bool,
    out: &mut Vec<u8>,
) -> Result<Found, TextError> {
    let at = out.len();
    extract(document, path.legs(), unquote, out).ok_or_else(|| {
        out.truncate(at);
        MALFORMED
    })
}

fn extract(document: &[u8], legs: &[Leg], unquote: bool, out: &mut Vec<u8>) -> Option<Found> {
    let mut scanner = Scanner { rest: document };
    for leg in legs {
        let found = match (scanner.peek()?, leg) {
            (b'{', Leg::Key(key)) => scanner.enter_member(key)?,
            (b'[', Leg::Index(i)) => scanner.enter_element(*i as usize)?,
            (b'[', Leg::Last(back)) => {
                let len = Scanner { rest: scanner.rest }.elements()?;
                match len.checked_sub(*back as usize + 1) {
                    Some(i) => scanner.enter_element(i)?,
                    None => false,
                }
            }
            // What is no array counts as an array of itself, but has no `last` there.
            (b'[', Leg::Key(_)) => false,
            (_, Leg::Index(0)) => true,
            _ => false,
        };
        if !found {
            return Some(Found::Missing);
        }
    }
    let value = scanner.value()?;
    if legs.is_empty() && scanner.peek().is_some() {
        return None;
    }
    if value == b"null" {
        return Some(Found::Null);
    }
    match value {
        [b'"', text @ .., b'"'] if unquote => unescape(text, out)?,
        [b'{' | b'[', ..] => {
            std::str::from_utf8(value).ok()?;
            spaced(value, out)?;
        }
        _ => {
            std::str::from_utf8(value).ok()?;
            out.extend_from_slice(value);
        }
    }
    Some(Found::Text)
}

/// One space behind each comma and colon, none elsewhere.
fn spaced(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut scanner = Scanner { rest: value };
    while let Some(byte) = scanner.peek() {
        match byte {
            b'"' => {
                out.push(b'"');
                out.extend_from_slice(scanner.string()?);
                out.push(b'"');
            }
            b',' | b':' => {
                scanner.eat(byte)?;
                out.extend_from_slice(&[byte, b' ']);
            }
            _ => {
                scanner.eat(byte)?;
                out.push(byte);
            }
        }
    }
    Some(())
}

/// A place in a document.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.rest = self.rest.get(1..).unwrap_or_default())
    }

    /// From an object to the value of a member; false if there is none.
    fn enter_member(&mut self, key: &str) -> Option<bool> {
        self.eat(b'{')?;
        if self.peek()? == b'}' {
            return Some(false);
        }
        loop {
            self.peek()?;
            let name = self.string()?;
            self.eat(b':')?;
            if is_key(name, key)? {
                return Some(true);
            }
            self.value()?;
            if self.peek()? == b'}' {
                return Some(false);
            }
            self.eat(b',')?;
        }
    }

    /// From an array to its `i`th element; false if there is none.
    fn enter_element(&mut self, i: usize) -> Option<bool> {
        self.eat(b'[')?;
        if self.peek()? == b']' {
            return Some(false);
        }
        for _ in 0..i {
            self.value()?;
            if self.peek()? == b']' {
                return Some(false);
            }
            self.eat(b',')?;
        }
        Some(true)
    }

    /// How many elements the array has.
    fn elements(mut self) -> Option<usize> {
        self.eat(b'[')?;
        if self.peek()? == b']' {
            return Some(0);
        }
        let mut len = 1;
        loop {
            self.value()?;
            if self.peek()? == b']' {
                return Some(len);
            }
            self.eat(b',')?;
            len += 1;
        }
    }

    /// A string with its quotes; returns what is between them.
    fn string(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.strip_prefix(b"\"")?;
        let mut escaped = false;
        let end = text.iter().position(|&b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        })?;
        self.rest = text.get(end + 1..)?;
        text.get(..end)
    }

    /// Any value, and goes behind it. Brackets are matched; nothing is checked that isn't needed to find its end.
    fn value(&mut self) -> Option<&'a [u8]> {
        self.peek()?;
        let start = self.rest;
        // One bit per open bracket: an object's is 1.
        let (mut open, mut depth) = (0_u128, 0_usize);
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                byte @ (b'{' | b'[') => {
                    self.eat(byte)?;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return None;
                    }
                    open = open << 1 | u128::from(byte == b'{');
                    continue;
                }
                byte @ (b'}' | b']') => {
                    if depth == 0 || (open & 1 == 1) != (byte == b'}') {
                        return None;
                    }
                    self.eat(byte)?;
                    open >>= 1;
                    depth -= 1;
                }
                b',' | b':' if depth > 0 => {
                    self.rest = self.rest.get(1..)?;
                    continue;
                }
                _ => self.scalar()?,
            }
            if depth == 0 {
                return start.get(..start.len() - self.rest.len());
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Option<()> {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let len = self.rest.iter().take_while(|b| is_part(b)).count();
        let (word, rest) = self.rest.split_at_checked(len)?;
        let is_number = word.iter().any(u8::is_ascii_digit)
            && word.iter().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
        if !is_number && !matches!(word, b"true" | b"false" | b"null") {
            return None;
        }
        self.rest = rest;
        Some(())
    }
}

fn is_key(name: &[u8], key: &str) -> Option<bool> {
    if !name.contains(&b'\\') {
        return Some(name == key.as_bytes());
    }
    let mut unescaped = Vec::new();
    unescape(name, &mut unescaped)?;
    Some(unescaped == key.as_bytes())
}

/// Appends the inside of a JSON string without its escapes; `None` if it isn't one, or no UTF-8.
pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    std::str::from_utf8(text).ok()?;
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| b == b'\\') {
        out.extend_from_slice(rest.get(..at)?);
        let (&escape, behind) = rest.get(at + 1..)?.split_first()?;
        rest = behind;
        out.push(match escape {
            b'"' | b'\\' | b'/' => escape,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut unit = hex(rest)?;
                rest = rest.get(4..)?;
                if (0xd800..0xdc00).contains(&unit) {
                    let low =
                        hex(rest.strip_prefix(b"\\u")?)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    rest = rest.get(6..)?;
                    unit = 0x1_0000 + (unit - 0xd800) * 0x400 + low;
                }
                out.extend_from_slice(char::from_u32(unit)?.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        });
    }
    out.extend_from_slice(rest);
    Some(())
}

/// The number of four hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u32> {
    digits.get(..4)?.iter().try_fold(0, |n, &d| Some(n << 4 | char::from(d).to_digit(16)?))
}
