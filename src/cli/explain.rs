//! `rowbust explain`

use serde_json::{Map, Value};

use super::{Exit, Global, load, out};
use crate::route::{ExplainError, Explained, explain};

/// Arguments of `rowbust explain`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Only --after is an INSERT, only --before a DELETE, both an UPDATE. Values are the server's text
form as a string, an integer, or null.

Examples:
  rowbust explain --table shop.products --after '{\"id\": \"1\", \"sku\": \"A-1\"}'
  rowbust explain --table shop.products --before '{\"id\": 1, \"sku\": \"A-1\"}' --after '{\"id\": 1, \"sku\": \"B-2\"}'"
)]
pub struct ExplainArgs {
    /// Table of the row
    #[arg(long, value_name = "DB.TABLE")]
    pub table: String,
    /// The row before the change, as a JSON object of columns
    #[arg(long, value_name = "JSON", value_parser = row)]
    pub before: Option<Row>,
    /// The row after the change, as a JSON object of columns
    #[arg(long, value_name = "JSON", value_parser = row)]
    pub after: Option<Row>,
}

/// Columns and values of a row.
type Row = Map<String, Value>;

fn row(text: &str) -> Result<Row, String> {
    serde_json::from_str(text).map_err(|e| format!("not a JSON object: {e}"))
}

pub(super) fn execute(global: &Global, args: &ExplainArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match explain(&config, &args.table, args.before.as_ref(), args.after.as_ref()) {
        Ok(explained) if global.json => {
            out::json(
                &serde_json::json!({ "schema_version": 1, "table": args.table, "mappings": explained }),
            );
            Exit::Ok
        }
        Ok(explained) => {
            out::stdout(&text(&args.table, &explained));
            Exit::Ok
        }
        Err(error) => {
            out::complain(&error.to_string());
            // What the daemon would stop at is no mistake of the command line.
            if matches!(error, ExplainError::Route(_)) { Exit::Failure } else { Exit::Usage }
        }
    }
}

fn text(table: &str, explained: &[Explained]) -> String {
    let mut text = String::new();
    for mapping in explained {
        let Explained { line, table, target, .. } = mapping;
        text.push_str(&format!("mapping in line {line}: {table} -> {target}\n"));
        if let Some(why) = &mapping.skipped {
            text.push_str(&format!("  skipped: {why}\n"));
        }
        for rule in &mapping.rules {
            text.push_str(&format!("  {} (line {})\n", rule.template, rule.line));
            let rows: Vec<Vec<String>> = rule
                .keys
                .iter()
                .map(|key| {
                    let field = key.field.as_ref().map(|f| format!(" {}", out::key(f.as_bytes())));
                    let image = key.image.as_ref().map(|i| format!("from the row {i}"));
                    let escaped = if key.escaped { "escaped" } else { "" };
                    // It is no glob: what a value may hold of one is literal.
                    let rest = if key.op == "prefix" { " and whatever follows" } else { "" };
                    vec![
                        format!("    {}", key.op),
                        out::key(key.key.as_bytes()) + &field.unwrap_or_default() + rest,
                        image.unwrap_or_default(),
                        escaped.to_owned(),
                    ]
                })
                .collect();
            text.push_str(&out::table(&rows));
            for why in &rule.skipped {
                text.push_str(&format!("    no key: {why}\n"));
            }
        }
    }
    let all = || explained.iter().flat_map(|mapping| &mapping.rules).flat_map(|rule| &rule.keys);
    let count = |ops: &[&str]| all().filter(|key| ops.contains(&key.op)).count();
    let counted = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    if explained.iter().all(|m| m.skipped.is_some()) {
        text.push_str(&format!("no mapping takes this change of {table}\n"));
    } else {
        text.push_str(&counted(count(&["unlink", "hdel"]), "key"));
        for (op, one) in [("prefix", "prefix"), ("members_of", "set")] {
            match count(&[op]) {
                0 => {}
                1 => text.push_str(&format!(", 1 {one}")),
                n => text.push_str(&format!(", {n} {}", if one == "set" { "sets" } else { "prefixes" })),
            }
        }
        text.push_str(" to remove\n");
    }
    text
}
