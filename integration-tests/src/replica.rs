//! Replicas of a test's database, which readers may fill from.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mysql_async::prelude::Queryable as _;

use crate::db::{Db, Flavor, run};
use crate::wait::{Seen, until};

/// A replica must have everything within this.
const WITHIN: Duration = Duration::from_secs(60);

/// A server that follows another by GTID.
#[derive(Debug)]
pub struct Replica {
    /// The server.
    pub db: Arc<Db>,
}

impl Replica {
    /// Starts one that follows `primary` from its first transaction.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn of(primary: &Db) -> Result<Self> {
        Self::numbered(primary, 12).await
    }

    /// The same, with this `server_id`: of two replicas of one server each needs its own.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn numbered(primary: &Db, server_id: u32) -> Result<Self> {
        let id = format!("--server-id={server_id}");
        let this = Self { db: Arc::new(Db::start(primary.flavor(), &[&id, "--log-slave-updates=1"]).await?) };
        this.aim(primary).await?;
        this.go_on().await?;
        Ok(this)
    }

    /// Follows another server, which has everything that it has, and applies nothing before [`Replica::go_on`]. It receives.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn follow_held(&self, primary: &Db) -> Result<()> {
        self.stop().await?;
        self.aim(primary).await?;
        self.run(&[&format!("START {} IO_THREAD", self.name())]).await
    }

    /// Follows nobody any more.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn stop(&self) -> Result<()> {
        self.run(&[&format!("STOP {}", self.name())]).await
    }

    async fn aim(&self, primary: &Db) -> Result<()> {
        let port = primary.port();
        let source = match primary.flavor() {
            Flavor::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            ),
            Flavor::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos"
            ),
        };
        self.run(&[&source]).await
    }

    async fn run(&self, statements: &[&str]) -> Result<()> {
        let mut conn = self.db.connect().await?;
        run(&mut conn, statements).await?;
        Ok(conn.disconnect().await?)
    }

    fn name(&self) -> &'static str {
        match self.db.flavor() {
            Flavor::MySql => "REPLICA",
            Flavor::MariaDb => "SLAVE",
        }
    }

    /// Goes on applying.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn go_on(&self) -> Result<()> {
        self.run(&[&format!("START {}", self.name())]).await
    }

    /// Applies nothing any more, but receives.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn hold(&self) -> Result<()> {
        self.run(&[&format!("STOP {} SQL_THREAD", self.name())]).await
    }

    /// Applies so much later from now on.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn delay(&self, seconds: u32) -> Result<()> {
        let delay = match self.db.flavor() {
            Flavor::MySql => format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY={seconds}"),
            Flavor::MariaDb => format!("CHANGE MASTER TO MASTER_DELAY={seconds}"),
        };
        self.run(&[&format!("STOP {}", self.name()), &delay]).await?;
        self.go_on().await
    }

    /// Returns when it has all that `primary` has now.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub async fn caught_up(&self, primary: &Db) -> Result<()> {
        let mut conn = primary.connect().await?;
        let goal = primary.gtids(&mut conn).await?;
        until("the replica has everything", WITHIN, async || {
            let mut conn = self.db.connect().await?;
            let (question, now) = match self.db.flavor() {
                Flavor::MySql => (
                    format!("SELECT GTID_SUBSET('{goal}', @@gtid_executed)"),
                    self.db.gtids(&mut conn).await?,
                ),
                Flavor::MariaDb => (format!("SELECT MASTER_GTID_WAIT('{goal}', 0) = 0"), String::new()),
            };
            let reached: Option<Option<i64>> = conn.query_first(question).await?;
            Ok(Seen::check(reached.flatten() == Some(1), || format!("{now}, goal {goal}")))
        })
        .await
    }
}
