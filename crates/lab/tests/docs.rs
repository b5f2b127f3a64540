//! The generated parts of `docs/lab.md` and `docs/strategies.md` are what the model says. `UPDATE_DOCS=1` writes them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fmt::Write as _, path::Path};

use rowbust_lab::model::{self, Condition, Limits, Mutant, NAMES, Property};

/// Replaces what stands between `<!-- BEGIN name -->` and `<!-- END -->`.
fn generate(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in page.lines() {
        if line == "<!-- END -->" {
            inside = false;
        }
        if !inside {
            writeln!(text, "{line}").unwrap();
        }
        if let Some(name) = line.strip_prefix("<!-- BEGIN ").and_then(|name| name.strip_suffix(" -->")) {
            inside = true;
            writeln!(text, "\n{}", part(name)).unwrap();
        }
    }
    assert!(!inside, "a part without an end");
    text
}

fn part(name: &str) -> String {
    match name.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["setups"] => setups(),
        // Counted by a test of the client.
        ["round", "trips"] => include_str!("../../client/src/strategy/round_trips.md").to_owned(),
        ["conditions"] => two_columns("condition", Condition::ALL.iter().map(|c| (c.name(), c.about()))),
        ["properties"] => two_columns("property", Property::ALL.iter().map(|p| (p.name(), p.about()))),
        ["mutants"] => mutants(),
        ["trace", strategy, setup] => {
            let case = model::cases(strategy).into_iter().find(|case| case.setup.name == *setup).unwrap();
            trace(&case)
        }
        ["mutant", name] => {
            trace(&model::mutant_case(*Mutant::ALL.iter().find(|mutant| mutant.name() == *name).unwrap()))
        }
        _ => panic!("no part {name}"),
    }
}

fn trace(case: &model::Case) -> String {
    model::check(case, Limits::default(), &mut |_| {}).unwrap().trace.unwrap().markdown()
}

fn two_columns<'a>(head: &str, rows: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    rows.fold(format!("| {head} | |\n|-|-|\n"), |text, (name, about)| {
        text + &format!("| `{name}` | {about} |\n")
    })
}

fn setups() -> String {
    let mut text = String::from("| strategy | set-up | | size and conditions | result |\n|-|-|-|-|-|\n");
    for case in NAMES.iter().flat_map(|name| model::cases(name)) {
        let setup = &case.setup;
        writeln!(
            text,
            "| `{}` | `{}` | {} | {} | {} |",
            case.strategy,
            setup.name,
            setup.about,
            setup.summary(),
            model::expected(setup)
        )
        .unwrap();
    }
    text
}

fn mutants() -> String {
    let mut text = String::from("| mutant | what it does | violates first | stale for good |\n|-|-|-|-|\n");
    for mutant in Mutant::ALL {
        let stale = match mutant.steps() {
            0 => "never: nothing is cached any more".to_owned(),
            steps => format!("in {steps} steps"),
        };
        let (name, about) = (mutant.name(), mutant.about());
        writeln!(text, "| `{name}` | {about} | {} | {stale} |", mutant.violates().name()).unwrap();
    }
    text
}

#[test]
fn the_pages_are_what_the_model_says() {
    for page in ["lab.md", "strategies.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
        let is = std::fs::read_to_string(&path).unwrap();
        let should = generate(&is);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, should).unwrap();
        } else {
            assert_eq!(is, should, "docs/{page}: run the test with UPDATE_DOCS=1");
        }
    }
}

#[test]
fn every_strategy_has_its_chapter_and_its_trace() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/strategies.md");
    let page = std::fs::read_to_string(path).unwrap();
    for name in NAMES {
        assert!(page.lines().any(|line| line == format!("## `{name}`")), "{name}");
        for case in model::cases(name) {
            let shown = page.contains(&format!("<!-- BEGIN trace {name} {} -->", case.setup.name));
            let fails = matches!(case.setup.expect, model::Expect::Stale(_));
            assert!(!shown || fails, "{name} {}", case.setup.name);
            assert!(shown || !fails || case.setup.name != "default", "{name} {}", case.setup.name);
        }
    }
}
