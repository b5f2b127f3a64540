//! The checkpoint in Kafka on a broker that gives no right that wasn't granted: `check --live` names what is missing, and what
//! docs/high-availability.md lists suffices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rowbust::telemetry;
use rowbust_integration_tests::broker::Broker;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::hosts::{Common, Host};
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, Resource, Right, require};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);
const TOPIC: &str = "ha.checkpoint";
const ID: &str = "ha.checkpoint.shop";

/// The lines about the checkpoint: mark and text.
fn lines(host: &Host) -> Result<Vec<(String, String)>> {
    let (_, out, err) = tokio::task::block_in_place(|| host.cli(&["check", "--live", "--json"]))?;
    let report: Value = serde_json::from_str(&out).with_context(|| format!("{out}{err}"))?;
    let groups = report["groups"].as_array().context("no groups")?;
    let lines = groups.iter().filter_map(|group| group["lines"].as_array()).flatten();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    Ok(lines
        .filter(|line| line["code"] == "machine.checkpoint")
        .map(|line| (text(line, "mark"), format!("{} -> {}", text(line, "text"), text(line, "help"))))
        .collect())
}

/// The rights that are said to be missing are these, a moment after the last was granted.
async fn missing(host: &Host, wanted: &[&str]) -> Result<()> {
    until("these rights are missing, and no other", WITHIN, async || {
        let lines = lines(host)?;
        let named: Vec<&str> = lines
            .iter()
            .filter(|(mark, text)| mark == "error" && text.starts_with("no "))
            .map(|(_, text)| text.as_str())
            .collect();
        let is = |right: &str| named.iter().any(|text| text.starts_with(&format!("no {right}: ")));
        let helps = named.iter().all(|text| text.contains("-> grant "));
        let done = named.len() == wanted.len() && wanted.iter().all(|right| is(right)) && helps;
        Ok(Seen::check(done, || format!("wanted {wanted:?}, found {lines:#?}")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_checkpoint() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(stage) = Stage::new(Flavor::MariaDb, "rights").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let broker = Broker::start(None).await?;
    let common = Common {
        checkpoint: format!("{{ {}, name: shop }}", broker.config("ha")),
        source: String::new(),
        ..Common::in_redis()
    };
    let mut host = Host::new(&stage, "a", &common).await?;
    let allow = |resource, rights: &[Right]| broker.kafka.allow("alice", resource, rights);
    let [describe, read, write, create] =
        ["DESCRIBE", "READ", "WRITE", "CREATE"].map(|right| format!("{right} on the topic {TOPIC}"));
    let id = format!("WRITE on the transactional id {ID}");

    // One after the other, before the topic is there and after.
    missing(&host, &[&describe, &id]).await?;
    allow(Resource::Topic(TOPIC), &[Right::Describe])?;
    missing(&host, &[&create, &id]).await?;
    allow(Resource::Topic(TOPIC), &[Right::Create])?;
    missing(&host, &[&id]).await?;
    allow(Resource::TransactionalId(ID), &[Right::Write])?;
    missing(&host, &[]).await?;
    let admin: AdminClient<DefaultClientContext> = broker.master()?.create()?;
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    let made = admin.create_topics([&topic], &AdminOptions::new()).await?;
    ensure!(made.iter().all(Result::is_ok), "{made:?}");
    missing(&host, &[&read, &write]).await?;
    // A start says what is missing too, and doesn't take a topic that it may not read for an empty one.
    let status = host.launch()?.exited(WITHIN).await?;
    let said = host.daemon()?.log_text();
    ensure!(status.code() == Some(69), "{status}: {said}");
    ensure!(said.contains(&format!("grant READ, WRITE and DESCRIBE on the topic {TOPIC}")), "{said}");
    allow(Resource::Topic(TOPIC), &[Right::Write])?;
    missing(&host, &[&read]).await?;
    allow(Resource::Topic(TOPIC), &[Right::Read])?;
    missing(&host, &[]).await?;

    // They suffice; and the questions disturb no daemon that is active.
    host.first_position()?;
    host.launch()?;
    host.active(WITHIN).await?;
    let before = host.checkpoint().await?;
    let mut conn = stage.sql().await?;
    for ver in [100_001, 100_002] {
        missing(&host, &[]).await?;
        run(&mut conn, &[&format!("UPDATE products SET ver={ver} WHERE id=1")]).await?;
        host.quiet(&stage).await?;
    }
    let after = host.checkpoint().await?;
    ensure!(after.position > before.position && after.fence == before.fence, "{before:?}, {after:?}");
    let daemon = host.daemon()?;
    ensure!(daemon.metric(telemetry::CHECKPOINT_FENCED).await? == 0.0, "{}", daemon.log_tail());
    ensure!(daemon.metric(telemetry::CHECKPOINT_FAILURES).await? == 0.0, "{}", daemon.log_tail());
    Ok(())
}
