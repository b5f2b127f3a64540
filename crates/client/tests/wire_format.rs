//! The vectors of docs/wire-format.md, by the codec and on real servers; and the hashes of the scripts.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use redis::{Value, aio::MultiplexedConnection};
use rowbust_protocol::{
    lease::{Held, Lease, Token, check_value},
    scripts::Script,
};
use rowbust_servers::Need;
use serde_json::Value as Json;
use support::Cache;

const KEY: &str = "k";

fn vectors() -> Json {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/wire-format.md")).unwrap();
    let (_, rest) = page.split_once("### Test vectors").unwrap();
    let (_, rest) = rest.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
}

fn list<'a>(of: &'a Json, name: &str) -> &'a Vec<Json> {
    of[name].as_array().unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[test]
fn leases_and_values_are_as_documented() {
    let vectors = vectors();
    for vector in list(&vectors, "leases") {
        let token: Token = vector["token"].as_str().unwrap().parse().unwrap();
        let lease = Lease::new(token, vector["deadline"].as_u64().unwrap());
        let bytes = vector["bytes"].as_str().unwrap().as_bytes();
        assert_eq!(lease.encode(), *bytes);
        assert_eq!(Held::parse(bytes), Held::Lease(lease));
    }
    for vector in list(&vectors, "early") {
        let token: Token = vector["token"].as_str().unwrap().parse().unwrap();
        let bytes = vector["bytes"].as_str().unwrap().as_bytes();
        assert_eq!(
            Held::parse(bytes),
            Held::Early { token, value: vector["value"].as_str().map(str::as_bytes) }
        );
        check_value(bytes).unwrap_err();
    }
    for value in list(&vectors, "values") {
        let value = value.as_str().unwrap().as_bytes();
        assert_eq!(Held::parse(value), Held::Value(value));
        check_value(value).unwrap();
    }
    for ours in list(&vectors, "no_values") {
        let ours = ours.as_str().unwrap().as_bytes();
        assert!(matches!(Held::parse(ours), Held::Null | Held::Unknown), "{ours:?}");
        check_value(ours).unwrap_err();
    }
}

/// `<any>` ends a pattern.
fn matches(pattern: &str, text: &[u8]) -> bool {
    match pattern.split_once("<any>") {
        Some((head, _)) => text.starts_with(head.as_bytes()),
        None => pattern.as_bytes() == text,
    }
}

fn is_reply(pattern: &Json, reply: &Value) -> bool {
    match (pattern, reply) {
        (Json::Array(patterns), Value::Array(parts)) => {
            patterns.len() == parts.len() && patterns.iter().zip(parts).all(|(p, v)| is_reply(p, v))
        }
        (Json::String(pattern), Value::Int(n)) => pattern == "<number>" && *n > 0,
        (Json::String(pattern), Value::BulkString(text)) => matches(pattern, text),
        (Json::Number(n), Value::Int(m)) => n.as_i64() == Some(*m),
        _ => false,
    }
}

async fn get(connection: &mut MultiplexedConnection) -> Option<Vec<u8>> {
    redis::cmd("GET").arg(KEY).query_async(connection).await.unwrap()
}

async fn run(connection: &mut MultiplexedConnection, step: &Json, name: &str) {
    if let Some(before) = step.get("before") {
        redis::cmd("DEL").arg(KEY).query_async::<()>(connection).await.unwrap();
        if let Some(before) = before.as_str() {
            redis::cmd("SET").arg(KEY).arg(before).query_async::<()>(connection).await.unwrap();
        }
    }
    let script = Script::ALL.into_iter().find(|script| script.name() == step["script"]).unwrap();
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.sha1()).arg(1).arg(KEY);
    for arg in list(step, "argv") {
        command.arg(arg.as_str().unwrap());
    }
    let reply: Value = command.query_async(connection).await.unwrap();
    assert!(is_reply(&step["reply"], &reply), "{name}: {reply:?} to {step}");
    if let Some(after) = step.get("after") {
        let held = get(connection).await;
        let is_so = match (after.as_str(), &held) {
            (Some(pattern), Some(held)) => matches(pattern, held),
            (None, None) => true,
            _ => false,
        };
        assert!(is_so, "{name}: {held:?} after {step}");
        if held.is_some()
            && script == Script::Lease
            && reply == Value::Array(vec![Value::BulkString(b"granted".into())])
        {
            let left: i64 = redis::cmd("PTTL").arg(KEY).query_async(connection).await.unwrap();
            assert!((1..=60_000).contains(&left), "{name}: a lease that doesn't expire");
        }
    }
}

#[tokio::test]
async fn the_scripts_do_what_is_documented_on_redis_7_redis_8_and_valkey() {
    let vectors = vectors();
    for need in [Need::Redis, Need::Redis8, Need::Valkey] {
        let Some(cache) = Cache::start(need) else { continue };
        let client = redis::Client::open(cache.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        for script in Script::ALL {
            let mut load = redis::cmd("SCRIPT");
            let hash: String =
                load.arg("LOAD").arg(script.text()).query_async(&mut connection).await.unwrap();
            assert_eq!(hash, script.sha1(), "{}", script.name());
        }
        for vector in list(&vectors, "scripts") {
            for step in list(vector, "steps") {
                run(&mut connection, step, vector["name"].as_str().unwrap()).await;
            }
        }
    }
}
