//! The retry queue as the daemon's users see it: rows without a key, keys of another type, dead letters by command.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust::telemetry;
use rowbust_integration_tests::daemon::{Daemon, cli};
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use serde_json::Value;

on_both!(a_row_without_a_key, a_key_of_another_type);

const WITHIN: Duration = Duration::from_secs(40);

/// A command's JSON, while the daemon runs.
fn ask(stage: &Stage, args: &[&str]) -> Result<Value> {
    let config = stage.config()?;
    let config = config.to_str().context("a path")?;
    let out = tokio::task::block_in_place(|| cli([&["--json", "-c", config, "retry"], args].concat()))?;
    ensure!(out.status.success(), "{args:?}: {out:?}");
    Ok(serde_json::from_slice(&out.stdout)?)
}

async fn letters(daemon: &Daemon, wanted: f64) -> Result<()> {
    until("the number of dead letters", WITHIN, async || {
        let now = daemon.metric(telemetry::DEAD_LETTERS_NOW).await?;
        Ok(Seen::check((now - wanted).abs() < 0.1, || format!("{now}, not {wanted}")))
    })
    .await
    .map_err(|e| daemon.explain(&e))
}

/// FAULTS: its coordinates to the dead letters, prefix invalidation.
async fn a_row_without_a_key(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "retry_row").await? else { return Ok(()) };
    stage.settings.source = "on_undecodable: flush".into();
    stage.settings.mappings =
        Some("\n  - table: retry_row.notes\n    keys: [\"note:{name}\", \"all:{id}\"]\n".into());
    let mut conn = stage.db.connect().await?;
    conn.query_drop("CREATE DATABASE IF NOT EXISTS retry_row").await?;
    conn.query_drop("CREATE TABLE retry_row.notes (id INT PRIMARY KEY, name MEDIUMTEXT)").await?;
    let daemon = stage.start().await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    redis::cmd("MSET")
        .arg(&["note:a", "1", "all:7", "1", "control", "1"])
        .query_async::<()>(&mut cache)
        .await?;
    // Longer than a key may be.
    conn.query_drop("INSERT INTO retry_row.notes VALUES (8, REPEAT('x', 70000))").await?;
    letters(&daemon, 1.0).await?;
    stage.quiet(&daemon).await?;
    let left = shop::cached(&mut cache).await?;
    ensure!(left == ["control"], "the table's keys are flushed, and no other: {left:?}");

    let listed = ask(&stage, &["ls", "--dead"])?;
    let row = &listed["records"][0];
    ensure!((&row["op"], &row["table"]) == (&"row".into(), &"retry_row.notes".into()), "{listed}");
    ensure!(row["origin"]["position"].as_u64() > Some(4), "{listed}");
    ensure!(row["origin"]["gtid"].as_str().is_some_and(|gtid| !gtid.is_empty()), "{listed}");
    ensure!(row["reason"].as_str().is_some_and(|why| why.contains("longer than")), "{listed}");
    ensure!(!listed.to_string().contains("xxxx"), "row data is in it");
    // There is nothing to try again.
    ensure!(ask(&stage, &["requeue"])?["requeued"] == 0, "a row can't be requeued");
    let id = row["id"].as_str().context("an id")?;
    ensure!(ask(&stage, &["show", id])?["records"][0]["id"] == id, "it can be shown");
    ensure!(ask(&stage, &["drop", "--id", id, "--dry-run"])?["would"] == 1, "a dry run counts");
    letters(&daemon, 1.0).await?;
    // The same by the file, while no daemon has it.
    let mut daemon = daemon;
    ensure!(daemon.kill9()?);
    ensure!(ask(&stage, &["show", id])?["records"][0]["id"] == id, "it can be shown without a daemon");
    let daemon = stage.start().await?;
    letters(&daemon, 1.0).await?;
    ensure!(ask(&stage, &["drop", "--id", id])?["dropped"] == 1, "it can be dropped");
    letters(&daemon, 0.0).await?;
    let mut daemon = daemon;
    ensure!(daemon.kill9()?);
    ensure!(ask(&stage, &["ls", "--dead"])?["records"] == serde_json::json!([]), "it is gone for good");
    Ok(())
}

/// The mapping says that the key is a cache: what isn't a hash is removed whole.
async fn a_key_of_another_type(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "retry_type").await? else { return Ok(()) };
    stage.open_shop(20).await?;
    let daemon = stage.start().await?;
    let mut conn = stage.db.connect().await?;
    let category: u64 = conn
        .query_first("SELECT category_id FROM retry_type.products WHERE id = 3")
        .await?
        .context("a product")?;
    let key = format!("category:{category}:products");
    let mut cache = shop::redis(stage.redis.port()).await?;
    redis::cmd("DEL").arg(&key).query_async::<()>(&mut cache).await?;
    redis::cmd("SET").arg(&key).arg("no hash").query_async::<()>(&mut cache).await?;
    conn.query_drop("UPDATE retry_type.products SET ver = ver + 1 WHERE id = 3").await?;
    daemon.metric_at_least(telemetry::WRONG_TYPE, 1.0, WITHIN).await?;
    stage.quiet(&daemon).await?;
    let left: bool = redis::cmd("EXISTS").arg(&key).query_async(&mut cache).await?;
    ensure!(!left, "the key is removed whole\n{}", daemon.log_tail());
    letters(&daemon, 0.0).await
}
