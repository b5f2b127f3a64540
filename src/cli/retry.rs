//! `rowbust retry ls|show|requeue|drop`

use serde_json::{Value, json};

use super::{
    Exit, Global,
    admin::{Admin, Refused},
    block_on, load, out,
};
use crate::{
    config::{self, Config},
    retry::{Filter, Queue, RetryError, Which, show::listed_json},
};

/// Letters of one step of a long change: between two of them progress is shown.
const STEP: usize = 2000;
/// Letters that a dry run lists; all are counted.
const SAMPLE: usize = 20;
/// The most that a dry run counts.
const COUNT: usize = 10_000;

/// Which records are meant: all that every given option takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FilterArgs {
    /// Only those of this Redis target
    #[arg(long, value_name = "TARGET")]
    pub to: Option<String>,
    /// Only keys that begin so
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Only keys like this glob, e.g. 'product:*'
    #[arg(long, value_name = "GLOB")]
    pub key: Option<String>,
    /// Only those whose newest error has this code, e.g. WRONGTYPE
    #[arg(long, value_name = "CODE")]
    pub error: Option<String>,
    /// Only these, by the id that `ls` prints; may be repeated
    #[arg(long, value_name = "ID")]
    pub id: Vec<String>,
    /// Only what failed first at least so long ago, e.g. 2h
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub older: Option<u64>,
    /// Only what failed first less long ago than this
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub younger: Option<u64>,
}

/// A duration in seconds.
fn age(text: &str) -> Result<u64, String> {
    config::duration(text).map(|duration| duration.as_secs())
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            target: self.to.clone(),
            key_prefix: self.key_prefix.clone(),
            key_glob: self.key.clone(),
            error_code: self.error.clone(),
            ids: self.id.clone(),
            older_seconds: self.older,
            younger_seconds: self.younger,
            died_before_ms: None,
        }
    }
}

/// Arguments of `rowbust retry ls`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  rowbust retry ls\n  rowbust retry ls --dead --limit 10 --json\n  rowbust retry ls --dead --key 'product:*' --older 1h"
)]
pub struct LsArgs {
    /// Dead letters instead of removals that wait
    #[arg(long)]
    pub dead: bool,
    /// At most so many, oldest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Arguments of `rowbust retry show`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  rowbust retry show 17")]
pub struct ShowArgs {
    /// Ids that `ls` prints
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
}

/// Arguments of `rowbust retry requeue`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "They begin anew in the first tier, with no attempt used up; when they failed first is kept. Without a filter, all dead \
letters are sent back; those that can't be decoded, and rows that gave no key, stay.

Examples:
  rowbust retry requeue --dry-run
  rowbust retry requeue --to main --error WRONGTYPE --key-prefix product:"
)]
pub struct RequeueArgs {
    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only say which are meant
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `rowbust retry drop`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "A dropped removal is never made: the cached value stays as old as it is. Without a filter, --yes is needed.

Examples:
  rowbust retry drop --id 17
  rowbust retry drop --older 168h --dry-run
  rowbust retry drop --yes"
)]
pub struct DropArgs {
    /// Which.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only say which are meant
    #[arg(long)]
    pub dry_run: bool,
    /// Drop every dead letter
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn ls(global: &Global, args: &LsArgs) -> Exit {
    let which = if args.dead { Which::Dead } else { Which::Pending };
    let records = match find(global, which, &args.filter.filter(), args.limit) {
        Ok(records) => records,
        Err(exit) => return exit,
    };
    if global.json {
        out::json(&json!({ "schema_version": 1, "dead": args.dead, "records": records }));
    } else if records.is_empty() {
        out::stdout(if args.dead { "no dead letters\n" } else { "no removals are waiting\n" });
    } else {
        out::stdout(&table(&records));
    }
    Exit::Ok
}

pub(super) fn show(global: &Global, args: &ShowArgs) -> Exit {
    let filter = Filter { ids: args.ids.clone(), ..Filter::default() };
    let mut records = Vec::new();
    for which in [Which::Dead, Which::Pending] {
        match find(global, which, &filter, args.ids.len()) {
            Ok(found) => records.extend(found),
            Err(exit) => return exit,
        }
    }
    let missing: Vec<&String> =
        args.ids.iter().filter(|id| !records.iter().any(|record| record["id"] == id.as_str())).collect();
    if global.json {
        out::json(&json!({ "schema_version": 1, "records": records, "missing": missing }));
    } else {
        for record in &records {
            let mut rows = Vec::new();
            lines("", record, &mut rows);
            out::stdout(&(out::table(&rows) + "\n"));
        }
    }
    for id in &missing {
        out::complain(&format!(
            "there is nothing with the id {id}: it was removed, or moved on since it was listed"
        ));
    }
    if missing.is_empty() { Exit::Ok } else { Exit::Failure }
}

/// A value as lines of name and value, nested names with dots.
fn lines(prefix: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            Value::Object(_) => lines(&format!("{name}."), value, rows),
            Value::String(text) => rows.push(vec![name, out::key(text.as_bytes())]),
            Value::Number(at)
                if name.ends_with("_ms") && at.as_u64().is_some_and(|at| at > 1_000_000_000_000) =>
            {
                rows.push(vec![
                    name,
                    format!("{at}  ({})", out::ago(at.as_u64().unwrap_or_default() / 1000)),
                ]);
            }
            other => rows.push(vec![name, other.to_string()]),
        }
    }
}

/// What is done with letters.
#[derive(Debug, Clone, Copy)]
struct Act {
    path: &'static str,
    /// As it stands in the answer.
    done: &'static str,
    /// For people.
    words: &'static str,
    requeue: bool,
}

const REQUEUE: Act = Act { path: "/retry/requeue", done: "requeued", words: "sent back", requeue: true };
const DROP: Act = Act { path: "/retry/drop", done: "dropped", words: "dropped", requeue: false };

pub(super) fn requeue(global: &Global, args: &RequeueArgs) -> Exit {
    sweep(global, &args.filter.filter(), args.dry_run, REQUEUE)
}

pub(super) fn drop_letters(global: &Global, args: &DropArgs) -> Exit {
    let filter = args.filter.filter();
    if filter.is_all() && !args.yes && !args.dry_run {
        out::complain("this would drop every dead letter: say which (see --help), or --yes");
        return Exit::Usage;
    }
    sweep(global, &filter, args.dry_run, DROP)
}

fn sweep(global: &Global, filter: &Filter, dry_run: bool, act: Act) -> Exit {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    if dry_run {
        let records = match find(global, Which::Dead, filter, COUNT) {
            Ok(records) => records,
            Err(exit) => return exit,
        };
        let meant: Vec<Value> = records
            .into_iter()
            .filter(|record| !act.requeue || (record["raw"].is_null() && record["op"] != "row"))
            .collect();
        let n = meant.len() as u64;
        if global.json {
            out::json(&json!({ "schema_version": 1, act.done: 0, "would": n, "records": meant }));
        } else {
            if n > 0 {
                out::stdout(&table(&meant[..meant.len().min(SAMPLE)]));
            }
            let more = if meant.len() == COUNT { " or more" } else { "" };
            out::stdout(&format!("{n}{more} dead letter{} would be {}\n", plural(n), act.words));
        }
        return Exit::Ok;
    }
    let mut n = 0;
    let mut filter = filter.clone();
    loop {
        let body = json!({ "filter": filter, "limit": STEP, "all": true });
        let step = with_queue(
            global,
            async |queue| {
                let began_ms = queue.now_ms();
                let swept = match act.requeue {
                    true => queue.requeue(&filter, STEP).await?,
                    false => queue.drop_letters(&filter, STEP).await?,
                };
                Ok((swept.letters, swept.more, Some(began_ms)))
            },
            |admin| {
                let answer = admin.post(act.path, &body)?;
                let letters = answer[act.done].as_u64().unwrap_or_default();
                Ok((letters, answer["more"] == true, answer["began_ms"].as_u64()))
            },
        );
        match step {
            Ok(None) => break,
            Ok(Some((letters, more, began_ms))) => {
                n += letters;
                // What is sent back now and fails again before the last step is no part of this command: it might never end.
                filter.died_before_ms = filter.died_before_ms.or(began_ms);
                if !more {
                    break;
                }
                if !global.json {
                    out::stderr(&format!("{n} {} so far\n", act.words));
                }
            }
            Err(exit) => return exit,
        }
    }
    if global.json {
        out::json(&json!({ "schema_version": 1, act.done: n }));
    } else {
        out::stdout(&format!("{n} dead letter{} {}\n", plural(n), act.words));
    }
    Exit::Ok
}

fn find(global: &Global, which: Which, filter: &Filter, limit: usize) -> Result<Vec<Value>, Exit> {
    let mut query = vec![("dead", (which == Which::Dead).to_string()), ("limit", limit.to_string())];
    let texts = [
        ("target", filter.target.clone()),
        ("key_prefix", filter.key_prefix.clone()),
        ("key_glob", filter.key_glob.clone()),
        ("error_code", filter.error_code.clone()),
        ("ids", Some(filter.ids.join(",")).filter(|ids| !ids.is_empty())),
        ("older_seconds", filter.older_seconds.map(|n| n.to_string())),
        ("younger_seconds", filter.younger_seconds.map(|n| n.to_string())),
    ];
    query.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text?))));
    let found = with_queue(
        global,
        async |queue| Ok(queue.find(which, filter, limit).await?.iter().map(listed_json).collect()),
        |admin| {
            let answer = admin.get("/retry", &query)?;
            Ok(answer["records"].as_array().cloned().unwrap_or_default())
        },
    );
    Ok(found?.unwrap_or_default())
}

/// Opens the queue, asks it, closes it; a store that the running daemon holds is asked through its admin address. `None`: there is no
/// queue yet; looking at it doesn't make one.
fn with_queue<T>(
    global: &Global,
    ask: impl AsyncFnOnce(&Queue) -> Result<T, RetryError>,
    ask_daemon: impl FnOnce(&Admin) -> Result<T, Refused>,
) -> Result<Option<T>, Exit> {
    let config = load(global)?;
    if let config::Retry::Disk { path, .. } = &config.retry
        && !path.exists()
    {
        return Ok(None);
    }
    let answer = block_on(async {
        let queue = Queue::open(&config.retry).await?;
        let answer = ask(&queue).await;
        queue.close().await;
        answer
    })?;
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(locked @ RetryError::Locked { .. }) => by_daemon(global, &config, &locked, ask_daemon).map(Some),
        Err(error) => {
            out::complain(&error.to_string());
            Err(match error {
                RetryError::Unreachable { .. } => Exit::Unavailable,
                RetryError::Filter(_) => Exit::Usage,
                _ => Exit::Failure,
            })
        }
    }
}

fn by_daemon<T>(
    global: &Global,
    config: &Config,
    locked: &RetryError,
    ask: impl FnOnce(&Admin) -> Result<T, Refused>,
) -> Result<T, Exit> {
    let admin = Admin::new(config);
    ask(&admin).map_err(|error| match error {
        Refused::NoAnswer(_) => {
            out::complain(&format!("{locked}, and {admin} doesn't answer: {error}"));
            Exit::Unavailable
        }
        Refused::Said { .. } => admin.complain(global, &error),
    })
}

fn table(records: &[Value]) -> String {
    let head = ["id", "to", "op", "key", "attempts", "first failed", "error"].map(String::from).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(records.iter().map(row)).collect();
    out::table(&rows)
}

/// One line of the table, from [`listed_json`].
fn row(listed: &Value) -> Vec<String> {
    let text = |name: &str| listed[name].as_str().unwrap_or_default().to_owned();
    let reason = text("reason");
    if let Some(raw) = listed["raw"].as_str() {
        return vec![text("id"), String::new(), String::new(), format!("can't be decoded: {raw} {reason}")];
    }
    let field = listed["field"].as_str().map(|field| format!(" {field}"));
    let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
    let key = match listed["table"].as_str() {
        Some(table) => {
            format!(
                "of {table} at {}:{}",
                listed["origin"]["file"].as_str().unwrap_or_default(),
                listed["origin"]["position"]
            )
        }
        None => text("key") + &field.unwrap_or_default(),
    };
    vec![
        text("id"),
        text("target"),
        text("op"),
        key,
        listed["attempt"].to_string(),
        out::ago(listed["first_failed_ms"].as_u64().unwrap_or_default() / 1000),
        text("error") + &reason,
    ]
}
