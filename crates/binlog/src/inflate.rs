//! MariaDB's compressed events (`log_bin_compress`): a statement's text, or the rows of a row event.
//!
//! Guarantees: the buffer holds at most [`MAX_EVENT`] and grows with the bytes that come out, never by the length
//! that the event claims; what comes out has that length, or it is an error.
//!
//! Layout: the comment above `binlog_buf_compress` in MariaDB's `sql/log_event.cc`.

use flate2::{Decompress, FlushDecompress, Status};

use crate::decoder::Decoder;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::header::{Header, MAX_EVENT, RawEvent, event_type as t};
use crate::reader::Reader;

/// The buffer grows by this at least.
const STEP: usize = 64 << 10;

/// A larger buffer isn't kept for the next event.
const KEEP: usize = 16 << 20;

/// Turns compressed events into plain ones; keeps its buffers.
///
/// ```
/// use rowbust_binlog::{Decoder, FileEvents, Inflater};
/// let file = std::fs::read("tests/fixtures/mariadb-10.11.containers.binlog")?;
/// let (mut decoder, mut inflater, mut inflated) = (Decoder::new(), Inflater::new(), 0);
/// for raw in FileEvents::new(&file)? {
///     let raw = raw?;
///     if raw.is_compressed() {
///         let plain = inflater.inflate(&raw, &decoder)?;
///         decoder.decode(&plain)?;
///         inflated += 1;
///     } else {
///         decoder.decode(&raw)?;
///     }
/// }
/// assert!(inflated > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Inflater {
    zlib: Option<Decompress>,
    buffer: Vec<u8>,
}

impl Inflater {
    /// With no buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The event that `raw`, whose checksum is compared, was before the server compressed it: without a checksum, and
    /// with its plain size and type in the header. `decoder`: that of the stream.
    ///
    /// # Errors
    /// Not [a compressed event](RawEvent::is_compressed), or bytes that contradict the format.
    pub fn inflate(&mut self, raw: &RawEvent<'_>, decoder: &Decoder) -> Result<RawEvent<'_>, DecodeError> {
        raw.verify_crc()?;
        let event_type = raw.header.event_type;
        let format = decoder.format(event_type)?;
        let mut r = Reader::body(raw.body, event_type);
        let (rows_v1, rows_v2) = (format.rows_v1_id_len, format.rows_v2_id_len);
        let plain = match event_type {
            t::MARIA_QUERY_COMPRESSED => {
                pass_query(&mut r, format.query_header)?;
                t::QUERY
            }
            t::MARIA_WRITE_ROWS_COMPRESSED_V1 => pass_rows(&mut r, rows_v1, false, 1, t::WRITE_ROWS_V1)?,
            t::MARIA_UPDATE_ROWS_COMPRESSED_V1 => pass_rows(&mut r, rows_v1, false, 2, t::UPDATE_ROWS_V1)?,
            t::MARIA_DELETE_ROWS_COMPRESSED_V1 => pass_rows(&mut r, rows_v1, false, 1, t::DELETE_ROWS_V1)?,
            t::MARIA_WRITE_ROWS_COMPRESSED_V2 => pass_rows(&mut r, rows_v2, true, 1, t::WRITE_ROWS_V2)?,
            t::MARIA_UPDATE_ROWS_COMPRESSED_V2 => pass_rows(&mut r, rows_v2, true, 2, t::UPDATE_ROWS_V2)?,
            t::MARIA_DELETE_ROWS_COMPRESSED_V2 => pass_rows(&mut r, rows_v2, true, 1, t::DELETE_ROWS_V2)?,
            other => return Err(r.error(DecodeErrorKind::Invalid { what: "event type", got: other.into() })),
        };
        let head = r.offset() - Header::LEN;
        let head = raw.body.get(..head).unwrap_or_default();
        let len = claimed_len(&mut r)?;
        if self.buffer.len() > KEEP {
            self.buffer = Vec::new();
        }
        self.zlib(&mut r, head, len)?;
        let body = self.buffer.get(..head.len() + len).unwrap_or_default();
        // Both are far below 4 GiB: the body is at most MAX_EVENT and what an event holds besides.
        let event_size = u32::try_from(Header::LEN + body.len()).unwrap_or(u32::MAX);
        let header = Header { event_type: plain, event_size, ..raw.header };
        Ok(RawEvent::from_parts(header, body, None))
    }

    /// Puts `head` and what is inflated from the rest of `r`, `len` bytes, into the buffer.
    fn zlib(&mut self, r: &mut Reader<'_>, head: &[u8], len: usize) -> Result<(), DecodeError> {
        let zlib = self.zlib.get_or_insert_with(|| Decompress::new(true));
        zlib.reset(true);
        let end = head.len() + len;
        let mut filled = head.len();
        if self.buffer.len() < filled + 1 {
            self.buffer.resize(filled + 1, 0);
        }
        if let Some(to) = self.buffer.get_mut(..filled) {
            to.copy_from_slice(head);
        }
        loop {
            let reason = {
                // One byte more than is claimed, to see that there is none.
                if filled == self.buffer.len() && filled <= end {
                    self.buffer.resize((2 * filled).max(filled + STEP).min(end + 1), 0);
                }
                let room = filled..self.buffer.len().min(end + 1);
                let (read, written) = (zlib.total_in(), zlib.total_out());
                let status = zlib.decompress(
                    r.peek(),
                    self.buffer.get_mut(room).unwrap_or_default(),
                    FlushDecompress::None,
                );
                let (read, written) = (zlib.total_in() - read, zlib.total_out() - written);
                // Never more than the lengths of the slices.
                #[allow(clippy::cast_possible_truncation)]
                {
                    r.take(read as usize, "compressed data")?;
                    filled += written as usize;
                }
                match status {
                    Ok(Status::StreamEnd) if filled < end => "fewer bytes than the event claims",
                    Ok(Status::StreamEnd) if filled == end && r.is_empty() => return Ok(()),
                    Ok(Status::StreamEnd) if filled == end => "bytes behind the compressed data",
                    _ if filled > end => "more bytes than the event claims",
                    Err(_) => "not readable by zlib",
                    Ok(_) if read == 0 && written == 0 => "the compressed data is cut off",
                    Ok(_) => continue,
                }
            };
            return Err(r.error(DecodeErrorKind::Inflate { reason, produced: (filled - head.len()) as u64 }));
        }
    }
}

/// Passes over everything in front of a statement's text.
fn pass_query(r: &mut Reader<'_>, header_len: usize) -> Result<(), DecodeError> {
    let post_header = r.take(header_len, "query post-header")?;
    let mut p = r.sub(post_header);
    p.take(8, "thread id and execution time")?;
    let schema_len = p.u8("schema length")?;
    p.u16("error code")?;
    let status_len = p.u16("length of status variables")?;
    r.take(usize::from(status_len) + usize::from(schema_len) + 1, "status variables and schema")?;
    Ok(())
}

/// Passes over everything in front of the rows; gives `plain`.
fn pass_rows(
    r: &mut Reader<'_>,
    id_len: usize,
    v2: bool,
    bitmaps: usize,
    plain: u8,
) -> Result<u8, DecodeError> {
    r.table_id(id_len)?;
    r.u16("rows flags")?;
    if v2 {
        let len = r.u16("extra data length")?;
        let invalid = DecodeErrorKind::Invalid { what: "extra data length", got: len.into() };
        let len = len.checked_sub(2).ok_or_else(|| r.error(invalid))?;
        r.take(len.into(), "extra data")?;
    }
    let columns = r.lenenc("number of columns")?;
    // More columns than fit into memory don't fit into the event.
    let bitmap = usize::try_from(columns.div_ceil(8)).unwrap_or(usize::MAX);
    r.take(bitmap.saturating_mul(bitmaps), "bitmaps of columns")?;
    Ok(plain)
}

/// One byte, whose low bits count the bytes of the length behind it, the highest first.
fn claimed_len(r: &mut Reader<'_>) -> Result<usize, DecodeError> {
    const COMPRESSED: u8 = 0x80;
    const ALGORITHM: u8 = 0x70;
    const LENGTH: u8 = 0x07;
    let head = r.u8("compression header")?;
    if head & (COMPRESSED | ALGORITHM) != COMPRESSED || !(1..=4).contains(&(head & LENGTH)) {
        return Err(r.error(DecodeErrorKind::Invalid { what: "compression header", got: head.into() }));
    }
    let bytes = r.take(usize::from(head & LENGTH), "uncompressed length")?;
    let len = bytes.iter().fold(0_usize, |n, &b| n << 8 | usize::from(b));
    if len > MAX_EVENT {
        return Err(r.error(DecodeErrorKind::Invalid { what: "uncompressed length", got: len as u64 }));
    }
    Ok(len)
}
