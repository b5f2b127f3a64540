//! Every cache strategy, compared.
//!
//! [`model`] takes the strategies' steps through every interleaving of a small world. [`live`] runs the client's strategies on real
//! servers, under load and faults: [`history`] is what a run leaves behind, [`checker`] judges it, [`summary`] is what a comparison of
//! runs found, [`report`] shows it. [`zipf`] is what makes some rows more popular than others.
//!
//! ```
//! use rowbust_lab::model::{self, Limits};
//! // Update the database, then delete the key: a slow reader is enough.
//! let outcome = model::check(&model::cases("cache-aside")[0], Limits::default(), &mut |_| {})?;
//! assert_eq!(model::verdict(&outcome), "stale for good in 5 steps");
//! # Ok::<(), model::CheckError>(())
//! ```
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`; the model depends on none of them.
#![forbid(unsafe_code)]

pub mod checker;
pub mod history;
pub mod live;
pub mod model;
mod names;
pub mod report;
pub mod summary;
pub mod zipf;
