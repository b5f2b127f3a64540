//! One removal that is still owed, as the queue keeps it: operation and origin, never row data.
//!
//! May depend on nothing of ours.

/// A removal that failed, or that a breaker sent straight to the queue. It stands for *all* removals that the change
/// still owes to the key: the queue is done with it only when a removal succeeded after the commit was visible at every
/// read source and the fill grace had passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Name of the Redis target in the config.
    pub target: String,
    /// The cache key, or what [`Op`] says.
    pub key: Vec<u8>,
    /// What is done to it.
    pub op: Op,
    /// Where the change came from.
    pub origin: Origin,
    /// Whether the removal must wait for visibility (`second_removal: when_visible`).
    pub when_visible: bool,
    /// How much later than visibility the last removal must be, in milliseconds; without `when_visible`, than the first failure.
    pub fill_grace_ms: u64,
    /// Attempts that were used up. Errors of the target use none.
    pub attempt: u32,
    /// Unix time in milliseconds before which no attempt is made.
    pub not_before_ms: u64,
    /// Unix time in milliseconds of the first failure.
    pub first_failed_ms: u64,
    /// Code of the newest error, as Redis spells it (`READONLY`, `WRONGTYPE`), or ours (`IO`, `TIMEOUT`, `BREAKER`).
    pub error_code: String,
}

/// What is done to a record's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// `UNLINK key`
    Unlink,
    /// `HDEL key field`
    Hdel {
        /// The hash's field.
        field: Vec<u8>,
    },
    /// Every key that begins with the record's key is removed.
    Prefix,
    /// The record's key is a set: the keys that are its members are removed, then the set itself.
    MembersOf,
    /// Nothing can be removed: a row of this table (`schema.table`) gave no key. It is only ever a dead letter, which says
    /// where the row stands; what its mappings could make was flushed. Target and key are empty.
    Row {
        /// `schema.table`
        table: String,
    },
}

impl Op {
    /// As in the config: `unlink`, `hdel`, `prefix`, `members_of`; `row` for [`Op::Row`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unlink => "unlink",
            Self::Hdel { .. } => "hdel",
            Self::Prefix => "prefix",
            Self::MembersOf => "members_of",
            Self::Row { .. } => "row",
        }
    }

    /// The hash's field; `None`: it is no [`Op::Hdel`].
    pub fn field(&self) -> Option<&[u8]> {
        match self {
            Self::Hdel { field } => Some(field),
            _ => None,
        }
    }

    /// Whether one operation may remove many keys, and take long.
    pub fn is_wide(&self) -> bool {
        matches!(self, Self::Prefix | Self::MembersOf)
    }
}

/// The place of a change in the binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `@@server_uuid` on MySQL, `server_id` as text on MariaDB.
    pub source: String,
    /// The GTIDs that must be visible, as text; empty: anonymous.
    pub gtid: String,
    /// Binlog file of the rows event.
    pub file: String,
    /// Offset of the rows event's end.
    pub position: u64,
    /// Number of the row within its event, from 0; 65535 stands for all beyond.
    pub row: u16,
    /// Unix time in seconds of the commit, by the server's clock.
    pub commit_time: u32,
    /// Epoch of the checkpoint: changes with each gap.
    pub epoch: u64,
    /// What the witness by position asks for: file of the newest transaction that the batch of this key came from.
    pub visible_file: String,
    /// And its position.
    pub visible_position: u64,
}
