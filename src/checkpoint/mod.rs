//! Where to resume from.

pub mod file;
