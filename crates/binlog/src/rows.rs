//! Row events and the cursor over their row images.

use crate::error::DecodeError;
use crate::projection::Projection;
use crate::table_map::TableMap;
use crate::value::Value;

/// What happened to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Inserted: an after image each.
    Write,
    /// Updated: a before and an after image each.
    Update,
    /// Deleted: a before image each.
    Delete,
}

/// A row event: images of one or more rows of one table.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The table's slot, for [`crate::Decoder::table`].
    pub slot: usize,
    /// The server's table id.
    pub table_id: u64,
    /// What happened.
    pub kind: RowKind,
    /// See [`Rows::STMT_END`].
    pub flags: u16,
    /// Number of columns in the images' bitmaps.
    pub column_count: usize,
    rows: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Flag: the last row event of its statement.
    pub const STMT_END: u16 = 1;

    /// Starts the walk over the rows. `map` is that of this event's slot, `projection` made for it.
    pub fn cursor<'p>(&self, map: &TableMap, projection: &'p Projection) -> Result<RowCursor<'p, 'a>, DecodeError> {
        let _ = map;
        Ok(RowCursor { projection, rows: self.rows })
    }
}

/// The walk over one event's rows.
#[derive(Debug)]
pub struct RowCursor<'p, 'a> {
    projection: &'p Projection,
    rows: &'a [u8],
}

impl<'a> RowCursor<'_, 'a> {
    /// Decodes the next row into `slots`; false behind the last one. After an error the cursor is at its end.
    pub fn next(&mut self, slots: &mut RowSlots<'a>) -> Result<bool, DecodeError> {
        let _ = (slots, self.projection, self.rows);
        todo!()
    }
}

/// One row's projected values, by position in [`Projection::columns`]. Reused from row to row, and from event to
/// event by [`RowSlots::recycle`].
#[derive(Debug, Clone, Default)]
pub struct RowSlots<'a> {
    /// Before image; empty if there is none.
    pub before: Vec<Value<'a>>,
    /// After image; empty if there is none.
    pub after: Vec<Value<'a>>,
    /// The row has a before image (update, delete).
    pub has_before: bool,
    /// The row has an after image (insert, update).
    pub has_after: bool,
}

impl RowSlots<'_> {
    /// No values yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the slots and lets go of the event that they borrowed from, but keeps the allocations. Keep a
    /// `RowSlots<'static>` between events.
    pub fn recycle<'b>(self) -> RowSlots<'b> {
        fn empty<'b>(mut values: Vec<Value<'_>>) -> Vec<Value<'b>> {
            values.clear();
            // In place: `collect` reuses the allocation of an emptied vector of the same layout.
            values.into_iter().map(|_| Value::Absent).collect()
        }
        RowSlots { before: empty(self.before), after: empty(self.after), has_before: false, has_after: false }
    }
}
