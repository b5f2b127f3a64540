//! What a strategy is to the model: the steps of its readers and writers, and what the follower does for it.

use super::{
    setup::Setup,
    state::{Cell, PRIMARY, REPLICA, State},
};
use crate::model::setup::Condition;

/// What a step says of itself in a trace. Nothing is formatted while states are explored.
#[derive(Debug, Default)]
pub(crate) struct Say(Option<String>);

impl Say {
    /// Notes nothing.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// Notes what the step does.
    pub(crate) fn listening() -> Self {
        Self(Some(String::new()))
    }

    pub(crate) fn it(&mut self, text: impl FnOnce() -> String) {
        if let Some(said) = &mut self.0 {
            *said = text();
        }
    }

    pub(crate) fn said(self) -> String {
        self.0.unwrap_or_default()
    }
}

/// What the binlog's follower does for a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// There is no follower.
    No,
    /// One removal, when the event arrives.
    Once,
    /// A second one when the commit is visible at every source.
    Twice,
}

/// Choices that a reader's or writer's step can have at most (sources to read from, or keys to write).
pub(crate) const CHOICES: u8 = 2;

/// A cache strategy, as steps. Each call is one indivisible step.
pub(crate) trait Strategy: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it does, in one line.
    fn about(&self) -> &'static str;

    fn follows(&self) -> Follows {
        Follows::No
    }

    /// Its set-ups; the first is the default.
    fn setups(&self) -> Vec<Setup>;

    /// The next step of a reader, with one of its choices; `false` if there is none.
    fn read(&self, setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool;

    /// The next step of a writer.
    fn write(&self, setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool;

    /// A value's time runs out.
    fn expire(&self, setup: &Setup, state: &mut State, key: u8, say: &mut Say) -> bool {
        if !setup.has(Condition::Ttl) || !matches!(state.cell(key), Cell::Value { .. }) {
            return false;
        }
        *state.cell(key) = Cell::Absent;
        say.it(|| "the value expires".into());
        true
    }
}

/// Whether a source may be read: its name, or nothing.
pub(crate) fn source_name(source: u8) -> &'static str {
    if source == PRIMARY { "primary" } else { "replica" }
}

/// A plain reader: GET, SELECT, SET.
pub(crate) fn plain_read(setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
    let r = usize::from(reader);
    match state.readers[r].step {
        0 => get(setup, state, reader, choice, say),
        1 => select(state, setup.sources(), reader, choice, 2, say),
        _ => {
            let write = loaded(state, reader);
            choice == 0 && set(state, reader, write, say)
        }
    }
}

/// GET, missing: the reader goes on to step 1. (A hit changes nothing, so it is no step.)
pub(crate) fn get(setup: &Setup, state: &mut State, reader: u8, choice: u8, say: &mut Say) -> bool {
    if choice >= setup.keys || *state.cell(choice) != Cell::Absent {
        return false;
    }
    let me = &mut state.readers[usize::from(reader)];
    me.step = 1;
    me.key = choice;
    say.it(|| "GET: nothing".into());
    true
}

/// SELECT at one of the sources, in a snapshot of its own.
pub(crate) fn select(
    state: &mut State,
    sources: u8,
    reader: u8,
    source: u8,
    next: u8,
    say: &mut Say,
) -> bool {
    if source > REPLICA || sources & (1 << source) == 0 {
        return false;
    }
    let r = usize::from(reader);
    let key = state.readers[r].key;
    let snapshot = state.snapshot(key, state.visible[usize::from(source)]);
    state.readers[r] =
        super::state::Reader { step: next, key, snapshot, loaded: true, pool: 0, ..state.readers[r] };
    let row = loaded(state, reader);
    say.it(|| match sources {
        1 => format!("SELECT: v{row}"),
        _ => format!("SELECT at the {}: v{row}", source_name(source)),
    });
    true
}

/// The value that a reader has read.
pub(crate) fn loaded(state: &State, reader: u8) -> u8 {
    let me = state.readers[usize::from(reader)];
    state.row(me.key, me.snapshot)
}

/// SET, whatever is there; the reader is done.
pub(crate) fn set(state: &mut State, reader: u8, write: u8, say: &mut Say) -> bool {
    let key = state.readers[usize::from(reader)].key;
    *state.cell(key) = Cell::value(write);
    state.end_read(reader);
    say.it(|| format!("SET v{write}"));
    true
}

/// A writer takes up a write of the chosen key, if there is one left.
pub(crate) fn begin(setup: &Setup, state: &mut State, writer: u8, key: u8) -> bool {
    if state.begun >= setup.writes || key >= setup.keys {
        return false;
    }
    state.begun += 1;
    let write = state.begun;
    state.keys |= key << write;
    let me = &mut state.writers[usize::from(writer)];
    me.key = key;
    me.write = write;
    true
}

/// UPDATE and COMMIT: the change is in the binlog, and visible at the primary unless the set-up has the window.
pub(crate) fn commit(setup: &Setup, state: &mut State, writer: u8, next: u8, say: &mut Say) -> bool {
    let w = usize::from(writer);
    let write = state.writers[w].write;
    state.order[usize::from(state.commits)] = write;
    state.commits += 1;
    if !setup.has(Condition::Window) {
        state.visible[usize::from(PRIMARY)] = state.commits;
    }
    advance(state, writer, next);
    say.it(|| match setup.has(Condition::Window) {
        true => format!("UPDATE to v{write}, COMMIT: in the binlog"),
        false => format!("UPDATE to v{write}, COMMIT"),
    });
    true
}

/// Whether the writer's COMMIT has returned: only once the commit is visible at the primary.
pub(crate) fn committed(state: &State, writer: u8) -> bool {
    let write = state.writers[usize::from(writer)].write;
    state.commits_with(write).is_some_and(|commits| state.visible[usize::from(PRIMARY)] >= commits)
}

/// The writer goes on to a step; 0 ends its write.
pub(crate) fn advance(state: &mut State, writer: u8, next: u8) {
    let me = &mut state.writers[usize::from(writer)];
    me.step = next;
    if next == 0 {
        *me = super::state::Writer::default();
    }
}

/// DEL, and on to a step.
pub(crate) fn delete(state: &mut State, writer: u8, next: u8, say: &mut Say) -> bool {
    let key = state.writers[usize::from(writer)].key;
    *state.cell(key) = Cell::Absent;
    advance(state, writer, next);
    say.it(|| "DEL".into());
    true
}

/// The writer SETs its value, and on to a step.
pub(crate) fn put(state: &mut State, writer: u8, next: u8, say: &mut Say) -> bool {
    let me = state.writers[usize::from(writer)];
    *state.cell(me.key) = Cell::value(me.write);
    advance(state, writer, next);
    say.it(|| format!("SET v{}", me.write));
    true
}

/// A writer that only updates the database.
pub(crate) fn only_commit(setup: &Setup, state: &mut State, writer: u8, choice: u8, say: &mut Say) -> bool {
    state.writers[usize::from(writer)].step == 0
        && begin(setup, state, writer, choice)
        && commit(setup, state, writer, 0, say)
}
