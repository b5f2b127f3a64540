//! The seam to what row changes are handed to. May depend on `position` and `error`.

use std::fmt;

use rowbust_binlog::{Gtid, Rows, TableMap, XidBuf};

use super::{
    error::Refusal,
    position::{Anchor, Coordinates, Position},
};

/// A transaction that begins.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// Its GTID; `None` where the server has none (MariaDB and MySQL files from before GTIDs).
    pub gtid: Option<Gtid>,
    /// The end of its GTID event: see [`super::position::CommitSpan::last`].
    pub at: &'a Coordinates,
    /// Microseconds since 1970, by the server's clock, of the commit; where it only logs seconds, when the first statement
    /// began.
    pub commit_micros: u64,
}

/// What a change may have touched that no row image tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every table that a mapping names.
    All,
    /// Every such table of a schema.
    Schema(String),
    /// One table.
    Table {
        /// Its schema.
        schema: String,
        /// Its name.
        table: String,
    },
}

impl Scope {
    /// Whether every table of `other` is one of this scope's.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Schema(own), Self::Schema(schema) | Self::Table { schema, .. }) => own == schema,
            _ => self == other,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("every mapped table"),
            Self::Schema(schema) => write!(f, "{schema}.*"),
            Self::Table { schema, table } => write!(f, "{schema}.{table}"),
        }
    }
}

/// What is known of a transaction that was prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// All of its keys.
    Known,
    /// These tables or more, besides the keys that were kept.
    Wide(Vec<Scope>),
    /// Nothing: its begin wasn't read.
    Unknown,
}

/// What row changes are handed to.
///
/// The order of calls: `started` once, then per transaction `begin`, any number of `table` and `rows`, and `commit` or
/// `abandon`. `flush` comes in between at any event, also within a transaction (it may be larger than memory).
pub trait Sink: Send {
    /// Why nothing more can be handed on.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Where the stream begins: everything before is done, or not asked for.
    fn started(&mut self, position: &Position);

    /// A transaction begins.
    fn begin(&mut self, transaction: Transaction<'_>);

    /// Whether a mapping names this table. Asked once per new table map, and for statements that wipe tables.
    fn is_mapped(&self, schema: &str, table: &str) -> bool;

    /// Whether a mapping may name a table of this schema.
    fn is_schema_mapped(&self, schema: &str) -> bool;

    /// The table in `slot` is a new one, or another version; only for mapped tables. What was kept for the slot is void.
    ///
    /// # Errors
    /// The table doesn't fit the mappings: the daemon stops at the event.
    fn table(&mut self, slot: usize, table: &TableMap) -> Result<(), Refusal>;

    /// A mapped table's row event. `end`: the event's end in the file of the transaction.
    ///
    /// # Errors
    /// A row can't be turned into keys: the daemon stops at the event.
    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, end: u64) -> Result<(), Refusal>;

    /// Something changed that no row image tells (TRUNCATE, an event that can't be decoded): the keyspace of every mapping of
    /// `scope` is owed a removal, like the keys of a row. Within a transaction its commit gates the second removal; outside one the
    /// newest position that was read does. `cause` goes to the log and the status, its first word to the metrics.
    ///
    /// # Errors
    /// It can't be done: the daemon stops at the event.
    fn widen(&mut self, scope: &Scope, cause: &str) -> Result<(), Refusal>;

    /// The transaction is read to its end, which is a place to resume from. Rollbacks of what engines can't roll back, DDL
    /// and empty transactions come here too. `anchor`: its last event, which ends there.
    fn commit(&mut self, end: &Coordinates, anchor: Option<Anchor>);

    /// The running transaction may be prepared: its keys are to be kept, and what is widened in it. Who keeps none knows nothing of it
    /// at its end.
    fn xa_started(&mut self) {}

    /// It is, under this id: what was kept is owed again when it is committed. Until then no place behind its begin is done. `commit`
    /// follows.
    fn xa_prepared(&mut self, xid: &XidBuf) {
        let _ = xid;
    }

    /// What was prepared under this id is committed by the running transaction, or rolled back. What was kept is handed on again, as
    /// rows of the running transaction. Once that is done, places behind its begin may be. `commit` follows.
    fn xa_finished(&mut self, xid: &XidBuf, committed: bool) -> Prepared {
        let _ = (xid, committed);
        Prepared::Unknown
    }

    /// Transactions that are prepared and not finished.
    fn xa_count(&self) -> u64 {
        0
    }

    /// Reading goes on at `position` of another server, `identity`, that has everything which was read before. Comes between
    /// `started` and the first transaction, if at all.
    fn moved(&mut self, position: &Position, identity: &str);

    /// What lies between the place of `started` and `position`, where reading goes on, is lost: every key that a mapping could
    /// make is owed a removal, whose second one everything before `position` gates. Only then is `position` done, in a new epoch.
    /// Comes between `started` and the first transaction, if at all.
    ///
    /// # Errors
    /// It can't be done.
    fn gap(&mut self, position: &Position, identity: &str, cause: &str) -> Result<(), Refusal>;

    /// Redis targets have forgotten removals: every key of theirs is owed one, whose second everything before `position` gates, and that
    /// begins a new epoch. Comes where `gap` may come, or behind it or `moved`.
    ///
    /// # Errors
    /// It can't be done.
    fn forgotten(
        &mut self,
        position: &Position,
        identity: &str,
        targets: &[usize],
        cause: &str,
    ) -> Result<(), Refusal> {
        let _ = targets;
        self.gap(position, identity, cause)
    }

    /// The transaction was cut off: it comes again in full. Keys that were already handed on may stay (a removal too many).
    fn abandon(&mut self);

    /// Whether so much has gathered that `flush` should run before more is read.
    fn wants_flush(&self) -> bool;

    /// Hands on what has gathered. Also called whenever nothing is ready to be read. May wait: then reading waits too.
    ///
    /// # Errors
    /// Ends the following.
    fn flush(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
