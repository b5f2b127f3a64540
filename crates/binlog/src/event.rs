//! Decoded events. They borrow from the raw event's bytes, never from the decoder.

use crate::Flavor;
use crate::gtid::{Gtid, GtidSet, MariaGtidPos};
use crate::payload::Payload;
use crate::rows::Rows;
use crate::xid::Xid;

/// What a stream or a file starts with.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, Flavor, FormatDescription};
/// let file = std::fs::read("tests/fixtures/mariadb-10.11.full.binlog")?;
/// let first = FileEvents::new(&file)?.next().ok_or("no event")??;
/// let Event::FormatDescription(FormatDescription { flavor, checksum, .. }) = Decoder::new().decode(&first)? else {
///     return Err("every file begins with it".into());
/// };
/// assert_eq!((flavor, checksum), (Flavor::MariaDb, true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatDescription<'a> {
    /// As `SELECT VERSION()`.
    pub server_version: &'a str,
    /// The dialect, by the version.
    pub flavor: Flavor,
    /// The events that follow end in a CRC32.
    pub checksum: bool,
    /// Unix seconds of the server's start if this is the first file since then, otherwise 0.
    pub created: u32,
}

/// The event that opens a transaction or a group of either flavour.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, GtidEvent};
/// let file = std::fs::read("tests/fixtures/mariadb-10.11.full.binlog")?;
/// let mut decoder = Decoder::new();
/// let mut standalone = 0;
/// for raw in FileEvents::new(&file)? {
///     if let Event::Gtid(GtidEvent { gtid, standalone: true, .. }) = decoder.decode(&raw?)? {
///         println!("{gtid} is one statement, without a commit behind it");
///         standalone += 1;
///     }
/// }
/// assert!(standalone > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GtidEvent<'a> {
    /// The transaction's GTID.
    pub gtid: Gtid,
    /// MariaDB `FL_STANDALONE`: the one event that follows is the whole group, no COMMIT or XID ends it. Always
    /// false on MySQL, where the kind of the next Query event tells.
    pub standalone: bool,
    /// The flags byte as it is: MySQL's bit 0 "may have statement-based events"; MariaDB's `flags2`.
    pub flags: u8,
    /// MariaDB: the group is one of the two of an XA transaction. Always `None` on MySQL, where the Query events of
    /// the group tell.
    pub xa: Option<XaPhase>,
    /// MariaDB: that transaction's id.
    pub xid: Option<Xid<'a>>,
    /// MySQL 8.0.2 and later: bytes of the transaction, this event included.
    pub transaction_length: Option<u64>,
    /// MySQL 8.0.1 and later: microseconds since 1970, by the clock of the server that wrote this binlog, of the commit
    /// (`immediate_commit_timestamp`, `Gtid_event` in MySQL's `control_events.h`).
    pub commit_micros: Option<u64>,
}

impl GtidEvent<'_> {
    /// With nothing but these.
    pub(crate) fn new(gtid: Gtid, flags: u8) -> Self {
        Self {
            gtid,
            standalone: false,
            flags,
            xa: None,
            xid: None,
            transaction_length: None,
            commit_micros: None,
        }
    }
}

/// Which half of an XA transaction a MariaDB group is.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, XaPhase};
/// let file = std::fs::read("tests/fixtures/mariadb-10.11.containers.binlog")?;
/// let mut decoder = Decoder::new();
/// let mut phases = Vec::new();
/// for raw in FileEvents::new(&file)? {
///     if let Event::Gtid(gtid) = decoder.decode(&raw?)? {
///         phases.extend(gtid.xa);
///     }
/// }
/// assert!(phases.contains(&XaPhase::Prepared) && phases.contains(&XaPhase::Completed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XaPhase {
    /// Its changes, up to XA PREPARE (`FL_PREPARED_XA`).
    Prepared,
    /// Its XA COMMIT or XA ROLLBACK (`FL_COMPLETED_XA`); the statement tells which.
    Completed,
}

/// The end of a group that is prepared.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, XaPrepare};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.containers.binlog")?;
/// let mut decoder = Decoder::new();
/// let mut prepared = Vec::new();
/// for raw in FileEvents::new(&file)? {
///     if let Event::XaPrepare(XaPrepare { one_phase: false, xid }) = decoder.decode(&raw?)? {
///         prepared.push(xid.to_string());
///     }
/// }
/// assert!(!prepared.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XaPrepare<'a> {
    /// `XA COMMIT … ONE PHASE`: it is committed with this event, no other group follows.
    pub one_phase: bool,
    /// The transaction.
    pub xid: Xid<'a>,
}

/// A statement: BEGIN, COMMIT, DDL, or DML in statement format.
///
/// ```
/// use rowbust_binlog::{Decoder, Event, FileEvents, Query};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.full.binlog")?;
/// let mut decoder = Decoder::new();
/// let mut created = 0;
/// for raw in FileEvents::new(&file)? {
///     if let Event::Query(Query { sql, .. }) = decoder.decode(&raw?)? {
///         created += usize::from(sql.starts_with(b"CREATE TABLE"));
///     }
/// }
/// assert!(created > 50);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query<'a> {
    /// Connection that ran it.
    pub thread_id: u32,
    /// 0, or the error that the statement ended with.
    pub error_code: u16,
    /// The default schema; empty if none.
    pub schema: &'a [u8],
    /// The statement, in the client's character set (see `client_collation`).
    pub sql: &'a [u8],
    /// `character_set_client` as a collation id, if the event tells.
    pub client_collation: Option<u16>,
    /// `@@sql_mode`, if the event tells.
    pub sql_mode: Option<u64>,
}

/// One event.
///
/// Example: see [`Decoder`](crate::Decoder).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Start of a stream or file.
    FormatDescription(FormatDescription<'a>),
    /// Another file follows.
    Rotate {
        /// Where in it to go on.
        position: u64,
        /// Its name.
        file: &'a [u8],
        /// Sent by the dump thread to say where it starts; not in the file.
        artificial: bool,
    },
    /// Start of a transaction with a GTID.
    Gtid(GtidEvent<'a>),
    /// Start of a transaction without one (MySQL with `gtid_mode` below ON).
    AnonymousGtid,
    /// MySQL, near the start of a file: all that the files before hold.
    PreviousGtids(GtidSet),
    /// MariaDB, near the start of a file: the last GTID of each domain before it.
    GtidList(MariaGtidPos),
    /// A statement.
    Query(Query<'a>),
    /// COMMIT of a transaction in a transactional engine.
    Xid(u64),
    /// XA PREPARE, or the commit of an XA transaction in one phase.
    XaPrepare(XaPrepare<'a>),
    /// A whole transaction in one event: read it by a [`crate::PayloadReader`], and decode what that gives.
    TransactionPayload(Payload<'a>),
    /// The rows that follow may use this table id.
    TableMap {
        /// Index for [`crate::Decoder::table`].
        slot: usize,
        /// Newly parsed: whatever the consumer keeps for this slot is of another table or version.
        fresh: bool,
    },
    /// Row images.
    Rows(Rows<'a>),
    /// The statement's text beside its rows (`binlog_rows_query_log_events`, `binlog_annotate_row_events`).
    RowsQuery(&'a [u8]),
    /// Sign of life of a quiet server.
    Heartbeat {
        /// File in which the server stands.
        file: &'a [u8],
        /// Position in it.
        position: u64,
    },
    /// The server shut down in order.
    Stop,
    /// The server says that the binlog may lack events.
    Incident {
        /// Why: 1 is "lost events", the only one that is known.
        number: u16,
        /// In words.
        message: &'a [u8],
    },
    /// Known and harmless to whoever follows rows: it carries none. INTVAR, RAND and USER_VAR are among them:
    /// the Query event behind them is the one that matters.
    Ignored(u8),
    /// Not decoded. MariaDB's compressed events ([`crate::RawEvent::is_compressed`]) are among them: they are to be
    /// inflated by a [`crate::Inflater`] first.
    Unsupported {
        /// See [`crate::event_type`].
        event_type: u8,
        /// Its name.
        name: &'static str,
        /// False only where it is known to hold no row change, or says itself that it may be ignored.
        may_carry_rows: bool,
    },
}
