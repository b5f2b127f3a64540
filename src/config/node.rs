//! The YAML file as a tree of nodes with positions, built by serde-saphyr under a budget.
//!
//! Guarantees: bounded memory and depth for any text (see [`options`]); positions are byte ranges of the file.
//! A tree instead of derived structs, because serde stops at the first mistake, and all are wanted in one run.

use std::{fmt, ops::Range};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

use super::mask;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// Bytes of the file in which it is written; for an alias, those of the anchored original.
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as its text.
    Scalar(Scalar),
    Seq(Vec<Node>),
    /// Entries in the order of the file, duplicates included.
    Map(Vec<(Node, Node)>),
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes, on one line.
    pub(super) plain: bool,
}

impl Node {
    /// Adds the places of everything below that looks like a secret: values of password fields, passwords in URLs.
    pub(super) fn secrets(&self, text: &str, out: &mut Vec<Range<usize>>) {
        match &self.value {
            Value::Null => {}
            Value::Scalar(_) => mask::password_in_url(text, self.span.clone(), out),
            Value::Seq(items) => items.iter().for_each(|n| n.secrets(text, out)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    match &key.value {
                        Value::Scalar(s) if mask::is_secret_field(&s.text) => value.scalars(out),
                        _ => value.secrets(text, out),
                    }
                }
            }
        }
    }

    fn scalars(&self, out: &mut Vec<Range<usize>>) {
        match &self.value {
            Value::Null => {}
            Value::Scalar(_) => out.push(self.span.clone()),
            Value::Seq(items) => items.iter().for_each(|n| n.scalars(out)),
            Value::Map(entries) => entries.iter().for_each(|(k, v)| {
                k.scalars(out);
                v.scalars(out);
            }),
        }
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Parses `text` to a tree. `None` when the file holds nothing but comments.
pub(super) fn parse(text: &str) -> Result<Option<Node>, serde_saphyr::Error> {
    if text.lines().all(|l| l.trim_start().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(None);
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options())?;
    Ok(Some(resolve(raw, text)))
}

/// Budgets far above any real config (a thousand mappings take some 20,000 nodes) and far below trouble.
/// YAML 1.2 booleans only: `on`, `off`, `yes` and `no` stay texts.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 400_000,
            max_nodes: 200_000,
            max_depth: 24,
            max_documents: 2,
            max_anchors: 1_000,
            max_aliases: 1_000,
            max_recorded_anchor_events: 50_000,
            max_recorded_anchor_bytes: 1 << 20,
            max_total_scalar_bytes: 4 << 20,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = 50_000;
    options
}

/// The same tree as serde-saphyr gives it: the text of a number or boolean is still to be cut from the file.
enum Raw {
    Null,
    Typed,
    Text(String),
    Seq(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

fn resolve(raw: Spanned<Raw>, text: &str) -> Node {
    let span = range(raw.defined, text);
    let written = &text[span.clone()];
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Typed => Value::Scalar(Scalar { text: written.trim().to_owned(), plain: true }),
        Raw::Text(s) => {
            let plain = !written.starts_with(['"', '\'', '|', '>']) && !written.contains('\n');
            Value::Scalar(Scalar { text: s, plain })
        }
        Raw::Seq(items) => Value::Seq(items.into_iter().map(|n| resolve(n, text)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(k, v)| (resolve(k, text), resolve(v, text))).collect())
        }
    };
    Node { span, value }
}

/// The byte range of a location; empty at the right place when it has none.
pub(super) fn range(location: serde_saphyr::Location, text: &str) -> Range<usize> {
    let span = location.span();
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    if let (Some(start), Some(len)) = (span.byte_offset(), span.byte_len()) {
        let (start, end) = (at(start), at(start.saturating_add(len)));
        if text.get(start..end).is_some() {
            return start..end;
        }
    }
    let line = at(location.line()).saturating_sub(1);
    let Some(l) = text.split_inclusive('\n').nth(line) else { return text.len()..text.len() };
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = at(location.column()).saturating_sub(1);
    let start = start + l.char_indices().nth(column).map_or(l.trim_end().len(), |(i, _)| i);
    start..start
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
