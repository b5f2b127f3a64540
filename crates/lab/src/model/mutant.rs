//! Mutants of `guarded`: each leaves one sentence of the protocol out, and has to fail.

use super::{
    property::Property,
    setup::{Condition, Expect, Setup},
};

/// What a mutant is called, what its set-up needs, what it violates first, and steps to a value that is stale for good.
struct Row {
    name: &'static str,
    about: &'static str,
    conditions: &'static [Condition],
    violates: Property,
    steps: usize,
}

macro_rules! mutants {
    ($(#[$attribute:meta])* pub enum $type:ident { $(
        #[doc = $about:literal]
        $variant:ident = ($name:literal, [$($condition:ident),*], $violates:ident, $steps:literal),
    )* }) => {
        $(#[$attribute])*
        pub enum $type { $(#[doc = $about] $variant,)* }

        impl $type {
            const VARIANTS: &[Self] = &[$(Self::$variant,)*];

            fn row(self) -> Row {
                match self { $(Self::$variant => Row {
                    name: $name,
                    about: $about.trim_ascii(),
                    conditions: &[$(Condition::$condition),*],
                    violates: Property::$violates,
                    steps: $steps,
                },)* }
            }
        }
    };
}

mutants! {
    /// A sentence of the guarded protocol left out.
    ///
    /// ```
    /// use rowbust_lab::model::{Limits, Mutant, check, mutant_case};
    /// for mutant in Mutant::ALL {
    ///     println!("{}: {}", mutant.name(), mutant.about());
    /// }
    /// let mutant = Mutant::FillOnAbsence;
    /// let outcome = check(&mutant_case(mutant), Limits::default(), &mut |_| {})?;
    /// assert_eq!(outcome.violations[0].property, mutant.violates());
    /// assert_eq!(outcome.stale(), Some(mutant.steps()));
    /// # Ok::<(), rowbust_lab::model::CheckError>(())
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Mutant {
        /// fills are plain SETs
        NoLease = ("no-lease", [], Finality, 7),
        /// the first removal is the only one
        NoSecondRemoval = ("no-second-removal", [Window], Coverage, 6),
        /// the second removal waits for nothing
        SecondBeforeVisibility = ("second-before-visibility", [Window], Pool, 8),
        /// a change is settled, for the checkpoint, at its first removal
        SettledAtFirst = ("settled-at-first", [Window, FollowerCrash], Coverage, 7),
        /// readers read the pool before they have the lease
        PoolBeforeLease = ("pool-before-lease", [Replica, ReplicaLeaves], Finality, 11),
        /// a source is dropped from visibility before the pool without it is published
        DroppedBeforePublished = ("dropped-before-published", [Replica, ReplicaLeaves], Pool, 11),
        /// a fill is accepted where the key holds nothing
        FillOnAbsence = ("fill-on-absence", [], Finality, 7),
        /// who loads anew what is cached fills with a plain SET
        RefreshUnchecked = ("refresh-unchecked", [EarlyRefresh], Finality, 10),
        /// readers fill from a snapshot that was open before the lease
        OldSnapshot = ("old-snapshot", [], Finality, 7),
        /// a rollback of Redis is not answered
        NoReplay = ("no-replay", [RedisRollback], Coverage, 9),
        /// F is published apart from the removals, and a rollback is seen only if F differs
        RollbackByFAlone = ("rollback-by-f-alone", [RedisRollback], Coverage, 10),
        /// a restart begins at the checkpoint and takes whatever record Redis holds
        RestartForgetsRecord = ("restart-forgets-record", [RedisRollback, FollowerCrash], Coverage, 10),
        /// after a rollback the removals are repeated, but the pool isn't published again first
        PoolNotRepublished = ("pool-not-republished", [Replica, ReplicaLeaves, RedisRollback], Pool, 15),
        /// the pool is published without the record, so that a rollback of it alone goes unnoticed
        PoolOutsideRecord = ("pool-outside-record", [Replica, ReplicaLeaves, RedisRollback], Pool, 14),
        /// where nothing was removed since F, a rollback is passed over, and the pool isn't published again first
        IdleRestart = ("idle-restart", [Replica, ReplicaLeaves, RedisRollback, LooksAtRuns], Pool, 16),
        /// a source joins once it has what is done, though the gate of more may have passed
        JoinAtDone = ("join-at-done", [Replica, ReplicaJoins], Pool, 12),
        /// the queue's consumer removes without waiting for visibility
        QueueBeforeVisibility = ("queue-before-visibility", [Window, RedisErrors], Pool, 8),
        /// the checkpoint is the newest settled change, not the end of the longest settled prefix
        FrontierWithHoles = ("frontier-with-holes", [Window, FollowerCrash], Coverage, 12),
        /// F passes changes that the queue still owes
        FPassesQueue = ("f-passes-queue", [RedisErrors, RedisRollback], Coverage, 14),
        /// a lease has no deadline
        LeaseWithoutExpiry = ("lease-without-expiry", [ReaderCrash], Guards, 0),
    }
}

impl Mutant {
    /// All of them.
    ///
    /// Example: see [`Mutant`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name on the command line.
    ///
    /// Example: see [`Mutant`].
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it does, in one line.
    ///
    /// Example: see [`Mutant`].
    pub fn about(self) -> &'static str {
        self.row().about
    }

    /// The property that it violates first.
    ///
    /// Example: see [`Mutant`].
    pub fn violates(self) -> Property {
        self.row().violates
    }

    /// Steps to a value that is stale for good; 0: it leaves none.
    ///
    /// Example: see [`Mutant`].
    pub fn steps(self) -> usize {
        self.row().steps
    }

    /// The smallest set-up that shows it; the protocol holds there.
    pub(super) fn setup(self) -> Setup {
        let steps = self.steps();
        let expect = if steps == 0 { Expect::Violates(self.violates()) } else { Expect::Stale(steps) };
        let setup = Setup::new("mutant", self.about(), expect).with(self.row().conditions);
        let setup = match self {
            // One key's newest removal stands for the older ones too.
            Mutant::FrontierWithHoles | Mutant::FPassesQueue => setup.keys(2).writes(2),
            _ => setup,
        };
        setup.mutated(self)
    }
}
