//! A trace as a table that a person can follow: actors as columns, steps as rows.

use comfy_table::{ContentArrangement, Table, presets};

use super::{
    setup::{Condition, Setup},
    state::{Cell, PRIMARY, REPLICA, State},
};

/// Who took a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Actor {
    /// A writer, by number.
    Writer(u8),
    /// A reader, by number.
    Reader(u8),
    /// rowbust, or another follower of the binlog.
    Follower,
    /// What a strategy left behind to be done later.
    Timer,
    /// Who runs the servers.
    Operator,
    /// The primary or its replica.
    Database,
    /// Redis.
    Redis,
}

impl Actor {
    /// Its name in output.
    pub(crate) fn name(self) -> String {
        match self {
            Actor::Writer(n) => format!("writer {n}"),
            Actor::Reader(n) => format!("reader {n}"),
            Actor::Follower => "follower".into(),
            Actor::Timer => "timer".into(),
            Actor::Operator => "operator".into(),
            Actor::Database => "database".into(),
            Actor::Redis => "Redis".into(),
        }
    }
}

/// A step of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Who took it.
    pub(crate) actor: Actor,
    /// What it did.
    pub(crate) text: String,
    /// The row at the primary, as a reader sees it after the step.
    pub(crate) row: String,
    /// The row at the replica, where there is one.
    pub(crate) replica: Option<String>,
    /// What Redis holds after the step.
    pub(crate) cached: String,
}

impl Step {
    pub(crate) fn new(setup: &Setup, state: &State, actor: Actor, text: String) -> Self {
        let keys = |show: &dyn Fn(u8) -> String| match setup.keys {
            1 => show(0),
            _ => (0..setup.keys)
                .map(|key| format!("{}: {}", key + 1, show(key)))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let row =
            |source: u8| keys(&|key| format!("v{}", state.row(key, state.visible[usize::from(source)])));
        Self {
            actor,
            text,
            row: row(PRIMARY),
            replica: setup.has(Condition::Replica).then(|| row(REPLICA)),
            cached: keys(&|key| cell(state.redis.cells[usize::from(key)])),
        }
    }
}

fn cell(cell: Cell) -> String {
    match cell {
        Cell::Absent => "-".into(),
        Cell::Value { write, expired: false } => format!("v{write}"),
        Cell::Value { write, expired: true } => format!("v{write} (expired)"),
        Cell::Lease(owner) => format!("lease of {}", owner_name(owner)),
        Cell::Early { write, owner } => format!("v{write}, before it a lease of {}", owner_name(owner)),
    }
}

/// A way from the start to a state that violates a property.
///
/// ```
/// use rowbust_lab::model::{Limits, Trace, cases, check};
/// let race = check(&cases("delete-first")[0], Limits::default(), &mut |_| {})?;
/// let trace: Trace = race.trace.ok_or("none")?;
/// // For a terminal of 100 columns, and for a page.
/// println!("{}", trace.table(Some(100)));
/// assert!(trace.markdown().starts_with("|  | writer 1 | reader 1 | row | cached |\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub(crate) steps: Vec<Step>,
}

impl Trace {
    /// Headings and rows: a number, a column for each actor that does something, the row, the replica, the cache.
    fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let mut actors: Vec<Actor> = self.steps.iter().map(|step| step.actor).collect();
        actors.sort_unstable();
        actors.dedup();
        let replica = self.steps.iter().any(|step| step.replica.is_some());
        let mut head = vec!["".to_owned()];
        head.extend(actors.iter().map(|actor| actor.name()));
        head.push("row".into());
        head.extend(replica.then(|| "replica's".to_owned()));
        head.push("cached".into());
        let rows = self.steps.iter().enumerate().map(|(number, step)| {
            let mut row = vec![(number + 1).to_string()];
            row.extend(
                actors.iter().map(
                    |actor| {
                        if *actor == step.actor { step.text.clone() } else { String::new() }
                    },
                ),
            );
            row.push(step.row.clone());
            row.extend(replica.then(|| step.replica.clone().unwrap_or_default()));
            row.push(step.cached.clone());
            row
        });
        (head, rows.collect())
    }

    /// As a table, no wider than `width` columns (if that is possible at all); without a width, than the terminal.
    ///
    /// Example: see [`Trace`].
    pub fn table(&self, width: Option<u16>) -> String {
        let (head, rows) = self.cells();
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
        if let Some(width) = width {
            table.set_width(width);
        }
        rows.into_iter().for_each(|row| {
            table.add_row(row);
        });
        let text = table.to_string();
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// As a Markdown table.
    ///
    /// Example: see [`Trace`].
    pub fn markdown(&self) -> String {
        let (head, rows) = self.cells();
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&head);
        text.push_str(&format!("|{}\n", "-|".repeat(head.len())));
        rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

fn owner_name(owner: u8) -> String {
    if owner == super::state::NOBODY { "nobody's".into() } else { format!("reader {}", owner + 1) }
}
