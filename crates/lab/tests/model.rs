//! The model says of every strategy what `docs/strategies.md` says, and every mutant of `guarded` fails.
#![allow(clippy::unwrap_used, missing_docs)]

use rowbust_lab::model::{self, Case, Condition, Expect, Limits, Mutant, Outcome, Property};

fn check(case: &Case) -> Outcome {
    model::check(case, Limits::default(), &mut |_| {}).unwrap()
}

fn case(strategy: &str, setup: &str) -> Case {
    model::cases(strategy).into_iter().find(|case| case.setup.name == setup).unwrap()
}

/// `rollback-pool` has millions of states: it is part of `rowbust lab model`, and here with one write.
fn reduced(mut case: Case) -> Case {
    if case.setup.name == "rollback-pool" {
        case.setup.writes = 1;
    }
    case
}

#[test]
fn every_set_up_comes_out_as_it_says() {
    let cases: Vec<Case> = model::all_cases().into_iter().map(reduced).collect();
    let limits = Limits { threads: 2, ..Limits::default() };
    for outcome in model::check_all(&cases, limits, &|_, _| {}, &|_, _| {}).unwrap() {
        let name = format!("{} {}", outcome.strategy, outcome.setup.name);
        assert!(outcome.is_expected(), "{name}: {} {:?}", model::verdict(&outcome), outcome.violations);
        // What isn't fixed at one trace must have visited everything.
        assert_eq!(outcome.exhausted, outcome.setup.expect == Expect::Holds, "{name}");
    }
}

#[test]
fn every_mutant_fails_and_names_its_property() {
    for mutant in Mutant::ALL {
        let outcome = check(&model::mutant_case(*mutant));
        let first = outcome.violations.first().map(|violation| violation.property);
        assert_eq!(first, Some(mutant.violates()), "{}: {:?}", mutant.name(), outcome.violations);
        assert_eq!(outcome.stale().unwrap_or(0), mutant.steps(), "{}", mutant.name());
        assert!(outcome.is_expected(), "{}", mutant.name());
    }
}

#[test]
fn the_protocol_holds_where_its_mutants_fail() {
    for mutant in Mutant::ALL {
        let mut case = model::mutant_case(*mutant);
        case.setup.mutant = None;
        let outcome = check(&case);
        assert!(outcome.holds(), "{}: {:?}", mutant.name(), outcome.violations);
    }
}

#[test]
fn what_fails_by_the_window_holds_without_it() {
    for (strategy, setup) in [("binlog", "default"), ("binlog-lease", "default")] {
        let mut case = case(strategy, setup);
        assert!(check(&case).stale().is_some());
        case.setup.set(Condition::Window, false);
        assert!(check(&case).holds(), "{strategy}");
    }
}

#[test]
fn the_fill_grace_decides_on_plain_keys() {
    let mut case = case("binlog-twice", "grace");
    assert!(check(&case).holds());
    case.setup.set(Condition::Grace, false);
    assert!(check(&case).stale().is_some());
}

#[test]
fn a_trace_is_the_same_with_more_threads() {
    let case = case("binlog-twice", "default");
    let one = check(&case);
    let two = model::check(&case, Limits { threads: 2, ..Limits::default() }, &mut |_| {}).unwrap();
    assert_eq!(one.trace, two.trace);
    assert_eq!(one.trace.unwrap().steps.len(), 8);
}

#[test]
fn symmetry_changes_no_verdict() {
    // Each reader more is one more that could be slow; what held holds.
    for readers in 1..=3 {
        let mut case = case("guarded", "base");
        case.setup.readers = readers;
        assert!(check(&case).holds(), "{readers} readers");
    }
}

#[test]
fn a_bound_that_cuts_is_no_proof() {
    let case = case("guarded", "crash");
    let whole = check(&case);
    for (limits, bound) in [
        (Limits { depth: whole.depth - 1, ..Limits::default() }, "depth"),
        (Limits { states: 100, ..Limits::default() }, "states"),
    ] {
        let outcome = model::check(&case, limits, &mut |_| {}).unwrap();
        assert_eq!(outcome.cut, Some(bound));
        assert!(!outcome.exhausted && !outcome.holds());
        assert!(model::verdict(&outcome).starts_with("not exhausted"));
    }
    let enough = Limits { depth: whole.depth, ..Limits::default() };
    let outcome = model::check(&case, enough, &mut |_| {}).unwrap();
    assert!(outcome.holds());
    assert_eq!(outcome.states, whole.states);
}

#[test]
fn a_strategy_that_caches_nothing_would_not_pass() {
    // Values that expire at once in every state: nothing written is ever cached for good, and that shows.
    let mut case = case("guarded", "base");
    case.setup.readers = 1;
    assert!(check(&case).fills);
    let mut never = case.clone();
    // Without any write there is nothing that a write made.
    never.setup.writes = 0;
    assert!(model::check(&never, Limits::default(), &mut |_| {}).is_err());
}

#[test]
fn a_trace_can_be_read() {
    let outcome = check(&case("cache-aside", "default"));
    let table = outcome.trace.unwrap().table(Some(100));
    for words in
        ["writer 1", "reader 1", "GET: nothing", "SELECT: v0", "UPDATE to v1, COMMIT", "DEL", "SET v0"]
    {
        assert!(table.contains(words), "{words} in\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let narrow = check(&case("binlog-twice", "default")).trace.unwrap().table(Some(60));
    assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    assert_eq!(outcome.violations[0].property, Property::StaleForGood);
}
