//! What goes wrong during a run, and how often it truly did.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{LiveError, Strategy, World, clock::Clock, stage::Stage};
use crate::{history::Nanos, names::named};

mod cache;
mod servers;

named! {
    /// A fault, as `docs/lab.md` describes it.
    ///
    /// ```
    /// use rowbust_lab::live::Fault;
    /// for fault in Fault::ALL {
    ///     println!("{}: {}", fault.name(), fault.about());
    /// }
    /// assert_eq!(Fault::named("redis-pause"), Some(Fault::RedisPause));
    /// ```
    pub enum Fault {
        /// Half of the readers are held up between load and fill, until the key was written and long enough after. Counts fills during which a write of the key began.
        SlowReader = "slow-reader",
        /// Three of four writers are held up before their update and before what they do in the cache, until another write of the key came in between. Counts such steps.
        SlowWriter = "slow-writer",
        /// Semi-synchronous replication (AFTER_SYNC) without an acknowledgement: commits are in the binlog and not yet visible. Counts commits that waited so.
        VisibilityWindow = "visibility-window",
        /// Readers use a replica too, which applies nothing for a while, again and again. Counts loads from it that lacked an acknowledged commit.
        ReplicaLag = "replica-lag",
        /// Processes stand still for longer than their lock or lease lasts: half of the readers before a fill; where writers lock, three of four before their update or before what they do in the cache, at one step in fifteen. Counts operations that lost a lock by it, or whose fill was refused.
        LockExpiry = "lock-expiry",
        /// Redis is short of memory for moments, and evicts entries, leases and locks. Counts keys evicted.
        Evictions = "evictions",
        /// kill -9 of the daemon, and a new start. Counts daemons killed.
        DaemonKill = "daemon-kill",
        /// CLIENT PAUSE for longer than clients wait for a reply. Counts pauses that an own command waited out.
        RedisPause = "redis-pause",
        /// Redis dies and comes back with an older snapshot. Counts restarts with data.
        RedisRestart = "redis-restart",
        /// The Redis master dies, sentinels promote a replica. Counts promotions.
        RedisFailover = "redis-failover",
        /// Redis is down, and Kafka, the daemon's queue, stands still meanwhile. Counts such times in which each daemon had removals that Redis didn't carry out.
        KafkaStop = "kafka-stop",
    }
}

impl Fault {
    /// All of them.
    ///
    /// Example: see [`Fault`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name on the command line.
    ///
    /// Example: see [`Fault`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What it is, in a line or two.
    ///
    /// Example: see [`Fault`].
    #[must_use]
    pub fn about(self) -> &'static str {
        self.row().1
    }

    /// By its name.
    ///
    /// Example: see [`Fault`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }

    /// Why it can't strike this strategy.
    pub(super) fn misses(self, strategy: Strategy) -> Option<&'static str> {
        match self {
            Self::LockExpiry if !strategy.has_lock() && !strategy.writers_lock() => {
                Some("it takes no lock and no lease")
            }
            Self::ReplicaLag if strategy.writes_values() => {
                Some("its writers put values into the cache, so that there are hardly any loads")
            }
            Self::DaemonKill if !strategy.has_daemon() => Some("it has no daemon"),
            _ => None,
        }
    }

    /// Whether Redis may lose what isn't an entry: what the application keeps there for good.
    pub(super) fn makes_redis_forget(self) -> bool {
        matches!(self, Self::RedisRestart | Self::RedisFailover)
    }

    /// Whether keys, a server or the daemon go away by it; the others only delay.
    pub(super) fn takes_away(self) -> bool {
        match self {
            Self::Evictions
            | Self::DaemonKill
            | Self::RedisPause
            | Self::RedisRestart
            | Self::RedisFailover
            | Self::KafkaStop => true,
            Self::SlowReader
            | Self::SlowWriter
            | Self::VisibilityWindow
            | Self::ReplicaLag
            | Self::LockExpiry => false,
        }
    }

    /// Why it can't be had in this world.
    pub(super) fn lacks(self, world: &World) -> Option<&'static str> {
        match self {
            Self::SlowReader | Self::SlowWriter | Self::LockExpiry | Self::DaemonKill => None,
            _ if !world.is_private() => Some("it needs the lab's own servers"),
            Self::ReplicaLag if !world.has_replica() => Some("it needs a replica"),
            Self::RedisFailover if !world.has_sentinels() => Some("it needs a Redis with sentinels"),
            Self::RedisRestart | Self::KafkaStop if world.has_sentinels() => {
                Some("it needs a Redis without sentinels")
            }
            Self::KafkaStop if world.kafka().is_none() => Some("it needs Kafka"),
            _ => None,
        }
    }
}

/// A fault in a run.
#[derive(Debug)]
pub(super) struct Striking {
    pub(super) fault: Fault,
    /// Of faults that strike all stages alike.
    struck: AtomicU64,
    windows: Mutex<Vec<(Nanos, Nanos)>>,
}

/// With what a fault works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) world: &'a World,
    pub(super) stages: &'a [std::sync::Arc<Stage>],
    pub(super) clock: Clock,
    pub(super) stop: &'a CancellationToken,
}

impl Scene<'_> {
    /// Sleeps, but no longer than until the fault is to end. Whether it is to go on.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

impl Striking {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, struck: AtomicU64::new(0), windows: Mutex::default() }
    }

    /// How often it struck this stage.
    pub(super) fn count(&self, stage: &Stage) -> u64 {
        let barriers = &stage.barriers;
        match self.fault {
            Fault::SlowReader => &barriers.overtaken,
            Fault::SlowWriter => &barriers.crossed,
            Fault::LockExpiry => &barriers.expired,
            Fault::ReplicaLag => &barriers.lagged,
            _ => &self.struck,
        }
        .load(Relaxed)
    }

    pub(super) fn windows(&self) -> Vec<(Nanos, Nanos)> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn struck(&self, times: u64) {
        self.struck.fetch_add(times, Relaxed);
    }

    fn window(&self, from: Nanos, to: Nanos) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).push((from, to));
    }

    /// Strikes until it is stopped, and heals.
    pub(super) async fn run(&self, scene: Scene<'_>) -> Result<(), LiveError> {
        let from = scene.clock.now();
        let set = |on: bool| {
            for stage in scene.stages {
                let barriers = &stage.barriers;
                match self.fault {
                    Fault::SlowReader => barriers.slow_fills.store(on, Relaxed),
                    Fault::SlowWriter => barriers.slow_writes.store(on, Relaxed),
                    Fault::LockExpiry => {
                        barriers.still_fills.store(on && stage.strategy.has_lock(), Relaxed);
                        barriers.still_writes.store(on && stage.strategy.writers_lock(), Relaxed);
                    }
                    _ => {}
                }
            }
        };
        match self.fault {
            Fault::SlowReader | Fault::SlowWriter | Fault::LockExpiry => {
                set(true);
                scene.stop.cancelled().await;
                set(false);
                self.window(from, scene.clock.now());
                Ok(())
            }
            Fault::VisibilityWindow => servers::visibility_window(self, scene).await,
            Fault::ReplicaLag => servers::replica_lag(self, scene).await,
            Fault::Evictions => cache::evictions(self, scene).await,
            Fault::DaemonKill => cache::daemon_kill(self, scene).await,
            Fault::RedisPause => cache::redis_pause(self, scene).await,
            Fault::RedisRestart => cache::redis_restart(self, scene).await,
            Fault::RedisFailover => cache::redis_failover(self, scene).await,
            Fault::KafkaStop => cache::kafka_stop(self, scene).await,
        }
    }
}
