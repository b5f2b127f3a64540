//! The application's journal, and how long after each commit its key was removed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::monitor::{Command, History};
use super::shop::Key;

/// The second removal waits this long after the commit is visible: the default of `fill_grace`, in microseconds.
const FILL_GRACE: u64 = 1_000_000;
/// A commit is measured if its key has no other commit this close, in microseconds: a removal can then be of no
/// other commit. Workers get keys by hash, so rarely written keys wait neither longer nor shorter than others.
const APART: u64 = 5_000_000;

/// A commit of the application; times in Unix microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) key: Key,
    pub(crate) version: u64,
    /// Before the UPDATE was sent.
    pub(crate) sent: u64,
    /// When it had returned.
    pub(crate) returned: u64,
    /// Whether the application's DEL worked; `None`: it was killed before it knew.
    pub(crate) deleted: Option<bool>,
}

/// Reads a journal; a line that was cut off by a kill -9 counts as not written.
pub(crate) fn read_journal(path: &Path) -> Result<Vec<Commit>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(parse_journal(&text))
}

fn parse_journal(text: &str) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    let mut places = HashMap::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["commit", key, version, sent, returned] => {
                let commit = (|| {
                    let (version, sent, returned) =
                        (version.parse().ok()?, sent.parse().ok()?, returned.parse().ok()?);
                    Some(Commit { key: Key::parse(key)?, version, sent, returned, deleted: None })
                })();
                if let Some(commit) = commit {
                    places.insert((commit.key, commit.version), commits.len());
                    commits.push(commit);
                }
            }
            ["del", key, version, outcome] => {
                let place = Key::parse(key).zip(version.parse().ok()).and_then(|id| places.get(&id));
                if let Some(commit) = place.and_then(|place| commits.get_mut(*place)) {
                    commit.deleted = Some(outcome == "done");
                }
            }
            _ => {}
        }
    }
    commits
}

/// A time in which something was down on purpose; Unix microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Window {
    /// Whether `micros` lies in it, or so close that what was down may not be back at work yet: half a second before
    /// (the removal comes after the commit), and the 2 s of the longest backoff of the daemon's reconnect after.
    fn touches(self, micros: u64) -> bool {
        (self.from.saturating_sub(500_000)..=self.to + 2_500_000).contains(&micros)
    }

    pub(crate) fn holds(self, micros: u64) -> bool {
        (self.from..=self.to).contains(&micros)
    }
}

/// p50, p99 and maximum, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) of: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Quantiles {
    fn new(mut micros: Vec<u64>) -> Option<Self> {
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        // The value that at least p percent do not exceed.
        let at = |percent: usize| {
            let place = (micros.len() * percent).div_ceil(100).saturating_sub(1);
            millis(micros[place.min(last)])
        };
        Some(Self { of: micros.len(), p50_ms: at(50), p99_ms: at(99), max_ms: at(100) })
    }
}

/// Microseconds as milliseconds.
#[allow(clippy::cast_precision_loss, reason = "a run takes seconds")]
pub(crate) fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// From the commit to the removal of its key.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Delays {
    /// All commits whose key has no other commit near.
    pub(crate) first: Option<Quantiles>,
    /// Of these, the ones made while nothing was down.
    pub(crate) first_while_all_up: Option<Quantiles>,
    /// The daemon's second removal.
    pub(crate) second: Option<Quantiles>,
    /// Commits, of all, after which the key was never removed.
    pub(crate) never: usize,
}

/// Measures removals by `command`.
///
/// The commit's time is when the application had its answer. A removal counts from the moment on at which the UPDATE
/// was *sent*: the server hands the commit to replicas before it answers, so rowbust can be faster than the answer,
/// and that counts as no delay. The application itself removes after the answer.
pub(crate) fn delays(commits: &[Commit], history: &History, command: Command, windows: &[Window]) -> Delays {
    let mut by_key: HashMap<Key, Vec<u64>> = HashMap::new();
    for commit in commits {
        by_key.entry(commit.key).or_default().push(commit.returned);
    }
    let alone = |commit: &Commit| {
        by_key[&commit.key].iter().all(|at| *at == commit.returned || at.abs_diff(commit.returned) > APART)
    };
    let (mut first, mut calm, mut second, mut never) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for commit in commits {
        let removals = history.of(commit.key).iter().filter(|seen| seen.command == command);
        let mut removals = removals.map(|seen| seen.micros).filter(|at| *at >= commit.sent);
        let Some(removed) = removals.next() else {
            never += 1;
            continue;
        };
        if !alone(commit) {
            continue;
        }
        let delay = removed.saturating_sub(commit.returned);
        first.push(delay);
        if !windows.iter().any(|window| window.touches(commit.returned)) {
            calm.push(delay);
        }
        // One removal that comes so late does as both.
        if let Some(at) = std::iter::once(removed).chain(removals).find(|at| *at >= commit.sent + FILL_GRACE)
        {
            second.push(at.saturating_sub(commit.returned));
        }
    }
    Delays {
        first: Quantiles::new(first),
        first_while_all_up: Quantiles::new(calm),
        second: Quantiles::new(second).filter(|_| command == Command::Unlink),
        never,
    }
}

/// Why keys are stale, by what became of the DEL of their last commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Causes {
    /// The DEL failed: Redis was down.
    pub(crate) del_failed: usize,
    /// The application was killed between its UPDATE and its DEL.
    pub(crate) killed_before_del: usize,
    /// The DEL worked: a reader that had read the old row before put it back after.
    pub(crate) late_fill: usize,
}

/// Sorts stale keys by cause.
pub(crate) fn causes(stale: &[Key], commits: &[Commit]) -> Causes {
    let mut last: HashMap<Key, &Commit> = HashMap::new();
    for commit in commits {
        let newest = last.entry(commit.key).or_insert(commit);
        if commit.version > newest.version {
            *newest = commit;
        }
    }
    let mut causes = Causes::default();
    for key in stale {
        match last.get(key).map(|commit| commit.deleted) {
            Some(Some(true)) => causes.late_fill += 1,
            Some(Some(false)) => causes.del_failed += 1,
            // No line at all: killed after the commit, before the journal.
            Some(None) | None => causes.killed_before_del += 1,
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::monitor::Seen;
    use super::super::shop::Table;
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn key(id: u32) -> Key {
        Key { table: Table::Products, id }
    }

    fn commit(id: u32, version: u64, returned: u64) -> Commit {
        Commit { key: key(id), version, sent: returned - 2000, returned, deleted: Some(true) }
    }

    fn history(removals: &[(u32, u64)]) -> History {
        let mut history = History::default();
        for (id, micros) in removals {
            history.add(key(*id), Seen { micros: *micros, command: Command::Unlink });
        }
        history
    }

    #[test]
    fn journal_with_a_cut_line() {
        let text = "commit product:1 2 10 20\ncommit product:3 7 11 21\ndel product:1 2 done\ndel product:3 7 failed\n\
                    commit product:1 3 30 40\ncommit product:9 4 50 6";
        let commits = parse_journal(text);
        let deleted: Vec<_> = commits.iter().map(|c| (c.key.id, c.version, c.deleted)).collect();
        assert_eq!(deleted, [(1, 2, Some(true)), (3, 7, Some(false)), (1, 3, None)]);
        assert_eq!((commits[0].sent, commits[0].returned), (10, 20));
    }

    #[test]
    fn first_and_second_removal() {
        let t = 100 * SECOND;
        let commits = [commit(1, 2, t), commit(2, 2, t), commit(3, 2, t)];
        // 1: both removals; 2: before the application had its answer, and again; 3: never.
        let removals =
            [(1, t - 9 * SECOND), (1, t + 3000), (1, t + SECOND + 5000), (2, t - 1000), (2, t + SECOND)];
        let delays = delays(&commits, &history(&removals), Command::Unlink, &[]);
        assert_eq!(delays.never, 1);
        let first = delays.first.unwrap();
        assert_eq!((first.of, first.p50_ms, first.max_ms), (2, 0.0, 3.0));
        let second = delays.second.unwrap();
        assert_eq!((second.of, second.p50_ms, second.max_ms), (2, 1000.0, 1005.0));
    }

    #[test]
    fn commits_close_to_another_are_not_measured() {
        let t = 100 * SECOND;
        let commits = [commit(1, 2, t), commit(1, 3, t + SECOND)];
        let delays = delays(&commits, &history(&[(1, t + SECOND + 100)]), Command::Unlink, &[]);
        assert_eq!((delays.first, delays.never), (None, 0));
    }

    #[test]
    fn outages_are_told_apart() {
        let t = 100 * SECOND;
        let window = Window { from: t - SECOND, to: t };
        let delays =
            delays(&[commit(1, 2, t - 1)], &history(&[(1, t + 10 * SECOND)]), Command::Unlink, &[window]);
        assert_eq!(delays.first.unwrap().of, 1);
        assert_eq!(delays.first_while_all_up, None);
        // So late a removal does as both.
        assert_eq!(delays.second.unwrap().max_ms, 10_000.001);
    }

    #[test]
    fn quantiles() {
        assert_eq!(Quantiles::new(vec![]), None);
        let q = Quantiles::new((1..=1000).map(|n| n * 1000).collect()).unwrap();
        assert_eq!((q.of, q.p50_ms, q.p99_ms, q.max_ms), (1000, 500.0, 990.0, 1000.0));
    }

    #[test]
    fn the_last_commit_tells_the_cause() {
        let failed = Commit { deleted: Some(false), ..commit(1, 2, SECOND) };
        let killed = Commit { deleted: None, ..commit(2, 9, SECOND) };
        let commits = [failed, commit(2, 8, SECOND), killed, commit(3, 1, SECOND)];
        let found = causes(&[key(1), key(2), key(3)], &commits);
        assert_eq!(found, Causes { del_failed: 1, killed_before_del: 1, late_fill: 1 });
    }
}
