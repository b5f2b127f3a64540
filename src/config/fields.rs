//! Every field of the config contract: one table for the validator, its suggestions, and `docs/config.md`.

mod mappings;
mod source;
mod storage;
mod targets;

pub(super) use self::mappings::{KEY, MAPPING, ON_DDL, SECOND_REMOVAL, WHEN};
pub(super) use self::source::{SOURCE, START, TLS};
pub(super) use self::storage::{ADMIN, CHECKPOINT, DISK, KAFKA, LIMITS, RETRY, TIER};
pub(super) use self::targets::{DURABILITY, REDIS, SENTINEL, TARGET};

/// A mapping of the file.
#[derive(Debug)]
pub struct Section {
    /// Where it stands, with `[]` for entries of a list and `NAME` for free names; empty for the file itself.
    pub path: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// Help for names that people try here: what they write, what to write instead.
    pub hints: &'static [(&'static str, &'static str)],
}

/// A field of a [`Section`].
#[derive(Debug)]
pub struct Field {
    /// As written.
    pub name: &'static str,
    /// What may stand there, with unit.
    pub takes: &'static str,
    /// What holds when it isn't there.
    pub default: Default,
    /// What it means.
    pub about: &'static str,
}

/// What holds when a field isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It has to be there.
    Required,
    /// In words or as a value.
    Is(&'static str),
}

const fn required(name: &'static str, takes: &'static str, about: &'static str) -> Field {
    Field { name, takes, default: Default::Required, about }
}

const fn field(name: &'static str, takes: &'static str, default: &'static str, about: &'static str) -> Field {
    Field { name, takes, default: Default::Is(default), about }
}

/// All sections, in the order of the documentation.
pub const SECTIONS: &[&Section] = &[
    &ROOT,
    &SOURCE,
    &START,
    &TLS,
    &REDIS,
    &TARGET,
    &SENTINEL,
    &DURABILITY,
    &RETRY,
    &TIER,
    &KAFKA,
    &DISK,
    &CHECKPOINT,
    &ADMIN,
    &LIMITS,
    &MAPPING,
    &ON_DDL,
    &WHEN,
    &KEY,
    &SECOND_REMOVAL,
];

/// The file itself.
pub(super) static ROOT: Section = Section {
    path: "",
    about: "The file.",
    fields: &[
        field("version", "`1`", "`1`", "Version of this format."),
        required("source", "mapping", "The MySQL or MariaDB server whose binlog is followed."),
        required("redis", "mapping of names to targets", "Where keys are removed."),
        field("retry", "mapping", "the local store", "Where removals that failed are kept until they work."),
        field("checkpoint", "mapping", "see below", "Where the position to resume from is kept."),
        field("admin", "mapping", "see below", "The HTTP server for health, metrics and status."),
        field("limits", "mapping", "see below", "Bounds."),
        required("mappings", "list, at least one entry", "Which tables' rows make which keys wrong."),
    ],
    hints: &[
        ("mysql", "the server stands under `source`"),
        ("database", "the server stands under `source`"),
        ("tables", "tables stand in `mappings`, one entry each with `table`"),
        (
            "kafka",
            "Kafka stands under `retry`: `retry: { kafka: { brokers: [\"host:9092\"], prefix: NAME } }`",
        ),
    ],
};

/// The tables of `docs/config.md`.
pub fn fields_markdown() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let title = if section.path.is_empty() { "The file" } else { section.path };
        let title = if section.path.is_empty() { title.to_owned() } else { format!("`{title}`") };
        out.push_str(&format!("### {title}\n\n{}\n\n", section.about));
        out.push_str("| field | takes | default | meaning |\n|---|---|---|---|\n");
        for f in section.fields {
            let default = match f.default {
                Default::Required => "**required**",
                Default::Is(text) => text,
            };
            out.push_str(&format!("| `{}` | {} | {default} | {} |\n", f.name, f.takes, f.about));
        }
        out.push('\n');
    }
    out
}

/// The table of codes of `docs/config.md`.
pub fn codes_markdown() -> String {
    let mut out = String::from("| code | meaning |\n|---|---|\n");
    for code in super::Code::ALL {
        out.push_str(&format!("| `{}` | {} |\n", code.name(), code.about().trim().replace('|', "\\|")));
    }
    out
}
