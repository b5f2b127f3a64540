//! One HTML file that shows a comparison, and each of its plots as SVG and PNG.
//!
//! ```
//! use rowbust_lab::{
//!     report,
//!     summary::{Environment, FORMAT, Summary},
//! };
//! let environment = Environment {
//!     seed: 1,
//!     database: "MariaDB 10.11".to_owned(),
//!     redis: "Redis 7.0".to_owned(),
//!     cores: 2,
//!     command: "rowbust lab compare".to_owned(),
//! };
//! let folder = tempfile::tempdir()?;
//! let files = report::write(&Summary { format: FORMAT, environment, runs: Vec::new() }, folder.path())?;
//! assert_eq!(files[0], folder.path().join("report.html"));
//! assert!(std::fs::read_to_string(&files[0])?.contains("MariaDB 10.11"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Guarantees: the page asks nobody for anything and reads without a network; it holds all of the summary that a person would compare,
//! as table too; names from the summary are text and never markup. May depend on [`crate::summary`].

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use crate::summary::{Removal, Run, Summary};

mod chart;
#[cfg(feature = "png")]
mod picture;
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
struct File {
    /// Without folder.
    name: String,
    /// All of it.
    content: String,
}

/// What can't be written.
///
/// ```no_run
/// use rowbust_lab::{
///     report::{self, ReportError},
///     summary::Summary,
/// };
/// let summary = Summary::load("lab/summary.json".as_ref())?;
/// match report::write(&summary, "/srv/www/lab".as_ref()) {
///     Err(ReportError::File { path, source }) => eprintln!("{}: {source}", path.display()),
///     written => println!("{} files", written?.len()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A plot can't be made pixels of: a mistake of this program.
    #[cfg(feature = "png")]
    #[error("{name} can't be drawn: {why}")]
    Picture {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Writes the report into a folder, which is made if need be: `report.html`, and each plot as SVG and, with the feature `png`, a default,
/// as PNG for light and for dark paper. Gives their paths, the page's first.
///
/// # Errors
/// See [`ReportError`].
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use rowbust_lab::{report, summary::Summary};
/// let summary = Summary::load("lab/summary.json".as_ref())?;
/// println!("{}", report::write(&summary, "lab".as_ref())?[0].display());
/// # Ok(()) }
/// ```
pub fn write(summary: &Summary, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| ReportError::File { path, source }
    };
    fs::create_dir_all(folder).map_err(file(folder))?;
    let mut paths = Vec::new();
    for File { name, content } in render(summary) {
        let path = folder.join(&name);
        fs::write(&path, &content).map_err(file(&path))?;
        paths.push(path);
        #[cfg(feature = "png")]
        if let Some(name) = name.strip_suffix(".svg") {
            for (scheme, ending) in [(picture::Scheme::Light, ""), (picture::Scheme::Dark, "-dark")] {
                let path = folder.join(format!("{name}{ending}.png"));
                let png = picture::png(&content, scheme)
                    .map_err(|why| ReportError::Picture { name: name.to_owned(), why })?;
                fs::write(&path, png).map_err(file(&path))?;
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// The report: `report.html`, and an SVG per plot, workload and set of faults. The same summary makes the same bytes.
fn render(summary: &Summary) -> Vec<File> {
    let names = names(summary);
    let mut page = head(summary);
    legend(&names, &mut page);
    let mut files = Vec::new();
    for title in summary.runs.iter().map(title).collect::<BTreeSet<_>>() {
        let runs: Vec<_> = summary.runs.iter().filter(|run| self::title(run) == title).collect();
        let _ = write!(page, "<section><h2>{}</h2>", escape(&title));
        let name = file_name(&title);
        table(&runs, &mut page);
        for chart in plots::all(&runs, &names) {
            // A page may show one chart for several workloads, but an id only once.
            let id = format!("{}-title", chart.id);
            let inline = chart.svg(false).replace(&id, &format!("{name}-{id}"));
            let _ = write!(
                page,
                "<figure><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">{inline}</div><figcaption>{0}</figcaption></figure>",
                escape(chart.title)
            );
            files.push(File { name: format!("{name}-{}.svg", chart.id), content: chart.svg(true) });
        }
        page.push_str("</section>");
    }
    let _ = writeln!(page, "</main><script>{SCRIPT}</script></body></html>");
    files.insert(0, File { name: "report.html".into(), content: page });
    files
}

/// Runs that may be compared have one: the workload and what was done to it.
fn title(run: &Run) -> String {
    match run.fault.as_str() {
        "" | "none" => run.workload.clone(),
        fault => format!("{}, {}", run.workload, fault.replace('+', ", ")),
    }
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

/// Letters and digits of it, with hyphens between; not for ever.
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name: String = words.collect::<Vec<_>>().join("-").to_ascii_lowercase().chars().take(100).collect();
    if name.is_empty() { "run".into() } else { name }
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
        "absent",
        "stale reads",
        "staleness p50",
        "p99",
        "longest",
        "nines after 1 s",
        "own write missed",
        "went back",
        "hits",
        "operations/s",
        "read p50",
        "p99",
        "write p50",
        "p99",
        "loads",
        "fills refused",
        "waits",
        "first removal p99",
        "second removal p99",
    ] {
        let _ = write!(page, "<th scope=\"col\">{head}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for run in runs {
        row(run, page);
    }
    page.push_str("</tbody></table></div>");
    let struck: Vec<&Run> = runs.iter().copied().filter(|run| !run.struck.is_empty()).collect();
    if !struck.is_empty() {
        page.push_str("<details><summary>How often each fault struck</summary><ul>");
        for run in struck {
            let times: Vec<String> =
                run.struck.iter().map(|(fault, times)| format!("{fault} {times}")).collect();
            let _ = write!(page, "<li>{}: {}</li>", escape(&run.strategy), escape(&times.join(", ")));
        }
        page.push_str("</ul></details>");
    }
    for run in runs {
        if let Some(why) = &run.void {
            let _ = write!(page, "<p class=\"bad\">{}: void: {}</p>", escape(&run.strategy), escape(why));
        }
    }
}

/// Each figure with what it was in the summary, for programs that read the page.
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
        Some((Some(nines), _)) => (nines.to_string(), number(nines)),
        // The bound by the rule of three.
        Some((None, Some(share))) => (share.to_string(), format!("> {}", number(-share.log10()))),
        _ => (String::new(), "–".into()),
    };
    let percent = |part: f64| (part.to_string(), format!("{} %", number(part * 100.0)));
    let count = |n: u64| (n.to_string(), n.to_string());
    let quantile = |count: u64, nanos: u64| match count {
        0 => (String::new(), "–".into()),
        _ => (nanos.to_string(), duration(nanos as f64)),
    };
    let hits = if report.reads == 0 { 0.0 } else { report.hits as f64 / report.reads as f64 };
    // Of a histogram: at most this.
    let removal = |removal: &Option<Removal>| match removal {
        None => (String::new(), "–".into()),
        Some(removal) => match removal.p99 {
            Some(p99) => (p99.to_string(), format!("≤ {}", duration(p99 * 1e9))),
            None => (String::new(), "longer".into()),
        },
    };
    let measures = &run.measures;
    let (stale, reads, writes) = (&report.staleness, &report.read_latency, &report.write_latency);
    let _ = write!(
        page,
        "<tr><th scope=\"row\">{}</th><td{mark}><data value=\"{forever}\">{forever}</data></td>",
        escape(&run.strategy)
    );
    for (value, text) in [
        count(report.absent),
        percent(run.stale_ratio()),
        quantile(stale.count, stale.p50),
        quantile(stale.count, stale.p99),
        quantile(stale.count, stale.max),
        nines,
        count(report.own_write_missed),
        count(report.went_back),
        percent(hits),
        (run.throughput().to_string(), number(run.throughput())),
        quantile(reads.count, reads.p50),
        quantile(reads.count, reads.p99),
        quantile(writes.count, writes.p50),
        quantile(writes.count, writes.p99),
        count(measures.database_reads),
        count(measures.refused_fills),
        count(measures.lock_waits),
        removal(&measures.first_removal),
        removal(&measures.second_removal),
    ] {
        let _ = write!(page, "<td><data value=\"{value}\">{}</data></td>", escape(&text));
    }
    page.push_str("</tr>");
}
