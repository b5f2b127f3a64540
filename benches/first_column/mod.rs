//! The work that the benches of decoding measure, shared by `cargo bench`'s program and `cargo xtask bench`: each event is decoded, its
//! checksum compared, and the first column taken out of every row image.

use std::hint::black_box;

use anyhow::{Context as _, Result};
use rowbust_binlog::{Decoder, Event, Projection, RawEvent, RowSlots};

/// Decodes event after event.
pub(super) struct FirstColumn {
    decoder: Decoder,
    projection: Option<Projection>,
    slots: RowSlots<'static>,
}

impl FirstColumn {
    pub(super) fn new() -> Self {
        Self { decoder: Decoder::new(), projection: None, slots: RowSlots::new() }
    }

    /// Whether the events end in a checksum, by the last format description.
    #[allow(dead_code, reason = "a stream knows it without the decoder")]
    pub(super) fn checksummed(&self) -> bool {
        self.decoder.checksummed()
    }

    /// How many rows the event has.
    #[inline]
    pub(super) fn event(&mut self, raw: &RawEvent<'_>) -> Result<u64> {
        let mut seen = 0;
        match self.decoder.decode(raw)? {
            Event::TableMap { slot, fresh: true } => {
                self.projection = Some(Projection::new(self.decoder.table(slot), &[0])?);
            }
            Event::Rows(rows) => {
                let projection = self.projection.as_ref().context("rows without their table map")?;
                let mut own = std::mem::take(&mut self.slots).recycle();
                let mut cursor = rows.cursor(self.decoder.table(rows.slot), projection)?;
                while cursor.next(&mut own)? {
                    black_box((&own.before, &own.after));
                    seen += 1;
                }
                self.slots = own.recycle();
            }
            Event::Xid(_) => self.decoder.end_transaction(),
            _ => {}
        }
        Ok(seen)
    }
}
