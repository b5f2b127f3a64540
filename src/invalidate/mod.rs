//! Removing keys from Redis: the first and the second removal, classes of errors, the breaker.
//!
//! Guarantees: see [`worker`] (tickets), [`second`] (when), [`flush`] (keyspaces), [`classify`] (whose fault). The only part, with `watermark` and
//! `checkpoint`, that may name redis; may depend on `pipeline`, `watermark`, `retry`, `flush` and `config`.

pub mod breaker;
pub mod classify;
pub mod flush;
pub mod refused;
pub mod retrying;
pub mod second;
pub mod target;
pub mod worker;
