//! The admin server: liveness, readiness, metrics, the state, and the commands of a running daemon. Its answers are described in
//! `docs/admin-api.md`.
//!
//! Guarantees: what a request may see and change stands in [`access`]; no secret is in any answer, no key in metrics. Listens on
//! loopback by default. It lives as long as the process: a daemon that begins anew is shown in place of the one before. May depend
//! on everything that has a state to show.

pub mod access;
pub mod error;
mod retry;
pub mod standby;
pub mod status;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{FromRef, State},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};

use self::{access::Access, error::ApiError, status::Status};

/// What the handlers see: the daemon as it is now.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listening: SocketAddr,
    shown: RwLock<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    status: Arc<Status>,
    access: Access,
}

impl Hub {
    fn shown(&self) -> Shown {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of the daemon that runs now, or of the one that ended last.
    pub fn status(&self) -> Arc<Status> {
        self.shown().status
    }

    fn access(&self) -> Access {
        self.shown().access
    }

    /// From now on this one is shown.
    pub fn show(&self, status: Arc<Status>) {
        let access = Access::new(self.0.listening, &status.config.admin);
        *self.0.shown.write().unwrap_or_else(PoisonError::into_inner) = Shown { status, access };
    }
}

impl FromRef<Hub> for Arc<Status> {
    fn from_ref(hub: &Hub) -> Self {
        hub.status()
    }
}

/// The server's task. Dropped, it ends, and its connections with it.
#[derive(Debug)]
pub struct Server {
    /// To show another daemon.
    pub hub: Hub,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Listens at `admin.listen` and serves.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn start(status: Arc<Status>) -> anyhow::Result<Self> {
        let address = status.config.admin.listen;
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("admin.listen: can't listen at {address}; choose another address or port")
        })?;
        let listening = listener.local_addr()?;
        let access = Access::new(listening, &status.config.admin);
        let hub = Hub(Arc::new(Inner { listening, shown: RwLock::new(Shown { status, access }) }));
        let app = router(hub.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { hub, task })
    }
}

fn router(hub: Hub) -> Router {
    let open = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(|State(status): State<Arc<Status>>| async move { Json(status.json()) }))
        .route_layer(from_fn_with_state(hub.clone(), access::look));
    let keys = retry::reading().route_layer(from_fn_with_state(hub.clone(), access::keys));
    let changing = retry::changing().route_layer(from_fn_with_state(hub.clone(), access::change));
    open.merge(keys).merge(changing).fallback(unknown).with_state(hub)
}

async fn unknown() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "admin.not_found",
        "nothing answers here",
        "docs/admin-api.md lists the paths",
    )
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
