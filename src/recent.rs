//! The newest warnings and errors of the log, in memory: for the state and for `/events`.
//!
//! Guarantees: bounded ([`KEPT`] lines of twice [`LONGEST`] bytes); never waits but for a reader. What the log must not hold isn't here
//! either, for it is the same. May depend on nothing of ours.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that are kept.
pub const KEPT: usize = 50;
/// Bytes of one line's message, and of its fields.
pub const LONGEST: usize = 1000;

/// A line of the log.
#[derive(Debug, Clone)]
pub struct Line {
    /// Counts from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `WARN` or `ERROR`.
    pub level: Level,
    /// Its message: a fixed text.
    pub message: String,
    /// Its values, as `name=value`.
    pub fields: String,
}

impl Line {
    /// `values`: whether its values are shown too: there may be keys in them.
    pub fn json(&self, values: bool) -> Value {
        json!({
            "at_ms": self.at_ms,
            "level": if self.level == Level::ERROR { "error" } else { "warn" },
            "message": self.message,
            "values": values.then_some(self.fields.as_str()),
        })
    }
}

#[derive(Debug)]
struct Lines {
    newest: VecDeque<Line>,
    count: u64,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { newest: VecDeque::new(), count: 0 });

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines behind number `after`, oldest first.
pub fn since(after: u64) -> Vec<Line> {
    lines().newest.iter().filter(|line| line.number > after).cloned().collect()
}

/// The number of the newest line.
pub fn newest() -> u64 {
    lines().count
}

/// Keeps what passes through the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        for text in [&mut text.fields, &mut text.message] {
            text.truncate(text.floor_char_boundary(LONGEST));
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut lines = lines();
        lines.count += 1;
        let line = Line {
            number: lines.count,
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            level,
            message: text.message,
            fields: text.fields,
        };
        if lines.newest.len() == KEPT {
            lines.newest.pop_front();
        }
        lines.newest.push_back(line);
    }
}

#[derive(Debug, Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Into a string nothing fails.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else if self.fields.len() < LONGEST {
            let blank = if self.fields.is_empty() { "" } else { " " };
            let _ = write!(self.fields, "{blank}{}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn keeps_the_newest_warnings() {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            let before = newest();
            for n in 0..KEPT + 10 {
                tracing::info!(n, "not this one");
                tracing::warn!(n, text = "a b", "kept");
            }
            tracing::error!(long = "é".repeat(LONGEST), "long");
            let kept = since(before);
            assert_eq!(kept.len(), KEPT);
            assert!(kept.iter().all(|line| line.message != "not this one"));
            let last = kept.iter().rev().nth(1).map(|line| (line.message.clone(), line.fields.clone()));
            assert_eq!(last, Some(("kept".into(), format!("n={} text=a b", KEPT + 9))));
            let long = &kept[KEPT - 1];
            assert!(long.fields.len() <= LONGEST && long.level == Level::ERROR);
            assert!(long.json(false)["values"].is_null() && long.json(true)["values"].is_string());
        });
    }
}
