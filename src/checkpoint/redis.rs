//! The checkpoint as a hash in Redis, `rowbust:checkpoint:NAME`.
//!
//! Guarantees: taking over and saving are one script each, so a save under an older fence than the stored one changes nothing; the key has
//! no time to live. Redis may still lose it, or go back to an older one: see `docs/high-availability.md`. Where that gives one fence to two
//! daemons (a failover that lost the first one's taking over), the later one has it: the record names its owner.
//! Fields: `fence`, `owner`, `generation`, `checkpoint`, `schema`, `backup`. Rights: `EVAL`, `HGET`, `HSET`, `HINCRBY`, `PERSIST`, `PING` on
//! the key; `INFO` to look at the eviction policy. May depend on `invalidate::target` for connections.

use std::sync::{Arc, Mutex, PoisonError};

use redis::{Cmd, FromRedisValue};

use super::store::{Fault, Part, Taken};
use crate::{
    config::{RedisTarget, Shared},
    invalidate::target::Target,
};

/// Gives the next fence, and what is saved. ARGV: the highest fence that the caller has seen, its name.
const TAKE: &str = "
local least = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') < least then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
redis.call('PERSIST', KEYS[1])
return {fence, redis.call('HGET', KEYS[1], 'checkpoint'), redis.call('HGET', KEYS[1], 'schema')}";

/// Saves a field unless a newer fence stands there, or the same one of another owner. ARGV: fence, generation (0: leave it), field, value,
/// owner. Answers whether it did, and the generation before, or that fence. A record without an owner is of an older version.
const PUT: &str = "
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')
local mine = tonumber(ARGV[1])
local owner = redis.call('HGET', KEYS[1], 'owner')
if fence > mine or (fence == mine and owner and owner ~= ARGV[5]) then return {0, fence} end
local before = tonumber(redis.call('HGET', KEYS[1], 'generation') or '0')
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'owner', ARGV[5], ARGV[3], ARGV[4])
if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], 'generation', ARGV[2]) end
redis.call('PERSIST', KEYS[1])
return {1, before}";

/// One record. It has a connection of its own: the breaker of the removals is none of its business.
#[derive(Debug)]
pub(super) struct RedisRecord {
    config: RedisTarget,
    key: String,
    /// `None`: not connected yet, or lost.
    target: Mutex<Option<Arc<Target>>>,
    /// Names this object in the record. Random, so that no other process has the same.
    owner: String,
}

impl RedisRecord {
    pub(super) fn new(config: RedisTarget, name: &str) -> Self {
        // Seeded by the system for each process, and apart for each call.
        let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let owner = format!("{:016x}{:016x}", random(), random());
        Self { config, key: Shared::redis_key(name), target: Mutex::new(None), owner }
    }

    pub(super) async fn take(&self, least: u64) -> Result<Taken, Fault> {
        let answer: (u64, Option<Vec<u8>>, Option<Vec<u8>>) =
            self.eval(TAKE, &[least.to_string().as_bytes(), self.owner.as_bytes()]).await?;
        self.warn_of_eviction().await;
        Ok(Taken { fence: answer.0, checkpoint: answer.1, schema: answer.2 })
    }

    pub(super) async fn put(
        &self,
        part: Part,
        bytes: &[u8],
        fence: u64,
        generation: u64,
    ) -> Result<Option<u64>, Fault> {
        let (fence, number) = (fence.to_string(), if part == Part::Checkpoint { generation } else { 0 });
        let number = number.to_string();
        let args =
            [fence.as_bytes(), number.as_bytes(), part.as_str().as_bytes(), bytes, self.owner.as_bytes()];
        match self.eval(PUT, &args).await? {
            (1u8, before) => Ok((part == Part::Checkpoint).then_some(before)),
            (_, theirs) => Err(Fault::Fenced(theirs)),
        }
    }

    pub(super) async fn get(&self, part: Part) -> Result<Option<Vec<u8>>, Fault> {
        let mut command = redis::cmd("HGET");
        command.arg(&self.key).arg(part.as_str());
        self.ask(&command).await
    }

    async fn eval<T: FromRedisValue>(&self, script: &str, args: &[&[u8]]) -> Result<T, Fault> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(&self.key);
        for arg in args {
            command.arg(*arg);
        }
        self.ask(&command).await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let unavailable = |error: &dyn std::fmt::Display| Fault::Unavailable(error.to_string());
        let kept = self.kept().clone();
        let target = match kept {
            Some(target) => target,
            None => {
                let target = Target::new(self.config.clone());
                target.connect().await.map_err(|error| unavailable(&error))?;
                *self.kept() = Some(Arc::clone(&target));
                target
            }
        };
        let asked = target.master_of::<T>(self.key.as_bytes(), command).await;
        asked.map(|(_, answer)| answer).map_err(|failure| {
            // Another master may answer by now: it is looked for, with a closed breaker.
            *self.kept() = None;
            unavailable(&failure)
        })
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Arc<Target>>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key without a time to live can go under these policies only.
    async fn warn_of_eviction(&self) {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        // Without the right to ask, nothing is said.
        let Ok(text) = self.ask::<String>(&info).await else { return };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let policy = field("maxmemory_policy").unwrap_or_default().trim();
        if policy.starts_with("allkeys") && field("maxmemory").is_some_and(|bytes| bytes.trim() != "0") {
            tracing::warn!(
                target = self.config.name,
                key = self.key,
                policy,
                "redis may evict the checkpoint: give it a server with noeviction or a volatile-* policy, or use checkpoint.kafka"
            );
        }
    }
}
