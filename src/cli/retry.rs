//! `rowbust retry ls|requeue`

use super::{Exit, Global, block_on, load, out};
use crate::{
    config,
    retry::{Filter, Listed, Queue, RetryError, Which},
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
    let listed = with_queue(global, async |queue| queue.list(which, args.limit).await);
    let listed = match listed {
        Ok(listed) => listed.unwrap_or_default(),
        Err(exit) => return exit,
    };
    if global.json {
        let records: Vec<_> = listed.iter().map(json).collect();
        out::json(&serde_json::json!({ "schema_version": 1, "dead": args.dead, "records": records }));
    } else if listed.is_empty() {
        out::stdout(if args.dead { "no dead letters\n" } else { "no removals are waiting\n" });
    } else {
        let head = ["id", "to", "op", "key", "attempts", "first failed", "error"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(listed.iter().map(row)).collect();
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
    let n = match with_queue(global, async move |queue| queue.requeue(filter).await) {
        Ok(n) => n.unwrap_or(0),
        Err(exit) => return exit,
    };
    if global.json {
        out::json(&serde_json::json!({ "schema_version": 1, "requeued": n }));
    } else {
        out::stdout(&format!("{n} dead letter{} sent back\n", if n == 1 { "" } else { "s" }));
    }
    Exit::Ok
}

/// Opens the queue, asks it, closes it. `None`: there is no queue yet; looking at it doesn't make one.
fn with_queue<T>(
    global: &Global,
    ask: impl AsyncFnOnce(&Queue) -> Result<T, RetryError>,
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
    answer.map(Some).map_err(|error| {
        out::complain(&error.to_string());
        match error {
            RetryError::Unreachable { .. } => Exit::Unavailable,
            _ => Exit::Failure,
        }
    })
}

fn row(listed: &Listed) -> Vec<String> {
    let Some(record) = &listed.record else {
        let why = format!("can't be decoded ({} bytes): {}", listed.raw.len(), listed.reason);
        return vec![listed.id.clone(), String::new(), String::new(), why];
    };
    let field = record.field.as_ref().map(|f| format!(" {}", out::key(f))).unwrap_or_default();
    let reason = if listed.reason.is_empty() { String::new() } else { format!(" ({})", listed.reason) };
    vec![
        listed.id.clone(),
        record.target.clone(),
        if record.field.is_some() { "hdel" } else { "unlink" }.to_owned(),
        out::key(&record.key) + &field,
        record.attempt.to_string(),
        out::ago(record.first_failed_ms / 1000),
        format!("{}{reason}", record.error_code),
    ]
}

fn json(listed: &Listed) -> serde_json::Value {
    let record = listed.record.as_ref().map(|r| {
        serde_json::json!({
            "target": r.target,
            "op": if r.field.is_some() { "hdel" } else { "unlink" },
            "key": out::key(&r.key),
            "field": r.field.as_ref().map(|f| out::key(f)),
            "attempt": r.attempt,
            "not_before_ms": r.not_before_ms,
            "first_failed_ms": r.first_failed_ms,
            "error_code": r.error_code,
            "origin": {
                "source": r.origin.source, "gtid": r.origin.gtid, "file": r.origin.file,
                "position": r.origin.position, "row": r.origin.row, "commit_time": r.origin.commit_time,
            },
        })
    });
    let original = listed.original.as_ref().map(|(topic, partition, offset, time)| {
        serde_json::json!({ "topic": topic, "partition": partition, "offset": offset, "time_ms": time })
    });
    serde_json::json!({
        "id": listed.id, "record": record, "undecoded_bytes": listed.raw.len(), "reason": listed.reason,
        "died_ms": listed.died_ms, "original": original,
    })
}
