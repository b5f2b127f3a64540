//! Following a server: logging in, streams, halts, gaps, crashes, the witness of a commit, and pools of replicas.

#[macro_use]
mod support;
mod auth;
mod driver_cdc;
mod failover;
mod follower;
mod gaps;
mod policies;
mod pool;
mod server_crashes;
mod stopped;
mod stream;
mod witness;
