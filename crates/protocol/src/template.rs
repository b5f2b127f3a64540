//! Key templates: `product:{id}`, `product:sku:{old.sku}`, `user:{email|lower}`.
//!
//! Example: see [`Template`].
//!
//! Guarantees: a template is parsed once; rendering a key allocates nothing once its buffers have grown, never
//! panics and never writes more than [`MAX_KEY_BYTES`]. Depends on nothing of ours, and knows nothing of binlogs:
//! the values come from the caller, so that the live path, `rowbust explain` and a client render by the same code.
//!
//! # Syntax
//!
//! | Written | Means |
//! |---|---|
//! | `product:` | literal text |
//! | `{id}` | the column's value, from each row image in turn |
//! | `{old.id}` | its value before the change |
//! | `{new.id}` | its value after the change |
//! | ``{`odd name`}``, ``{old.`odd name`}`` | a column whose name isn't made of letters, digits, `_`, `$` and non-ASCII characters; a backtick in it is doubled |
//! | `{doc->>$.a.b}` | what stands at a [`path`] of a JSON column: a string without its quotes |
//! | `{doc->$.a.b}` | the same as JSON text: a string in quotes |
//! | `{email\|lower}` | the value through a filter; filters run from left to right |
//! | `{{` and `}}` | a literal `{` and `}`, as in the hash tag `{{user:{id}}}:cart` |
//!
//! # Filters
//!
//! | Filter | Does |
//! |---|---|
//! | `lower`, `upper` | Unicode's full, locale-free case conversion (as `toLowerCase` in JavaScript, `str.lower` in Python); of bytes that aren't UTF-8, ASCII letters only |
//! | `hex` | two lower-case hexadecimal digits for each byte of the text form |
//! | `default:TEXT` | TEXT in place of NULL. TEXT may not hold `\|`, `{` or `}`, passes through the filters to its right, and is not escaped |
//! | `raw` | the value isn't escaped (see below) |
//!
//! # Escaping
//!
//! What a row holds must not be able to forge another key, so after the filters these bytes of a value become `%XX`
//! (upper-case hexadecimal), and no others:
//!
//! | Bytes | Why |
//! |---|---|
//! | `%` | makes the escaping reversible |
//! | `:` | the separator of key parts |
//! | `{` `}` | hash tags of Redis Cluster |
//! | 0x00 to 0x20 and 0x7F | control characters and the space |
//! | bytes that aren't part of well-formed UTF-8 | a key is text that tools can show |
//!
//! Percent-decoding gives the value back, so two different values never give the same text. Whether two different
//! *rows* can give the same key is a question of the literals between the columns: see [`Template::ambiguity`].

mod error;
mod escape;
mod invert;
mod parse;
pub mod path;
mod pattern;

pub use error::{TemplateError, TemplateErrorKind};
pub use escape::escape_into;
pub use path::{JsonPath, PathLeg};
pub use pattern::escape_glob;

/// The longest key or field that a template makes, in bytes. A longer one is [`RenderError::TooLong`]: Redis would
/// take up to 512 MB, but keys wait in bounded memory, and a key that nobody could have built by hand is a mistake
/// in the mapping.
///
/// ```
/// use rowbust_protocol::template::{MAX_KEY_BYTES, Template};
/// assert!(Template::parse(&"k".repeat(MAX_KEY_BYTES + 1)).is_err());
/// ```
pub const MAX_KEY_BYTES: usize = 64 * 1024;

/// A compiled key template. See the [module](self) for syntax, filters and escaping.
///
/// ```
/// use rowbust_protocol::template::{Rendered, SlotValue, Template};
/// let template = Template::parse("product:{shop}:{name|lower}")?;
/// let row = [("name", "Tea Pot"), ("shop", "de")];
///
/// let (mut key, mut scratch) = (Vec::new(), Vec::new());
/// let rendered = template.render(&mut key, &mut scratch, |slot, text| {
///     let column = &*template.columns()[slot].name;
///     let Some((_, value)) = row.iter().find(|(name, _)| *name == column) else { return Err("no such column") };
///     text.extend_from_slice(value.as_bytes());
///     Ok(SlotValue::Text)
/// });
/// assert_eq!(key, b"product:de:tea%20pot");
/// assert_eq!(rendered, Ok(Rendered::Key { escaped: true }));
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: Box<str>,
    segments: Box<[Segment]>,
    columns: Box<[ColumnRef]>,
}

/// A column that a template uses. Its place in [`Template::columns`] is its *slot*.
///
/// ```
/// use rowbust_protocol::template::{ColumnRef, ImageRef, Template};
/// let template = Template::parse("product:sku:{old.sku}")?;
/// let sku = ColumnRef { name: "sku".into(), image: ImageRef::Old, path: None };
/// assert_eq!(template.columns(), [sku]);
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRef {
    /// The column's name, without backticks.
    pub name: Box<str>,
    /// The image that it is read from.
    pub image: ImageRef,
    /// What is taken out of its JSON document; `None`: the whole value. Where nothing stands there, or JSON's null, the
    /// value is [`SlotValue::Null`].
    pub path: Option<JsonPath>,
}

/// The row image that a column of a template is read from.
///
/// Example: see [`ColumnRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `{col}`: each image in turn; an update makes a key from the row before and one from the row after.
    Both,
    /// `{old.col}`: the row before the change. An insert has none, and makes no key.
    Old,
    /// `{new.col}`: the row after the change. A delete has none, and makes no key.
    New,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<[u8]>),
    Value(Placeholder),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Placeholder {
    slot: usize,
    filters: Box<[Filter]>,
    /// What stands for NULL, after the filters to the right of `default`.
    default: Option<Box<[u8]>>,
    raw: bool,
}

/// What changes a value's bytes; `default` and `raw` are kept in the placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    Lower,
    Upper,
    Hex,
}

/// What the caller found in a slot.
///
/// Example: see [`Template`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotValue {
    /// SQL NULL; nothing was appended.
    Null,
    /// The text form was appended to the buffer.
    Text,
}

/// What [`Template::render`] made.
///
/// ```
/// use rowbust_protocol::template::{Rendered, SlotValue, Template};
/// let template = Template::parse("product:sku:{sku}")?;
/// let (mut key, mut scratch) = (Vec::new(), Vec::new());
/// let rendered = template.render(&mut key, &mut scratch, |_, _| Ok::<_, ()>(SlotValue::Null));
/// assert_eq!(rendered, Ok(Rendered::Null { slot: 0 }));
/// assert!(key.is_empty());
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rendered {
    /// A key was appended.
    Key {
        /// Whether at least one byte of a value had to be escaped: an application that doesn't escape has another
        /// key.
        escaped: bool,
    },
    /// The column in this slot is NULL and has no `default`: there is no key, nothing was appended.
    Null {
        /// The slot.
        slot: usize,
    },
}

/// Why no key could be made. Nothing was appended.
///
/// ```
/// use rowbust_protocol::template::{MAX_KEY_BYTES, RenderError, SlotValue, Template};
/// let template = Template::parse("note:{text}")?;
/// let (mut key, mut scratch) = (Vec::new(), Vec::new());
/// let rendered = template.render(&mut key, &mut scratch, |_, text| {
///     text.resize(text.len() + MAX_KEY_BYTES, b'x');
///     Ok::<_, ()>(SlotValue::Text)
/// });
/// assert_eq!(rendered, Err(RenderError::TooLong));
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError<E> {
    /// The caller couldn't read a value.
    #[error(transparent)]
    Value(E),
    /// The key would be longer than [`MAX_KEY_BYTES`].
    #[error("the key would be longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
}

/// Two columns of a template whose values can run into each other; see [`Template::ambiguity`].
///
/// ```
/// use rowbust_protocol::template::{Ambiguity, Template};
/// let template = Template::parse("price:{country}-{sku}")?;
/// assert_eq!(template.ambiguity(), Some(Ambiguity { first: "country", second: "sku" }));
/// # Ok::<(), rowbust_protocol::template::TemplateError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguity<'a> {
    /// The first column.
    pub first: &'a str,
    /// The column behind it.
    pub second: &'a str,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// The first mistake, with its offset and what to write instead.
    ///
    /// Example: see [`Template`].
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        parse::parse(source)
    }

    /// The template as written.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert_eq!(Template::parse("product:{id}")?.source(), "product:{id}");
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The columns that it uses, each pair of name and image once, in the order of their first use.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// let template = Template::parse("{{user:{id}}}:cart:{shop}:{id}")?;
    /// let names: Vec<&str> = template.columns().iter().map(|column| &*column.name).collect();
    /// assert_eq!(names, ["id", "shop"]);
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn columns(&self) -> &[ColumnRef] {
        &self.columns
    }

    /// Whether it uses no column: every row gives the same key.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert!(Template::parse("products:all")?.is_constant());
    /// assert!(!Template::parse("product:{id}")?.is_constant());
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn is_constant(&self) -> bool {
        self.columns.is_empty()
    }

    /// Whether it uses a column of this kind of image.
    ///
    /// ```
    /// use rowbust_protocol::template::{ImageRef, Template};
    /// let template = Template::parse("product:sku:{old.sku}")?;
    /// assert!(template.uses(ImageRef::Old) && !template.uses(ImageRef::Both));
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn uses(&self, image: ImageRef) -> bool {
        self.columns.iter().any(|c| c.image == image)
    }

    /// Appends one key to `out`.
    ///
    /// `get(slot, buffer)` finds the value of `columns()[slot]`: it appends the value's text form to `buffer`, which
    /// may hold other bytes already, or says that it is NULL. `scratch` is working space; its content is
    /// overwritten. Nothing is allocated once both buffers have grown (but for `lower` on a text with a capital
    /// sigma, whose lower case depends on its place in the word).
    ///
    /// # Errors
    /// The error of `get`, or [`RenderError::TooLong`]. `out` is then as it was.
    ///
    /// Example: see [`Template`].
    pub fn render<E>(
        &self,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        mut get: impl FnMut(usize, &mut Vec<u8>) -> Result<SlotValue, E>,
    ) -> Result<Rendered, RenderError<E>> {
        let start = out.len();
        let result = self.render_segments(start, out, scratch, &mut get);
        if !matches!(result, Ok(Rendered::Key { .. })) {
            out.truncate(start);
        }
        result
    }

    fn render_segments<E>(
        &self,
        start: usize,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        get: &mut impl FnMut(usize, &mut Vec<u8>) -> Result<SlotValue, E>,
    ) -> Result<Rendered, RenderError<E>> {
        let mut escaped = false;
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text),
                Segment::Value(placeholder) => {
                    let from = out.len();
                    match get(placeholder.slot, out).map_err(RenderError::Value)? {
                        SlotValue::Text => {
                            // Before filters and escaping, so that their work is bounded too.
                            if out.len() - start > MAX_KEY_BYTES {
                                return Err(RenderError::TooLong);
                            }
                            escaped |= placeholder.finish(from, out, scratch);
                        }
                        SlotValue::Null => {
                            out.truncate(from);
                            match &placeholder.default {
                                Some(text) => out.extend_from_slice(text),
                                None => return Ok(Rendered::Null { slot: placeholder.slot }),
                            }
                        }
                    }
                }
            }
            if out.len() - start > MAX_KEY_BYTES {
                return Err(RenderError::TooLong);
            }
        }
        Ok(Rendered::Key { escaped })
    }

    /// Two columns between which no literal stands that values can't hold: `{a}{b}` and `{a}-{b}`, where the values
    /// `1-2`, `3` and `1`, `2-3` give the same key. `None` when different values always give different keys (filters
    /// that fold case, and `default`, aside). Harmless for correctness, as then too many keys are removed and never
    /// too few, but worth a warning.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// // A value's `:` is escaped, so that none can stand for the one between them.
    /// assert_eq!(Template::parse("price:{country}:{sku}")?.ambiguity(), None);
    /// assert!(Template::parse("price:{country}{sku}")?.ambiguity().is_some());
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn ambiguity(&self) -> Option<Ambiguity<'_>> {
        let mut previous: Option<&Placeholder> = None;
        let mut separated = false;
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => {
                    separated |= previous.is_some_and(|p| text.iter().any(|&b| !p.can_write(b)));
                }
                Segment::Value(next) => {
                    if let Some(first) = previous
                        && !separated
                    {
                        return Some(Ambiguity {
                            first: &self.columns[first.slot].name,
                            second: &self.columns[next.slot].name,
                        });
                    }
                    previous = Some(next);
                    separated = false;
                }
            }
        }
        None
    }
}

impl Placeholder {
    /// Filters and escapes `out[from..]` in place; whether a byte was escaped.
    fn finish(&self, from: usize, out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> bool {
        for filter in &self.filters {
            filter.apply(from, out, scratch);
        }
        if self.raw || escape::is_plain(&out[from..]) {
            return false;
        }
        scratch.clear();
        scratch.extend_from_slice(&out[from..]);
        out.truncate(from);
        escape::escape_into(scratch, out)
    }

    /// Whether a value (not a default) can give this byte.
    fn can_write(&self, byte: u8) -> bool {
        if self.raw {
            return true;
        }
        match self.filters.last() {
            Some(Filter::Hex) => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ if self.filters.contains(&Filter::Hex) => byte.is_ascii_hexdigit(),
            _ => byte == b'%' || !escape::must_escape(byte),
        }
    }
}

impl Filter {
    fn apply(self, from: usize, out: &mut Vec<u8>, scratch: &mut Vec<u8>) {
        match self {
            Self::Lower | Self::Upper if out[from..].is_ascii() => {
                if self == Self::Lower {
                    out[from..].make_ascii_lowercase();
                } else {
                    out[from..].make_ascii_uppercase();
                }
            }
            Self::Lower | Self::Upper => {
                scratch.clear();
                scratch.extend_from_slice(&out[from..]);
                out.truncate(from);
                for chunk in scratch.utf8_chunks() {
                    if self == Self::Lower {
                        escape::lower_into(chunk.valid(), out);
                    } else {
                        escape::upper_into(chunk.valid(), out);
                    }
                    out.extend_from_slice(chunk.invalid());
                }
            }
            Self::Hex => {
                scratch.clear();
                scratch.extend_from_slice(&out[from..]);
                out.truncate(from);
                for &byte in scratch.iter() {
                    out.extend_from_slice(&escape::hex(byte, b"0123456789abcdef"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
