//! Private MariaDB, MySQL, Redis, Valkey, Kafka and Prometheus servers on free ports, for `cargo xtask`, the tests and the lab.
//!
//! - [`install`]: finds the programs, installs what is missing.
//! - [`MariaDb`], [`MySql`], [`Redis`], [`Kafka`], [`Prometheus`]: one server each, in its own folder; started when the constructor
//!   returns, stopped when dropped. All are an [`instance::Instance`]: port, URL, stop, `kill -9`, freeze, restart.
//! - [`RedisCluster`], [`Sentinels`]: several of them together.
//! - [`require`]: how a test asks for a server and skips without it.
//! - [`cache`]: where downloads are kept. [`ports`]: free ports. [`process`]: ending processes by pid.
//!
//! Guarantees: servers listen on 127.0.0.1 only; a process is signalled only if it is the one that was started; no
//! system service is installed or started. Depends on nothing of ours.

pub mod cache;
mod fetch_sid;
mod helm;
pub mod install;
pub mod instance;
pub mod kafka;
pub mod mariadb;
pub mod mysql;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod redis_cluster;
mod require;
pub mod sentinel;
mod wire;

pub use install::{Installed, Need};
pub use instance::{Record, StartOptions};
pub use kafka::{Kafka, Resource, Right, Security};
pub use mariadb::MariaDb;
pub use mysql::MySql;
pub use prometheus::Prometheus;
pub use redis::{Redis, RedisTls};
pub use redis_cluster::RedisCluster;
pub use require::require;
pub use sentinel::Sentinels;
