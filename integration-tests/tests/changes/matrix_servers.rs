//! Formats and faults that need a server set up for them, or shut down on the way.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust::checkpoint::file::Saved;
use rowbust_binlog::{FileEvents, event_type};
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::Server;
use rowbust_integration_tests::differential::{self, Compared};
use rowbust_integration_tests::matrix::columns::{COLUMNS, ColumnCase};
use rowbust_integration_tests::matrix::{self, ALL, cases::Case};
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;

const fn rows(name: &'static str, on: &'static [Server]) -> Case {
    Case {
        name,
        on,
        table: "id INT PRIMARY KEY, v LONGTEXT",
        key: "{id}",
        before: &[],
        run: &[],
        keys: &[],
        also: &[],
    }
}

/// A stage on a server of its own with one mapped table, `rows`, and the daemon on it.
async fn follow(server: Server, name: &str, args: &[&str]) -> Result<Option<(Stage, Daemon)>> {
    follow_with(server, name, args, "").await
}

/// With this line in `source:`.
async fn follow_with(
    server: Server,
    name: &str,
    args: &[&str],
    source: &str,
) -> Result<Option<(Stage, Daemon)>> {
    let cases = [rows("rows", ALL)];
    let Some(mut stage) = matrix::stage(server, name, args, &cases, &[]).await? else { return Ok(None) };
    stage.settings.source = source.into();
    let mut conn = matrix::prepare(&stage).await?;
    conn.query_drop(format!("CREATE TABLE `rows` ({})", cases[0].table)).await?;
    conn.disconnect().await?;
    let daemon = stage.start().await?;
    Ok(Some((stage, daemon)))
}

/// All that was removed of `rows:`, sorted as text.
fn removed(stage: &Stage) -> Vec<String> {
    let mut keys: Vec<String> = stage
        .removals
        .since(0)
        .into_keys()
        .filter_map(|k| Some(k.strip_prefix("rows:")?.to_owned()))
        .collect();
    keys.sort();
    keys
}

/// `encrypt_binlog=ON`: the wire is plain, the file is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_binlog() -> Result<()> {
    let Some(found) = rowbust_servers::require(&[Server::MariaDb118.need()]) else { return Ok(()) };
    let programs = found.mariadb118.context("no MariaDB 11.8")?;
    if programs.plugin("file_key_management").is_none() {
        eprintln!("skipped: no plugin file_key_management");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let keys = dir.path().join("keys");
    fs::write(&keys, "1;a7addd9adea9978fda19f21e6be987880e68ac92632ca052e5bb42b1a506939a\n")?;
    let file = format!("--file-key-management-filename={}", keys.display());
    let args = ["--plugin-load-add=file_key_management", &file, "--encrypt-binlog=ON"];
    let Some((stage, daemon)) = follow(Server::MariaDb118, "encrypted", &args).await? else { return Ok(()) };
    let mut conn = stage.sql().await?;
    conn.query_drop("INSERT INTO `rows` VALUES (1,'secret'),(2,'secret')").await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    conn.query_drop("UPDATE `rows` SET id=3 WHERE id=2").await?;
    stage.quiet(&daemon).await?;
    ensure!(removed(&stage) == ["1", "2", "3"], "{:?}\n{}", removed(&stage), daemon.log_tail());

    // The file names the cipher in plain text and is refused there, at its second event.
    let files = stage.db.binlogs()?;
    let bytes = fs::read(&files[0])?;
    ensure!(!bytes.windows(6).any(|w| w == b"secret"), "the file isn't encrypted");
    let mut events = FileEvents::new(&bytes)?;
    events.next().context("no event")??;
    let errors: Vec<String> = events.filter_map(|e| e.err()).map(|e| e.to_string()).collect();
    ensure!(errors.len() == 1 && errors[0].contains("encrypted"), "{errors:?}");

    // What the dump thread sends of it, as others decode it.
    let plain = dir.path().join("plain-");
    let out = std::process::Command::new(&programs.binlog)
        .args(["--no-defaults", "--raw", "--read-from-remote-server", "--to-last-log"])
        .args(["--host=127.0.0.1", "--user=root", &format!("--port={}", stage.db.port())])
        .arg(format!("--result-file={}", plain.display()))
        .arg(files[0].file_name().context("no name")?)
        .output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut compared = Compared::default();
    for file in &files {
        let copy =
            dir.path().join(format!("plain-{}", file.file_name().context("no name")?.to_string_lossy()));
        let mut bytes = fs::read(&copy)?;
        // The event that names the cipher is sent too, and the copy isn't encrypted.
        let at = 4 + u32::from_le_bytes([bytes[13], bytes[14], bytes[15], bytes[16]]) as usize;
        ensure!(bytes[at + 4] == event_type::MARIA_START_ENCRYPTION, "type {}", bytes[at + 4]);
        let size = u32::from_le_bytes([bytes[at + 9], bytes[at + 10], bytes[at + 11], bytes[at + 12]]);
        bytes.drain(at..at + usize::try_from(size)?);
        fs::write(&copy, bytes)?;
        compared.add(differential::compare_any(&programs.binlog, &copy)?);
    }
    ensure!(compared.rows == 4, "with the fence's: {compared:?}");
    Ok(())
}

/// A transaction above `binlog_large_commit_threshold` becomes a file of its own, with a GTID event filled up to a page; in it,
/// as in every transaction of MariaDB 11.8, the rows' `end_log_pos` is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commit_without_positions() -> Result<()> {
    let Some((stage, mut daemon)) = follow(Server::MariaDb118, "largecommit", &[]).await? else {
        return Ok(());
    };
    let mut conn = stage.sql().await?;
    for sql in [
        "SET GLOBAL binlog_large_commit_threshold=10485760",
        "BEGIN",
        "INSERT INTO `rows` VALUES (1,repeat('a',6000000)),(2,repeat('b',6000000))",
        "COMMIT",
        "INSERT INTO `rows` VALUES (3,'a')",
    ] {
        conn.query_drop(sql).await.with_context(|| sql)?;
    }
    stage.quiet(&daemon).await?;
    ensure!(removed(&stage) == ["1", "2", "3"], "{:?}\n{}", removed(&stage), daemon.log_tail());
    // The checkpoint's place is one to go on from.
    daemon.sigterm(Duration::from_secs(30)).await?;
    conn.query_drop("INSERT INTO `rows` VALUES (4,'a')").await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(removed(&stage) == ["1", "2", "3", "4"], "{:?}\n{}", removed(&stage), daemon.log_tail());

    conn.query_drop("FLUSH BINARY LOGS").await?;
    let compared = matrix::compare(&stage.db)?;
    ensure!(compared.rows == 6, "with the fence's: {compared:?}");
    let mut zero = 0;
    for file in stage.db.binlogs()? {
        for event in FileEvents::new(&fs::read(file)?)? {
            zero += u32::from(event?.header.log_pos == 0);
        }
    }
    ensure!(zero >= 4, "events without a position: {zero}");
    Ok(())
}

/// The server is killed while it writes a transaction to the binlog. What is left of it in the file is no transaction.
async fn killed_in_mid_transaction(server: Server, name: &str) -> Result<()> {
    let Some((stage, daemon)) = follow(
        server,
        name,
        &["--max-binlog-cache-size=4G", "--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1"],
    )
    .await?
    else {
        return Ok(());
    };
    let mut conn = stage.sql().await?;
    conn.query_drop("INSERT INTO `rows` VALUES (1,'before')").await?;
    conn.query_drop("BEGIN").await?;
    // Less than the `binlog_large_commit_threshold` of MariaDB 11.8, by default 128 MiB.
    for id in 100..125 {
        conn.query_drop(format!("INSERT INTO `rows` VALUES ({id},repeat('x',4000000))")).await?;
    }
    let file = stage.db.binlogs()?.pop().context("no binlog")?;
    let before = fs::metadata(&file)?.len();
    let commit = tokio::spawn(async move { conn.query_drop("COMMIT").await });
    // Polled without a pause: the server takes some tenths of a second to write 100 MB.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while fs::metadata(&file)?.len() < before + 8_000_000 {
        ensure!(std::time::Instant::now() < deadline, "the server writes nothing");
        tokio::task::yield_now().await;
    }
    stage.db.kill9()?;
    let committed = commit.await?.is_ok();
    let left = fs::metadata(&file)?.len();
    eprintln!("{server:?}: {} bytes of the transaction in the file; committed: {committed}", left - before);
    ensure!(!committed, "void: the server was faster than its end");
    stage.db.start_again()?;
    let mut conn = stage.sql().await?;
    conn.query_drop("INSERT INTO `rows` VALUES (2,'after')").await?;
    let there: u64 =
        conn.query_first("SELECT count(*) FROM `rows` WHERE id>=100").await?.context("no count")?;
    stage.quiet(&daemon).await.map_err(|e| daemon.explain(&e))?;
    let keys = removed(&stage);
    ensure!(keys.contains(&"1".into()) && keys.contains(&"2".into()), "{keys:?}");
    // Recovery may commit what was prepared and whole in the binlog, or undo it.
    let big = keys.iter().filter(|k| k.len() == 3).count();
    ensure!(there == 0 || big == 25, "{there} rows are there, {big} keys were removed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_transaction_mariadb_10_11() -> Result<()> {
    killed_in_mid_transaction(Server::MariaDb, "killed").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_transaction_mariadb_11_8() -> Result<()> {
    killed_in_mid_transaction(Server::MariaDb118, "killed").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_transaction_mysql_9_7() -> Result<()> {
    killed_in_mid_transaction(Server::MySql, "killed").await
}

/// Prepared, the server killed and started again, and only then committed or rolled back.
async fn xa_over_a_restart(server: Server) -> Result<()> {
    let Some((stage, daemon)) = follow_with(server, "xarestart", &[], "lossless: true").await? else {
        return Ok(());
    };
    for (id, name) in [(1, "kept"), (2, "dropped")] {
        let mut conn = stage.sql().await?;
        for sql in [
            format!("XA START '{name}'"),
            format!("INSERT INTO `rows` VALUES ({id},'a')"),
            format!("XA END '{name}'"),
            format!("XA PREPARE '{name}'"),
        ] {
            conn.query_drop(&sql).await.with_context(|| sql.clone())?;
        }
    }
    stage.db.kill9()?;
    stage.db.start_again()?;
    let mut conn = stage.sql().await?;
    for sql in ["INSERT INTO `rows` VALUES (3,'a')", "XA COMMIT 'kept'", "XA ROLLBACK 'dropped'"] {
        conn.query_drop(sql).await.with_context(|| sql)?;
    }
    stage.quiet(&daemon).await?;
    let keys = removed(&stage);
    ensure!(keys.contains(&"1".into()) && keys.contains(&"3".into()), "{keys:?}\n{}", daemon.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xa_over_a_restart_mariadb_10_11() -> Result<()> {
    xa_over_a_restart(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xa_over_a_restart_mariadb_11_8() -> Result<()> {
    xa_over_a_restart(Server::MariaDb118).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xa_over_a_restart_mysql_9_7() -> Result<()> {
    xa_over_a_restart(Server::MySql).await
}

/// DML that a session logs as a statement: the daemon stops there, or removes every key, as the config says.
async fn logged_as_statement(server: Server) -> Result<()> {
    let change = [
        "INSERT INTO `rows` VALUES (1,'a')",
        "SET SESSION binlog_format=STATEMENT",
        "UPDATE `rows` SET v='b'",
        "SET SESSION binlog_format=ROW",
        "INSERT INTO `rows` VALUES (2,'a')",
    ];
    let Some((stage, mut daemon)) = follow(server, "statement", &[]).await? else { return Ok(()) };
    let mut conn = stage.sql().await?;
    for sql in change {
        conn.query_drop(sql).await.with_context(|| sql)?;
    }
    matrix::halted(&mut daemon, &["binlog.0", "statement"]).await?;
    stage.fence()?;
    ensure!(!removed(&stage).contains(&"2".into()), "it went on: {:?}", removed(&stage));
    drop(stage);

    let Some((stage, daemon)) = follow_with(server, "statement", &[], "on_statement: flush").await? else {
        return Ok(());
    };
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut keys = redis::pipe();
    for id in 1..=100 {
        keys.set(format!("rows:{id}"), 1).set(format!("other:{id}"), 1);
    }
    keys.exec_async(&mut cache).await?;
    let mut conn = stage.sql().await?;
    for sql in change {
        conn.query_drop(sql).await.with_context(|| sql)?;
    }
    stage.quiet(&daemon).await?;
    let (others, left): (Vec<String>, Vec<String>) =
        shop::cached(&mut cache).await?.into_iter().partition(|key| key.starts_with("other:"));
    ensure!(left.is_empty(), "{left:?}\n{}", daemon.log_tail());
    ensure!(others.len() == 100, "{} of the others are left", others.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logged_as_statement_mariadb_10_11() -> Result<()> {
    logged_as_statement(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logged_as_statement_mariadb_11_8() -> Result<()> {
    logged_as_statement(Server::MariaDb118).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logged_as_statement_mysql_9_7() -> Result<()> {
    logged_as_statement(Server::MySql).await
}

/// A quiet server's heartbeats are read, of both kinds, and are no event that moves anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats() -> Result<()> {
    for server in Server::ALL {
        let Some((stage, daemon)) = follow(server, "heartbeats", &[]).await? else { continue };
        stage.quiet(&daemon).await?;
        // A mark may be published meanwhile, and that is saved; nothing else may change.
        let saved = || {
            let published = BTreeMap::new();
            anyhow::Ok(Saved { generation: 0, saved_at: 0, published, ..stage.checkpoint()? })
        };
        let before = saved()?;
        daemon.metric_at_least("rowbust_source_heartbeats_total", 2.0, Duration::from_secs(20)).await?;
        let now = saved()?;
        ensure!(now == before, "a heartbeat changed the checkpoint: {before:?}, {now:?}");
        let mut conn = stage.sql().await?;
        conn.query_drop("INSERT INTO `rows` VALUES (1,'a')").await?;
        stage.quiet(&daemon).await?;
        ensure!(removed(&stage) == ["1"], "{:?}", removed(&stage));
    }
    Ok(())
}

/// `mysql56_temporal_format=OFF`: the types of before MySQL 5.6. Without fractions they are followed exactly; with them not even the
/// length of a value is in the binlog, and every key of the table goes, by `on_schema`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_temporal_types() -> Result<()> {
    for server in matrix::MARIA {
        let old = ["time", "datetime", "timestamp"];
        let columns: Vec<ColumnCase> = COLUMNS.iter().filter(|c| old.contains(&c.name)).copied().collect();
        ensure!(columns.len() == old.len());
        let args = ["--mysql56-temporal-format=OFF"];
        let Some(mut stage) = matrix::stage(*server, "old_times", &args, &[], &columns).await? else {
            return Ok(());
        };
        let compared = matrix::run(&stage, *server, &[], &columns).await?;
        ensure!(compared.rows > 10, "{compared:?}");

        stage.settings.mappings = Some(
            ["TIME(3)", "DATETIME(6)", "TIMESTAMP(2) NULL"]
                .iter()
                .enumerate()
                .map(|(n, _)| {
                    format!(
                        "\n  - table: old_times.f{n}\n    fill_grace: 0ms\n    on_schema: flush\n    keys: [\"f{n}:{{id}}\"]\n"
                    )
                })
                .collect(),
        );
        let mut conn = stage.sql().await?;
        for (n, kind) in ["TIME(3)", "DATETIME(6)", "TIMESTAMP(2) NULL"].iter().enumerate() {
            conn.query_drop(format!("CREATE TABLE f{n} (id INT PRIMARY KEY, v {kind}, tail INT)")).await?;
        }
        let daemon = stage.start().await?;
        let mut cache = shop::redis(stage.redis.port()).await?;
        for (n, value) in
            ["'-12:34:56.789'", "'2024-02-29 12:34:56.789012'", "'2024-02-29 12:34:56.78'"].iter().enumerate()
        {
            for key in [format!("f{n}:1"), format!("f{n}:77"), format!("g{n}:1")] {
                redis::cmd("SET").arg(key).arg("old").exec_async(&mut cache).await?;
            }
            let from = daemon.metric("rowbust_widened_total").await?;
            conn.query_drop(format!("INSERT INTO f{n} VALUES (1, {value}, 5), (2, NULL, 6)")).await?;
            stage.quiet(&daemon).await?;
            let left: Vec<String> =
                redis::cmd("KEYS").arg(format!("[fg]{n}:*")).query_async(&mut cache).await?;
            ensure!(left == [format!("g{n}:1")], "{value}: {left:?}\n{}", daemon.log_tail());
            ensure!(daemon.metric("rowbust_widened_total").await? > from, "{}", daemon.log_tail());
        }
    }
    Ok(())
}
