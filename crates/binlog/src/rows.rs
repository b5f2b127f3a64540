//! Row events and the cursor over their row images.
//!
//! An image is a bitmap of NULLs, one bit per column that is present, and the values of the others one behind the
//! other. A row has no length: the walk must pass over every column to find the next one. The after image of a
//! partial update (`binlog_row_value_options=PARTIAL_JSON`) has a number of options in front, and behind it a bitmap
//! of the JSON columns that only have their differences (`Rows_log_event::unpack_row` in MySQL's `sql/rpl_record.cc`).

use crate::error::{DecodeError, DecodeErrorKind};
use crate::header::event_type;
use crate::projection::{Layout, Projection, Step};
use crate::reader::Reader;
use crate::table_map::TableMap;
use crate::value::Value;

/// What happened to the rows.
///
/// Example: see [`Decoder`](crate::Decoder).
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
///
/// Example: see [`Decoder`](crate::Decoder).
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
    event_type: u8,
    /// Columns in the before image, one bit each; empty if there is no such image.
    before: &'a [u8],
    /// Columns in the after image.
    after: &'a [u8],
    rows: &'a [u8],
    /// Offset of `rows` within the event.
    offset: usize,
}

impl<'a> Rows<'a> {
    /// Flag: the last row event of its statement.
    pub const STMT_END: u16 = 1;

    /// Reads what is behind table id and flags.
    pub(crate) fn parse(
        mut r: Reader<'a>,
        event_type: u8,
        kind: RowKind,
        v2: bool,
        table_id: u64,
        flags: u16,
        slot: usize,
    ) -> Result<Self, DecodeError> {
        if v2 {
            // Partition ids and NDB's own: the length counts itself.
            let len = r.u16("extra data length")?;
            let Some(len) = len.checked_sub(2) else {
                return Err(r.error(DecodeErrorKind::Invalid { what: "extra data length", got: len.into() }));
            };
            r.take(len.into(), "extra data")?;
        }
        let count = r.lenenc("number of columns")?;
        let column_count = usize::try_from(count)
            .map_err(|_| r.error(DecodeErrorKind::Invalid { what: "number of columns", got: count }))?;
        let bitmap = column_count.div_ceil(8);
        let before = if kind == RowKind::Write { &[][..] } else { r.take(bitmap, "bitmap of columns")? };
        let after = if kind == RowKind::Delete { &[][..] } else { r.take(bitmap, "bitmap of columns")? };
        let offset = r.offset();
        Ok(Self {
            slot,
            table_id,
            kind,
            flags,
            column_count,
            event_type,
            before,
            after,
            rows: r.rest(),
            offset,
        })
    }

    /// Starts the walk over the rows. `map` is that of this event's slot, `projection` made for it.
    ///
    /// # Errors
    /// If event, table map and projection don't have the same number of columns.
    pub fn cursor<'p>(
        &self,
        map: &TableMap,
        projection: &'p Projection,
    ) -> Result<RowCursor<'p, 'a>, DecodeError> {
        let expected = projection.columns.len();
        for got in [self.column_count, map.columns.len()] {
            if got != expected {
                let kind = DecodeErrorKind::ColumnCount { expected, got: got as u64 };
                return Err(DecodeError::new(self.event_type, self.offset, kind));
            }
        }
        let (before, after) = (Present::new(self.before, expected), Present::new(self.after, expected));
        // With MINIMAL images an INSERT of nothing but defaults has rows of no bytes: the replica applies one.
        let partial = self.event_type == event_type::PARTIAL_UPDATE_ROWS;
        let empty_row = self.rows.is_empty() && before.count == 0 && after.count == 0 && !partial;
        Ok(RowCursor { projection, rows: *self, rest: self.rows, before, after, partial, empty_row })
    }

    /// Does any image leave out column `index`? (`binlog_row_image` MINIMAL or NOBLOB.)
    pub fn lacks_column(&self, index: usize) -> bool {
        let lacks = |bitmap: &[u8]| !bitmap.is_empty() && !bit(bitmap, index);
        lacks(self.before) || lacks(self.after)
    }
}

#[inline]
fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 != 0)
}

/// Which columns an image has.
#[derive(Debug, Clone, Copy)]
struct Present<'a> {
    bitmap: &'a [u8],
    count: usize,
    all: bool,
    /// Of the last byte of a bitmap of all columns: those that stand for one.
    last_mask: u8,
}

impl<'a> Present<'a> {
    fn new(bitmap: &'a [u8], columns: usize) -> Self {
        // Bits behind the last column don't count.
        let last = if columns.is_multiple_of(8) { 0xff } else { (1 << (columns % 8)) - 1 };
        let count = bitmap.iter().enumerate().fold(0, |n, (i, &byte)| {
            let mask = if i + 1 == bitmap.len() { last } else { 0xff };
            n + (byte & mask).count_ones() as usize
        });
        Self { bitmap, count, all: count == columns, last_mask: last }
    }
}

/// The walk over one event's rows.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug)]
pub struct RowCursor<'p, 'a> {
    projection: &'p Projection,
    rows: Rows<'a>,
    rest: &'a [u8],
    before: Present<'a>,
    after: Present<'a>,
    /// After images may hold differences.
    partial: bool,
    empty_row: bool,
}

impl<'a> RowCursor<'_, 'a> {
    /// Decodes the next row into `slots`; false behind the last one. After an error the cursor is at its end.
    #[inline]
    pub fn next(&mut self, slots: &mut RowSlots<'a>) -> Result<bool, DecodeError> {
        if self.rest.is_empty() && !std::mem::take(&mut self.empty_row) {
            return Ok(false);
        }
        let row = self.rest;
        let result = self.row(slots);
        match result {
            // No progress would be no end.
            Ok(()) if self.rest.len() == row.len() && !row.is_empty() => {
                let err = self.error("row", row.len() as u64);
                self.rest = &[];
                Err(err)
            }
            Ok(()) => Ok(true),
            Err(err) => {
                self.rest = &[];
                Err(err)
            }
        }
    }

    #[inline]
    fn row(&mut self, slots: &mut RowSlots<'a>) -> Result<(), DecodeError> {
        slots.before.clear();
        slots.after.clear();
        slots.has_before = self.rows.kind != RowKind::Write;
        slots.has_after = self.rows.kind != RowKind::Delete;
        if slots.has_before {
            self.image(self.before, &mut slots.before)?;
        }
        if slots.has_after {
            match self.differences()? {
                None => self.image(self.after, &mut slots.after)?,
                Some(diffs) => {
                    let nulls = self.take(self.after.count.div_ceil(8), "bitmap of NULLs")?;
                    self.sparse_image(self.after, nulls, diffs, &mut slots.after)?;
                }
            }
        }
        Ok(())
    }

    /// The bitmap, one bit per JSON column of the table, of those that only have their differences in the after image
    /// at hand.
    fn differences(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        const PARTIAL_JSON: u64 = 1;
        if !self.partial {
            return Ok(None);
        }
        let mut r = Reader::body(self.rest, self.rows.event_type);
        let options = r.lenenc("value options").map_err(|e| DecodeError { offset: self.offset(), ..e })?;
        self.rest = r.rest();
        match options {
            0 => Ok(None),
            PARTIAL_JSON => {
                self.take(self.projection.json.len().div_ceil(8), "bitmap of differences").map(Some)
            }
            other => Err(self.error("value options", other)),
        }
    }

    #[inline]
    fn image(&mut self, present: Present<'a>, out: &mut Vec<Value<'a>>) -> Result<(), DecodeError> {
        let nulls = self.take(present.count.div_ceil(8), "bitmap of NULLs")?;
        // Bits behind the last column don't count: MariaDB sets them.
        let no_null = nulls
            .split_last()
            .is_none_or(|(last, rest)| last & present.last_mask == 0 && rest.iter().all(|&byte| byte == 0));
        if present.all && no_null {
            self.full_image(out)
        } else {
            self.sparse_image(present, nulls, &[], out)
        }
    }

    /// All columns, no NULL: the precompiled steps.
    #[inline]
    fn full_image(&mut self, out: &mut Vec<Value<'a>>) -> Result<(), DecodeError> {
        let projection = self.projection;
        for step in &projection.steps {
            match *step {
                Step::Skip(len) => {
                    self.take(len, "columns")?;
                }
                Step::SkipPrefixed(prefix) => {
                    self.prefixed(prefix)?;
                }
                Step::Take(layout, form) => {
                    let bytes = self.value(layout)?;
                    let value =
                        form.read(bytes).ok_or_else(|| self.error("column value", bytes.len() as u64))?;
                    out.push(value);
                }
            }
        }
        Ok(())
    }

    fn sparse_image(
        &mut self,
        present: Present<'a>,
        nulls: &'a [u8],
        diffs: &'a [u8],
        out: &mut Vec<Value<'a>>,
    ) -> Result<(), DecodeError> {
        let projection = self.projection;
        let mut nth = 0;
        let (mut json, mut nth_json) = (projection.json.as_slice(), 0);
        for (i, &(layout, form)) in projection.columns.iter().enumerate() {
            let mut is_diff = false;
            if json.first() == Some(&i) {
                is_diff = bit(diffs, nth_json);
                (json, nth_json) = (json.get(1..).unwrap_or_default(), nth_json + 1);
            }
            if !present.all && !bit(present.bitmap, i) {
                if form.is_some() {
                    out.push(Value::Absent);
                }
                continue;
            }
            let null = bit(nulls, nth);
            nth += 1;
            if null {
                if form.is_some() {
                    out.push(Value::Null);
                }
                continue;
            }
            if is_diff {
                // Its length always has four bytes: `Json_diff_vector::read_binary`.
                let diff = self.prefixed(4)?;
                if form.is_some() {
                    out.push(Value::JsonDiff(diff));
                }
                continue;
            }
            let bytes = self.value(layout)?;
            if let Some(form) = form {
                let value = form.read(bytes).ok_or_else(|| self.error("column value", bytes.len() as u64))?;
                out.push(value);
            }
        }
        Ok(())
    }

    #[inline]
    fn value(&mut self, layout: Layout) -> Result<&'a [u8], DecodeError> {
        match layout {
            Layout::Fixed(len) => self.take(len, "column"),
            Layout::Prefixed(prefix) => self.prefixed(prefix),
        }
    }

    #[inline]
    fn prefixed(&mut self, prefix: u8) -> Result<&'a [u8], DecodeError> {
        const WHAT: &str = "length of a column";
        let len = match prefix {
            1 => self.chunk::<1>(WHAT)?[0].into(),
            2 => u16::from_le_bytes(self.chunk(WHAT)?).into(),
            3 => {
                let [a, b, c] = self.chunk(WHAT)?;
                u32::from_le_bytes([a, b, c, 0]) as usize
            }
            _ => u32::from_le_bytes(self.chunk(WHAT)?) as usize,
        };
        self.take(len, "column")
    }

    #[inline]
    fn chunk<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => Err(self.truncated(what, N)),
        }
    }

    #[inline]
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.truncated(what, len)),
        }
    }

    fn offset(&self) -> usize {
        self.rows.offset + (self.rows.rows.len() - self.rest.len())
    }

    #[cold]
    fn truncated(&self, what: &'static str, needed: usize) -> DecodeError {
        let kind = DecodeErrorKind::Truncated { what, needed: needed as u64, left: self.rest.len() };
        DecodeError::new(self.rows.event_type, self.offset(), kind)
    }

    #[cold]
    fn error(&self, what: &'static str, got: u64) -> DecodeError {
        DecodeError::new(self.rows.event_type, self.offset(), DecodeErrorKind::Invalid { what, got })
    }
}

/// One row's projected values, by position in [`Projection::columns`]. Reused from row to row, and from event to
/// event by [`RowSlots::recycle`].
///
/// Example: see [`Decoder`](crate::Decoder).
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
