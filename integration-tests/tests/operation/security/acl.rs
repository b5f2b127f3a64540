//! Redis' users: the page's rules suffice, and each command is used.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Flavor, USER, run};
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::{MASTER, SentinelOptions};
use rowbust_servers::{Need, Redis, RedisCluster, Sentinels, StartOptions, require};

use super::{DOC, WITHIN, block};

const SETINFO: &str = "+client|setinfo";

/// Redis before 7.2 refuses the name of a command that it doesn't know.
fn knows_setinfo(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(7), Some(2))
}

/// The rules of the page behind these comments, for a server of this version.
fn rules(version: &str, behind: &[&str]) -> Result<Vec<&'static str>> {
    let block = block("```\nuser rowbust on")?;
    let behind = [&["# with `members_of`, also"], behind].concat();
    let mut rules: Vec<&str> = block.lines().next().unwrap_or_default().split_whitespace().collect();
    rules.insert(0, "on");
    for comment in behind {
        let (_, rest) = block.split_once(comment).with_context(|| format!("no {comment}"))?;
        let line = rest.lines().find(|line| line.starts_with("user ")).context("no rules")?;
        rules.extend(line.split_whitespace().skip(2));
    }
    rules.retain(|rule| *rule != SETINFO || knows_setinfo(version));
    Ok(rules)
}

/// The commands that rules allow, as `INFO commandstats` names them.
fn commands(rules: &[&str]) -> BTreeSet<String> {
    let bare = |rule: &&str| rule.trim_matches(['(', ')']).strip_prefix('+').map(str::to_owned);
    rules.iter().filter_map(bare).collect()
}

fn allow(server: &Redis, rules: &[&str]) -> Result<()> {
    let args = [&["ACL", "SETUSER", "rowbust"][..], rules].concat();
    ensure!(server.cli(&args)?.trim() == "OK", "{rules:?}");
    server.cli(&["ACL", "LOG", "RESET"])?;
    server.cli(&["CONFIG", "RESETSTAT"])?;
    Ok(())
}

/// Commands that were called since [`allow`], but for those of `redis-cli` as this test uses it.
fn called(servers: &[&Redis]) -> Result<BTreeSet<String>> {
    let mut called = BTreeSet::new();
    for server in servers {
        let stats = server.cli(&["INFO", "commandstats"])?;
        for line in stats.lines() {
            if let Some((name, calls)) = line.strip_prefix("cmdstat_").and_then(|l| l.split_once(":calls="))
                && !calls.starts_with("0,")
            {
                called.insert(name.to_owned());
            }
        }
    }
    Ok(called)
}

/// Removes a key, a field and a keyspace by way of the daemon, whose target is `redis`; `set` puts something there. Returns the
/// daemon, which still runs.
async fn remove_everything(
    stage: &mut Stage,
    redis: String,
    cache: &Redis,
    clustered: bool,
) -> Result<Daemon> {
    stage.settings.redis = Some(redis);
    let schema = stage.schema.clone();
    stage.settings.mappings = Some(format!(
        "\n  - table: {schema}.t\n    fill_grace: 50ms\n    keys:\n      - \"app:{{id}}\"\n      - {{ key: \"app:names:{{id}}\", op: hdel, field: \
         \"{{name}}\" }}\n      - {{ members_of: \"app:tag:{{id}}\", members_prefix: \"app:m:\" }}\n"
    ));
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            &format!("CREATE DATABASE IF NOT EXISTS {schema}"),
            &format!("USE {schema}"),
            "CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY, name VARCHAR(20))",
            &format!("GRANT SELECT ON {schema}.* TO '{USER}'@'127.0.0.1'"),
        ],
    )
    .await?;
    let cli = |args: &[&str]| {
        let args = if clustered { [&["-c"], args].concat() } else { args.to_vec() };
        cache.cli(&args)
    };
    let fill = || -> Result<()> {
        for id in ["1", "2", "3"] {
            cli(&["MSET", &format!("app:{id}"), "old"])?;
            cli(&["HSET", &format!("app:names:{id}"), "a", "1", "b", "1"])?;
            for member in ["x", "y"] {
                let member = format!("app:m:{id}{member}");
                cli(&["MSET", &member, "old"])?;
                cli(&["SADD", &format!("app:tag:{id}"), &member])?;
            }
        }
        Ok(())
    };
    let left = || -> Result<String> {
        let mut left = String::new();
        for id in ["1", "2", "3"] {
            left += cli(&["STRLEN", &format!("app:{id}")])?.trim();
            left += cli(&["HSTRLEN", &format!("app:names:{id}"), "a"])?.trim();
            left += cli(&["HSTRLEN", &format!("app:names:{id}"), "b"])?.trim();
            left += cli(&["STRLEN", &format!("app:m:{id}x")])?.trim();
            left += cli(&["STRLEN", &format!("app:m:{id}y")])?.trim();
        }
        Ok(left)
    };
    fill()?;
    let daemon = stage.start().await?;
    run(&mut conn, &["REPLACE INTO t VALUES (1,'a'), (2,'b')"]).await?;
    stage.quiet(&daemon).await?;
    let found = left()?;
    ensure!(found == "001000100031133", "{found}\n{}", daemon.log_tail());
    fill()?;
    run(&mut conn, &["TRUNCATE t"]).await?;
    stage.quiet(&daemon).await?;
    let found = left()?;
    ensure!(found == "0".repeat(15), "{found}\n{}", daemon.log_tail());
    let marked = until("the mark", WITHIN, async || {
        let marks = daemon.status().await?["marks"].clone();
        let target = &marks["targets"][0];
        let is_there =
            target["lag_seconds"] == 0.0 && target["error"].is_null() && target["sees_restarts"] == true;
        Ok(Seen::check(is_there, || marks.to_string()))
    });
    marked.await.map_err(|e| daemon.explain(&e))?;
    Ok(daemon)
}

/// Nothing was refused, and nothing is allowed that isn't used.
fn to_the_letter(servers: &[&Redis], rules: &[&str], daemon: &Daemon) -> Result<()> {
    for server in servers {
        let refused = server.cli(&["ACL", "LOG"])?;
        ensure!(refused.trim().is_empty(), "refused: {refused}\n{}", daemon.log_tail());
    }
    let called = called(servers)?;
    let unused: Vec<_> = commands(rules).into_iter().filter(|name| !called.contains(name)).collect();
    ensure!(unused.is_empty(), "never called: {unused:?}; called: {called:?}");
    Ok(())
}

/// A stage with a Redis of its own that has the user's password.
async fn acl_stage(name: &str) -> Result<Option<(Stage, PathBuf)>> {
    let Some(stage) = Stage::new(Flavor::MariaDb, name).await? else { return Ok(None) };
    let acl = stage.dir().join("acl");
    fs::write(&acl, "user default on nopass ~* &* +@all\nuser rowbust off\n")?;
    Ok(Some((stage, acl)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_one_server() -> Result<()> {
    acl_of_one_server(Need::Redis, "acl_one").await
}

/// From 7.2 on the library's name is sent, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_one_server_of_8() -> Result<()> {
    acl_of_one_server(Need::Redis8, "acl_eight").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_one_valkey() -> Result<()> {
    acl_of_one_server(Need::Valkey, "acl_valkey").await
}

async fn acl_of_one_server(need: Need, name: &str) -> Result<()> {
    if require(&[need]).is_none() {
        return Ok(());
    }
    let Some((mut stage, acl)) = acl_stage(name).await? else { return Ok(()) };
    let options = StartOptions::new(stage.dir().join("own"));
    let redis = Redis::launch(need, options, None, Some(&acl))?;
    // A database of its own, so that SELECT is needed; redis-cli looks into 0 otherwise.
    let rules = rules(redis.version(), &[])?;
    allow(&redis, &rules)?;
    let target =
        format!("{{ url: \"redis://127.0.0.1:{}\", username: rowbust, password: choose-one }}", redis.port());
    let mut daemon = remove_everything(&mut stage, target, &redis, false).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    // Another database: SELECT.
    stage.settings.redis = Some(format!(
        "{{ url: \"redis://127.0.0.1:{}/3\", username: rowbust, password: choose-one }}",
        redis.port()
    ));
    let daemon = stage.start().await?;
    to_the_letter(&[&redis], &rules, &daemon)?;

    // What lies outside of the pattern is refused, and waits.
    stage.settings.mappings =
        Some(format!("\n  - table: {name}.t\n    fill_grace: 50ms\n    keys: [\"other:{{id}}\"]\n"));
    drop(daemon);
    let daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    redis.cli(&["-n", "3", "SET", "other:7", "kept"])?;
    conn.query_drop("INSERT INTO t VALUES (7,'x')").await?;
    let refused = until("the refusal", WITHIN, async || {
        let log = redis.cli(&["ACL", "LOG"])?;
        Ok(Seen::check(log.contains("other:7"), || log))
    });
    refused.await.map_err(|e| daemon.explain(&e))?;
    ensure!(redis.cli(&["-n", "3", "GET", "other:7"])?.trim() == "kept");
    Ok(())
}

/// In the form for Redis 6, which knows no selectors: what the page has in parentheses is replaced by what it says instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_without_selectors() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_six").await? else { return Ok(()) };
    let redis = Redis::start_with(StartOptions::new(stage.dir().join("own")), None, Some(&acl))?;
    let mut rules = rules(redis.version(), &[])?;
    let begin = rules.iter().position(|rule| rule.starts_with('(')).context("no selector")?;
    let end = rules.iter().position(|rule| rule.ends_with(')')).context("an open selector")?;
    let (_, instead) = DOC.split_once("Redis 6 has no selectors: put `").context("no form for Redis 6")?;
    let instead = instead.split('`').next().unwrap_or_default();
    rules.splice(begin..=end, instead.split_whitespace());
    ensure!(!rules.iter().any(|rule| rule.contains(['(', ')', '%'])), "of Redis 7: {rules:?}");
    allow(&redis, &rules)?;
    let target =
        format!("{{ url: \"redis://127.0.0.1:{}\", username: rowbust, password: choose-one }}", redis.port());
    let daemon = remove_everything(&mut stage, target, &redis, false).await?;
    rules.retain(|rule| *rule != "+select");
    to_the_letter(&[&redis], &rules, &daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_with_durability() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_durable").await? else { return Ok(()) };
    let redis = Redis::start_with(StartOptions::new(stage.dir().join("own")), None, Some(&acl))?;
    let replica = StartOptions::new(stage.dir().join("replica"))
        .arg("--replicaof")
        .arg("127.0.0.1")
        .arg(redis.port().to_string());
    let _replica = Redis::start(replica)?;
    let online = until("the replica", WITHIN, async || {
        let info = redis.cli(&["INFO", "replication"])?;
        Ok(Seen::check(info.contains("state=online"), || info))
    });
    online.await?;
    let mut rules = rules(redis.version(), &["# with `durability`, also"])?;
    allow(&redis, &rules)?;
    let target = format!(
        "{{ url: \"redis://127.0.0.1:{}\", username: rowbust, password: choose-one, durability: {{ wait_replicas: 1 }} }}",
        redis.port()
    );
    let daemon = remove_everything(&mut stage, target, &redis, false).await?;
    rules.retain(|rule| *rule != "+select");
    to_the_letter(&[&redis], &rules, &daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_a_cluster() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_cluster").await? else { return Ok(()) };
    let options = ClusterOptions {
        acl_file: Some(acl),
        ..ClusterOptions::new(Need::Redis, stage.dir().join("cluster"))
    };
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
    let mut rules = rules(cluster.nodes[0].version(), &["# with `mode: cluster`, also"])?;
    for node in &cluster.nodes {
        allow(node, &rules)?;
    }
    let nodes: Vec<String> = cluster.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let target = format!(
        "{{ mode: cluster, nodes: [{}], username: rowbust, password: choose-one }}",
        nodes.join(", ")
    );
    let daemon = remove_everything(&mut stage, target, &cluster.nodes[0], true).await?;
    // Databases are one server's; ASKING comes with a slot that moves, a transaction with a member in its set's slot.
    rules.retain(|rule| !["+select", "+asking", "+sadd", "+multi", "+exec"].contains(rule));
    to_the_letter(&cluster.nodes.iter().collect::<Vec<_>>(), &rules, &daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_behind_sentinels() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_sentinel").await? else { return Ok(()) };
    let block = block("```\nuser rowbust on")?;
    let (_, rest) = block.split_once("# and at the sentinels themselves\n").context("no sentinels' rules")?;
    let sentinel_acl = stage.dir().join("sentinel-acl");
    let mut line = rest.lines().next().unwrap_or_default().to_owned();
    if !knows_setinfo(stage.redis.version()) {
        line = line.replace(SETINFO, "");
    }
    fs::write(&sentinel_acl, format!("user default on nopass ~* &* +@all\n{line}\n"))?;
    let options = SentinelOptions {
        acl_file: Some(acl),
        sentinel_acl_file: Some(sentinel_acl),
        ..SentinelOptions::new(Need::Redis, stage.dir().join("sentinels"))
    };
    let group = tokio::task::spawn_blocking(move || Sentinels::start(&options)).await??;
    let mut rules = rules(group.servers[0].version(), &["# with `mode: sentinel`, also"])?;
    for server in &group.servers {
        allow(server, &rules)?;
    }
    let nodes: Vec<String> = group.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let target = format!(
        "{{ mode: sentinel, nodes: [{}], master: {}, username: rowbust, password: choose-one, sentinel: {{ username: rowbust, password: \
         choose-one }} }}",
        nodes.join(", "),
        MASTER
    );
    let master = &group.servers[group.master().context("no master")?];
    let daemon = remove_everything(&mut stage, target, master, false).await?;
    rules.retain(|rule| *rule != "+select");
    to_the_letter(&[master], &rules, &daemon)
}
