//! Workloads, histories, a checker and a model for cache strategies.
//!
//! [`history`] is what a run leaves behind, [`checker`] judges it.
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`.

pub mod checker;
pub mod history;
