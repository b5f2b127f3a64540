//! The retry queue's commands: `GET /retry`, `POST /retry/requeue`, `POST /retry/drop`.
//!
//! Guarantees: nothing is dropped by a request that doesn't say what, or `"all": true`. Shows keys, so it is for who may see them.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Hub,
    error::{ApiError, Body, Query},
    status::Status,
};
use crate::retry::{Filter, RetryError, Swept, Which, show::listed_json};

/// Records of one answer at most.
const LIST_LIMIT: usize = 10_000;
/// Letters of one request at most: the caller asks again while there are more.
const SWEEP_LIMIT: usize = 10_000;

pub(super) fn reading() -> Router<Hub> {
    Router::new().route("/retry", get(list))
}

pub(super) fn changing() -> Router<Hub> {
    Router::new().route("/retry/requeue", post(requeue)).route("/retry/drop", post(drop_letters))
}

/// As a query string: repeated fields aren't possible there, so ids are separated by commas.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArgs {
    #[serde(default)]
    dead: bool,
    limit: Option<usize>,
    target: Option<String>,
    key_prefix: Option<String>,
    key_glob: Option<String>,
    error_code: Option<String>,
    ids: Option<String>,
    older_seconds: Option<u64>,
    younger_seconds: Option<u64>,
}

async fn list(State(status): State<Arc<Status>>, Query(args): Query<ListArgs>) -> Response {
    let which = if args.dead { Which::Dead } else { Which::Pending };
    let filter = Filter {
        target: args.target,
        key_prefix: args.key_prefix,
        key_glob: args.key_glob,
        error_code: args.error_code,
        ids: args.ids.map(|ids| ids.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        older_seconds: args.older_seconds,
        younger_seconds: args.younger_seconds,
        died_before_ms: None,
    };
    match status.queue.find(which, &filter, args.limit.unwrap_or(100).min(LIST_LIMIT)).await {
        Ok(listed) => Json(json!({
            "schema_version": 1,
            "records": listed.iter().map(listed_json).collect::<Vec<_>>(),
        }))
        .into_response(),
        Err(error) => failed(&error),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SweepArgs {
    filter: Filter,
    limit: Option<usize>,
    all: bool,
}

async fn requeue(State(status): State<Arc<Status>>, Body(args): Body<SweepArgs>) -> Response {
    let limit = args.limit.unwrap_or(SWEEP_LIMIT).min(SWEEP_LIMIT);
    let began_ms = status.queue.now_ms();
    answer("requeued", began_ms, status.queue.requeue(&args.filter, limit).await)
}

async fn drop_letters(State(status): State<Arc<Status>>, Body(args): Body<SweepArgs>) -> Response {
    if args.filter.is_all() && !args.all {
        let help = "say which in `filter`, or `\"all\": true` to drop every dead letter";
        return ApiError::bad("retry.no_filter", "no filter", help).into_response();
    }
    let limit = args.limit.unwrap_or(SWEEP_LIMIT).min(SWEEP_LIMIT);
    let began_ms = status.queue.now_ms();
    answer("dropped", began_ms, status.queue.drop_letters(&args.filter, limit).await)
}

fn answer(done: &str, began_ms: u64, swept: Result<Swept, RetryError>) -> Response {
    match swept {
        Ok(Swept { letters, more }) => {
            let answer = json!({ "schema_version": 1, done: letters, "more": more, "began_ms": began_ms });
            Json(answer).into_response()
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &RetryError) -> Response {
    let answer = match error {
        RetryError::Busy { .. } | RetryError::Overtaken => {
            let help = "look what is left (`rowbust retry ls --dead`), and ask again if it is still wanted";
            ApiError::conflict("retry.busy", error.to_string(), help)
        }
        RetryError::Filter(why) => ApiError::bad("retry.filter", why.clone(), "mend the glob"),
        _ => {
            let help = "look at the daemon's log, and try again";
            ApiError::unavailable("retry.unavailable", error.to_string(), help)
        }
    };
    answer.into_response()
}
