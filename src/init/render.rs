//! Tables to mappings, as text.
//!
//! Guarantees: each mapping that isn't a comment was read by the config's own reader and matches its table; guesses are templates that parse.
//! May depend on `config`.

use std::{collections::BTreeMap, path::Path};

use rowbust_protocol::template::Template;

use super::{Foreign, InitError, Table, parsed, yaml};

/// Columns in a guess at `when_changed`, at most.
const LISTED: usize = 12;
/// A table without a primary key and with more rows isn't one whose rows are cached.
const LARGE: u64 = 1_000_000;

/// A config that passes `rowbust check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole file.
    pub text: String,
    /// `schema.table` of the tables that are mapped.
    pub mapped: Vec<String>,
    /// Those that stand there as comments only.
    pub left_out: Vec<String>,
}

/// Appends a mapping of each table to the head of a config, which ends with `mappings:`. `file` is where it will stand.
///
/// # Errors
/// No table has a key, or there are too many tables for one file.
pub fn render(head: &str, tables: &[Table], file: &Path) -> Result<Rendered, InitError> {
    let mut schemas_of: BTreeMap<&str, usize> = BTreeMap::new();
    for table in tables {
        *schemas_of.entry(&table.name).or_default() += 1;
    }
    // One name in several schemas would give one key for different rows.
    let prefix = |schema: &str, table: &str| {
        if schemas_of.get(table).is_some_and(|count| *count > 1) {
            yaml::literal(&format!("{schema}:{table}"))
        } else {
            yaml::literal(table)
        }
    };
    let mut out = Rendered { text: head.to_owned(), mapped: Vec::new(), left_out: Vec::new() };
    for table in tables {
        let name = yaml::comment(&format!("{}.{}", table.schema, table.name));
        let made = mapping(table, &prefix);
        let made = made.and_then(|body| stands(head, &body, table, file).map(|()| body));
        let rows = if table.rows > 0 { format!(", about {} rows", table.rows) } else { String::new() };
        match made {
            Ok(body) => {
                out.text.push_str(&format!("  # {name}{rows}\n{body}"));
                out.mapped.push(name);
            }
            Err(why) => {
                out.text.push_str(&format!("  # {name}{rows}: left out, {}\n", yaml::comment(&why)));
                let columns: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
                out.text.push_str(&format!("  #   columns: {}\n", yaml::comment(&columns.join(", "))));
                out.left_out.push(name);
            }
        }
    }
    if out.mapped.is_empty() {
        return Err(InitError::Nothing {
            what: format!("none of {} tables has a primary key or a unique key without NULL", tables.len()),
            help: "a key of the cache is made of columns that tell rows apart: give a table such a key, or write the mappings by hand \
                   (docs/mappings.md)"
                .into(),
        });
    }
    match parsed(&out.text, file) {
        Ok(_) => Ok(out),
        // A mapping that stands alone is right: what they exceed together is the reader's budget.
        Err(_) if out.mapped.len() > 1 => Err(InitError::Nothing {
            what: format!("{} tables are too many for one config", tables.len()),
            help: "choose some by --schema and --tables".into(),
        }),
        Err(report) => Err(InitError::Invalid(report)),
    }
}

/// Whether the mapping, alone, is a valid config and means the table.
fn stands(head: &str, body: &str, table: &Table, file: &Path) -> Result<(), String> {
    let config = parsed(&format!("{head}{body}"), file)
        .map_err(|_| "its names can't be written in a config".to_owned())?;
    let means = |mapping: &crate::config::Mapping| {
        mapping.schema_glob.is_match(&table.schema) && mapping.table_glob.is_match(&table.name)
    };
    if config.mappings.iter().all(means) {
        Ok(())
    } else {
        Err("its name can't be written as a glob".to_owned())
    }
}

/// Types whose text is bytes.
fn filter(table: &Table, column: &str) -> &'static str {
    let data_type =
        table.columns.iter().find(|(name, _)| name == column).map_or("", |(_, kind)| kind.as_str());
    match data_type {
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" => "|hex",
        _ => "",
    }
}

/// `prefix:{a}:{b}`
fn key(prefix: &str, table: &Table, columns: &[String]) -> Option<String> {
    let parts: Option<Vec<String>> =
        columns.iter().map(|column| yaml::placeholder(column, filter(table, column))).collect();
    let text = format!("{prefix}:{}", parts?.join(":"));
    Template::parse(&text).is_ok_and(|template| !template.literal_prefix().is_empty()).then_some(text)
}

fn mapping(table: &Table, prefix: &dyn Fn(&str, &str) -> String) -> Result<String, String> {
    let own = prefix(&table.schema, &table.name);
    let (columns, note) = if !table.primary.is_empty() {
        (&table.primary, "")
    } else if let Some((index, columns, _)) = table.uniques.iter().find(|(_, _, never_null)| *never_null) {
        (columns, if index.is_empty() { "" } else { "  # no primary key: by a unique key" })
    } else if looks_like_a_log(&table.name) {
        return Err(
            "it has no primary key and looks like a log: its rows are hardly cached one by one".into()
        );
    } else if table.rows > LARGE {
        return Err(
            "it has no primary key and is large: which rows are cached under which key isn't known".into()
        );
    } else {
        return Err("it has no primary key: which rows are cached under which key isn't known".into());
    };
    let main = key(&own, table, columns).ok_or("its name and key can't be written in a template")?;
    let (name, wide) = yaml::table(&table.schema, &table.name);
    let mut out = format!(
        "  - table: {}{}\n",
        yaml::quoted(&name),
        if wide { "  # `?` stands for a character that can't be written here, and means any" } else { "" }
    );
    out.push_str(&when_changed(table));
    out.push_str(&format!("    keys:\n      - {}{note}\n", yaml::quoted(&main)));
    for (index, unique, _) in &table.uniques {
        if unique == columns {
            continue;
        }
        let named = unique.iter().map(|column| yaml::literal(column)).collect::<Vec<_>>().join("_");
        if let Some(key) = key(&format!("{own}:{named}"), table, unique) {
            out.push_str(&format!(
                "      # - {}  # unique key {}\n",
                yaml::quoted(&key),
                yaml::comment(index)
            ));
        }
    }
    for foreign in &table.foreign {
        out.push_str(&parents(table, foreign, prefix));
    }
    Ok(out)
}

/// Cached parents that hold some of their children, and lists of children by parent.
fn parents(table: &Table, foreign: &Foreign, prefix: &dyn Fn(&str, &str) -> String) -> String {
    let Foreign { columns, schema, table: parent, .. } = foreign;
    let mut out = String::new();
    let of = yaml::comment(&format!("{schema}.{parent}"));
    let name = prefix(schema, parent);
    if let Some(key) = key(&name, table, columns) {
        let quoted = yaml::quoted(&key);
        out.push_str(&format!(
            "      # - {quoted}  # foreign key: if the cached value of {of} holds rows of this table\n"
        ));
        let list = yaml::quoted(&format!("{key}:{}", yaml::literal(&table.name)));
        out.push_str(&format!("      # - {list}  # if the rows of one {of} are cached as a list\n"));
    }
    out
}

fn looks_like_a_log(name: &str) -> bool {
    let name = name.to_lowercase();
    name.split(|c: char| !c.is_alphanumeric()).any(|word| {
        matches!(
            word,
            "log" | "logs" | "history" | "audit" | "event" | "events" | "archive" | "queue" | "jobs"
        )
    })
}

/// Columns that change without what is cached being another.
fn is_noise(column: &str) -> bool {
    let name = column.to_lowercase();
    let noisy = [
        "updated_at",
        "modified_at",
        "updated",
        "modified",
        "last_seen",
        "last_login",
        "last_active",
        "last_used",
        "touched_at",
        "view_count",
        "views",
        "hits",
        "hit_count",
        "lock_version",
        "row_version",
    ];
    noisy.iter().any(|word| name == *word || name.starts_with(&format!("{word}_")))
}

fn when_changed(table: &Table) -> String {
    let (noise, rest): (Vec<&String>, Vec<&String>) =
        table.columns.iter().map(|(name, _)| name).partition(|name| is_noise(name));
    let writable = |name: &&&String| !name.contains(['`', '{', '}']) && !name.is_empty();
    let rest: Vec<&&String> = rest.iter().filter(|name| !table.primary.contains(name)).collect();
    if noise.is_empty() || rest.is_empty() || rest.len() > LISTED || !rest.iter().all(writable) {
        return String::new();
    }
    let list: Vec<String> = rest.iter().map(|name| yaml::quoted(name)).collect();
    let without: Vec<&str> = noise.iter().map(|name| name.as_str()).collect();
    format!(
        "    # when_changed: [{}]  # without {}: if the cached value does not hold it\n",
        list.join(", "),
        yaml::comment(&without.join(", "))
    )
}
