//! Redis: rights by what they allow, in every mode; settings.

use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::{MASTER, SentinelOptions};
use rowbust_servers::{RedisCluster, Sentinels};

use super::*;

const MAPPINGS: &str = "  - table: redised.t\n    keys:\n      - \"app:{id}\"\n      \
    - { key: \"app:h:{id}\", op: hdel, field: \"{id}\" }\n      - { prefix: \"list:{id}:\" }\n      \
    - { members_of: \"tag:{id}\", members_prefix: \"page:\" }\n";

async fn site() -> Result<Option<(Servers, Site)>> {
    let Some(servers) = Servers::shared(Flavor::MariaDb).await? else { return Ok(None) };
    let mut conn = servers.db.connect().await?;
    run(&mut conn, &["CREATE DATABASE IF NOT EXISTS redised"]).await?;
    run(&mut conn, &["CREATE TABLE IF NOT EXISTS redised.t (id INT PRIMARY KEY)"]).await?;
    run(&mut conn, &[&format!("GRANT SELECT ON redised.* TO '{USER}'@'127.0.0.1'")]).await?;
    let site = servers.site(MAPPINGS)?;
    Ok(Some((servers, site)))
}

/// Runs what a line says, on every server, without the password.
fn apply(servers: &[&Redis], line: &Line) -> Result<()> {
    let command = line.help.lines().next().unwrap_or_default();
    let args: Vec<&str> = command.split_whitespace().collect();
    ensure!(args.first() == Some(&"ACL"), "{line:?}");
    for server in servers {
        let said = tokio::task::block_in_place(|| server.cli(&args))?;
        ensure!(said == "OK", "{command}: {said}");
    }
    Ok(())
}

/// From a user who may log in and no more, by what each line says, to one who may do all; and not a right too many.
fn granted(site: &Site, servers: &[&Redis], needed: &[&str]) -> Result<()> {
    let checked = site.check()?;
    let line = checked.has("redis.commands", "error", "unlink")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    apply(servers, &line)?;
    for _ in 0..3 {
        let checked = site.check()?;
        let lines = [
            checked.of("redis.commands", "error"),
            checked.of("redis.keys", "error"),
            checked.of("redis.marks", "warning"),
        ]
        .concat();
        for line in &lines {
            apply(servers, line)?;
        }
        if lines.is_empty() {
            break;
        }
    }
    let checked = site.check()?;
    checked.has("redis.keys", "ok", "")?;
    checked.has("redis.marks", "ok", "")?;
    let line = checked.has("redis.commands", "ok", "may run")?;
    for right in needed {
        ensure!(line.text.contains(right), "no {right}: {line:?}");
    }
    let rules = tokio::task::block_in_place(|| servers[0].cli(&["ACL", "GETUSER", "rowbust"]))?;
    ensure!(!rules.contains("+@all") && !rules.contains("~*"), "{rules}");
    for pattern in ["~app:*", "~app:h:*", "~list:*:*", "~tag:*", "~page:*"] {
        ensure!(rules.contains(pattern), "no {pattern}: {rules}");
    }
    ensure!(checked.exit == 0, "{:#}", checked.value);
    // Nothing stays there.
    for server in servers {
        let keys = tokio::task::block_in_place(|| server.cli(&["--scan", "--pattern", "*rowbust-check*"]))?;
        ensure!(keys.lines().all(|key| key.is_empty() || key.starts_with("rowbust:")), "{keys}");
    }
    Ok(())
}

const LOGIN: [&str; 8] = ["ACL", "SETUSER", "rowbust", "on", ">canary-5e7d", "resetkeys", "-@all", "+ping"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_one_server() -> Result<()> {
    let Some((servers, mut site)) = site().await? else { return Ok(()) };
    tokio::task::block_in_place(|| servers.redis.cli(&LOGIN))?;
    let login = "username: rowbust, password: canary-5e7d";
    site.redis = format!("{{ url: \"redis://127.0.0.1:{}/0\", {login} }}", servers.redis.port());
    // What can't be known is said to be unknown.
    let line = site.check()?.has("redis.version", "not_tested", "NOPERM")?;
    ensure!(line.help.contains("+info"), "{line:?}");
    granted(&site, &[&servers.redis], &["unlink", "hdel", "scan", "sscan", "srem", "multi", "exec"])?;
    site.redis = format!(
        "{{ url: \"redis://127.0.0.1:{}/0\", {login}, durability: {{ wait_replicas: 1 }} }}",
        servers.redis.port()
    );
    let checked = site.check()?;
    let line = checked.has("redis.commands", "error", "wait")?;
    apply(&[&servers.redis], &line)?;
    let checked = site.check()?;
    checked.has("redis.commands", "ok", "wait")?;
    checked.has("redis.keys", "ok", "")?;
    // A wrong password.
    site.redis = format!(
        "{{ url: \"redis://127.0.0.1:{}/0\", username: rowbust, password: no }}",
        servers.redis.port()
    );
    let checked = site.check()?;
    checked.has("redis.connect", "error", "WRONGPASS")?;
    ensure!(checked.exit == 78);
    // A key that is the same for every row is nobody's to try.
    tokio::task::block_in_place(|| servers.redis.cli(&["SET", "home", "1"]))?;
    site.redis = String::new();
    site.mappings = "  - { table: redised.t, keys: [\"home\"] }\n".into();
    site.check()?.has("redis.keys", "not_tested", "home")?;
    ensure!(tokio::task::block_in_place(|| servers.redis.cli(&["GET", "home"]))? == "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_on_a_cluster() -> Result<()> {
    let Some((_servers, mut site)) = site().await? else { return Ok(()) };
    let dir = tempfile::Builder::new().prefix("rowbust-check-cluster-").tempdir()?;
    let options = ClusterOptions::new(Need::Redis, dir.path());
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
    let nodes: Vec<&Redis> = cluster.nodes.iter().collect();
    for node in &nodes {
        let more = [&LOGIN[..], &["+cluster|slots"]].concat();
        tokio::task::block_in_place(|| node.cli(&more))?;
    }
    site.redis = format!(
        "{{ mode: cluster, nodes: [\"127.0.0.1:{}\"], username: rowbust, password: canary-5e7d }}",
        nodes[0].port()
    );
    granted(&site, &nodes, &["asking", "cluster|nodes", "cluster|slots", "sadd", "exec"])?;
    site.check()?.has("redis.cluster", "ok", "3 masters serve all slots")?;
    // A slot on its way.
    tokio::task::block_in_place(|| cluster.begin_move(7, 0, 1))?;
    site.check()?.has("redis.cluster", "warning", "on their way")?;
    tokio::task::block_in_place(|| cluster.end_move(7, 0, 1))?;
    // One right on one node.
    tokio::task::block_in_place(|| nodes[1].cli(&["ACL", "SETUSER", "rowbust", "-hdel"]))?;
    site.check()?.has("redis.commands", "error", "hdel")?;
    // A slot without a master.
    tokio::task::block_in_place(|| nodes[1].cli(&["ACL", "SETUSER", "rowbust", "+hdel"]))?;
    tokio::task::block_in_place(|| {
        nodes.iter().try_for_each(|n| n.cli(&["CLUSTER", "DELSLOTS", "0"]).map(|_| ()))
    })?;
    site.check()?.has("redis.cluster", "error", "")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels() -> Result<()> {
    let Some((_servers, mut site)) = site().await? else { return Ok(()) };
    let dir = tempfile::Builder::new().prefix("rowbust-check-sentinel-").tempdir()?;
    let options = SentinelOptions::new(Need::Redis, dir.path());
    let group = tokio::task::spawn_blocking(move || Sentinels::start(&options)).await??;
    let nodes: Vec<String> = group.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let target = |master: &str, more: &str| {
        format!("{{ mode: sentinel, master: {master}, nodes: [{}]{more} }}", nodes.join(", "))
    };
    site.redis = target(MASTER, ", durability: { wait_replicas: 1 }");
    let checked = site.check()?;
    checked.has("redis.sentinels", "ok", "3 of 3 name")?;
    checked.has("redis.replicas", "warning", "as many as")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    site.redis = target(MASTER, ", durability: { wait_replicas: 2 }");
    let checked = site.check()?;
    checked.has("redis.replicas", "error", "every removal would end in the queue")?;
    ensure!(checked.exit == 78);
    site.redis = target("nobody", "");
    let checked = site.check()?;
    checked.has("redis.connect", "error", "nobody")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    // One that is away.
    site.redis = format!(
        "{{ mode: sentinel, master: {MASTER}, nodes: [{}, \"127.0.0.1:{}\"] }}",
        nodes.join(", "),
        free_port()?
    );
    site.check()?.has("redis.sentinels", "warning", "refused")?;
    // A replica takes no removals.
    let replica = group.servers.iter().position(|_| true).map(|_| &group.servers[1]).context("no replica")?;
    site.redis = format!("\"redis://127.0.0.1:{}/0\"", replica.port());
    let checked = site.check()?;
    checked.has("redis.role", "error", "replica")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_redis() -> Result<()> {
    let Some((servers, mut site)) = site().await? else { return Ok(()) };
    let set = |args: &[&str]| {
        tokio::task::block_in_place(|| servers.redis.cli(&[&["CONFIG", "SET"], args].concat())).map(|_| ())
    };
    set(&["maxmemory", "100mb"])?;
    set(&["maxmemory-policy", "allkeys-lru"])?;
    let checked = site.check()?;
    let line = checked.has("redis.eviction", "error", "members_of")?;
    ensure!(checked.exit == 78 && line.help.contains("volatile-lru"), "{line:?}");
    set(&["maxmemory-policy", "volatile-lru"])?;
    site.check()?.has("redis.eviction", "ok", "volatile-lru")?;
    // Without sets any policy will do.
    set(&["maxmemory-policy", "allkeys-lru"])?;
    site.mappings = "  - { table: redised.t, keys: [\"app:{id}\"] }\n".into();
    let checked = site.check()?;
    checked.has("redis.eviction", "ok", "allkeys-lru")?;
    checked.has("redis.persistence", "ok", "")?;
    checked.has("redis.version", "ok", "")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    // The checkpoint there could be evicted.
    site.more = "checkpoint: { redis: main }\nretry: { disk: { path: retry } }\n".into();
    let checked = site.check()?;
    checked.has("redis.eviction", "error", "checkpoint")?;
    checked.has("machine.checkpoint", "error", "there is none")?;
    ensure!(checked.exit == 78);
    Ok(())
}
