//! What `mappings` say.

use std::time::Duration;

use globset::GlobMatcher;
use rowbust_protocol::template::Template;

use super::Policy;

/// One entry of `mappings:`
#[derive(Debug, Clone)]
pub struct Mapping {
    /// As written: `schema.table`, parts may be globs.
    pub table: String,
    /// Matches the schema's name.
    pub schema_glob: GlobMatcher,
    /// Matches the table's name.
    pub table_glob: GlobMatcher,
    /// Updates that change none of these columns are ignored; `None`: no filter.
    pub when_changed: Option<Vec<String>>,
    /// Only rows whose column has one of these text forms.
    pub when: Option<When>,
    /// What to remove. At least one.
    pub keys: Vec<KeyRule>,
    /// When the second removal runs.
    pub second_removal: SecondRemoval,
    /// How much longer than visibility the second removal of a plain key waits. Default 1 s; 0 where `guarded`.
    pub fill_grace: Duration,
    /// The keys are filled under leases, which the second removal revokes. Default: false.
    pub guarded: bool,
    /// As [`Limits::keys_per_second`](super::Limits::keys_per_second), for this mapping alone; 0 (default): that of the target only. Paces what its `prefix` and
    /// `members_of` remove, too.
    pub keys_per_second: u64,
    /// What TRUNCATE, DROP and RENAME do.
    pub on_ddl: OnDdl,
    /// What to do when the table lacks a column that the mapping names, or its columns' names aren't known.
    pub on_schema: Policy,
    /// Index into [`Config::redis`](super::Config::redis).
    pub target: usize,
    /// Where it stands in the file, for messages: line of `table:`.
    pub line: usize,
}

/// `when:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// The column.
    pub column: String,
    /// Text forms that match.
    pub any_of: Vec<String>,
    /// Which image is looked at.
    pub image: Image,
}

/// Which row image a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The row before the change.
    Before,
    /// The row after the change.
    After,
    /// Either of them (default).
    Any,
}

/// One entry of `keys:`
#[derive(Debug, Clone)]
pub struct KeyRule {
    /// The key's template.
    pub key: Template,
    /// What is done to it.
    pub op: KeyOp,
    /// Which kinds of change. Default: all.
    pub events: Events,
    /// Where it stands in the file, for messages.
    pub line: usize,
}

/// What is done to a key.
#[derive(Debug, Clone)]
pub enum KeyOp {
    /// `UNLINK key`
    Unlink,
    /// `HDEL key field`
    Hdel {
        /// The field's template.
        field: Template,
    },
    /// `UNLINK` of every key that begins with what the template makes. The template begins with a text of its own.
    Prefix {
        /// More keys than this under one prefix are told about; all are removed. Default [`ALARM_ABOVE`].
        alarm_above: u64,
    },
    /// `UNLINK` of every member of a set of keys, and `SREM` of these from the set.
    MembersOf {
        /// Members that begin with none of these stay as they are; empty (default): all are removed.
        members_prefix: Vec<String>,
    },
}

/// The default of `alarm_above`.
pub const ALARM_ABOVE: u64 = 10_000;

/// `events:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// INSERT
    pub insert: bool,
    /// UPDATE
    pub update: bool,
    /// DELETE
    pub delete: bool,
}

impl Events {
    /// Every kind of change.
    pub const ALL: Self = Self { insert: true, update: true, delete: true };
}

/// `second_removal:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondRemoval {
    /// Once the commit is visible at every read source, and the fill grace has passed (default).
    WhenVisible,
    /// A fixed time after the first.
    After(Duration),
    /// None.
    Never,
}

/// `on_ddl:` of a mapping
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDdl {
    /// TRUNCATE, and what moves rows in or out by partition or tablespace. Default: flush.
    pub truncate: DdlPolicy,
    /// DROP of the table, its schema, or a partition. Default: flush.
    pub drop: DdlPolicy,
    /// RENAME that takes the table away or puts another in its place. Default: keep.
    pub rename: DdlPolicy,
}

impl Default for OnDdl {
    fn default() -> Self {
        Self { truncate: DdlPolicy::Flush, drop: DdlPolicy::Flush, rename: DdlPolicy::Keep }
    }
}

impl OnDdl {
    /// Whether anything is flushed.
    pub fn flushes(self) -> bool {
        [self.truncate, self.drop, self.rename].contains(&DdlPolicy::Flush)
    }
}

/// What a definition statement does to the keys of a mapped table. The order is by how much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DdlPolicy {
    /// Nothing.
    Keep,
    /// All keys that the mapping could make are removed.
    Flush,
    /// The daemon stops and names the place.
    Halt,
}

impl DdlPolicy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Flush => "flush",
            Self::Halt => "halt",
        }
    }
}
