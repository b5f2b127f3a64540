//! The story of one key: everything that Redis was told about it around one commit.

use std::collections::HashMap;

use serde::Serialize;

use super::commits::{Commit, Window, millis};
use super::monitor::{Command, History};
use super::shop::Key;

/// A key that was written once in the run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Story {
    pub(crate) key: String,
    /// What is special about it.
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    /// Milliseconds after the application had the answer to its commit.
    pub(crate) ms: f64,
    pub(crate) what: String,
}

/// Stories of a key that went the usual way, and of one that was written while Redis was down. The first is, where
/// there is one, a key to which a reader put the old value back between the two removals.
pub(crate) fn stories(
    commits: &[Commit],
    history: &History,
    outage: Window,
    restart: Option<Window>,
) -> Vec<Story> {
    let mut times: HashMap<Key, usize> = HashMap::new();
    for commit in commits {
        *times.entry(commit.key).or_default() += 1;
    }
    let once = || commits.iter().filter(|commit| times[&commit.key] == 1);
    // Far enough from anything that was down for the key to show the usual course.
    let calm = |commit: &&Commit| {
        let near = |window: Window| {
            let (from, to) = (window.from.saturating_sub(3_000_000), window.to + 3_000_000);
            (from..=to).contains(&commit.returned)
        };
        !near(outage) && !restart.is_some_and(near)
    };
    let usual = once()
        .filter(calm)
        .filter(|commit| cached_before(commit, history) && unlinks(commit, history).len() == 2)
        .max_by_key(|commit| (put_back(commit, history), filled_after(commit, history)));
    let queued = once()
        .filter(|commit| outage.holds(commit.sent) && outage.holds(commit.returned))
        .find(|commit| cached_before(commit, history) && !unlinks(commit, history).is_empty());
    let mut stories = Vec::new();
    if let Some(commit) = usual {
        let title = if put_back(commit, history) {
            "a reader puts the old value back after the first removal, the second takes it away"
        } else {
            "the usual course"
        };
        stories.push(tell(commit, history, title));
    }
    if let Some(commit) = queued {
        stories.push(tell(commit, history, "written while Redis was down"));
    }
    stories
}

fn unlinks(commit: &Commit, history: &History) -> Vec<u64> {
    let seen = history.of(commit.key).iter();
    seen.filter(|s| s.command == Command::Unlink && s.micros >= commit.sent).map(|s| s.micros).collect()
}

/// Whether the key held the old value when the row was written.
fn cached_before(commit: &Commit, history: &History) -> bool {
    let before = history.of(commit.key).iter().rev().find(|seen| seen.micros < commit.sent);
    before.is_some_and(|seen| seen.command == Command::Set(commit.version - 1))
}

/// Whether an older value was put into the cache after the first removal.
fn put_back(commit: &Commit, history: &History) -> bool {
    let removed =
        history.of(commit.key).iter().position(|s| s.micros >= commit.sent && s.command == Command::Unlink);
    removed.is_some_and(|at| {
        history.of(commit.key)[at..]
            .iter()
            .any(|s| matches!(s.command, Command::Set(v) if v < commit.version))
    })
}

/// Whether a reader has filled the key with the new value at last.
fn filled_after(commit: &Commit, history: &History) -> bool {
    history.of(commit.key).last().is_some_and(|seen| seen.command == Command::Set(commit.version))
}

fn tell(commit: &Commit, history: &History, title: &str) -> Story {
    let at = |micros: u64| {
        if micros >= commit.returned {
            millis(micros - commit.returned)
        } else {
            -millis(commit.returned - micros)
        }
    };
    let (old, new) = (commit.version - 1, commit.version);
    let seen = history.of(commit.key);
    // From the fill before the commit to the fill after the last removal.
    let first = seen.iter().rposition(|s| s.micros < commit.sent).unwrap_or(0);
    let last = seen.iter().rposition(|s| s.command == Command::Unlink).map_or(seen.len(), |at| at + 2);
    let mut lines = vec![
        Line {
            ms: at(commit.sent), what: format!("the application sends UPDATE … version {old} → {new}")
        },
        Line { ms: 0.0, what: "commit: the application has the answer".into() },
    ];
    if commit.deleted == Some(false) {
        lines.push(Line { ms: 0.0, what: "the application's DEL fails, and is forgotten".into() });
    }
    let mut removals = 0;
    for s in &seen[first..last.min(seen.len())] {
        let what = match s.command {
            Command::Set(version) if version < new && s.micros >= commit.returned => {
                format!("a reader puts version {version} back: stale")
            }
            Command::Set(version) => format!("a reader fills the key with version {version}"),
            Command::Del => "the application's DEL".into(),
            Command::Unlink if s.micros < commit.sent => continue,
            Command::Unlink => {
                removals += 1;
                match (removals, commit.deleted) {
                    (1, Some(false)) => "rowbust removes the key, from its retry queue".into(),
                    (1, _) => "rowbust removes the key: first removal".into(),
                    (2, _) => "rowbust removes the key: second removal".into(),
                    _ => "rowbust removes the key once more".into(),
                }
            }
        };
        lines.push(Line { ms: at(s.micros), what });
    }
    lines.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    Story { key: commit.key.to_string(), title: title.into(), lines }
}

#[cfg(test)]
mod tests {
    use super::super::monitor::Seen;
    use super::super::shop::Table;
    use super::*;

    const SECOND: u64 = 1_000_000;
    const OUTAGE: Window = Window { from: 50 * SECOND, to: 52 * SECOND };

    fn history(key: Key, seen: &[(u64, Command)]) -> History {
        let mut history = History::default();
        for (micros, command) in seen {
            history.add(key, Seen { micros: *micros, command: *command });
        }
        history
    }

    #[test]
    fn the_usual_course() {
        let key = Key { table: Table::Products, id: 7 };
        let t = 20 * SECOND;
        let commit = Commit { key, version: 5, sent: t - 1000, returned: t, deleted: Some(true) };
        let history = history(
            key,
            &[
                (t - SECOND, Command::Set(4)),
                (t + 300, Command::Del),
                (t + 900, Command::Unlink),
                (t + 1500, Command::Set(4)),
                (t + SECOND, Command::Unlink),
                (t + 2 * SECOND, Command::Set(5)),
            ],
        );
        let stories = stories(&[commit], &history, OUTAGE, None);
        assert_eq!(stories.len(), 1);
        let lines: Vec<_> = stories[0].lines.iter().map(|line| (line.ms, line.what.as_str())).collect();
        assert_eq!(
            lines,
            [
                (-1000.0, "a reader fills the key with version 4"),
                (-1.0, "the application sends UPDATE … version 4 → 5"),
                (0.0, "commit: the application has the answer"),
                (0.3, "the application's DEL"),
                (0.9, "rowbust removes the key: first removal"),
                (1.5, "a reader puts version 4 back: stale"),
                (1000.0, "rowbust removes the key: second removal"),
                (2000.0, "a reader fills the key with version 5"),
            ]
        );
        assert!(stories[0].title.contains("back"));
    }

    #[test]
    fn a_key_written_in_the_outage() {
        let key = Key { table: Table::Customers, id: 1 };
        let t = 51 * SECOND;
        let commit = Commit { key, version: 2, sent: t - 1000, returned: t, deleted: Some(false) };
        let history = history(key, &[(t - 9 * SECOND, Command::Set(1)), (t + 11 * SECOND, Command::Unlink)]);
        let stories = stories(&[commit], &history, OUTAGE, None);
        assert_eq!(stories.len(), 1);
        assert!(stories[0].lines.iter().any(|line| line.what.contains("forgotten")));
        assert!(stories[0].lines.iter().any(|line| line.what.contains("retry queue")));
    }
}
