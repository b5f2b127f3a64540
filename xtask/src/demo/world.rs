//! The servers, the shop in them, and the daemon's account.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_servers::{Kafka, MariaDb, MySql, Need, Redis, StartOptions, install};

use super::live::{Live, grouped};
use super::shop::{self, Size};

/// MariaDB or MySQL.
#[derive(Debug)]
pub(crate) enum Database {
    Maria(MariaDb),
    My(MySql),
}

impl Database {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Maria(server) => server.url(),
            Self::My(server) => server.url(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Maria(server) => server.port(),
            Self::My(server) => server.port(),
        }
    }

    /// Name and version.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Maria(server) => format!("MariaDB {}", server.version()),
            Self::My(server) => format!("MySQL {}", server.version()),
        }
    }

    /// The least that lets an account follow the binlog and see how far it is.
    fn grant(&self) -> &'static str {
        match self {
            Self::Maria(_) => "REPLICATION SLAVE, BINLOG MONITOR",
            Self::My(_) => "REPLICATION SLAVE, REPLICATION CLIENT",
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) mysql: bool,
    pub(crate) kafka: bool,
    pub(crate) size: Size,
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) rate: u32,
    pub(crate) connections: u32,
}

/// All that both runs share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) database: Database,
    pub(crate) redis: Redis,
    _kafka: Option<Kafka>,
    /// `host:port` of Kafka, where failed removals go there.
    pub(crate) brokers: Option<String>,
    /// The daemon's account.
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) size: Size,
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    /// The application's operations per second.
    pub(crate) rate: u32,
    /// The application's connections to each server.
    pub(crate) connections: u32,
}

impl World {
    /// Installs what is missing, starts the servers and fills the shop.
    pub(crate) async fn create(plan: Plan, live: &mut Live) -> Result<Self> {
        let database = if plan.mysql { Need::MySql } else { Need::MariaDb };
        let mut needs = vec![database, Need::Redis];
        needs.extend(plan.kafka.then_some(Need::Kafka));
        let start = Instant::now();
        let missing: Vec<&str> = {
            let found = install::Installed::find(&needs);
            needs.iter().filter(|need| !found.has(**need)).map(|need| need.name()).collect()
        };
        if !missing.is_empty() {
            live.say(&format!("missing, to be installed: {}", missing.join(", ")));
            live.pause(|| install::ensure(&needs))?;
            live.say(&format!("installed in {:.0} s", start.elapsed().as_secs_f64()));
        }

        let start = Instant::now();
        live.show(|| "starting the servers".into());
        let options = |name: &str| StartOptions::new(plan.dir.join(name));
        let (database, redis, kafka) = live.pause(|| -> Result<_> {
            let database = if plan.mysql {
                Database::My(MySql::start(options("mysql"))?)
            } else {
                Database::Maria(MariaDb::start(options("mariadb"))?)
            };
            let redis = Redis::start(options("redis"))?;
            let kafka = plan.kafka.then(|| Kafka::start(options("kafka"))).transpose()?;
            Ok((database, redis, kafka))
        })?;
        let mut names = vec![database.describe(), format!("Redis {}", redis.version())];
        names.extend(kafka.as_ref().map(|kafka| format!("Kafka {}", kafka.version())));
        live.say(&format!("{} up in {:.1} s", names.join(", "), start.elapsed().as_secs_f64()));

        let start = Instant::now();
        live.show(|| "filling the shop".into());
        let mut db = Conn::from_url(database.url()).await.context("no connection to the database")?;
        shop::create(&mut db, plan.size, plan.seed).await?;
        let (user, password) = ("rowbust", format!("demo-{:016x}", rand::random::<u64>()));
        for statement in [
            format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'"),
            format!("GRANT {} ON *.* TO '{user}'@'%'", database.grant()),
        ] {
            db.query_drop(statement).await.context("cannot make the account")?;
        }
        db.disconnect().await?;
        live.say(&format!(
            "shop with {} products and {} customers filled in {:.1} s",
            grouped(plan.size.products.into()),
            grouped(plan.size.customers.into()),
            start.elapsed().as_secs_f64()
        ));
        let brokers = kafka.as_ref().map(Kafka::brokers);
        let Plan { dir, size, seed, length, rate, connections, .. } = plan;
        Ok(Self {
            dir,
            database,
            redis,
            _kafka: kafka,
            brokers,
            user: user.into(),
            password,
            size,
            seed,
            length,
            rate,
            connections,
        })
    }
}
