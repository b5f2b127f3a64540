//! Placeholder.

pub mod position;
