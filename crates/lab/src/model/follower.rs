//! The daemon in the model: removals, the gate between them, the queue, the checkpoint, the pool of sources, and Redis' record.
//!
//! The *record* is what the daemon keeps in Redis: F, the pool of sources, and a number that is new with each writing. It is compared
//! and set on the connection of the removals, right behind them, so that no rollback fits in between: one step here.

use super::{
    mutant::Mutant,
    setup::{Condition, Setup},
    state::{Cell, Owed, PRIMARY, REPLICA, Stage, State},
    strategy::{Follows, Say, Strategy},
};

/// The commit is visible at every source that the follower watches.
fn is_visible(state: &State, p: u8) -> bool {
    (0u8..)
        .zip(state.visible)
        .all(|(source, visible)| state.follower.sources & (1 << source) == 0 || visible > p)
}

/// Events are read in order.
fn is_next(state: &State, p: u8) -> bool {
    let stage = &state.follower.stage;
    p < state.commits
        && stage[usize::from(p)] == Stage::Unread
        && (p == 0 || stage[usize::from(p) - 1] != Stage::Unread)
}

fn unlink(state: &mut State, p: u8) {
    let key = state.key_at(p);
    *state.cell(key) = Cell::Absent;
}

fn change(setup: &Setup, state: &State, p: u8) -> String {
    let write = state.order[usize::from(p)];
    if setup.keys == 1 { format!("v{write}") } else { format!("v{write} of key {}", state.key_at(p) + 1) }
}

/// Whether a stage counts as settled, for the checkpoint.
fn counts(setup: &Setup, stage: Stage) -> bool {
    stage == Stage::Settled || setup.is(Mutant::SettledAtFirst) && stage != Stage::Unread
}

/// How far the checkpoint may go.
pub(crate) fn frontier(setup: &Setup, state: &State) -> u8 {
    let mut positions = 0..state.commits;
    let is_settled = |p: &u8| counts(setup, state.follower.stage[usize::from(*p)]);
    match setup.is(Mutant::FrontierWithHoles) {
        true => positions.rev().find(is_settled).map_or(0, |p| p + 1),
        false => positions.find(|p| !is_settled(p)).unwrap_or(state.commits),
    }
}

pub(crate) fn first(setup: &Setup, strategy: &dyn Strategy, state: &mut State, p: u8, say: &mut Say) -> bool {
    if strategy.follows() == Follows::No || !is_next(state, p) {
        return false;
    }
    unlink(state, p);
    let stage = &mut state.follower.stage[usize::from(p)];
    *stage = Stage::Removed;
    if strategy.follows() == Follows::Once {
        *stage = Stage::Settled;
        state.redis.acked |= 1 << p;
        say.it(|| format!("reads {}; UNLINK", change(setup, state, p)));
    } else if setup.is(Mutant::NoSecondRemoval) {
        *stage = Stage::Settled;
        say.it(|| format!("reads {}; UNLINK, the only one", change(setup, state, p)));
    } else {
        say.it(|| format!("reads {}; first UNLINK", change(setup, state, p)));
    }
    true
}

pub(crate) fn gate(setup: &Setup, strategy: &dyn Strategy, state: &mut State, p: u8, say: &mut Say) -> bool {
    if strategy.follows() != Follows::Twice || p >= state.commits {
        return false;
    }
    let backlog = setup.has(Condition::Backlog) && is_next(state, p);
    let waits = state.follower.stage[usize::from(p)] == Stage::Removed || backlog;
    if !waits || !(is_visible(state, p) || setup.is(Mutant::SecondBeforeVisibility)) {
        return false;
    }
    state.follower.stage[usize::from(p)] = Stage::Gated;
    say.it(|| match setup.is(Mutant::SecondBeforeVisibility) {
        true => "doesn't wait".into(),
        false => format!("sees {} visible at every source", change(setup, state, p)),
    });
    true
}

pub(crate) fn second(setup: &Setup, state: &mut State, p: u8, say: &mut Say) -> bool {
    if p >= state.commits
        || state.follower.stage[usize::from(p)] != Stage::Gated
        || state.follower.republish
        || !is_behind_grace(setup, state, p)
    {
        return false;
    }
    unlink(state, p);
    say.it(|| format!("second UNLINK for {}", change(setup, state, p)));
    if record(setup, state, say) {
        state.follower.stage[usize::from(p)] = Stage::Settled;
        state.redis.acked |= 1 << p;
        publish_f(setup, state);
    }
    true
}

/// With the grace, no reader that read the row before this commit is still on its way to SET.
fn is_behind_grace(setup: &Setup, state: &State, p: u8) -> bool {
    let key = state.key_at(p);
    !setup.has(Condition::Grace)
        || state.readers.iter().all(|reader| !reader.loaded || reader.key != key || reader.snapshot > p)
}

/// A removal fails; the queue takes it over, and that settles the change.
pub(crate) fn fails(setup: &Setup, strategy: &dyn Strategy, state: &mut State, p: u8, say: &mut Say) -> bool {
    if strategy.follows() == Follows::No || !setup.has(Condition::RedisErrors) || p >= state.commits {
        return false;
    }
    let stage = state.follower.stage[usize::from(p)];
    if stage == Stage::Settled || stage == Stage::Unread && !is_next(state, p) {
        return false;
    }
    state.follower.stage[usize::from(p)] = Stage::Settled;
    state.follower.queue[usize::from(p)] = Owed::Waiting;
    say.it(|| format!("UNLINK for {} fails; the queue owes it", change(setup, state, p)));
    true
}

pub(crate) fn queue_gate(setup: &Setup, state: &mut State, p: u8, say: &mut Say) -> bool {
    if p >= state.commits || state.follower.queue[usize::from(p)] != Owed::Waiting {
        return false;
    }
    if !is_visible(state, p) && !setup.is(Mutant::QueueBeforeVisibility) {
        return false;
    }
    state.follower.queue[usize::from(p)] = Owed::Gated;
    say.it(|| match setup.is(Mutant::QueueBeforeVisibility) {
        true => "takes the record, doesn't wait".into(),
        false => format!("takes the record, sees {} visible", change(setup, state, p)),
    });
    true
}

pub(crate) fn queue_remove(setup: &Setup, state: &mut State, p: u8, say: &mut Say) -> bool {
    if p >= state.commits
        || state.follower.queue[usize::from(p)] != Owed::Gated
        || state.follower.republish
        || !is_behind_grace(setup, state, p)
    {
        return false;
    }
    unlink(state, p);
    say.it(|| format!("UNLINK for {}; the record is done", change(setup, state, p)));
    if record(setup, state, say) {
        state.follower.queue[usize::from(p)] = Owed::No;
        state.redis.acked |= 1 << p;
        publish_f(setup, state);
    }
    true
}

/// A rollback is noticed some day.
fn notices(setup: &Setup) -> bool {
    setup.has(Condition::RedisRollback) && !setup.is(Mutant::NoReplay) && !setup.is(Mutant::RollbackByFAlone)
}

/// A record is compared and set behind each batch of removals.
fn keeps_record(setup: &Setup) -> bool {
    notices(setup) && !setup.has(Condition::LooksAtRuns)
}

/// Compares the record, and writes it with a new number. Finding another one is the detection of a rollback: `false`.
fn record(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    if !keeps_record(setup) {
        return true;
    }
    if state.redis.mismatch {
        rewind(setup, state);
        say.it(|| {
            format!(
                "UNLINK, but the record is an old one: begins again behind change {}",
                state.redis.published
            )
        });
        return false;
    }
    if let Some(saved) = &mut state.saved {
        saved.record_written = true;
    }
    true
}

fn f(setup: &Setup, state: &State) -> u8 {
    state.f(|owed| owed != Owed::No && !setup.is(Mutant::FPassesQueue))
}

fn publish_f(setup: &Setup, state: &mut State) {
    if keeps_record(setup) {
        state.redis.published = f(setup, state);
    }
}

/// Begins again behind the F that Redis holds.
fn rewind(setup: &Setup, state: &mut State) {
    for p in state.redis.published..state.commits {
        state.follower.stage[usize::from(p)] = Stage::Unread;
    }
    take_over_record(setup, state);
    if setup.has(Condition::LooksAtRuns) {
        // As a restart does: what was removed before anybody noticed counts no longer.
        forget_removals(state);
        take_over_pool(state);
    }
}

/// Removals behind F don't count as done before they are repeated.
fn forget_removals(state: &mut State) {
    let counted = !(u8::MAX << state.redis.published);
    state.redis.acked &= counted;
    if let Some(saved) = &mut state.saved {
        saved.redis.acked &= counted;
    }
}

/// What Redis lists counts for visibility, whatever the operator wants.
fn take_over_pool(state: &mut State) {
    state.follower.pool = state.redis.pool;
    state.follower.sources = state.wanted | state.redis.pool;
    state.follower.sampled = state.visible[usize::from(PRIMARY)];
    forget_sample(state);
}

fn take_over_record(setup: &Setup, state: &mut State) {
    state.redis.mismatch = false;
    if let Some(saved) = &mut state.saved {
        saved.record_written = true;
    }
    state.follower.republish =
        setup.pool_changes() && !setup.is(Mutant::PoolNotRepublished) && !setup.is(Mutant::IdleRestart);
}

/// Looks at the record, as the daemon does now and then.
pub(crate) fn check(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    if notices(setup) && setup.has(Condition::LooksAtRuns) {
        return look(setup, state, say);
    }
    if !keeps_record(setup) || !state.redis.mismatch {
        return false;
    }
    rewind(setup, state);
    say.it(|| format!("finds an old record: begins again behind change {}", state.redis.published));
    true
}

/// Looks at the run and at F, and publishes the newest F on the same connection.
fn look(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let (found, f) = (state.redis.published, f(setup, state));
    if !state.redis.mismatch {
        state.redis.published = f;
        say.it(|| format!("publishes F = {f}"));
        return found != f;
    }
    let under_way = |stage: &Stage| matches!(stage, Stage::Removed | Stage::Gated);
    if f == found && !state.follower.stage.iter().any(under_way) {
        take_over_record(setup, state);
        say.it(|| "finds another run; nothing was removed since F".into());
    } else {
        rewind(setup, state);
        say.it(|| format!("finds another run: begins again behind change {found}"));
    }
    true
}

/// The mutant's way: F alone, published apart from the removals.
pub(crate) fn publish_f_alone(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    if !setup.is(Mutant::RollbackByFAlone) {
        return false;
    }
    let (found, mine, f) = (state.redis.published, state.follower.published, f(setup, state));
    if found == mine && f == mine {
        return false;
    }
    if found == mine {
        state.redis.published = f;
        state.follower.published = f;
        say.it(|| format!("publishes F = {f} (found {found}, as expected)"));
    } else {
        state.follower.published = found;
        rewind(setup, state);
        say.it(|| format!("finds F = {found}, not {mine}: begins again behind it"));
    }
    true
}

/// Takes in what the operator wants, and lets go of what isn't published any more.
pub(crate) fn track(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    let published = if setup.is(Mutant::DroppedBeforePublished) { 0 } else { state.follower.pool };
    let sources = state.wanted | published;
    if state.follower.sources == sources {
        return false;
    }
    let joins = sources & !state.follower.sources != 0;
    state.follower.sources = sources;
    if joins {
        state.follower.sampled = state.visible[usize::from(PRIMARY)];
    }
    forget_sample(state);
    say.it(|| match joins {
        true => "waits for the replica too, from now on".into(),
        false => "waits no longer for the replica".into(),
    });
    true
}

/// The sample matters only while a source waits to be published.
fn forget_sample(state: &mut State) {
    if state.follower.sources & !state.follower.pool == 0 {
        state.follower.sampled = 0;
    }
}

fn may_join(setup: &Setup, state: &State) -> bool {
    let has = state.visible[usize::from(REPLICA)];
    if setup.is(Mutant::JoinAtDone) {
        let done = |p: u8| {
            let p = usize::from(p);
            state.follower.stage[p] == Stage::Settled && state.follower.queue[p] == Owed::No
        };
        return (0..state.commits).all(|p| has > p || !done(p));
    }
    has >= state.follower.sampled
}

/// Publishes the pool: what is wanted, and has what the primary had when it was taken in.
pub(crate) fn publish_pool(setup: &Setup, state: &mut State, say: &mut Say) -> bool {
    if !setup.pool_changes() {
        return false;
    }
    let replica = 1 << REPLICA;
    let mut pool = 1 | state.follower.pool & state.wanted;
    if state.wanted & state.follower.sources & replica != 0 && may_join(setup, state) {
        pool |= replica;
    }
    if pool == state.follower.pool && !state.follower.republish && pool == state.redis.pool {
        return false;
    }
    if !setup.is(Mutant::PoolOutsideRecord) && !record(setup, state, say) {
        return true;
    }
    state.redis.pool = pool;
    state.follower.pool = pool;
    state.follower.republish = false;
    forget_sample(state);
    say.it(|| match pool {
        1 => "publishes the pool: primary".into(),
        _ => "publishes the pool: primary, replica".into(),
    });
    true
}

/// kill -9, and a start at any checkpoint that may have been saved.
pub(crate) fn crash(
    setup: &Setup,
    strategy: &dyn Strategy,
    state: &mut State,
    checkpoint: u8,
    say: &mut Say,
) -> bool {
    if !setup.has(Condition::FollowerCrash)
        || strategy.follows() == Follows::No
        || checkpoint > frontier(setup, state)
    {
        return false;
    }
    let rolled_back = notices(setup) && state.redis.mismatch;
    let mut from = checkpoint;
    state.follower.republish = false;
    if rolled_back {
        if !setup.is(Mutant::RestartForgetsRecord) {
            from = from.min(state.redis.published);
        }
        take_over_record(setup, state);
        if setup.has(Condition::LooksAtRuns) {
            forget_removals(state);
        }
    }
    for p in 0..state.commits {
        let (stage, owed) =
            (&mut state.follower.stage[usize::from(p)], &mut state.follower.queue[usize::from(p)]);
        *stage = if p < from { Stage::Settled } else { Stage::Unread };
        if *owed == Owed::Gated {
            *owed = Owed::Waiting;
        }
    }
    take_over_pool(state);
    say.it(|| format!("killed; begins again behind change {from}"));
    true
}
