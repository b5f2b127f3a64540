//! The admin server: a page, liveness, readiness, metrics, the state, and the commands of a running daemon. Its answers are described
//! in `docs/admin-api.md`.
//!
//! Guarantees: what a request may see and change stands in [`access`]; no secret is in any answer, no key in metrics. Listens on
//! loopback by default. It lives as long as the process: a daemon that begins anew is shown in place of the one before. May depend
//! on everything that has a state to show.

pub mod access;
mod control;
pub mod error;
mod events;
pub mod flush;
mod listener;
mod page;
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
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::control::Control;
use self::{
    access::{Access, Need},
    error::ApiError,
    status::Status,
};
use crate::recent;

/// What the handlers see: the daemon as it is now.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listening: SocketAddr,
    flushes: flush::Jobs,
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
    teller: JoinHandle<()>,
    /// Ends the connections, each of which has a task of its own.
    _ends: DropGuard,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.teller.abort();
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
        let hub = Hub(Arc::new(Inner {
            listening,
            flushes: flush::Jobs::default(),
            shown: RwLock::new(Shown { status, access }),
        }));
        let app = router(hub.clone());
        let ended = CancellationToken::new();
        let listener = listener::Bounded::new(listener, ended.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await });
        let teller = tokio::spawn(events::tell(hub.clone()));
        Ok(Self { hub, task, teller, _ends: ended.drop_guard() })
    }
}

fn router(hub: Hub) -> Router {
    let open = page::router()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(state))
        .route("/events", get(events::events))
        .route_layer(from_fn_with_state(hub.clone(), access::look));
    let keys = retry::reading()
        .route("/why", get(control::why))
        .route("/flush", get(flush::state))
        .route_layer(from_fn_with_state(hub.clone(), access::keys));
    let changing = retry::changing()
        .route("/flush", post(flush::start))
        .route("/flush/cancel", post(flush::cancel))
        .route("/pause", post(control::pause))
        .route("/resume", post(control::resume))
        .route("/reload", post(control::reload))
        .route_layer(from_fn_with_state(hub.clone(), access::change));
    let all = open.merge(keys).merge(changing).fallback(unknown);
    all.method_not_allowed_fallback(wrong_method).with_state(hub)
}

async fn unknown() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "admin.not_found",
        "nothing answers here",
        "docs/admin-api.md lists the paths",
    )
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "admin.method",
        "this path answers another method",
        "what shows something is GET, what changes something POST; docs/admin-api.md lists them",
    )
}

async fn state(State(hub): State<Hub>, headers: HeaderMap) -> Json<serde_json::Value> {
    let status = hub.status();
    let mut json = status.json();
    // There may be keys in what was logged.
    let keys = hub.access().check(Need::Keys, &headers).await.is_ok();
    json["log"] = recent::since(0).iter().map(|line| line.json(keys)).collect();
    Json(json)
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
