//! One HTML file that shows a comparison, and each of its plots as SVG.
//!
//! Guarantees: the page asks nobody for anything and reads without a network; it holds all of the summary that a person would compare,
//! as table too; names from the summary are text and never markup. May depend on [`crate::summary`].

use std::{collections::BTreeSet, fmt::Write as _};

use crate::summary::{Run, Summary};

mod chart;
mod plots;
mod scale;
#[cfg(test)]
mod tests;

use chart::{Chart, classes, escape};
use scale::{duration, number};

/// The strategy that has to be right: its line is the thick one.
const OURS: &str = "guarded";
const CHART_CSS: &str = include_str!("chart.css");
const PAGE_CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A file of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Without folder.
    pub name: String,
    /// All of it.
    pub content: String,
}

/// The report: `report.html`, and an SVG per plot and workload.
pub fn render(summary: &Summary) -> Vec<File> {
    let names = names(summary);
    let mut page = head(summary);
    legend(&names, &mut page);
    let mut files = Vec::new();
    for workload in summary.runs.iter().map(|run| run.workload.as_str()).collect::<BTreeSet<_>>() {
        let runs: Vec<_> = summary.runs.iter().filter(|run| run.workload == workload).collect();
        let _ = write!(page, "<section><h2>{}</h2>", escape(workload));
        table(&runs, &mut page);
        for chart in plots::all(&runs, &names) {
            // A page may show one chart for several workloads, but an id only once.
            let inline = chart.svg(false).replace(
                &format!("{}-title", chart.id),
                &format!("{}-{}-title", chart.id, file_name(workload)),
            );
            let _ = write!(page, "<figure>{inline}<figcaption>{}</figcaption></figure>", escape(chart.title));
            files.push(File {
                name: format!("{}-{}.svg", file_name(workload), chart.id),
                content: chart.svg(true),
            });
        }
        page.push_str("</section>");
    }
    let _ = writeln!(page, "</main><script>{SCRIPT}</script></body></html>");
    files.insert(0, File { name: "report.html".into(), content: page });
    files
}

/// Strategies in the order in which they came; a strategy's place is its colour everywhere.
fn names(summary: &Summary) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in &summary.runs {
        if !names.contains(&run.strategy) {
            names.push(run.strategy.clone());
        }
    }
    names
}

/// Letters, digits and hyphens of it.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn head(summary: &Summary) -> String {
    let environment = &summary.environment;
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"><title>rowbust lab: strategies compared</title><style>{PAGE_CSS}{CHART_CSS}</style></head><body><main><h1>Cache strategies, compared</h1><dl>"
    );
    let cores = environment.cores.to_string();
    let seed = environment.seed.to_string();
    for (name, value) in [
        ("database", environment.database.as_str()),
        ("Redis", &environment.redis),
        ("processors", &cores),
        ("seed", &seed),
        ("command", &environment.command),
    ] {
        let _ = write!(page, "<dt>{name}</dt><dd>{}</dd>", escape(value));
    }
    page.push_str("</dl>");
    page
}

fn legend(names: &[String], page: &mut String) {
    page.push_str("<fieldset><legend>strategies</legend>");
    for (number, name) in names.iter().enumerate() {
        let _ = write!(
            page,
            "<label><input type=\"checkbox\" value=\"{number}\" checked><svg viewBox=\"0 0 26 12\" aria-hidden=\"true\"><g class=\"{}\"><polyline points=\"0,6 26,6\"/></g></svg>{}</label>",
            classes(name, number),
            escape(name),
        );
    }
    page.push_str("</fieldset>");
}

fn table(runs: &[&Run], page: &mut String) {
    page.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"figures\"><table><thead><tr>",
    );
    for head in [
        "strategy",
        "stale for good",
        "stale reads",
        "staleness p99",
        "longest",
        "nines after 1 s",
        "hits",
        "operations/s",
        "read p99",
        "write p99",
    ] {
        let _ = write!(page, "<th scope=\"col\">{head}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for run in runs {
        row(run, page);
    }
    page.push_str("</tbody></table></div>");
    for run in runs {
        if let Some(why) = &run.void {
            let _ = write!(page, "<p class=\"bad\">{}: void: {}</p>", escape(&run.strategy), escape(why));
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(run: &Run, page: &mut String) {
    let report = &run.report;
    let forever = report.permanently_stale.len();
    let mark = match (run.void.is_some(), forever) {
        (true, _) => "",
        (false, 0) => " class=\"good\"",
        (false, _) => " class=\"bad\"",
    };
    let after_a_second = report.nines.iter().find(|nines| nines.after == 1_000_000_000);
    let nines = match after_a_second.map(|n| (n.nines, n.at_most)) {
        Some((Some(nines), _)) => number(nines),
        // The bound by the rule of three.
        Some((None, Some(share))) => format!("> {}", number(-share.log10())),
        _ => "–".into(),
    };
    let percent = |part: f64| format!("{} %", number(part * 100.0));
    let quantile = |count: u64, nanos: u64| if count == 0 { "–".into() } else { duration(nanos as f64) };
    let hits = if report.reads == 0 { 0.0 } else { report.hits as f64 / report.reads as f64 };
    let _ = write!(page, "<tr><th scope=\"row\">{}</th><td{mark}>{forever}</td>", escape(&run.strategy));
    for cell in [
        percent(run.stale_ratio()),
        quantile(report.staleness.count, report.staleness.p99),
        quantile(report.staleness.count, report.staleness.max),
        nines,
        percent(hits),
        number(run.throughput()),
        quantile(report.read_latency.count, report.read_latency.p99),
        quantile(report.write_latency.count, report.write_latency.p99),
    ] {
        let _ = write!(page, "<td>{cell}</td>");
    }
    page.push_str("</tr>");
}
