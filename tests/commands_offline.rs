//! Commands that ask no server: what they print, and that what is shipped with the project agrees with them.
//!
//! To rewrite `config/rowbust.schema.json`: `UPDATE_DOCS=1 cargo test -p rowbust --test commands_offline`.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rowbust::config;
use serde_json::Value;

const SECRET: &str = "hunter2-hunter2-hunter2";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rowbust(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rowbust"))
        .args(args)
        .current_dir(folder)
        .env("MYSQL_PASSWORD", SECRET)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The configs that are shipped.
fn examples() -> Vec<PathBuf> {
    let yaml = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect::<Vec<_>>()
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files = yaml("config");
    files.retain(|path| !name(path).ends_with(".tests.yaml"));
    files.extend(yaml("deploy/compose").into_iter().filter(|path| name(path).starts_with("rowbust")));
    if !cfg!(feature = "kafka") {
        files.retain(|path| !fs::read_to_string(path).unwrap().contains("kafka"));
    }
    assert!(files.len() > 4, "{files:?}");
    files
}

fn env(name: &str) -> Option<String> {
    (name == "MYSQL_PASSWORD").then(|| SECRET.to_owned())
}

/// Without what tells where in the file a thing stands.
fn placeless(config: &config::Config) -> String {
    let debug = format!("{config:#?}");
    debug.lines().filter(|line| !line.trim_start().starts_with("line: ")).collect::<Vec<_>>().join("\n")
}

fn shows_itself(text: &str, file: &Path) {
    let config = config::parse(text, file, &env).unwrap_or_else(|report| panic!("{report}"));
    let shown = config.shown().to_yaml();
    assert!(!shown.contains(SECRET), "{shown}");
    let restored = shown.replace("\"****\"", SECRET);
    let again = config::parse(&restored, file, &env).unwrap_or_else(|report| panic!("{report}\n{restored}"));
    assert_eq!(again.shown().to_yaml(), shown);
    assert_eq!(placeless(&again), placeless(&config), "{shown}");
    assert!(!config.shown().to_json().to_string().contains(SECRET));
}

#[test]
fn a_shown_config_means_the_same() {
    for file in examples() {
        shows_itself(&fs::read_to_string(&file).unwrap(), &file);
    }
    let hard = format!(
        r#"
source:
  url: "mysql://a%40b%25@[::1]:3307"
  password: {SECRET}
  tls: {{ mode: verify_ca, ca_file: "with blank.pem", cert_file: c.pem, key_file: k.pem }}
  start: {{ file: binlog.000042, position: 4 }}
  lossless: true
redis:
  main: "rediss://u@cache:1/2"
  "true": {{ mode: sentinel, nodes: [s], master: "no", db: 3, password: {SECRET}, sentinel: {{ password: {SECRET} }} }}
retry: {{ delay: 90s, attempts: 3 }}
checkpoint: {{ redis: main }}
admin: {{ token: {SECRET} }}
limits: {{ memory: 1025KiB }}
mappings:
  - {{ table: "a.b", keys: ["{{id}}"], to: "true" }}
  - table: "*.b"
    when_changed: ["1", "null", "x y"]
    when: {{ column: c, in: ["", "no", "1.0", "$${{x}}", "\"\\\u0001\u2028", " a: b # c"], image: after }}
    keys:
      - {{ key: "k:{{id}}", op: hdel, field: "{{f}}", events: [delete] }}
      - {{ members_of: "t:{{id}}", members_prefix: ["p:"] }}
    second_removal: {{ after: 1500ms }}
    on_ddl: {{ truncate: halt }}
    to: main
"#
    );
    shows_itself(&hard, Path::new("/etc/rowbust/rowbust.yaml"));
}

#[test]
#[cfg(feature = "kafka")]
fn secrets_of_librdkafka_are_redacted() {
    let text = format!(
        "source: {{ url: \"mysql://r@db\" }}\nredis: {{ main: \"redis://cache\" }}\n\
         retry: {{ kafka: {{ brokers: [\"k:9092\"], prefix: p, properties: {{ security.protocol: sasl_ssl, sasl.password: {SECRET} }} }} }}\n\
         mappings: [ {{ table: a.b, keys: [\"k:{{id}}\"] }} ]\n"
    );
    shows_itself(&text, Path::new("/etc/rowbust/rowbust.yaml"));
}

#[test]
fn config_show_prints_defaults_and_no_secret() {
    let shown = stdout(&rowbust(root(), &["-c", "config/minimal.yaml", "config", "show"]));
    assert!(!shown.contains(SECRET), "{shown}");
    for line in
        ["  password: \"****\"", "    url: \"redis://cache:6379/0\"", "    fill_grace: 1s", "  memory: 48MiB"]
    {
        assert!(shown.lines().any(|shown| shown == line), "no line `{line}` in\n{shown}");
    }
    let json = stdout(&rowbust(root(), &["-c", "config/minimal.yaml", "config", "show", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["schema_version"], &json["config"]["source"]["password"]), (&1.into(), &"****".into()));
}

#[test]
fn the_shipped_schema_is_that_of_this_version() {
    let schema = stdout(&rowbust(root(), &["schema"]));
    let file = root().join("config/rowbust.schema.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &schema).unwrap();
    }
    let shipped = fs::read_to_string(&file).unwrap();
    assert!(shipped == schema, "run `UPDATE_DOCS=1 cargo test -p rowbust --test commands_offline`");
}

/// The keywords that the schema uses, no others.
fn valid(schema: &Value, value: &Value, root: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => {
            let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
            valid(&root["$defs"][name], value, root)
        }
        "anyOf" => rule.as_array().unwrap().iter().any(|schema| valid(schema, value, root)),
        "enum" => rule.as_array().unwrap().contains(value),
        "type" => {
            let is = |name: &str| match name {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            };
            rule.as_str().map_or_else(|| rule.as_array().unwrap().iter().any(|t| is(t.as_str().unwrap())), is)
        }
        "pattern" => value.as_str().is_none_or(|text| {
            let pattern = rule.as_str().unwrap();
            if pattern == "\\$\\{" {
                return text.contains("${");
            }
            let unit = pattern.strip_prefix("^[0-9]+").and_then(|p| p.strip_suffix('$')).unwrap();
            let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.len() < text.len() && unit.trim_matches(['(', ')']).split('|').any(|unit| unit == rest)
        }),
        "minimum" => value.as_u64().is_none_or(|n| n >= rule.as_u64().unwrap()),
        "maximum" => value.as_u64().is_none_or(|n| n <= rule.as_u64().unwrap()),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
        "minProperties" => value.as_object().is_none_or(|o| o.len() as u64 >= rule.as_u64().unwrap()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(rule, item, root))),
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(name, value)| rule.get(name).is_none_or(|schema| valid(schema, value, root)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let others = object.iter().filter(|(name, _)| schema["properties"].get(name.as_str()).is_none());
            rule.as_bool().map_or_else(
                || others.clone().all(|(_, value)| valid(rule, value, root)),
                |any| any || others.clone().count() == 0,
            )
        }),
        other => panic!("this test doesn't know the keyword {other}"),
    })
}

#[test]
fn the_schema_takes_what_is_right_and_refuses_what_is_wrong() {
    let schema = config::schema();
    let read = |file: &Path| -> Value { serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap() };
    for file in examples() {
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap();
        let named = first
            .strip_prefix("# yaml-language-server: $schema=")
            .unwrap_or_else(|| panic!("{file:?}: {first}"));
        let named = fs::canonicalize(file.parent().unwrap().join(named)).unwrap();
        assert_eq!(named, fs::canonicalize(root().join("config/rowbust.schema.json")).unwrap());
        assert!(valid(&schema, &read(&file), &schema), "{file:?}");
        // With every default, too.
        let shown = config::parse(&text, &file, &env).unwrap().shown().to_json();
        assert!(valid(&schema, &shown, &schema), "{shown:#}");
    }
    let wrong = ["unknown_field", "wrong_type", "missing_field", "bad_duration", "bad_number", "bad_size"];
    for name in wrong {
        let file = root().join(format!("tests/config/{name}.yaml"));
        assert!(!valid(&schema, &read(&file), &schema), "{name}");
    }
}

#[test]
fn completions_and_pages_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = stdout(&rowbust(root(), &["completions", shell]));
        assert!(text.contains("explain") && text.contains("table"), "{shell}");
    }
    assert_eq!(rowbust(root(), &["completions", "cobol"]).status.code(), Some(2));
    assert!(stdout(&rowbust(root(), &["man"])).contains(".TH rowbust 1"));
    let folder = tempfile::tempdir().unwrap();
    stdout(&rowbust(folder.path(), &["man", "--dir", "made/for it"]));
    for page in ["rowbust.1", "rowbust-explain.1", "rowbust-retry-ls.1", "rowbust-config-show.1"] {
        let page = fs::read_to_string(folder.path().join("made/for it").join(page)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(rowbust(folder.path(), &["man", "--dir", "file/below"]).status.code(), Some(1));
}

#[test]
fn the_shipped_golden_cases_hold() {
    let text = stdout(&rowbust(root(), &["-c", "config/shop.yaml", "test"]));
    assert!(text.ends_with("5 cases, 0 failed\n"), "{text}");
}

#[test]
fn a_golden_case_that_fails_says_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "rowbust.yaml",
        "source: { url: \"mysql://r@db\" }\nredis: { main: \"redis://a\", other: \"redis://b\" }\n\
         mappings: [ { table: a.b, keys: [\"k:{id}\", { prefix: \"p:{id}:\" }], to: main } ]\n",
    );
    write(
        "rowbust.tests.yaml",
        "cases:\n  - name: right\n    table: a.b\n    after: { id: 1 }\n    expect: [\"k:1\", { prefix: \"p:1:\", target: main }]\n  \
         - name: wrong\n    table: a.b\n    after: { id: 2 }\n    \
         expect: [\"k:9\", { key: \"k:2\", target: other }, { prefix: \"p:2:\" }, { members_of: m }, { key: h, field: f }]\n  \
         - name: no row of a server\n    table: a.b\n    after: { id: 1.5 }\n    expect: []\n",
    );
    let output = rowbust(folder.path(), &["test"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "./rowbust.tests.yaml\n  ok    right\n  FAIL  wrong\n\
         \x20       - unlink k:9  (expected, not removed)\n\
         \x20       - unlink k:2 -> other  (expected, not removed)\n\
         \x20       - members_of m  (expected, not removed)\n\
         \x20       - hdel h f  (expected, not removed)\n\
         \x20       + unlink k:2 -> main  (removed, not expected)\n\
         \x20 FAIL  no row of a server\n\
         \x20       column `id`: write a number with a fraction as a string, as the server prints it: \"19.90\"\n\
         3 cases, 2 failed\n"
    );
    let output = rowbust(folder.path(), &["test", "--json", "rowbust.tests.yaml"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["schema_version"], &json["total"], &json["failed"]), (&1.into(), &3.into(), &2.into()));
    assert_eq!(json["files"][0]["cases"][1]["missing"][3]["field"], "f");
    for (wrong, why) in [
        ("cases: []\n", "is empty"),
        ("cases: [ { name: a, table: a.b, after: {}, expect: [], befor: {} } ]\n", "befor"),
        ("cases: [ { name: a, table: a.b, after: {}, expect: [ { field: f } ] } ]\n", "one of `key`"),
        ("cases: [ { name: a, table: a.b, after: {} } ]\n", "expect"),
    ] {
        write("wrong.yaml", wrong);
        let output = rowbust(folder.path(), &["test", "--file", "wrong.yaml"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("wrong.yaml") && stderr.contains(why), "{stderr}");
    }
    assert_eq!(rowbust(folder.path(), &["test", "none.yaml"]).status.code(), Some(78));
}
