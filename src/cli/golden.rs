//! `rowbust test`: golden cases, rows in and removals out, by the code of the live path.

use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value, json};

use super::{Exit, Global, load, out};
use crate::{config::Config, route::explain};

/// Arguments of `rowbust test`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exits with 0 if every case holds, with 1 if one doesn't, with 78 if a file is wrong. No server is asked.
The format is described in docs/mappings.md.

Examples:
  rowbust test                                   ./rowbust.tests.yaml, for ./rowbust.yaml
  rowbust -c config/shop.yaml test --json
  rowbust test orders.tests.yaml products.tests.yaml"
)]
pub struct TestArgs {
    /// Files of cases [default: beside the config, NAME.tests.yaml for NAME.yaml]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One more file of cases
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
}

/// Largest file of cases that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    table: String,
    before: Option<Map<String, Value>>,
    after: Option<Map<String, Value>>,
    expect: Vec<Expected>,
}

/// A removal that a case expects: a text alone is a key.
#[derive(Debug, Clone)]
struct Expected {
    removal: Removal,
    target: Option<String>,
}

/// What is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Removal {
    op: &'static str,
    key: String,
    field: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedMap {
    key: Option<String>,
    field: Option<String>,
    prefix: Option<String>,
    members_of: Option<String>,
    target: Option<String>,
}

impl TryFrom<ExpectedMap> for Expected {
    type Error = &'static str;

    fn try_from(map: ExpectedMap) -> Result<Self, Self::Error> {
        let (op, key, field) = match (map.key, map.prefix, map.members_of, map.field) {
            (Some(key), None, None, None) => ("unlink", key, None),
            (Some(key), None, None, field) => ("hdel", key, field),
            (None, Some(prefix), None, None) => ("prefix", prefix, None),
            (None, None, Some(set), None) => ("members_of", set, None),
            _ => {
                return Err(
                    "a removal has one of `key` (with `field` for one of a hash), `prefix`, `members_of`",
                );
            }
        };
        Ok(Self { removal: Removal { op, key, field }, target: map.target })
    }
}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectedVisitor)
    }
}

/// Not an untagged enumeration: that would forget where a mistake stands.
struct ExpectedVisitor;

impl<'de> Visitor<'de> for ExpectedVisitor {
    type Value = Expected;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key in quotes, or a mapping with `key`, `prefix` or `members_of`")
    }

    fn visit_str<E>(self, key: &str) -> Result<Expected, E> {
        Ok(Expected { removal: Removal { op: "unlink", key: key.to_owned(), field: None }, target: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Expected, A::Error> {
        let map = ExpectedMap::deserialize(MapAccessDeserializer::new(map))?;
        map.try_into().map_err(de::Error::custom)
    }
}

/// What came of a case.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    table: String,
    ok: bool,
    /// Expected, and not removed.
    missing: Vec<Line>,
    /// Removed, and not expected.
    unexpected: Vec<Line>,
    /// Why nothing could be said: what the daemon would stop at, or a row that no server gives.
    error: Option<String>,
}

/// A removal, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    #[serde(flatten)]
    removal: Removal,
    target: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.removal.op, out::key(self.removal.key.as_bytes()))?;
        if let Some(field) = &self.removal.field {
            write!(f, " {}", out::key(field.as_bytes()))?;
        }
        self.target.iter().try_for_each(|target| write!(f, " -> {}", out::key(target.as_bytes())))
    }
}

pub(super) fn execute(global: &Global, args: &TestArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let mut files: Vec<PathBuf> = args.files.iter().chain(&args.file).cloned().collect();
    if files.is_empty() {
        files.push(global.config.with_extension("tests.yaml"));
    }
    let mut read = Vec::new();
    for file in &files {
        match cases(file) {
            Ok(cases) => read.push((file.display().to_string(), cases)),
            Err(why) => {
                out::complain(&format!("{}: {why}", file.display()));
                return Exit::Config;
            }
        }
    }
    let ran: Vec<(String, Vec<Outcome>)> = read
        .iter()
        .map(|(file, cases)| (file.clone(), cases.iter().map(|case| run(&config, case)).collect()))
        .collect();
    let all = || ran.iter().flat_map(|(_, outcomes)| outcomes);
    let (total, failed) = (all().count(), all().filter(|outcome| !outcome.ok).count());
    if global.json {
        let files: Vec<Value> =
            ran.iter().map(|(file, outcomes)| json!({ "file": file, "cases": outcomes })).collect();
        out::json(&json!({
            "schema_version": 1, "ok": failed == 0, "total": total, "failed": failed, "files": files,
        }));
    } else {
        out::stdout(&text(&ran, total, failed));
    }
    if failed == 0 { Exit::Ok } else { Exit::Failure }
}

fn cases(file: &Path) -> Result<Vec<Case>, String> {
    let unreadable = |error: std::io::Error| format!("can't read the file of cases: {error}");
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err("the file of cases is larger than 4 MiB: split it up".to_owned());
    }
    let parsed: File = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    if parsed.cases.is_empty() {
        return Err("`cases` is empty: it would hold whatever the config says".to_owned());
    }
    Ok(parsed.cases)
}

fn run(config: &Config, case: &Case) -> Outcome {
    let mut outcome = Outcome {
        name: case.name.clone(),
        table: case.table.clone(),
        ok: false,
        missing: Vec::new(),
        unexpected: Vec::new(),
        error: None,
    };
    let explained = match explain(config, &case.table, case.before.as_ref(), case.after.as_ref()) {
        Ok(explained) => explained,
        Err(error) => {
            outcome.error = Some(error.to_string());
            return outcome;
        }
    };
    // Two mappings, or two images, may give one key: it is removed all the same.
    let mut removed: Vec<Line> = Vec::new();
    for mapping in explained {
        for key in mapping.rules.into_iter().flat_map(|rule| rule.keys) {
            let removal = Removal { op: key.op, key: key.key, field: key.field };
            let line = Line { removal, target: Some(mapping.target.clone()) };
            if !removed.contains(&line) {
                removed.push(line);
            }
        }
    }
    let meant = |expected: &Expected, line: &Line| {
        expected.removal == line.removal && (expected.target.is_none() || expected.target == line.target)
    };
    for expected in &case.expect {
        if !removed.iter().any(|line| meant(expected, line)) {
            outcome.missing.push(Line { removal: expected.removal.clone(), target: expected.target.clone() });
        }
    }
    removed.retain(|line| !case.expect.iter().any(|expected| meant(expected, line)));
    outcome.unexpected = removed;
    outcome.ok = outcome.missing.is_empty() && outcome.unexpected.is_empty();
    outcome
}

fn text(ran: &[(String, Vec<Outcome>)], total: usize, failed: usize) -> String {
    let mut text = String::new();
    for (file, outcomes) in ran {
        text.push_str(&format!("{file}\n"));
        for outcome in outcomes {
            let mark = if outcome.ok { "ok  " } else { "FAIL" };
            text.push_str(&format!("  {mark}  {}\n", out::key(outcome.name.as_bytes())));
            for line in &outcome.missing {
                text.push_str(&format!("        - {line}  (expected, not removed)\n"));
            }
            for line in &outcome.unexpected {
                text.push_str(&format!("        + {line}  (removed, not expected)\n"));
            }
            if let Some(error) = &outcome.error {
                text.push_str(&format!("        {}\n", out::key(error.as_bytes())));
            }
        }
    }
    let cases = if total == 1 { "case" } else { "cases" };
    text + &format!("{total} {cases}, {failed} failed\n")
}
