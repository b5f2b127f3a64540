//! One Redis target: whether it answers, what its user may do (`redis_rights`), and whether its settings suit the mappings (`redis_info`).
//!
//! May depend on `invalidate::target`.

use std::collections::BTreeSet;

use redis::Value;

use super::{Waiting, redis_info, redis_rights, report::Group, source::unix_now, within};
use crate::{
    config::{Config, RedisMode, RedisTarget, is_loopback},
    invalidate::target::{ConnectError, Master, Target},
};

/// With the seconds by which its clock is ahead of this machine's.
pub(super) async fn look(config: &Config, at: usize, waiting: &Waiting) -> (Group, Option<f64>) {
    let Some(target) = config.redis.get(at) else { return (Group::new("redis", ""), None) };
    let group = Group::new("redis", format!("redis {}: {}", target.name, shown(target)));
    let mut clock = None;
    let group = within(waiting, group, "redis.answer", async |group: &mut Group| {
        clock = questions(config, at, target, group).await;
    })
    .await;
    (group, clock)
}

fn shown(target: &RedisTarget) -> String {
    let nodes: Vec<String> = target.addresses().iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let nodes = nodes.join(", ");
    match &target.mode {
        RedisMode::Standalone { .. } => nodes,
        RedisMode::Cluster { .. } => format!("cluster of {nodes}"),
        RedisMode::Sentinel { master, .. } => format!("{master} by sentinels {nodes}"),
    }
}

pub(super) fn user(target: &RedisTarget) -> &str {
    target.username.as_deref().unwrap_or("default")
}

async fn questions(config: &Config, at: usize, target: &RedisTarget, group: &mut Group) -> Option<f64> {
    let connection = Target::new(target.clone());
    if let Err(error) = connection.connect().await {
        no_connection(target, group, &error);
        sentinels(&connection, group).await;
        return None;
    }
    let encrypted = if target.tls.is_some() { "encrypted" } else { "plain text" };
    let text = format!("logged in as {}, {encrypted}", user(target));
    if target.tls.is_none() && !target.addresses().iter().all(|(host, _)| is_loopback(host)) {
        group.warning(
            "redis.connect",
            format!("{text}: password and keys cross the network readable"),
            "write `rediss://`, or `tls:` with a mode, see docs/redis.md",
        );
    } else {
        group.ok("redis.connect", text);
    }
    sentinels(&connection, group).await;
    let mut masters = match connection.masters().await {
        Ok(masters) => masters,
        Err(failure) => {
            group.unreachable(
                "redis.cluster",
                format!("not every master can be reached: {failure}"),
                "its keys would wait in the queue: bring it back, or let the cluster promote a replica",
            );
            return None;
        }
    };
    if let RedisMode::Cluster { .. } = target.mode {
        cluster(&connection, &mut masters, target, group).await;
    }
    redis_rights::commands(config, at, target, &mut masters, group).await;
    redis_rights::marks(target, &mut masters, group).await;
    redis_info::look(config, at, target, &mut masters, group).await;
    match masters.first_mut() {
        Some(master) => clock(master).await,
        None => None,
    }
}

fn no_connection(target: &RedisTarget, group: &mut Group, error: &ConnectError) {
    let code = "redis.connect";
    let ConnectError::Redis { failure, .. } = error else {
        group.error(code, error.to_string(), "name a file in the config that rowbust's user may read");
        return;
    };
    let said = failure.message.to_lowercase();
    match failure.code.as_str() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "ERR" => group.error(
            code,
            error.to_string(),
            format!(
                "look at `username` and `password` of `redis.{}`; the user needs +ping, see docs/security.md",
                target.name
            ),
        ),
        "READONLY" => group.error(code, error.to_string(), "wait for the sentinels to agree, then try again"),
        _ if said.contains("certificate") || said.contains("tls") => group.error(
            code,
            error.to_string(),
            format!("look at `redis.{}.tls`: its mode and `ca_file`; does this port speak TLS?", target.name),
        ),
        _ => group.unreachable(
            code,
            error.to_string(),
            "does the server run, is the address right, does a firewall stand between?",
        ),
    }
}

async fn sentinels(connection: &Target, group: &mut Group) {
    let said = connection.sentinels().await;
    if said.is_empty() {
        return;
    }
    let code = "redis.sentinels";
    let masters: BTreeSet<&String> = said.iter().filter_map(|(_, said)| said.as_ref().ok()).collect();
    for (address, error) in said.iter().filter_map(|(at, said)| Some((at, said.as_ref().err()?))) {
        let text = format!("{address}: {error}");
        match error {
            ConnectError::Redis { failure, .. }
                if matches!(failure.code.as_str(), "NOPERM" | "NOAUTH" | "WRONGPASS" | "ERR") =>
            {
                group.error(
                    code,
                    text,
                    "look at the master's name and at `sentinel:`; the user there needs +ping +sentinel|master",
                );
            }
            // The others know as well.
            _ if !masters.is_empty() => {
                group.warning(code, text, "bring it back: a failover needs a majority of them")
            }
            _ => group.unreachable(code, text, "does it run, is the address right?"),
        }
    }
    match masters.len() {
        0 => {}
        1 => group.ok(
            code,
            format!(
                "{} of {} name {}",
                said.iter().filter(|(_, s)| s.is_ok()).count(),
                said.len(),
                masters.iter().next().map_or("", |m| m)
            ),
        ),
        _ => group.warning(
            code,
            format!(
                "they name different masters: {}",
                masters.into_iter().cloned().collect::<Vec<_>>().join(", ")
            ),
            "a failover is under way, or one of them is cut off; the newest configuration counts",
        ),
    }
}

async fn cluster(connection: &Target, masters: &mut [Master], target: &RedisTarget, group: &mut Group) {
    let code = "redis.cluster";
    let count = masters.len();
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("SLOTS");
    if let Some(master) = masters.first_mut() {
        match master.peek::<Value>(&slots).await {
            Ok(Value::Array(ranges)) => {
                let number = |value: Option<&Value>| match value {
                    Some(Value::Int(n)) => *n,
                    _ => 0,
                };
                let served: i64 = ranges
                    .iter()
                    .map(|range| match range {
                        Value::Array(parts) => number(parts.get(1)) - number(parts.first()) + 1,
                        _ => 0,
                    })
                    .sum();
                if served == 16384 {
                    group.ok(code, format!("{count} masters serve all slots"));
                } else {
                    group.error(
                        code,
                        format!("{served} of 16384 slots are served: keys of the others wait in the queue"),
                        "give them a master: `redis-cli --cluster fix`",
                    );
                }
            }
            other => {
                let why =
                    other.err().map_or("an answer of another form".into(), |failure| failure.to_string());
                group.error(
                    code,
                    format!("CLUSTER SLOTS: {why}"),
                    format!("ACL SETUSER {} +cluster|slots", user(target)),
                );
            }
        }
    }
    if let Ok(layout) = connection.layout().await
        && layout.is_moving()
    {
        group.warning(
            code,
            "slots are on their way from one master to another",
            "nothing to do for keys; flushes wait until it is done",
        );
    }
}

async fn clock(master: &mut Master) -> Option<f64> {
    let before = unix_now();
    let (seconds, micros): (String, String) = master.peek(&redis::cmd("TIME")).await.ok()?;
    let after = unix_now();
    let theirs = seconds.parse::<f64>().ok()? + micros.parse::<f64>().ok()? / 1e6;
    Some(theirs - (before + after) / 2.0)
}
