//! What `INFO` tells: version, eviction, persistence, replicas.
//!
//! May depend on `invalidate::target`.

use std::collections::HashMap;

use super::report::{Finding, Group};
use crate::{
    config::{Config, KeyOp, RedisTarget, Shared},
    invalidate::target::Master,
};

/// The oldest with all commands that are used; ACLs are younger.
const OLDEST: (u32, u32) = (4, 0);
/// The oldest that is tested.
const TESTED: (u32, u32) = (7, 0);

/// What `INFO` tells of each master.
pub(super) async fn look(
    config: &Config,
    at: usize,
    target: &RedisTarget,
    masters: &mut [Master],
    group: &mut Group,
) {
    let mut all: Vec<(String, HashMap<String, String>)> = Vec::new();
    for master in masters.iter_mut() {
        match master.peek::<String>(&redis::cmd("INFO")).await {
            Ok(text) => {
                let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                all.push((master.address().to_owned(), fields));
            }
            Err(failure) => {
                group.not_tested(
                    "redis.version",
                    format!("version, eviction, persistence, replicas: {failure}"),
                    format!("to have it tested: ACL SETUSER {} +info", super::redis::user(target)),
                );
                return;
            }
        }
    }
    let mut each = |code, judge: &dyn Fn(&HashMap<String, String>) -> Option<Finding>| {
        let found = all.iter().filter_map(|(at, info)| Some((at.clone(), judge(info)?)));
        group.merge(code, found.collect());
    };
    let sets = config.mappings.iter().any(|mapping| {
        mapping.target == at && mapping.keys.iter().any(|rule| matches!(rule.op, KeyOp::MembersOf { .. }))
    });
    let kept = matches!(&config.checkpoint.shared, Some(Shared::Redis { target, .. }) if *target == at);
    each("redis.version", &|info| Some(version(info)));
    each("redis.eviction", &|info| Some(eviction(info, sets, kept)));
    each("redis.persistence", &|info| Some(persistence(info)));
    each("redis.replicas", &|info| Some(replicas(info, target)));
}

fn field<'i>(info: &'i HashMap<String, String>, name: &str) -> &'i str {
    info.get(name).map_or("", String::as_str)
}

fn version(info: &HashMap<String, String>) -> Finding {
    let valkey = field(info, "valkey_version");
    if !valkey.is_empty() {
        return Finding::Ok(format!("Valkey {valkey}"));
    }
    let version = field(info, "redis_version");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < OLDEST {
        return Finding::Error(
            format!("Redis {version}"),
            "it has no UNLINK: 4.0 is the oldest that can work, 7.0 the oldest that is tested".into(),
        );
    }
    if number < TESTED {
        let help = "Redis 7.0, 8 and Valkey 8 and newer are tested";
        return Finding::Warning(format!("Redis {version}"), help.into());
    }
    Finding::Ok(format!("Redis {version}"))
}

fn eviction(info: &HashMap<String, String>, sets: bool, kept: bool) -> Finding {
    let policy = field(info, "maxmemory_policy");
    let limit = field(info, "maxmemory_human");
    if field(info, "maxmemory") == "0" {
        return Finding::Ok(format!("{policy}, without a limit of memory"));
    }
    if policy.starts_with("allkeys") && (sets || kept) {
        let what = if sets {
            "a set of `members_of` that is evicted takes the names of its members with it: they stay stale"
        } else {
            "the checkpoint can be evicted"
        };
        return Finding::Error(
            format!("{policy} at {limit}: {what}"),
            "CONFIG SET maxmemory-policy volatile-lru (and in redis.conf), with no TTL on the sets; or noeviction".into(),
        );
    }
    Finding::Ok(format!("{policy} at {limit}"))
}

fn persistence(info: &HashMap<String, String>) -> Finding {
    if field(info, "rdb_last_bgsave_status") == "err" || field(info, "aof_last_write_status") == "err" {
        return Finding::Warning(
            "the last write to its disk failed: it may refuse removals (MISCONF)".into(),
            "see its log; is the disk full?".into(),
        );
    }
    if field(info, "aof_enabled") == "1" {
        return Finding::Ok("AOF".into());
    }
    Finding::Ok("no AOF: after a restart it holds what its last snapshot held, or nothing".into())
}

fn replicas(info: &HashMap<String, String>, target: &RedisTarget) -> Finding {
    if field(info, "role") == "slave" {
        return Finding::Error(
            "it is a replica: it takes no removals".into(),
            "name its master, or use `mode: sentinel`".into(),
        );
    }
    let connected: u64 = field(info, "connected_slaves").parse().unwrap_or(0);
    let Some(durability) = target.durability else {
        return Finding::Ok(format!("{connected}; `durability` is off, so none is waited for"));
    };
    let wanted = durability.replicas;
    if connected < wanted {
        return Finding::Error(
            format!("{connected}, and `durability` waits for {wanted}: every removal would end in the queue"),
            "connect more replicas, or lower `wait_replicas`".into(),
        );
    }
    if connected == wanted {
        return Finding::Warning(
            format!(
                "{connected}, as many as `durability` waits for: one that is away turns all removals into queued ones"
            ),
            "have one replica more".into(),
        );
    }
    Finding::Ok(format!("{connected}, of which `durability` waits for {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(fields: &[(&str, &str)]) -> HashMap<String, String> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn versions() {
        let of = |version| super::version(&info(&[("redis_version", version)]));
        assert!(matches!(of("3.2.12"), Finding::Error(..)));
        assert!(matches!(of("6.2.1"), Finding::Warning(..)));
        assert!(matches!(of("7.0.15"), Finding::Ok(_)));
        assert!(matches!(of("10.0.0"), Finding::Ok(_)));
        let valkey = info(&[("redis_version", "7.2.4"), ("valkey_version", "9.1.2")]);
        assert_eq!(super::version(&valkey), Finding::Ok("Valkey 9.1.2".into()));
    }

    #[test]
    fn sets_must_not_be_evicted() {
        let of = |policy, memory, sets| {
            eviction(&info(&[("maxmemory_policy", policy), ("maxmemory", memory)]), sets, false)
        };
        assert!(matches!(of("allkeys-lru", "100", true), Finding::Error(..)));
        assert!(matches!(of("allkeys-lru", "0", true), Finding::Ok(_)));
        assert!(matches!(of("allkeys-lru", "100", false), Finding::Ok(_)));
        assert!(matches!(of("volatile-lru", "100", true), Finding::Ok(_)));
    }
}
