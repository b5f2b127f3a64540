//! Strategies on real servers, under load and faults.
//!
//! - [`World`]: the servers: a database with semi-synchronous replication at hand, a replica that can be held back, Redis.
//! - [`Strategy`]: each of the client's strategies by name, and what it wants of the daemon.
//! - [`Workload`]: rows, keys, and what applications do with them.
//! - [`Fault`]: what goes wrong, and how often it truly did.
//! - [`compare`]: which runs a comparison consists of, and what has become worse since an older one; [`thresholds`]: what runs must show;
//!   [`output`]: where they are kept.
//! - [`run`]: one or several strategies side by side, under one workload and any number of faults at a time; the histories judged.
//!
//! ```no_run
//! # async fn example() -> Result<(), rowbust_lab::live::LiveError> {
//! use rowbust_lab::live::{Fault, Plan, Strategy, Workload, World, WorldOptions, run};
//! use tokio_util::sync::CancellationToken;
//!
//! let world = World::start(WorldOptions::new("target/debug/rowbust")).await?;
//! let plan = Plan {
//!     strategies: vec![Strategy::Guarded, Strategy::CacheAside],
//!     faults: vec![Fault::SlowReader, Fault::ReplicaLag],
//!     ..Plan::new(Workload::ReadMostly)
//! };
//! for finished in run(&world, &plan, &CancellationToken::new(), &|_| {}).await? {
//!     println!("{}: {:?}", finished.run.strategy, finished.run.report.permanently_stale);
//! }
//! # Ok(()) }
//! ```
//!
//! Guarantees: servers and daemons that were started end with their owner, and their folders are removed; a barrier only delays a step that
//! the strategy takes anyway; a run in which a fault never struck is void, and says so. May depend on everything in this crate but the
//! model.

mod actor;
mod barrier;
mod clock;
pub mod compare;
mod daemon;
mod db;
mod error;
mod fault;
mod finals;
mod http;
mod judge;
mod measures;
pub mod output;
mod runner;
mod sampler;
mod stage;
mod strategy;
pub mod thresholds;
mod workload;
mod world;

pub use db::Flavor;
pub use error::LiveError;
pub use fault::Fault;
pub use judge::Finished;
pub use runner::{Plan, Progress, run};
pub use strategy::{Strategy, Timing};
pub use workload::Workload;
pub use world::{Given, World, WorldOptions, without_account};
