//! Which columns to take out of a row image, and how to pass over all others, compiled once per table version.

use crate::column_type::ColumnType;
use crate::table_map::{Column, TableMap};
use crate::value::Value;
use crate::{decimal, temporal};

/// Columns that can't be projected.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, Projection, ProjectionError};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.full.binlog")?;
/// let mut decoder = Decoder::new();
/// for raw in FileEvents::new(&file)? {
///     if let Event::TableMap { slot, .. } = decoder.decode(&raw?)? {
///         let refused = Projection::new(decoder.table(slot), &[1, 0]);
///         assert_eq!(refused.unwrap_err(), ProjectionError::Order);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// No such column.
    #[error("column {index}, but the table has {columns}")]
    NoColumn {
        /// The index asked for, from 0.
        index: usize,
        /// Columns of the table.
        columns: usize,
    },
    /// Not in ascending order, or one twice.
    #[error("columns must be in ascending order, each once")]
    Order,
}

/// How many bytes a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Always this many.
    Fixed(usize),
    /// As many as the number in the first 1 to 4 bytes says.
    Prefixed(u8),
}

/// How to read a value from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Int,
    UInt,
    Float,
    Double,
    Decimal { precision: u8, scale: u8 },
    Str,
    Bytes,
    Date,
    Time,
    Time2(u8),
    DateTime,
    DateTime2(u8),
    Timestamp,
    Timestamp2(u8),
    Year,
    Enum,
    Set,
    Bit,
    Compressed,
    Json,
    Geometry,
    Vector,
    Null,
}

/// One step of the walk over an image that has all columns and no NULL.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Pass over a run of fixed-size columns.
    Skip(usize),
    /// Pass over a column with a length.
    SkipPrefixed(u8),
    /// Read a column.
    Take(Layout, Form),
}

/// A compiled walk over the row images of one table map.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug, Clone)]
pub struct Projection {
    taken: Vec<usize>,
    /// All columns, and the form of those that are taken.
    pub(crate) columns: Vec<(Layout, Option<Form>)>,
    pub(crate) steps: Vec<Step>,
    /// The JSON columns, taken or not: those that a partial update may have differences of.
    pub(crate) json: Vec<usize>,
}

impl Projection {
    /// Takes `columns`: indices into [`TableMap::columns`], ascending. To be made again when a slot is `fresh`, and
    /// after [`TableMap::complete`].
    pub fn new(map: &TableMap, columns: &[usize]) -> Result<Self, ProjectionError> {
        if !columns.is_sorted_by(|a, b| a < b) {
            return Err(ProjectionError::Order);
        }
        let mut all: Vec<_> = map.columns.iter().map(|c| (layout(c), None)).collect();
        for &index in columns {
            let (Some(column), Some(slot)) = (map.columns.get(index), all.get_mut(index)) else {
                return Err(ProjectionError::NoColumn { index, columns: map.columns.len() });
            };
            slot.1 = Some(form(column));
        }
        let mut steps: Vec<Step> = Vec::new();
        for &(layout, form) in &all {
            let step = match (layout, form) {
                (layout, Some(form)) => Step::Take(layout, form),
                (Layout::Prefixed(len), None) => Step::SkipPrefixed(len),
                (Layout::Fixed(len), None) => match steps.last_mut() {
                    Some(Step::Skip(run)) => {
                        *run += len;
                        continue;
                    }
                    _ => Step::Skip(len),
                },
            };
            steps.push(step);
        }
        let is_json = |&i: &usize| map.columns.get(i).is_some_and(|c| c.column_type == ColumnType::Json);
        let json = (0..map.columns.len()).filter(is_json).collect();
        Ok(Self { taken: columns.to_vec(), columns: all, steps, json })
    }

    /// The columns taken: position `i` of [`crate::RowSlots`] is column `columns()[i]`.
    pub fn columns(&self) -> &[usize] {
        &self.taken
    }
}

/// Bytes of a column's value: `calc_field_size` and `Field::pack` in the servers' source.
fn layout(column: &Column) -> Layout {
    use ColumnType as T;
    let meta = usize::from(column.meta);
    match column.column_type {
        T::Null => Layout::Fixed(0),
        T::Tiny | T::Year => Layout::Fixed(1),
        T::Short => Layout::Fixed(2),
        T::Int24 | T::Date | T::NewDate | T::Time => Layout::Fixed(3),
        T::Long | T::Float | T::Timestamp => Layout::Fixed(4),
        T::LongLong | T::Double | T::DateTime => Layout::Fixed(8),
        T::Time2 => Layout::Fixed(3 + temporal::fraction_len(column.decimals())),
        T::Timestamp2 => Layout::Fixed(4 + temporal::fraction_len(column.decimals())),
        T::DateTime2 => Layout::Fixed(5 + temporal::fraction_len(column.decimals())),
        // The table map's parser has checked that there is such a type.
        T::NewDecimal => Layout::Fixed(decimal::size(column.precision(), column.decimals()).unwrap_or(0)),
        T::Bit => Layout::Fixed(meta.div_ceil(8)),
        T::Enum | T::Set => Layout::Fixed(meta),
        T::String | T::VarChar | T::VarCharCompressed => Layout::Prefixed(if meta > 255 { 2 } else { 1 }),
        T::Blob | T::BlobCompressed | T::Json | T::Geometry | T::Vector => {
            Layout::Prefixed(column.meta.min(4) as u8)
        }
    }
}

fn form(column: &Column) -> Form {
    use ColumnType as T;
    match column.column_type {
        T::Tiny | T::Short | T::Int24 | T::Long | T::LongLong => match column.unsigned {
            Some(true) => Form::UInt,
            _ => Form::Int,
        },
        T::Float => Form::Float,
        T::Double => Form::Double,
        T::NewDecimal => Form::Decimal { precision: column.precision(), scale: column.decimals() },
        T::String | T::VarChar | T::Blob => match column.is_binary() {
            Some(true) => Form::Bytes,
            _ => Form::Str,
        },
        T::Date | T::NewDate => Form::Date,
        T::Time => Form::Time,
        T::Time2 => Form::Time2(column.decimals()),
        T::DateTime => Form::DateTime,
        T::DateTime2 => Form::DateTime2(column.decimals()),
        T::Timestamp => Form::Timestamp,
        T::Timestamp2 => Form::Timestamp2(column.decimals()),
        T::Year => Form::Year,
        T::Enum => Form::Enum,
        T::Set => Form::Set,
        T::Bit => Form::Bit,
        T::Json => Form::Json,
        T::Geometry => Form::Geometry,
        T::Vector => Form::Vector,
        T::Null => Form::Null,
        T::BlobCompressed | T::VarCharCompressed => Form::Compressed,
    }
}

impl Form {
    /// Reads a value from exactly its bytes; `None` if they are none of this form.
    #[inline]
    pub(crate) fn read<'a>(self, bytes: &'a [u8]) -> Option<Value<'a>> {
        Some(match self {
            Self::Int => Value::Int(int(bytes)),
            Self::UInt => Value::UInt(uint(bytes)),
            Self::Str => Value::Str(bytes),
            Self::Bytes => Value::Bytes(bytes),
            Self::Float => Value::Float(f32::from_le_bytes(*bytes.first_chunk()?)),
            Self::Double => Value::Double(f64::from_le_bytes(*bytes.first_chunk()?)),
            Self::Decimal { precision, scale } => Value::Decimal { bytes, precision, scale },
            Self::Date => temporal::date(bytes)?,
            Self::Time => temporal::time(bytes)?,
            Self::Time2(decimals) => temporal::time2(bytes, decimals)?,
            Self::DateTime => temporal::datetime(bytes)?,
            Self::DateTime2(decimals) => temporal::datetime2(bytes, decimals)?,
            Self::Timestamp => temporal::timestamp(bytes)?,
            Self::Timestamp2(decimals) => temporal::timestamp2(bytes, decimals)?,
            Self::Year => match *bytes.first()? {
                0 => Value::Year(0),
                year => Value::Year(1900 + u16::from(year)),
            },
            Self::Enum => Value::Enum(u16::try_from(uint(bytes)).ok()?),
            Self::Set => Value::Set(uint(bytes)),
            Self::Bit => Value::Bit(bytes),
            Self::Compressed => Value::Compressed(bytes),
            Self::Json => Value::Json(bytes),
            Self::Geometry => Value::Geometry(bytes),
            Self::Vector => Value::Vector(bytes),
            Self::Null => Value::Null,
        })
    }
}

/// A little-endian number of 1 to 8 bytes.
#[inline]
fn uint(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        _ => bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)),
    }
}

/// The same with a sign.
#[inline]
fn int(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len().clamp(1, 8);
    (uint(bytes) << unused).cast_signed() >> unused
}
