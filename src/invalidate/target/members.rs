//! A set's members: removed as keys, with their entries.
//!
//! Guarantees: see [`super::super::sweep`]: no value is left that its set has forgotten, where fills write the value first. May depend on
//! the rest of this folder.

use std::time::Duration;

use redis::{Cmd, Value};

use super::{
    super::classify::{self, Failure},
    Kind, Target,
    cluster::{Cluster, REDIRECTS},
    slots::slot,
};
use crate::pipeline::batch::Removal;

/// Pause before the next try while a slot moves.
const PAUSE: Duration = Duration::from_millis(10);
/// Tries to give a set entries back.
const GIVE_BACK: usize = 20;

fn on_set(command: &str, set: &[u8], members: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(command);
    command.arg(set).arg(members);
    command
}

/// Removes both at once, or nothing.
fn transaction(set: &[u8], members: &[&[u8]]) -> [Cmd; 4] {
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(members);
    [redis::cmd("MULTI"), unlink, on_set("SREM", set, members), redis::cmd("EXEC")]
}

/// The first error of them, also of those that EXEC has run.
fn first_error(replies: Vec<Value>) -> Result<(), Failure> {
    for reply in replies {
        match reply {
            Value::ServerError(error) => return Err(classify::reply(&error)),
            Value::Array(inner) => first_error(inner)?,
            _ => {}
        }
    }
    Ok(())
}

impl Target {
    /// Removes keys that are members of a set, with their entries. On a cluster those in other slots than the set can't be removed
    /// together with them: they keep their entries until the removal that is the `last` one owed.
    ///
    /// # Errors
    /// Some of it may have been done.
    pub(in super::super) async fn remove_members(
        &self,
        set: &[u8],
        members: &[&[u8]],
        last: bool,
    ) -> Result<(), Failure> {
        match &self.kind {
            Kind::Single(single) => {
                let replies = single.link.send(&transaction(set, members)).await?;
                let first = || members.first().map(|key| super::command(Removal { key, field: None }));
                single.link.judge(first, first_error(replies))
            }
            Kind::Cluster(cluster) => self.remove_members_of_cluster(cluster, set, members, last).await,
        }
    }

    async fn remove_members_of_cluster(
        &self,
        cluster: &Cluster,
        set: &[u8],
        members: &[&[u8]],
        last: bool,
    ) -> Result<(), Failure> {
        let (near, far): (Vec<&[u8]>, Vec<&[u8]>) =
            members.iter().copied().partition(|member| slot(member) == slot(set));
        if !near.is_empty() {
            self.on_owner(cluster, set, &transaction(set, &near)).await?;
        }
        if far.is_empty() {
            return Ok(());
        }
        let removals: Vec<_> = far.iter().map(|key| Removal { key, field: None }).collect();
        let unlink = async || {
            let failed = cluster.remove(&self.connector, &removals).await;
            failed.into_iter().next().map_or(Ok(()), |(_, failure)| Err(failure))
        };
        unlink().await?;
        if !last {
            return Ok(());
        }
        // A fill that came before the entry went has its value removed by the second UNLINK; one that comes behind it adds its own entry.
        self.on_owner(cluster, set, &[on_set("SREM", set, &far)]).await?;
        let Err(failure) = unlink().await else { return Ok(()) };
        // Whatever stands there now has to be found again.
        for _ in 0..GIVE_BACK {
            if self.on_owner(cluster, set, &[on_set("SADD", set, &far)]).await.is_ok() {
                return Err(failure);
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::error!(target = self.name(), set = %set.escape_ascii(), members = far.len(), %failure,
            "members lost their entries before their removal was acknowledged, they may be cached and in no set");
        Err(failure)
    }

    /// Sends commands of one slot to who serves it.
    async fn on_owner(&self, cluster: &Cluster, key: &[u8], commands: &[Cmd]) -> Result<(), Failure> {
        let mut link = cluster.owner(key)?;
        for _ in 0..REDIRECTS {
            match first_error(link.send(commands).await?) {
                // Only a whole transaction would do there: wait until the slot has moved.
                Err(failure) if matches!(failure.code.as_str(), "ASK" | "TRYAGAIN") => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failure) if failure.is_redirect() => {
                    link = cluster.follow(&self.connector, &failure, &link).await?;
                }
                result => return link.judge(|| None, result),
            }
        }
        Err(Failure::target("MOVED", "redirected too often"))
    }
}
