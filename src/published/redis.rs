//! The commands that marks need. An error that is an outage trips the target's breaker: a connection that broke while nothing was to be
//! removed is made anew.
//!
//! Guarantees: [`publish`] changes nothing unless the value is still the one that was looked at. Each command names one key, so that a
//! cluster takes it. An account needs `EVAL`, `GET`, `SET` and `INFO`, and the keys `rowbust:*`. May depend on `invalidate`'s targets.

use redis::Cmd;

use super::mark::Look;
use crate::invalidate::{
    classify::Failure,
    target::{Master, Target},
};

/// `INFO` in the same step as the value: it is of the same process.
const LOOK: &str = "local info = redis.pcall('INFO') \
    if type(info) == 'table' then info = '' end \
    return { redis.call('GET', KEYS[1]), info }";

/// SET where the value is the expected one; an empty one stands for none.
const PUBLISH: &str = "local found = redis.call('GET', KEYS[1]) or '' \
    if found ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2]) \
    return 1";

fn key(what: &str, tag: Option<&str>, name: &str) -> String {
    match tag {
        Some(tag) => format!("rowbust:{what}:{{{tag}}}:{name}"),
        None => format!("rowbust:{what}:{name}"),
    }
}

/// Where a checkpoint's mark stands on a master.
pub(super) fn mark_key(tag: Option<&str>, lineage: &str) -> String {
    key("mark", tag, lineage)
}

/// Where clients find the frontier of a daemon.
pub(super) fn frontier_key(tag: Option<&str>, name: &str) -> String {
    key("frontier", tag, name)
}

/// Where readers find the pool of read sources. One key, wherever its slot lies: who reads it after the grant of a lease is right,
/// whichever server it stands on.
pub(super) fn pool_key(name: &str) -> String {
    key("pool", None, name)
}

/// What stands there.
pub(super) async fn pool(target: &Target, key: &str) -> Result<Option<String>, Failure> {
    Ok(target.master_of(key.as_bytes(), redis::cmd("GET").arg(key)).await?.1)
}

/// Writes it, or removes it.
pub(super) async fn set_pool(target: &Target, key: &str, text: Option<&str>) -> Result<(), Failure> {
    let command = match text {
        Some(text) => redis::cmd("SET").arg(key).arg(text).clone(),
        None => redis::cmd("UNLINK").arg(key).clone(),
    };
    target.master_of::<redis::Value>(key.as_bytes(), &command).await.map(drop)
}

fn script(text: &str, key: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(1).arg(key);
    command
}

pub(super) async fn look(master: &mut Master, key: &str) -> Result<Look, Failure> {
    let (found, info): (Option<String>, String) = master.ask(&script(LOOK, key)).await?;
    Ok(Look::new(found, &info))
}

/// Says whether it was published: `false` where something else than `found` stands there.
pub(super) async fn publish(
    master: &mut Master,
    key: &str,
    found: Option<&str>,
    text: &str,
) -> Result<bool, Failure> {
    let mut command = script(PUBLISH, key);
    command.arg(found.unwrap_or_default()).arg(text);
    master.ask(&command).await
}

pub(super) async fn set(master: &mut Master, key: &str, text: &str) -> Result<(), Failure> {
    master.ask(redis::cmd("SET").arg(key).arg(text)).await
}
