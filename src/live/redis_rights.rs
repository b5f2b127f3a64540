//! What a target's user may do: commands and keys.
//!
//! Guarantees: a right is tried by the command itself, on keys that a mapping could make but nobody has (a random number stands for each
//! column), or by a command that shows without changing; a key that is the same for every row is never touched. May depend on
//! `invalidate::target`.

use std::collections::BTreeSet;

use redis::{Cmd, Value};
use rowbust_protocol::template::{SlotValue, Template};

use super::{
    redis::user,
    report::{Finding, Group},
};
use crate::{
    config::{Config, KeyOp, Mapping, RedisMode, RedisTarget, Shared},
    invalidate::{classify::Failure, target::Master},
};

/// Behind an `ACL SETUSER`.
const SAVE: &str = "then ACL SAVE, or the same in the ACL file; on a cluster on every node";

/// A right, and how it is tried.
struct Trial {
    /// As ACLs name it.
    right: &'static str,
    command: Cmd,
}

/// How a trial ended.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    Denied,
    /// The command is allowed, the key isn't.
    DeniedKey,
    /// The server has no such command.
    Unknown,
    Failed(Failure),
}

async fn attempt(master: &mut Master, command: &Cmd) -> Answer {
    judge(master.peek::<Value>(command).await)
}

fn judge(result: Result<Value, Failure>) -> Answer {
    let Err(failure) = result else { return Answer::Allowed };
    let said = failure.message.to_lowercase();
    match failure.code.as_str() {
        "NOPERM" if said.contains("access a key") || said.contains("access one of the keys") => {
            Answer::DeniedKey
        }
        "NOPERM" => Answer::Denied,
        // A wrong type is none: such a key can't be there. The key's slot is another master's.
        "WRONGTYPE" | "CROSSSLOT" => Answer::Allowed,
        _ if failure.is_redirect() => Answer::Allowed,
        "ERR" if said.contains("unknown command") || said.contains("unknown subcommand") => Answer::Unknown,
        _ => Answer::Failed(failure),
    }
}

/// A key that the template could make, with this in place of each column.
fn sample(template: &Template, value: &str) -> Option<Vec<u8>> {
    if template.is_constant() {
        return None;
    }
    let (mut key, mut scratch) = (Vec::new(), Vec::new());
    template
        .render(&mut key, &mut scratch, |_, out| {
            out.extend_from_slice(value.as_bytes());
            Ok::<_, std::convert::Infallible>(SlotValue::Text)
        })
        .ok()?;
    Some(key)
}

/// Nobody has a key of this name.
fn nobodys() -> String {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("rowbust-check-{random:016x}")
}

fn keyed(name: &str, key: &[u8], more: &[&str]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    for arg in more {
        command.arg(*arg);
    }
    command
}

/// The commands that this target is sent, by its mappings and options: as docs/security.md lists them.
fn trials(target: &RedisTarget, mappings: &[&Mapping], value: &str, shared: Option<&str>) -> Vec<Trial> {
    let rules = || mappings.iter().flat_map(|mapping| &mapping.keys);
    let hdel = rules().any(|rule| matches!(rule.op, KeyOp::Hdel { .. }));
    let sets = rules().any(|rule| matches!(rule.op, KeyOp::MembersOf { .. }));
    let key = rules().find_map(|rule| sample(&rule.key, value)).unwrap_or_else(|| value.as_bytes().to_vec());
    let mut trials = Vec::new();
    let mut add = |right, command| trials.push(Trial { right, command });
    add("unlink", keyed("UNLINK", &key, &[]));
    let mut scan = redis::cmd("SCAN");
    scan.arg(0).arg("MATCH").arg(value).arg("COUNT").arg(1);
    add("scan", scan);
    add("dbsize", redis::cmd("DBSIZE"));
    if hdel {
        add("hdel", keyed("HDEL", &key, &[value]));
        add("hscan", keyed("HSCAN", &key, &["0", "COUNT", "1"]));
    }
    if sets {
        add("sscan", keyed("SSCAN", &key, &["0", "COUNT", "1"]));
        add("srem", keyed("SREM", &key, &[value]));
    }
    if target.durability.is_some() {
        // As the daemon writes its own behind each batch.
        let key = format!("rowbust:wait:{value}");
        add("set", keyed("SET", key.as_bytes(), &["1", "EX", "1"]));
        let mut wait = redis::cmd("WAIT");
        wait.arg(0).arg(1);
        add("wait", wait);
    }
    match target.mode {
        RedisMode::Standalone { .. } => {}
        RedisMode::Sentinel { .. } => add("role", redis::cmd("ROLE")),
        RedisMode::Cluster { .. } => {
            let of = |what: &str| {
                let mut command = redis::cmd("CLUSTER");
                command.arg(what);
                command
            };
            add("cluster|slots", of("SLOTS"));
            add("cluster|nodes", of("NODES"));
            add("asking", redis::cmd("ASKING"));
        }
    }
    if let Some(name) = shared {
        let key = Shared::redis_key(name);
        let mut eval = redis::cmd("EVAL");
        eval.arg("return 1").arg(1).arg(&key);
        add("eval", eval);
        add("hget", keyed("HGET", key.as_bytes(), &["fence"]));
        // It never has a time to live.
        add("persist", keyed("PERSIST", key.as_bytes(), &[]));
    }
    // Last: what is left open ends with the connection.
    if sets {
        add("multi", redis::cmd("MULTI"));
        if matches!(target.mode, RedisMode::Cluster { .. }) {
            // Both or none.
            add("sadd", keyed("SADD", &key, &[value]));
            add("srem", keyed("SREM", &key, &[value]));
        }
        add("exec", redis::cmd("EXEC"));
    }
    trials
}

pub(super) async fn commands(
    config: &Config,
    at: usize,
    target: &RedisTarget,
    masters: &mut [Master],
    group: &mut Group,
) {
    let mappings: Vec<&Mapping> = config.mappings.iter().filter(|mapping| mapping.target == at).collect();
    let value = nobodys();
    let shared = match &config.checkpoint.shared {
        Some(Shared::Redis { target, name }) if *target == at => Some(name.as_str()),
        _ => None,
    };
    let (mut denied, mut unknown, mut allowed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut keys: Vec<(String, String)> = Vec::new();
    let mut failures: Vec<(String, Finding)> = Vec::new();
    for master in masters.iter_mut() {
        // Before a MULTI is tried, in which everything else would only be queued.
        let mut unheard = None;
        for (line, key, pattern) in patterns(&mappings, &value) {
            match attempt(master, &keyed("UNLINK", &key, &[])).await {
                Answer::DeniedKey if !keys.iter().any(|(_, known)| *known == pattern) => {
                    keys.push((line, pattern));
                }
                Answer::Failed(failure) => unheard = Some(failure),
                _ => {}
            }
        }
        let mut open = false;
        for trial in trials(target, &mappings, &value, shared) {
            if !open && matches!(trial.right, "exec" | "sadd") {
                continue;
            }
            match attempt(master, &trial.command).await {
                Answer::Allowed => {
                    open |= trial.right == "multi";
                    allowed.insert(trial.right);
                }
                Answer::DeniedKey if trial.right == "set" => {
                    keys.push(("`durability`".into(), "rowbust:wait*".into()));
                }
                Answer::DeniedKey if matches!(trial.right, "eval" | "hget" | "persist") => {
                    let pattern = "rowbust:checkpoint:*".to_owned();
                    if !keys.iter().any(|(_, known)| *known == pattern) {
                        keys.push(("`checkpoint`".into(), pattern));
                    }
                }
                // Said above, by mapping.
                Answer::DeniedKey => _ = allowed.insert(trial.right),
                Answer::Denied => _ = denied.insert(trial.right),
                Answer::Unknown => _ = unknown.insert(trial.right),
                // What a refused command within MULTI leaves.
                Answer::Failed(failure) if trial.right == "exec" && failure.code == "EXECABORT" => {
                    allowed.insert("exec");
                }
                Answer::Failed(failure) => unheard = Some(failure),
            }
        }
        if let Some(failure) = unheard {
            failures.push((master.address().to_owned(), refused(failure)));
        }
    }
    // One master of several that says no is enough.
    allowed.retain(|right| !denied.contains(right) && !unknown.contains(right));
    let name = user(target);
    let mut implied: Vec<&str> = Vec::new();
    // What can only be tried once these are allowed.
    if denied.contains("multi") {
        implied.push("+exec");
        implied.extend(matches!(target.mode, RedisMode::Cluster { .. }).then_some("+sadd"));
    }
    if denied.contains("set") {
        implied.push("~rowbust:wait*");
    }
    let list = |rights: &BTreeSet<&str>| rights.iter().copied().collect::<Vec<_>>().join(", ");
    if !failures.is_empty() {
        group.merge("redis.role", failures);
    }
    if !unknown.is_empty() {
        group.error(
            "redis.commands",
            format!("the server does not know {}", list(&unknown)),
            "use a newer server, or give renamed commands their names back (rename-command); see docs/redis.md",
        );
    }
    if !denied.is_empty() {
        let plus = denied.iter().map(|right| format!("+{right}"));
        let plus: Vec<String> = plus.chain(implied.iter().map(|more| (*more).to_owned())).collect();
        group.error(
            "redis.commands",
            format!("the user {name} may not run {}", list(&denied)),
            format!("ACL SETUSER {name} {}\n{SAVE}", plus.join(" ")),
        );
    }
    if denied.is_empty() && unknown.is_empty() {
        group.ok("redis.commands", format!("{name} may run {}", list(&allowed)));
    }
    if keys.is_empty() {
        group.ok("redis.keys", "keys of all mappings may be removed");
    } else {
        let plus: Vec<String> = keys.iter().map(|(_, pattern)| format!("~{pattern}")).collect();
        let of: Vec<String> = keys.iter().map(|(of, pattern)| format!("{pattern} ({of})")).collect();
        group.error(
            "redis.keys",
            format!("the user {name} may not access keys like {}", of.join(", ")),
            format!("ACL SETUSER {name} {}\n{SAVE}", plus.join(" ")),
        );
    }
    let constant: Vec<String> = mappings
        .iter()
        .flat_map(|mapping| &mapping.keys)
        .filter(|rule| rule.key.is_constant())
        .map(|rule| rule.key.source().to_owned())
        .collect();
    if !constant.is_empty() {
        group.not_tested(
            "redis.keys",
            format!("{}: trying it would remove it", constant.join(", ")),
            format!("make sure that {name} may access it"),
        );
    }
}

/// What a loss of Redis' memory is noticed by, and where clients find the pool of read sources: see `published`.
pub(super) async fn marks(target: &RedisTarget, masters: &mut [Master], group: &mut Group) {
    let key = format!("rowbust:mark:{}", nobodys());
    let mut eval = redis::cmd("EVAL");
    eval.arg("return redis.call('GET', KEYS[1])").arg(1).arg(&key);
    let mut ex = keyed("SET", key.as_bytes(), &["1"]);
    ex.arg("EX").arg(1);
    let trials = [
        ("get", keyed("GET", key.as_bytes(), &[])),
        ("eval", eval),
        ("set", ex),
        ("info", redis::cmd("INFO")),
    ];
    let (mut denied, mut key_denied) = (BTreeSet::new(), false);
    for master in masters.iter_mut() {
        for (right, command) in &trials {
            match attempt(master, command).await {
                Answer::Denied | Answer::Unknown => _ = denied.insert(*right),
                Answer::DeniedKey => key_denied = true,
                // Said by the trials of removals.
                Answer::Allowed | Answer::Failed(_) => {}
            }
        }
    }
    if denied.is_empty() && !key_denied {
        group.ok("redis.marks", "a loss of its memory will be noticed");
        return;
    }
    let name = user(target);
    group.warning(
        "redis.marks",
        format!("the user {name} may not keep rowbust's marks: that Redis has lost removals (an old snapshot, a failover) is not noticed"),
        format!("ACL SETUSER {name} +eval +get +set +info ~rowbust:*\n{SAVE}"),
    );
}

/// Where it stands in the config, a key, and what an ACL would say: for each mapping.
fn patterns(mappings: &[&Mapping], value: &str) -> Vec<(String, Vec<u8>, String)> {
    let mut found = Vec::new();
    for rule in mappings.iter().flat_map(|mapping| &mapping.keys) {
        let line = format!("line {}", rule.line);
        let Some(key) = sample(&rule.key, value) else { continue };
        let glob = match rule.op {
            KeyOp::Prefix { .. } => rule.key.prefix_glob(),
            _ => rule.key.glob(),
        };
        found.push((line.clone(), key, String::from_utf8_lossy(&glob).into_owned()));
        if let KeyOp::MembersOf { members_prefix } = &rule.op {
            for prefix in members_prefix {
                let key = format!("{prefix}{value}").into_bytes();
                found.push((line.clone(), key, format!("{prefix}*")));
            }
        }
    }
    found
}

/// Why a removal that nothing forbids doesn't work.
fn refused(failure: Failure) -> Finding {
    let text = failure.to_string();
    match failure.code.as_str() {
        "READONLY" => Finding::Error(
            "it is a replica: it takes no removals".into(),
            "name its master, or use `mode: sentinel`".into(),
        ),
        "MISCONF" => Finding::Error(text, "its disk is full or broken: see its log".into()),
        "NOREPLICAS" => Finding::Error(text, "bring replicas back, or lower min-replicas-to-write".into()),
        "OOM" => Finding::Error(text, "it is out of memory, and removals are refused".into()),
        "IO" | "TIMEOUT" | "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" => {
            Finding::Unreachable(text, "wait until it serves again".into())
        }
        _ => Finding::Error(text, "see the server's log".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let failed = |code: &str, message: &str| Err(Failure::target(code, message));
        assert_eq!(judge(Ok(Value::Int(0))), Answer::Allowed);
        assert_eq!(judge(failed("MOVED", "1 h:1")), Answer::Allowed);
        assert_eq!(
            judge(failed("NOPERM", "User app has no permissions to run the 'unlink' command")),
            Answer::Denied
        );
        assert_eq!(judge(failed("NOPERM", "No permissions to access a key")), Answer::DeniedKey);
        assert_eq!(judge(failed("ERR", "unknown command 'UNLINK'")), Answer::Unknown);
        assert!(matches!(judge(failed("READONLY", "x")), Answer::Failed(_)));
    }

    #[test]
    fn a_constant_key_is_not_tried() {
        let template = |text: &str| Template::parse(text).ok();
        assert_eq!(template("home").and_then(|t| sample(&t, "x")), None);
        assert_eq!(template("a:{b}").and_then(|t| sample(&t, "x")), Some(b"a:x".to_vec()));
    }
}
