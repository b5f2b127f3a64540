//! `rowbust check --live`: the report, drawn.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::ProgressBar;
use serde_json::json;

use super::{CheckArgs, Exit, Global, block_on, out};
use crate::{
    config::Config,
    live::{self, Line, Mark, Report, Verdict, Waiting},
};

/// Between two looks at who is still asked.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn execute(global: &Global, args: &CheckArgs, config: &Config) -> Exit {
    let waiting = Waiting::default();
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let asked = block_on(async {
        let report = live::run(config, &waiting);
        tokio::pin!(report);
        loop {
            tokio::select! {
                report = &mut report => return report,
                () = tokio::time::sleep(LOOK) => {
                    if let Some(bar) = &bar {
                        bar.set_message(format!("asking {}", waiting.titles().join("; ")));
                        bar.tick();
                    }
                }
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = match asked {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    let exit = match report.verdict(args.strict) {
        Verdict::Good => Exit::Ok,
        Verdict::Unreachable => Exit::Unavailable,
        Verdict::Wrong => Exit::Config,
    };
    let file = global.config.display().to_string();
    if global.json {
        let mut data =
            json!({ "schema_version": 1, "ok": exit == Exit::Ok, "exit_code": exit.code(), "file": file });
        if let (Some(data), serde_json::Value::Object(found)) = (data.as_object_mut(), report.to_json()) {
            data.extend(found);
        }
        out::json(&data);
    } else {
        let color = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        out::stdout(&text(&report, color));
    }
    exit
}

fn text(report: &Report, color: bool) -> String {
    let mut out = String::new();
    let what = |line: &Line| line.code.split_once('.').map_or(line.code, |(_, what)| what);
    let width = report.lines().map(|line| what(line).len()).max().unwrap_or(0);
    for group in &report.groups {
        out.push_str(&format!("{}\n", out::key(group.title.as_bytes())));
        for line in &group.lines {
            let mut texts = line.text.lines();
            let first = out::key(texts.next().unwrap_or_default().as_bytes());
            out.push_str(&format!("  {} {:width$}  {first}\n", mark(line.mark, color), what(line)));
            for more in texts {
                out.push_str(&format!("  {:10} {:width$}  {}\n", "", "", out::key(more.as_bytes())));
            }
            for help in line.help.iter().flat_map(|help| help.lines()) {
                out.push_str(&format!("  {:10} -> {}\n", "", out::key(help.as_bytes())));
            }
        }
        out.push('\n');
    }
    let count = |mark| report.count(mark);
    out.push_str(&format!(
        "{} ok, {} warnings, {} errors, {} not tested\n",
        count(Mark::Ok),
        count(Mark::Warning),
        count(Mark::Error),
        count(Mark::NotTested)
    ));
    out
}

fn mark(mark: Mark, color: bool) -> String {
    let (word, code) = match mark {
        Mark::Ok => ("ok", 32),
        Mark::Warning => ("warning", 33),
        Mark::Error => ("error", 31),
        Mark::NotTested => ("not tested", 36),
    };
    if color { format!("\x1b[{code}m{word:10}\x1b[0m") } else { format!("{word:10}") }
}
