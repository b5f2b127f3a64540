//! The state of a stream: format description, and the table maps of the transaction at hand.

use rustc_hash::FxHashMap;

use crate::Flavor;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::event::{Event, FormatDescription, Query, XaPrepare};
use crate::gtid::{GtidSet, event as gtid};
use crate::header::{Header, RawEvent, event_name, event_type as t};
use crate::payload::Payload;
use crate::reader::Reader;
use crate::rows::{RowKind, Rows};
use crate::table_map::TableMap;
use crate::xid::Xid;

/// Most table maps that a decoder keeps, and so the bound of its slots.
///
/// ```
/// use rowbust_binlog::{DecodeErrorKind, decoder::MAX_TABLES};
/// let error = DecodeErrorKind::TooManyTables { limit: MAX_TABLES };
/// assert!(error.to_string().contains("4096"));
/// ```
pub const MAX_TABLES: usize = 4096;

/// The table id of a rows event that carries no rows, only the end of its statement.
const DUMMY_TABLE_ID: u64 = 0x00ff_ffff;

/// Turns raw events of one stream, in order, into [`Event`]s.
///
/// ```
/// use rowbust_binlog::{
///     Column, Decoder, Event, FileEvents, Projection, RowCursor, RowKind, RowSlots, TableMap, Value,
/// };
///
/// let file = std::fs::read("tests/fixtures/mysql-9.7.full.binlog")?;
/// let mut decoder = Decoder::new();
/// let mut inserted = Vec::new();
/// for raw in FileEvents::new(&file)? {
///     match decoder.decode(&raw?)? {
///         Event::Rows(rows) if rows.kind == RowKind::Write => {
///             let map: &TableMap = decoder.table(rows.slot);
///             let (true, Some(index)) = (map.table == "t_int", map.column_index("v")) else { continue };
///             let column: &Column = &map.columns[index];
///             // Kept for as long as the table stays the same.
///             let projection = Projection::new(map, &[index])?;
///             let mut cursor: RowCursor<'_, '_> = rows.cursor(map, &projection)?;
///             let mut row = RowSlots::default();
///             while cursor.next(&mut row)? {
///                 let mut text = Vec::new();
///                 match row.after.first() {
///                     Some(Value::Null) | None => text.extend(b"NULL"),
///                     Some(value) => value.write_text(column, &mut text)?,
///                 }
///                 inserted.push(String::from_utf8(text)?);
///             }
///         }
///         // The end of a transaction.
///         Event::Xid(_) => decoder.end_transaction(),
///         Event::Unsupported { name, .. } => return Err(name.into()),
///         _ => {}
///     }
/// }
/// assert!(inserted.starts_with(&["NULL", "-2147483648", "-1", "0", "2147483647"].map(String::from)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    format: Option<Format>,
    slots: Vec<Slot>,
    ids: FxHashMap<u64, usize>,
    /// The last table id looked up, and its slot.
    last: Option<(u64, usize)>,
    /// Counts transactions: a slot is valid in the one in which its table map came.
    transaction: u64,
}

/// One table map that is kept.
#[derive(Debug)]
struct Slot {
    map: TableMap,
    /// The event's body, to know it again.
    body: Vec<u8>,
    transaction: u64,
}

/// What the format description says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    flavor: Flavor,
    checksum: bool,
    pub(crate) query_header: usize,
    table_id_len: usize,
    pub(crate) rows_v1_id_len: usize,
    pub(crate) rows_v2_id_len: usize,
}

impl Decoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events that follow end in a CRC32, by the last format description: for [`RawEvent::parse`].
    pub fn checksummed(&self) -> bool {
        self.format.is_some_and(|f| f.checksum)
    }

    /// Decodes one event, checksum included. The event borrows from `raw`'s bytes only.
    ///
    /// # Errors
    /// The bytes contradict the format. The stream can't be trusted any more: [`Decoder::reset`].
    #[inline]
    pub fn decode<'a>(&mut self, raw: &RawEvent<'a>) -> Result<Event<'a>, DecodeError> {
        raw.verify_crc()?;
        let (kind, v2) = match raw.header.event_type {
            t::WRITE_ROWS_V1 => (RowKind::Write, false),
            t::UPDATE_ROWS_V1 => (RowKind::Update, false),
            t::DELETE_ROWS_V1 => (RowKind::Delete, false),
            t::WRITE_ROWS_V2 => (RowKind::Write, true),
            t::UPDATE_ROWS_V2 => (RowKind::Update, true),
            t::DELETE_ROWS_V2 => (RowKind::Delete, true),
            t::PARTIAL_UPDATE_ROWS => (RowKind::Update, true),
            _ => return self.other(raw),
        };
        self.rows(raw, kind, v2)
    }

    /// Forgets which table ids are valid, at the end of a transaction (commit, rollback, or a standalone
    /// statement). The maps stay: the same TABLE_MAP event in a later transaction costs a comparison.
    pub fn end_transaction(&mut self) {
        self.transaction += 1;
    }

    /// Forgets everything: before a new connection. Every slot is `fresh` again.
    pub fn reset(&mut self) {
        self.format = None;
        self.forget_tables();
    }

    /// The table of a slot.
    ///
    /// # Panics
    /// If no TABLE_MAP event gave this slot since the last reset: an error of the caller, not of the input.
    pub fn table(&self, slot: usize) -> &TableMap {
        &self.slots[slot].map
    }

    /// The table of a slot, to [`TableMap::complete`] it.
    ///
    /// # Panics
    /// As [`Decoder::table`].
    pub fn table_mut(&mut self, slot: usize) -> &mut TableMap {
        &mut self.slots[slot].map
    }

    fn forget_tables(&mut self) {
        self.slots.clear();
        self.ids.clear();
        self.last = None;
        self.transaction += 1;
    }

    fn slot_of(&mut self, table_id: u64) -> Option<usize> {
        if let Some((id, slot)) = self.last
            && id == table_id
        {
            return Some(slot);
        }
        let slot = *self.ids.get(&table_id)?;
        self.last = Some((table_id, slot));
        Some(slot)
    }

    #[inline]
    fn rows<'a>(&mut self, raw: &RawEvent<'a>, kind: RowKind, v2: bool) -> Result<Event<'a>, DecodeError> {
        let event_type = raw.header.event_type;
        let format = self.format(event_type)?;
        let mut r = Reader::body(raw.body, event_type);
        let table_id = r.table_id(if v2 { format.rows_v2_id_len } else { format.rows_v1_id_len })?;
        let flags = r.u16("rows flags")?;
        let transaction = self.transaction;
        match self.slot_of(table_id).filter(|&slot| self.slots[slot].transaction == transaction) {
            // A table may have the dummy's number: then it has a map.
            None if table_id == DUMMY_TABLE_ID && flags & Rows::STMT_END != 0 => {
                Ok(Event::Ignored(event_type))
            }
            Some(slot) => Rows::parse(r, event_type, kind, v2, table_id, flags, slot).map(Event::Rows),
            None => Err(DecodeError::new(event_type, Header::LEN, DecodeErrorKind::NoTableMap { table_id })),
        }
    }

    pub(crate) fn format(&self, event_type: u8) -> Result<Format, DecodeError> {
        self.format.ok_or_else(|| DecodeError::new(event_type, 0, DecodeErrorKind::NoFormatDescription))
    }

    fn other<'a>(&mut self, raw: &RawEvent<'a>) -> Result<Event<'a>, DecodeError> {
        let event_type = raw.header.event_type;
        let mut r = Reader::body(raw.body, event_type);
        match event_type {
            t::FORMAT_DESCRIPTION => return self.format_description(raw).map(Event::FormatDescription),
            t::ROTATE => {
                self.end_transaction();
                return rotate(raw);
            }
            _ => {}
        }
        let format = self.format(event_type)?;
        match event_type {
            t::TABLE_MAP => self.table_map(raw, format),
            t::QUERY => query(r, format).map(Event::Query),
            t::XID => r.u64("XID").map(Event::Xid),
            t::XA_PREPARE => xa_prepare(r).map(Event::XaPrepare),
            t::TRANSACTION_PAYLOAD => Payload::parse(r).map(Event::TransactionPayload),
            t::GTID => gtid::mysql(r).map(Event::Gtid),
            t::GTID_TAGGED => gtid::tagged(r).map(Event::Gtid),
            t::ANONYMOUS_GTID => Ok(Event::AnonymousGtid),
            t::PREVIOUS_GTIDS => GtidSet::decode(raw.body, event_type).map(Event::PreviousGtids),
            t::MARIA_GTID => gtid::maria(r, raw.header.server_id).map(Event::Gtid),
            t::MARIA_GTID_LIST => gtid::maria_list(r).map(Event::GtidList),
            t::HEARTBEAT | t::HEARTBEAT_V2 => heartbeat(r, raw.header, format),
            t::STOP => Ok(Event::Stop),
            t::INCIDENT => {
                let number = r.u16("incident number")?;
                let len = r.u8("length of the incident's message")?;
                Ok(Event::Incident { number, message: r.take(len.into(), "incident's message")? })
            }
            t::ROWS_QUERY => {
                // The first byte is a length that overflows: the text is all the rest.
                r.u8("rows query length")?;
                Ok(Event::RowsQuery(r.rest()))
            }
            t::MARIA_ANNOTATE_ROWS => Ok(Event::RowsQuery(r.rest())),
            t::INTVAR
            | t::RAND
            | t::USER_VAR
            | t::IGNORABLE
            | t::TRANSACTION_CONTEXT
            | t::VIEW_CHANGE
            | t::MARIA_BINLOG_CHECKPOINT
            // In a stream, which the server has decrypted: only its files are encrypted.
            | t::MARIA_START_ENCRYPTION => Ok(Event::Ignored(event_type)),
            _ => Ok(Event::Unsupported {
                event_type,
                name: event_name(event_type),
                may_carry_rows: is_known(event_type) || !raw.header.is_ignorable(),
            }),
        }
    }

    fn format_description<'a>(&mut self, raw: &RawEvent<'a>) -> Result<FormatDescription<'a>, DecodeError> {
        let event_type = raw.header.event_type;
        let mut r = Reader::body(raw.body, event_type);
        let binlog_version = r.u16("binlog version")?;
        if binlog_version != 4 {
            return Err(
                r.error(DecodeErrorKind::Invalid { what: "binlog version", got: binlog_version.into() })
            );
        }
        let version = version_bytes(r.take(VERSION_LEN, "server version")?);
        let server_version = std::str::from_utf8(version)
            .map_err(|_| r.error(DecodeErrorKind::NotUtf8 { what: "server version" }))?;
        let created = r.u32("creation time")?;
        let header_len = r.u8("header length")?;
        if usize::from(header_len) != Header::LEN {
            return Err(r.error(DecodeErrorKind::Invalid { what: "header length", got: header_len.into() }));
        }
        let mut lengths = r.rest();
        let mut checksum = false;
        if version_knows_checksums(version) {
            let Some((&algorithm, rest)) = lengths.split_last() else {
                let kind = DecodeErrorKind::Truncated { what: "checksum algorithm", needed: 1, left: 0 };
                return Err(r.error(kind));
            };
            if algorithm > 1 {
                return Err(
                    r.error(DecodeErrorKind::Invalid { what: "checksum algorithm", got: algorithm.into() })
                );
            }
            (checksum, lengths) = (algorithm == 1, rest);
        }
        let length = |of: u8, default: u8| -> usize {
            usize::from(of).checked_sub(1).and_then(|i| lengths.get(i)).copied().unwrap_or(default).into()
        };
        // A post-header of 6 bytes is a table id of 4 and flags: MySQL 5.1.4 and before.
        let id_len = |of: u8, default: u8| if length(of, default) == 6 { 4 } else { 6 };
        let flavor = Flavor::from_version(server_version);
        self.format = Some(Format {
            flavor,
            checksum,
            query_header: length(t::QUERY, 13),
            table_id_len: id_len(t::TABLE_MAP, 8),
            rows_v1_id_len: id_len(t::WRITE_ROWS_V1, 8),
            rows_v2_id_len: id_len(t::WRITE_ROWS_V2, 10),
        });
        if created == 0 {
            self.end_transaction();
        } else {
            // The server was started: it counts table ids from the beginning again.
            self.forget_tables();
        }
        Ok(FormatDescription { server_version, flavor, checksum, created })
    }

    fn table_map<'a>(&mut self, raw: &RawEvent<'a>, format: Format) -> Result<Event<'a>, DecodeError> {
        let event_type = raw.header.event_type;
        let mut r = Reader::body(raw.body, event_type);
        let table_id = r.table_id(format.table_id_len)?;
        let transaction = self.transaction;
        let known = self.slot_of(table_id);
        if let Some(slot) = known
            && self.slots[slot].body == raw.body
        {
            self.slots[slot].transaction = transaction;
            return Ok(Event::TableMap { slot, fresh: false });
        }
        let map = TableMap::parse(raw.body, event_type, format.table_id_len, format.flavor)?;
        let new = Slot { map, body: raw.body.to_vec(), transaction };
        let slot = match known.or_else(|| self.evict()) {
            Some(slot) => {
                self.slots[slot] = new;
                slot
            }
            None if self.slots.len() < MAX_TABLES => {
                self.slots.push(new);
                self.slots.len() - 1
            }
            None => {
                let kind = DecodeErrorKind::TooManyTables { limit: MAX_TABLES };
                return Err(DecodeError::new(event_type, Header::LEN, kind));
            }
        };
        self.ids.insert(table_id, slot);
        self.last = Some((table_id, slot));
        Ok(Event::TableMap { slot, fresh: true })
    }

    /// When all slots are taken: frees the one that was longest not used, and in no case one of this transaction.
    fn evict(&mut self) -> Option<usize> {
        if self.slots.len() < MAX_TABLES {
            return None;
        }
        let (slot, oldest) = self.slots.iter().enumerate().min_by_key(|(_, s)| s.transaction)?;
        if oldest.transaction == self.transaction {
            return None;
        }
        self.ids.remove(&oldest.map.table_id);
        self.last = None;
        Some(slot)
    }
}

/// Types that are in [`event_type`](t) but not decoded: their ignorable flag, if set, doesn't count.
fn is_known(event_type: u8) -> bool {
    event_type != t::UNKNOWN && event_name(event_type) != "Unknown"
}

const VERSION_LEN: usize = 50;

/// The server version without the zero bytes that fill its field.
fn version_bytes(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// MySQL since 5.6.1, MariaDB since 5.3 (`checksum_version_split_*` in the servers' `log_event.cc`).
fn version_knows_checksums(version: &[u8]) -> bool {
    let mut numbers = version.split(|b| !b.is_ascii_digit()).map(|digits| {
        digits.iter().fold(0_u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')))
    });
    let mut next = || numbers.next().unwrap_or(0);
    let version_number = (next(), next(), next());
    let maria = version.to_ascii_lowercase().windows(7).any(|w| w == b"mariadb");
    version_number >= if maria { (5, 3, 0) } else { (5, 6, 1) }
}

/// Does a format description of this body end in an algorithm and a checksum (of whichever kind)?
pub(crate) fn fde_knows_checksums(body: &[u8]) -> bool {
    body.get(2..2 + VERSION_LEN).is_some_and(|field| version_knows_checksums(version_bytes(field)))
}

/// Do the events behind a format description of this body, from which the checksum is already taken, have one?
pub(crate) fn fde_enables_checksums(body: &[u8]) -> bool {
    fde_knows_checksums(body) && body.last() == Some(&1)
}

fn rotate<'a>(raw: &RawEvent<'a>) -> Result<Event<'a>, DecodeError> {
    let artificial = raw.header.is_artificial();
    let mut body = raw.body;
    // Sent before the format description, with or without a checksum: only the bytes tell.
    if artificial
        && raw.crc.is_none()
        && let Some((rest, crc)) = body.split_last_chunk::<4>()
        && u32::from_le_bytes(*crc) == raw.compute_crc(rest)
    {
        body = rest;
    }
    let mut r = Reader::body(body, raw.header.event_type);
    Ok(Event::Rotate { position: r.u64("position")?, file: r.rest(), artificial })
}

fn query<'a>(mut r: Reader<'a>, format: Format) -> Result<Query<'a>, DecodeError> {
    let post_header = r.take(format.query_header, "query post-header")?;
    let mut p = r.sub(post_header);
    let thread_id = p.u32("thread id")?;
    p.u32("execution time")?;
    let schema_len = p.u8("schema length")?;
    let error_code = p.u16("error code")?;
    let status_len = p.u16("length of status variables")?;
    let status = r.take(status_len.into(), "status variables")?;
    let (sql_mode, client_collation) = status_variables(r.sub(status));
    let schema = r.take(schema_len.into(), "schema name")?;
    r.u8("zero byte behind the schema name")?;
    Ok(Query { thread_id, error_code, schema, sql: r.rest(), client_collation, sql_mode })
}

/// `sql_mode` and `character_set_client`, which come early; what is behind them, or unknown, is not looked at.
fn status_variables(mut r: Reader<'_>) -> (Option<u64>, Option<u16>) {
    let (mut sql_mode, mut collation) = (None, None);
    let mut next = || -> Result<bool, DecodeError> {
        match r.u8("code")? {
            // Q_FLAGS2
            0 => drop(r.u32("value")?),
            // Q_SQL_MODE
            1 => sql_mode = Some(r.u64("value")?),
            // Q_AUTO_INCREMENT
            3 => drop(r.u32("value")?),
            // Q_CHARSET: client, connection, server
            4 => {
                collation = Some(r.u16("value")?);
                r.u32("value")?;
            }
            // Q_CATALOG_NZ
            6 => {
                let len = r.u8("value")?;
                r.take(len.into(), "value")?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    };
    while let Ok(true) = next() {}
    (sql_mode, collation)
}

/// `XA_prepare_event` in MySQL's `control_events.h`; MariaDB writes the same.
fn xa_prepare(mut r: Reader<'_>) -> Result<XaPrepare<'_>, DecodeError> {
    let one_phase = r.u8("one phase")? != 0;
    let format_id = r.u32("format of the XID")?.cast_signed();
    let (gtrid, bqual) = (r.u32("length of the XID")?, r.u32("length of the XID")?);
    Ok(XaPrepare { one_phase, xid: Xid::parse(&mut r, format_id, gtrid, bqual)? })
}

fn heartbeat<'a>(mut r: Reader<'a>, header: Header, format: Format) -> Result<Event<'a>, DecodeError> {
    if header.event_type == t::HEARTBEAT {
        // MariaDB puts a position that needs more than 32 bits in front of the name.
        let position = match format.flavor {
            Flavor::MariaDb if header.log_pos == 0 && r.left() > 8 => r.u64("position")?,
            _ => header.log_pos.into(),
        };
        return Ok(Event::Heartbeat { file: r.rest(), position });
    }
    // Version 2: fields of type, length, value; `codecs/binary.cpp` of MySQL's libbinlogevents.
    let (mut file, mut position) = (&[][..], 0);
    while !r.is_empty() {
        let field = r.lenenc("heartbeat field type")?;
        if field == 0 {
            break;
        }
        let value = r.lenenc_bytes("heartbeat field")?;
        match field {
            1 => file = value,
            2 => position = r.sub(value).lenenc("position")?,
            _ => {}
        }
    }
    Ok(Event::Heartbeat { file, position })
}
