//! Set-ups: how many of each actor there are, which faults may happen, and which assumptions hold.

use super::{
    mutant::Mutant,
    property::Property,
    state::{KEYS, READERS, WRITERS, WRITES},
};
use crate::names::named;

named! {
    /// Something that may happen in a set-up, or an assumption that holds there.
    ///
    /// ```
    /// use rowbust_lab::model::{Condition, cases};
    /// /// What `--with` names.
    /// fn condition(name: &str) -> Option<Condition> {
    ///     Condition::ALL.iter().copied().find(|condition| condition.name() == name)
    /// }
    /// let mut setup = cases("guarded").remove(0).setup;
    /// setup.set(condition("duplicates").ok_or("no such condition")?, true);
    /// assert!(setup.summary().contains("duplicates"));
    /// assert_eq!(Condition::Duplicates.about(), "any removal may come again at any later time");
    /// # Ok::<(), &str>(())
    /// ```
    #[repr(u8)]
    pub enum Condition {
        /// a commit is in the binlog before it is visible at the primary (semi-sync: for any length of time)
        Window = "window",
        /// readers may read from a replica, which lags by any length of time
        Replica = "replica",
        /// the operator takes the replica out; from then on it may lag for ever
        ReplicaLeaves = "replica-leaves",
        /// the replica is not a source at first; the operator may add it, and again after it left
        ReplicaJoins = "replica-joins",
        /// Redis may drop any key at any time
        Eviction = "eviction",
        /// any removal may come again at any later time
        Duplicates = "duplicates",
        /// a fill may be carried out without its reader hearing of it: it comes again
        LostReplies = "lost-replies",
        /// the follower may be killed at any time and begins at any checkpoint that it may have saved
        FollowerCrash = "follower-crash",
        /// a reader may be killed at any step
        ReaderCrash = "reader-crash",
        /// a writer may be killed at any step
        WriterCrash = "writer-crash",
        /// a commit may be refused
        CommitFails = "commit-fails",
        /// a removal may fail; the retry queue then owes it
        RedisErrors = "redis-errors",
        /// Redis may fall back to any earlier state of its own (failover, old snapshot)
        RedisRollback = "redis-rollback",
        /// a rollback is told, now and then, by the run of Redis' process beside F, as rowbust does; without it by a number written behind each batch of removals
        LooksAtRuns = "looks-at-runs",
        /// a lock may expire while its holder still works (a pause longer than the lock's time)
        LockExpiry = "lock-expiry",
        /// Redis may drop a lock, together with the fence that it remembers (eviction)
        LockLoss = "lock-loss",
        /// a change seen visible everywhere before its first removal gets that one only
        Backlog = "backlog",
        /// assumption: from its first step to its last a reader is not interrupted
        PromptReaders = "prompt-readers",
        /// a reader that finds a value may take a lease before it, and load it anew while it is served
        EarlyRefresh = "early-refresh",
        /// assumption: the removal that waits for a grace (second removal, delayed delete) comes after all fills that read before
        Grace = "grace",
        /// values expire
        Ttl = "ttl",
        /// the strategy's usual form in place of the client library's; its chapter tells the difference
        Textbook = "textbook",
    }
}

impl Condition {
    /// All of them.
    ///
    /// Example: see [`Condition`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name on the command line.
    ///
    /// Example: see [`Condition`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What it is, in a line.
    ///
    /// Example: see [`Condition`].
    #[must_use]
    pub fn about(self) -> &'static str {
        self.row().1
    }
}

/// What the model must say of a set-up.
///
/// Example: see [`cases`](super::cases).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No trace, all states visited.
    Holds,
    /// A shortest trace to a value that is stale for good, of this many steps.
    Stale(usize),
    /// Another property fails, and no value is stale for good.
    Violates(Property),
}

/// A set-up.
///
/// ```
/// use rowbust_lab::model::{Condition, Setup, cases};
/// /// The same with another reader, and with one that may die.
/// fn harder(mut setup: Setup) -> Result<Setup, String> {
///     setup.readers += 1;
///     setup.set(Condition::ReaderCrash, true);
///     // The model has room for some.
///     setup.validate()?;
///     Ok(setup)
/// }
/// let setup = harder(cases("cache-aside").remove(0).setup)?;
/// assert_eq!(setup.summary(), "2 readers, 1 writer, 1 write, 1 key, reader-crash");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// What is to come out, as long as nothing is changed by flags.
    pub expect: Expect,
    /// Processes that read; each reads again and again.
    pub readers: u8,
    /// Processes that write.
    pub writers: u8,
    /// Writes in all.
    pub writes: u8,
    /// Keys.
    pub keys: u8,
    /// A change to the protocol that must make it fail.
    pub mutant: Option<Mutant>,
    conditions: u32,
}

impl Setup {
    /// One reader, one writer, one write, one key, and no faults.
    pub(crate) fn new(name: &'static str, about: &'static str, expect: Expect) -> Self {
        Self { name, about, expect, readers: 1, writers: 1, writes: 1, keys: 1, mutant: None, conditions: 0 }
    }

    pub(crate) fn readers(self, readers: u8) -> Self {
        Self { readers, ..self }
    }

    pub(crate) fn writers(self, writers: u8) -> Self {
        Self { writers, ..self }
    }

    pub(crate) fn writes(self, writes: u8) -> Self {
        Self { writes, ..self }
    }

    pub(crate) fn keys(self, keys: u8) -> Self {
        Self { keys, ..self }
    }

    pub(crate) fn mutated(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    pub(crate) fn with(mut self, conditions: &[Condition]) -> Self {
        conditions.iter().for_each(|condition| self.set(*condition, true));
        self
    }

    /// Whether a condition holds.
    pub(crate) fn has(&self, condition: Condition) -> bool {
        self.conditions & (1 << condition as u8) != 0
    }

    /// Turns a condition on or off.
    ///
    /// Example: see [`Setup`].
    pub fn set(&mut self, condition: Condition, on: bool) {
        let bit = 1 << condition as u8;
        self.conditions = if on { self.conditions | bit } else { self.conditions & !bit };
    }

    /// The conditions that hold.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> + '_ {
        Condition::ALL.iter().copied().filter(|condition| self.has(*condition))
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The sources that plain readers choose from.
    pub(crate) fn sources(&self) -> u8 {
        if self.has(Condition::Replica) { 3 } else { 1 }
    }

    /// The pool of sources can change.
    pub(crate) fn pool_changes(&self) -> bool {
        self.has(Condition::ReplicaLeaves) || self.has(Condition::ReplicaJoins)
    }

    /// What is wrong with its numbers.
    ///
    /// # Errors
    /// A number that the model has no room for, with its bounds.
    ///
    /// Example: see [`Setup`].
    pub fn validate(&self) -> Result<(), String> {
        let bounds = [
            ("readers", self.readers, 0, READERS),
            ("writers", self.writers, 1, WRITERS),
            ("writes", self.writes, 1, WRITES),
            ("keys", self.keys, 1, KEYS),
        ];
        for (what, value, least, most) in bounds {
            if value < least || usize::from(value) > most {
                return Err(format!("{what} must be {least} to {most}, not {value}"));
            }
        }
        if self.pool_changes() && !self.has(Condition::Replica) {
            return Err("replica-leaves and replica-joins need the condition replica".into());
        }
        Ok(())
    }

    /// One line: the numbers and conditions.
    ///
    /// Example: see [`Setup`].
    pub fn summary(&self) -> String {
        let count = |n: u8, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let numbers = [
            count(self.readers, "reader"),
            count(self.writers, "writer"),
            count(self.writes, "write"),
            count(self.keys, "key"),
        ];
        let mut text = numbers.join(", ");
        for condition in self.conditions() {
            text.push_str(", ");
            text.push_str(condition.name());
        }
        if let Some(mutant) = self.mutant {
            text.push_str(&format!("; mutant {}", mutant.name()));
        }
        text
    }
}
