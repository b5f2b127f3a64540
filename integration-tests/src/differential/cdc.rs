//! The crate `mysql_cdc` as a second opinion, value by value, where it has one.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use mysql_cdc::binlog_reader::BinlogReader;
use mysql_cdc::events::binlog_event::BinlogEvent;
use mysql_cdc::events::row_events::mysql_value::MySqlValue;
use rowbust_binlog::{Column, RowSlots, TableMap, Value};

use super::Compared;

type Cells = Vec<Option<MySqlValue>>;

/// The events of a file, read alongside ours.
pub(super) struct Events {
    reader: BinlogReader,
    /// Index of the next event.
    next: usize,
}

/// The rows of one event.
#[derive(Debug)]
pub(super) struct EventRows {
    rows: std::vec::IntoIter<(Cells, Cells)>,
    before: Vec<bool>,
    after: Vec<bool>,
}

impl Events {
    pub(super) fn open(file: &Path) -> Result<Self> {
        let reader = BinlogReader::new(File::open(file)?).map_err(|e| anyhow!("mysql_cdc: {e:?}"))?;
        Ok(Self { reader, next: 0 })
    }

    /// The rows of the event at this index; `None` where it can't decode them.
    pub(super) fn rows_of(&mut self, index: usize, compared: &mut Compared) -> Result<Option<EventRows>> {
        while self.next <= index {
            let event = self.reader.read_event();
            self.next += 1;
            if self.next <= index {
                continue;
            }
            let only = |rows: Cells| (Vec::new(), rows);
            let rows = match event {
                Ok((_, BinlogEvent::WriteRowsEvent(e))) => EventRows {
                    rows: e.rows.into_iter().map(|r| only(r.cells)).collect::<Vec<_>>().into_iter(),
                    before: Vec::new(),
                    after: e.columns_present,
                },
                Ok((_, BinlogEvent::DeleteRowsEvent(e))) => EventRows {
                    rows: e.rows.into_iter().map(|r| (r.cells, Vec::new())).collect::<Vec<_>>().into_iter(),
                    before: e.columns_present,
                    after: Vec::new(),
                },
                Ok((_, BinlogEvent::UpdateRowsEvent(e))) => EventRows {
                    rows: e
                        .rows
                        .into_iter()
                        .map(|r| (r.before_update.cells, r.after_update.cells))
                        .collect::<Vec<_>>()
                        .into_iter(),
                    before: e.columns_before_update,
                    after: e.columns_after_update,
                },
                Ok(_) => return Ok(cannot(compared, "row event of an unknown type, skipped in silence")),
                Err(e) => {
                    let text: String = format!("{e:?}").chars().take(60).collect();
                    return Ok(cannot(
                        compared,
                        text.split_once(" {").map_or(text.as_str(), |(name, _)| name),
                    ));
                }
            };
            return Ok(Some(rows));
        }
        // Rows of a compressed transaction: their event is one that it doesn't know.
        Ok(cannot(compared, "row event within a compressed transaction, skipped in silence"))
    }
}

fn cannot(compared: &mut Compared, why: &str) -> Option<EventRows> {
    *compared.cdc_cannot.entry(why.to_owned()).or_default() += 1;
    None
}

impl EventRows {
    /// Compares its next row.
    pub(super) fn row(&mut self, map: &TableMap, ours: &RowSlots<'_>, compared: &mut Compared) -> Result<()> {
        let (before, after) = self.rows.next().context("has fewer rows")?;
        for (values, cells, present) in
            [(&ours.before, before, &self.before), (&ours.after, after, &self.after)]
        {
            ensure!(values.len() == cells.len(), "{} columns, not {}", cells.len(), values.len());
            for (index, (value, cell)) in values.iter().zip(&cells).enumerate() {
                let there = present.get(index).copied().unwrap_or(false);
                ensure!(there != matches!(value, Value::Absent), "column {}: absent or not", index + 1);
                let column = &map.columns[index];
                match same(value, cell.as_ref(), column) {
                    Same::Yes => compared.cdc_values += 1,
                    Same::Partly(why) => _ = cannot(compared, why),
                    Same::No => anyhow::bail!("column {}: {cell:?}, not {value:?}", index + 1),
                }
            }
        }
        Ok(())
    }

    pub(super) fn end(mut self) -> Result<()> {
        ensure!(self.rows.next().is_none(), "mysql_cdc has more rows");
        Ok(())
    }
}

enum Same {
    Yes,
    No,
    /// As far as it goes.
    Partly(&'static str),
}

/// Its integers have no sign, its times milliseconds only, its JSON and GEOMETRY are bytes.
fn same(value: &Value<'_>, cell: Option<&MySqlValue>, column: &Column) -> Same {
    use MySqlValue as C;
    let Some(cell) = cell else {
        return if matches!(value, Value::Null | Value::Absent) { Same::Yes } else { Same::No };
    };
    let mut partly = None;
    let equal = match (value, cell) {
        (Value::Int(_) | Value::UInt(_), cell) => {
            let bits = match *value {
                Value::Int(n) => n.cast_unsigned(),
                Value::UInt(n) => n,
                _ => 0,
            };
            let (theirs, width) = match *cell {
                C::TinyInt(n) => (n.into(), 8),
                C::SmallInt(n) => (n.into(), 16),
                C::MediumInt(n) => (n.into(), 24),
                C::Int(n) => (n.into(), 32),
                C::BigInt(n) => (n, 64),
                _ => return Same::No,
            };
            theirs == bits & (u64::MAX >> (64 - width))
        }
        (Value::Float(a), C::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Double(a), C::Double(b)) => a.to_bits() == b.to_bits(),
        (Value::Decimal { .. }, C::Decimal(text)) => {
            let mut ours = Vec::new();
            value.write_text(column, &mut ours).is_ok() && ours == text.as_bytes()
        }
        (Value::Str(a) | Value::Bytes(a), C::String(b)) => *a == b.as_bytes(),
        (Value::Str(a) | Value::Bytes(a) | Value::Json(a) | Value::Geometry(a), C::Blob(b)) => *a == b,
        (Value::Date { year, month, day }, C::Date(d)) => (*year, *month, *day) == (d.year, d.month, d.day),
        (Value::Time { negative, hours, minutes, seconds, micros, .. }, C::Time(t)) => {
            partly = micros.checked_rem(1000).filter(|rest| *rest != 0);
            !negative
                && (i32::from(*hours), *minutes, *seconds, micros / 1000)
                    == (t.hour.into(), t.minute, t.second, t.millis)
        }
        (Value::DateTime { year, month, day, hour, minute, second, micros, .. }, C::DateTime(t)) => {
            partly = micros.checked_rem(1000).filter(|rest| *rest != 0);
            (*year, *month, *day, *hour, *minute, *second, micros / 1000)
                == (t.year, t.month, t.day, t.hour, t.minute, t.second, t.millis)
        }
        (Value::Timestamp { seconds, micros, .. }, C::Timestamp(millis)) => {
            partly = micros.checked_rem(1000).filter(|rest| *rest != 0);
            u64::from(*seconds) * 1000 + u64::from(micros / 1000) == *millis
        }
        (Value::Year(0), C::Year(1900)) => return Same::Partly("YEAR 0 is 1900"),
        (Value::Year(a), C::Year(b)) => a == b,
        (Value::Enum(a), C::Enum(b)) => u32::from(*a) == *b,
        (Value::Set(a), C::Set(b)) => a == b,
        (Value::Bit(a), C::Bit(bits)) => {
            let number = a.iter().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
            // The lowest bit stands last.
            number == bits.iter().fold(0, |n, &bit| n << 1 | u64::from(bit))
        }
        _ => false,
    };
    match (equal, partly) {
        (true, Some(_)) => Same::Partly("microseconds are cut to milliseconds"),
        (true, None) => Same::Yes,
        (false, _) => Same::No,
    }
}
