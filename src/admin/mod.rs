//! The admin server: liveness, readiness, metrics, the state, and the commands of a running daemon. Its answers are described in
//! `docs/admin-api.md`.
//!
//! Guarantees: what a request may see and change stands in [`access`]; no secret is in any answer, no key in metrics. Listens on
//! loopback by default. It lives as long as the process: a daemon that begins anew is shown in place of the one before. May depend
//! on everything that has a state to show.

pub mod access;
mod control;
pub mod error;
mod events;
pub mod status;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{FromRef, Query, State},
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt as _,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

pub use self::control::Control;
use self::{access::{Access, Need}, error::ApiError, status::Status};
use crate::{
    recent,
    retry::{Filter, Which, show::listed_json},
};

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
    teller: JoinHandle<()>,
}

/// A client that has read nothing for so long loses its connection (`tcp(7)`, TCP_USER_TIMEOUT).
const STUCK: Duration = Duration::from_secs(30);

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
        let hub = Hub(Arc::new(Inner { listening, shown: RwLock::new(Shown { status, access }) }));
        let app = router(hub.clone());
        let listener = listener.tap_io(|client| {
            // Where the system has no such option, a stuck client keeps its connection.
            let _ = socket2::SockRef::from(&*client).set_tcp_user_timeout(Some(STUCK));
        });
        let task = tokio::spawn(async move { axum::serve(listener, app).await });
        let teller = tokio::spawn(events::tell(hub.clone()));
        Ok(Self { hub, task, teller })
    }
}

fn router(hub: Hub) -> Router {
    let open = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(state))
        .route("/events", get(events::events))
        .route_layer(from_fn_with_state(hub.clone(), access::look));
    let keys =
        Router::new().route("/retry", get(list))
        .route("/why", get(control::why)).route_layer(from_fn_with_state(hub.clone(), access::keys));
    let changing = Router::new()
        .route("/retry/requeue", post(requeue))
        .route("/pause", post(control::pause))
        .route("/resume", post(control::resume))
        .route("/reload", post(control::reload))
        .route_layer(from_fn_with_state(hub.clone(), access::change));
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
        Err(error) => queue_fails(&error).into_response(),
    }
}

fn queue_fails(error: &crate::retry::RetryError) -> ApiError {
    ApiError::unavailable("retry.unavailable", error.to_string(), "look at the daemon's log, and try again")
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
        Err(error) => queue_fails(&error).into_response(),
    }
}
