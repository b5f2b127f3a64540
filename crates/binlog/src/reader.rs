//! A bounds-checked reader over one event's body, which knows where it stands for the errors.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::header::Header;

/// Reads fields off the front of a slice.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Offset of `bytes[0]` within the event.
    base: usize,
    event_type: u8,
}

impl<'a> Reader<'a> {
    /// Over an event's body, which starts behind the header.
    pub(crate) fn body(body: &'a [u8], event_type: u8) -> Self {
        Self { bytes: body, pos: 0, base: Header::LEN, event_type }
    }

    /// Over a part that was just read off this reader: errors keep their offsets.
    pub(crate) fn sub(&self, part: &'a [u8]) -> Self {
        Self {
            bytes: part,
            pos: 0,
            base: self.base + self.pos.saturating_sub(part.len()),
            event_type: self.event_type,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left() == 0
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// Offset of the next byte within the event.
    pub(crate) fn offset(&self) -> usize {
        self.base + self.pos
    }

    #[cold]
    pub(crate) fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(self.event_type, self.offset(), kind)
    }

    #[cold]
    fn truncated(&self, what: &'static str, needed: u64) -> DecodeError {
        self.error(DecodeErrorKind::Truncated { what, needed, left: self.left() })
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.bytes.get(self.pos..).and_then(|rest| rest.get(..len)) {
            Some(part) => {
                self.pos += len;
                Ok(part)
            }
            None => Err(self.truncated(what, len as u64)),
        }
    }

    /// The rest, without taking it.
    pub(crate) fn peek(&self) -> &'a [u8] {
        self.bytes.get(self.pos..).unwrap_or_default()
    }

    /// The rest, however long.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        self.pos = self.bytes.len();
        rest
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        match self.bytes.get(self.pos..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(part) => {
                self.pos += N;
                Ok(*part)
            }
            None => Err(self.truncated(what, N as u64)),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u48(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let b = self.array::<6>(what)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0]))
    }

    /// A table id: 6 bytes, or 4 in very old formats.
    #[inline]
    pub(crate) fn table_id(&mut self, len: usize) -> Result<u64, DecodeError> {
        if len == 4 { self.u32("table id").map(u64::from) } else { self.u48("table id") }
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length-encoded integer of the client protocol: `net_field_length_ll`.
    #[inline]
    pub(crate) fn lenenc(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(match self.u8(what)? {
            small @ 0..=250 => small.into(),
            252 => self.u16(what)?.into(),
            253 => {
                let b = self.array::<3>(what)?;
                u32::from_le_bytes([b[0], b[1], b[2], 0]).into()
            }
            254 => self.u64(what)?,
            other => {
                self.pos -= 1;
                return Err(self.error(DecodeErrorKind::Invalid { what, got: other.into() }));
            }
        })
    }

    /// A length-encoded integer and that many bytes.
    pub(crate) fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.lenenc(what)?;
        match usize::try_from(len) {
            Ok(len) => self.take(len, what),
            Err(_) => Err(self.truncated(what, len)),
        }
    }
}
