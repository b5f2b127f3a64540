//! `rowbust retry ls|requeue`

use serde_json::{Value, json};

use super::{Exit, Global, admin::Admin, block_on, load, out};
use crate::{
    config,
    retry::{Filter, Queue, RetryError, Which, show::listed_json},
};

/// Arguments of `rowbust retry ls`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  rowbust retry ls\n  rowbust retry ls --dead --limit 10 --json")]
pub struct LsArgs {
    /// Dead letters instead of removals that wait
    #[arg(long)]
    pub dead: bool,
    /// At most so many, oldest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// Arguments of `rowbust retry requeue`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Without a filter, all dead letters are sent back; those that can't be decoded stay.

Examples:
  rowbust retry requeue
  rowbust retry requeue --to main --error WRONGTYPE --key-prefix product:")]
pub struct RequeueArgs {
    /// Only those of this Redis target
    #[arg(long, value_name = "TARGET")]
    pub to: Option<String>,
    /// Only keys that begin so
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Only those whose newest error has this code, e.g. WRONGTYPE
    #[arg(long, value_name = "CODE")]
    pub error: Option<String>,
}

pub(super) fn ls(global: &Global, args: &LsArgs) -> Exit {
    let which = if args.dead { Which::Dead } else { Which::Pending };
    let query = [("dead", args.dead.to_string()), ("limit", args.limit.to_string())];
    let records = with_queue(
        global,
        async |queue| Ok(queue.list(which, args.limit).await?.iter().map(listed_json).collect()),
        |admin| {
            admin
                .get("/retry", &query)
                .map(|answer| answer["records"].as_array().cloned().unwrap_or_default())
        },
    );
    let records: Vec<Value> = match records {
        Ok(records) => records.unwrap_or_default(),
        Err(exit) => return exit,
    };
    if global.json {
        out::json(&json!({ "schema_version": 1, "dead": args.dead, "records": records }));
    } else if records.is_empty() {
        out::stdout(if args.dead { "no dead letters\n" } else { "no removals are waiting\n" });
    } else {
        let head = ["id", "to", "op", "key", "attempts", "first failed", "error"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(records.iter().map(row)).collect();
        out::stdout(&out::table(&rows));
    }
    Exit::Ok
}

pub(super) fn requeue(global: &Global, args: &RequeueArgs) -> Exit {
    let filter = Filter {
        target: args.to.clone(),
        key_prefix: args.key_prefix.clone().map(String::into_bytes),
        error_code: args.error.clone(),
    };
    let body = json!({ "target": args.to, "key_prefix": args.key_prefix, "error_code": args.error });
    let n = with_queue(
        global,
        async move |queue| queue.requeue(filter).await,
        |admin| {
            admin.post("/retry/requeue", &body).map(|answer| answer["requeued"].as_u64().unwrap_or_default())
        },
    );
    let n = match n {
        Ok(n) => n.unwrap_or(0),
        Err(exit) => return exit,
    };
    if global.json {
        out::json(&json!({ "schema_version": 1, "requeued": n }));
    } else {
        out::stdout(&format!("{n} dead letter{} sent back\n", if n == 1 { "" } else { "s" }));
    }
    Exit::Ok
}

/// Opens the queue, asks it, closes it; a store that the running daemon holds is asked through its admin address. `None`: there is no
/// queue yet; looking at it doesn't make one.
fn with_queue<T>(
    global: &Global,
    ask: impl AsyncFnOnce(&Queue) -> Result<T, RetryError>,
    ask_daemon: impl FnOnce(&Admin) -> Result<T, ureq::Error>,
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
        Err(locked @ RetryError::Locked { .. }) => {
            let admin = Admin::new(&config);
            ask_daemon(&admin).map(Some).map_err(|error| {
                out::complain(&format!("{locked}, and {admin} doesn't answer: {error}"));
                Exit::Unavailable
            })
        }
        Err(error) => {
            out::complain(&error.to_string());
            Err(match error {
                RetryError::Unreachable { .. } => Exit::Unavailable,
                _ => Exit::Failure,
            })
        }
    }
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
    vec![
        text("id"),
        text("target"),
        text("op"),
        text("key") + &field.unwrap_or_default(),
        listed["attempt"].to_string(),
        out::ago(listed["first_failed_ms"].as_u64().unwrap_or_default() / 1000),
        text("error") + &reason,
    ]
}
