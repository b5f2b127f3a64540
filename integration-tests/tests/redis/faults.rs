//! Clusters and sentinels that change under load: slots that move, masters that die or are replaced. The cache converges, every
//! removal is acknowledged, and the daemon is never restarted.
//!
//! `durability` is on where a master is lost: what it had acknowledged would be lost with it otherwise.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::cmd;
use rowbust::telemetry;
use rowbust_integration_tests::caches::{Caches, Readers, Watch};
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor};
use rowbust_integration_tests::load::{Load, Plan};
use rowbust_integration_tests::monitor::Removals;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::SentinelOptions;
use rowbust_servers::{Need, RedisCluster, Sentinels, require};

const PRODUCTS: u64 = 150;
const HOT: u64 = 100;
const WITHIN: Duration = Duration::from_secs(60);
const WAIT: &str = ", durability: { wait_replicas: 1, timeout: 300ms }";

/// A daemon between a load and caches, all watched.
struct Run {
    stage: Stage,
    caches: Caches,
    removals: Arc<Removals>,
    watch: Watch,
    daemon: Daemon,
    load: Load,
    readers: Readers,
}

impl Run {
    async fn start(mut stage: Stage, caches: Caches, more: &str) -> Result<Self> {
        let seed = seed(&stage.schema);
        stage.settings.redis = Some(caches.config(more));
        let mut conn = stage.db.connect().await?;
        shop::create(&mut conn, &stage.schema, PRODUCTS).await?;
        caches.fill_all(&mut conn, &stage.schema).await?;
        let removals = Arc::new(Removals::default());
        let watch = caches.watch(&removals)?;
        let daemon = stage.start().await?;
        stage.marked(&daemon).await?;
        let plan = Plan { writers: 2, readers: 0, pause: Duration::from_millis(10), hot: HOT, seed };
        let load = stage.load(plan);
        let readers = Readers::start(&stage, &caches, 2, HOT, seed);
        let run = Self { stage, caches, removals, watch, daemon, load, readers };
        run.goes_on(50).await?;
        Ok(run)
    }

    /// Returns when the load has done `more` transactions more.
    async fn goes_on(&self, more: usize) -> Result<()> {
        let goal = self.load.transactions() + more;
        until("the load goes on", WITHIN, async || {
            let now = self.load.transactions();
            Ok(Seen::check(now >= goal, || format!("{now} of {goal}")))
        })
        .await
    }

    /// Ends the load and judges.
    async fn judge(mut self) -> Result<()> {
        let history = self.load.stop().await?;
        let fills = self.readers.stop().await?;
        ensure!(fills > 20, "void: {fills} fills");
        self.stage.quiet(&self.daemon).await?;
        tokio::task::block_in_place(|| self.watch.fence())?;
        let judged = self.caches.judge(&self.stage, &history, &self.removals, PRODUCTS, HOT).await;
        judged.map_err(|e| self.daemon.explain(&e))?;
        let status = self.daemon.status().await?;
        ensure!(status["queue"]["dead"].as_u64() == Some(0), "no dead letter by an outage: {status}");
        ensure!(self.daemon.sigterm(WITHIN).await?.success(), "{}", self.daemon.log_tail());
        Ok(())
    }
}

async fn stage(need: Need, test: &str) -> Result<Option<Stage>> {
    if require(&[Need::MariaDb, need]).is_none() {
        return Ok(None);
    }
    Stage::on(Db::shared(Flavor::MariaDb).await?, test).await.map(Some)
}

/// Slots of hot keys move, with removals of their keys while some are here and some there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resharding_under_load() -> Result<()> {
    let Some(stage) = stage(Need::Redis, "resharding").await? else { return Ok(()) };
    let cluster =
        Arc::new(RedisCluster::start(&ClusterOptions::new(Need::Redis, stage.dir().join("cluster")))?);
    let run = Run::start(stage, Caches::Cluster(Arc::clone(&cluster)), "").await?;
    let (mut moved, mut redirects) = (Vec::<(u16, usize, usize)>::new(), 0.0);
    for id in 1..=HOT {
        let slot = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", &format!("product:{id}")])?;
        let slot: u16 = slot.parse()?;
        if moved.iter().any(|(other, ..)| *other == slot) {
            continue;
        }
        let from = (0..3).find(|n| usize::from(slot) < (n + 1) * 16384 / 3).unwrap();
        let to = (from + 1) % 3;
        cluster.begin_move(slot, from, to)?;
        run.goes_on(15).await?;
        while cluster.move_keys(slot, from, to, 1)? > 0 {}
        run.goes_on(15).await?;
        cluster.move_keys(slot, from, to, 100)?;
        cluster.end_move(slot, from, to)?;
        run.goes_on(5).await?;
        moved.push((slot, from, to));
        redirects = run.daemon.metric(telemetry::REDIRECTS).await?;
        // How many removals meet a slot on its way is chance, and the marks' keeper may learn of a move first.
        if moved.len() >= 10 && redirects >= 10.0 {
            break;
        }
    }
    ensure!(redirects >= 10.0, "void: {redirects} redirects by {} moves", moved.len());
    // And back, a whole one at a time.
    for (slot, from, to) in moved {
        cluster.move_slot(slot, to, from)?;
    }
    run.goes_on(30).await?;
    ensure!(run.daemon.metric(telemetry::BREAKER_OPENED).await? == 0.0, "{}", run.daemon.log_tail());
    run.judge().await
}

/// A master dies for good, its replica is promoted; the others' keys go on being removed all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_master_dies() -> Result<()> {
    let Some(stage) = stage(Need::Redis, "master_dies").await? else { return Ok(()) };
    let options = ClusterOptions {
        replicas: 1,
        args: vec!["--cluster-require-full-coverage".into(), "no".into()],
        ..ClusterOptions::new(Need::Redis, stage.dir().join("cluster"))
    };
    let cluster = Arc::new(RedisCluster::start(&options)?);
    let run = Run::start(stage, Caches::Cluster(Arc::clone(&cluster)), WAIT).await?;
    cluster.nodes[0].kill9()?;
    run.daemon.metric_at_least(telemetry::SERVERS_FAILING, 1.0, WITHIN).await?;
    ensure!(run.daemon.metric(telemetry::BREAKER_OPEN).await? == 0.0, "one master isn't the whole");
    let removed = run.daemon.metric(telemetry::KEYS_REMOVED).await?;
    run.daemon.metric_at_least(telemetry::KEYS_REMOVED, removed + 50.0, WITHIN).await?;
    until("the replica is promoted", WITHIN, async || {
        let role = cluster.nodes[3].cli(&["ROLE"])?;
        Ok(Seen::check(role.starts_with("master"), || role))
    })
    .await?;
    ensure!(run.daemon.metric(telemetry::KEYS_QUEUED).await? > 0.0, "void: nothing queued");
    run.goes_on(30).await?;
    // Without a replica the new master's word isn't enough: the old one comes back as that.
    cluster.nodes[0].start_again()?;
    cluster.replicated(1)?;
    run.goes_on(30).await?;
    run.judge().await
}

/// The sentinels replace the master in good order, then it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_under_load() -> Result<()> {
    let Some(stage) = stage(Need::Redis, "failover").await? else { return Ok(()) };
    let group = Arc::new(Sentinels::start(&SentinelOptions::new(Need::Redis, stage.dir().join("group")))?);
    let run = Run::start(stage, Caches::Sentinels(Arc::clone(&group)), WAIT).await?;
    group.sentinels[0].cli(&["SENTINEL", "FAILOVER", "shop"])?;
    ensure!(tokio::task::block_in_place(|| group.promoted(0))? == 1);
    run.daemon.metric_at_least(telemetry::BREAKER_OPENED, 1.0, WITHIN).await?;
    closed(&run.daemon).await?;
    run.goes_on(50).await?;

    let opened = run.daemon.metric(telemetry::BREAKER_OPENED).await?;
    group.servers[1].kill9()?;
    ensure!(tokio::task::block_in_place(|| group.promoted(1))? == 0);
    run.daemon.metric_at_least(telemetry::BREAKER_OPENED, opened + 1.0, WITHIN).await?;
    run.goes_on(30).await?;
    ensure!(run.daemon.metric(telemetry::KEYS_QUEUED).await? > 0.0, "void: nothing queued");
    group.servers[1].start_again()?;
    closed(&run.daemon).await?;
    run.goes_on(50).await?;
    run.judge().await
}

async fn closed(daemon: &Daemon) -> Result<()> {
    until("the breaker is closed", WITHIN, async || {
        let open = daemon.metric(telemetry::BREAKER_OPEN).await?;
        Ok(Seen::check(open == 0.0, || open.to_string()))
    })
    .await
    .map_err(|e| daemon.explain(&e))
}

/// A flush while a slot is on its way, and while others move: every key of every master goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_of_a_cluster_whose_slots_move() -> Result<()> {
    let Some(mut stage) = stage(Need::Redis, "cluster_flush").await? else { return Ok(()) };
    let cluster =
        Arc::new(RedisCluster::start(&ClusterOptions::new(Need::Redis, stage.dir().join("cluster")))?);
    let caches = Caches::Cluster(Arc::clone(&cluster));
    stage.settings.redis = Some(caches.config(""));
    stage.settings.mappings = Some(format!(
        "\n  - table: {}.products\n    fill_grace: 50ms\n    keys: [\"{{{{t}}}}:{{id}}\", \"product:{{id}}\"]\n    \
         on_ddl: {{ truncate: flush, drop: flush, rename: keep }}\n",
        stage.schema
    ));
    stage.settings.limits = Some("{ flush_keys_per_second: 2000 }".into());
    let mut conn = stage.db.connect().await?;
    shop::create(&mut conn, &stage.schema, 10).await?;
    let mut cache = caches.connect().await?;
    for id in 1..=400 {
        for key in [format!("{{t}}:{id}"), format!("product:{id}"), format!("control:{id}")] {
            cache.query::<()>(cmd("SET").arg(key).arg(id)).await?;
        }
    }
    let daemon = stage.start().await?;
    let slot: u16 = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", "{t}"])?.parse()?;
    let from = (0..3).find(|n| usize::from(slot) < (n + 1) * 16384 / 3).unwrap();
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to)?;
    ensure!(cluster.move_keys(slot, from, to, 150)? == 150);
    conn.query_drop(format!("TRUNCATE TABLE {}.products", stage.schema)).await?;
    daemon.metric_at_least(telemetry::FLUSH_REMOVED, 10.0, WITHIN).await?;
    // It goes on moving, and other slots too, while all masters are iterated over.
    for _ in 0..5 {
        cluster.move_keys(slot, from, to, 20)?;
    }
    for other in [0u16, 1, 2] {
        cluster.move_slot(other, 0, 1)?;
    }
    stage.quiet(&daemon).await?;
    let (mut ours, mut controls) = (Vec::new(), 0);
    for node in &cluster.nodes {
        let mut conn = shop::redis(node.port()).await?;
        let (control, other): (Vec<String>, Vec<String>) =
            shop::cached(&mut conn).await?.into_iter().partition(|key| key.starts_with("control:"));
        controls += control.len();
        ours.extend(other);
    }
    ensure!(ours.is_empty(), "{} left, such as {:?}\n{}", ours.len(), ours.first(), daemon.log_tail());
    ensure!(controls == 400, "{controls} of the keys that nothing names");
    Ok(())
}
