//! What rowbust and its clients must agree upon: key templates ([`template`]), the lease format ([`lease`]), the Redis scripts
//! ([`scripts`]) and where keys stand on a cluster ([`slots`]). `docs/wire-format.md` has test vectors for other languages.
//!
//! ```
//! use rowbust_protocol::{lease::Held, slots::slot, template::Template};
//! // Any language's client can be checked against these.
//! assert!(Template::parse("product:{id}")?.could_make(b"product:7"));
//! assert_eq!(Held::parse(b"\0rowbust:null:1"), Held::Null);
//! assert_eq!(slot(b"{user1000}.following"), 3443);
//! # Ok::<(), rowbust_protocol::template::TemplateError>(())
//! ```
//!
//! Guarantees: no I/O, no panic on any input. May depend on nothing of ours.

pub mod lease;
pub mod scripts;
pub mod slots;
pub mod template;

/// What begins with this in Redis is rowbust's own, or its clients': no copy of a row, and never removed by a mapping.
///
/// ```
/// use rowbust_protocol::OWN;
/// let keys = ["product:7", "rowbust:frontier:main"];
/// assert_eq!(keys.iter().filter(|key| !key.starts_with(OWN)).count(), 1);
/// ```
pub const OWN: &str = "rowbust:";
