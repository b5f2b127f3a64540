//! Where a run holds strategies up between their steps.
//!
//! Guarantees: a barrier only delays a step that the strategy takes anyway, and never for longer than its bound; what it counts is how
//! often something else really came in between.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rowbust_client::{Hooks, Step};

/// How often a barrier looks whether it may open.
const POLL: Duration = Duration::from_millis(2);

/// At which of its steps under a lock a writer stands still: at all of them, hardly anything would be written. An odd number, so that it
/// meets now the one, now the other step of a write.
const EVERY: u64 = 15;

/// How long barriers hold.
#[derive(Debug, Clone)]
pub(super) struct Holds {
    /// A fill, after the key was written: longer than a delayed second delete and the fill grace take.
    pub(super) overtaken: Duration,
    /// A fill at most.
    pub(super) fill: Duration,
    /// A write's step, after another write of the key.
    pub(super) crossed: Duration,
    /// A write's step at most.
    pub(super) step: Duration,
    /// A process that stands still: longer than its lock lasts.
    pub(super) still: Duration,
}

/// What is known of a cell while it runs.
#[derive(Debug, Default)]
struct Cell {
    /// Writes that began.
    asked: AtomicU64,
    /// Writes that are committed.
    committed: AtomicU64,
    /// The newest version that is.
    version: AtomicU64,
}

/// The barriers of a stage: shut by faults, met by its processes.
#[derive(Debug)]
pub(super) struct Barriers {
    holds: Holds,
    cells: Vec<Cell>,
    /// Cells by key.
    keys: HashMap<String, u32>,
    /// Before fills.
    pub(super) slow_fills: AtomicBool,
    /// Before a write's steps.
    pub(super) slow_writes: AtomicBool,
    /// Readers stand still before fills.
    pub(super) still_fills: AtomicBool,
    /// Writers stand still before some of the steps that they do under a lock.
    pub(super) still_writes: AtomicBool,
    /// Fills that were held up while the key was written.
    pub(super) overtaken: AtomicU64,
    /// Steps of writes that were held up while another write of the key came in between.
    pub(super) crossed: AtomicU64,
    /// Operations in which a process stood still and that lost a lock, or whose fill was refused.
    pub(super) expired: AtomicU64,
    /// Loads from a replica that didn't have an acknowledged commit yet.
    pub(super) lagged: AtomicU64,
}

impl Barriers {
    pub(super) fn new(holds: Holds, keys: Vec<String>) -> Self {
        let cells = keys.iter().map(|_| Cell::default()).collect();
        let keys = keys.into_iter().zip(0..).collect();
        Self {
            holds,
            cells,
            keys,
            slow_fills: AtomicBool::default(),
            slow_writes: AtomicBool::default(),
            still_fills: AtomicBool::default(),
            still_writes: AtomicBool::default(),
            overtaken: AtomicU64::default(),
            crossed: AtomicU64::default(),
            expired: AtomicU64::default(),
            lagged: AtomicU64::default(),
        }
    }

    fn cell(&self, cell: u32) -> Option<&Cell> {
        self.cells.get(usize::try_from(cell).ok()?)
    }

    /// A write begins.
    pub(super) fn asks(&self, cell: u32) {
        if let Some(cell) = self.cell(cell) {
            cell.asked.fetch_add(1, Relaxed);
        }
    }

    /// A write is committed.
    pub(super) fn commits(&self, cell: u32, version: u64) {
        if let Some(cell) = self.cell(cell) {
            cell.committed.fetch_add(1, Relaxed);
            cell.version.fetch_max(version, Relaxed);
        }
    }

    /// A replica gave this version.
    pub(super) fn loads(&self, cell: u32, version: u64) {
        if self.cell(cell).is_some_and(|cell| version < cell.version.load(Relaxed)) {
            self.lagged.fetch_add(1, Relaxed);
        }
    }

    fn counts(&self, cell: u32) -> (u64, u64) {
        self.cell(cell).map_or((0, 0), |c| (c.asked.load(Relaxed), c.committed.load(Relaxed)))
    }
}

/// The hooks of one process.
#[derive(Debug)]
pub(super) struct Process {
    barriers: Arc<Barriers>,
    /// Only these meet barriers; the others show what a reader in between does.
    slow: bool,
    /// Of each cell: what was asked and committed when its load began.
    loads: Mutex<HashMap<u32, (u64, u64)>>,
    /// Steps of writes so far.
    steps: AtomicU64,
    /// Fills so far at which it was to stand still.
    fills: AtomicU64,
    /// It stood still since that was asked last.
    stood: AtomicBool,
}

impl Process {
    pub(super) fn new(barriers: Arc<Barriers>, slow: bool) -> Self {
        Self {
            barriers,
            slow,
            loads: Mutex::default(),
            steps: AtomicU64::default(),
            fills: AtomicU64::default(),
            stood: AtomicBool::default(),
        }
    }

    /// Waits until a commit came since `committed`, and `after` that, but at most `bound`. Whether a write began since `asked`.
    async fn hold(
        &self,
        cell: u32,
        (asked, committed): (u64, u64),
        after: Duration,
        bound: Duration,
    ) -> bool {
        let begun = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            let (asks, commits) = self.barriers.counts(cell);
            if commits > committed {
                since.get_or_insert_with(Instant::now);
            }
            let is_over = since.is_some_and(|since| since.elapsed() >= after);
            if is_over || begun.elapsed() >= bound {
                return asks > asked;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The whole process: nothing else of it runs, not the watchdog of its locks either.
    fn stand_still(&self) {
        std::thread::sleep(self.barriers.holds.still);
        self.stood.store(true, Relaxed);
    }

    /// An operation is over. `lost`: a lock was, or the right to fill.
    pub(super) fn over(&self, lost: bool) {
        if self.stood.swap(false, Relaxed) && lost {
            self.barriers.expired.fetch_add(1, Relaxed);
        }
    }

    async fn step(&self, step: Step, cell: u32) {
        let Barriers {
            holds, slow_fills, slow_writes, still_fills, still_writes, overtaken, crossed, ..
        } = &*self.barriers;
        let loads = || self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::Load => {
                loads().insert(cell, self.barriers.counts(cell));
            }
            // Of two faults at the same step each has its turn.
            Step::Fill
                if still_fills.load(Relaxed) && (!slow_fills.load(Relaxed) || is_turn(&self.fills, 2)) =>
            {
                self.stand_still();
            }
            Step::Fill if slow_fills.load(Relaxed) => {
                let before = loads().remove(&cell).unwrap_or_else(|| self.barriers.counts(cell));
                if self.hold(cell, before, holds.overtaken, holds.fill).await {
                    overtaken.fetch_add(1, Relaxed);
                }
            }
            Step::Update | Step::Set | Step::Delete
                if still_writes.load(Relaxed) && is_turn(&self.steps, EVERY) =>
            {
                self.stand_still()
            }
            Step::Update | Step::Set | Step::Delete if slow_writes.load(Relaxed) => {
                let before = self.barriers.counts(cell);
                if self.hold(cell, before, holds.crossed, holds.step).await {
                    crossed.fetch_add(1, Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// Counts. Whether this is one of so many that is to be taken.
fn is_turn(counter: &AtomicU64, every: u64) -> bool {
    (counter.fetch_add(1, Relaxed) + 1).is_multiple_of(every)
}

impl Hooks for Process {
    fn before<'a>(&'a self, step: Step, key: &'a str) -> BoxFuture<'a, ()> {
        match self.barriers.keys.get(key) {
            Some(cell) if self.slow => Box::pin(self.step(step, *cell)),
            _ => Box::pin(std::future::ready(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barriers() -> Arc<Barriers> {
        let ms = Duration::from_millis;
        let holds = Holds { overtaken: ms(20), fill: ms(300), crossed: ms(1), step: ms(50), still: ms(1) };
        Arc::new(Barriers::new(holds, vec!["a".into(), "b".into()]))
    }

    #[tokio::test]
    async fn a_fill_waits_for_a_write_and_counts_it() {
        let barriers = barriers();
        barriers.slow_fills.store(true, Relaxed);
        let process = Process::new(barriers.clone(), true);
        process.before(Step::Load, "b").await;
        let writer = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            barriers.asks(1);
            barriers.commits(1, 2);
        };
        let begun = Instant::now();
        tokio::join!(process.before(Step::Fill, "b"), writer);
        let held = begun.elapsed();
        assert!(held >= Duration::from_millis(30) && held < Duration::from_millis(290), "{held:?}");
        assert_eq!(barriers.overtaken.load(Relaxed), 1);
        // Nothing comes in between: no longer than the bound, and not counted.
        process.before(Step::Load, "a").await;
        process.before(Step::Fill, "a").await;
        assert_eq!(barriers.overtaken.load(Relaxed), 1);
        assert!(begun.elapsed() - held >= Duration::from_millis(300));
    }

    #[tokio::test]
    async fn only_what_a_process_lost_while_it_stood_still_is_counted() {
        let barriers = barriers();
        let process = Process::new(barriers.clone(), true);
        let count = || barriers.expired.load(Relaxed);
        process.before(Step::Fill, "a").await;
        process.over(true);
        assert_eq!(count(), 0, "it never stood still");
        barriers.still_fills.store(true, Relaxed);
        process.before(Step::Fill, "a").await;
        process.over(false);
        assert_eq!(count(), 0, "it lost nothing");
        process.before(Step::Fill, "a").await;
        process.over(true);
        process.over(true);
        assert_eq!(count(), 1);
        // Writers: at both steps of a write, now and then.
        barriers.still_writes.store(true, Relaxed);
        let mut stood = Vec::new();
        for step in [Step::Update, Step::Delete].into_iter().cycle().zip(0..EVERY * 4).map(|(step, _)| step) {
            process.before(step, "a").await;
            if process.stood.load(Relaxed) {
                stood.push(step);
                process.over(true);
            }
        }
        assert_eq!(stood, [Step::Update, Step::Delete, Step::Update, Step::Delete]);
        assert_eq!(count(), 5);
    }

    #[tokio::test]
    async fn of_two_faults_at_a_step_each_strikes() {
        let barriers = barriers();
        barriers.slow_fills.store(true, Relaxed);
        barriers.still_fills.store(true, Relaxed);
        barriers.slow_writes.store(true, Relaxed);
        barriers.still_writes.store(true, Relaxed);
        let process = Process::new(barriers.clone(), true);
        for steps in [[Step::Fill; 30], [Step::Update; 30]] {
            let before = barriers.overtaken.load(Relaxed) + barriers.crossed.load(Relaxed);
            let mut stood = 0;
            for step in steps {
                process.before(Step::Load, "a").await;
                let write = async {
                    tokio::task::yield_now().await;
                    barriers.asks(0);
                    barriers.commits(0, 2);
                };
                tokio::join!(process.before(step, "a"), write);
                stood += u64::from(process.stood.swap(false, Relaxed));
            }
            let held = barriers.overtaken.load(Relaxed) + barriers.crossed.load(Relaxed) - before;
            assert!(stood > 0 && held > 0 && stood + held == 30, "{stood} {held}");
        }
    }

    #[tokio::test]
    async fn others_pass() {
        let barriers = barriers();
        barriers.slow_fills.store(true, Relaxed);
        let begun = Instant::now();
        Process::new(barriers.clone(), false).before(Step::Fill, "a").await;
        Process::new(barriers.clone(), true).before(Step::Fill, "another").await;
        barriers.slow_fills.store(false, Relaxed);
        Process::new(barriers, true).before(Step::Fill, "a").await;
        assert!(begun.elapsed() < Duration::from_millis(100));
    }
}
