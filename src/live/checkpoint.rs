//! The checkpoint: can it be read, and where does it stand?
//!
//! Guarantees: it isn't taken over, nothing is written that anybody could read. May depend on `checkpoint`.

use std::time::Duration;

use super::{
    Waiting,
    report::{Group, Line},
};
use crate::{
    checkpoint::{
        CheckpointError,
        file::{Generation, Saved},
        store,
    },
    config::{Config, Policy, Shared},
};

/// A shared one is asked for by its own clients, which try for a while.
const WITHIN: Duration = Duration::from_secs(20);

/// What is known of it.
pub(super) struct Found {
    /// For the group of this machine.
    pub(super) lines: Vec<Line>,
    /// `Err`: it can't be read.
    pub(super) saved: Result<Option<Saved>, ()>,
}

pub(super) async fn look(config: &Config, waiting: &Waiting) -> Found {
    let place = store::place(config);
    let mut group = Group::new("machine", format!("checkpoint {place}"));
    let _named = waiting.begin(&group.title);
    let shared = config.checkpoint.shared.is_some();
    let code = "machine.checkpoint";
    let saved = match tokio::time::timeout(WITHIN, store::look(config)).await {
        Err(_) => {
            group.unreachable(
                code,
                format!("{place}: no answer within {} s", WITHIN.as_secs()),
                "see the line of that server",
            );
            Err(())
        }
        Ok(Ok(None)) if shared && config.source.policies.on_gap == Policy::Halt => {
            group.error(
                code,
                format!("{place}: there is none, and a shared one is never begun by itself: the daemon would not start"),
                "if this deployment has never run: `rowbust checkpoint set --latest`; else give it a position from a log",
            );
            Ok(None)
        }
        Ok(Ok(None)) => {
            group.ok(code, format!("{place}: none yet, the daemon begins where `source.start` says"));
            Ok(None)
        }
        Ok(Ok(Some((saved, generation)))) => {
            let at = format!("{place}: at {}:{}", saved.file, saved.position);
            match generation {
                Generation::Newest => group.ok(code, at),
                Generation::Previous => group.warning(
                    code,
                    format!("{at}, of the generation before: the newest is missing or torn"),
                    "nothing to do: what lies between is removed once more; look at the disk",
                ),
            }
            Ok(Some(saved))
        }
        Ok(Err(CheckpointError::Unavailable { why, .. })) if shared => {
            let help = match &config.checkpoint.shared {
                Some(Shared::Kafka { prefix, .. }) => {
                    format!("are the brokers right, and may this account read {prefix}.checkpoint?")
                }
                _ => "see the lines of that redis target".to_owned(),
            };
            group.unreachable(code, format!("{place}: {why}"), help);
            Err(())
        }
        Ok(Err(error)) => {
            group.error(
                code,
                error.to_string(),
                "restore it from a copy, or put another position in its place: `rowbust checkpoint set`",
            );
            Err(())
        }
    };
    match &config.checkpoint.shared {
        None => {}
        Some(Shared::Redis { .. }) => group.not_tested(
            code,
            "may it be written? That shows at the daemon's first start only",
            "the user needs +eval +hget +hset +hincrby +persist on ~rowbust:checkpoint:*",
        ),
        Some(Shared::Kafka { .. }) => rights(config, &mut group).await,
    }
    Found { lines: group.lines, saved }
}

/// Each right by itself.
#[cfg(feature = "kafka")]
async fn rights(config: &Config, group: &mut Group) {
    use crate::checkpoint::kafka::RightState;

    let code = "machine.checkpoint";
    match tokio::time::timeout(WITHIN, store::rights(config)).await {
        Ok(Ok(rights)) => {
            for right in rights {
                match &right.state {
                    RightState::There => group.ok(code, right.to_string()),
                    RightState::Missing(why) if right.operation == "CREATE" => group.error(
                        code,
                        format!("no {right}: {why}"),
                        format!("grant {right}, or create it: one partition, cleanup.policy=compact"),
                    ),
                    RightState::Missing(why) => {
                        group.error(code, format!("no {right}: {why}"), format!("grant {right}"));
                    }
                    RightState::Unknown(why) => group.not_tested(
                        code,
                        format!("{right}? {why}"),
                        "look again once the other lines are ok; docs/high-availability.md lists the rights",
                    ),
                }
            }
        }
        Ok(Err(error)) => {
            group.unreachable(code, error.to_string(), "are the brokers and `properties` right?");
        }
        Err(_) => group.unreachable(
            code,
            format!("rights: no answer within {} s", WITHIN.as_secs()),
            "the brokers are reached but do not answer",
        ),
    }
}

#[cfg(not(feature = "kafka"))]
async fn rights(_: &Config, _: &mut Group) {}
