//! Which servers guarded fills may read from, told to readers by a Redis key; and with it, which ones a commit must be visible at.
//!
//! A reader asks for the pool *after* it was granted its lease, and reads from no other server. So a server may stop counting for
//! visibility only once the pool without it is acknowledged: whoever read the older one has a lease that the next second removal revokes.
//! And it may be listed again only once it has everything that was called visible without it.
//!
//! Guarantees: at any moment the servers that count for a target ([`Gate`]) include every one that a pool lists which readers of that
//! target may have found after the newest second removal; until the first look at the key, nothing is visible for it. A server is
//! dropped only where the config allows it (`source.replica_timeout`), for readers of plain keys don't look at the pool. May depend on
//! `watermark`, `invalidate`'s targets and `checkpoint`.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Stats, redis};
use crate::{
    checkpoint,
    invalidate::{classify::Failure, target::Target},
    source::position::{CommitSpan, Coordinates, Position},
    watermark::{Gate, Watermark},
};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// The one form that there is.
const VERSION: u32 = 1;

/// What stands at the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Version of this form: 1.
    pub v: u32,
    /// `host:port` of each, as in the config, the primary first.
    pub members: Vec<String>,
}

/// What a replica counts for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    /// Listed, or maybe so: counts for visibility.
    In,
    /// Counts for visibility, and isn't listed yet: it will be once it has all that is done, which is what lies before this place.
    Joining(Option<Coordinates>),
    /// Neither.
    Out,
}

/// Keeps one target's pool.
#[derive(Debug)]
pub struct Pool {
    target: Arc<Target>,
    gate: Arc<Gate>,
    watermark: Watermark,
    checkpoint: checkpoint::Watch,
    key: String,
    timeout: Option<Duration>,
    /// By replica, in the order of the config: the primary isn't among them.
    replicas: Vec<Member>,
    /// Whether the key was looked at.
    begun: bool,
    forbidden: bool,
    stats: Arc<Stats>,
}

impl Pool {
    /// Of `source.replicas`, which are `watermark`'s servers but the first. `timeout`: `source.replica_timeout`.
    pub fn new(
        target: Arc<Target>,
        gate: Arc<Gate>,
        watermark: Watermark,
        checkpoint: checkpoint::Watch,
        name: &str,
        timeout: Option<Duration>,
        stats: Arc<Stats>,
    ) -> Self {
        let replicas = vec![Member::In; watermark.servers().saturating_sub(1)];
        let key = redis::pool_key(name);
        Self {
            target,
            gate,
            watermark,
            checkpoint,
            key,
            timeout,
            replicas,
            begun: false,
            forbidden: false,
            stats,
        }
    }

    /// Keeps the pool until `stop`; without replicas, until nothing of an older config is left of it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if self.target.breaker.is_open() {
                continue;
            }
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.round() => done,
            };
            match done {
                Ok(()) if self.replicas.is_empty() => {
                    stop.cancelled().await;
                    return;
                }
                Ok(()) => {}
                Err(failure) if failure.code == "NOPERM" => self.forbidden(&failure),
                Err(failure) => {
                    tracing::debug!(target = self.target.name(), %failure, "pool of read sources can't be kept");
                }
            }
        }
    }

    /// Every server of the config counts, and none is ever dropped: that is right for whatever readers find there but for a list of an
    /// older config.
    fn forbidden(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.forbidden, true) && !self.replicas.is_empty() {
            tracing::warn!(target = self.target.name(), key = self.key, %failure,
                "the redis account may not keep the pool of read sources: guarded readers will use the primary alone");
        }
        self.open();
    }

    async fn round(&mut self) -> Result<(), Failure> {
        self.publish().await?;
        self.open();
        for at in 0..self.replicas.len() {
            self.member(at).await?;
        }
        Ok(())
    }

    fn open(&self) {
        if self.gate.open() {
            self.watermark.touch();
        }
    }

    fn listed(&self) -> Vec<String> {
        let addresses = self.watermark.addresses();
        let is_listed = |at: &usize| *at == 0 || self.replicas.get(*at - 1) == Some(&Member::In);
        (0..addresses.len()).filter(is_listed).filter_map(|at| addresses.get(at).cloned()).collect()
    }

    /// Makes the key say what `self` says. Somebody else may have changed it, or Redis have lost its memory.
    async fn publish(&mut self) -> Result<(), Failure> {
        let found = redis::pool(&self.target, &self.key).await?;
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(found.as_deref());
        }
        let members = self.listed();
        let text = Listed { v: VERSION, members: members.clone() };
        // Strings and numbers only: this can't fail.
        let text = serde_json::to_string(&text).unwrap_or_default();
        // Absent means the primary alone.
        let wanted = (!self.replicas.is_empty()).then_some(text.as_str());
        if found.as_deref() != wanted {
            redis::set_pool(&self.target, &self.key, wanted).await?;
            tracing::info!(
                target = self.target.name(),
                key = self.key,
                ?members,
                "pool of read sources published"
            );
        }
        self.stats.target(self.target.name(), |state| state.pool = members);
        Ok(())
    }

    /// Who wasn't listed may lack what was done in earlier lives, up to the checkpoint; what lies behind that is done again, and waits for
    /// every server of the config.
    fn begin(&mut self, found: Option<&str>) {
        let listed = found.and_then(|text| serde_json::from_str::<Listed>(text).ok());
        let addresses = self.watermark.addresses();
        for (replica, address) in self.replicas.iter_mut().zip(addresses.iter().skip(1)) {
            if !listed.as_ref().is_some_and(|listed| listed.members.contains(address)) {
                *replica = Member::Joining(None);
            }
        }
    }

    /// Lets one replica leave or join.
    async fn member(&mut self, at: usize) -> Result<(), Failure> {
        let server = at + 1;
        let Some(member) = self.replicas.get(at).cloned() else { return Ok(()) };
        let address = self.watermark.addresses().get(server).cloned().unwrap_or_default();
        let held = self.watermark.held_for(server).unwrap_or_default();
        let is_late = self.timeout.is_some_and(|timeout| held >= timeout);
        let saved = self.checkpoint.snapshot().saved.and_then(|saved| checkpoint::position(&saved).ok());
        let watermark = self.watermark.clone();
        let has = |position: &Position| watermark.has(server, &CommitSpan::of_position(position));
        match member {
            Member::In if is_late => {
                self.set(at, Member::Out);
                // Until this is acknowledged it counts; if it fails, the next round tries again, or lets it be listed once more.
                if let Err(failure) = self.publish().await {
                    self.set(at, Member::In);
                    return Err(failure);
                }
                self.gate.count(server, false);
                self.watermark.touch();
                tracing::warn!(
                    target = self.target.name(),
                    server = address,
                    held_s = held.as_secs(),
                    "read source has held up removals for too long: it has left the pool. Fills of plain keys that still read from it may \
                     put old values back"
                );
            }
            Member::Out if saved.as_ref().is_some_and(has) => {
                self.gate.count(server, true);
                self.set(at, Member::Joining(self.watermark.newest_received()));
            }
            Member::Joining(_) if is_late => {
                self.gate.count(server, false);
                self.watermark.touch();
                self.set(at, Member::Out);
            }
            Member::Joining(goal) => {
                let Some(saved) = &saved else { return Ok(()) };
                let reached = goal.is_none_or(|goal| goal.is_behind(&saved.at) == Some(false));
                if reached && has(saved) {
                    // It may be listed from now on, whatever becomes of the answer.
                    self.set(at, Member::In);
                    self.publish().await?;
                    tracing::info!(
                        target = self.target.name(),
                        server = address,
                        "read source has joined the pool again"
                    );
                }
            }
            Member::In | Member::Out => {}
        }
        Ok(())
    }

    fn set(&mut self, at: usize, member: Member) {
        if let Some(own) = self.replicas.get_mut(at) {
            *own = member;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The vector of docs/wire-format.md.
    #[test]
    fn the_form_is_as_documented() {
        let listed = Listed { v: 1, members: vec!["db1:3306".into(), "db2:3306".into()] };
        let text = r#"{"v":1,"members":["db1:3306","db2:3306"]}"#;
        assert_eq!(serde_json::to_string(&listed).unwrap(), text);
        assert!(include_str!("../../docs/wire-format.md").contains(text));
        assert_eq!(serde_json::from_str::<Listed>(text).unwrap(), listed);
        assert_eq!(redis::pool_key("main"), "rowbust:pool:main");
    }
}
