//! Every cache strategy, compared. So far the [`model`]: the strategies' steps against every interleaving of a small world.
//!
//! Planned: `rowbust lab run | compare | report`, which runs the strategies of the client against real servers, judges their recorded
//! histories, and draws what each of them really gives.
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`; the model depends on none of them.
#![forbid(unsafe_code)]

pub mod model;
