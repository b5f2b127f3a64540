//! What systemd is told, over the socket that it names in `NOTIFY_SOCKET` (sd_notify(3)). Without one: nothing.
//!
//! Guarantees: `READY=1` comes when the binlog is read, or another daemon is and this one stands by. `WATCHDOG=1` comes twice in each
//! `WatchdogSec` while every part that has something to do does it, and stops when one doesn't for as long, and as the source's heartbeats and the config's
//! own delays take; what it may rightly wait for (a Redis
//! that is down, a read source that lags, a pause, a flush) is no reason. May depend on `admin::status`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    admin::status::Status,
    config::{Config, SecondRemoval},
    source::stream::HEARTBEAT,
};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The longest between two lines of `STATUS=` that say the same.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// A read source from which nothing is seen for so long holds second removals.
const HELD: Duration = Duration::from_secs(2);
/// The share of the memory for keys above which reading waits for removals, in percent.
const FULL: usize = 80;

/// Where the daemon is in its life.
#[derive(Debug, Clone, Default)]
enum Phase {
    /// Looking for its servers.
    #[default]
    Beginning,
    /// Another daemon is active.
    StandingBy,
    Following(Arc<Status>),
    /// What was read is finished, the rest is being closed.
    Ending,
}

/// Tells systemd how the daemon is. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Arc<Mutex<Phase>>);

impl Notifier {
    /// Starts telling, where systemd listens. Ends with the runtime.
    pub fn start() -> Self {
        let this = Self::default();
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            tokio::spawn(this.clone().run(sd_notify::watchdog_enabled()));
        }
        this
    }

    /// The daemon is at its beginning, for the first time or again.
    pub fn beginning(&self) {
        self.set(Phase::Beginning);
    }

    /// Another daemon is active.
    pub fn standing_by(&self) {
        self.set(Phase::StandingBy);
    }

    /// The daemon follows, and this is its state.
    pub fn following(&self, status: Arc<Status>) {
        self.set(Phase::Following(status));
    }

    /// The daemon follows no more. Whatever its state held can be closed.
    pub fn ending(&self) {
        self.set(Phase::Ending);
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    async fn run(self, watchdog: Option<Duration>) {
        let mut look = tokio::time::interval(watchdog.map_or(LOOK, |limit| LOOK.min(limit / 4)));
        let (mut ready, mut said, mut fed) = (false, (String::new(), Instant::now()), None::<Instant>);
        let mut progress = Progress::new(Instant::now());
        loop {
            look.tick().await;
            let phase = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let now = Instant::now();
            ready = ready || {
                let begun = match &phase {
                    Phase::Beginning | Phase::Ending => false,
                    Phase::StandingBy => true,
                    Phase::Following(status) => status.source.is_connected(),
                };
                begun && tell(&[NotifyState::Ready])
            };
            let line = describe(&phase);
            if line != said.0 || said.1.elapsed() > SAY_AGAIN {
                tell(&[NotifyState::Status(&line)]);
                said = (line, now);
            }
            let Some(limit) = watchdog else { continue };
            let (marks, work, grace) = match &phase {
                Phase::Following(status) => look_at(status),
                _ => (Marks::default(), [false; 3], Duration::ZERO),
            };
            let leave = limit.max(HEARTBEAT * 3) + grace;
            match progress.stuck(now, marks, work, leave) {
                Some(part) => progress.say(part, leave),
                None if fed.is_none_or(|at| now.duration_since(at) >= limit / 2 - limit / 8) => {
                    fed = tell(&[NotifyState::Watchdog]).then_some(now);
                }
                None => {}
            }
        }
    }
}

/// The daemon ends: by a signal.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining: what was read is finished")]);
}

/// The config is being read anew.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The daemon goes on, with the new config or the old one.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Says whether somebody listens.
fn tell(states: &[NotifyState<'_>]) -> bool {
    match sd_notify::notify(states) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "systemd can't be told");
            false
        }
    }
}

/// A line of `systemctl status`.
fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Beginning => "beginning: looking for the source, the checkpoint and the targets".into(),
        Phase::StandingBy => "standing by: another daemon is active".into(),
        Phase::Ending => "ending: what was read is finished".into(),
        Phase::Following(status) => {
            let pending = status.queue.stats().pending.unwrap_or(0);
            let failing = status.targets.iter().filter(|target| target.breaker.is_open());
            let failing: Vec<&str> = failing.map(|target| target.name()).collect();
            match status.not_ready() {
                Some(why) => why,
                None if !failing.is_empty() => {
                    format!("following; redis fails: {}; {pending} in the queue", failing.join(", "))
                }
                None if pending > 0 => format!("following; {pending} in the queue"),
                None => "following".into(),
            }
        }
    }
}

/// One of each for reading, removing and saving: counts that grow while a part works, or whether it should.
type Marks<T = u64> = [T; 3];

const PARTS: Marks<&str> = ["reading", "removing", "saving"];

/// Since when each part hasn't moved.
#[derive(Debug)]
struct Progress {
    marks: Marks,
    moved: Marks<Instant>,
    said: Option<&'static str>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { marks: Marks::default(), moved: [now; 3], said: None }
    }

    /// The part that had something to do all the time for longer than `limit`, and did none of it.
    fn stuck(
        &mut self,
        now: Instant,
        marks: Marks,
        work: Marks<bool>,
        limit: Duration,
    ) -> Option<&'static str> {
        for (at, moved) in self.moved.iter_mut().enumerate() {
            if marks[at] != self.marks[at] || !work[at] {
                *moved = now;
            }
        }
        self.marks = marks;
        let stuck = self.moved.iter().position(|moved| now.duration_since(*moved) > limit);
        let part = stuck.and_then(|at| PARTS.get(at).copied());
        if part.is_none() {
            self.said = None;
        }
        part
    }

    /// Once for each time.
    fn say(&mut self, part: &'static str, limit: Duration) {
        if self.said != Some(part) {
            self.said = Some(part);
            tracing::error!(
                part,
                seconds = limit.as_secs_f64(),
                "no progress though there is something to do: systemd's watchdog is told nothing any more"
            );
        }
    }
}

/// What has moved, what should, and what a part may take beyond the watchdog's time by the config.
fn look_at(status: &Status) -> (Marks, Marks<bool>, Duration) {
    use std::sync::atomic::Ordering::Relaxed;
    let (source, frontier, saved) = (&status.source, status.frontier.stats(), status.checkpoint.snapshot());
    let queue = status.queue.stats();
    let mut removed = queue.acked + queue.forwarded + queue.produced + queue.dead;
    for target in &status.targets {
        let counts = status.control.journal.target(target.name()).counts();
        removed += counts.first + counts.last + counts.queued + counts.retried;
    }
    let (mut scanned, mut busy) = (0, false);
    for flush in &status.flushes {
        scanned += flush.scanned.load(Relaxed);
        let now = flush.snapshot();
        busy |= now.running.is_some() || now.waiting > 0;
    }
    for sweep in &status.sweeps {
        scanned += sweep.scanned.load(Relaxed);
        busy |= sweep.running.load(Relaxed) > 0 || sweep.waiting.load(Relaxed) > 0;
    }
    let read = source.events() + source.bytes() + source.heartbeats() + source.reconnects();
    let failing = |target: &Arc<crate::invalidate::target::Target>| {
        target.breaker.is_open() || target.servers().iter().any(|server| server.error.is_some())
    };
    // A read source may lag, or stand still, for as long as it likes.
    let unseen = |age: Option<Duration>| age.is_none_or(|age| age > HELD);
    let held = status.watermark.status().iter().any(|server| server.held > HELD || unseen(server.age));
    let waits = busy || held || status.targets.iter().any(failing);
    let full = status.budget.used() * 100 >= status.budget.total() * FULL;
    let reading = source.is_connected() && !status.control.pause.is_held() && !full && !busy;
    let removing = frontier.open > 0 && status.budget.used() > 0 && source.prepared() == 0 && !waits;
    let saving = frontier.undrained && !saved.held;
    let work = [reading, removing, saving];
    ([read, removed + scanned, saved.saves + saved.failures], work, longest_wait(&status.config))
}

/// How long a removal waits by the config.
fn longest_wait(config: &Config) -> Duration {
    let waits = config.mappings.iter().map(|mapping| match mapping.second_removal {
        SecondRemoval::Never => Duration::ZERO,
        SecondRemoval::After(delay) => delay,
        SecondRemoval::WhenVisible => mapping.fill_grace,
    });
    waits.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn only_a_part_that_should_move_and_does_not_is_stuck() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut progress = Progress::new(begun);
        assert_eq!(progress.stuck(at(1), [1, 0, 0], [true, false, false], LIMIT), None);
        // Reading moves; removing has nothing to do for long.
        assert_eq!(progress.stuck(at(100), [2, 0, 0], [true, false, false], LIMIT), None);
        // From now on it has.
        assert_eq!(progress.stuck(at(101), [3, 0, 0], [true, true, false], LIMIT), None);
        assert_eq!(progress.stuck(at(109), [4, 0, 0], [true, true, false], LIMIT), None);
        assert_eq!(progress.stuck(at(112), [5, 0, 0], [true, true, false], LIMIT), Some("removing"));
        // It goes on, or has leave to wait.
        assert_eq!(progress.stuck(at(113), [6, 1, 0], [true, true, false], LIMIT), None);
        assert_eq!(progress.stuck(at(140), [6, 1, 0], [false, false, false], LIMIT), None);
        assert_eq!(progress.stuck(at(149), [6, 1, 0], [true, true, true], LIMIT), None);
        assert_eq!(progress.stuck(at(151), [6, 1, 0], [true, true, true], LIMIT), Some("reading"));
    }
}
