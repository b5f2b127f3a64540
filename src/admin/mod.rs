//! The admin server: liveness, readiness, metrics, status, the retry queue's commands.
//!
//! Guarantees: reads only, but for `POST /retry/requeue`, which is there on a loopback address alone; no secret and no key in metrics. Listens on loopback by default. May depend on everything
//! that has a state to show.

pub mod standby;
pub mod status;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::status::Status;
use crate::retry::{Filter, Which, show::listed_json};

/// Listens.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("admin.listen: can't listen at {address}; choose another address or port"))
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // There is no token yet: what shows keys or changes anything is for this host alone.
    let local = listener.local_addr()?.ip().is_loopback();
    let mut app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(|State(status): State<Arc<Status>>| async move { Json(status.json()) }));
    if local {
        app = app.route("/retry", get(list)).route("/retry/requeue", post(requeue));
    }
    let app = app.with_state(status);
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

async fn readyz(State(status): State<Arc<Status>>) -> Response {
    match status.not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    status.refresh_metrics();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], status.metrics.render()).into_response()
}

/// Records of one answer at most.
const LIST_LIMIT: usize = 10_000;

#[derive(Debug, Deserialize)]
struct ListArgs {
    #[serde(default)]
    dead: bool,
    limit: Option<usize>,
}

async fn list(State(status): State<Arc<Status>>, Query(args): Query<ListArgs>) -> Response {
    let which = if args.dead { Which::Dead } else { Which::Pending };
    match status.queue.list(which, args.limit.unwrap_or(100).min(LIST_LIMIT)).await {
        Ok(listed) => Json(json!({
            "schema_version": 1,
            "records": listed.iter().map(listed_json).collect::<Vec<_>>(),
        }))
        .into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequeueArgs {
    target: Option<String>,
    key_prefix: Option<String>,
    error_code: Option<String>,
}

async fn requeue(State(status): State<Arc<Status>>, Json(args): Json<RequeueArgs>) -> Response {
    let filter = Filter {
        target: args.target,
        key_prefix: args.key_prefix.map(String::into_bytes),
        error_code: args.error_code,
    };
    match status.queue.requeue(filter).await {
        Ok(requeued) => Json(json!({ "schema_version": 1, "requeued": requeued })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
