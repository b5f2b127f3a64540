//! Rows around and above 16 MiB, where a packet of the protocol ends, and binlog files above 4 GiB, where a position does.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_binlog::{FileEvents, event_type as t};
use rowbust_integration_tests::db::{Db, Server};
use rowbust_integration_tests::matrix::{self, ALL, cases::Case};
use rowbust_integration_tests::wait::{Seen, until};

const CASES: &[Case] = &[Case {
    name: "large",
    on: ALL,
    table: "id INT PRIMARY KEY, v LONGBLOB) ENGINE=MyISAM",
    key: "{id}",
    before: &[],
    run: &[],
    keys: &[],
    also: &[],
}];

/// Sizes of the row events in the newest file, in order.
fn row_events(db: &Db) -> Result<Vec<u64>> {
    let file = db.binlogs()?.pop().context("no binlog")?;
    let mut sizes = Vec::new();
    for event in FileEvents::new(&fs::read(file)?)? {
        let header = event?.header;
        if matches!(header.event_type, t::WRITE_ROWS_V1 | t::WRITE_ROWS_V2) {
            sizes.push(header.event_size.into());
        }
    }
    Ok(sizes)
}

async fn around_16_mib(server: Server) -> Result<()> {
    let Some(stage) = matrix::stage(server, "large", &[], CASES, &[]).await? else { return Ok(()) };
    let mut conn = matrix::prepare(&stage).await?;
    conn.query_drop("SET GLOBAL max_allowed_packet=1073741824").await?;
    conn.disconnect().await?;
    let mut conn = stage.sql().await?;
    conn.query_drop(format!("CREATE TABLE large ({}", CASES[0].table)).await?;
    let daemon = stage.start().await?;
    // How many bytes an event has beside its value.
    conn.query_drop("INSERT INTO large VALUES (1,repeat('a',1000000))").await?;
    let more = row_events(&stage.db)?.last().context("no row event")? - 1_000_000;
    // A packet holds one byte of status and the event.
    let full: u64 = (1 << 24) - 1;
    let sizes = [full - 2, full - 1, full, full + 1, 2 * full - 1, 40 << 20];
    for (id, size) in (2..).zip(sizes) {
        conn.query_drop(format!("INSERT INTO large VALUES ({id},repeat('b',{}))", size - more)).await?;
    }
    ensure!(row_events(&stage.db)?[1..] == sizes, "{:?}", row_events(&stage.db)?);
    conn.query_drop("UPDATE large SET id=id+100 WHERE id=7").await?;
    stage.quiet(&daemon).await?;
    let mut keys: Vec<String> = stage.removals.since(0).into_keys().collect();
    keys.sort();
    let expected = ["large:1", "large:107", "large:2", "large:3", "large:4", "large:5", "large:6", "large:7"];
    ensure!(keys == expected, "{keys:?}\n{}", daemon.log_tail());
    conn.query_drop("FLUSH BINARY LOGS").await?;
    let compared = matrix::compare(&stage.db)?;
    ensure!(compared.rows == 9, "with the fence's: {compared:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_16_mib_mariadb_10_11() -> Result<()> {
    around_16_mib(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_16_mib_mariadb_11_8() -> Result<()> {
    around_16_mib(Server::MariaDb118).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_16_mib_mysql_9_7() -> Result<()> {
    around_16_mib(Server::MySql).await
}

const RESUME_WITHIN: Duration = Duration::from_secs(30);
const RELEASED_WITHIN: Duration = Duration::from_secs(300);

/// One transaction of 4.6 GB, which no file rotation cuts. By hand: it needs 14 GB of disk for a minute or two.
async fn above_4_gib(server: Server) -> Result<()> {
    let args = ["--max-binlog-cache-size=8G", "--max-allowed-packet=1G", "--max-binlog-stmt-cache-size=8G"];
    let Some(stage) = matrix::stage(server, "above", &args, CASES, &[]).await? else { return Ok(()) };
    let mut conn = matrix::prepare(&stage).await?;
    conn.query_drop("CREATE TABLE large (id INT PRIMARY KEY, v LONGBLOB)").await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    let mut daemon = stage.start().await?;
    conn.query_drop("BEGIN").await?;
    for id in 0..23 {
        conn.query_drop(format!("INSERT INTO large VALUES ({id},repeat('x',100000000))")).await?;
        // The table stays small; the log doesn't.
        conn.query_drop("UPDATE large SET v=''").await?;
    }
    conn.query_drop("COMMIT").await?;
    // The file ends behind it, and nothing follows: the place stays above 4 GiB.
    let reached = until("the checkpoint behind it", RELEASED_WITHIN, async || {
        let at = daemon.status().await?["checkpoint"]["position"].as_u64().unwrap_or(0);
        Ok(Seen::check(at > 1 << 32, || at.to_string()))
    });
    reached.await.map_err(|e| daemon.explain(&e))?;
    stage.fence()?;
    let keys = |since| {
        let removals = stage.removals.since(since);
        removals.into_keys().filter(|k| k.starts_with("large:")).count()
    };
    ensure!(keys(0) == 23, "{} keys\n{}", keys(0), daemon.log_tail());
    ensure!(!daemon.log_text().contains("reconnecting"), "{}", daemon.log_tail());
    ensure!(daemon.sigterm(RESUME_WITHIN).await?.success(), "{}", daemon.log_tail());
    let before = stage.checkpoint()?;
    ensure!(before.position > 1 << 32, "void: {before:?}");
    // Resumed there, it goes on.
    let resumed = stage.removals.total();
    let daemon = stage.start().await?;
    conn.query_drop("INSERT INTO large VALUES (100,'')").await?;
    stage.quiet(&daemon).await.map_err(|e| daemon.explain(&e))?;
    let after = stage.checkpoint()?;
    ensure!((&after.file, after.position) > (&before.file, before.position), "{before:?} {after:?}");
    ensure!(keys(resumed) == 1, "{} keys\n{}", keys(resumed), daemon.log_tail());
    ensure!(daemon.metric("rowbust_gaps_total").await? == 0.0, "{}", daemon.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "14 GB of disk, minutes"]
async fn above_4_gib_mariadb_10_11() -> Result<()> {
    above_4_gib(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "14 GB of disk, minutes"]
async fn above_4_gib_mariadb_11_8() -> Result<()> {
    above_4_gib(Server::MariaDb118).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "14 GB of disk, minutes"]
async fn above_4_gib_mysql_9_7() -> Result<()> {
    above_4_gib(Server::MySql).await
}
