//! `rowbust explain`: which keys a change would make wrong, and why not others, by the code of the live path.

use rowbust_binlog::{RowKind, TextError, json::extract_text};
use rowbust_protocol::template::JsonPath;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Kind, RouteError, RoutedKey, RowImage, Scratch, Sink, SkipReason, Skipped,
    compile::{column_uses, compile},
    plan::Rules,
    values::{ImageValues, Presence, SlotPath},
};
use crate::config::{Config, KeyOp};

/// What one mapping makes of the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Index into the config's `mappings`.
    pub mapping: usize,
    /// Its line in the config's file.
    pub line: usize,
    /// Its `table`, as written.
    pub table: String,
    /// Name of the Redis target.
    pub target: String,
    /// Why the whole mapping doesn't apply; `None`: it does.
    pub skipped: Option<String>,
    /// What its `keys` give, in their order; empty if the mapping doesn't apply.
    pub rules: Vec<ExplainedRule>,
}

/// What one entry of `keys` makes of the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedRule {
    /// The key's template, as written.
    pub template: String,
    /// Its line in the config's file.
    pub line: usize,
    /// The keys to remove.
    pub keys: Vec<ExplainedKey>,
    /// Why an image, or all of them, gives no key.
    pub skipped: Vec<String>,
}

/// A key to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedKey {
    /// `unlink`, `hdel`, `prefix` or `members_of`.
    pub op: &'static str,
    /// The key; with `prefix`, what the keys begin with.
    pub key: String,
    /// The hash field of an `hdel`.
    pub field: Option<String>,
    /// `before` or `after`: the image that it was made from, if from one.
    pub image: Option<String>,
    /// A value was escaped: an application that doesn't escape uses another key.
    pub escaped: bool,
}

/// Why nothing can be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// Not `schema.table`.
    #[error("`{0}` is no table: write schema.table")]
    Table(String),
    /// Neither a row before nor one after.
    #[error("give the row before the change, the row after it, or both")]
    NoImage,
    /// A value that has no text form of the server's.
    #[error("column `{column}`: {why}")]
    Value {
        /// The column.
        column: String,
        /// What to write instead.
        why: &'static str,
    },
    /// The live path would stop the daemon, or the rows given lack a column.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// Says for each mapping what a change of a row would remove: an insert if only `after` is given, a delete if only
/// `before` is, else an update.
///
/// Values are the server's text form as a string, an integer, or null. A column that is left out of a row is absent
/// from that image, as `binlog_row_image=MINIMAL` leaves columns out.
///
/// # Errors
/// See [`ExplainError`]. A table that no mapping names isn't an error.
pub fn explain(
    config: &Config,
    table: &str,
    before: Option<&Map<String, Value>>,
    after: Option<&Map<String, Value>>,
) -> Result<Vec<Explained>, ExplainError> {
    let (schema, name) = table.split_once('.').ok_or_else(|| ExplainError::Table(table.to_owned()))?;
    let kind = match (before, after) {
        (None, None) => return Err(ExplainError::NoImage),
        (None, Some(_)) => RowKind::Write,
        (Some(_), None) => RowKind::Delete,
        (Some(_), Some(_)) => RowKind::Update,
    };
    let mut scratch = Scratch::new();
    let mut explained = Vec::with_capacity(config.mappings.len());
    for (index, mapping) in config.mappings.iter().enumerate() {
        let target = config.redis.get(mapping.target).map(|target| target.name.clone());
        let mut entry = Explained {
            mapping: index,
            line: mapping.line,
            table: mapping.table.clone(),
            target: target.unwrap_or_default(),
            skipped: None,
            rules: Vec::new(),
        };
        if !super::matches(mapping, schema, name) {
            entry.skipped = Some("its table does not match".to_owned());
            explained.push(entry);
            continue;
        }
        let mut slots: Vec<NamedSlot> = Vec::new();
        let find = |slots: &[NamedSlot], name: &str, path: Option<&JsonPath>| {
            let path = path.map(SlotPath::new);
            slots.iter().position(|slot| same_name(&slot.name, name) && slot.path == path)
        };
        let mut names = Vec::new();
        for used in column_uses(mapping) {
            if find(&slots, used.name, used.path).is_none() {
                names.push(used.label(used.name));
                slots.push(NamedSlot { name: used.name.to_owned(), path: used.path.map(SlotPath::new) });
            }
        }
        let row = JsonRow::new(&slots, before, after)?;
        let slot_of = |name: &str, path: Option<&JsonPath>| find(&slots, name, path).unwrap_or(usize::MAX);
        let rules = Rules {
            table: table.to_owned(),
            mappings: vec![compile(index, mapping, &slot_of)],
            names: names.clone(),
        };
        entry.rules = mapping
            .keys
            .iter()
            .map(|rule| ExplainedRule {
                template: match &rule.op {
                    KeyOp::Unlink => rule.key.source().to_owned(),
                    KeyOp::Hdel { field } => format!("{} field {}", rule.key.source(), field.source()),
                    KeyOp::Prefix { .. } => format!("prefix {}", rule.key.source()),
                    KeyOp::MembersOf { .. } => format!("members_of {}", rule.key.source()),
                },
                line: rule.line,
                keys: Vec::new(),
                skipped: Vec::new(),
            })
            .collect();
        let mut sink = Explaining { entry: &mut entry, names: &names, kind };
        rules.route(kind, &row, &mut scratch, &mut sink)?;
        explained.push(entry);
    }
    Ok(explained)
}

/// Names of columns are compared as the server does.
fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

struct Explaining<'a> {
    entry: &'a mut Explained,
    names: &'a [String],
    kind: RowKind,
}

impl Sink for Explaining<'_> {
    fn key(&mut self, key: RoutedKey<'_>) {
        self.entry.rules[key.rule].keys.push(ExplainedKey {
            op: match key.kind {
                Kind::Exact if key.field.is_some() => "hdel",
                Kind::Exact => "unlink",
                Kind::Prefix => "prefix",
                Kind::MembersOf => "members_of",
            },
            key: String::from_utf8_lossy(key.key).into_owned(),
            field: key.field.map(|field| String::from_utf8_lossy(field).into_owned()),
            image: key.image.map(|image| image.to_string()),
            escaped: key.escaped,
        });
    }

    fn skipped(&mut self, skipped: Skipped) {
        let kind = match self.kind {
            RowKind::Write => "an insert",
            RowKind::Update => "an update",
            RowKind::Delete => "a delete",
        };
        let why = match skipped.reason {
            SkipReason::WhenChanged => "the update changes none of when_changed".to_owned(),
            SkipReason::When => "when does not hold".to_owned(),
            SkipReason::Events => format!("its events leave out {kind}"),
            SkipReason::NoImage(image) => format!("{kind} has no row {image} the change"),
            SkipReason::Null { slot, image } => {
                let name = self.names.get(slot).map_or("", |name| name);
                let null = if name.contains("->") { "missing or NULL" } else { "NULL" };
                format!("`{name}` is {null} {image} the change, and the template has no default for it")
            }
            SkipReason::SameKey => "the row after the change gives the same key".to_owned(),
        };
        match skipped.rule {
            None => {
                self.entry.skipped = Some(why);
                self.entry.rules.clear();
            }
            Some(rule) => self.entry.rules[rule].skipped.push(why),
        }
    }
}

/// What a mapping uses of a row.
struct NamedSlot {
    name: String,
    path: Option<SlotPath>,
}

/// Rows as JSON; by slot: `None` absent, `Some(None)` NULL.
struct JsonRow<'s> {
    slots: &'s [NamedSlot],
    before: Vec<Option<Option<String>>>,
    after: Vec<Option<Option<String>>>,
}

impl<'s> JsonRow<'s> {
    fn new(
        slots: &'s [NamedSlot],
        before: Option<&Map<String, Value>>,
        after: Option<&Map<String, Value>>,
    ) -> Result<Self, ExplainError> {
        let image = |row: Option<&Map<String, Value>>| -> Result<Vec<_>, ExplainError> {
            let value = |name: &str| row.and_then(|r| r.iter().find(|(column, _)| same_name(column, name)));
            let text = |slot: &NamedSlot| value(&slot.name).map(|(_, v)| text(slot, v)).transpose();
            slots.iter().map(text).collect()
        };
        Ok(Self { slots, before: image(before)?, after: image(after)? })
    }

    fn value(&self, image: RowImage, slot: usize) -> Option<&Option<String>> {
        match image {
            RowImage::Before => self.before.get(slot)?.as_ref(),
            RowImage::After => self.after.get(slot)?.as_ref(),
        }
    }
}

fn text(slot: &NamedSlot, value: &Value) -> Result<Option<String>, ExplainError> {
    let why = match value {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        // A document can be written as what it is.
        Value::Array(_) | Value::Object(_) if slot.path.is_some() => return Ok(Some(value.to_string())),
        Value::Number(number) if number.is_i64() || number.is_u64() => return Ok(Some(number.to_string())),
        Value::Number(_) => "write a number with a fraction as a string, as the server prints it: \"19.90\"",
        Value::Bool(_) => "the server has no booleans: write 0 or 1",
        Value::Array(_) | Value::Object(_) => "write the server's text form as a string",
    };
    Err(ExplainError::Value { column: slot.name.clone(), why })
}

impl ImageValues for JsonRow<'_> {
    fn has(&self, image: RowImage, slot: usize) -> bool {
        self.value(image, slot).is_some()
    }

    fn write(&self, image: RowImage, slot: usize, out: &mut Vec<u8>) -> Result<Presence, TextError> {
        let Some(value) = self.value(image, slot) else { return Ok(Presence::Absent) };
        let Some(text) = value else { return Ok(Presence::Null) };
        match self.slots.get(slot).and_then(|slot| slot.path.as_ref()) {
            None => {
                out.extend_from_slice(text.as_bytes());
                Ok(Presence::Value)
            }
            Some(path) => extract_text(text.as_bytes(), &path.path, path.unquote, out).map(Into::into),
        }
    }

    fn same(&self, slot: usize) -> bool {
        self.before.get(slot) == self.after.get(slot)
    }
}
