//! Every cache strategy, compared.
//!
//! [`model`] takes the strategies' steps through every interleaving of a small world. Of runs on real servers, [`history`] is what one
//! leaves behind, [`checker`] judges it, [`summary`] is what a comparison of runs found, [`report`] shows it.
//!
//! Planned: `rowbust lab run | compare | report`, which runs the strategies of the client.
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`; the model depends on none of them.
#![forbid(unsafe_code)]

pub mod checker;
pub mod history;
pub mod model;
pub mod report;
pub mod summary;
