//! The admin server: liveness, readiness, metrics, status, the retry queue's commands.
//!
//! Guarantees: reads only, but for `POST /retry/…`, which is there on a loopback address alone; no secret and no key in metrics. Listens on loopback by default. May depend on everything
//! that has a state to show.

mod retry;
pub mod status;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::status::Status;

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
        app = app.merge(retry::routes());
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
