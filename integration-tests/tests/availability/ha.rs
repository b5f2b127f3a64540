//! Several daemons on one source: one is active, the others stand by, and whatever happens to them I1 to I4 and I7 hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rowbust::checkpoint::{CheckpointError, Store};
use rowbust::{source::lease, telemetry};
use rowbust_integration_tests::db::{Db, Flavor, run};
use rowbust_integration_tests::hosts::{Common, Host, wait_for_log};
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Kafka, Need, StartOptions, require};

#[path = "ha/lease.rs"]
mod lease_only;

on_both!(
    stands_by_and_takes_over,
    fight_in_redis,
    taken_over_under_its_hands,
    disk_of_a_dead_host,
    schema_travels,
    source_restarted,
    one_file_on_one_host,
);

const PRODUCTS: u64 = 200;
const HOT: u64 = 100;
const WITHIN: Duration = Duration::from_secs(40);
/// A daemon that is stopped or cut off loses the lease after its time to live, and the other one has to start; on a loaded machine.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(30);

/// The median of a fault's takeovers, in a debug build on a machine that does much else: for a daemon whose connections end, and for
/// one that is stopped, which keeps its lease for its time to live.
const MEDIAN: Duration = Duration::from_secs(5);
const MEDIAN_STOPPED: Duration = lease::TTL.saturating_add(Duration::from_secs(8));

/// A takeover that takes longer shows its log.
const SLOW: Duration = Duration::from_secs(10);

fn plan(seed: u64) -> Plan {
    Plan { writers: 2, readers: 2, pause: Duration::from_millis(10), hot: HOT, seed }
}

/// A server of its own: the number of its replicas is looked at, and it is restarted.
async fn stage_of_its_own(flavor: Flavor, test: &str) -> Result<Option<Stage>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    Ok(Some(Stage::on(Arc::new(Db::start(flavor, &[]).await?), test).await?))
}

/// Nothing runs there yet.
async fn two(stage: &Stage, common: &Common) -> Result<[Host; 2]> {
    Ok([Host::new(stage, "a", common).await?, Host::new(stage, "b", common).await?])
}

/// The first one is active, the second stands by.
async fn start([a, b]: [&mut Host; 2]) -> Result<()> {
    a.launch()?;
    a.active(WITHIN).await?;
    b.launch()?;
    b.stands_by(WITHIN).await?;
    Ok(())
}

async fn dump_threads(stage: &Stage) -> Result<u64> {
    let mut conn = stage.db.connect().await?;
    let count: Option<u64> = conn
        .query_first("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'")
        .await?;
    conn.disconnect().await?;
    Ok(count.unwrap_or(0))
}

async fn stands_by_and_takes_over(flavor: Flavor) -> Result<()> {
    let Some(stage) = stage_of_its_own(flavor, "standby").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let common = Common::in_redis();
    let [mut a, mut b] = two(&stage, &common).await?;

    // Not a silent `start: latest`: nothing tells a first start from a lost record.
    let status = a.launch()?.exited(WITHIN).await?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(
        a.logs().contains("there is none") && a.logs().contains("checkpoint set --latest"),
        "{}",
        a.logs()
    );
    a.first_position()?;

    start([&mut a, &mut b]).await?;
    let status = b.status().await.unwrap_or_default();
    ensure!(status["ready"] == false && status["lease"]["name"] == "rowbust:redis:shop", "{status}");
    ensure!(status["lease"]["holder"].as_u64().is_some(), "{status}");
    ensure!(b.daemon()?.metric(telemetry::ACTIVE).await? == 0.0, "the standby says that it is active");
    ensure!(a.daemon()?.metric(telemetry::ACTIVE).await? == 1.0, "the active one doesn't say so");
    ensure!(dump_threads(&stage).await? == 1, "the standby reads the binlog");
    ensure!(!b.dir.join("retry").exists(), "the standby opened its queue");

    // Who is active is in nobody's way: nothing but the end of the daemon's process ends its turn.
    let (code, _, said) = b.cli(&["checkpoint", "set", "--latest", "--yes"])?;
    ensure!(code == 1 && said.contains("a daemon is active"), "{code}: {said}");

    let load = stage.load(plan(seed("stands_by_and_takes_over")));
    let begun = load.transactions();
    until("the load", WITHIN, async || Ok(Seen::check(load.transactions() > begun + 50, String::new)))
        .await?;
    let status = a.daemon()?.sigterm(WITHIN).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", a.daemon()?.log_tail());
    let took = b.active(TAKES_OVER_WITHIN).await?;
    eprintln!("{}: after SIGTERM {} ms", flavor.name(), took.as_millis());
    ensure!(took < Duration::from_secs(5), "{took:?} after the drain\n{}", b.daemon()?.log_tail());
    ensure!(b.daemon()?.metric(telemetry::TAKEOVERS).await? == 1.0, "not counted");

    // A daemon that stands by ends at once.
    a.launch()?;
    a.stands_by(WITHIN).await?;
    let status = a.daemon()?.sigterm(Duration::from_secs(5)).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", a.daemon()?.log_tail());

    let history = load.stop().await?;
    b.quiet(&stage).await?;
    let last = b.snapshot(&stage, "end").await?;
    stage.judge(&history, &[last], PRODUCTS, HOT).await?;
    Ok(())
}

/// What happens to the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9`
    Killed,
    /// SIGSTOP, and SIGCONT once the other one has taken over.
    Stopped,
    /// No way to the source, until the other one has taken over.
    Cut,
    /// The server ends the connection that has the lease.
    LeaseKilled,
}

const FAULTS: [Fault; 4] = [Fault::Killed, Fault::Stopped, Fault::Cut, Fault::LeaseKilled];

async fn fight_in_redis(flavor: Flavor) -> Result<()> {
    let Some(stage) = stage_of_its_own(flavor, "fight").await? else { return Ok(()) };
    fight(&stage, &Common::in_redis(), Duration::from_secs(20)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fight_in_kafka() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(stage) = stage_of_its_own(Flavor::MySql, "fight").await? else { return Ok(()) };
    let dir = stage.dir().join("kafka");
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(StartOptions::new(dir))).await??;
    let brokers = format!("brokers: [\"{}\"], prefix: ha", kafka.brokers());
    let common = Common {
        checkpoint: format!("{{ kafka: {{ {brokers} }}, name: shop }}"),
        retry: Some(format!("{{ kafka: {{ {brokers} }}, delay: 1s }}")),
        ..Common::in_redis()
    };
    fight(&stage, &common, Duration::from_secs(20)).await
}

/// `ROWBUST_FIGHT_SECONDS=240 cargo test --test availability minutes -- --ignored`; the workflow runs it once a week, for 180 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn minutes() -> Result<()> {
    let seconds = std::env::var("ROWBUST_FIGHT_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(240);
    let Some(stage) = stage_of_its_own(Flavor::MySql, "minutes").await? else { return Ok(()) };
    fight(&stage, &Common::in_redis(), Duration::from_secs(seconds)).await
}

/// Two hosts fight for so long under load; every fault comes at least once.
async fn fight(stage: &Stage, common: &Common, long: Duration) -> Result<()> {
    let seed = seed("fight");
    let mut rng = StdRng::seed_from_u64(seed);
    stage.open_shop(PRODUCTS).await?;
    let mut hosts = two(stage, common).await?;
    hosts[0].first_position()?;
    start(hosts.each_mut()).await?;
    let load = stage.load(plan(seed));
    let (mut active, mut snapshots) = (0, Vec::new());
    let mut took: Vec<(Fault, Duration)> = Vec::new();
    // The active one may be the first to ask for the lease that it has lost.
    let mut regained = 0;
    let until = Instant::now() + long;
    while Instant::now() < until || took.len() < FAULTS.len() {
        let any = rng.random_range(0..FAULTS.len());
        let fault = if took.len() < FAULTS.len() { FAULTS[took.len()] } else { FAULTS[any] };
        let other = 1 - active;
        // The fault's moment; nothing waits for it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1000))).await;
        snapshots.push(hosts[other].snapshot(stage, format!("{} before {fault:?}", snapshots.len())).await?);
        match fault {
            Fault::Killed => _ = hosts[active].daemon()?.kill9()?,
            Fault::Stopped => hosts[active].daemon()?.signal(Signal::SIGSTOP)?,
            Fault::Cut => hosts[active].source.cut().await,
            Fault::LeaseKilled => {
                if !lease_goes_over(stage, &mut hosts, active).await? {
                    regained += 1;
                    continue;
                }
            }
        }
        let long = hosts[other].active(TAKES_OVER_WITHIN).await?;
        if long > SLOW {
            // For whoever wonders why.
            eprintln!("slow: {fault:?} {long:?}\n{}", hosts[other].daemon()?.log_tail());
        }
        took.push((fault, long));
        snapshots.push(hosts[other].snapshot(stage, format!("{} after {fault:?}", snapshots.len())).await?);
        match fault {
            Fault::Killed => _ = hosts[active].launch()?,
            Fault::Stopped => {
                // It wakes up in the middle of what it did, with the old fence.
                hosts[active].daemon()?.signal(Signal::SIGCONT)?;
            }
            Fault::Cut => hosts[active].source.open().await?,
            Fault::LeaseKilled => {}
        }
        hosts[active].stands_by(WITHIN).await?;
        active = other;
    }
    let history = load.stop().await?;
    hosts[active].quiet(stage).await?;
    snapshots.push(hosts[active].snapshot(stage, "end").await?);
    let logs = format!("--- a\n{}\n--- b\n{}", hosts[0].logs(), hosts[1].logs());
    let checked = stage.judge(&history, &snapshots, PRODUCTS, HOT).await.map_err(|e| {
        std::fs::write(std::env::temp_dir().join("rowbust-fight.log"), logs).ok();
        e.context("both hosts' logs are in rowbust-fight.log in the temporary folder")
    })?;
    ensure!(checked.behind_checkpoints > 0, "void: no checkpoint passed a change: {checked:?}");
    let fences: Vec<u64> = snapshots.iter().map(|s| s.checkpoint.fence).collect();
    ensure!(fences.is_sorted() && fences.last() > fences.first(), "void: fences {fences:?}");
    eprintln!("{}: {regained} leases lost and regained in place", stage.db.flavor().name());
    for fault in FAULTS {
        let mut of: Vec<u128> =
            took.iter().filter(|(f, _)| *f == fault).map(|(_, t)| t.as_millis()).collect();
        of.sort_unstable();
        // The middle of two is the smaller one: one slow moment of a machine isn't the rule.
        let median = of[(of.len() - 1) / 2];
        eprintln!(
            "{} {} takeover after {fault:?}: n={}, median {} ms, longest {} ms",
            stage.db.flavor().name(),
            common.checkpoint,
            of.len(),
            median,
            of[of.len() - 1]
        );
        let most = if fault == Fault::Stopped { MEDIAN_STOPPED } else { MEDIAN };
        ensure!(
            median < most.as_millis(),
            "half of the takeovers after {fault:?} took {median} ms or more: {of:?}"
        );
    }
    Ok(())
}

/// Ends the connection that has the lease: whether the other one got it.
async fn lease_goes_over(stage: &Stage, hosts: &mut [Host; 2], active: usize) -> Result<bool> {
    let mut conn = stage.db.connect().await?;
    let question = format!("SELECT IS_USED_LOCK('{}')", lease::name(&hosts[0].config()?));
    let holder = async |conn: &mut mysql_async::Conn| -> Result<Option<u64>> {
        Ok(conn.query_first::<Option<u64>, _>(question.as_str()).await?.flatten())
    };
    let old = holder(&mut conn).await?.context("nobody has the lease")?;
    let regained = hosts[active].logs().matches("lease regained").count();
    conn.query_drop(format!("KILL {old}")).await?;
    until("the lease is somebody's", WITHIN, async || {
        let here = hosts[active].logs().matches("lease regained").count() > regained;
        let there = hosts[1 - active].status().await.is_some_and(|s| s["state"] == "active");
        Ok(if here || there { Seen::Done(there) } else { Seen::NotYet("neither".into()) })
    })
    .await
}

/// The fence alone, without the lease: somebody takes the record over while a daemon is active.
async fn taken_over_under_its_hands(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "fenced").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let common = Common::named("fenced");
    let mut a = Host::new(&stage, "a", &common).await?;
    a.first_position()?;
    a.launch()?;
    a.active(WITHIN).await?;
    let load = stage.load(plan(seed("taken_over_under_its_hands")));
    let mut snapshots = Vec::new();
    for time in 1..=3 {
        let (store, found) = Store::take(&a.config()?, 0, false).await?;
        let found = found.map(|(saved, _)| saved);
        ensure!(found.is_some(), "no position");
        a.metric_at_least(telemetry::CHECKPOINT_FENCED, f64::from(time), WITHIN).await?;
        a.active(WITHIN).await?;
        // Now it is this one whose number is old.
        let saved = found.unwrap_or_else(|| unreachable!());
        let late = store.save(saved).await;
        ensure!(matches!(&late, Err(CheckpointError::Fenced { .. })), "a late save went through: {late:?}");
        snapshots.push(a.snapshot(&stage, format!("taken over {time}")).await?);
    }
    ensure!(a.daemon()?.metric(telemetry::TAKEOVERS).await? >= 4.0, "not counted");
    let history = load.stop().await?;
    a.quiet(&stage).await?;
    snapshots.push(a.snapshot(&stage, "end").await?);
    let checked = stage.judge(&history, &snapshots, PRODUCTS, HOT).await?;
    ensure!(checked.behind_checkpoints > 0, "void: {checked:?}");
    Ok(())
}

/// What a host owes on its own disk holds the shared checkpoint: whoever takes over repeats it.
async fn disk_of_a_dead_host(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "dead_disk").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let common = Common::named("dead");
    let [mut a, mut b] = two(&stage, &common).await?;
    let (_, said, _) = a.cli(&["check"])?;
    ensure!(said.contains("waits while that holds anything"), "{said}");
    a.first_position()?;
    start([&mut a, &mut b]).await?;
    let load = stage.load(plan(seed("disk_of_a_dead_host")));
    a.redis.cut().await;
    a.daemon()?.metric_at_least(telemetry::KEYS_QUEUED, 100.0, WITHIN).await?;
    until("the checkpoint is held", WITHIN, async || {
        let status = a.status().await.unwrap_or_default();
        Ok(Seen::check(status["checkpoint"]["held_by_queue"] == true, || status.to_string()))
    })
    .await?;
    let before = a.snapshot(&stage, "held").await?;
    ensure!(a.daemon()?.kill9()?, "it had ended");
    let dead = b.snapshot(&stage, "a is dead").await?;
    ensure!(
        (&before.checkpoint.file, before.checkpoint.position)
            == (&dead.checkpoint.file, dead.checkpoint.position),
        "the checkpoint passed what only this host's disk owes"
    );
    b.active(TAKES_OVER_WITHIN).await?;
    let history = load.stop().await?;
    b.quiet(&stage).await?;
    let end = b.snapshot(&stage, "end").await?;
    stage.judge(&history, &[before, dead, end], PRODUCTS, HOT).await?;
    Ok(())
}

/// Rows from before an ALTER are read by another host after it: their columns' names travel with the checkpoint.
async fn schema_travels(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    // The binlog doesn't name the columns.
    let without_names = match flavor {
        Flavor::MariaDb => "--binlog-row-metadata=NO_LOG",
        Flavor::MySql => "--binlog-row-metadata=MINIMAL",
    };
    let stage = Stage::on(Arc::new(Db::start(flavor, &[without_names]).await?), "travels").await?;
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            "CREATE DATABASE travels",
            "CREATE TABLE travels.t (id INT PRIMARY KEY, a INT, b INT)",
            "INSERT INTO travels.t VALUES (1, 11, 12)",
            // It asks for the columns' names.
            "GRANT SELECT ON travels.* TO 'rowbust'@'127.0.0.1'",
        ],
    )
    .await?;
    let common = Common {
        mappings: Some("\n  - table: travels.t\n    keys: [\"a:{a}\", \"b:{b}\"]\n".into()),
        ..Common::named("travels")
    };
    let [mut a, mut b] = two(&stage, &common).await?;
    a.first_position()?;
    a.launch()?;
    a.active(WITHIN).await?;
    // Now the table is known, and read up to here.
    run(&mut conn, &["UPDATE travels.t SET a=21"]).await?;
    a.quiet(&stage).await?;
    ensure!(a.daemon()?.kill9()?, "it had ended");
    run(
        &mut conn,
        &[
            "UPDATE travels.t SET a=31, b=32",
            // Now the second column is another one.
            "ALTER TABLE travels.t CHANGE a c INT, CHANGE b a INT, ADD COLUMN b INT",
            "UPDATE travels.t SET a=42, b=43",
        ],
    )
    .await?;
    let from = stage.removals.total();
    b.launch()?;
    b.active(WITHIN).await?;
    b.quiet(&stage).await?;
    let removed = stage.removals.since(from);
    for key in ["a:21", "a:31", "b:12", "b:32", "a:32", "a:42", "b:43"] {
        ensure!(removed.contains_key(key), "{key} isn't removed: {removed:?}\n{}", b.logs());
    }
    ensure!(
        !removed.contains_key("a:12") && !removed.contains_key("b:31"),
        "under names of later: {removed:?}"
    );
    Ok(())
}

/// A restart of the source takes the lease from everybody; the one that was active goes on in its place or in a new turn.
async fn source_restarted(flavor: Flavor) -> Result<()> {
    let Some(stage) = stage_of_its_own(flavor, "restarted").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let common = Common::in_redis();
    let mut hosts = two(&stage, &common).await?;
    hosts[0].first_position()?;
    start(hosts.each_mut()).await?;
    let load = stage.load(plan(seed("source_restarted")));
    for _ in 0..2 {
        let goal = load.transactions() + 50;
        until("the load", WITHIN, async || Ok(Seen::check(load.transactions() > goal, String::new))).await?;
        tokio::task::block_in_place(|| stage.db.stop().and_then(|()| stage.db.start_again()))?;
        until("one is active, one stands by", WITHIN, async || {
            let states = [hosts[0].status().await, hosts[1].status().await];
            let mut names: Vec<_> =
                states.iter().flatten().map(|s| format!("{} {}", s["state"], s["ready"])).collect();
            names.sort();
            Ok(Seen::check(names == ["\"active\" true", "\"standby\" false"], || format!("{names:?}")))
        })
        .await?;
    }
    let history = load.stop().await?;
    let mut active = None;
    for host in &mut hosts {
        if host.status().await.is_some_and(|s| s["state"] == "active") {
            active = Some(host);
        }
    }
    let Some(active) = active else { anyhow::bail!("nobody is active") };
    active.quiet(&stage).await?;
    let end = active.snapshot(&stage, "end").await?;
    stage.judge(&history, &[end], PRODUCTS, HOT).await?;
    wait_for_log(active, "lease", WITHIN).await?;
    Ok(())
}

/// Without a shared checkpoint: a second daemon on the same file waits as well, and does not clash.
async fn one_file_on_one_host(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "one_file").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let dir = stage.dir().display();
    let common = Common {
        checkpoint: format!("{{ path: {dir}/both/checkpoint }}"),
        retry: Some(format!("{{ disk: {{ path: {dir}/both/retry }}, delay: 1s }}")),
        ..Common::in_redis()
    };
    let mut hosts = two(&stage, &common).await?;
    start(hosts.each_mut()).await?;
    let load = stage.load(plan(seed("one_file_on_one_host")));
    let mut snapshots = Vec::new();
    for turn in 0..4 {
        let goal = load.transactions() + 50;
        until("the load", WITHIN, async || Ok(Seen::check(load.transactions() > goal, String::new))).await?;
        let (active, other) = (turn % 2, 1 - turn % 2);
        ensure!(hosts[active].daemon()?.kill9()?, "it had ended");
        hosts[other].active(TAKES_OVER_WITHIN).await?;
        snapshots.push(hosts[other].snapshot(&stage, format!("kill {turn}")).await?);
        hosts[active].launch()?;
        hosts[active].stands_by(WITHIN).await?;
    }
    let history = load.stop().await?;
    hosts[0].quiet(&stage).await?;
    stage.judge(&history, &snapshots, PRODUCTS, HOT).await?;
    Ok(())
}
