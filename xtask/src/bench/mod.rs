//! `cargo xtask bench`: speed and memory on real servers, beside the bars that they must meet and the absolute figures of
//! what limits them.
//!
//! All on one machine: database, Redis and daemon share its cores, so runs that are compared take turns, medians and
//! ratios are given, and processor time where the bar is in processor time. Results go to `target/bench/*.json` too.

mod compare;
mod daemon;
mod data;
mod decode;
mod drain;
mod env;
mod latency;
mod live;
mod memory;
mod redis_wire;
mod replica;
mod stream;

use std::fs;

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets};
use serde::Serialize;

use env::Bench;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// MySQL in place of MariaDB.
    #[arg(long)]
    mysql: bool,
    /// A tenth of the work and one round: shows that it works, the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit 1 if a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Make the backlogs anew in place of those kept in `target/bench/`.
    #[arg(long)]
    fresh: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Processor time of decoding.
    Decode,
    /// Processor time of the stream, from the socket on.
    Stream,
    /// Processor time of decoding beside other libraries; not part of `all`, as they must be built first.
    Compare,
    /// Rate of draining a backlog.
    Drain,
    /// Following writes as fast as the server takes them.
    Live,
    /// From commit to first removal.
    Latency,
    /// Peak memory in a drain and in one huge transaction.
    Memory,
    /// Everything.
    All,
}

/// A figure with the bar that it must meet.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bar {
    name: String,
    figure: f64,
    unit: &'static str,
    bar: f64,
    /// `at most` or `at least`.
    sense: &'static str,
    met: bool,
}

/// A figure by itself: what a bar is measured against, or what the profile of a run is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: String,
    figure: f64,
    unit: &'static str,
}

/// The result of one measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    schema_version: u32,
    name: &'static str,
    server: String,
    cores: usize,
    /// Of the last minute, when the measurement ended: other work on the machine shows here.
    load_average: f64,
    quick: bool,
    bars: Vec<Bar>,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Section {
    fn new(name: &'static str, bench: &Bench, server: String) -> Self {
        Self {
            schema_version: 1,
            name,
            server,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            load_average: 0.0,
            quick: bench.quick,
            bars: Vec::new(),
            figures: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn at_most(&mut self, name: impl Into<String>, figure: f64, bar: f64, unit: &'static str) {
        let met = figure <= bar;
        self.bars.push(Bar { name: name.into(), figure, unit, bar, sense: "at most", met });
    }

    fn at_least(&mut self, name: impl Into<String>, figure: f64, bar: f64, unit: &'static str) {
        let met = figure >= bar;
        self.bars.push(Bar { name: name.into(), figure, unit, bar, sense: "at least", met });
    }

    fn figure(&mut self, name: impl Into<String>, figure: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), figure, unit });
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// One measurement of the command line.
type Measurement = fn(&Bench) -> Result<Section>;

pub(crate) fn run(args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        bail!("a debug build measures nothing: please run it as `cargo xtask bench`");
    }
    let bench = Bench::new(args.mysql, args.quick, args.fresh)?;
    let wants = |what| args.what == What::All && what != What::Compare || args.what == what;
    let mut sections: Vec<Section> = Vec::new();
    let measurements: [(What, Measurement); 7] = [
        (What::Decode, decode::run),
        (What::Stream, stream::run),
        (What::Compare, compare::run),
        (What::Drain, drain::run),
        (What::Live, live::run),
        (What::Latency, latency::run),
        (What::Memory, memory::run),
    ];
    for (_, measure) in measurements.iter().filter(|(what, _)| wants(*what)) {
        let mut section = measure(&bench)?;
        section.load_average = env::load_average();
        let file = bench.home.join(format!("{}-{}.json", section.name, bench.flavor_name()));
        fs::write(&file, serde_json::to_vec_pretty(&section)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        if !args.json {
            print(&section);
        }
        sections.push(section);
    }
    if args.json {
        print_json(&sections)?;
    }
    let missed = sections.iter().flat_map(|s| &s.bars).filter(|b| !b.met).count();
    if missed > 0 {
        eprintln!("{missed} bars missed");
        if args.strict {
            bail!("{missed} bars missed");
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the command's result")]
fn print_json(sections: &[Section]) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(sections)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the command's result")]
fn print(section: &Section) {
    let Section { name, server, cores, load_average, .. } = section;
    println!("\n{name}: {server}, {cores} cores, load {load_average:.1}");
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "figure", "bar", ""]);
    for bar in &section.bars {
        let Bar { name, figure, unit, bar, sense, met } = bar;
        let verdict = if *met {
            "met".to_owned()
        } else {
            format!("missed by {:.0} %", (figure - bar).abs() / bar * 100.0)
        };
        table.add_row([
            name.clone(),
            amount(*figure, unit),
            format!("{sense} {}", amount(*bar, unit)),
            verdict,
        ]);
    }
    for figure in &section.figures {
        table.add_row([
            figure.name.clone(),
            amount(figure.figure, figure.unit),
            String::new(),
            String::new(),
        ]);
    }
    println!("{table}");
    for note in &section.notes {
        println!("{note}");
    }
}

/// Three digits that count.
fn amount(figure: f64, unit: &str) -> String {
    let digits = match figure.abs() {
        f if f >= 100.0 => 0,
        f if f >= 10.0 => 1,
        f if f >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.digits$} {unit}").trim_end().to_owned()
}
