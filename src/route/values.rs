//! Where values come from: decoded rows on the live path, JSON in `explain`. Rendering knows only the trait.

use std::fmt;

use rowbust_binlog::{Column, RowSlots, TextError, Value};

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

/// What an image says of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing: the image, or the column in it, is missing.
    Absent,
    /// NULL.
    Null,
    /// A value.
    Value,
}

/// The values of one row change, by slot of the plan.
pub(super) trait ImageValues {
    /// What the image says of the slot.
    fn presence(&self, image: RowImage, slot: usize) -> Presence;

    /// Appends the text form of a slot whose presence is [`Presence::Value`].
    fn write_text(&self, image: RowImage, slot: usize, out: &mut Vec<u8>) -> Result<(), TextError>;

    /// Whether both images, in which the slot is present, hold the same value.
    fn same(&self, slot: usize) -> bool;
}

/// A decoded row with its projected columns.
pub(super) struct BinlogRow<'r, 'a> {
    pub(super) slots: &'r RowSlots<'a>,
    pub(super) columns: &'r [Column],
}

impl<'a> BinlogRow<'_, 'a> {
    fn value(&self, image: RowImage, slot: usize) -> Value<'a> {
        let (values, has) = match image {
            RowImage::Before => (&self.slots.before, self.slots.has_before),
            RowImage::After => (&self.slots.after, self.slots.has_after),
        };
        // Recycled slots keep old values of an image that this row lacks.
        if has { values.get(slot).copied().unwrap_or(Value::Absent) } else { Value::Absent }
    }
}

impl ImageValues for BinlogRow<'_, '_> {
    fn presence(&self, image: RowImage, slot: usize) -> Presence {
        match self.value(image, slot) {
            Value::Absent => Presence::Absent,
            Value::Null => Presence::Null,
            _ => Presence::Value,
        }
    }

    fn write_text(&self, image: RowImage, slot: usize, out: &mut Vec<u8>) -> Result<(), TextError> {
        match self.columns.get(slot) {
            Some(column) => self.value(image, slot).write_text(column, out),
            None => Err(TextError::Absent),
        }
    }

    fn same(&self, slot: usize) -> bool {
        self.value(RowImage::Before, slot) == self.value(RowImage::After, slot)
    }
}
