//! Mutants of `guarded`: each leaves one sentence of the protocol out, and has to fail.

use super::{
    property::Property,
    setup::{Condition, Expect, Setup},
};

macro_rules! mutants {
    ($($name:ident = $text:literal, [$($condition:ident),*], $property:ident, $steps:literal, $about:literal;)*) => {
        /// A sentence of the guarded protocol left out.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $about] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// What it does, in one line.
            pub fn about(self) -> &'static str {
                match self { $(Mutant::$name => $about,)* }
            }

            /// The property that it violates first.
            pub fn violates(self) -> Property {
                match self { $(Mutant::$name => Property::$property,)* }
            }

            fn conditions(self) -> &'static [Condition] {
                match self { $(Mutant::$name => &[$(Condition::$condition),*],)* }
            }

            /// Steps to a value that is stale for good; 0: it leaves none.
            pub fn steps(self) -> usize {
                match self { $(Mutant::$name => $steps,)* }
            }
        }
    };
}

mutants! {
    NoLease = "no-lease", [], Finality, 7, "fills are plain SETs";
    NoSecondRemoval = "no-second-removal", [Window], Coverage, 6, "the first removal is the only one";
    SecondBeforeVisibility = "second-before-visibility", [Window], Pool, 8, "the second removal waits for nothing";
    SettledAtFirst = "settled-at-first", [Window, FollowerCrash], Coverage, 7, "a change is settled, for the checkpoint, at its first removal";
    PoolBeforeLease = "pool-before-lease", [Replica, ReplicaLeaves], Finality, 11, "readers read the pool before they have the lease";
    DroppedBeforePublished = "dropped-before-published", [Replica, ReplicaLeaves], Pool, 11, "a source is dropped from visibility before the pool without it is published";
    FillOnAbsence = "fill-on-absence", [], Finality, 7, "a fill is accepted where the key holds nothing";
    RefreshUnchecked = "refresh-unchecked", [EarlyRefresh], Finality, 10, "who loads anew what is cached fills with a plain SET";
    OldSnapshot = "old-snapshot", [], Finality, 7, "readers fill from a snapshot that was open before the lease";
    NoReplay = "no-replay", [RedisRollback], Coverage, 9, "a rollback of Redis is not answered";
    RollbackByFAlone = "rollback-by-f-alone", [RedisRollback], Coverage, 10, "F is published apart from the removals, and a rollback is seen only if F differs";
    RestartForgetsRecord = "restart-forgets-record", [RedisRollback, FollowerCrash], Coverage, 10, "a restart begins at the checkpoint and takes whatever record Redis holds";
    PoolNotRepublished = "pool-not-republished", [Replica, ReplicaLeaves, RedisRollback], Pool, 15, "after a rollback the removals are repeated, but the pool isn't published again first";
    PoolOutsideRecord = "pool-outside-record", [Replica, ReplicaLeaves, RedisRollback], Pool, 14, "the pool is published without the record, so that a rollback of it alone goes unnoticed";
    IdleRestart = "idle-restart", [Replica, ReplicaLeaves, RedisRollback, LooksAtRuns], Pool, 16, "where nothing was removed since F, a rollback is passed over, and the pool isn't published again first";
    JoinAtDone = "join-at-done", [Replica, ReplicaJoins], Pool, 12, "a source joins once it has what is done, though the gate of more may have passed";
    QueueBeforeVisibility = "queue-before-visibility", [Window, RedisErrors], Pool, 8, "the queue's consumer removes without waiting for visibility";
    FrontierWithHoles = "frontier-with-holes", [Window, FollowerCrash], Coverage, 12, "the checkpoint is the newest settled change, not the end of the longest settled prefix";
    FPassesQueue = "f-passes-queue", [RedisErrors, RedisRollback], Coverage, 14, "F passes changes that the queue still owes";
    LeaseWithoutExpiry = "lease-without-expiry", [ReaderCrash], Guards, 0, "a lease has no deadline";
}

impl Mutant {
    /// The smallest set-up that shows it; the protocol holds there.
    pub fn setup(self) -> Setup {
        let steps = self.steps();
        let expect = if steps == 0 { Expect::Violates(self.violates()) } else { Expect::Stale(steps) };
        let setup = Setup::new("mutant", self.about(), expect).with(self.conditions());
        let setup = match self {
            // One key's newest removal stands for the older ones too.
            Mutant::FrontierWithHoles | Mutant::FPassesQueue => setup.keys(2).writes(2),
            _ => setup,
        };
        setup.mutated(self)
    }
}
