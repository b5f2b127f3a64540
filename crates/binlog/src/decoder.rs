//! The state of a stream: format description, and the table maps of the transaction at hand.

use crate::error::DecodeError;
use crate::event::Event;
use crate::header::RawEvent;
use crate::table_map::TableMap;

/// Turns raw events of one stream, in order, into [`Event`]s.
#[derive(Debug, Default)]
pub struct Decoder {
    tables: Vec<TableMap>,
    checksummed: bool,
}

impl Decoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events that follow end in a CRC32, by the last format description: for [`RawEvent::parse`].
    pub fn checksummed(&self) -> bool {
        self.checksummed
    }

    /// Decodes one event, checksum included. After an error the stream can't be trusted: [`Decoder::reset`].
    pub fn decode<'a>(&mut self, raw: &RawEvent<'a>) -> Result<Event<'a>, DecodeError> {
        let _ = raw;
        todo!()
    }

    /// Forgets which table ids are valid, at the end of a transaction (commit, rollback, or a standalone
    /// statement). The maps stay: the same TABLE_MAP event in a later transaction costs a comparison.
    pub fn end_transaction(&mut self) {
        todo!()
    }

    /// Forgets everything: before a new connection. Every slot is `fresh` again.
    pub fn reset(&mut self) {
        todo!()
    }

    /// The table of a slot.
    ///
    /// # Panics
    /// If no TABLE_MAP event gave this slot since the last reset: an error of the caller, not of the input.
    pub fn table(&self, slot: usize) -> &TableMap {
        &self.tables[slot]
    }

    /// The table of a slot, to [`TableMap::complete`] it.
    ///
    /// # Panics
    /// As [`Decoder::table`].
    pub fn table_mut(&mut self, slot: usize) -> &mut TableMap {
        &mut self.tables[slot]
    }
}

pub(crate) fn fde_knows_checksums(body: &[u8]) -> bool {
    let _ = body;
    todo!()
}

pub(crate) fn fde_enables_checksums(body: &[u8]) -> bool {
    let _ = body;
    todo!()
}
