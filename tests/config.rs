//! Wrong configs and what is said about them, the shipped examples, and the tables of `docs/config.md`.
//!
//! Each `tests/config/NAME.yaml` has a snapshot `NAME.snap`. To accept changes: `INSTA_UPDATE=always cargo test -p
//! rowbust --test config`; to rewrite the tables: `UPDATE_DOCS=1 cargo test -p rowbust --test config`.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;
use rowbust::config::{self, Code, Password, Retry, RetryPolicy, SecondRemoval, Start, Style, TlsMode};
use secrecy::ExposeSecret as _;

const SECRET: &str = "hunter2";

fn env(name: &str) -> Option<String> {
    match name {
        "MYSQL_PASSWORD" => Some("from-env".into()),
        "REDIS_URL" => Some("redis://:from-env@cache".into()),
        "CERTS" => Some("/certs".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<config::Config, config::Report> {
    config::parse(text, Path::new("/etc/rowbust/rowbust.yaml"), &env)
}

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_mistake_has_a_snapshot() {
    let mut seen = BTreeSet::new();
    for file in fixtures("tests/config") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        // What is said about Kafka depends on the build: each has its fixtures.
        let other_build = if cfg!(feature = "kafka") {
            name == "not_in_this_build"
        } else {
            name != "not_in_this_build" && text.contains("kafka")
        };
        if other_build || (!cfg!(feature = "mysql-cdc") && text.contains("mysql_cdc")) {
            continue;
        }
        let report = config::parse(&text, Path::new(&format!("{name}.yaml")), &env)
            .expect_err(&format!("{name} should be refused"));
        seen.extend(report.diagnostics().iter().map(|d| d.code.name()));
        let shown = report.render(Style::Plain);
        for text in [
            shown.clone(),
            report.to_json().to_string(),
            report.render(Style::Graphical { color: false }),
            format!("{report:?}"),
        ] {
            assert!(!text.contains(SECRET), "{name} shows a secret:\n{text}");
            assert!(!text.contains("from-env"), "{name} shows the environment:\n{text}");
        }
        insta::with_settings!({
            snapshot_path => "config", prepend_module_to_snapshot => false, omit_expression => true,
        }, {
            insta::assert_snapshot!(name, shown);
        });
    }
    if cfg!(feature = "kafka") {
        let missing: Vec<_> = Code::ALL.iter().map(|c| c.name()).filter(|c| !seen.contains(c)).collect();
        // Of files that can't be opened there is no fixture: see `unreadable`.
        let without = ["config::unreadable", "config::not_in_this_build"];
        assert_eq!(missing, without, "codes without a fixture");
    }
}

#[test]
fn graphical() {
    let text =
        fs::read_to_string(fixtures("tests/config").iter().find(|p| p.ends_with("many.yaml")).unwrap());
    let report = config::parse(&text.unwrap(), Path::new("many.yaml"), &env).unwrap_err();
    insta::with_settings!({
        snapshot_path => "config", prepend_module_to_snapshot => false, omit_expression => true,
    }, {
        insta::assert_snapshot!("graphical", report.render(Style::Graphical { color: false }));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&report.to_json()).unwrap());
    });
}

#[test]
fn unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let report = config::load(&folder.path().join("none.yaml")).unwrap_err();
    assert_eq!(report.diagnostics()[0].code, Code::Unreadable);
    let large = folder.path().join("large.yaml");
    fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(config::load(&large).unwrap_err().diagnostics()[0].code, Code::Unreadable);
    fs::write(&large, [0xff, 0xfe]).unwrap();
    assert_eq!(config::load(&large).unwrap_err().diagnostics()[0].code, Code::Unreadable);
}

#[test]
fn examples_pass() {
    for file in fixtures("config") {
        // Golden cases, run by `commands_offline`.
        if file.to_str().unwrap().ends_with(".tests.yaml") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        if cfg!(feature = "kafka") || !text.contains("kafka") {
            config::parse(&text, &file, &env).unwrap_or_else(|report| panic!("{report}"));
        }
    }
}

#[test]
fn defaults() {
    let config = parse(
        "source: { url: \"mysql://rowbust@db1\" }\nredis: { main: \"redis://cache\" }\n\
         mappings: [ { table: shop.products, keys: [\"product:{id}\"] } ]\n",
    )
    .unwrap();
    let source = &config.source;
    assert_eq!((source.host.as_str(), source.port, source.user.as_str()), ("db1", 3306, "rowbust"));
    assert_eq!((source.tls.mode, &source.start), (TlsMode::VerifyIdentity, &Start::Latest));
    assert!(matches!(source.password, Password::Empty));
    let redis = &config.redis[0];
    assert_eq!((redis.name.as_str(), redis.addresses(), redis.db), ("main", vec![("cache".into(), 6379)], 0));
    assert!(redis.tls.is_none());
    assert_eq!(config.checkpoint.path, Path::new("/etc/rowbust/rowbust-data/checkpoint"));
    let Retry::Disk { path, policy } = &config.retry else { panic!("{:?}", config.retry) };
    assert_eq!(path, Path::new("/etc/rowbust/rowbust-data/retry"));
    assert_eq!(*policy, RetryPolicy::default());
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8321");
    assert_eq!(config.limits.memory, 48 << 20);
    let mapping = &config.mappings[0];
    assert_eq!((mapping.target, mapping.line), (0, 3));
    assert_eq!((mapping.second_removal, mapping.fill_grace.as_secs()), (SecondRemoval::WhenVisible, 1));
    assert!(mapping.schema_glob.is_match("shop") && !mapping.schema_glob.is_match("shop2"));
}

#[test]
fn values() {
    let config = parse(
        r#"
version: 1
source:
  url: mysql://row%40bust@127.0.0.1:3307
  password: ${MYSQL_PASSWORD}
  replicas: [db2, "[::1]:3308"]
  server_id: 7001
  start: { gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77,
                  4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:1" }
  heartbeat: rowbust.heartbeat
redis:
  main: { url: "rediss://app@cache/3", password_file: pw, tls: { mode: verify_ca, ca_file: "${CERTS}/ca.pem" } }
  other: redis://:6380
"#,
    );
    let report = config.unwrap_err();
    let codes: Vec<_> = report.diagnostics().iter().map(|d| (d.code, d.line)).collect();
    assert_eq!(codes, [(Code::MissingField, 1), (Code::BadUrl, 13)], "{report}");

    let config = parse(
        r#"
source:
  url: mysql://row%40bust@127.0.0.1:3307
  password: ${MYSQL_PASSWORD}
  replicas: [db2, "[::1]:3308"]
  server_id: 7001
  start: { gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77,
                  4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:1" }
  heartbeat: rowbust.heartbeat
redis:
  main: { url: "rediss://app@cache/3", password_file: pw, tls: { mode: verify_ca, ca_file: "${CERTS}/ca.pem" } }
  other: redis://localhost:6380
retry: { attempts: 3, delay: 100ms, disk: { path: "${NOWHERE:-/data}/retry" } }
checkpoint: { path: /var/lib/rowbust/checkpoint }
mappings:
  - table: "shop_*.products"
    when: { column: status, in: [active, 1, "yes", 007], image: after }
    when_changed: [name]
    keys: [ { key: "h:$${id}", op: hdel, field: "{id}", events: [update, delete] } ]
    second_removal: { after: 1s }
    to: other
"#,
    )
    .unwrap_or_else(|report| panic!("{report}"));
    let source = &config.source;
    assert_eq!((source.user.as_str(), source.tls.mode), ("row@bust", TlsMode::Disabled));
    let Password::Value(password) = &source.password else { panic!() };
    assert_eq!(password.expose_secret(), "from-env");
    assert!(!format!("{config:?}").contains("from-env"));
    assert_eq!(source.replicas, [("db2".to_owned(), 3306), ("::1".to_owned(), 3308)]);
    let gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77,4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:1";
    assert_eq!(source.start, Start::Gtid(gtid.into()));
    let redis = &config.redis[0];
    assert_eq!((redis.username.as_deref(), redis.db), (Some("app"), 3));
    let Password::File(file) = &redis.password else { panic!() };
    assert_eq!(file, Path::new("/etc/rowbust/pw"));
    assert_eq!(redis.tls.as_ref().unwrap().ca_file.as_deref(), Some(Path::new("/certs/ca.pem")));
    let Retry::Disk { path, policy } = &config.retry else { panic!() };
    assert_eq!(
        (path.as_path(), *policy),
        (Path::new("/data/retry"), RetryPolicy::one(Duration::from_millis(100), 3))
    );
    let mapping = &config.mappings[0];
    assert_eq!(mapping.when.as_ref().unwrap().any_of, ["active", "1", "yes", "007"]);
    assert_eq!((mapping.target, mapping.line), (1, 16));
    assert!(!mapping.keys[0].events.insert && mapping.keys[0].events.delete);
}

#[test]
fn prefixes_sets_and_leases() {
    let config = parse(
        r#"
source: { url: "mysql://rowbust@127.0.0.1" }
redis: { main: "redis://cache" }
limits: { sweep_keys_per_second: 0 }
mappings:
  - table: shop.products
    guarded: true
    keys_per_second: 100
    keys:
      - { prefix: "feed:{id}:" }
      - { prefix: "list:{id}:", alarm_above: 1, events: [update] }
      - { members_of: "tag:{id}" }
      - { members_of: "any:{id}", members_prefix: ["product:", "page:"] }
      - { members_of: "one:{id}", members_prefix: "product:" }
"#,
    )
    .unwrap_or_else(|report| panic!("{report}"));
    let mapping = &config.mappings[0];
    assert!(mapping.guarded && mapping.fill_grace.is_zero());
    assert_eq!((mapping.keys_per_second, config.limits.sweep_keys_per_second), (100, 0));
    let ops: Vec<String> = mapping.keys.iter().map(|rule| format!("{:?}", rule.op)).collect();
    let expected = [
        "Prefix { alarm_above: 10000 }",
        "Prefix { alarm_above: 1 }",
        "MembersOf { members_prefix: [] }",
        "MembersOf { members_prefix: [\"product:\", \"page:\"] }",
        "MembersOf { members_prefix: [\"product:\"] }",
    ];
    assert_eq!(ops, expected);
    assert!(mapping.keys[1].events.update && !mapping.keys[1].events.insert);
}

/// `docs/config.md` between `<!-- NAME -->` and `<!-- /NAME -->`.
#[test]
fn docs_are_generated() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let text = fs::read_to_string(&file).unwrap();
    let mut new = text.clone();
    let reserved =
        config::RESERVED_PROPERTIES.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
    for (name, table) in [
        ("fields", config::fields_markdown()),
        ("codes", config::codes_markdown()),
        ("reserved", reserved + "\n"),
    ] {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let start = new.find(&open).unwrap() + open.len();
        let end = new.find(&close).unwrap();
        new.replace_range(start..end, &format!("\n{}\n", table.trim()).replace("\n\n\n", "\n\n"));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &new).unwrap();
    } else {
        assert!(
            text == new,
            "docs/config.md is out of date: UPDATE_DOCS=1 cargo test -p rowbust --test config"
        );
    }
}

/// Whole lines of the full example, in any order and damaged: closer to real mistakes than random text.
fn damaged() -> impl Strategy<Value = String> {
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/shop.yaml")).unwrap();
    let len = example.chars().count();
    prop::collection::vec((0..len, 0..12_usize, "[ -~\\n]{0,6}"), 1..6).prop_map(move |cuts| {
        let mut text: Vec<char> = example.chars().collect();
        for (at, len, new) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, new.chars());
        }
        text.into_iter().collect()
    })
}

fn never_panics(text: &str) {
    if let Err(report) = parse(text) {
        assert!(!report.diagnostics().is_empty());
        let _ = report.render(Style::Plain);
        let _ = report.render(Style::Graphical { color: true });
        let _ = report.to_json();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_text_gives_a_config_or_a_report(text in "\\PC{0,200}") {
        never_panics(&text);
    }

    #[test]
    fn any_yamlish_text_gives_a_config_or_a_report(text in "[ \\n\\t:{}\\[\\]\"'&*!|>,#?$%@a-f0-9é\u{0}\u{1b}-]{0,120}") {
        never_panics(&text);
    }

    #[test]
    fn any_damage_gives_a_config_or_a_report(text in damaged()) {
        never_panics(&text);
    }
}
