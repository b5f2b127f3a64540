//! The shared stores by themselves: fences, records that are torn, absent, old or of a newer version, and `checkpoint set`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use redis::AsyncCommands as _;
use rowbust::checkpoint::file::Saved;
use rowbust::checkpoint::{CheckpointError, Store, look};
use rowbust::config::{Config, Password, RedisMode};
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::hosts::{Common, Host};
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{on_both, shop};
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::{MASTER, SentinelOptions};
use rowbust_servers::{Kafka, Need, RedisCluster, Sentinels, StartOptions, require};

on_both!(records_in_redis, set_by_hand);

const WITHIN: Duration = Duration::from_secs(40);

fn saved(position: u64) -> Saved {
    Saved {
        generation: 0,
        epoch: 1,
        flavor: "mariadb".into(),
        source: "server_id 1".into(),
        gtids: format!("0-1-{position}"),
        file: "binlog.000001".into(),
        position,
        anchor: None,
        followed_since: 0,
        commit_time: 0,
        saved_at: 0,
        covered: None,
        fence: 0,
        lineage: String::new(),
        published: Default::default(),
    }
}

fn is_fenced<T>(result: &Result<T, CheckpointError>) -> bool {
    matches!(result, Err(CheckpointError::Fenced { .. }))
}

/// The promises that both stores make.
async fn keeps_its_promises(config: &Config) -> Result<()> {
    ensure!(look(config).await?.is_none(), "there is something");
    let (first, found) = Store::take(config, 0, false).await?;
    ensure!(found.is_none(), "{found:?}");
    let one = first.save(saved(100)).await?;
    ensure!((one.generation, one.fence) == (1, first.fence()), "{one:?}");
    let keeper = first.keeper().context("no keeper")?;
    keeper.save(b"columns of old")?;
    ensure!(look(config).await?.map(|(s, _)| s.position) == Some(100), "not saved");
    first.keep_backup(&one).await?;

    // Taken over: everything of the first one is refused from now on, before the second has saved anything.
    let (second, found) = Store::take(config, 0, false).await?;
    ensure!(found.map(|(s, _)| s) == Some(one), "not what was saved");
    ensure!(second.fence() > first.fence(), "{} after {}", second.fence(), first.fence());
    ensure!(second.keeper().and_then(|k| k.load()).as_deref() == Some(b"columns of old"), "no history");
    let late = first.save(saved(200)).await;
    ensure!(is_fenced(&late), "{late:?}");
    ensure!(keeper.save(b"columns of a late one").is_err(), "a late history went through");
    // Again, now that its connection or producer is a new one.
    let late = first.save(saved(201)).await;
    ensure!(is_fenced(&late), "{late:?}");
    let two = second.save(saved(150)).await?;
    ensure!(two.generation == 2 && two.fence == second.fence(), "{two:?}");
    let late = first.save(saved(202)).await;
    ensure!(is_fenced(&late), "{late:?}");
    let three = second.save(saved(160)).await?;
    ensure!(look(config).await?.map(|(s, _)| s) == Some(three.clone()), "not the newest");
    ensure!(second.backup().await?.map(|s| s.position) == Some(100), "no backup");

    let (third, found) = Store::take(config, 40, false).await?;
    ensure!(third.fence() > 40, "a fence that this process had before: {}", third.fence());
    ensure!(found.map(|(s, _)| s) == Some(three), "not the newest");
    ensure!(third.keeper().and_then(|k| k.load()).as_deref() == Some(b"columns of old"), "another history");
    Ok(())
}

async fn records_in_redis(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "records").await? else { return Ok(()) };
    stage.open_shop(50).await?;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/1", stage.redis.port()))?;
    let mut store = client.get_multiplexed_async_connection().await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let key = "rowbust:checkpoint:records";
    let common = Common::named("records");
    let mut host = Host::new(&stage, "a", &common).await?;
    // An account with the rights that are documented, and no more.
    redis::cmd("ACL")
        .arg(&["SETUSER", "keeper", "on", ">canary", "~rowbust:*", "-@all"])
        .arg(&["+ping", "+select", "+eval", "+hget", "+hset", "+hincrby", "+persist"])
        .query_async::<()>(&mut store)
        .await?;
    let mut config = host.config()?;
    let target = config.redis.get_mut(1).context("no second target")?;
    target.username = Some("keeper".into());
    target.password = Password::Value("canary".into());
    keeps_its_promises(&config).await?;
    let ttl: i64 = store.ttl(key).await?;
    ensure!(ttl == -1, "the key goes away in {ttl} s");

    // Lost under a running store: written again, history and all, but not by who was taken over meanwhile.
    let (taken, _) = Store::take(&host.config()?, 0, false).await?;
    taken.save(saved(300)).await?;
    store.del::<_, ()>(key).await?;
    taken.save(saved(301)).await?;
    let schema: Option<String> = store.hget(key, "schema").await?;
    ensure!(schema.as_deref() == Some("columns of old"), "{schema:?}");
    ensure!(look(&host.config()?).await?.map(|(s, _)| s.position) == Some(301), "not written again");

    // Gone back to before it was taken over, as a failover may leave it: whoever comes next gets the same number, and is the only one.
    let before: String = store.hget(key, "owner").await?;
    let (lost, _) = Store::take(&host.config()?, 0, false).await?;
    store
        .hset_multiple::<_, _, _, ()>(key, &[("fence", (lost.fence() - 1).to_string()), ("owner", before)])
        .await?;
    let (next, _) = Store::take(&host.config()?, 0, false).await?;
    ensure!(next.fence() == lost.fence(), "void: {} and {}", next.fence(), lost.fence());
    let late = lost.save(saved(302)).await;
    ensure!(is_fenced(&late), "{late:?}");
    next.save(saved(303)).await?;
    let late = lost.save(saved(304)).await;
    ensure!(is_fenced(&late), "{late:?}");
    // Where nobody came in between, it goes on.
    let before: String = store.hget(key, "owner").await?;
    let (alone, _) = Store::take(&host.config()?, 0, false).await?;
    store
        .hset_multiple::<_, _, _, ()>(key, &[("fence", (alone.fence() - 1).to_string()), ("owner", before)])
        .await?;
    alone.save(saved(305)).await?;
    ensure!(is_fenced(&next.save(saved(306)).await), "two of them save");

    // Torn, and of a newer version: never taken for a position.
    store.del::<_, ()>(key).await?;
    host.first_position()?;
    let good: String = store.hget(key, "checkpoint").await?;
    let torn = good.replacen("\"position\": ", "\"position\": 1", 1);
    let newer = good.replacen("rowbust-checkpoint 1", "rowbust-checkpoint 2", 1);
    for (bad, words) in [(torn.as_str(), "checksum"), (newer.as_str(), "not a checkpoint of this version")] {
        store.hset::<_, _, _, ()>(key, "checkpoint", bad).await?;
        let status = host.launch()?.exited(WITHIN).await?;
        let said = host.daemon()?.log_text();
        ensure!(status.code() == Some(1) && said.contains(words), "{status}: {said}");
        let (code, _, said) = host.cli(&["checkpoint", "show"])?;
        ensure!(code == 1 && said.contains(words), "{code}: {said}");
    }
    // Another type of key is an error as well.
    store.set::<_, _, ()>(key, "x").await?;
    let (code, _, said) = host.cli(&["checkpoint", "show"])?;
    ensure!(code == 69 && said.contains("WRONGTYPE"), "{code}: {said}");
    store.del::<_, ()>(key).await?;

    // Older than what was saved: replayed from there.
    host.first_position()?;
    let older: String = store.hget(key, "checkpoint").await?;
    host.launch()?;
    host.active(WITHIN).await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=100001 WHERE id=1"]).await?;
    host.quiet(&stage).await?;
    ensure!(host.daemon()?.kill9()?, "it had ended");
    store.hset::<_, _, _, ()>(key, "checkpoint", older).await?;
    let from = stage.removals.total();
    host.launch()?;
    host.active(WITHIN).await?;
    host.quiet(&stage).await?;
    ensure!(stage.removals.since(from).contains_key("product:1"), "not replayed: {}", host.logs());

    // Gone back, and gone, under a running daemon.
    store.hset::<_, _, _, ()>(key, "generation", 1).await?;
    run(&mut conn, &["UPDATE products SET ver=100002 WHERE id=1"]).await?;
    host.quiet(&stage).await?;
    ensure!(host.logs().contains("had gone back to an older checkpoint"), "{}", host.logs());
    store.del::<_, ()>(key).await?;
    run(&mut conn, &["UPDATE products SET ver=100003 WHERE id=1"]).await?;
    host.quiet(&stage).await?;
    ensure!(host.logs().contains("had lost the checkpoint"), "{}", host.logs());
    ensure!(host.daemon()?.kill9()?, "it had ended");

    // Gone while none runs: with `on_gap: flush` as much is removed as may be owed.
    store.del::<_, ()>(key).await?;
    run(&mut conn, &["UPDATE products SET ver=100004 WHERE id=1"]).await?;
    cache.set::<_, _, ()>("product:1", "100003").await?;
    host.configure(&stage, &Common { source: "on_gap: flush".into(), ..common.clone() })?;
    host.launch()?;
    host.active(WITHIN).await?;
    host.quiet(&stage).await?;
    let left: Option<String> = cache.get("product:1").await?;
    ensure!(left.is_none(), "what nobody knows of is still cached: {left:?}\n{}", host.logs());
    let control: Option<u64> = cache.get("control:1").await?;
    ensure!(control == Some(1), "more was removed than the mappings make");
    ensure!(host.logs().contains("there is none, so nothing is known"), "{}", host.logs());
    Ok(())
}

/// A host's config with the record on this target instead.
async fn kept_on(stage: &Stage, mode: RedisMode) -> Result<Config> {
    let common = Common { checkpoint: "{ redis: ha, name: records }".into(), ..Common::in_redis() };
    let mut config = Host::new(stage, "a", &common).await?.config()?;
    let target = config.redis.get_mut(1).context("no second target")?;
    (target.mode, target.db) = (mode, 0);
    Ok(config)
}

fn addresses(ports: Vec<u16>) -> Vec<(String, u16)> {
    ports.into_iter().map(|port| ("127.0.0.1".to_owned(), port)).collect()
}

/// Saves, at the latest once the store can be reached again.
async fn saves(store: &Store, position: u64) -> Result<()> {
    until("a save", WITHIN, async || {
        Ok(match store.save(saved(position)).await {
            Ok(_) => Seen::Done(()),
            Err(error @ CheckpointError::Unavailable { .. }) => Seen::NotYet(error.to_string()),
            Err(error) => return Err(error.into()),
        })
    })
    .await
}

/// On a cluster, whose slots move under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_a_cluster() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MariaDb, "clustered_records").await? else { return Ok(()) };
    let options = ClusterOptions::new(Need::Redis, stage.dir().join("cluster"));
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
    let config = kept_on(&stage, RedisMode::Cluster { nodes: addresses(cluster.ports()) }).await?;
    keeps_its_promises(&config).await?;

    let key = "rowbust:checkpoint:records";
    let slot: u16 = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", key])?.parse()?;
    let has = |node: usize| {
        anyhow::Ok(cluster.nodes[node].cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])? == "1")
    };
    let mut from = 3;
    for node in 0..3 {
        if has(node)? {
            from = node;
        }
    }
    ensure!(from < 3, "no master has it");
    let (old, _) = Store::take(&config, 0, false).await?;
    let (store, _) = Store::take(&config, 0, false).await?;
    saves(&store, 300).await?;
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to)?;
    saves(&store, 310).await?;
    ensure!(cluster.move_keys(slot, from, to, 10)? == 1);
    // It isn't there any more, and the other one is only asked with leave.
    saves(&store, 320).await?;
    ensure!(look(&config).await?.map(|(s, _)| s.position) == Some(320), "half moved");
    cluster.end_move(slot, from, to)?;
    saves(&store, 330).await?;
    ensure!(has(to)? && !has(from)?, "void: it didn't move");
    ensure!(look(&config).await?.map(|(s, _)| s.position) == Some(330), "moved");
    let late = old.save(saved(340)).await;
    ensure!(is_fenced(&late), "{late:?}");
    Ok(())
}

/// Behind sentinels, which replace the master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_behind_sentinels() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MariaDb, "watched_records").await? else { return Ok(()) };
    let options = SentinelOptions::new(Need::Redis, stage.dir().join("group"));
    let group = tokio::task::spawn_blocking(move || Sentinels::start(&options)).await??;
    let mode = RedisMode::Sentinel {
        master: MASTER.to_owned(),
        nodes: addresses(group.ports()),
        username: None,
        password: Password::Empty,
        tls: None,
    };
    let config = kept_on(&stage, mode).await?;
    keeps_its_promises(&config).await?;
    let (old, _) = Store::take(&config, 0, false).await?;
    let (store, _) = Store::take(&config, 0, false).await?;
    saves(&store, 300).await?;
    until("the replica has it", WITHIN, async || {
        let there = group.servers[1].cli(&["HGET", "rowbust:checkpoint:records", "checkpoint"])?;
        Ok(Seen::check(there.contains("\"position\": 300") || there.contains("\"position\":300"), || there))
    })
    .await?;
    group.sentinels[0].cli(&["SENTINEL", "FAILOVER", MASTER])?;
    ensure!(tokio::task::block_in_place(|| group.promoted(0))? == 1);
    // Until then the old one takes what it will throw away, as of every client.
    until("the old master is a replica", WITHIN, async || {
        let role = group.servers[0].cli(&["ROLE"])?;
        Ok(Seen::check(role.starts_with("slave"), || role))
    })
    .await?;
    saves(&store, 310).await?;
    ensure!(look(&config).await?.map(|(s, _)| s.position) == Some(310), "lost in the failover");
    let late = saves(&old, 320).await.map_err(|error| error.to_string());
    ensure!(late.as_ref().is_err_and(|why| why.contains("fence")), "{late:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_in_kafka() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(stage) = Stage::new(Flavor::MariaDb, "kafka_records").await? else { return Ok(()) };
    stage.open_shop(50).await?;
    let dir = stage.dir().join("kafka");
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(StartOptions::new(dir))).await??;
    let common = |name: &str| Common {
        checkpoint: format!(
            "{{ kafka: {{ brokers: [\"{}\"], prefix: ha }}, name: {name} }}",
            kafka.brokers()
        ),
        source: String::new(),
        ..Common::in_redis()
    };
    let mut host = Host::new(&stage, "a", &common("promises")).await?;
    keeps_its_promises(&host.config()?).await?;

    host.configure(&stage, &common("records"))?;
    let status = host.launch()?.exited(WITHIN).await?;
    let said = host.daemon()?.log_text();
    ensure!(status.code() == Some(1) && said.contains("there is none"), "{status}: {said}");
    host.first_position()?;
    host.launch()?;
    host.active(WITHIN).await?;
    let older = host.checkpoint().await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=100001 WHERE id=1"]).await?;
    host.quiet(&stage).await?;
    ensure!(host.checkpoint().await?.position > older.position, "not saved");

    // A broker that is away: serves on, holds the checkpoint.
    tokio::task::block_in_place(|| kafka.stop())?;
    run(&mut conn, &["UPDATE products SET ver=100002 WHERE id=1"]).await?;
    host.daemon()?.metric_at_least("rowbust_checkpoint_failures_total", 1.0, WITHIN).await?;
    tokio::task::block_in_place(|| kafka.start_again())?;
    host.quiet(&stage).await?;
    ensure!(host.daemon()?.kill9()?, "it had ended");

    // By somebody who knows no fences.
    let newest = host.checkpoint().await?;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("message.timeout.ms", "10000")
        .create()?;
    let write = async |value: &str| {
        let record = FutureRecord::to("ha.checkpoint").partition(0).key("records.checkpoint").payload(value);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)
    };
    for (bad, words) in
        [("rowbust-checkpoint 1 crc32=00000000\n{}", "checksum"), ("rowbust-checkpoint 2", "no header")]
    {
        write(bad).await?;
        let status = host.launch()?.exited(WITHIN).await?;
        let said = host.daemon()?.log_text();
        ensure!(status.code() == Some(1) && said.contains(words), "{status}: {said}");
    }
    // The way out that the message names.
    let (code, _, said) = host.cli(&["checkpoint", "set", "--gtid", &older.gtids, "--yes"])?;
    ensure!(code == 0, "{code}: {said}");
    let from = stage.removals.total();
    host.launch()?;
    host.active(WITHIN).await?;
    host.quiet(&stage).await?;
    ensure!(stage.removals.since(from).contains_key("product:1"), "not replayed: {}", host.logs());
    ensure!(host.checkpoint().await?.fence > newest.fence, "an old fence");
    Ok(())
}

/// On a server of its own: nobody else's commits come in between.
async fn set_by_hand(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Arc::new(Db::start(flavor, &[]).await?);
    let stage = Stage::on(Arc::clone(&db), "by_hand").await?;
    stage.open_shop(50).await?;
    let common = Common::named("by_hand");
    set_and_back(&stage, &common).await.context("in redis")?;
    let stage = Stage::on(db, "by_hand_file").await?;
    stage.open_shop(50).await?;
    let path = stage.dir().join("set/checkpoint");
    let common = Common { checkpoint: format!("{{ path: {} }}", path.display()), ..common };
    set_and_back(&stage, &common).await.context("in a file")
}

/// Sets, goes back, and everything that is refused.
async fn set_and_back(stage: &Stage, common: &Common) -> Result<()> {
    let mut host = Host::new(stage, "a", common).await?;
    let mut conn = stage.sql().await?;
    let refused = |args: &[&str], code: i32, words: &str| {
        let (exit, _, said) = host.cli(args)?;
        ensure!(exit == code && said.contains(words), "{args:?}: {exit}: {said}");
        Ok(())
    };
    refused(&["checkpoint", "set"], 2, "required")?;
    refused(&["checkpoint", "set", "--latest", "--earliest"], 2, "cannot be used with")?;
    refused(&["checkpoint", "set", "--latest"], 2, "--yes")?;
    refused(&["checkpoint", "set", "--backup", "--yes"], 1, "no backup")?;
    refused(&["checkpoint", "set", "--file", "binlog.999999", "--yes"], 78, "no binlog file")?;
    refused(&["checkpoint", "set", "--gtid", "nonsense", "--yes"], 78, "gtid")?;
    let (code, said, _) = host.cli(&["checkpoint", "set", "--latest", "--dry-run"])?;
    ensure!(code == 0 && said.contains("nothing was changed"), "{code}: {said}");
    ensure!(look(&host.config()?).await?.is_none(), "a dry run changed it");

    // The old place, a change, the place behind it.
    host.first_position()?;
    let first = host.checkpoint().await?;
    let (file, position) = stage.db.newest(&mut conn).await?;
    ensure!((&first.file, first.position) == (&file, position) || first.file.is_empty(), "{first:?}");
    run(&mut conn, &["UPDATE products SET ver=100001 WHERE id=7"]).await?;
    let (code, said, complaint) = host.cli(&["checkpoint", "set", "--latest", "--yes", "--json"])?;
    ensure!(code == 0, "{complaint}");
    let said: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(said["done"] == true && said["old"]["gtids"] == first.gtids.as_str(), "{said}");
    let second = host.checkpoint().await?;
    ensure!(second.epoch == first.epoch + 1 && second.gtids != first.gtids, "{first:?} {second:?}");
    ensure!(second.generation > first.generation, "{first:?} {second:?}");

    // From there the change isn't seen; from the backup it is.
    host.launch()?;
    host.active(WITHIN).await?;
    let (code, _, said) = host.cli(&["checkpoint", "set", "--backup", "--yes"])?;
    ensure!(code == 1 && said.contains("a daemon is active"), "{code}: {said}");
    host.quiet(stage).await?;
    ensure!(!stage.removals.since(0).contains_key("product:7"), "void: seen from behind it");
    host.daemon()?.sigterm(WITHIN).await?;
    // Back to before the change, past what the daemon has saved meanwhile.
    let (code, said, complaint) = host.cli(&["checkpoint", "set", "--backup", "--yes"])?;
    ensure!(code == 0 && said.contains("to go back"), "{code}: {complaint}");
    ensure!(host.checkpoint().await?.gtids == first.gtids, "not the backup");
    host.launch()?;
    host.active(WITHIN).await?;
    host.quiet(stage).await?;
    ensure!(stage.removals.since(0).contains_key("product:7"), "not seen from the backup: {}", host.logs());
    host.daemon()?.sigterm(WITHIN).await?;

    // By file and position, which must give the same GTIDs as the server counts.
    run(&mut conn, &["UPDATE products SET ver=100002 WHERE id=8"]).await?;
    let (file, position) = stage.db.newest(&mut conn).await?;
    let gtids = stage.db.gtids(&mut conn).await?;
    let args = ["checkpoint", "set", "--file", &file, "--position", &position.to_string(), "--yes"];
    let (code, _, complaint) = host.cli(&args)?;
    ensure!(code == 0, "{complaint}");
    let set = host.checkpoint().await?;
    ensure!(set.gtids == gtids, "{} instead of {gtids}", set.gtids);

    // Without the source: by GTID only.
    host.source.cut().await;
    let (code, _, complaint) = host.cli(&["checkpoint", "set", "--latest", "--yes"])?;
    ensure!(code == 69, "{code}: {complaint}");
    let (code, _, complaint) = host.cli(&["checkpoint", "set", "--gtid", &first.gtids, "--yes"])?;
    ensure!(code == 0, "{complaint}");
    host.source.open().await?;
    let from = stage.removals.total();
    host.launch()?;
    host.active(WITHIN).await?;
    host.quiet(stage).await?;
    ensure!(stage.removals.since(from).contains_key("product:8"), "not replayed: {}", host.logs());
    conn.query_drop("SELECT 1").await?;
    Ok(())
}
