//! rowbust.
