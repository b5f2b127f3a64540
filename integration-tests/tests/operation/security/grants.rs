//! The database's account: the page's statements suffice, and each is needed.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, Server, USER, run};
use rowbust_integration_tests::stage::Stage;
use rowbust_servers::{Need, require};

use super::{WITHIN, block};

/// The statements of the page for this server, for this test's account and schema.
fn grants(flavor: Flavor, user: &str, schema: &str) -> Result<Vec<String>> {
    let block = block("```sql\n")?;
    let (mysql, mariadb) = block.split_once("-- MariaDB\n").context("no part for MariaDB")?;
    let part = match flavor {
        Flavor::MySql => mysql.trim_start_matches("-- MySQL\n"),
        Flavor::MariaDb => mariadb,
    };
    let statements: Vec<String> = part
        .lines()
        .map(|line| {
            line.trim_end_matches(';')
                .replace("'rowbust'@'%'", &format!("'{user}'@'127.0.0.1'"))
                .replace("shop.*", &format!("{schema}.*"))
        })
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(statements.len() == 3, "{statements:?}");
    Ok(statements)
}

async fn least_privileges(server: Server) -> Result<()> {
    if require(&[server.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let flavor = server.flavor();
    // The binlog tells the least that it can: then the account is asked for the columns.
    let metadata = match flavor {
        Flavor::MySql => "--binlog-row-metadata=MINIMAL",
        Flavor::MariaDb => "--binlog-row-metadata=NO_LOG",
    };
    let db = Arc::new(Db::start(server, &[metadata]).await?);
    let mut stage = Stage::on(db, "least").await?;
    let statements = grants(flavor, USER, "least")?;
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &["CREATE DATABASE least", "USE least", "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))"],
    )
    .await?;
    run(&mut conn, &[&format!("DROP USER '{USER}'@'127.0.0.1'")]).await?;
    run(&mut conn, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    fs::write(stage.dir().join("password"), "choose-one\n")?;
    stage.settings.mappings =
        Some("\n  - table: least.t\n    fill_grace: 50ms\n    keys: [\"app:{name}\"]\n".into());

    // Exactly these: rows, a flush, and going on behind the checkpoint.
    let mut daemon = stage.start().await?;
    let removes = async |conn: &mut Conn, daemon: &Daemon, statement: &str, key: &str| {
        stage.redis.cli(&["SET", key, "old"])?;
        conn.query_drop(statement).await?;
        stage.quiet(daemon).await?;
        let left = stage.redis.cli(&["EXISTS", key])?;
        ensure!(left.trim() == "0", "{statement}: {key} is still there\n{}", daemon.log_tail());
        anyhow::Ok(())
    };
    removes(&mut conn, &daemon, "INSERT INTO t VALUES (1,'a')", "app:a").await?;
    removes(&mut conn, &daemon, "TRUNCATE t", "app:zzz").await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    conn.query_drop("INSERT INTO t VALUES (2,'b')").await?;
    stage.redis.cli(&["SET", "app:b", "old"])?;
    let mut daemon = stage.start().await?;
    removes(&mut conn, &daemon, "INSERT INTO t VALUES (3,'c')", "app:c").await?;
    ensure!(stage.redis.cli(&["EXISTS", "app:b"])?.trim() == "0", "{}", daemon.log_tail());
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());

    // Each one left out: the end names the statement, and after that statement it runs.
    let global = statements.iter().find(|s| s.contains("ON *.*")).context("no global privileges")?;
    let names = global.trim_start_matches("GRANT ").split(" ON ").next().unwrap_or_default();
    let names: Vec<&str> = names.split(", ").collect();
    ensure!(names.len() == 2, "{names:?}");
    for name in names {
        conn.query_drop(format!("REVOKE {name} ON *.* FROM '{USER}'@'127.0.0.1'")).await?;
        let mut daemon = stage.launch("")?;
        let status = daemon.exited(WITHIN).await?;
        let log = daemon.log_text();
        ensure!(status.code() == Some(78), "without {name}: {status}\n{}", daemon.log_tail());
        let statement = log
            .lines()
            .flat_map(|line| line.split("; "))
            .find_map(|part| part.find("GRANT ").map(|at| &part[at..]))
            .and_then(|part| part.split(';').next())
            .with_context(|| format!("without {name}: no statement\n{}", daemon.log_tail()))?;
        ensure!(statement.contains(name), "without {name}: {statement}");
        conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
        let mut daemon = stage.start().await?;
        let insert = format!("REPLACE INTO t VALUES (4,'{}')", name.len());
        removes(&mut conn, &daemon, &insert, &format!("app:{}", name.len())).await?;
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    }

    // The right to see the mapped table's columns: the first row stops it, and says what helps.
    run(
        &mut conn,
        &[
            &format!("REVOKE SELECT ON least.* FROM '{USER}'@'127.0.0.1'"),
            "ALTER TABLE t ADD COLUMN n INT",
            "INSERT INTO t VALUES (9,'d',1)",
        ],
    )
    .await?;
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    let log = daemon.log_text();
    ensure!(status.code() == Some(1), "{status}\n{}", daemon.log_tail());
    for words in ["the account may not see it", "binlog_row_metadata=FULL"] {
        ensure!(log.contains(words), "not `{words}`\n{}", daemon.log_tail());
    }
    stage.redis.cli(&["SET", "app:d", "old"])?;
    conn.query_drop(format!("GRANT SELECT ON least.* TO '{USER}'@'127.0.0.1'")).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.redis.cli(&["EXISTS", "app:d"])?.trim() == "0", "{}", daemon.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_mysql() -> Result<()> {
    least_privileges(Server::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_mariadb() -> Result<()> {
    least_privileges(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_newer_mariadb() -> Result<()> {
    least_privileges(Server::MariaDb118).await
}
