//! `POST /pause`, `/resume`, `/reload`; `GET /why`. May depend on `journal`, `reload`, `retry` and the state.

use std::{sync::Arc, time::UNIX_EPOCH};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    error::{ApiError, Body, Query},
    status::Status,
};
use crate::{
    journal::{Journal, Removed},
    reload::{Outcome, Reloads},
    retry::{Filter, Listed, RetryError, Which, show::listed_json},
    source::{Pause, pause::Held},
    why,
};

/// What outlives a new beginning of the daemon and can be asked from outside.
#[derive(Debug)]
pub struct Control {
    /// Whether reading is held.
    pub pause: Pause,
    /// The newest removals.
    pub journal: Arc<Journal>,
    /// Takes the config file anew.
    pub reloads: Reloads,
}

/// Since when reading is held, as answers show it.
pub(super) fn held_json(held: Option<Held>) -> Value {
    match held {
        None => json!({ "paused": false }),
        Some(Held { since, at }) => json!({
            "paused": true,
            "paused_seconds": since.elapsed().as_secs_f64(),
            "paused_at_ms": u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

fn paused(status: &Status, changed: bool) -> Json<Value> {
    let mut answer = held_json(status.control.pause.held());
    answer["schema_version"] = json!(1);
    answer["changed"] = json!(changed);
    Json(answer)
}

pub(super) async fn pause(State(status): State<Arc<Status>>) -> Json<Value> {
    let changed = status.control.pause.hold();
    if changed {
        tracing::warn!(
            "paused: reading stops at the end of a transaction, until it is resumed or the daemon restarts"
        );
    }
    paused(&status, changed)
}

pub(super) async fn resume(State(status): State<Arc<Status>>) -> Json<Value> {
    let held = status.control.pause.release();
    if let Some(held) = held {
        tracing::info!(after_s = held.since.elapsed().as_secs(), "resumed");
    }
    paused(&status, held.is_some())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReloadArgs {
    flush_new: bool,
}

pub(super) async fn reload(State(status): State<Arc<Status>>, Body(args): Body<ReloadArgs>) -> Response {
    match status.control.reloads.reload(args.flush_new).await {
        None => ApiError::conflict("reload.busy", "another reload is under way", "wait for its end")
            .into_response(),
        Some(outcome @ (Outcome::Done | Outcome::Unchanged)) => {
            let mut answer = outcome.json();
            answer["schema_version"] = json!(1);
            Json(answer).into_response()
        }
        Some(outcome @ Outcome::Refused { .. }) => {
            let mut answer = outcome.json();
            answer["schema_version"] = json!(1);
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WhyArgs {
    key: String,
}

/// Removals of a key that are shown, per target.
const REMOVALS: usize = 20;
/// Records and dead letters that are shown, and of keys that begin as it does.
const RECORDS: usize = 1000;

pub(super) async fn why(State(status): State<Arc<Status>>, Query(args): Query<WhyArgs>) -> Response {
    let key = args.key.as_bytes();
    let journal = &status.control.journal;
    let removals: Vec<Value> = journal.find(key, REMOVALS).iter().map(removed_json).collect();
    let (owed, dead) = match (
        queued(&status, Which::Pending, &args.key).await,
        queued(&status, Which::Dead, &args.key).await,
    ) {
        (Ok(owed), Ok(dead)) => (owed, dead),
        (Err(error), _) | (_, Err(error)) => {
            let help = "look at the daemon's log, and try again";
            return ApiError::unavailable("retry.unavailable", error.to_string(), help).into_response();
        }
    };
    Json(json!({
        "schema_version": 1,
        "key": args.key,
        "mappings": why::makers(&status.config, key),
        "removals": removals,
        "journal": {
            "capacity": crate::journal::CAPACITY,
            "since_ms": journal.oldest().map(|micros| micros / 1000),
            "uptime_seconds": status.started.elapsed().as_secs_f64(),
        },
        "owed": owed.0,
        "dead": dead.0,
        "all_looked_through": owed.1 && dead.1,
    }))
    .into_response()
}

/// Records of this key, and whether all were looked through.
async fn queued(status: &Status, which: Which, key: &str) -> Result<(Vec<Value>, bool), RetryError> {
    let filter = Filter { key_prefix: Some(key.to_owned()), ..Filter::default() };
    let listed = status.queue.find(which, &filter, RECORDS).await?;
    let is_of_key =
        |listed: &&Listed| listed.record.as_ref().is_some_and(|record| record.key == key.as_bytes());
    let of_key = listed.iter().filter(is_of_key).map(listed_json).collect();
    Ok((of_key, listed.len() < RECORDS))
}

fn removed_json(removed: &Removed) -> Value {
    json!({
        "target": removed.target,
        "removal": removed.by.as_str(),
        "op": if removed.is_field { "hdel" } else { "unlink" },
        "at_ms": removed.at_micros / 1000,
        "commit_ms": removed.commit_micros / 1000,
        "waited_seconds": removed.waited.as_secs_f64(),
        "gtid": removed.gtid,
        "file": *removed.file,
        "position": removed.position,
        "row": removed.row,
    })
}
