//! rowbust.
fn main() {}
