//! `rowbust why`

use serde_json::{Value, json};

use super::{
    Exit, Global,
    admin::{Admin, Refused},
    load, out,
};
use crate::why::makers;

/// Arguments of `rowbust why`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Which mappings could make the key and of which row; from the running daemon also its newest removals with their
commits, whether it is owed in the retry queue, and its dead letters. The daemon remembers the newest 65536 removals of each target since
its start. Without a daemon only the mappings are shown.

Examples:
  rowbust why product:42
  rowbust why 'category:7:products' --json"
)]
pub struct WhyArgs {
    /// The cache key, as Redis has it
    #[arg(value_name = "KEY")]
    pub key: String,
}

pub(super) fn execute(global: &Global, args: &WhyArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::new(&config);
    let (answer, without) = match admin.get("/why", &[("key", args.key.clone())]) {
        Ok(mut answer) => {
            answer["daemon"] = json!(true);
            (answer, None)
        }
        Err(Refused::NoAnswer(why)) => {
            let answer = json!({
                "schema_version": 1,
                "key": args.key,
                "daemon": false,
                "mappings": makers(&config, args.key.as_bytes()),
            });
            let why = format!(
                "no daemon answers at {} ({why}): its removals and its queue aren't known",
                config.admin.listen
            );
            (answer, Some(why))
        }
        Err(refused) => return admin.complain(global, &refused),
    };
    if global.json {
        out::json(&answer);
    } else {
        out::stdout(&text(&answer));
    }
    if let Some(why) = without {
        out::complain(&why);
    }
    Exit::Ok
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(answer: &Value) -> String {
    let key = out::key(answer["key"].as_str().unwrap_or_default().as_bytes());
    let part = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    let mappings = list(answer, "mappings");
    if mappings.is_empty() {
        text.push_str(&format!("no mapping makes {key}: rowbust never removes it\n"));
    } else {
        text.push_str(&format!("{key} is made by\n"));
        let rows: Vec<Vec<String>> = mappings
            .iter()
            .map(|mapping| {
                let row = match mapping["row"].as_object() {
                    Some(row) if row.is_empty() => "any row".to_owned(),
                    Some(row) => {
                        let all = row
                            .iter()
                            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("NULL")));
                        format!("row {}", out::key(all.collect::<Vec<_>>().join(", ").as_bytes()))
                    }
                    None => "a row that the key doesn't tell".to_owned(),
                };
                let field = mapping["field"].as_str().map_or(String::new(), |field| format!(" {field}"));
                vec![
                    format!("  line {}", mapping["line"]),
                    format!("{} -> {}", part(mapping, "table"), part(mapping, "target")),
                    format!("{} {}{field}", part(mapping, "op"), part(mapping, "template")),
                    row,
                ]
            })
            .collect();
        text.push_str(&out::table(&rows));
    }
    if answer["daemon"] != true {
        return text;
    }
    let removals = list(answer, "removals");
    if removals.is_empty() {
        let since = match answer["journal"]["since_ms"].as_u64() {
            Some(ms) => format!("in the journal, which reaches back {}", out::ago(ms / 1000)),
            None => {
                let up = answer["journal"]["uptime_seconds"].as_f64().unwrap_or_default();
                format!("since the daemon started {up:.0} s ago")
            }
        };
        text.push_str(&format!("\nno removal of it {since}\n"));
    } else {
        text.push_str("\nremovals, newest first\n");
        let rows: Vec<Vec<String>> = removals
            .iter()
            .map(|removal| {
                let waited = removal["waited_seconds"].as_f64().unwrap_or_default() * 1000.0;
                vec![
                    format!("  {}", out::ago(removal["at_ms"].as_u64().unwrap_or_default() / 1000)),
                    part(removal, "removal"),
                    format!("{} {}", part(removal, "target"), part(removal, "op")),
                    format!("{waited:.1} ms after receipt"),
                    format!("{}:{} row {}", part(removal, "file"), removal["position"], removal["row"]),
                    part(removal, "gtid"),
                ]
            })
            .collect();
        text.push_str(&out::table(&rows));
    }
    for (name, title) in [("owed", "owed in the retry queue"), ("dead", "dead letters")] {
        let records = list(answer, name);
        text.push_str(&format!(
            "\n{title}: {}\n",
            if records.is_empty() { "none".to_owned() } else { records.len().to_string() }
        ));
        for record in records {
            text.push_str(&format!(
                "  {} attempt {} {} {}:{}\n",
                part(record, "id"),
                record["attempt"],
                part(record, "error"),
                part(&record["origin"], "file"),
                record["origin"]["position"]
            ));
        }
    }
    if answer["all_looked_through"] == false {
        text.push_str("\nthe queue is too long to look through all of it\n");
    }
    text
}
