//! Where values come from: decoded rows on the live path, JSON in `explain`. Rendering knows only the trait.

use std::fmt;

use rowbust_binlog::{
    Column, RowSlots, TextError, Value,
    json::{Document, Found, Leg, Path},
};
use rowbust_protocol::template::{JsonPath, PathLeg};

/// One of the two row images of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowImage {
    /// The row before the change.
    Before,
    /// The row after the change.
    After,
}

impl fmt::Display for RowImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// What an image says of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing: the image, or the column in it, is missing.
    Absent,
    /// NULL; with a path also: nothing stands there, or JSON's null.
    Null,
    /// A value, whose text was appended.
    Value,
}

/// The values of one row change, by slot of the plan.
pub(super) trait ImageValues {
    /// Whether the image has the slot's column.
    fn has(&self, image: RowImage, slot: usize) -> bool;

    /// Appends the text form of a slot.
    fn write(&self, image: RowImage, slot: usize, out: &mut Vec<u8>) -> Result<Presence, TextError>;

    /// Whether both images, which have the slot's column, surely hold the same value.
    fn same(&self, slot: usize) -> bool;
}

/// A column of which a mapping uses the value, or what stands at a path in it.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Position among the plan's columns.
    pub(super) position: usize,
    pub(super) column: Column,
    pub(super) path: Option<SlotPath>,
}

/// A path, and whether a string that stands there loses its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotPath {
    pub(super) path: Path,
    pub(super) unquote: bool,
}

impl SlotPath {
    pub(super) fn new(path: &JsonPath) -> Self {
        let legs: Vec<Leg> = path
            .legs
            .iter()
            .map(|leg| match leg {
                PathLeg::Key(key) => Leg::Key(key.clone()),
                PathLeg::Index(i) => Leg::Index(*i),
                PathLeg::Last(back) => Leg::Last(*back),
            })
            .collect();
        Self { path: Path::new(legs), unquote: path.unquote }
    }
}

impl From<Found> for Presence {
    fn from(found: Found) -> Self {
        match found {
            Found::Missing | Found::Null => Self::Null,
            Found::Text => Self::Value,
        }
    }
}

/// A decoded row with its projected columns.
pub(super) struct BinlogRow<'r, 'a> {
    pub(super) row: &'r RowSlots<'a>,
    pub(super) slots: &'r [Slot],
}

impl<'a> BinlogRow<'_, 'a> {
    fn value(&self, image: RowImage, position: usize) -> Value<'a> {
        let (values, has) = match image {
            RowImage::Before => (&self.row.before, self.row.has_before),
            RowImage::After => (&self.row.after, self.row.has_after),
        };
        // Recycled slots keep old values of an image that this row lacks.
        if has { values.get(position).copied().unwrap_or(Value::Absent) } else { Value::Absent }
    }

    /// The document after the differences that stand in place of it.
    fn patched(&self, position: usize, diffs: &'a [u8]) -> Result<Document<'a>, TextError> {
        match self.value(RowImage::Before, position) {
            Value::Json(document) => Ok(Document::patched(document, diffs)),
            _ => Err(TextError::NoDocument),
        }
    }
}

impl ImageValues for BinlogRow<'_, '_> {
    fn has(&self, image: RowImage, slot: usize) -> bool {
        let position = self.slots.get(slot).map_or(usize::MAX, |slot| slot.position);
        !matches!(self.value(image, position), Value::Absent)
    }

    fn write(&self, image: RowImage, slot: usize, out: &mut Vec<u8>) -> Result<Presence, TextError> {
        let Some(Slot { position, column, path }) = self.slots.get(slot) else {
            return Err(TextError::Absent);
        };
        match (self.value(image, *position), path) {
            (Value::Absent, _) => Ok(Presence::Absent),
            (Value::Null, _) => Ok(Presence::Null),
            (Value::JsonDiff(diffs), None) => {
                self.patched(*position, diffs)?.write_text(out).map(|()| Presence::Value)
            }
            (Value::JsonDiff(diffs), Some(path)) => {
                self.patched(*position, diffs)?.extract(&path.path, path.unquote, out).map(Into::into)
            }
            (value, None) => value.write_text(column, out).map(|()| Presence::Value),
            (value, Some(path)) => value.write_path(column, &path.path, path.unquote, out).map(Into::into),
        }
    }

    fn same(&self, slot: usize) -> bool {
        let Some(slot) = self.slots.get(slot) else { return false };
        match (self.value(RowImage::Before, slot.position), self.value(RowImage::After, slot.position)) {
            (Value::Json(_), Value::JsonDiff(diffs)) => diffs.is_empty(),
            // Zero has a sign, and prints it.
            (Value::Float(before), Value::Float(after)) => before.to_bits() == after.to_bits(),
            (Value::Double(before), Value::Double(after)) => before.to_bits() == after.to_bits(),
            (before, after) => before == after,
        }
    }
}
