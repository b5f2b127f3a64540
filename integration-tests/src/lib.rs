//! What the tests on real servers share. The daemon under test is a child process; servers come from
//! `rowbust-servers`.
//!
//! - [`db`]: MariaDB and MySQL behind one face · [`proxy`]: a way to Redis that can be cut
//! - [`caches`]: Redis as a cluster, or with sentinels
//! - [`daemon`]: building, starting, asking and killing the daemon · [`http`]: its admin server
//! - [`broker`]: Kafka with users and rights · [`disk`]: a disk that can be filled
//! - [`browser`]: Chromium, for the admin page
//! - [`monitor`]: every removal that Redis ran, in order
//! - [`oracle`]: the keys that the binlog names, found without rowbust's code
//! - [`differential`]: the decoder against other decoders
//! - [`matrix`]: everything that a binlog can hold
//! - [`shop`]: the schema under test, its mappings, its keys, its cache · [`load`]: writers and readers with a history
//! - [`rig`]: from the assembler to Redis, without a database
//! - [`hosts`]: several daemons on one source
//! - [`invariants`]: I1 to I4 and I7 · [`stage`]: all of it put together
//! - [`terminal`]: what a page tells to type, typed · [`compose`]: the compose file
//! - [`replica`]: replicas that lag
//! - [`wait`]: polling with a deadline · [`rng`]: the seed of a test's choices
//!
//! A test that needs a server which can't be had is skipped, unless `ROWBUST_REQUIRE` names it.

pub mod broker;
pub mod browser;
pub mod caches;
pub mod compose;
pub mod daemon;
pub mod db;
pub mod differential;
pub mod disk;
pub mod hosts;
pub mod http;
pub mod invariants;
pub mod load;
pub mod matrix;
pub mod monitor;
pub mod oracle;
pub mod proxy;
pub mod queue;
pub mod replica;
pub mod rig;
pub mod rng;
pub mod shop;
pub mod stage;
pub mod terminal;
pub mod wait;
