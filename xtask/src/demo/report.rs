//! What both runs gave: a table, the story of a key, or JSON.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::app::Totals;
use super::commits::{Causes, Delays, Quantiles, causes, delays};
use super::live::grouped;
use super::monitor::Command;
use super::run::Outcome;
use super::shop::Size;
use super::story::{Story, stories};

/// Everything that is reported; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema_version: u32,
    pub(crate) servers: String,
    pub(crate) retry_queue: &'static str,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) operations_per_second: u32,
    pub(crate) shop: Size,
    pub(crate) without: Run,
    pub(crate) with: Run,
    pub(crate) stories: Vec<Story>,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    application: Totals,
    /// Commits in the application's journal.
    writes: u64,
    dels_failed: u64,
    /// Keys named by the application's DELs, as Redis saw them.
    keys_removed_by_application: u64,
    /// Keys named by the daemon's UNLINKs, as Redis saw them.
    keys_removed_by_rowbust: u64,
    /// By the daemon; without it by the application.
    commit_to_removal: Delays,
    seconds_to_quiescence: f64,
    cached: u64,
    pub(crate) stale: u64,
    stale_causes: Causes,
    absent: u64,
    daemon_peak_rss_bytes: Option<u64>,
}

impl Run {
    pub(crate) fn new(outcome: &Outcome, with: bool) -> Self {
        let remover = if with { Command::Unlink } else { Command::Del };
        let Outcome { totals, commits, history, compared, .. } = outcome;
        Self {
            application: *totals,
            writes: commits.len() as u64,
            dels_failed: commits.iter().filter(|commit| commit.deleted == Some(false)).count() as u64,
            keys_removed_by_application: history.count(Command::Del),
            keys_removed_by_rowbust: history.count(Command::Unlink),
            commit_to_removal: delays(commits, history, remover, &outcome.windows()),
            seconds_to_quiescence: outcome.quiet_after.as_secs_f64(),
            cached: compared.cached,
            stale: compared.stale.len() as u64,
            stale_causes: causes(&compared.stale, commits),
            absent: compared.absent,
            daemon_peak_rss_bytes: outcome.peak_rss,
        }
    }
}

/// Stories of the run with the daemon.
pub(crate) fn stories_of(outcome: &Outcome) -> Vec<Story> {
    stories(&outcome.commits, &outcome.history, outcome.outage, outcome.restart)
}

impl Report {
    /// Table, causes and stories as text.
    pub(crate) fn text(&self, took: Duration) -> String {
        let mut text = format!("{}\n", self.table());
        let causes = self.without.stale_causes;
        text += &format!(
            "\nStale without rowbust: {} whose DEL failed while Redis was down, {} whose writer was killed between UPDATE\n\
             and DEL, {} put back by a reader that had read the old row.\n\
             Delays are of keys with no other commit within 5 s ({} and {} commits), seen by Redis' MONITOR; without\n\
             rowbust they are the application's own.\n",
            causes.del_failed,
            causes.killed_before_del,
            causes.late_fill,
            measured(&self.without),
            measured(&self.with),
        );
        for story in &self.stories {
            text += &format!("\n{}: {}\n", story.key, story.title);
            for line in &story.lines {
                text += &format!("  {:+12.1} ms  {}\n", line.ms, line.what);
            }
        }
        text + &format!(
            "\n{}; {} s each, at most {} operations/s, seed {}; all in {:.0} s.\n",
            self.servers,
            self.seconds,
            grouped(self.operations_per_second.into()),
            self.seed,
            took.as_secs_f64()
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "without rowbust", "with rowbust"]);
        let mut row = |name: &str, value: &dyn Fn(&Run) -> String| {
            table.add_row([name.to_owned(), value(&self.without), value(&self.with)]);
        };
        row("reads", &|run| grouped(run.application.reads));
        row("  served by the cache", &|run| {
            format!("{} %", run.application.hits * 100 / run.application.reads.max(1))
        });
        row("writes", &|run| grouped(run.writes));
        row("the application's DELs that failed", &|run| grouped(run.dels_failed));
        row("keys removed by the application", &|run| grouped(run.keys_removed_by_application));
        row("keys removed by rowbust", &|run| grouped(run.keys_removed_by_rowbust));
        row("commit → removal, p50/p99/max", &|run| shown(run.commit_to_removal.first));
        row("  while all was up", &|run| shown(run.commit_to_removal.first_while_all_up));
        row("commit → second removal", &|run| shown(run.commit_to_removal.second));
        row("commits never followed by a removal", &|run| grouped(run.commit_to_removal.never as u64));
        row("quiescence after the last write", &|run| format!("{:.1} s", run.seconds_to_quiescence));
        row("cached keys compared", &|run| grouped(run.cached));
        row("STALE keys", &|run| grouped(run.stale));
        row("absent keys", &|run| grouped(run.absent));
        row("peak memory of rowbust", &|run| {
            run.daemon_peak_rss_bytes.map_or("–".into(), |bytes| format!("{} MiB", bytes.div_ceil(1 << 20)))
        });
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn measured(run: &Run) -> String {
    grouped(run.commit_to_removal.first.map_or(0, |quantiles| quantiles.of as u64))
}

fn shown(quantiles: Option<Quantiles>) -> String {
    let Some(Quantiles { p50_ms, p99_ms, max_ms, .. }) = quantiles else { return "–".into() };
    format!("{} / {} / {}", time(p50_ms), time(p99_ms), time(max_ms))
}

fn time(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!([0.04, 12.34, 999.0, 12_345.0].map(time), ["0.04 ms", "12 ms", "999 ms", "12.35 s"]);
        assert_eq!(shown(None), "–");
    }
}
