//! The model says of every strategy what `docs/strategies.md` says, and every mutant of `guarded` fails.
#![allow(clippy::unwrap_used, missing_docs)]

use rowbust_lab::model::{self, Case, Condition, Expect, Limits, Mutant, Outcome, Property};

fn check(case: &Case) -> Outcome {
    model::check(case, Limits::default(), &mut |_| {}).unwrap()
}

fn case(strategy: &str, setup: &str) -> Case {
    model::cases(strategy).into_iter().find(|case| case.setup.name == setup).unwrap()
}

/// The largest set-ups have millions of states: here they are smaller, [`every_set_up_comes_out_as_it_says_in_full`] explores them whole.
fn reduced(mut case: Case) -> Case {
    match case.setup.name {
        "rollback-pool" | "rollback-queue" => case.setup.writes = 1,
        "rollback-crash" | "runs" | "runs-pool" | "keys" | "pool" | "refresh" => case.setup.readers = 1,
        "everything" => {
            case.setup.readers = 1;
            case.setup.set(Condition::Backlog, false);
            case.setup.set(Condition::Duplicates, false);
        }
        _ => {}
    }
    case
}

fn come_out_as_they_say(cases: &[Case]) {
    let limits = Limits { threads: 2, ..Limits::default() };
    for outcome in model::check_all(cases, limits, &|_, _| {}, &|_, _| {}).unwrap() {
        let name = format!("{} {}", outcome.strategy, outcome.setup.name);
        assert!(outcome.is_expected(), "{name}: {} {:?}", model::verdict(&outcome), outcome.violations);
        // What isn't fixed at one trace must have visited everything.
        assert_eq!(outcome.exhausted, outcome.setup.expect == Expect::Holds, "{name}");
    }
}

#[test]
fn every_set_up_comes_out_as_it_says() {
    come_out_as_they_say(&model::all_cases().into_iter().map(reduced).collect::<Vec<_>>());
}

/// What the tables of `docs/lab.md` and `rowbust lab model` say, at full size.
#[test]
#[ignore = "minutes: the weekly run of CI has it"]
fn every_set_up_comes_out_as_it_says_in_full() {
    come_out_as_they_say(&model::all_cases());
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
    let unmutated = |mutant: &Mutant| {
        let mut case = model::mutant_case(*mutant);
        case.setup.mutant = None;
        case
    };
    let cases: Vec<Case> = Mutant::ALL.iter().map(unmutated).collect();
    let limits = Limits { threads: 2, ..Limits::default() };
    let outcomes = model::check_all(&cases, limits, &|_, _| {}, &|_, _| {}).unwrap();
    assert_eq!(outcomes.len(), Mutant::ALL.len());
    for (mutant, outcome) in Mutant::ALL.iter().zip(outcomes) {
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

/// Each control with its trouble put back.
#[test]
fn the_clients_forms_fail_only_by_what_the_controls_leave_out() {
    use Condition::*;
    let fails = |strategy, setup, condition: Condition, on| {
        let mut case = case(strategy, setup);
        assert!(check(&case).holds(), "{strategy} {setup}");
        case.setup.set(condition, on);
        assert!(check(&case).stale().is_some(), "{strategy} {setup}: {}", condition.name());
    };
    for trouble in [LockExpiry, WriterCrash, Replica] {
        fails("write-through", "prompt", trouble, true);
    }
    fails("write-through", "prompt", PromptReaders, false);
    for trouble in [WriterCrash, Textbook, Eviction] {
        fails("write-cache-then-db", "prompt", trouble, true);
    }
    for trouble in [LockExpiry, LockLoss] {
        fails("lock-serialized-unfenced", "no-pause", trouble, true);
    }
    // Fenced, only what the fence can't see is left.
    for trouble in [WriterCrash, Replica, Textbook] {
        fails("lock-serialized", "default", trouble, true);
    }
    for trouble in [Textbook, Replica] {
        fails("delayed-double-delete", "owed", trouble, true);
    }
    fails("delayed-double-delete", "owed", Grace, false);
    fails("delayed-double-delete", "prompt", WriterCrash, true);
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
    // Two lines of head.
    assert_eq!(one.trace.unwrap().markdown().lines().count(), 2 + 8);
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
        // Late enough for a value to have been cached: its path is made after the search was stopped.
        (Limits { states: whole.states - 1, ..Limits::default() }, "states"),
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
fn what_was_found_before_the_cut_counts() {
    let mut case = model::mutant_case(Mutant::SecondBeforeVisibility);
    let cut = Limits { depth: Mutant::SecondBeforeVisibility.steps() - 1, ..Limits::default() };
    let short = |case: &Case| model::check(case, cut, &mut |_| {}).unwrap();
    // The pool names a source without the commit, and the stale value would have come a step later.
    let outcome = short(&case);
    assert!(outcome.cut.is_some() && outcome.stale().is_none() && outcome.trace.is_some());
    assert!(!outcome.is_expected() && !outcome.contradicts());
    case.setup.expect = Expect::Holds;
    assert!(short(&case).contradicts());
    case.setup.mutant = None;
    assert!(!short(&case).contradicts());
    // The other way round too: what must be found and isn't there.
    case.setup.expect = Expect::Stale(8);
    assert!(check(&case).contradicts());
}

#[test]
fn what_caches_nothing_does_not_pass() {
    // No reader but one that is killed by nobody, and no fill within two steps: nothing gets cached, so nothing is proved.
    let mut case = case("guarded", "base");
    let outcome = model::check(&case, Limits { depth: 2, ..Limits::default() }, &mut |_| {}).unwrap();
    assert!(!outcome.fills && !outcome.holds());
    assert!(check(&case).fills);
    // Every strategy that holds does cache.
    case.setup.writes = 0;
    let error = model::check(&case, Limits::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "writes must be 1 to 4, not 0");
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
