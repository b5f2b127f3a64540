//! The program itself: what it prints where, and its exit codes.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const CONFIG: &str = r#"
source: { url: "mysql://rowbust@127.0.0.1:3306", password: "${ROWBUST_TEST_PASSWORD}" }
redis: { main: "redis://127.0.0.1:6379/0" }
mappings:
  - table: shop.products
    when_changed: [name, sku]
    keys:
      - "product:{id}"
      - { key: "product:sku:{old.sku}", events: [update, delete] }
      - { key: "products", op: hdel, field: "{id}" }
      - { prefix: "feed:{sku}:", alarm_above: 5000 }
      - { members_of: "tag:{name}" }
    guarded: false
    keys_per_second: 1000
  - { table: "shop.p*", keys: ["{a}{b}"], second_removal: never }
"#;

fn rowbust(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rowbust"))
        .args(args)
        .current_dir(folder)
        .env("ROWBUST_TEST_PASSWORD", "hunter2")
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

fn with_config(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rowbust.yaml"), text).unwrap();
    folder
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn check_prints_what_was_understood() {
    let folder = with_config(CONFIG);
    let output = rowbust(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text =
        stdout(&output).replace(&fs::canonicalize(folder.path()).unwrap().display().to_string(), "FOLDER");
    assert!(!text.contains("hunter2"));
    insta::with_settings!({ snapshot_path => "cli", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("check", text);
    });
    let output = rowbust(folder.path(), &["check", "--json"]);
    let value = json(&output);
    assert_eq!((&value["schema_version"], &value["ok"]), (&1.into(), &true.into()));
    assert_eq!(value["mappings"][0]["keys"][1]["events"], serde_json::json!(["update", "delete"]));
}

#[test]
fn a_wrong_config_exits_with_78() {
    let folder = with_config("source: {}\n");
    for command in
        [&["check"][..], &["run"], &["explain", "--table", "a.b"], &["checkpoint", "show"], &["retry", "ls"]]
    {
        let output = rowbust(folder.path(), command);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("./rowbust.yaml:1:1: error[config::missing_field]"), "{stderr}");
        assert!(!stderr.contains('\u{1b}'), "colours on a pipe: {stderr}");
    }
    let output = rowbust(folder.path(), &["--json", "check"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(json(&output)["errors"].as_array().unwrap().len(), 3);
    let output = rowbust(folder.path(), &["-c", "none.yaml", "check"]);
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn what_is_not_built_yet_exits_with_2() {
    let folder = with_config(CONFIG);
    for args in [["audit"], ["top"]] {
        let output = rowbust(folder.path(), &args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("not built yet"), "{stderr}");
    }
    assert_eq!(rowbust(folder.path(), &["nonsense"]).status.code(), Some(2));
    assert_eq!(rowbust(folder.path(), &["--help"]).status.code(), Some(0));
    assert_eq!(rowbust(folder.path(), &["retry", "ls", "--help"]).status.code(), Some(0));
}

#[test]
fn explain_shows_keys_and_reasons() {
    let folder = with_config(CONFIG);
    let before = r#"{"id": "1", "name": "a", "sku": "A-1", "a": 1, "b": 2}"#;
    let after = r#"{"id": "1", "name": "b", "sku": "A-1", "a": 1, "b": 2}"#;
    let update = ["explain", "--table", "shop.products", "--before", before, "--after", after];
    let output = rowbust(folder.path(), &update);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    insta::with_settings!({ snapshot_path => "cli", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("explain", stdout(&output));
    });
    let output = rowbust(folder.path(), &[&update[..], &["--json"]].concat());
    assert_eq!(json(&output)["mappings"][0]["rules"][0]["keys"][0]["key"], "product:1");
    for wrong in [
        &["explain", "--table", "shop.products"][..],
        &["explain", "--table", "shop", "--after", "{}"],
        &["explain", "--table", "shop.products", "--after", "[1]"],
    ] {
        assert_eq!(rowbust(folder.path(), wrong).status.code(), Some(2));
    }
}

#[test]
fn looking_changes_nothing() {
    let folder = with_config(CONFIG);
    let output = rowbust(folder.path(), &["checkpoint", "show"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("no checkpoint yet"));
    assert!(json(&rowbust(folder.path(), &["checkpoint", "show", "--json"]))["checkpoint"].is_null());
    let output = rowbust(folder.path(), &["retry", "ls"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "no removals are waiting\n"));
    assert_eq!(
        json(&rowbust(folder.path(), &["retry", "ls", "--dead", "--json"]))["records"],
        serde_json::json!([])
    );
    assert_eq!(json(&rowbust(folder.path(), &["retry", "requeue", "--json"]))["requeued"], 0);
    assert_eq!(json(&rowbust(folder.path(), &["retry", "drop", "--yes", "--json"]))["dropped"], 0);
    assert_eq!(json(&rowbust(folder.path(), &["retry", "drop", "--dry-run", "--json"]))["would"], 0);
    // Everything at once has to be asked for.
    assert_eq!(rowbust(folder.path(), &["retry", "drop"]).status.code(), Some(2));
    assert_eq!(rowbust(folder.path(), &["retry", "drop", "--older", "soon"]).status.code(), Some(2));
    let output = rowbust(folder.path(), &["retry", "show", "17"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
