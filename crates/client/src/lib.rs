//! What an application links to read and write its cache.
//!
//! - [`Client`]: `get_or_load`, `get_many`, `write`, `invalidate`, over typed values.
//! - [`strategy`]: every known order of steps, each a type of its own, with the race that it leaves. [`Guarded`](strategy::Guarded),
//!   the default, leaves none where the daemon runs.
//! - [`Settings`]: what protects the database. Beside any of them: shared loads, *absent* kept too, jittered TTLs, a limit and a breaker
//!   on loads, the value seen last. Beside those with plain fills or leases also early refresh, beside those with plain fills a rebuild
//!   lock; the others refuse these two ([`Settings::early_refresh`] says why).
//! - [`ReadSource`]: tells a loader where to read, and when it may begin.
//! - [`Redis`]: one server, a cluster, or a master by way of sentinels.
//! - [`Frontier`]: up to where everything is removed, as the daemon tells.
//! - [`adapter`]: pools of connections by member, for `mysql_async` and `sqlx`.
//! - [`Hooks`]: hold a strategy up between its steps, for tests.
//!
//! ```no_run
//! use rowbust_client::{Change, Client, ConnectOptions, Redis};
//!
//! # async fn load_name(_: &str, _: u64) -> Result<Option<String>, std::io::Error> { Ok(None) }
//! # async fn rename(_: u64, _: &str) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn example() -> Result<(), rowbust_client::Error> {
//! let redis = Redis::connect("redis://cache:6379", ConnectOptions::default()).await?;
//! let client = Client::builder(redis).build()?;
//!
//! // A read: from the cache, else from the database, at the server that the loader is told.
//! let name: Option<String> = client
//!     .get_or_load("product:7", async |source| load_name(source.member().unwrap_or("db1:3306"), 7).await)
//!     .await?;
//!
//! // A write, with the keys that it makes wrong.
//! client.write(&Change::of("product:7"), async || rename(7, "a new name").await).await?.into_result()?;
//! # Ok(()) }
//! ```
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
pub use error::{BoxError, Error};
pub use frontier::Frontier;
pub use hooks::{Hooks, Step};
pub use link::{ConnectOptions, Login, Redis, Tls};
pub use settings::{
    Breaker, CallOptions, EarlyRefresh, Foreign, LoadLimit, OnCacheError, OnOverload, RebuildLock, Settings,
};
pub use source::ReadSource;
pub use stats::Stats;
