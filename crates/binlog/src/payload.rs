//! MySQL's compressed transactions (`binlog_transaction_compression`): one event that holds all events of a
//! transaction behind its GTID event.
//!
//! Guarantees: the events come out one at a time; memory is bounded by the largest of them (at most [`MAX_EVENT`],
//! twice that while the buffer grows) and the compression's window ([`WINDOW_LOG_MAX`]), never by a size that the
//! event claims. A payload is read to its last byte, or it is an error.
//!
//! Layout: `transaction_payload_event` in MySQL's `payload_event.h` and `codecs/binary.cpp`.

use std::fmt;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::error::{DecodeError, DecodeErrorKind};
use crate::header::{Header, MAX_EVENT, RawEvent, event_type as t};
use crate::reader::Reader;

/// Largest window that is inflated, 128 MiB: the most that any level of zstd uses, and the limit of the servers' own
/// decoder (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`).
///
/// ```
/// // Most of the memory that a payload's frame can ask for.
/// assert_eq!(1_u64 << rowbust_binlog::payload::WINDOW_LOG_MAX, 128 << 20);
/// ```
pub const WINDOW_LOG_MAX: u32 = 27;

/// The buffer at the start.
const BUFFER: usize = 128 << 10;

/// A larger buffer isn't kept for the next payload.
const KEEP: usize = 16 << 20;

/// How a payload is stored.
///
/// Example: see [`PayloadReader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// As it is.
    None,
}

/// A transaction's events in one event.
///
/// Example: see [`PayloadReader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How it is stored.
    pub compression: Compression,
    /// Bytes of all events in it, as the event claims; what really comes out is compared with it.
    pub uncompressed_size: Option<u64>,
    /// The stored bytes.
    pub data: &'a [u8],
    /// Where they begin in the event.
    offset: usize,
}

impl<'a> Payload<'a> {
    /// The payload of a TRANSACTION_PAYLOAD event, as [`crate::Decoder::decode`] gives it; its checksum isn't
    /// compared again.
    ///
    /// # Errors
    /// Another event, or bytes that contradict the format.
    pub fn of(raw: &RawEvent<'a>) -> Result<Self, DecodeError> {
        let event_type = raw.header.event_type;
        let r = Reader::body(raw.body, event_type);
        if event_type != t::TRANSACTION_PAYLOAD {
            return Err(r.error(DecodeErrorKind::Invalid { what: "event type", got: event_type.into() }));
        }
        Self::parse(r)
    }

    /// Reads the fields in front (type, length, value) and takes the rest.
    pub(crate) fn parse(mut r: Reader<'a>) -> Result<Self, DecodeError> {
        const END: u64 = 0;
        const SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const UNCOMPRESSED_SIZE: u64 = 3;
        let (mut size, mut compression, mut uncompressed_size) = (None, None, None);
        loop {
            let field = r.lenenc("payload field type")?;
            if field == END {
                break;
            }
            let value = r.lenenc_bytes("payload field")?;
            let mut v = r.sub(value);
            match field {
                SIZE => size = Some(v.lenenc("payload size")?),
                COMPRESSION => {
                    compression = Some(match v.lenenc("payload compression")? {
                        0 => Compression::Zstd,
                        255 => Compression::None,
                        got => {
                            return Err(
                                v.error(DecodeErrorKind::Invalid { what: "payload compression", got })
                            );
                        }
                    });
                }
                UNCOMPRESSED_SIZE => uncompressed_size = Some(v.lenenc("uncompressed size")?),
                got => return Err(r.error(DecodeErrorKind::Invalid { what: "payload field type", got })),
            }
            if !v.is_empty() {
                let got = v.left() as u64;
                return Err(v.error(DecodeErrorKind::Invalid { what: "bytes behind a payload field", got }));
            }
        }
        let offset = r.offset();
        if let Some(size) = size
            && size != r.left() as u64
        {
            return Err(r.error(DecodeErrorKind::Invalid { what: "payload size", got: size }));
        }
        let compression = compression.ok_or_else(|| {
            r.error(DecodeErrorKind::Truncated { what: "payload compression", needed: 1, left: 0 })
        })?;
        Ok(Self { compression, uncompressed_size, data: r.rest(), offset })
    }
}

/// Reads the events of one payload after the other; keeps its buffers.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, Payload, PayloadReader, payload::Compression};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.containers.binlog")?;
/// let (mut decoder, mut reader, mut within) = (Decoder::new(), PayloadReader::new(), 0);
/// for raw in FileEvents::new(&file)? {
///     if let Event::TransactionPayload(payload) = decoder.decode(&raw?)? {
///         let payload: Payload<'_> = payload;
///         assert_eq!(payload.compression, Compression::Zstd);
///         reader.open();
///         while let Some(raw) = reader.next(&payload)? {
///             decoder.decode(&raw)?;
///             within += 1;
///         }
///     }
/// }
/// assert!(within > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct PayloadReader {
    zstd: Option<Decoder<'static>>,
    buffer: Vec<u8>,
    /// What came out and isn't handed on yet: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Bytes of the event that was handed out last, at `start`.
    current: usize,
    /// Bytes of the payload that were used.
    consumed: usize,
    /// Bytes that came out.
    produced: u64,
    /// Within a frame of zstd.
    in_frame: bool,
    /// Read to its end, or to an error.
    ended: bool,
}

impl fmt::Debug for PayloadReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadReader")
            .field("consumed", &self.consumed)
            .field("produced", &self.produced)
            .finish_non_exhaustive()
    }
}

impl PayloadReader {
    /// With no buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a payload, wherever the one before was left.
    pub fn open(&mut self) {
        if self.buffer.len() > KEEP {
            self.buffer = Vec::new();
        }
        (self.start, self.end, self.current, self.consumed, self.produced) = (0, 0, 0, 0, 0);
        (self.in_frame, self.ended) = (false, false);
        if let Some(zstd) = &mut self.zstd
            && zstd.reinit().is_err()
        {
            self.zstd = None;
        }
    }

    /// The next event of `payload`, which must be the same one since [`PayloadReader::open`]: it isn't borrowed
    /// between the calls. The event has no checksum, and its `log_pos` is no place in a file. `None` behind the last.
    ///
    /// # Errors
    /// The bytes can't be inflated, or aren't events; offsets are those in the outer event. The reader is at its end
    /// then.
    pub fn next(&mut self, payload: &Payload<'_>) -> Result<Option<RawEvent<'_>>, DecodeError> {
        if self.ended {
            return Ok(None);
        }
        match self.frame(payload) {
            Ok(true) => {
                let bytes = self.buffer.get(self.start..self.start + self.current).unwrap_or_default();
                RawEvent::parse(bytes, false).map(Some)
            }
            Ok(false) => {
                self.ended = true;
                Ok(None)
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    /// Makes `current` the next event; false at the end.
    fn frame(&mut self, payload: &Payload<'_>) -> Result<bool, DecodeError> {
        self.start += std::mem::take(&mut self.current);
        while self.ready().len() < Header::LEN {
            if !self.fill(payload)? {
                return match (self.ready().len(), payload.uncompressed_size) {
                    (0, None) => Ok(false),
                    (0, Some(size)) if size == self.produced => Ok(false),
                    (0, Some(_)) => Err(self.error(payload, "fewer bytes than the event claims")),
                    _ => Err(self.error(payload, "the last event is cut off")),
                };
            }
        }
        let header = Header::parse(self.ready())?;
        let size = header.event_size as usize;
        if !(Header::LEN..=MAX_EVENT).contains(&size) {
            return Err(self.invalid(payload, "size of an event in a payload", header.event_size.into()));
        }
        // These would change how the stream around them is read; the server puts none of them there.
        if matches!(header.event_type, t::TRANSACTION_PAYLOAD | t::FORMAT_DESCRIPTION | t::ROTATE) {
            return Err(self.invalid(payload, "type of an event in a payload", header.event_type.into()));
        }
        while self.ready().len() < size {
            if !self.fill(payload)? {
                return Err(self.error(payload, "the last event is cut off"));
            }
        }
        self.current = size;
        Ok(true)
    }

    fn ready(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Adds bytes to what is ready; false when there are no more.
    fn fill(&mut self, payload: &Payload<'_>) -> Result<bool, DecodeError> {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                // All of it came out of the payload: this never more than doubles what is really there.
                self.buffer.resize((2 * self.end).clamp(BUFFER, MAX_EVENT + BUFFER), 0);
            }
        }
        let rest = payload.data.get(self.consumed..).unwrap_or_default();
        let more = match payload.compression {
            Compression::None => self.copy(rest),
            Compression::Zstd => self.inflate(rest, payload)?,
        };
        if payload.uncompressed_size.is_some_and(|size| self.produced > size) {
            return Err(self.error(payload, "more bytes than the event claims"));
        }
        Ok(more)
    }

    fn copy(&mut self, rest: &[u8]) -> bool {
        let len = rest.len().min(self.buffer.len() - self.end);
        if let (Some(to), Some(from)) = (self.buffer.get_mut(self.end..self.end + len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.took(len, len);
        len > 0
    }

    fn took(&mut self, consumed: usize, produced: usize) {
        self.consumed += consumed;
        self.end += produced;
        self.produced += produced as u64;
    }

    fn inflate(&mut self, mut rest: &[u8], payload: &Payload<'_>) -> Result<bool, DecodeError> {
        /// `ZSTD_MAGICNUMBER`: neither frames to be skipped nor those of versions before 1.0.
        const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
        loop {
            if !self.in_frame {
                if rest.is_empty() {
                    return Ok(false);
                }
                if !rest.starts_with(&MAGIC) {
                    return Err(self.error(payload, "not a frame of zstd"));
                }
                self.in_frame = true;
            }
            let zstd = match &mut self.zstd {
                Some(zstd) => zstd,
                None => match new_zstd() {
                    Some(zstd) => self.zstd.insert(zstd),
                    None => return Err(self.error(payload, "no memory for zstd")),
                },
            };
            let mut input = InBuffer::around(rest);
            let mut output = OutBuffer::around(self.buffer.get_mut(self.end..).unwrap_or_default());
            let hint = zstd.run(&mut input, &mut output);
            let (read, written) = (input.pos(), output.pos());
            self.took(read, written);
            rest = rest.get(read..).unwrap_or_default();
            match hint {
                Err(_) => return Err(self.error(payload, "not readable by zstd")),
                Ok(0) => self.in_frame = false,
                Ok(_) if written == 0 && rest.is_empty() => {
                    return Err(self.error(payload, "the payload is cut off"));
                }
                Ok(_) if written == 0 && read == 0 => {
                    return Err(self.error(payload, "zstd goes no further"));
                }
                Ok(_) => {}
            }
            if written > 0 {
                return Ok(true);
            }
        }
    }

    #[cold]
    fn error(&self, payload: &Payload<'_>, reason: &'static str) -> DecodeError {
        let kind = DecodeErrorKind::Inflate { reason, produced: self.produced };
        DecodeError::new(t::TRANSACTION_PAYLOAD, payload.offset + self.consumed, kind)
    }

    #[cold]
    fn invalid(&self, payload: &Payload<'_>, what: &'static str, got: u64) -> DecodeError {
        let kind = DecodeErrorKind::Invalid { what, got };
        DecodeError::new(t::TRANSACTION_PAYLOAD, payload.offset + self.consumed, kind)
    }
}

fn new_zstd() -> Option<Decoder<'static>> {
    let mut zstd = Decoder::new().ok()?;
    zstd.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).ok()?;
    Some(zstd)
}
