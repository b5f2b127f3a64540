//! What can happen to a broker, under a whole daemon whose Redis is away: nothing is lost, it is said, and it heals without care.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rowbust::telemetry;
use rowbust_integration_tests::broker::Broker;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::disk::Disk;
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

const WITHIN: Duration = Duration::from_secs(60);
/// A broker that was away may need a minute to lead its partitions again: what it asks its controller has such timeouts.
const HEALED_WITHIN: Duration = Duration::from_secs(150);
/// A fault that is there shows within this: the daemon waits for an acknowledgement for 10 s.
const STRUCK_WITHIN: Duration = Duration::from_secs(15);
const PREFIX: &str = "faults";
const PRODUCTS: u64 = 40;
/// What the daemon says when the queue doesn't take removals.
const HELD: &str = "retry queue refuses removals, holding them";

/// A daemon whose Redis is away.
struct Run {
    stage: Stage,
    daemon: Daemon,
    conn: Conn,
    /// Products changed so far: each fault gets its own.
    changed: u64,
    /// Length of the log that was judged already.
    read: usize,
}

impl Run {
    async fn change(&mut self) -> Result<(String, u64)> {
        self.changed += 1;
        let id = self.changed;
        run(&mut self.conn, &[&format!("UPDATE products SET ver={} WHERE id={id}", 1000 + id)]).await?;
        self.stage.db.newest(&mut self.conn).await
    }

    fn saved(&self) -> Result<(String, u64)> {
        let saved = self.stage.checkpoint()?;
        Ok((saved.file, saved.position))
    }

    /// A fault is there: what is committed now is held, and said to be, with one of these words.
    async fn is_held(&mut self, words: &[&str]) -> Result<(String, u64)> {
        let before = self.daemon.metric(telemetry::QUEUE_REFUSED).await?;
        let mut at = self.change().await?;
        // A broker takes on its settings a moment after it said that it has them: what came before that was taken.
        for _ in 0..3 {
            if self
                .daemon
                .metric_at_least(telemetry::QUEUE_REFUSED, before + 1.0, STRUCK_WITHIN)
                .await
                .is_ok()
            {
                break;
            }
            at = self.change().await?;
        }
        self.daemon.metric_at_least(telemetry::QUEUE_REFUSED, before + 1.0, WITHIN).await?;
        let text = self.daemon.log_text();
        let new: Vec<&str> = text[self.read..].lines().filter(|line| line.contains(HELD)).collect();
        ensure!(
            new.iter().any(|line| line.contains("WARN") && words.iter().any(|word| line.contains(word))),
            "none of {words:?} is said: {new:#?}"
        );
        let saved = self.saved()?;
        ensure!(saved < at, "the checkpoint {saved:?} passed {at:?}, which nobody has");
        // It works as far as it can, and shows what it can't.
        ensure!(http::get(self.stage.admin(), "/readyz").await?.0 == 200);
        let status = self.daemon.status().await?;
        ensure!(status["frontier"]["open_segments"].as_u64() > Some(0), "{status}");
        ensure!(status["targets"][0]["breaker"] == "open", "{status}");
        let said = status["log"].as_array().context("no log")?;
        ensure!(said.iter().any(|line| line["message"] == HELD), "{said:?}");
        Ok(at)
    }

    /// The fault is gone: the queue takes what was held, and the checkpoint moves.
    async fn heals(&mut self, held: (String, u64)) -> Result<()> {
        until("the checkpoint passes what was held", HEALED_WITHIN, async || {
            let saved = self.saved()?;
            Ok(Seen::check(saved >= held, || format!("{saved:?}, held {held:?}")))
        })
        .await
        .map_err(|error| self.daemon.explain(&error))?;
        self.read = self.daemon.log_text().len();
        Ok(())
    }
}

/// FAULTS 24: unauthorized, a record that is too large, frozen, its disk full, a rebalance. (Too few replicas take a cluster: a topic of one
/// replica has enough with it, whatever `min.insync.replicas` says.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_held_said_and_healed() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "broker_faults").await? else { return Ok(()) };
    // Its indexes are sparse files of 10 MiB each.
    let disk = Disk::mount("160m")?;
    let data = disk.as_ref().map(|disk| disk.path().join("kafka"));
    let broker = Broker::start(data.as_deref()).await?;
    let kafka = &broker.kafka;
    stage.settings.retry = Some(format!("{{ {}, delay: 1s, attempts: 5 }}", broker.config(PREFIX)));
    stage.open_shop(PRODUCTS).await?;
    // A start needs no broker that lets it in.
    let daemon = stage.start().await?;
    stage.proxy.cut().await;
    let conn = stage.sql().await?;
    let mut run = Run { stage, daemon, conn, changed: 0, read: 0 };

    let held = run.is_held(&["Authorization", "UnknownTopic", "no acknowledgement"]).await?;
    broker.allow_queue(PREFIX)?;
    run.heals(held).await?;

    let topic = format!("{PREFIX}.retry.10s");
    broker.set(&topic, &[("max.message.bytes", "10")]).await?;
    let held = run.is_held(&["MessageSizeTooLarge"]).await?;
    broker.set(&topic, &[]).await?;
    run.heals(held).await?;

    kafka.freeze()?;
    let held = run.is_held(&["no acknowledgement"]).await?;
    kafka.thaw()?;
    run.heals(held).await?;

    if let Some(disk) = &disk {
        disk.fill()?;
        // A broker whose only disk fails ends.
        let held = run.is_held(&["no acknowledgement"]).await?;
        until("the broker ends", WITHIN, async || {
            Ok(Seen::check(!kafka.is_running(), || "it runs".to_owned()))
        })
        .await?;
        disk.make_room()?;
        tokio::task::block_in_place(|| kafka.start_again())?;
        run.heals(held).await?;
    }

    run.stage.proxy.open().await?;
    run.stage.quiet(&run.daemon).await?;
    ensure!(run.stage.stale().await?.is_empty(), "I1\n{}", run.daemon.log_tail());

    // A stranger joins the group and takes a part of the partitions, while the next backlog is worked off.
    run.stage.proxy.cut().await;
    while run.changed < PRODUCTS - 5 {
        run.change().await?;
    }
    let at = run.change().await?;
    run.heals(at).await?;
    let stranger: BaseConsumer = broker
        .master()?
        .set("group.id", format!("{PREFIX}.rowbust"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("enable.auto.commit", "false")
        .create()?;
    stranger.subscribe(&[&topic, &format!("{PREFIX}.retry.5m")])?;
    until("the stranger has partitions", WITHIN, async || {
        tokio::task::block_in_place(|| stranger.poll(Duration::from_millis(50)));
        let has = stranger.assignment()?.count();
        Ok(Seen::check(has > 0, || "none".to_owned()))
    })
    .await?;
    run.stage.proxy.open().await?;
    let Run { stage, daemon, changed, .. } = run;
    until("redis is back", WITHIN, async || {
        tokio::task::block_in_place(|| stranger.poll(Duration::from_millis(50)));
        let status = daemon.status().await?;
        Ok(Seen::check(status["targets"][0]["breaker"] == "closed", || status.to_string()))
    })
    .await?;
    // Half of the partitions are the stranger's, who removes nothing.
    let theirs = stranger.assignment()?.count();
    let owed = daemon.metric(telemetry::QUEUE_PENDING).await?;
    ensure!(
        theirs >= 6 && owed > 0.0,
        "void: the stranger holds nothing up: {theirs} partitions, {owed} owed"
    );
    tokio::task::spawn_blocking(move || drop(stranger)).await?;

    stage.quiet(&daemon).await?;
    let stale = stage.stale().await?;
    ensure!(stale.is_empty(), "I1: {stale:?}\n{}", daemon.log_tail());
    for id in 1..=changed {
        ensure!(!stage.removals.of(&format!("product:{id}")).is_empty(), "product:{id} was never removed");
    }
    let log = daemon.log_text();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("librdkafka: ")).collect();
    ensure!(errors.is_empty(), "{} lines of the library's own, such as {:?}", errors.len(), errors[0]);
    let dead = daemon.metric(telemetry::DEAD_LETTERS).await?;
    ensure!(dead == 0.0, "{dead} dead letters by faults of the broker");
    Ok(())
}
