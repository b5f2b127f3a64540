//! What faults do to the servers' replication, and how everything goes on after faults.

use tokio::task::block_in_place;

use super::World;
use crate::live::{Flavor, LiveError, error::LiveError as Error};

impl World {
    /// The replica goes on receiving, and applies nothing, or applies again.
    pub(in crate::live) async fn hold_replica(&self, hold: bool) -> Result<(), LiveError> {
        let Some(replica) = &self.replica_admin else { return Ok(()) };
        let verb = if hold { "STOP" } else { "START" };
        let sql = format!("{verb} {} SQL_THREAD", self.flavor.replica_word());
        replica.run(vec![sql]).await.map_err(Error::database("holding the replica back")).map(drop)
    }

    /// From now on commits wait, in the binlog already, for a replica that never acknowledges; or go on.
    pub(in crate::live) async fn withhold(&self, withhold: bool) -> Result<(), LiveError> {
        let role = self.flavor.semisync_role();
        let set = |name: &str, value: &str| format!("SET GLOBAL rpl_semi_sync_{role}_{name}={value}");
        let statements = match withhold {
            true => {
                let nobody = if self.flavor == Flavor::MySql { "wait_no_replica" } else { "wait_no_slave" };
                vec![
                    set("timeout", "120000"),
                    set("wait_point", "AFTER_SYNC"),
                    set(nobody, "ON"),
                    set("enabled", "ON"),
                ]
            }
            false => vec![set("enabled", "OFF")],
        };
        self.admin.run(statements).await.map_err(Error::database("semi-synchronous replication")).map(drop)
    }

    /// Undoes what faults that were broken off may have left. What can't be undone is noticed by what comes next.
    pub(in crate::live) async fn heal(&self) {
        if !self.is_private() {
            return;
        }
        if let Some(kafka) = self.kafka()
            && let Err(error) = kafka.thaw()
        {
            tracing::debug!(%error, "kafka can't go on");
        }
        if let Err(error) = self.withhold(false).await.and(self.hold_replica(false).await) {
            tracing::debug!(%error, "the database can't go on");
        }
        if self.raw().await.is_err()
            && let Some(redis) = self.redis_server()
            && let Err(error) = block_in_place(|| redis.start_again())
        {
            tracing::debug!(%error, "redis can't go on");
        }
        if let Ok(mut raw) = self.raw().await {
            let unlimited: Result<(), _> =
                redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut raw).await;
            if let Err(error) = unlimited {
                tracing::debug!(%error, "redis keeps its limit");
            }
        }
    }

    /// How many commits wait so.
    pub(in crate::live) async fn withheld(&self) -> Result<u64, LiveError> {
        let role = self.flavor.semisync_role();
        let sql = format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{role}_wait_sessions'");
        let row: Option<(String, u64)> =
            self.admin.first(&sql).await.map_err(Error::database("semi-synchronous replication"))?;
        Ok(row.map_or(0, |(_, sessions)| sessions))
    }
}
