//! Under the rules of docs/wire-format.md and no others the client does all it can: nothing is refused, and each command is used.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use rowbust_client::{
    Change, Client, EarlyRefresh, Error, Login, Redis, Settings,
    strategy::{
        CacheAside, DelayedDoubleDelete, Guarded, LockSerialized, LogicalExpiry, Strategy, WriteThrough,
    },
};
use rowbust_servers::{
    Need, Redis as Server, RedisCluster, Sentinels, StartOptions,
    redis_cluster::ClusterOptions,
    require,
    sentinel::{MASTER, SentinelOptions},
};
use support::{options, settings, until};
use tempfile::TempDir;

const LOCKS: &str = "# strategies with locks, also";
const OWED: &str = "# `delayed-double-delete`, also";
const CLUSTER: &str = "# on a cluster, also";
const SENTINEL: &str = "# with sentinels, also";
const SENTINELS: &str = "# and at the sentinels themselves";

/// What the page has behind a comment; without one, what everybody needs.
fn documented(behind: Option<&str>) -> Vec<String> {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/wire-format.md")).unwrap();
    let (_, block) = page.split_once("```\nuser app on").unwrap();
    let block = format!("user app on{}", block.split_once("```").unwrap().0);
    let rest = behind.map_or(block.as_str(), |comment| block.split_once(comment).unwrap().1.trim_start());
    rest.lines().next().unwrap().split_whitespace().skip(2).map(str::to_owned).collect()
}

/// Redis before 7.2 doesn't know its name.
fn without_setinfo(server: &Server, rules: &mut Vec<String>) {
    let version: Vec<u32> = server.version().split('.').map(|part| part.parse().unwrap_or(0)).collect();
    rules.retain(|rule| rule != "+client|setinfo" || *version >= [7, 2][..]);
}

fn allow(server: &Server, behind: &[Option<&str>]) -> Vec<String> {
    let mut rules: Vec<String> = behind.iter().flat_map(|comment| documented(*comment)).collect();
    without_setinfo(server, &mut rules);
    let args: Vec<&str> =
        ["ACL", "SETUSER", "app"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    assert_eq!(server.cli(&args).unwrap(), "OK", "{rules:?}");
    server.cli(&["ACL", "LOG", "RESET"]).unwrap();
    server.cli(&["CONFIG", "RESETSTAT"]).unwrap();
    rules
}

fn called(servers: &[&Server]) -> BTreeSet<String> {
    let stats =
        servers.iter().map(|server| server.cli(&["INFO", "commandstats"]).unwrap()).collect::<String>();
    let name = |line: &str| Some(line.strip_prefix("cmdstat_")?.split_once(':')?.0.to_owned());
    stats.lines().filter_map(name).collect()
}

fn to_the_letter(servers: &[&Server], rules: &[String]) {
    for server in servers {
        assert_eq!(server.cli(&["ACL", "LOG"]).unwrap(), "", "refused");
    }
    let called = called(servers);
    let unused: Vec<&String> = rules
        .iter()
        .filter(|rule| rule.strip_prefix('+').is_some_and(|name| !called.contains(name)))
        .collect();
    assert!(unused.is_empty(), "never called: {unused:?}; called: {called:?}");
}

/// Reads, writes, fails to load, asks for the frontier.
async fn works(redis: &Redis, strategy: Arc<dyn Strategy>, settings: Settings) -> Client {
    let name = strategy.name();
    let client = Client::builder(redis.clone()).strategy_arc(strategy).settings(settings).build().unwrap();
    for n in 0..10 {
        let key = format!("app:{name}:{n}");
        let load = async |_| Ok::<_, Infallible>(Some(n));
        for _ in 0..2 {
            assert_eq!(client.get_or_load(&key, load).await.unwrap(), Some(n), "{key}");
        }
        let change = Change::of(&key).value(&n).unwrap();
        client.write(&change, async || Ok::<_, Infallible>(())).await.unwrap().into_result().unwrap();
        client.invalidate(&[&key]).await.unwrap();
        let fails = async |_| Err::<Option<u8>, _>("the database said no");
        assert!(matches!(client.get_or_load(&key, fails).await, Err(Error::Load(_))), "{key}");
        assert_eq!(client.frontier("main", &key).await.unwrap(), None);
    }
    client
}

async fn without_locks(redis: &Redis) {
    let early_refresh = Some(EarlyRefresh { beta: 1.0 });
    works(redis, Arc::new(CacheAside), Settings { early_refresh, ..settings() }).await;
    works(redis, Arc::new(Guarded::new()), settings()).await;
}

async fn everything(redis: &Redis, servers: &[&Server]) {
    without_locks(redis).await;
    let hold = Duration::from_millis(300);
    let locks = works(redis, Arc::new(LockSerialized::new().hold(hold)), settings()).await;
    works(redis, Arc::new(WriteThrough::new()), settings()).await;
    works(redis, Arc::new(LogicalExpiry::new()), settings()).await;
    let renewed = Arc::new(tokio::sync::Notify::new());
    let reader = {
        let renewed = renewed.clone();
        tokio::spawn(async move {
            let load = async |_| {
                renewed.notified().await;
                Ok::<_, Infallible>(Some(1u8))
            };
            locks.get_or_load("app:slow", load).await.unwrap()
        })
    };
    until("the read lock is renewed", async || called(servers).contains("hexists")).await;
    renewed.notify_one();
    assert_eq!(reader.await.unwrap(), Some(1));
    let owes = DelayedDoubleDelete::new(Duration::from_millis(20));
    let owes = works(redis, Arc::new(owes), settings()).await;
    until("the second deletes", async || {
        called(servers).contains("zrem") && owes.stats().second_deletes >= 10
    })
    .await;
}

fn login() -> Login {
    Login { username: Some("app".to_owned()), password: Some("choose-one".to_owned()), ..Login::default() }
}

fn acl(dir: &TempDir) -> std::path::PathBuf {
    let path = dir.path().join("acl");
    std::fs::write(&path, "user default on nopass ~* &* +@all\nuser app off\n").unwrap();
    path
}

#[tokio::test]
async fn one_server() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let (acl, options_of) = (acl(&dir), StartOptions::new(dir.path().join("redis")));
    let server = Server::start_with(options_of, None, Some(&acl)).unwrap();
    let url = format!("redis://app:choose-one@127.0.0.1:{}", server.port());
    let rules = allow(&server, &[None]);
    let redis = Redis::connect(&url, options()).await.unwrap();
    without_locks(&redis).await;
    to_the_letter(&[&server], &rules);
    let rules = allow(&server, &[None, Some(LOCKS), Some(OWED)]);
    server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    let redis = Redis::connect(&url, options()).await.unwrap();
    everything(&redis, &[&server]).await;
    to_the_letter(&[&server], &rules);
    // What the rules don't name is refused.
    let client = Client::builder(redis).settings(settings()).build().unwrap();
    let error = client.get_or_load("other:1", async |_| Ok::<_, Infallible>(Some(1u8))).await.unwrap_err();
    assert!(error.to_string().contains("NOPERM") || error.to_string().contains("permission"), "{error}");
}

#[tokio::test]
async fn a_cluster() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let options_of = ClusterOptions {
        acl_file: Some(acl(&dir)),
        ..ClusterOptions::new(Need::Redis, dir.path().join("cluster"))
    };
    let cluster = RedisCluster::start(&options_of).unwrap();
    let nodes: Vec<&Server> = cluster.nodes.iter().collect();
    let mut rules = Vec::new();
    for node in &nodes {
        rules = allow(node, &[None, Some(LOCKS), Some(OWED), Some(CLUSTER)]);
    }
    let urls: Vec<String> =
        cluster.ports().iter().map(|port| format!("redis://app:choose-one@127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let redis = Redis::cluster(&urls, options()).await.unwrap();
    everything(&redis, &nodes).await;
    // A slot that moves: who asks at its old place is sent on.
    rules.retain(|rule| rule != "+asking");
    to_the_letter(&nodes, &rules);
}

#[tokio::test]
async fn behind_sentinels() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let acl = acl(&dir);
    let sentinel_acl = dir.path().join("sentinel-acl");
    let mut rules = documented(Some(SENTINELS));
    let probe = Server::start(StartOptions::new(dir.path().join("probe"))).unwrap();
    without_setinfo(&probe, &mut rules);
    let line = format!("user default on nopass ~* &* +@all\nuser app {}\n", rules.join(" "));
    std::fs::write(&sentinel_acl, line).unwrap();
    let options_of = SentinelOptions {
        acl_file: Some(acl),
        sentinel_acl_file: Some(sentinel_acl),
        ..SentinelOptions::new(Need::Redis, dir.path().join("group"))
    };
    let group = Sentinels::start(&options_of).unwrap();
    let mut rules = Vec::new();
    for server in &group.servers {
        rules = allow(server, &[None, Some(SENTINEL)]);
    }
    let urls: Vec<String> =
        group.ports().iter().map(|port| format!("redis://app:choose-one@127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let redis = Redis::sentinel(&urls, MASTER, options().login(login())).await.unwrap();
    without_locks(&redis).await;
    to_the_letter(&[&group.servers[group.master().unwrap()]], &rules);
}
