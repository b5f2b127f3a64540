//! The common event header, the event types of both flavours, and the checksum behind an event.
//!
//! Layout: the manual's "Binary Log Event Header" and `libbinlogevents/include/binlog_event.h`.

use crate::crc::crc32;
use crate::error::{DecodeError, DecodeErrorKind};

/// Event type codes: MySQL 5.7 to 9 (`enum Log_event_type`) and MariaDB (`sql/log_event.h`).
pub mod event_type {
    #![allow(missing_docs)]
    pub const UNKNOWN: u8 = 0;
    pub const START_V3: u8 = 1;
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const LOAD: u8 = 6;
    pub const SLAVE: u8 = 7;
    pub const CREATE_FILE: u8 = 8;
    pub const APPEND_BLOCK: u8 = 9;
    pub const EXEC_LOAD: u8 = 10;
    pub const DELETE_FILE: u8 = 11;
    pub const NEW_LOAD: u8 = 12;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V0: u8 = 20;
    pub const UPDATE_ROWS_V0: u8 = 21;
    pub const DELETE_ROWS_V0: u8 = 22;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS_V2: u8 = 30;
    pub const UPDATE_ROWS_V2: u8 = 31;
    pub const DELETE_ROWS_V2: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIA_ANNOTATE_ROWS: u8 = 160;
    pub const MARIA_BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIA_GTID: u8 = 162;
    pub const MARIA_GTID_LIST: u8 = 163;
    pub const MARIA_START_ENCRYPTION: u8 = 164;
    pub const MARIA_QUERY_COMPRESSED: u8 = 165;
    pub const MARIA_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const MARIA_UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const MARIA_DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const MARIA_WRITE_ROWS_COMPRESSED_V2: u8 = 169;
    pub const MARIA_UPDATE_ROWS_COMPRESSED_V2: u8 = 170;
    pub const MARIA_DELETE_ROWS_COMPRESSED_V2: u8 = 171;
}

/// The name of an event type, as the servers' `SHOW BINLOG EVENTS` spells it where it does; `Unknown` otherwise.
///
/// ```
/// use rowbust_binlog::{event_name, event_type};
/// assert_eq!(event_name(event_type::WRITE_ROWS_V2), "Write_rows");
/// assert_eq!(event_name(255), "Unknown");
/// ```
pub fn event_name(event_type: u8) -> &'static str {
    match event_type {
        1 => "Start_v3",
        2 => "Query",
        3 => "Stop",
        4 => "Rotate",
        5 => "Intvar",
        6 => "Load",
        7 => "Slave",
        8 => "Create_file",
        9 => "Append_block",
        10 => "Exec_load",
        11 => "Delete_file",
        12 => "New_load",
        13 => "RAND",
        14 => "User var",
        15 => "Format_desc",
        16 => "Xid",
        17 => "Begin_load_query",
        18 => "Execute_load_query",
        19 => "Table_map",
        20 => "Write_rows_v0",
        21 => "Update_rows_v0",
        22 => "Delete_rows_v0",
        23 => "Write_rows_v1",
        24 => "Update_rows_v1",
        25 => "Delete_rows_v1",
        26 => "Incident",
        27 => "Heartbeat",
        28 => "Ignorable",
        29 => "Rows_query",
        30 => "Write_rows",
        31 => "Update_rows",
        32 => "Delete_rows",
        33 => "Gtid",
        34 => "Anonymous_Gtid",
        35 => "Previous_gtids",
        36 => "Transaction_context",
        37 => "View_change",
        38 => "XA_prepare",
        39 => "Update_rows_partial",
        40 => "Transaction_payload",
        41 => "Heartbeat_v2",
        42 => "Gtid_tagged_log_event",
        160 => "Annotate_rows",
        161 => "Binlog_checkpoint",
        162 => "Gtid",
        163 => "Gtid_list",
        164 => "Start_encryption",
        165 => "Query_compressed",
        166 => "Write_rows_compressed_v1",
        167 => "Update_rows_compressed_v1",
        168 => "Delete_rows_compressed_v1",
        169 => "Write_rows_compressed",
        170 => "Update_rows_compressed",
        171 => "Delete_rows_compressed",
        _ => "Unknown",
    }
}

/// Most bytes of one event that are kept in memory: the servers' own limit (`max_allowed_packet` at its highest).
///
/// ```
/// use rowbust_binlog::{Header, MAX_EVENT};
/// /// Whether to read the whole event into memory.
/// fn fits(header: &Header) -> bool {
///     usize::try_from(header.event_size).is_ok_and(|size| size <= MAX_EVENT)
/// }
/// # let header = Header { timestamp: 0, event_type: 2, server_id: 1, event_size: 100, log_pos: 0, flags: 0 };
/// assert!(fits(&header));
/// ```
pub const MAX_EVENT: usize = 1 << 30;

/// Header flag: the file is still being written, or the server crashed. Left out of the checksum.
///
/// Example: see [`Header`].
pub const FLAG_IN_USE: u16 = 0x01;
/// Header flag: made up by the dump thread, not in the file.
///
/// Example: see [`Header`].
pub const FLAG_ARTIFICIAL: u16 = 0x20;
/// Header flag: may be ignored by who doesn't know the type.
///
/// Example: see [`Header`].
pub const FLAG_IGNORABLE: u16 = 0x80;

/// The header that starts every event: 19 bytes, little-endian.
///
/// ```
/// use rowbust_binlog::{Header, event_type, header::{FLAG_ARTIFICIAL, FLAG_IGNORABLE, FLAG_IN_USE}};
/// let rotate = Header {
///     timestamp: 0,
///     event_type: event_type::ROTATE,
///     server_id: 1,
///     event_size: 44,
///     log_pos: 0,
///     flags: FLAG_ARTIFICIAL,
/// };
/// assert!(rotate.is_artificial());
/// assert_eq!(rotate.flags & (FLAG_IN_USE | FLAG_IGNORABLE), 0);
/// assert_eq!(Header::parse(&rotate.encode()), Ok(rotate));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970, when the statement began; 0 in artificial events.
    pub timestamp: u32,
    /// See [`event_type`].
    pub event_type: u8,
    /// The server that first wrote the event.
    pub server_id: u32,
    /// Bytes of the whole event: header, body, checksum.
    pub event_size: u32,
    /// Where the next event starts in the file. 0 or wrapped on some servers: 32 bits only.
    pub log_pos: u32,
    /// See [`FLAG_IN_USE`] and its neighbours.
    pub flags: u16,
}

impl Header {
    /// Length in bytes.
    pub const LEN: usize = 19;

    /// Reads the header at the start of `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(h) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(DecodeError::new(
                0,
                0,
                DecodeErrorKind::Truncated {
                    what: "event header",
                    needed: Self::LEN as u64,
                    left: bytes.len(),
                },
            ));
        };
        Ok(Self {
            timestamp: u32::from_le_bytes([h[0], h[1], h[2], h[3]]),
            event_type: h[4],
            server_id: u32::from_le_bytes([h[5], h[6], h[7], h[8]]),
            event_size: u32::from_le_bytes([h[9], h[10], h[11], h[12]]),
            log_pos: u32::from_le_bytes([h[13], h[14], h[15], h[16]]),
            flags: u16::from_le_bytes([h[17], h[18]]),
        })
    }

    /// The header's bytes, as [`Header::parse`] reads them.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut h = [0; Self::LEN];
        h[..4].copy_from_slice(&self.timestamp.to_le_bytes());
        h[4] = self.event_type;
        h[5..9].copy_from_slice(&self.server_id.to_le_bytes());
        h[9..13].copy_from_slice(&self.event_size.to_le_bytes());
        h[13..17].copy_from_slice(&self.log_pos.to_le_bytes());
        h[17..].copy_from_slice(&self.flags.to_le_bytes());
        h
    }

    /// Made up by the dump thread: it stands in no file, its position is not one.
    pub fn is_artificial(&self) -> bool {
        self.flags & FLAG_ARTIFICIAL != 0
    }

    /// Carries nothing that a replica must apply, even if its type is unknown.
    pub fn is_ignorable(&self) -> bool {
        self.flags & FLAG_IGNORABLE != 0
    }
}

/// One event, framed but not decoded.
///
/// ```
/// use rowbust_binlog::{Header, RawEvent, event_type};
/// let header = Header {
///     timestamp: 1_700_000_000,
///     event_type: event_type::XID,
///     server_id: 1,
///     event_size: 27,
///     log_pos: 0,
///     flags: 0,
/// };
/// let bytes = [header.encode().as_slice(), &7_u64.to_le_bytes()].concat();
/// let commit = RawEvent::parse(&bytes, false)?;
/// assert_eq!(commit.body, 7_u64.to_le_bytes());
/// # Ok::<(), rowbust_binlog::DecodeError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RawEvent<'a> {
    /// The common header.
    pub header: Header,
    /// What follows the header, without the checksum. Of an artificial Rotate the checksum may still be there:
    /// it is sent before the format description that would tell.
    pub body: &'a [u8],
    /// The checksum behind the body, if there is one that counts.
    pub crc: Option<u32>,
    /// Header and body in one piece, if the event was framed here.
    image: Option<&'a [u8]>,
}

/// Bytes of a CRC32 behind an event.
const CRC_LEN: usize = 4;

/// The algorithm in the last byte of a format description (`enum_binlog_checksum_alg` in the servers' sources).
const CRC32: u8 = 1;

impl<'a> RawEvent<'a> {
    /// Frames one whole event. `checksummed`: the last four bytes are a CRC32, which the format description
    /// event of the stream tells ([`crate::Decoder::checksummed`]). Ignored for the format description itself,
    /// which tells for itself, and for an artificial Rotate, which comes before it.
    #[inline]
    pub fn parse(bytes: &'a [u8], checksummed: bool) -> Result<Self, DecodeError> {
        let header = Header::parse(bytes)?;
        let body = &bytes[Header::LEN..];
        if header.event_size as usize != bytes.len() {
            return Err(DecodeError::new(
                header.event_type,
                9,
                DecodeErrorKind::Invalid { what: "event size", got: header.event_size.into() },
            ));
        }
        let checksummed = match header.event_type {
            event_type::FORMAT_DESCRIPTION => has_crc(body),
            event_type::ROTATE if header.is_artificial() => false,
            _ => checksummed,
        };
        if !checksummed {
            return Ok(Self { header, body, crc: None, image: Some(bytes) });
        }
        let Some((body, crc)) = body.split_last_chunk::<CRC_LEN>() else {
            return Err(DecodeError::new(
                header.event_type,
                Header::LEN,
                DecodeErrorKind::Truncated { what: "checksum", needed: CRC_LEN as u64, left: body.len() },
            ));
        };
        let image = bytes.get(..Header::LEN + body.len());
        // With `binlog_checksum=NONE` a format description still has a checksum. Where a stream begins in the middle of a file,
        // the dump thread changes the event (it has no place there) and leaves the checksum as it was: it tells nothing.
        let void = header.event_type == event_type::FORMAT_DESCRIPTION && body.last() != Some(&CRC32);
        let crc = (!void).then(|| u32::from_le_bytes(*crc));
        Ok(Self { header, body, crc, image })
    }

    /// An event that [`RawEvent::parse`] has framed before: its header, the bytes of header and body, and the checksum behind them.
    #[inline]
    pub fn framed(header: Header, image: &'a [u8], crc: Option<u32>) -> Self {
        Self { header, body: image.get(Header::LEN..).unwrap_or_default(), crc, image: Some(image) }
    }

    /// Puts together an event whose parts a driver has already taken apart.
    pub fn from_parts(header: Header, body: &'a [u8], crc: Option<u32>) -> Self {
        Self { header, body, crc, image: None }
    }

    /// One of MariaDB's compressed events (`log_bin_compress`), which an [`crate::Inflater`] turns into plain ones.
    pub fn is_compressed(&self) -> bool {
        use event_type as t;
        matches!(self.header.event_type, t::MARIA_QUERY_COMPRESSED..=t::MARIA_DELETE_ROWS_COMPRESSED_V2)
    }

    /// Compares the checksum with the bytes; `Ok` where there is none.
    pub fn verify_crc(&self) -> Result<(), DecodeError> {
        let Some(stored) = self.crc else { return Ok(()) };
        let computed = self.compute_crc(self.body);
        if stored == computed {
            return Ok(());
        }
        Err(DecodeError::new(
            self.header.event_type,
            Header::LEN + self.body.len(),
            DecodeErrorKind::Checksum { stored, computed },
        ))
    }

    /// The CRC32 of the header and `body`, which is this event's body or its beginning.
    pub(crate) fn compute_crc(&self, body: &[u8]) -> u32 {
        let mut header = self.header;
        let in_use = header.event_type == event_type::FORMAT_DESCRIPTION && header.flags & FLAG_IN_USE != 0;
        if let Some(image) = self.image.and_then(|image| image.get(..Header::LEN + body.len()))
            && !in_use
        {
            return crc32(0, image);
        }
        if in_use {
            // The server sets and clears this flag in place, without a new checksum.
            header.flags &= !FLAG_IN_USE;
        }
        crc32(crc32(0, &header.encode()), body)
    }
}

/// Does a format description event with this body (checksum included, if any) end in a checksum?
///
/// A server that knows checksums writes the algorithm and four more bytes behind the post-header lengths, even
/// with `binlog_checksum=NONE`: `Format_description_log_event` in `sql/log_event.cc`.
fn has_crc(body: &[u8]) -> bool {
    crate::decoder::fde_knows_checksums(body)
}
