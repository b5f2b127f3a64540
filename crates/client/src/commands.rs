//! What is asked of Redis, and what the answers mean.
//!
//! Guarantees: no panic on any reply; a script that Redis has forgotten is sent again with its text. May depend on `link`, `error` and
//! `rowbust-protocol`.

use std::time::Duration;

use redis::{ErrorKind, ServerErrorKind, Value};
use rowbust_protocol::{
    lease::{self, Held, Token},
    scripts::Script,
};

use crate::{Error, Redis};

/// What a key holds for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cached {
    /// The application's bytes.
    Value(Vec<u8>),
    /// Known to be absent in the database.
    Null,
}

impl Cached {
    /// `None` for a lease: a miss.
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        Self::parse_early(bytes).map(|(cached, _)| cached)
    }

    /// The same, and whether somebody is loading it anew.
    fn parse_early(bytes: Vec<u8>) -> Option<(Self, bool)> {
        match Held::parse(&bytes) {
            Held::Value(_) => Some((Self::Value(bytes), false)),
            Held::Null => Some((Self::Null, false)),
            Held::Early { value: Some(value), .. } => Some((Self::Value(value.to_vec()), true)),
            Held::Early { value: None, .. } => Some((Self::Null, true)),
            Held::Lease(_) | Held::Unknown => None,
        }
    }

    /// As it stands in Redis.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Value(bytes) => bytes,
            Self::Null => lease::NULL,
        }
    }
}

/// The answer to a request for a lease.
#[derive(Debug)]
pub(crate) enum LeaseReply {
    /// Filled meanwhile. `None`: by something of ours that this version doesn't know.
    Hit(Option<Cached>),
    /// Somebody else may fill; for how long.
    Busy(Duration),
    /// The caller may.
    Granted,
}

/// Whole milliseconds, at least one: Redis refuses an expiry of none.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 45)
}

/// 128 random bits.
pub(crate) fn token() -> Token {
    Token::from_bytes(rand::random())
}

fn failed(command: &'static str) -> impl Fn(redis::RedisError) -> Error {
    move |source| Error::Redis { command, source }
}

fn call(name: &str, what: &str, keys: &[&str], args: &[&[u8]]) -> redis::Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(what).arg(keys.len()).arg(keys).arg(args);
    cmd
}

fn evalsha(script: Script, keys: &[&str], args: &[&[u8]]) -> redis::Cmd {
    call("EVALSHA", script.sha1(), keys, args)
}

fn eval(script: Script, keys: &[&str], args: &[&[u8]]) -> redis::Cmd {
    call("EVAL", script.text(), keys, args)
}

fn is_unknown(script: &redis::RedisError) -> bool {
    script.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn as_bytes(command: &'static str, answer: Value) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        other => Err(Error::reply(command, &other)),
    }
}

fn as_time_left(answer: Value) -> Result<Option<Duration>, Error> {
    match answer {
        // -1: it doesn't expire. -2: there is no such key.
        Value::Int(ms) => Ok(u64::try_from(ms).ok().map(Duration::from_millis)),
        other => Err(Error::reply("PTTL", &other)),
    }
}

fn as_lease(answer: &Value) -> Result<LeaseReply, Error> {
    let odd = || Error::reply("lease", answer);
    let Value::Array(parts) = answer else { return Err(odd()) };
    match (text(parts.first()), parts.get(1)) {
        (Some(b"granted"), None) => Ok(LeaseReply::Granted),
        (Some(b"busy"), Some(Value::Int(ms))) => {
            Ok(LeaseReply::Busy(Duration::from_millis(u64::try_from(*ms).unwrap_or(0))))
        }
        (Some(b"hit"), Some(Value::BulkString(bytes))) => Ok(LeaseReply::Hit(Cached::parse(bytes.clone()))),
        _ => Err(odd()),
    }
}

impl Redis {
    /// Runs a script. A script that was carried out without an answer is not repeated.
    async fn run(&self, script: Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, Error> {
        let answer = match self.query(&evalsha(script, keys, args)).await {
            Err(error) if is_unknown(&error) => self.query(&eval(script, keys, args)).await,
            other => other,
        };
        answer.map_err(failed(script.name()))
    }

    /// Runs a script, and reads another key after it, in the same round trip. `None`: on a cluster they may stand on different servers.
    async fn run_and_get(
        &self,
        script: Script,
        keys: &[&str],
        args: &[&[u8]],
        other: &str,
    ) -> Option<Result<(Value, Result<Value, redis::RedisError>), Error>> {
        let get = redis::Cmd::get(other);
        let mut both = self.query_both(&evalsha(script, keys, args), &get).await?;
        // Both again: what was read then was read before the script.
        if matches!(&both, Ok((Err(error), _)) if is_unknown(error)) {
            both = self.query_both(&eval(script, keys, args), &get).await?;
        }
        Some(both.and_then(|(first, second)| Ok((first?, second))).map_err(failed(script.name())))
    }

    async fn run_flag(&self, script: Script, keys: &[&str], args: &[&[u8]]) -> Result<bool, Error> {
        match self.run(script, keys, args).await? {
            Value::Int(n) => Ok(n == 1),
            other => Err(Error::reply(script.name(), &other)),
        }
    }

    pub(crate) async fn get_raw(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        as_bytes("GET", self.query_again(&redis::Cmd::get(key)).await.map_err(failed("GET"))?)
    }

    /// What the key holds; a lease counts as nothing.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Cached>, Error> {
        Ok(self.get_raw(key).await?.and_then(Cached::parse))
    }

    /// The same, with the time that it has left; without it where it needs no care, for somebody is loading it anew.
    pub(crate) async fn get_with_ttl(&self, key: &str) -> Result<Option<(Cached, Option<Duration>)>, Error> {
        let (get, pttl) = (redis::Cmd::get(key), redis::Cmd::pttl(key));
        let (value, left) = match self.query_both(&get, &pttl).await {
            Some(Ok((value, left))) => (value, left),
            // A cluster, or a connection that broke.
            None | Some(Err(_)) => {
                futures_util::future::join(self.query_again(&get), self.query_again(&pttl)).await
            }
        };
        let cached = as_bytes("GET", value.map_err(failed("GET"))?)?.and_then(Cached::parse_early);
        let left = as_time_left(left.map_err(failed("PTTL"))?)?;
        Ok(cached.map(|(cached, is_early)| (cached, left.filter(|_| !is_early))))
    }

    pub(crate) async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(key).arg(value).arg("PX").arg(millis(ttl));
        expect_ok("SET", self.query(&cmd).await)
    }

    /// Only where there is nothing yet; whether it was.
    pub(crate) async fn set_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, Error> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(key).arg(value).arg("PX").arg(millis(ttl)).arg("NX");
        match self.query(&cmd).await.map_err(failed("SET"))? {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            other => Err(Error::reply("SET", &other)),
        }
    }

    /// Removes a key, whatever it holds: a value or a lease.
    pub(crate) async fn unlink(&self, key: &str) -> Result<(), Error> {
        match self.query_again(redis::cmd("UNLINK").arg(key)).await.map_err(failed("UNLINK"))? {
            Value::Int(_) => Ok(()),
            other => Err(Error::reply("UNLINK", &other)),
        }
    }

    pub(crate) async fn lease(&self, key: &str, token: Token, hold: Duration) -> Result<LeaseReply, Error> {
        let ms = millis(hold).to_string();
        as_lease(&self.run(Script::Lease, &[key], &[&token.to_hex(), ms.as_bytes()]).await?)
    }

    /// A lease, and what `pool` holds *after* it was asked for. `None` instead of the latter: it must be asked for apart.
    pub(crate) async fn lease_and_pool(
        &self,
        key: &str,
        token: Token,
        hold: Duration,
        pool: &str,
    ) -> Result<(LeaseReply, Option<Option<Vec<u8>>>), Error> {
        let ms = millis(hold).to_string();
        let (hex, ms) = (token.to_hex(), ms.as_bytes());
        match self.run_and_get(Script::Lease, &[key], &[&hex, ms], pool).await {
            None => Ok((self.lease(key, token, hold).await?, None)),
            Some(both) => {
                let (lease, pool) = both?;
                Ok((as_lease(&lease)?, pool.ok().and_then(|pool| as_bytes("GET", pool).ok())))
            }
        }
    }

    /// A lease before a value, which stays: whether it was granted.
    pub(crate) async fn early(&self, key: &str, token: Token) -> Result<bool, Error> {
        self.run_flag(Script::Early, &[key], &[&token.to_hex()]).await
    }

    /// Whether the fill was accepted.
    pub(crate) async fn fill(
        &self,
        key: &str,
        token: Token,
        value: &[u8],
        ttl: Duration,
    ) -> Result<bool, Error> {
        let ms = millis(ttl).to_string();
        self.run_flag(Script::Fill, &[key], &[&token.to_hex(), value, ms.as_bytes()]).await
    }

    /// Removes the key if what it holds still begins with `prefix`; of a lease before a value only the lease.
    pub(crate) async fn release(&self, key: &str, prefix: &[u8]) -> Result<bool, Error> {
        self.run_flag(Script::Release, &[key], &[prefix]).await
    }

    /// The fence, or how long to wait before another try.
    pub(crate) async fn lock(
        &self,
        lock: &str,
        write: bool,
        token: Token,
        hold: Duration,
        keep: Duration,
    ) -> Result<Result<u64, Duration>, Error> {
        let how: &[u8] = if write { b"write" } else { b"read" };
        let (hold, keep) = (millis(hold).to_string(), millis(keep).to_string());
        let args = [how, &token.to_hex(), hold.as_bytes(), keep.as_bytes()];
        let answer = self.run(Script::Lock, &[lock], &args).await?;
        let odd = || Error::reply("lock", &answer);
        let Value::Array(parts) = &answer else { return Err(odd()) };
        let number = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).ok(),
            Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        };
        match (parts.first(), parts.get(1).and_then(number)) {
            (Some(Value::Int(1)), Some(fence)) => Ok(Ok(fence)),
            (Some(Value::Int(0)), Some(ms)) => Ok(Err(Duration::from_millis(ms))),
            _ => Err(odd()),
        }
    }

    /// Whether it was still held.
    pub(crate) async fn renew(
        &self,
        lock: &str,
        token: Token,
        hold: Duration,
        keep: Duration,
    ) -> Result<bool, Error> {
        let (hold, keep) = (millis(hold).to_string(), millis(keep).to_string());
        self.run_flag(Script::Renew, &[lock], &[&token.to_hex(), hold.as_bytes(), keep.as_bytes()]).await
    }

    /// Whether it was still held.
    pub(crate) async fn unlock(&self, lock: &str, token: Token) -> Result<bool, Error> {
        self.run_flag(Script::Unlock, &[lock], &[&token.to_hex()]).await
    }

    /// Whether the fill was accepted.
    pub(crate) async fn fill_fenced(
        &self,
        key: &str,
        lock: &str,
        fence: u64,
        value: &[u8],
        ttl: Duration,
    ) -> Result<bool, Error> {
        let (fence, ms) = (fence.to_string(), millis(ttl).to_string());
        self.run_flag(Script::FillFenced, &[key, lock], &[fence.as_bytes(), value, ms.as_bytes()]).await
    }

    /// Removes a key; who took its lock before may no longer fill.
    pub(crate) async fn remove_fenced(&self, key: &str, lock: &str, keep: Duration) -> Result<(), Error> {
        self.run_flag(Script::RemoveFenced, &[key, lock], &[millis(keep).to_string().as_bytes()])
            .await
            .map(drop)
    }

    /// Notes deletes that are due in `delay`.
    pub(crate) async fn owe(&self, list: &str, delay: Duration, members: &[Vec<u8>]) -> Result<(), Error> {
        let ms = millis(delay).to_string();
        let args: Vec<&[u8]> =
            std::iter::once(ms.as_bytes()).chain(members.iter().map(Vec::as_slice)).collect();
        match self.run(Script::Owe, &[list], &args).await? {
            Value::Int(_) => Ok(()),
            other => Err(Error::reply("owe", &other)),
        }
    }

    /// Takes what is due, for `claim`: members with their scores; and how long until the next is due.
    pub(crate) async fn take(&self, list: &str, claim: Duration, most: usize) -> Result<Taken, Error> {
        let (claim, most) = (millis(claim).to_string(), most.to_string());
        let answer = self.run(Script::Take, &[list], &[claim.as_bytes(), most.as_bytes()]).await?;
        let odd = || Error::reply("take", &answer);
        let Value::Array(parts) = &answer else { return Err(odd()) };
        let Some((next, due)) = parts.split_last() else { return Err(odd()) };
        let next = text(Some(next)).and_then(|ms| std::str::from_utf8(ms).ok()).ok_or_else(odd)?;
        let mut taken = Taken { due: Vec::new(), next: next.parse().ok().map(Duration::from_millis) };
        for pair in due.chunks(2) {
            match pair {
                [Value::BulkString(member), Value::BulkString(score)] => {
                    taken.due.push((member.clone(), score.clone()));
                }
                _ => return Err(odd()),
            }
        }
        Ok(taken)
    }

    /// Strikes out what was taken and done.
    pub(crate) async fn settle(&self, list: &str, member: &[u8], score: &[u8]) -> Result<bool, Error> {
        self.run_flag(Script::Settle, &[list], &[member, score]).await
    }
}

/// Deletes that were due.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Members and scores.
    pub(crate) due: Vec<(Vec<u8>, Vec<u8>)>,
    /// Until the next one; `None`: there is none.
    pub(crate) next: Option<Duration>,
}

fn text(value: Option<&Value>) -> Option<&[u8]> {
    match value {
        Some(Value::BulkString(bytes)) => Some(bytes),
        Some(Value::SimpleString(text)) => Some(text.as_bytes()),
        _ => None,
    }
}

fn expect_ok(command: &'static str, answer: Result<Value, redis::RedisError>) -> Result<(), Error> {
    match answer.map_err(failed(command))? {
        Value::Okay => Ok(()),
        other => Err(Error::reply(command, &other)),
    }
}

/// The name of something that is kept beside a key, in the key's cluster slot
/// ([hash tags](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags)).
///
/// # Errors
/// When there is no such name.
pub(crate) fn beside(what: &str, key: &str) -> Result<String, Error> {
    let tagged = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .is_some_and(|(tag, _)| !tag.is_empty());
    if tagged {
        return Ok(format!("rowbust:{what}:{key}"));
    }
    if key.is_empty() || key.contains('}') {
        return Err(Error::Key { key: key.to_owned() });
    }
    Ok(format!("rowbust:{what}:{{{key}}}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The part of a key that its slot is computed from, as the cluster specification says.
    fn hashed(key: &str) -> &str {
        let Some(open) = key.find('{') else { return key };
        match key[open + 1..].find('}') {
            Some(0) | None => key,
            Some(len) => &key[open + 1..open + 1 + len],
        }
    }

    #[test]
    fn a_lock_falls_into_the_slot_of_its_key() {
        for key in ["product:7", "a{b}c", "{b}", "x{b}{c}", "a{b", "a{b}c}d", "{a{b}"] {
            assert_eq!(hashed(&beside("lock", key).unwrap()), hashed(key), "{key}");
        }
        for key in ["a}b", "{}a", "a}{", "}", ""] {
            assert!(matches!(beside("lock", key), Err(Error::Key { .. })), "{key}");
        }
        // The first tag counts, even where it is behind a stray bracket.
        assert_eq!(hashed(&beside("lock", "a}b{c}").unwrap()), "c");
    }

    #[test]
    fn an_expiry_is_never_none_and_never_too_large_for_redis() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_micros(1500)), 1);
        assert_eq!(millis(Duration::from_secs(2)), 2000);
        assert!(millis(Duration::MAX) < i64::MAX as u64 / 2);
    }
}
