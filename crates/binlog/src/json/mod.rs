//! JSON columns: MySQL's binary JSON, MariaDB's text, paths into both, and MySQL's partial updates.
//!
//! Guarantees: every offset and length is checked; no more than [`MAX_DEPTH`] levels are followed, as on the server; what a
//! document's values refer to is read once, so that the work, and the text, is bounded by the document's length (about six
//! bytes of text per byte). A document that breaks a rule is [`TextError::Malformed`]. The text is the server's own:
//! `CAST(doc AS CHAR)`, and `doc->'$.path'` or `doc->>'$.path'`.
//!
//! - [`Path`]: `$.a."odd key"[0][last-1]`, without wildcards.
//! - [`Document`]: a MySQL document, also one to which a partial update applies.
//! - [`extract_text`]: a path into JSON that is stored as text.

mod binary;
mod diff;
mod path;
mod plain;
mod print;

#[cfg(test)]
mod tests;

pub use path::{Leg, Path};
pub use plain::extract_text;

use crate::text::TextError;
use binary::Node;

/// Levels of arrays and objects (`JSON_DOCUMENT_MAX_DEPTH` in MySQL's `json_dom.h`).
///
/// Example: see [`Path`].
pub const MAX_DEPTH: usize = 100;

pub(crate) const MALFORMED: TextError = TextError::Malformed("JSON");

/// What stands at a path.
///
/// ```
/// use rowbust_binlog::json::{Found, Path, extract_text};
/// let mut text = Vec::new();
/// let mut at = |path| extract_text(br#"{"name": "Tea", "sku": null}"#, &Path::parse(path).unwrap(), true, &mut text);
/// assert_eq!(at("$.name")?, Found::Text);
/// assert_eq!(at("$.sku")?, Found::Null);
/// assert_eq!(at("$.price")?, Found::Missing);
/// # Ok::<(), rowbust_binlog::TextError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing: `->` gives SQL NULL.
    Missing,
    /// JSON's null, which `->` gives as the text `null`; nothing was appended.
    Null,
    /// A value; its text was appended.
    Text,
}

/// A JSON document of MySQL, in its binary form (`sql-common/json_binary.h`).
///
/// ```
/// use rowbust_binlog::json::Document;
/// // As MySQL stores `true`: the type of a literal, and which.
/// let mut text = Vec::new();
/// Document::new(&[0x04, 0x01]).write_text(&mut text)?;
/// assert_eq!(text, b"true");
/// # Ok::<(), rowbust_binlog::TextError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    stored: &'a [u8],
    diffs: &'a [u8],
}

impl<'a> Document<'a> {
    /// The bytes of a JSON column.
    pub fn new(stored: &'a [u8]) -> Self {
        Self { stored, diffs: &[] }
    }

    /// The document after an update that `binlog_row_value_options=PARTIAL_JSON` logs as differences: the bytes of
    /// [`crate::Value::JsonDiff`]. `stored` is the value in the before image.
    pub fn patched(stored: &'a [u8], diffs: &'a [u8]) -> Self {
        Self { stored, diffs }
    }

    /// Appends the text of the whole document, as `CAST(doc AS CHAR)`.
    ///
    /// # Errors
    /// The bytes are no document, or the differences don't apply to it. Nothing is appended.
    pub fn write_text(&self, out: &mut Vec<u8>) -> Result<(), TextError> {
        self.write(&[], false, out).map(|_| ())
    }

    /// Appends what stands at `path`: with `unquote` as `->>`, a string without quotes and escapes, else as `->`.
    ///
    /// # Errors
    /// As [`Document::write_text`].
    pub fn extract(&self, path: &Path, unquote: bool, out: &mut Vec<u8>) -> Result<Found, TextError> {
        let at = out.len();
        let found = self.write(path.legs(), unquote, out)?;
        if found == Found::Null {
            out.truncate(at);
        }
        Ok(found)
    }

    fn write(&self, legs: &[Leg], unquote: bool, out: &mut Vec<u8>) -> Result<Found, TextError> {
        let at = out.len();
        let mut writer = print::Writer::new(self.stored.len() + self.diffs.len(), out);
        let written = if self.diffs.is_empty() {
            Node::root(self.stored).and_then(|root| match root.find(legs)? {
                Some(node) => writer.node(node, !unquote).map(|()| found(node)),
                None => Some(Found::Missing),
            })
        } else {
            diff::apply(self.stored, self.diffs).and_then(|tree| tree.write(legs, unquote, &mut writer))
        };
        written.ok_or_else(|| {
            out.truncate(at);
            MALFORMED
        })
    }
}

fn found(node: Node<'_>) -> Found {
    if node == Node::Null { Found::Null } else { Found::Text }
}
