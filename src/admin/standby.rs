//! What a daemon that waits for its turn answers.
//!
//! Guarantees: alive, not ready, and says so in `/status` and `/metrics`; nothing can be changed. May depend on `access` and
//! `source::lease`.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    access::{Access, Need},
    error::ApiError,
    listener::Bounded,
    page,
};
use crate::{config::Config, source::lease::Candidate};

/// The state of a daemon that waits.
#[derive(Debug)]
pub struct Standby {
    /// Who may look.
    pub config: Arc<Config>,
    /// When the process began.
    pub started: Instant,
    /// When the waiting did.
    pub since: Instant,
    /// Who waits.
    pub candidate: Arc<Candidate>,
    /// Counters of the turns before.
    pub metrics: PrometheusHandle,
}

impl Standby {
    fn why(&self) -> String {
        let waiting = self.candidate.waiting();
        match (waiting.error, waiting.holder) {
            (Some(error), _) => format!("standby: the source can't be asked for the lease: {error}"),
            (None, Some(holder)) => format!("standby: connection {holder} of the source has the lease"),
            (None, None) => "standby: waiting for the lease".into(),
        }
    }

    fn json(&self) -> Value {
        let waiting = self.candidate.waiting();
        json!({
            "schema_version": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "state": "standby",
            "ready": false,
            "caught_up": false,
            "lease": {
                "name": self.candidate.name(),
                "holder": waiting.holder,
                "error": waiting.error,
                "waiting_seconds": self.since.elapsed().as_secs_f64(),
            },
        })
    }
}

/// The server of the turn before may hold the address for a moment.
const FREE_WITHIN: Duration = Duration::from_secs(2);

/// Listens.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let until = Instant::now() + FREE_WITHIN;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bound => {
                return bound.with_context(|| {
                    format!("admin.listen: can't listen at {address}; choose another address or port")
                });
            }
        }
    }
}

async fn not_here() -> ApiError {
    let help = "ask the active one; /, /livez, /readyz, /metrics and /status are answered here";
    ApiError::unavailable("admin.standby", "this daemon waits for its turn", help)
}

/// As for a daemon that is active.
async fn look(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(Need::Look, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    standby: Arc<Standby>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let access = Access::new(listener.local_addr()?, &standby.config.admin);
    let app = page::router()
        .route("/livez", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(|State(standby): State<Arc<Standby>>| async move {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", standby.why()))
            }),
        )
        .route(
            "/metrics",
            get(|State(standby): State<Arc<Standby>>| async move {
                let text = standby.metrics.render();
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
            }),
        )
        .route("/status", get(|State(standby): State<Arc<Standby>>| async move { Json(standby.json()) }))
        .route_layer(from_fn_with_state(access, look))
        .fallback(not_here)
        .with_state(standby);
    axum::serve(Bounded::new(listener, CancellationToken::new()), app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}
