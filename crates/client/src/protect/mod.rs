//! What protects the database beside any strategy: shared loads, a limit and breaker, early refresh, a rebuild lock, remembered values.

pub(crate) mod flight;
pub(crate) mod gate;
pub(crate) mod load_times;
pub(crate) mod rebuild;
pub(crate) mod remembered;
