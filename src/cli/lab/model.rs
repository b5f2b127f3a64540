//! `rowbust lab model`

use std::{
    io::IsTerminal as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use rowbust_lab::model::{self, Case, Condition, Limits, Mutant, NAMES, Outcome, Progress, Property};
use serde_json::json;

use super::{
    super::{Exit, Global, out},
    unknown,
};

/// Arguments of `rowbust lab model`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exits with 0 if every state was visited and nothing was found, with 99 if a trace was found, with 1 if a bound cut the search
before it could tell. With `--strategy all`, the default, and with `--mutant all`: 0 if all came out as expected, else 99. No server is
needed, and no config.

Examples:
  rowbust lab model                                        every strategy in every set-up (minutes)
  rowbust lab model --strategy cache-aside                 its default set-up, and how a value gets stale for good
  rowbust lab model --strategy guarded --setup crash --readers 3
  rowbust lab model --mutant second-before-visibility      what happens if a sentence of the protocol is left out
  rowbust lab model --list"
)]
pub struct ModelArgs {
    /// Strategy to explore, or `all`
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub strategy: String,
    /// Set-up of the strategy, or `all`; without it the first (of `--strategy all`: all)
    #[arg(long, value_name = "NAME")]
    pub setup: Option<String>,
    /// Leave a sentence of the guarded protocol out, or `all`, one after the other
    #[arg(long, value_name = "NAME", conflicts_with_all = ["strategy", "setup"])]
    pub mutant: Option<String>,
    /// List strategies, set-ups, conditions and mutants, and explore nothing
    #[arg(long)]
    pub list: bool,
    /// Processes that read [default: the set-up's]
    #[arg(long, value_name = "N")]
    pub readers: Option<u8>,
    /// Processes that write [default: the set-up's]
    #[arg(long, value_name = "N")]
    pub writers: Option<u8>,
    /// Writes in all [default: the set-up's]
    #[arg(long, value_name = "N")]
    pub writes: Option<u8>,
    /// Keys [default: the set-up's]
    #[arg(long, value_name = "N")]
    pub keys: Option<u8>,
    /// Conditions to add
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub with: Vec<String>,
    /// Conditions to take away
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub without: Vec<String>,
    /// Look no further than this many steps from the start; 0: no bound
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    pub depth: usize,
    /// Stop at this many states; a million takes up to half a gigabyte
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    pub max_states: usize,
    /// Threads [default: the machine's, at most 8]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// What to explore.
struct Plan {
    cases: Vec<Case>,
    /// A table of all, judged by what is expected.
    matrix: bool,
    /// Flags changed the set-ups: what they say of their outcome holds no longer.
    changed: bool,
}

pub(super) fn execute(global: &Global, args: &ModelArgs) -> Exit {
    if args.list {
        list(global);
        return Exit::Ok;
    }
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(message) => {
            out::complain(&message);
            return Exit::Usage;
        }
    };
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(8)))
        .clamp(1, 64);
    let limits = Limits { threads, depth: args.depth, states: args.max_states };
    let outcomes = match explore(&plan, limits) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            out::complain(&error.to_string());
            return match error {
                model::CheckError::Setup(_) => Exit::Usage,
                model::CheckError::Panicked { .. } => Exit::Failure,
            };
        }
    };
    if global.json {
        let cases: Vec<_> = outcomes.iter().map(|outcome| outcome.to_json(!plan.changed)).collect();
        out::json(&json!({ "schema_version": 1, "outcomes": cases }));
    } else if plan.matrix {
        out::stdout(&matrix(&plan, &outcomes));
    } else {
        outcomes.iter().for_each(|outcome| out::stdout(&single(outcome)));
    }
    judge(&plan, &outcomes)
}

fn judge(plan: &Plan, outcomes: &[Outcome]) -> Exit {
    let (failed, cut) = match plan.matrix && !plan.changed {
        true => (
            outcomes.iter().any(Outcome::contradicts),
            outcomes.iter().any(|outcome| outcome.cut.is_some() && !outcome.is_expected()),
        ),
        false => (
            outcomes.iter().any(|outcome| outcome.trace.is_some() || outcome.exhausted && !outcome.holds()),
            outcomes.iter().any(|outcome| outcome.cut.is_some() && outcome.trace.is_none()),
        ),
    };
    match (failed, cut) {
        (true, _) => Exit::Threshold,
        (false, true) => Exit::Failure,
        (false, false) => Exit::Ok,
    }
}

/// The names that were asked for, and changes to their set-ups.
fn plan(args: &ModelArgs) -> Result<Plan, String> {
    let (mut cases, matrix) = if let Some(name) = &args.mutant {
        let mutants: Vec<Mutant> =
            Mutant::ALL.iter().copied().filter(|mutant| name == "all" || mutant.name() == name).collect();
        if mutants.is_empty() {
            return Err(unknown("mutant", name, Mutant::ALL.iter().map(|mutant| mutant.name())));
        }
        (mutants.into_iter().map(model::mutant_case).collect(), name == "all")
    } else if args.strategy == "all" {
        let wanted = args.setup.as_deref().unwrap_or("all");
        let cases: Vec<Case> = model::all_cases()
            .into_iter()
            .filter(|case| wanted == "all" || case.setup.name == wanted)
            .collect();
        if cases.is_empty() {
            return Err(format!(
                "no strategy has a set-up `{wanted}`; `rowbust lab model --list` lists them"
            ));
        }
        (cases, true)
    } else {
        let mut cases = model::cases(&args.strategy);
        if cases.is_empty() {
            return Err(unknown("strategy", &args.strategy, NAMES.iter().copied()));
        }
        match args.setup.as_deref() {
            None => cases.truncate(1),
            Some("all") => {}
            Some(name) => {
                let names: Vec<&str> = cases.iter().map(|case| case.setup.name).collect();
                cases.retain(|case| case.setup.name == name);
                if cases.is_empty() {
                    return Err(unknown("set-up", name, names.into_iter()));
                }
            }
        }
        (cases, false)
    };
    let before = cases.clone();
    for case in &mut cases {
        let setup = &mut case.setup;
        for (number, wanted) in [
            (&mut setup.readers, args.readers),
            (&mut setup.writers, args.writers),
            (&mut setup.writes, args.writes),
            (&mut setup.keys, args.keys),
        ] {
            *number = wanted.unwrap_or(*number);
        }
        for (names, on) in [(&args.with, true), (&args.without, false)] {
            for name in names {
                let all = Condition::ALL;
                let condition = all.iter().copied().find(|condition| condition.name() == name);
                let condition =
                    condition.ok_or_else(|| unknown("condition", name, all.iter().map(|c| c.name())))?;
                setup.set(condition, on);
            }
        }
        setup.validate()?;
    }
    Ok(Plan { changed: cases != before, cases, matrix })
}

/// Explores, with progress on stderr: a line that changes on a terminal, else one each ten seconds.
fn explore(plan: &Plan, limits: Limits) -> Result<Vec<Outcome>, model::CheckError> {
    let bar = ProgressBar::new_spinner();
    let last = Mutex::new(Instant::now());
    let name = |case: &Case| match case.setup.mutant {
        Some(mutant) => mutant.name().to_owned(),
        None => format!("{} {}", case.strategy, case.setup.name),
    };
    let say = |case: &Case, at: Progress| {
        let text = format!(
            "{}: {} states, {} steps deep, {:.0} s",
            name(case),
            at.states,
            at.depth,
            at.elapsed.as_secs_f64()
        );
        if std::io::stderr().is_terminal() {
            bar.set_message(text);
            bar.tick();
        } else if let Ok(mut last) = last.lock()
            && last.elapsed() >= Duration::from_secs(10)
        {
            *last = Instant::now();
            out::stderr(&format!("{text}\n"));
        }
    };
    let outcomes = match plan.cases.as_slice() {
        // One case: all threads for it.
        [case] => model::check(case, limits, &mut |at| say(case, at)).map(|outcome| vec![outcome]),
        cases => model::check_all(cases, limits, &|index, at| say(&cases[index], at), &|_, _| {}),
    };
    bar.finish_and_clear();
    outcomes
}

fn single(outcome: &Outcome) -> String {
    let setup = &outcome.setup;
    let mut text = format!("{}, {}: {}\n{}\n", outcome.strategy, setup.name, setup.about, setup.summary());
    for violation in &outcome.violations {
        text.push_str(&format!(
            "FAILS {} in {} steps: {}\n",
            violation.property.name(),
            violation.steps,
            violation.property.about()
        ));
    }
    let explored = format!(
        "explored {} states, to {} steps from the start, in {:.1} s",
        outcome.states,
        outcome.depth,
        outcome.elapsed.as_secs_f64()
    );
    if let Some(trace) = &outcome.trace {
        text.push_str(&trace.table(width()));
        text.push_str(&format!("{explored}\n\n"));
        return text;
    }
    text.push_str(&match outcome.cut {
        Some(bound) => format!("NOT EXHAUSTED: {explored}; the bound of {bound} cut the search. Nothing was found, which proves nothing\n\n"),
        None if !outcome.fills => format!("NEVER CACHES: {explored}; in none of them a written value is cached for good\n\n"),
        None => format!(
            "holds: {explored}; these are all (the probability that two had one fingerprint and one was missed is below {:.0e})\n\n",
            outcome.omission()
        ),
    });
    text
}

fn matrix(plan: &Plan, outcomes: &[Outcome]) -> String {
    let mutants = outcomes.iter().any(|outcome| outcome.setup.mutant.is_some());
    let mut head =
        vec![if mutants { "mutant" } else { "strategy" }, if mutants { "violates first" } else { "set-up" }];
    head.extend(["result", "expected", "states", "depth", "seconds"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for outcome in outcomes {
        let (name, second) = match outcome.setup.mutant {
            Some(mutant) => {
                let first = outcome.violations.first();
                (mutant.name(), first.map_or("nothing", |first| first.property.name()))
            }
            None => (outcome.strategy, outcome.setup.name),
        };
        let expected = match (plan.changed, outcome.is_expected()) {
            (true, _) => "-".into(),
            (false, true) => "yes".into(),
            (false, false) => format!("NO: {}", model::expected(&outcome.setup)),
        };
        rows.push(vec![
            name.into(),
            second.into(),
            model::verdict(outcome),
            expected,
            outcome.states.to_string(),
            outcome.depth.to_string(),
            format!("{:.1}", outcome.elapsed.as_secs_f64()),
        ]);
    }
    out::table(&rows)
}

fn list(global: &Global) {
    if global.json {
        let strategies: Vec<_> = NAMES
            .iter()
            .map(|name| {
                let setups: Vec<_> = model::cases(name)
                    .into_iter()
                    .map(|case| {
                        json!({
                            "name": case.setup.name,
                            "about": case.setup.about,
                            "summary": case.setup.summary(),
                            "expected": model::expected(&case.setup),
                        })
                    })
                    .collect();
                json!({ "name": name, "about": model::about(name), "setups": setups })
            })
            .collect();
        let named = |name: &str, about: &str| json!({ "name": name, "about": about });
        out::json(&json!({
            "schema_version": 1,
            "strategies": strategies,
            "conditions": Condition::ALL.iter().map(|c| named(c.name(), c.about())).collect::<Vec<_>>(),
            "mutants": Mutant::ALL.iter().map(|m| named(m.name(), m.about())).collect::<Vec<_>>(),
            "properties": Property::ALL.iter().map(|p| named(p.name(), p.about())).collect::<Vec<_>>(),
        }));
        return;
    }
    let mut text = String::from("strategies and their set-ups\n");
    for name in NAMES {
        text.push_str(&format!("  {name}: {}\n", model::about(name).unwrap_or_default()));
        let rows: Vec<Vec<String>> = model::cases(name)
            .into_iter()
            .map(|case| {
                vec![
                    format!("    {}", case.setup.name),
                    model::expected(&case.setup),
                    format!("{} ({})", case.setup.about, case.setup.summary()),
                ]
            })
            .collect();
        text.push_str(&out::table(&rows));
    }
    let named = |title: &str, rows: Vec<(&str, &str)>| {
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, about)| vec![format!("  {name}"), about.to_owned()]).collect();
        format!("\n{title}\n{}", out::table(&rows))
    };
    text.push_str(&named("conditions", Condition::ALL.iter().map(|c| (c.name(), c.about())).collect()));
    text.push_str(&named("mutants of guarded", Mutant::ALL.iter().map(|m| (m.name(), m.about())).collect()));
    text.push_str(&named("properties", Property::ALL.iter().map(|p| (p.name(), p.about())).collect()));
    out::stdout(&text);
}

/// The terminal's own width, or `COLUMNS`, or 120.
fn width() -> Option<u16> {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    match columns {
        Some(columns) => Some(columns),
        None if std::io::stdout().is_terminal() => None,
        None => Some(120),
    }
}
