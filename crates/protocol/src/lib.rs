//! What rowbust and its clients must agree upon: key templates today, the lease format and the Redis scripts later.
//!
//! Guarantees: no I/O, no panic on any input. May depend on nothing of ours.

pub mod template;
