//! Removals that go to one server of a cluster together.
//!
//! Guarantees: each removal gets the answer of the command that it went in. May depend on `pipeline::batch` and the rest of this folder.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::{
    super::classify::{self, Failure},
    command,
    link::Link,
};
use crate::pipeline::batch::Removal;

/// One removal on its way.
#[derive(Debug)]
pub(super) struct Due {
    /// Its place among the caller's.
    pub(super) at: usize,
    pub(super) slot: u16,
    pub(super) to: To,
    /// Not in one command with others: while a slot moves, some of its keys are here and some there.
    pub(super) alone: bool,
}

#[derive(Debug, Clone)]
pub(super) enum To {
    Owner,
    At(Arc<Link>),
    Ask(Arc<Link>),
}

/// What goes to one server.
#[derive(Debug)]
pub(super) struct Lot {
    pub(super) link: Arc<Link>,
    pub(super) due: Vec<Due>,
}

/// Removals that went in one command, and what became of it.
pub(super) type Sent = Vec<(Vec<Due>, Result<(), Failure>)>;

impl Lot {
    /// One command for all whole keys of a slot, all commands in one go.
    pub(super) async fn send(mut self, removals: &[Removal<'_>]) -> (Arc<Link>, Sent) {
        self.due.sort_by_key(|one| (one.slot, one.alone));
        let mut groups: Vec<Vec<Due>> = Vec::with_capacity(self.due.len());
        for one in self.due {
            match groups.last_mut() {
                Some(group) if !one.alone && group.iter().all(|g| !g.alone && g.slot == one.slot) => {
                    group.push(one);
                }
                _ => groups.push(vec![one]),
            }
        }
        let mut commands: Vec<Cmd> = Vec::with_capacity(groups.len());
        // The place of each group's reply.
        let mut places = Vec::with_capacity(groups.len());
        for group in &groups {
            if group.iter().any(|one| matches!(one.to, To::Ask(_))) {
                commands.push(redis::cmd("ASKING"));
            }
            places.push(commands.len());
            commands.push(joined(group, removals));
        }
        let replies = match self.link.send(&commands).await {
            Ok(replies) => replies,
            Err(failure) => {
                let failed = groups.into_iter().map(|group| (group, Err(failure.clone()))).collect();
                return (self.link, failed);
            }
        };
        let results = places.iter().map(|at| match replies.get(*at) {
            Some(Value::ServerError(error)) => {
                let failure = classify::reply(error);
                // Of one slot, not of the server.
                if failure.code == "CLUSTERDOWN" && failure.message.contains("not served") {
                    return Err(failure);
                }
                self.link.judge(|| commands.get(*at).cloned(), Err(failure))
            }
            Some(_) => Ok(()),
            None => Err(Failure::target("PROTOCOL", "a reply is missing")),
        });
        let results: Vec<Result<(), Failure>> = results.collect();
        (self.link, groups.into_iter().zip(results).collect())
    }
}

/// One command for removals of one slot.
fn joined(group: &[Due], removals: &[Removal<'_>]) -> Cmd {
    let own = |one: &Due| removals.get(one.at).copied();
    if let [one] = group
        && let Some(removal) = own(one)
    {
        return command(removal);
    }
    let mut unlink = redis::cmd("UNLINK");
    for removal in group.iter().filter_map(own) {
        unlink.arg(removal.key);
    }
    unlink
}
