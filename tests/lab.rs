//! `rowbust lab model`: output and exit codes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};

fn lab(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rowbust"))
        .args(["lab", "model"])
        .args(args.split_whitespace())
        .env("COLUMNS", "100")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_trace_exits_with_99_and_can_be_read() {
    let output = lab("--strategy cache-aside");
    assert_eq!(output.status.code(), Some(99));
    let shown = text(&output.stdout);
    for words in ["FAILS never-stale-for-good in 5 steps", "writer 1", "SELECT: v0", "SET v0", "explored"] {
        assert!(shown.contains(words), "{words} in\n{shown}");
    }
    assert!(shown.lines().filter(|line| line.starts_with('│')).all(|line| line.chars().count() <= 100));
}

#[test]
fn no_trace_exits_with_0_and_a_cut_search_with_1() {
    let output = lab("--strategy guarded --setup base");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("holds: explored"));
    for bound in ["--depth 5", "--max-states 50"] {
        let output = lab(&format!("--strategy guarded --setup base {bound}"));
        assert_eq!(output.status.code(), Some(1), "{bound}");
        assert!(text(&output.stdout).contains("NOT EXHAUSTED"), "{bound}");
    }
}

#[test]
fn conditions_change_the_verdict() {
    assert_eq!(lab("--strategy binlog").status.code(), Some(99));
    assert_eq!(lab("--strategy binlog --without window").status.code(), Some(0));
    assert_eq!(lab("--strategy binlog --without window --with replica").status.code(), Some(99));
}

#[test]
fn a_mutant_as_json() {
    let output = lab("--mutant second-before-visibility --json");
    assert_eq!(output.status.code(), Some(99));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["schema_version"], 1);
    let outcome = &value["outcomes"][0];
    assert_eq!(outcome["as_expected"], true);
    assert_eq!(outcome["violations"][0]["property"], "pool-has-what-is-done");
    assert_eq!(outcome["stale_for_good_steps"], outcome["trace"].as_array().unwrap().len());
    assert_eq!(outcome["trace"][0]["actor"], "writer 1");
}

#[test]
fn all_mutants_in_a_table() {
    let output = lab("--mutant all");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let shown = text(&output.stdout);
    assert!(
        shown.contains("fill-on-absence") && shown.contains("finality") && !shown.contains("NO:"),
        "{shown}"
    );
}

#[test]
fn wrong_arguments_exit_with_2_and_say_what_there_is() {
    for (args, words) in [
        ("--strategy cache-asid", "did you mean `cache-aside`"),
        ("--strategy binlog --setup nope", "no-window"),
        ("--mutant nope", "fill-on-absence"),
        ("--strategy binlog --with nope", "eviction"),
        ("--strategy binlog --readers 9", "readers must be 0 to 4"),
        ("--setup nope", "--list"),
    ] {
        let output = lab(args);
        assert_eq!(output.status.code(), Some(2), "{args}");
        assert!(text(&output.stderr).contains(words), "{args}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{args}");
    }
}

#[test]
fn the_list_has_everything() {
    let shown = text(&lab("--list").stdout);
    for words in
        ["guarded", "lock-serialized-unfenced", "rollback-pool", "prompt-readers", "join-at-done", "finality"]
    {
        assert!(shown.contains(words), "{words}");
    }
    let value: serde_json::Value = serde_json::from_slice(&lab("--list --json").stdout).unwrap();
    assert_eq!(value["strategies"].as_array().unwrap().len(), 14);
}
