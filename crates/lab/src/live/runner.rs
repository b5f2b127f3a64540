//! One run: load and faults, an orderly end, a judgement.
//!
//! The order of the end is what makes *permanently* stale mean something: writers stop; faults heal; readers that are held up get through,
//! and fill again what faults have taken from the cache; readers stop; everything that is owed is delivered, by the daemon's own status and by its mark in Redis; then cache and database are
//! compared key by key.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Fault, Finished, LiveError, Strategy, Timing, Workload, World,
    actor::{self, Record, Role, Shared, Spec},
    clock::{Clock, nanos},
    db::Link,
    error::LiveError as Error,
    fault::{Scene, Striking},
    finals,
    judge::{Evidence, judge},
    measures, sampler,
    stage::{KEPT_CONFIG, Setting, Stage},
};
use crate::{history::Nanos, summary};

/// Between the stop of writers and the end of faults: readers meet what was written last.
const TAIL: Duration = Duration::from_millis(300);
/// How long readers may go on when faults are over, to fill the cache again: of an empty one nothing can be said. They end as soon as so
/// many of a hundred keys are there.
const REFILL: (Duration, usize) = (Duration::from_secs(2), 90);
/// How long a process may take to end.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What to run.
///
/// ```
/// use std::time::Duration;
/// use rowbust_lab::live::{Fault, Plan, Strategy, Workload};
/// let plan = Plan {
///     strategies: vec![Strategy::Guarded, Strategy::DelayedDoubleDelete],
///     faults: vec![Fault::SlowReader, Fault::Evictions],
///     // Evictions in the second half only.
///     spells: vec![(Fault::Evictions, Duration::from_secs(15)..Duration::MAX)],
///     length: Duration::from_secs(30),
///     ..Plan::new(Workload::ManyKeys)
/// };
/// assert_eq!((plan.readers, plan.writers, plan.rows), (8, 8, 100));
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    /// Side by side, each with rows, keys and a daemon of its own. Default: `guarded`.
    pub strategies: Vec<Strategy>,
    /// What applications do.
    pub workload: Workload,
    /// All at the same time. Default: none.
    pub faults: Vec<Fault>,
    /// Faults that are on for a part of the load only. Default: none of them, each is on all the time.
    pub spells: Vec<(Fault, Range<Duration>)>,
    /// A strategy's run counts if any of the faults struck it: what one of them does may keep another from it. Default: no, each must.
    pub any_fault: bool,
    /// How long writers write. Default: 10 s.
    pub length: Duration,
    /// For so long before that, no more keys are evicted and no server or daemon is taken away: what readers that are held up put back
    /// then stays. Default: 0.
    pub calm: Duration,
    /// Processes that read, per strategy. Default: 8.
    pub readers: u32,
    /// Processes that write, per strategy. Default: 8.
    pub writers: u32,
    /// Rows, per strategy. Default: 100.
    pub rows: u32,
    /// Repeats all choices of keys. Default: 1.
    pub seed: u64,
    /// The times that strategies know.
    pub timing: Timing,
}

impl Plan {
    /// Defaults.
    ///
    /// Example: see [`Plan`].
    #[must_use]
    pub fn new(workload: Workload) -> Self {
        Self {
            strategies: vec![Strategy::Guarded],
            workload,
            faults: Vec::new(),
            spells: Vec::new(),
            any_fault: false,
            length: Duration::from_secs(10),
            calm: Duration::ZERO,
            readers: 8,
            writers: 8,
            rows: 100,
            seed: 1,
            timing: Timing::default(),
        }
    }

    /// Why it can't be run in this world, if it can't.
    ///
    /// # Errors
    /// What isn't there, or doesn't go together.
    ///
    /// Example: see [`run`].
    pub fn check(&self, world: &World) -> Result<(), LiveError> {
        for (what, number, most) in
            [("readers", self.readers, 200), ("writers", self.writers, 200), ("keys", self.rows, 100_000)]
        {
            if !(1..=most).contains(&number) {
                return Err(Error::Usage(format!("{what}: from 1 to {most}, not {number}")));
            }
        }
        for fault in &self.faults {
            let name = fault.name();
            if let Some(why) = fault.lacks(world) {
                return Err(Error::Usage(format!("the fault {name} can't be had here: {why}")));
            }
            for strategy in &self.strategies {
                if self.strategies.len() == 1
                    && let Some(why) = fault.misses(*strategy)
                {
                    let strategy = strategy.name();
                    return Err(Error::Usage(format!("the fault {name} can't strike {strategy}: {why}")));
                }
            }
        }
        Ok(())
    }

    fn fault_names(&self) -> String {
        let names: Vec<&str> = self.faults.iter().map(|fault| fault.name()).collect();
        if names.is_empty() { "none".into() } else { names.join("+") }
    }
}

/// How far a run is.
///
/// Example: see [`run`].
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is going on.
    pub phase: &'static str,
    /// Since the load began.
    pub elapsed: Duration,
    /// Operations so far, of all strategies.
    pub operations: u64,
}

/// Runs a plan to its end; gives one result per strategy, in their order. Needs a tokio runtime with several threads.
///
/// # Errors
/// When it can't be run, or counts for nothing.
///
/// ```no_run
/// use rowbust_lab::live::{Fault, Finished, Plan, Progress, Workload, World, WorldOptions, run};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), rowbust_lab::live::LiveError> {
/// let plan = Plan { faults: vec![Fault::RedisFailover], ..Plan::new(Workload::ReadMostly) };
/// let world = World::start(WorldOptions::for_plans("target/debug/rowbust", &[plan.clone()])).await?;
/// plan.check(&world)?;
/// let progress = |Progress { phase, operations, .. }: Progress| eprintln!("{phase}: {operations} operations");
/// for Finished { run, ops, .. } in run(&world, &plan, &CancellationToken::new(), &progress).await? {
///     println!("{}: {} of {} operations were stale reads", run.strategy, run.report.stale_reads, ops.len());
///     if let Some(why) = run.void {
///         println!("it counts for nothing: {why}");
///     }
/// }
/// # Ok(()) }
/// ```
pub async fn run(
    world: &World,
    plan: &Plan,
    stop: &CancellationToken,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<Finished>, LiveError> {
    plan.check(world)?;
    let number = world.next_run();
    world.flush().await?;
    let mut stages = Vec::new();
    let opened = open(world, plan, number, &mut stages).await;
    let shared = Arc::new(Shared::default());
    let done = match opened {
        Ok(()) => {
            tokio::select! {
                done = drive(world, plan, &stages, &shared, progress) => done,
                () = stop.cancelled() => Err(Error::Interrupted),
            }
        }
        Err(error) => Err(error),
    };
    shared.stop_all();
    if done.is_err() {
        world.heal().await;
    }
    for stage in &stages {
        let closed = stage.close(world).await;
        if done.is_ok() {
            closed?;
        }
    }
    done
}

async fn open(
    world: &World,
    plan: &Plan,
    number: u32,
    stages: &mut Vec<Arc<Stage>>,
) -> Result<(), LiveError> {
    let mut timing = plan.timing.clone();
    if plan.faults.contains(&Fault::LockExpiry) {
        timing.lease = timing.lock;
    }
    for (strategy, place) in plan.strategies.iter().zip(1..) {
        let setting = Setting {
            strategy: *strategy,
            workload: plan.workload.load(plan.rows),
            timing: timing.clone(),
            reads_replica: plan.faults.contains(&Fault::ReplicaLag),
        };
        let stage = Arc::new(Stage::claim(world, setting, &format!("{number}_{place}")).await?);
        // Whatever comes: it is closed.
        stages.push(stage.clone());
        stage.open(world).await?;
    }
    Ok(())
}

/// Processes of a stage that have been started.
#[derive(Debug, Default)]
struct Crowd {
    writers: Vec<oneshot::Receiver<Result<Record, LiveError>>>,
    readers: Vec<oneshot::Receiver<Result<Record, LiveError>>>,
}

fn start(
    world: &World,
    plan: &Plan,
    stage: &Arc<Stage>,
    shared: &Arc<Shared>,
    clock: Clock,
) -> Result<Crowd, LiveError> {
    let connector = world.connector();
    let mut crowd = Crowd::default();
    let roles = (0..plan.readers).map(|_| Role::Reader).chain((0..plan.writers).map(|_| Role::Writer));
    for (role, number) in roles.zip(0..) {
        // Of writers more: the steps of two must cross at one key.
        let slow = if role == Role::Reader { number % 2 == 1 } else { number % 4 != 0 };
        let spec = Spec { role, number, slow, seed: plan.seed, clock };
        let record = actor::spawn(spec, stage.clone(), connector.clone(), shared.clone())?;
        match role {
            Role::Reader => crowd.readers.push(record),
            Role::Writer => crowd.writers.push(record),
        }
    }
    Ok(crowd)
}

async fn ended(
    all: Vec<oneshot::Receiver<Result<Record, LiveError>>>,
    records: &mut Vec<Record>,
) -> Result<(), LiveError> {
    for record in all {
        let waited = tokio::time::timeout(END_WITHIN, record).await;
        let waiting = "waiting for a process of the application";
        let record = waited.map_err(|_| Error::server(waiting, "it doesn't end"))?;
        records.push(record.map_err(|_| Error::server(waiting, "it panicked"))??);
    }
    Ok(())
}

/// Returns when the cache is full enough to be judged, or after a while.
async fn refilled(world: &World, stages: &[Arc<Stage>]) {
    let (within, share) = REFILL;
    let begun = Instant::now();
    let Ok(mut raw) = world.raw().await else { return };
    // Entries that end by themselves are gone at the end of the drain all the same.
    for stage in stages.iter().filter(|stage| !stage.strategy.is_timed()) {
        while begun.elapsed() < within {
            let Ok(cached) = finals::cached(stage, &mut raw).await else { return };
            let there = cached.iter().filter(|held| **held != finals::Cached::Absent).count();
            if there * 100 >= cached.len() * share {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How often each fault struck that can strike the strategy: a daemon that dies does nothing to who has none.
fn struck(strategy: Strategy, faults: impl Iterator<Item = (Fault, u64)>) -> BTreeMap<String, u64> {
    let can = faults.filter(|(fault, _)| fault.misses(strategy).is_none());
    can.map(|(fault, times)| (fault.name().to_owned(), times)).collect()
}

/// A fault, all the time or for a while.
async fn strike(
    fault: &Striking,
    scene: Scene<'_>,
    spell: Option<&Range<Duration>>,
) -> Result<(), LiveError> {
    let Some(spell) = spell else { return fault.run(scene).await };
    if !scene.pause(spell.start).await {
        return Ok(());
    }
    let stop = scene.stop.child_token();
    let end = async {
        scene.pause(spell.end.saturating_sub(spell.start)).await;
        stop.cancel();
        Ok(())
    };
    tokio::try_join!(fault.run(Scene { stop: &stop, ..scene }), end).map(|_| ())
}

async fn drive(
    world: &World,
    plan: &Plan,
    stages: &[Arc<Stage>],
    shared: &Arc<Shared>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<Finished>, LiveError> {
    let clock = Clock::start();
    let faults: Vec<Striking> = plan.faults.iter().map(|fault| Striking::new(*fault)).collect();
    let (calm, healed, sampled) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let crowds: Result<Vec<Crowd>, _> =
        stages.iter().map(|stage| start(world, plan, stage, shared, clock)).collect();
    let crowds = crowds?;
    let strike = try_join_all(faults.iter().map(|fault| {
        let stop = if fault.fault.takes_away() { &calm } else { &healed };
        let spell = plan.spells.iter().find(|(of, _)| *of == fault.fault).map(|(_, spell)| spell);
        strike(fault, Scene { world, stages, clock, stop }, spell)
    }));
    let samples = join_all(stages.iter().map(|stage| sampler::sample(world, stage, clock, &sampled)));
    let say = |phase| {
        let operations = shared.reads.load(Relaxed) + shared.writes.load(Relaxed);
        progress(Progress { phase, elapsed: Duration::from_nanos(clock.now()), operations });
    };
    let conduct = async {
        while clock.now() < nanos(plan.length) {
            say("load");
            if !plan.calm.is_zero() && clock.now() + nanos(plan.calm) >= nanos(plan.length) {
                calm.cancel();
            }
            let left = nanos(plan.length).saturating_sub(clock.now());
            tokio::time::sleep(Duration::from_nanos(left).min(Duration::from_millis(250))).await;
        }
        let length = clock.now();
        shared.stop_writers.store(true, Relaxed);
        tokio::time::sleep(TAIL).await;
        calm.cancel();
        healed.cancel();
        Ok::<Nanos, LiveError>(length)
    };
    let finish = async {
        let (_, length) = tokio::try_join!(strike, conduct)?;
        say("end");
        let mut writers = Vec::new();
        let mut records: Vec<Vec<Record>> = Vec::new();
        let mut readers = Vec::new();
        for crowd in crowds {
            writers.push(crowd.writers);
            readers.push(crowd.readers);
        }
        for all in writers {
            let mut ended_records = Vec::new();
            ended(all, &mut ended_records).await?;
            records.push(ended_records);
        }
        // A daemon that finds that Redis has forgotten something empties the cache, seconds later: readers fill it behind that.
        let lasting = stages.iter().filter(|stage| !stage.strategy.is_timed());
        try_join_all(lasting.map(|stage| stage.drain(world))).await?;
        refilled(world, stages).await;
        shared.stop_readers.store(true, Relaxed);
        for (all, records) in readers.into_iter().zip(&mut records) {
            ended(all, records).await?;
        }
        say("drain");
        let undrained = try_join_all(stages.iter().map(|stage| stage.drain(world))).await?;
        // Once more, now that all is over.
        tokio::time::sleep(Duration::from_millis(260)).await;
        sampled.cancel();
        Ok::<_, LiveError>((length, records, undrained))
    };
    let (samples, (length, records, undrained)) = tokio::try_join!(async { Ok(samples.await) }, finish)?;
    say("judge");
    let mut all = Vec::new();
    for (((stage, records), samples), undrained) in stages.iter().zip(records).zip(samples).zip(undrained) {
        let mut finished = finish_stage(world, plan, stage, records, &faults).await?;
        let run = &mut finished.run;
        run.length = length;
        run.stale_keys = samples;
        if let Some(why) = undrained {
            run.void = Some(format!("what was owed was not delivered: {why}"));
        }
        all.push(finished);
    }
    Ok(all)
}

async fn finish_stage(
    world: &World,
    plan: &Plan,
    stage: &Stage,
    records: Vec<Record>,
    faults: &[Striking],
) -> Result<Finished, LiveError> {
    let mut raw = world.raw().await?;
    let cached = finals::cached(stage, &mut raw).await?;
    let state = finals::database(stage, &Link::new(world.primary_opts())).await?;
    let stats: Vec<_> = records.iter().map(|record| record.stats).collect();
    let mut measures = measures::clients(&stats);
    let (mut daemon_log, mut daemon_config) = (String::new(), String::new());
    if let Some(daemon) = stage.daemon.lock().await.as_ref() {
        let text = daemon.metrics().await?;
        let metric = match world.flavor() {
            super::Flavor::MySql => "rowbust_commit_to_removal_seconds",
            super::Flavor::MariaDb => "rowbust_receipt_to_removal_seconds",
        };
        measures.first_removal = measures::removal(&text, metric, "first");
        measures.second_removal = measures::removal(&text, metric, "second");
        daemon_log = fs::read_to_string(daemon.log()).unwrap_or_default();
        daemon_config = fs::read_to_string(daemon.log().with_file_name(KEPT_CONFIG)).unwrap_or_default();
    }
    let forgot = faults.iter().any(|fault| fault.fault.makes_redis_forget());
    let mut broken = stage.workload.broken(stage, world, forgot).await?;
    measures.broken.append(&mut broken);
    let firsts = (0..stage.workload.cells()).map(|cell| stage.workload.first(stage.workload.item_of(cell)));
    let is_cut = records.iter().any(|record| record.is_cut);
    let evidence = Evidence { records, cached, state, firsts: firsts.collect() };
    let judged = judge(&evidence)?;
    let mut void = None;
    if judged.report.right == 0 && !stage.strategy.is_timed() {
        void = Some("no key held what its row says: that none is stale then says nothing".to_owned());
    }
    if is_cut {
        void = Some("a process had more operations than can be recorded: make the run shorter".to_owned());
    }
    let missed = |fault: &&Striking| fault.count(stage) == 0;
    let is_enough = plan.any_fault && !faults.iter().all(|fault| missed(&fault));
    let due = |fault: &&Striking| fault.fault.misses(stage.strategy).is_none();
    if let Some(fault) = faults.iter().filter(due).rfind(missed).filter(|_| !is_enough) {
        void = Some(format!("the fault {} never struck", fault.fault.name()));
    }
    let windows = |fault: &Striking| {
        let name = fault.fault.name().to_owned();
        fault.windows().into_iter().map(move |(from, to)| summary::Fault { name: name.clone(), from, to })
    };
    let run = summary::Run {
        strategy: stage.strategy.name().to_owned(),
        workload: plan.workload.name().to_owned(),
        length: 0,
        fault: plan.fault_names(),
        struck: struck(stage.strategy, faults.iter().map(|fault| (fault.fault, fault.count(stage)))),
        faults: faults.iter().flat_map(windows).collect(),
        stale_keys: Vec::new(),
        report: judged.report,
        measures,
        void,
        repeats: 0,
    };
    Ok(Finished {
        run,
        ops: judged.ops,
        read_latency: judged.read_latency,
        write_latency: judged.write_latency,
        daemon_log,
        daemon_config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_strike_a_strategy_is_counted_for_it() {
        let all = [(Fault::DaemonKill, 3), (Fault::LockExpiry, 0), (Fault::Evictions, 7)];
        let of = |strategy| struck(strategy, all.into_iter()).into_iter().collect::<Vec<_>>();
        assert_eq!(of(Strategy::CacheAside), [("evictions".to_owned(), 7)]);
        let guarded = [("daemon-kill", 3), ("evictions", 7), ("lock-expiry", 0)];
        assert_eq!(of(Strategy::Guarded), guarded.map(|(name, times)| (name.to_owned(), times)));
    }
}
