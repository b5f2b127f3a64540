//! What rowbust and its clients must agree upon: key templates ([`template`]), the lease format ([`lease`]), the Redis scripts
//! ([`scripts`]) and where keys stand on a cluster ([`slots`]). `docs/wire-format.md` has test vectors for other languages.
//!
//! Guarantees: no I/O, no panic on any input. May depend on nothing of ours.

pub mod lease;
pub mod scripts;
pub mod slots;
pub mod template;

/// What begins with this in Redis is rowbust's own, or its clients': no copy of a row, and never removed by a mapping.
pub const OWN: &str = "rowbust:";
