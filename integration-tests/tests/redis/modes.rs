//! Every form of Redis, in every version that is supported: a row changes, and its key goes, twice; TRUNCATE, and all go. With TLS, and with
//! no more rights than docs/redis.md says.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::cmd;
use rowbust_client::{CallOptions, ConnectOptions, Origin, Tls};
use rowbust_integration_tests::caches::{Caches, certificates};
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor};
use rowbust_integration_tests::http;
use rowbust_integration_tests::monitor::{Monitor, Removals};
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::{MASTER, SentinelOptions};
use rowbust_servers::{Need, Redis, RedisCluster, RedisTls, Sentinels, StartOptions, require};

const WITHIN: Duration = Duration::from_secs(30);
const PASSWORD: &str = "canary-1c9e";

/// The line `user rowbust …` of docs/redis.md for a mode.
fn documented(mode: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis.md")).unwrap();
    let section = page.split("## ").find(|section| section.starts_with("Rights")).unwrap();
    let mut lines = section.lines().skip_while(|line| !line.contains(&format!("<!-- {mode} -->")));
    lines.find(|line| line.starts_with("user rowbust ")).unwrap().replace("PASSWORD", PASSWORD)
}

fn acl(dir: &Path, mode: &str) -> PathBuf {
    let path = dir.join(format!("{mode}.acl"));
    // The user of the tests, and of the servers among themselves.
    let all = "user default on nopass ~* &* +@all\n";
    fs::write(&path, format!("{all}{}\n", documented(mode).replace("~app:*", "~product:* ~category:*")))
        .unwrap();
    path
}

async fn stage(need: Need, mode: &str) -> Result<Option<Stage>> {
    if require(&[Need::MariaDb, need]).is_none() {
        return Ok(None);
    }
    let stage = Stage::on(Db::shared(Flavor::MariaDb).await?, &format!("{mode}_{need}")).await?;
    fs::write(stage.dir().join("redis-password"), format!("{PASSWORD}\n"))?;
    Ok(Some(stage))
}

fn login(stage: &Stage, tls: &RedisTls) -> String {
    let (dir, ca) = (stage.dir().display(), tls.ca.as_ref().unwrap().display());
    format!(
        "username: rowbust, password_file: {dir}/redis-password, tls: {{ mode: verify_identity, ca_file: {ca} }}"
    )
}

/// How the client library connects: by TLS, as the account that may do everything.
fn trusting(tls: &RedisTls) -> Result<ConnectOptions> {
    let ca = fs::read(tls.ca.as_ref().context("no authority")?)?;
    let slow = ConnectOptions::default().connect_timeout(WITHIN).response_timeout(WITHIN);
    Ok(slow.tls(Tls::default().ca(ca)))
}

/// The client library finds the frontier that the daemon tells, whichever server has the key; and it fills keys that the daemon then
/// removes, leases too.
async fn library(stage: &Stage, daemon: &Daemon, redis: rowbust_client::Redis) -> Result<()> {
    stage.quiet(daemon).await?;
    let client = rowbust_client::Client::builder(redis).build()?;
    until("the frontier is where the daemon says", WITHIN, async || {
        let (_, status) = http::get(stage.admin(), "/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let told = &status["marks"]["targets"][0]["frontier"];
        let mut found = Vec::new();
        for id in 0..50 {
            found.push(client.frontier("main", &format!("product:{id}")).await?);
        }
        let is_told = |found: &Option<rowbust_client::Frontier>| {
            found.as_ref().is_some_and(|found| {
                told["gtids"] == found.gtids
                    && told["file"] == found.file
                    && told["position"] == found.position
                    && found.commit_time().is_some()
            })
        };
        Ok(Seen::check(found.iter().all(is_told), || format!("{told}, {found:?}")))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    ensure!(client.frontier("another", "product:1").await?.is_none());
    let mut conn = stage.sql().await?;
    let update = "UPDATE products SET ver = ver + 1 WHERE id = 5";
    let ver = "SELECT ver FROM products WHERE id = 5";
    let read = async || {
        let mut conn = stage.sql().await?;
        let load = async |_| conn.query_first::<u64, _>(ver).await;
        anyhow::Ok(client.get_or_load::<u64, _, _, _>("product:5", load).await?)
    };
    let before = read().await?;
    conn.query_drop(update).await?;
    let now: Option<u64> = conn.query_first(ver).await?;
    ensure!(before < now, "{before:?}, {now:?}");
    until("the new row is read", WITHIN, async || {
        let read = read().await?;
        Ok(Seen::check(read == now, || format!("{read:?}")))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    absent(stage, daemon, &client).await
}

/// That there is no such row is kept too, and removed by the INSERT. It would be kept for longer than this test waits.
async fn absent(stage: &Stage, daemon: &Daemon, client: &rowbust_client::Client) -> Result<()> {
    let read = async || {
        let mut conn = stage.sql().await?;
        let load = async |_| conn.query_first::<u64, _>("SELECT ver FROM products WHERE id = 250").await;
        let kept = CallOptions::default().null_ttl(Some(20 * WITHIN));
        anyhow::Ok(client.get_or_load_with::<u64, _, _, _>("product:250", &kept, load).await?)
    };
    until("absent is kept", WITHIN, async || {
        let read = read().await?;
        ensure!(read.value.is_none(), "{read:?} of a row that is not there");
        Ok(Seen::check(read.origin == Origin::Cache, || format!("{read:?}")))
    })
    .await?;
    let mut conn = stage.sql().await?;
    conn.query_drop("INSERT INTO products VALUES (250, 's250', 2, 77, 'p')").await?;
    until("the inserted row is read", WITHIN, async || {
        let read = read().await?;
        Ok(Seen::check(read.value == Some(77), || format!("{read:?}")))
    })
    .await
    .map_err(|e| daemon.explain(&e))
}

/// `set` puts keys into the cache.
async fn end_to_end(
    mut stage: Stage,
    servers: &[&Redis],
    redis: String,
    client: rowbust_client::Redis,
) -> Result<()> {
    let schema = stage.schema.clone();
    stage.settings.redis = Some(redis);
    stage.settings.mappings = Some(format!(
        r#"
  - table: {schema}.products
    fill_grace: 50ms
    keys:
      - "product:{{id}}"
      - {{ key: "category:{{category_id}}:products", op: hdel, field: "{{id}}" }}
      - {{ prefix: "category:feed:{{category_id}}:" }}
      - {{ members_of: "category:set:{{category_id}}" }}
    on_ddl: {{ truncate: flush, drop: flush, rename: keep }}
"#
    ));
    let removals = Arc::new(Removals::default());
    let mut conn = stage.db.connect().await?;
    shop::create(&mut conn, &schema, 20).await?;
    let monitors: Vec<Monitor> = servers
        .iter()
        .map(|server| Monitor::start(server.port(), Arc::clone(&removals)))
        .collect::<Result<_>>()?;
    let mut daemon = stage.start().await?;
    for id in 1..=20 {
        conn.query_drop(format!("UPDATE {schema}.products SET ver = ver + 1 WHERE id = {id}")).await?;
    }
    until("each key is removed twice", WITHIN, async || {
        let twice = |id: &u64| removals.of(&format!("product:{id}")).len() >= 2;
        Ok(Seen::check((1..=20).all(|id| twice(&id)), || format!("{} removals", removals.total())))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    wide_removals(servers, &mut conn, &schema).await.map_err(|e| daemon.explain(&e))?;
    library(&stage, &daemon, client).await?;
    // By the account that may do everything; every key on the server that has it.
    let mut filled = 0;
    for server in servers {
        let mut cache = shop::redis(server.port()).await?;
        for id in 1..=300 {
            for key in [format!("product:{id}"), format!("other:{id}")] {
                let set: redis::RedisResult<()> = cmd("SET").arg(key).arg(1).query_async(&mut cache).await;
                // Another one's slot, or a replica.
                filled += usize::from(set.is_ok());
            }
        }
    }
    ensure!(filled >= 600, "void: {filled} keys filled");
    conn.query_drop(format!("TRUNCATE TABLE {schema}.products")).await?;
    until("the flush leaves nothing", WITHIN, async || {
        let (mut ours, mut others) = (0, 0);
        for server in servers {
            let mut cache = shop::redis(server.port()).await?;
            let keys = shop::cached(&mut cache).await?;
            ours += keys.iter().filter(|key| key.starts_with("product:")).count();
            others += keys.iter().filter(|key| key.starts_with("other:")).count();
        }
        ensure!(others >= 300, "keys that nothing names are gone: {others} left");
        Ok(Seen::check(ours == 0, || format!("{ours} left")))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    stage.quiet(&daemon).await?;
    for monitor in &monitors {
        tokio::task::block_in_place(|| monitor.fence())?;
    }
    ensure!(daemon.metric(rowbust::telemetry::KEYS_QUEUED).await? == 0.0, "{}", daemon.log_tail());
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    Ok(())
}

/// A prefix, and a set with the keys that it names.
async fn wide_removals(servers: &[&Redis], conn: &mut mysql_async::Conn, schema: &str) -> Result<()> {
    let mut filled = 0;
    for server in servers {
        let mut cache = shop::redis(server.port()).await?;
        for n in 1..=40 {
            let member = format!("product:member{n}");
            let commands = [
                cmd("SET").arg(format!("category:feed:3:{n}")).arg(1).clone(),
                cmd("SET").arg(&member).arg(1).clone(),
                cmd("SADD").arg("category:set:3").arg(&member).clone(),
            ];
            for command in commands {
                // Another one's slot, or a replica.
                filled += usize::from(command.query_async::<()>(&mut cache).await.is_ok());
            }
        }
    }
    ensure!(filled == 120, "void: {filled} filled");
    conn.query_drop(format!("UPDATE {schema}.products SET ver = ver + 1 WHERE id = 3")).await?;
    until("prefix and set are gone", WITHIN, async || {
        let mut left = Vec::new();
        for server in servers {
            let mut cache = shop::redis(server.port()).await?;
            let keys = shop::cached(&mut cache).await?;
            left.extend(
                keys.into_iter().filter(|key| key.contains("member") || key.starts_with("category:")),
            );
        }
        Ok(Seen::check(left.is_empty(), || format!("{left:?}")))
    })
    .await
}

async fn standalone(need: Need) -> Result<()> {
    let Some(stage) = stage(need, "standalone").await? else { return Ok(()) };
    let tls = certificates(stage.dir())?;
    let acl = acl(stage.dir(), "standalone");
    let options = StartOptions::new(stage.dir().join("tls"));
    let server = Redis::launch(need, options, Some(tls.clone()), Some(&acl))?;
    let url = format!("rediss://127.0.0.1:{}/0", server.tls_port().unwrap());
    let redis = format!("{{ url: \"{url}\", {} }}", login(&stage, &tls));
    let client = rowbust_client::Redis::connect(&url, trusting(&tls)?).await?;
    end_to_end(stage, &[&server], redis, client).await
}

async fn cluster(need: Need) -> Result<()> {
    let Some(stage) = stage(need, "cluster").await? else { return Ok(()) };
    let tls = certificates(stage.dir())?;
    let options = ClusterOptions {
        acl_file: Some(acl(stage.dir(), "cluster")),
        tls: Some(tls.clone()),
        replicas: 1,
        ..ClusterOptions::new(need, stage.dir().join("cluster"))
    };
    let cluster = RedisCluster::start(&options)?;
    let nodes: Vec<String> =
        cluster.nodes.iter().map(|node| format!("\"127.0.0.1:{}\"", node.tls_port().unwrap())).collect();
    let wait = "durability: { wait_replicas: 1 }";
    let redis =
        format!("{{ mode: cluster, nodes: [{}], {wait}, {} }}", nodes[..2].join(", "), login(&stage, &tls));
    let masters: Vec<&Redis> = cluster.nodes.iter().take(3).collect();
    let urls: Vec<String> =
        masters.iter().map(|node| format!("rediss://127.0.0.1:{}", node.tls_port().unwrap())).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let client = rowbust_client::Redis::cluster(&urls, trusting(&tls)?).await?;
    end_to_end(stage, &masters, redis, client).await
}

async fn sentinel(need: Need) -> Result<()> {
    let Some(stage) = stage(need, "sentinel").await? else { return Ok(()) };
    let tls = certificates(stage.dir())?;
    let options = SentinelOptions {
        acl_file: Some(acl(stage.dir(), "sentinel")),
        sentinel_acl_file: Some(acl(stage.dir(), "sentinels")),
        tls: Some(tls.clone()),
        ..SentinelOptions::new(need, stage.dir().join("sentinel"))
    };
    let group = Arc::new(Sentinels::start(&options)?);
    let login = login(&stage, &tls);
    let more = format!(", {login}, sentinel: {{ {login} }}, durability: {{ wait_replicas: 1 }}");
    let redis = Caches::Sentinels(Arc::clone(&group)).config(&more);
    let urls: Vec<String> = group.ports().iter().map(|port| format!("rediss://127.0.0.1:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let client = rowbust_client::Redis::sentinel(&urls, MASTER, trusting(&tls)?).await?;
    end_to_end(stage, &[&group.servers[0]], redis, client).await
}

macro_rules! everywhere {
    ($($module:ident: $need:ident),+) => {$(
        mod $module {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn standalone() -> Result<()> {
                super::standalone(Need::$need).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn cluster() -> Result<()> {
                super::cluster(Need::$need).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sentinel() -> Result<()> {
                super::sentinel(Need::$need).await
            }
        }
    )+};
}

everywhere!(redis7: Redis, redis8: Redis8, valkey: Valkey);
