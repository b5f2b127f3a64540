//! What was found, line by line.
//!
//! Guarantees: each line has a stable code of [`CODES`], and each that isn't ok says what to do. May depend on nothing of ours.

use serde_json::{Value, json};

/// Every code that a line can have: `GROUP.WHAT`. docs/check.md has a section for each.
pub const CODES: &[&str] = &[
    "source.connect",
    "source.tls",
    "source.version",
    "source.binlog",
    "source.binlog_format",
    "source.binlog_row_image",
    "source.binlog_row_value_options",
    "source.binlog_row_metadata",
    "source.gtid_mode",
    "source.commit_order",
    "source.durability",
    "source.filters",
    "source.chain",
    "source.group",
    "source.driver",
    "source.grants",
    "source.server_id",
    "source.lease",
    "source.heartbeat",
    "source.start",
    "source.retention",
    "source.answer",
    "tables.mapping",
    "tables.grants",
    "tables.columns",
    "tables.types",
    "tables.cascades",
    "tables.answer",
    "replicas.connect",
    "replicas.source",
    "replicas.running",
    "replicas.gtid_mode",
    "replicas.commit_order",
    "replicas.read_only",
    "replicas.answer",
    "redis.connect",
    "redis.sentinels",
    "redis.cluster",
    "redis.version",
    "redis.role",
    "redis.commands",
    "redis.keys",
    "redis.marks",
    "redis.eviction",
    "redis.persistence",
    "redis.replicas",
    "redis.answer",
    "retry.queue",
    "retry.brokers",
    "retry.topic",
    "retry.group",
    "retry.answer",
    "machine.clock",
    "machine.checkpoint",
    "machine.files",
    "machine.space",
    "machine.secrets",
    "machine.admin",
    "machine.open_files",
    "machine.answer",
];

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Works, but may surprise.
    Warning,
    /// The daemon would not start, would stop, or would leave stale keys behind.
    Error,
    /// Nothing is known.
    NotTested,
}

impl Mark {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Error, Self::NotTested];

    /// In JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::NotTested => "not_tested",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Stable name.
    pub code: &'static str,
    /// How it is.
    pub mark: Mark,
    /// What was found.
    pub text: String,
    /// What to do; several lines are possible. `None` only where it is ok.
    pub help: Option<String>,
    /// A server can't be reached: waiting may help.
    pub unreachable: bool,
}

/// The lines about one server or one part of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `source`, `tables`, `replicas`, `redis`, `retry`, `machine`.
    pub name: &'static str,
    /// With the address or name.
    pub title: String,
    /// In the order in which they were looked at.
    pub lines: Vec<Line>,
}

impl Group {
    pub(super) fn new(name: &'static str, title: impl Into<String>) -> Self {
        Self { name, title: title.into(), lines: Vec::new() }
    }

    pub(super) fn push(&mut self, code: &'static str, finding: Finding) {
        debug_assert!(CODES.contains(&code), "{code} is not in CODES");
        let (mark, text, help, unreachable) = match finding {
            Finding::Ok(text) => (Mark::Ok, text, None, false),
            Finding::Warning(text, help) => (Mark::Warning, text, Some(help), false),
            Finding::Error(text, help) => (Mark::Error, text, Some(help), false),
            Finding::Unreachable(text, help) => (Mark::Error, text, Some(help), true),
            Finding::NotTested(text, help) => (Mark::NotTested, text, Some(help), false),
        };
        self.lines.push(Line { code, mark, text, help, unreachable });
    }

    pub(super) fn ok(&mut self, code: &'static str, text: impl Into<String>) {
        self.push(code, Finding::Ok(text.into()));
    }

    pub(super) fn warning(&mut self, code: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.push(code, Finding::Warning(text.into(), help.into()));
    }

    pub(super) fn error(&mut self, code: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.push(code, Finding::Error(text.into(), help.into()));
    }

    pub(super) fn unreachable(
        &mut self,
        code: &'static str,
        text: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(code, Finding::Unreachable(text.into(), help.into()));
    }

    pub(super) fn not_tested(
        &mut self,
        code: &'static str,
        text: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(code, Finding::NotTested(text.into(), help.into()));
    }

    /// One line for what is the same on several servers: those that aren't well, or else one for all.
    pub(super) fn merge(&mut self, code: &'static str, found: Vec<(String, Finding)>) {
        let several = found.len() > 1;
        let (well, unwell): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(_, finding)| matches!(finding, Finding::Ok(_)));
        if unwell.is_empty() {
            let mut texts: Vec<String> = Vec::new();
            for (_, finding) in well {
                if let Finding::Ok(text) = finding
                    && !texts.contains(&text)
                {
                    texts.push(text);
                }
            }
            if !texts.is_empty() {
                self.ok(code, texts.join("; "));
            }
            return;
        }
        for (at, finding) in unwell {
            let at = |text: String| if several { format!("{at}: {text}") } else { text };
            self.push(
                code,
                match finding {
                    Finding::Ok(text) => Finding::Ok(at(text)),
                    Finding::Warning(text, help) => Finding::Warning(at(text), help),
                    Finding::Error(text, help) => Finding::Error(at(text), help),
                    Finding::Unreachable(text, help) => Finding::Unreachable(at(text), help),
                    Finding::NotTested(text, help) => Finding::NotTested(at(text), help),
                },
            );
        }
    }
}

/// A line without its code: what was found, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    Ok(String),
    Warning(String, String),
    Error(String, String),
    Unreachable(String, String),
    NotTested(String, String),
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Source, tables, read sources, redis targets, retry, this machine.
    pub groups: Vec<Group>,
}

/// The report in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No error.
    Good,
    /// A server can't be reached, and nothing else is wrong: waiting may help.
    Unreachable,
    /// A setting of the config, of a server or of this machine is wrong.
    Wrong,
}

impl Report {
    /// All lines.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.groups.iter().flat_map(|group| &group.lines)
    }

    /// Lines with this mark.
    pub fn count(&self, mark: Mark) -> usize {
        self.lines().filter(|line| line.mark == mark).count()
    }

    /// `strict`: a warning counts as wrong.
    pub fn verdict(&self, strict: bool) -> Verdict {
        let wrong = |line: &Line| {
            (line.mark == Mark::Error && !line.unreachable) || (strict && line.mark == Mark::Warning)
        };
        if self.lines().any(wrong) {
            Verdict::Wrong
        } else if self.lines().any(|line| line.unreachable) {
            Verdict::Unreachable
        } else {
            Verdict::Good
        }
    }

    /// Groups and lines as data.
    pub fn to_json(&self) -> Value {
        let line = |line: &Line| {
            json!({
                "code": line.code, "mark": line.mark.as_str(), "text": line.text, "help": line.help,
                "unreachable": line.unreachable,
            })
        };
        let group = |group: &Group| {
            json!({
                "name": group.name, "title": group.title,
                "lines": group.lines.iter().map(line).collect::<Vec<_>>(),
            })
        };
        let counts: serde_json::Map<String, Value> =
            Mark::ALL.iter().map(|mark| (mark.as_str().to_owned(), json!(self.count(*mark)))).collect();
        json!({ "counts": counts, "groups": self.groups.iter().map(group).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: &[Finding]) -> Report {
        let mut group = Group::new("source", "source");
        for finding in findings {
            group.push("source.answer", finding.clone());
        }
        Report { groups: vec![group] }
    }

    #[test]
    fn what_is_wrong_counts_more_than_what_is_away() {
        let text = || ("a".to_owned(), "b".to_owned());
        let ok = Finding::Ok("a".into());
        let warning = Finding::Warning(text().0, text().1);
        let error = Finding::Error(text().0, text().1);
        let away = Finding::Unreachable(text().0, text().1);
        let unknown = Finding::NotTested(text().0, text().1);
        for (findings, strict, verdict) in [
            (vec![ok.clone(), unknown.clone()], true, Verdict::Good),
            (vec![ok.clone(), warning.clone()], false, Verdict::Good),
            (vec![ok.clone(), warning], true, Verdict::Wrong),
            (vec![away.clone(), ok.clone()], false, Verdict::Unreachable),
            (vec![away, error, ok], false, Verdict::Wrong),
            (vec![], true, Verdict::Good),
        ] {
            assert_eq!(report(&findings).verdict(strict), verdict, "{findings:?}");
        }
    }

    #[test]
    fn several_servers_that_are_well_are_one_line() {
        let mut group = Group::new("redis", "redis");
        let ok = |text: &str| Finding::Ok(text.into());
        group.merge("redis.version", vec![("a".into(), ok("7")), ("b".into(), ok("7"))]);
        group.merge(
            "redis.version",
            vec![("a".into(), ok("7")), ("b".into(), Finding::Error("5".into(), "x".into()))],
        );
        group.merge("redis.version", vec![("a".into(), Finding::Error("5".into(), "x".into()))]);
        let texts: Vec<_> = group.lines.iter().map(|line| (line.mark, line.text.as_str())).collect();
        assert_eq!(texts, [(Mark::Ok, "7"), (Mark::Error, "b: 5"), (Mark::Error, "5")]);
    }

    #[test]
    fn every_code_is_explained() {
        let page = include_str!("../../docs/check.md");
        for code in CODES {
            assert!(page.contains(&format!("| `{code}` |")), "{code} is not in docs/check.md");
        }
        for line in page.lines().filter_map(|line| line.strip_prefix("| `")) {
            let code = line.split('`').next().unwrap_or_default();
            assert!(CODES.contains(&code), "{code} of docs/check.md is no code");
        }
    }
}
