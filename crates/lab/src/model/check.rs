//! The model as stateright sees it: states, actions, properties; and the run of one set-up.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use stateright::{Checker as _, HasDiscoveries, Model, Path};

use super::{
    env, follower,
    mutant::Mutant,
    outcome::{CheckError, Limits, Outcome, Progress, Violation},
    property::Property,
    setup::{Condition, Setup},
    state::{Cell, State},
    strategy::{CHOICES, Follows, Say, Strategy},
    trace::{Actor, Step, Trace},
};

/// A step of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Read(u8, u8),
    Write(u8, u8),
    First(u8),
    Gate(u8),
    Second(u8),
    QueueGate(u8),
    QueueRemove(u8),
    CheckRecord,
    PublishFAlone,
    Track,
    PublishPool,
    Visible,
    Apply,
    Expire(u8),
    LeaseExpires(u8),
    LockExpires(u8, u8),
    Timer(u8),
    // What follows need not happen.
    Evict(u8),
    LockLost(u8),
    Duplicate(u8),
    Fails(u8),
    FollowerCrash(u8),
    ReaderCrash(u8),
    WriterCrash(u8),
    Leave,
    Join,
    Save,
    RollBack,
}

/// A strategy in a set-up.
pub(crate) struct World {
    strategy: &'static dyn Strategy,
    setup: Setup,
    /// Everything that could happen in some state, in one order.
    actions: Vec<Action>,
    /// Properties seen: each counts once, so that the first path to it is kept.
    seen: [AtomicBool; Property::ALL.len()],
    /// Nothing is explored any more.
    stop: AtomicBool,
}

impl World {
    pub(crate) fn new(strategy: &'static dyn Strategy, setup: Setup) -> Self {
        let actions = actions(&setup, strategy.follows());
        Self { strategy, setup, actions, seen: Default::default(), stop: AtomicBool::new(false) }
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(crate) fn strategy(&self) -> &'static dyn Strategy {
        self.strategy
    }

    pub(crate) fn frontier(&self, state: &State) -> u8 {
        follower::frontier(&self.setup, state)
    }

    /// Takes a step, if it can be taken.
    pub(crate) fn step(&self, state: &mut State, action: Action, say: &mut Say) -> bool {
        let (setup, strategy) = (&self.setup, self.strategy);
        match action {
            Action::Read(r, choice) => strategy.read(setup, state, r, choice, say),
            Action::Write(w, choice) => strategy.write(setup, state, w, choice, say),
            Action::First(p) => follower::first(setup, strategy, state, p, say),
            Action::Gate(p) => follower::gate(setup, strategy, state, p, say),
            Action::Second(p) => follower::second(setup, state, p, say),
            Action::QueueGate(p) => follower::queue_gate(setup, state, p, say),
            Action::QueueRemove(p) => follower::queue_remove(setup, state, p, say),
            Action::CheckRecord => follower::check(setup, state, say),
            Action::PublishFAlone => follower::publish_f_alone(setup, state, say),
            Action::Track => follower::track(setup, state, say),
            Action::PublishPool => follower::publish_pool(setup, state, say),
            Action::Visible => env::visible(state, say),
            Action::Apply => env::apply(setup, state, say),
            Action::Expire(key) => strategy.expire(setup, state, key, say),
            Action::LeaseExpires(key) => env::lease_expires(setup, state, key, say),
            Action::LockExpires(key, share) => env::lock_expires(setup, state, key, share, say),
            Action::Timer(write) => env::timer(setup, state, write, say),
            Action::Evict(key) => env::evict(setup, state, key, say),
            Action::LockLost(key) => env::lock_lost(setup, state, key, say),
            Action::Duplicate(p) => env::duplicate(setup, strategy, state, p, say),
            Action::Fails(p) => follower::fails(setup, strategy, state, p, say),
            Action::FollowerCrash(c) => follower::crash(setup, strategy, state, c, say),
            Action::ReaderCrash(r) => env::reader_crash(setup, state, r, say),
            Action::WriterCrash(w) => env::writer_crash(setup, state, w, say),
            Action::Leave => env::leave(setup, state, say),
            Action::Join => env::join(setup, state, say),
            Action::Save => env::save(setup, state, say),
            Action::RollBack => env::roll_back(setup, state, say),
        }
    }

    /// Whether a step must come some day if it stays possible. The others are faults, luck, and what users may do or not.
    fn must_happen(&self, state: &State, action: Action) -> bool {
        match action {
            Action::Write(w, _) => state.writers[usize::from(w)].step != 0,
            // Users come again to what is cached, sooner or later; whether they come to what isn't makes no difference to it.
            Action::Read(r, key) if state.readers[usize::from(r)].step == 0 => {
                // Early refresh is a matter of chance.
                !self.setup.has(Condition::EarlyRefresh)
                    && state.redis.cells.get(usize::from(key)).is_some_and(|cell| *cell != Cell::Absent)
            }
            Action::Apply => env::replica_counts(state),
            Action::Evict(_)
            | Action::LockLost(_)
            | Action::Duplicate(_)
            | Action::Fails(_)
            | Action::FollowerCrash(_)
            | Action::ReaderCrash(_)
            | Action::WriterCrash(_)
            | Action::Leave
            | Action::Join
            | Action::Save
            | Action::RollBack => false,
            _ => true,
        }
    }

    fn is_over(&self, state: &State, but: impl Fn(Action) -> bool) -> bool {
        !self.actions.iter().any(|action| {
            let mut next = *state;
            self.must_happen(state, *action)
                && !but(*action)
                && self.step(&mut next, *action, &mut Say::nothing())
                && next != *state
        })
    }

    /// Nothing is left that must happen: everything is delivered, nothing is owed, nobody is under way, no time runs out.
    pub(crate) fn is_quiet(&self, state: &State) -> bool {
        self.is_over(state, |_| false)
    }

    /// The same, but that values may expire.
    pub(crate) fn is_settled(&self, state: &State) -> bool {
        self.is_over(state, |action| matches!(action, Action::Expire(_)))
    }

    /// The first time that a property is seen.
    fn first_seen(&self, property: Property, state: &State) -> bool {
        let seen = &self.seen[property as usize];
        !seen.load(Ordering::Relaxed) && property.seen(self, state) && !seen.swap(true, Ordering::Relaxed)
    }

    fn trace(&self, path: Path<State, Action>) -> Trace {
        let mut state = State::new(&self.setup);
        let mut steps = Vec::new();
        for action in path.into_actions() {
            let mut say = Say::listening();
            self.step(&mut state, action, &mut say);
            steps.push(Step::new(&self.setup, &state, actor(action), say.said()));
        }
        Trace { steps }
    }
}

fn actor(action: Action) -> Actor {
    match action {
        Action::Read(r, _) | Action::ReaderCrash(r) => Actor::Reader(r + 1),
        Action::Write(w, _) | Action::WriterCrash(w) => Actor::Writer(w + 1),
        Action::Timer(_) => Actor::Timer,
        Action::Visible | Action::Apply => Actor::Database,
        Action::Expire(_)
        | Action::LeaseExpires(_)
        | Action::LockExpires(..)
        | Action::Evict(_)
        | Action::LockLost(_)
        | Action::Save
        | Action::RollBack => Actor::Redis,
        Action::Leave | Action::Join => Actor::Operator,
        _ => Actor::Follower,
    }
}

/// Every action that the set-up allows in some state. Fewer here is faster, no more: each looks for itself whether it is possible.
fn actions(setup: &Setup, follows: Follows) -> Vec<Action> {
    let mut all = Vec::new();
    let mut when = |on: bool, actions: &[Action]| {
        if on {
            all.extend_from_slice(actions);
        }
    };
    when(setup.has(Condition::Window), &[Action::Visible]);
    when(setup.has(Condition::Replica), &[Action::Apply]);
    when(setup.has(Condition::RedisRollback), &[Action::Save, Action::RollBack, Action::CheckRecord]);
    when(setup.is(Mutant::RollbackByFAlone), &[Action::PublishFAlone]);
    when(setup.pool_changes(), &[Action::Track, Action::PublishPool, Action::Leave, Action::Join]);
    for p in 0..setup.writes {
        when(follows != Follows::No, &[Action::First(p)]);
        when(follows == Follows::Twice, &[Action::Gate(p), Action::Second(p)]);
        when(follows == Follows::No, &[Action::Timer(p + 1)]);
        when(setup.has(Condition::Duplicates), &[Action::Duplicate(p)]);
        let queue = [Action::QueueGate(p), Action::QueueRemove(p), Action::Fails(p)];
        when(setup.has(Condition::RedisErrors), &queue);
    }
    for checkpoint in 0..=setup.writes {
        when(setup.has(Condition::FollowerCrash), &[Action::FollowerCrash(checkpoint)]);
    }
    for key in 0..setup.keys {
        when(setup.has(Condition::Ttl), &[Action::Expire(key)]);
        when(setup.has(Condition::Eviction), &[Action::Evict(key)]);
        when(setup.has(Condition::LockLoss), &[Action::LockLost(key)]);
        when(true, &[Action::LeaseExpires(key)]);
        for share in 0..2 + setup.readers {
            when(follows == Follows::No, &[Action::LockExpires(key, share)]);
        }
    }
    for r in 0..setup.readers {
        when(setup.has(Condition::ReaderCrash), &[Action::ReaderCrash(r)]);
        (0..CHOICES).for_each(|choice| when(true, &[Action::Read(r, choice)]));
    }
    for w in 0..setup.writers {
        when(setup.has(Condition::WriterCrash), &[Action::WriterCrash(w)]);
        (0..CHOICES).for_each(|choice| when(true, &[Action::Write(w, choice)]));
    }
    all
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.setup)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if self.setup.has(Condition::PromptReaders)
            && let Some(reader) = (0..self.setup.readers).find(|r| state.readers[usize::from(*r)].step != 0)
        {
            actions.extend((0..CHOICES).map(|choice| Action::Read(reader, choice)));
            return;
        }
        actions.extend_from_slice(&self.actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        (self.step(&mut next, action, &mut Say::nothing()) && next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        macro_rules! condition {
            ($property:ident) => {
                match Property::$property.is_safety() {
                    true => {
                        stateright::Property::always(Property::$property.name(), |world: &World, state| {
                            !world.first_seen(Property::$property, state)
                        })
                    }
                    false => {
                        stateright::Property::sometimes(Property::$property.name(), |world: &World, state| {
                            world.first_seen(Property::$property, state)
                        })
                    }
                }
            };
        }
        Property::ALL
            .iter()
            .filter(|property| property.applies(self))
            .map(|property| match property {
                Property::StaleForGood => condition!(StaleForGood),
                Property::Guards => condition!(Guards),
                Property::Coverage => condition!(Coverage),
                Property::Finality => condition!(Finality),
                Property::Pool => condition!(Pool),
                Property::Fills => condition!(Fills),
            })
            .collect()
    }
}

/// Explores a set-up. `progress` is called about ten times a second.
///
/// The trace is a shortest one: it is searched for breadth first, by one thread. With more threads a trace found is shortened by a
/// second search no deeper than it.
///
/// # Errors
/// If the set-up's numbers are out of bounds, or the search panics.
pub(crate) fn run(
    strategy: &'static dyn Strategy,
    setup: &Setup,
    limits: Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, CheckError> {
    setup.validate().map_err(CheckError::Setup)?;
    let outcome = search(strategy, setup, limits, progress)?;
    if limits.threads > 1 && outcome.trace.is_some() {
        let shortened = search(strategy, setup, Limits { threads: 1, ..limits }, progress)?;
        return Ok(Outcome { elapsed: outcome.elapsed + shortened.elapsed, ..shortened });
    }
    Ok(outcome)
}

fn search(
    strategy: &'static dyn Strategy,
    setup: &Setup,
    limits: Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, CheckError> {
    let started = Instant::now();
    let stale = Property::StaleForGood.name();
    let mut builder = World::new(strategy, setup.clone())
        .checker()
        .threads(limits.threads.max(1))
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([stale])));
    if limits.depth > 0 {
        // stateright counts states of a path, not steps, and looks at none of that depth.
        builder = builder.target_max_depth(limits.depth.saturating_add(2));
    }
    let mut checker = builder.spawn_bfs();
    let mut cut = None;
    let threads = checker.handles();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(Duration::from_millis(if started.elapsed().as_millis() < 200 { 1 } else { 50 }));
        let states = checker.unique_state_count();
        if states > limits.states {
            cut = Some("states");
            checker.model().stop.store(true, Ordering::Relaxed);
        }
        progress(Progress {
            states,
            depth: checker.max_depth().saturating_sub(1),
            elapsed: started.elapsed(),
        });
    }
    for thread in threads {
        thread.join().map_err(|_| CheckError::Panicked { strategy: strategy.name(), setup: setup.name })?;
    }
    // Paths are made by taking their steps again.
    checker.model().stop.store(false, Ordering::Relaxed);
    // Whatever the moment at which the bound was noticed: passed is passed.
    if checker.unique_state_count() > limits.states {
        cut = Some("states");
    }
    let depth = checker.max_depth().saturating_sub(1);
    if limits.depth > 0 && depth > limits.depth {
        cut = Some("depth");
    }
    let mut found = checker.discoveries();
    let mut violations = Vec::new();
    for property in Property::ALL.iter().copied().filter(|p| p.is_safety()) {
        if let Some(path) = found.get(property.name()) {
            violations.push(Violation { property, steps: path.clone().into_actions().len() });
        }
    }
    // The finer one first, if two show at once.
    violations.sort_by_key(|v| (v.steps, v.property == Property::StaleForGood));
    let shown =
        found.remove(stale).or_else(|| violations.first().and_then(|v| found.remove(v.property.name())));
    let stopped = violations.iter().any(|v| v.property == Property::StaleForGood);
    Ok(Outcome {
        strategy: strategy.name(),
        setup: setup.clone(),
        states: checker.unique_state_count(),
        depth: depth.min(if limits.depth > 0 { limits.depth } else { usize::MAX }),
        elapsed: started.elapsed(),
        cut,
        exhausted: cut.is_none() && !stopped,
        violations,
        trace: shown.map(|path| checker.model().trace(path)),
        fills: setup.readers == 0 || found.contains_key(Property::Fills.name()),
    })
}
