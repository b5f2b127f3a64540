//! Workloads, histories, a checker and a model for cache strategies.
//!
//! [`history`] is what a run leaves behind, [`checker`] judges it, [`summary`] is what a comparison of runs found, [`report`] shows it.
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`.

pub mod checker;
pub mod history;
pub mod report;
pub mod summary;
