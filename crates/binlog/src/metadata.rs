//! The optional metadata behind a table map (`binlog_row_metadata`): fields of type, length, value.
//!
//! `Table_map_log_event::Optional_metadata_field_type` in MySQL's `rows_event.h`, `sql/log_event.h` in MariaDB.

use crate::charset::Charset;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::Reader;
use crate::table_map::Column;

const SIGNEDNESS: u8 = 1;
const DEFAULT_CHARSET: u8 = 2;
const COLUMN_CHARSET: u8 = 3;
const COLUMN_NAME: u8 = 4;
const SET_STR_VALUE: u8 = 5;
const ENUM_STR_VALUE: u8 = 6;
const SIMPLE_PRIMARY_KEY: u8 = 8;
const PRIMARY_KEY_WITH_PREFIX: u8 = 9;
const ENUM_AND_SET_DEFAULT_CHARSET: u8 = 10;
const ENUM_AND_SET_COLUMN_CHARSET: u8 = 11;

/// Most labels of an ENUM (the manual's "The ENUM Type").
const MAX_LABELS: u64 = 65_535;

type Labels<'a> = Vec<Vec<&'a [u8]>>;

/// Reads all fields into `columns`. Unknown fields are passed over: they describe, they don't change the rows.
pub(crate) fn parse(r: &mut Reader<'_>, columns: &mut [Column]) -> Result<(), DecodeError> {
    let (mut sets, mut enums) = (Labels::new(), Labels::new());
    while !r.is_empty() {
        let field = r.u8("metadata field type")?;
        let value = r.lenenc_bytes("metadata field")?;
        let mut v = r.sub(value);
        match field {
            SIGNEDNESS => signedness(&mut v, columns)?,
            DEFAULT_CHARSET => default_charset(&mut v, columns, |c| c.column_type.is_character())?,
            COLUMN_CHARSET => column_charset(&mut v, columns, |c| c.column_type.is_character())?,
            ENUM_AND_SET_DEFAULT_CHARSET => {
                default_charset(&mut v, columns, |c| c.column_type.is_enum_or_set())?
            }
            ENUM_AND_SET_COLUMN_CHARSET => {
                column_charset(&mut v, columns, |c| c.column_type.is_enum_or_set())?
            }
            COLUMN_NAME => {
                for column in &mut *columns {
                    let name = v.lenenc_bytes("column name")?;
                    let name = std::str::from_utf8(name)
                        .map_err(|_| v.error(DecodeErrorKind::NotUtf8 { what: "column name" }))?;
                    column.name = Some(name.to_owned());
                }
                end(&v, "column names")?;
            }
            SET_STR_VALUE => sets = labels(&mut v)?,
            ENUM_STR_VALUE => enums = labels(&mut v)?,
            SIMPLE_PRIMARY_KEY | PRIMARY_KEY_WITH_PREFIX => {
                while !v.is_empty() {
                    let index = v.lenenc("primary key column")?;
                    match usize::try_from(index).ok().and_then(|i| columns.get_mut(i)) {
                        Some(column) => column.primary_key = true,
                        None => {
                            return Err(
                                v.error(DecodeErrorKind::Invalid { what: "primary key column", got: index })
                            );
                        }
                    }
                    if field == PRIMARY_KEY_WITH_PREFIX {
                        v.lenenc("primary key prefix")?;
                    }
                }
            }
            _ => {}
        }
    }
    // The labels are in the character set of their column, which a later field may tell.
    use crate::ColumnType::{Enum, Set};
    for (column_type, labels) in [(Set, sets), (Enum, enums)] {
        if labels.is_empty() {
            continue;
        }
        let mut targets = columns.iter_mut().filter(|c| c.column_type == column_type);
        for raw in labels {
            let Some(column) = targets.next() else {
                return Err(r.error(DecodeErrorKind::Invalid { what: "list of ENUM or SET labels", got: 0 }));
            };
            column.labels = to_utf8(&raw, column.collation).unwrap_or_default();
        }
    }
    Ok(())
}

/// The labels in UTF-8; `None` if one can't be converted: then only a text form of the column fails.
fn to_utf8(raw: &[&[u8]], collation: Option<u16>) -> Option<Vec<String>> {
    let charset = Charset::from_collation(collation?)?;
    raw.iter().map(|label| String::from_utf8(charset.decode(label).ok()?.into_owned()).ok()).collect()
}

fn end(v: &Reader<'_>, what: &'static str) -> Result<(), DecodeError> {
    if v.is_empty() {
        return Ok(());
    }
    Err(v.error(DecodeErrorKind::Invalid { what, got: v.left() as u64 }))
}

/// One bit per numeric column, the highest bit of a byte first.
fn signedness(v: &mut Reader<'_>, columns: &mut [Column]) -> Result<(), DecodeError> {
    let numeric = columns.iter().filter(|c| c.column_type.is_numeric()).count();
    let bits = v.take(numeric.div_ceil(8), "signedness")?;
    end(v, "signedness")?;
    for (i, column) in columns.iter_mut().filter(|c| c.column_type.is_numeric()).enumerate() {
        column.unsigned = bits.get(i / 8).map(|byte| byte & 0x80 >> (i % 8) != 0);
    }
    Ok(())
}

fn collation(v: &mut Reader<'_>) -> Result<u16, DecodeError> {
    let id = v.lenenc("collation")?;
    u16::try_from(id).map_err(|_| v.error(DecodeErrorKind::Invalid { what: "collation", got: id }))
}

/// One collation for all, then exceptions: which of the counted columns, and its collation.
fn default_charset(
    v: &mut Reader<'_>,
    columns: &mut [Column],
    counts: fn(&Column) -> bool,
) -> Result<(), DecodeError> {
    let default = collation(v)?;
    let mut counted: Vec<&mut Column> = columns.iter_mut().filter(|c| counts(c)).collect();
    for column in &mut counted {
        column.collation = Some(default);
    }
    while !v.is_empty() {
        let index = v.lenenc("index of a string column")?;
        let collation = collation(v)?;
        match usize::try_from(index).ok().and_then(|i| counted.get_mut(i)) {
            Some(column) => column.collation = Some(collation),
            None => {
                return Err(
                    v.error(DecodeErrorKind::Invalid { what: "index of a string column", got: index })
                );
            }
        }
    }
    Ok(())
}

/// One collation per counted column.
fn column_charset(
    v: &mut Reader<'_>,
    columns: &mut [Column],
    counts: fn(&Column) -> bool,
) -> Result<(), DecodeError> {
    for column in columns.iter_mut().filter(|c| counts(c)) {
        column.collation = Some(collation(v)?);
    }
    end(v, "collations of string columns")
}

/// Per column the number of labels, and each of them.
fn labels<'a>(v: &mut Reader<'a>) -> Result<Labels<'a>, DecodeError> {
    let mut all = Labels::new();
    while !v.is_empty() {
        let mut column = Vec::new();
        let count = v.lenenc("number of labels")?;
        if count > MAX_LABELS {
            return Err(v.error(DecodeErrorKind::Invalid { what: "number of labels", got: count }));
        }
        for _ in 0..count {
            column.push(v.lenenc_bytes("label")?);
        }
        all.push(column);
    }
    Ok(all)
}
