//! What an application links to read and write its cache.
//!
//! - [`Client`]: `get_or_load`, `get_many`, `write`, `invalidate`, over typed values.
//! - [`strategy`]: every known order of steps, each a type of its own, with the race that it leaves. [`Guarded`](strategy::Guarded),
//!   the default, leaves none where the daemon runs.
//! - [`Settings`]: what protects the database beside any of them: shared loads, *absent* kept too, jittered TTLs, a rebuild lock, early
//!   refresh, a limit and a breaker.
//! - [`ReadSource`]: tells a loader where to read, and when it may begin.
//! - [`Redis`]: one server, a cluster, or a master by way of sentinels.
//! - [`Frontier`]: up to where everything is removed, as the daemon tells.
//! - [`adapter`]: pools of connections by member, for `mysql_async` and `sqlx`.
//! - [`Hooks`]: hold a strategy up between its steps, for tests.
//!
//! Guarantees: no panic on any reply; bytes that are no such value are never handed out; intervals are measured by the monotonic clock,
//! or by Redis' own. May depend on `rowbust-protocol`; never on Kafka, a MySQL driver (but for the adapters behind features) or openssl.

pub mod adapter;
mod change;
mod client;
mod codec;
mod commands;
mod context;
mod error;
mod frontier;
mod hooks;
mod link;
mod lock;
mod protect;
mod settings;
mod source;
mod stats;
pub mod strategy;

pub use change::{Change, Written};
pub use client::{Builder, Client, Loaded, Origin};
#[doc(hidden)]
pub use context::Context;
pub use error::{BoxError, Error};
pub use frontier::Frontier;
pub use hooks::{Hooks, Step};
pub use link::{ConnectOptions, Login, Redis, Tls};
pub use settings::{
    Breaker, CallOptions, EarlyRefresh, Foreign, LoadLimit, OnCacheError, OnOverload, RebuildLock, Settings,
};
pub use source::ReadSource;
pub use stats::Stats;
