//! Finds programs and starts servers.

use std::path::{Path, PathBuf};

use rowbust_servers::{
    Installed, MariaDb, MySql, Need, Redis, Sentinels, StartOptions, sentinel::SentinelOptions,
};

use super::{Cache, Database, STARTING};
use crate::live::{Flavor, LiveError, error::LiveError as Error};

/// Which database can be started, if everything is here.
pub(super) fn find(flavor: Option<Flavor>, kafka: bool) -> Result<Flavor, LiveError> {
    let found = Installed::find(&[Need::MariaDb, Need::MySql, Need::Redis, Need::Kafka]);
    let missing = |what: &str, package: &str| {
        Error::Missing(format!(
            "no {what} here: install {package}, or run `cargo xtask servers install` in rowbust's source, or give servers' addresses \
             with --mysql and --redis"
        ))
    };
    if !found.has(Need::Redis) {
        return Err(missing("Redis 7 or newer", "redis-server (Debian: redis-tools is enough)"));
    }
    if kafka && !found.has(Need::Kafka) {
        return Err(missing("Kafka", "a Java runtime and Kafka 4"));
    }
    match flavor {
        None | Some(Flavor::MariaDb) if found.has(Need::MariaDb) => Ok(Flavor::MariaDb),
        None | Some(Flavor::MySql) if found.has(Need::MySql) => Ok(Flavor::MySql),
        None => Err(missing("MariaDB 10.11 or MySQL 9, or newer,", "mariadb-server-core and mariadb-client")),
        Some(Flavor::MariaDb) => {
            Err(missing("MariaDB 10.11 or newer", "mariadb-server-core and mariadb-client"))
        }
        Some(Flavor::MySql) => Err(missing("MySQL 9", "mysql-server 9")),
    }
}

pub(super) fn primary_args(flavor: Flavor) -> Vec<String> {
    match flavor {
        Flavor::MariaDb => Vec::new(),
        Flavor::MySql => vec!["--plugin-load-add=semisync_source.so".into()],
    }
}

pub(super) fn start_database(flavor: Flavor, dir: PathBuf, more: Vec<String>) -> Result<Database, LiveError> {
    let mut options = StartOptions::new(dir);
    // Nobody pulls the plug; kill -9 loses nothing of what was written.
    options.args = vec!["--innodb-flush-log-at-trx-commit=2".into(), "--sync-binlog=0".into()];
    options.args.extend(more);
    let started = match flavor {
        Flavor::MariaDb => MariaDb::start(options).map(Database::MariaDb),
        Flavor::MySql => MySql::start(options).map(Database::MySql),
    };
    started.map_err(|e| Error::server(STARTING, e))
}

pub(super) fn start_cache(place: &Path, sentinels: bool) -> Result<Cache, LiveError> {
    let started = match sentinels {
        false => Redis::start(StartOptions::new(place.join("redis"))).map(Cache::One),
        true => Sentinels::start(&SentinelOptions::new(Need::Redis, place.join("sentinels")))
            .map(Cache::Sentinels),
    };
    started.map_err(|e| Error::server(STARTING, e))
}
