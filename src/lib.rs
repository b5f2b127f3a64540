//! rowbust keeps caches true: it follows the MySQL/MariaDB binlog as a replica does, turns every row change
//! into the Redis keys that it makes wrong, and removes them.
//!
//! A map of the parts, in the order in which a row change meets them:
//!
//! - [`source`]: connects to the server, checks it, reads the binlog; hands on each event's bytes with its position
//! - `rowbust-binlog` (own crate): bytes to events, table maps and row images, in place
//! - [`route`]: row images to cache keys, by the mappings of the config
//! - [`pipeline`]: duplicates dropped, keys to workers by hash, tickets, the frontier of what is done
//! - [`flush`]: the mapped keyspace, where no row image tells what has changed
//! - [`invalidate`]: batches of removals to Redis, classes of its errors, the breaker
//! - [`watermark`]: when a commit is visible at every read source, so that the second removal may run
//! - [`retry`]: removals that failed, kept durably (disk or Kafka) and retried
//! - [`checkpoint`]: where to resume, saved only up to what is done; [`coverage`]: which mappings it stands for
//! - [`checkpoint`]: where to resume, saved only up to what is done
//! - [`published`]: marks in Redis, by which it is noticed when Redis loses its memory; what is repeated then
//!
//! Around them: [`config`] (YAML to a `Config` that can't hold nonsense), [`cli`], [`supervisor`] (named tasks,
//! drain), [`admin`] (HTTP), [`journal`] (the newest removals), [`why`] (which mappings make a key), [`watch`] (a follower that changes nothing), [`reload`] (the config taken anew),
//! [`telemetry`] (metrics and logs), [`recent`] (the log's newest warnings).
//!
//! Who may depend on whom stands in ARCHITECTURE.md.

pub mod admin;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod coverage;
pub mod daemon;
pub mod failpoint;
pub mod flush;
pub mod init;
pub mod invalidate;
pub mod journal;
pub mod live;
pub mod pipeline;
pub mod published;
pub mod recent;
pub mod reload;
pub mod retry;
pub mod route;
pub mod source;
mod standby;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod watch;
pub mod watermark;
pub mod why;
