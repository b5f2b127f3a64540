//! The server that is followed: each setting, each right, the id, the place.

use std::time::Duration;

use rowbust_integration_tests::on_both;
use rowbust_integration_tests::wait::{Seen, until};

use super::*;

on_both!(settings, rights, ids, places, heartbeat);

const MAPPING: &str = "  - { table: shop.t, keys: [\"t:{id}\"] }\n";

async fn private(flavor: Flavor, args: &[&str]) -> Result<Option<Servers>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let servers = Servers::with(std::sync::Arc::new(Db::start(flavor, args).await?), &[]).await?;
    let mut conn = servers.db.connect().await?;
    schema(&mut conn, "shop", &["CREATE TABLE t (id INT PRIMARY KEY)"]).await?;
    Ok(Some(servers))
}

/// Each setting in its bad form; then what the line says is run.
async fn settings(flavor: Flavor) -> Result<()> {
    let Some(servers) = private(flavor, &[]).await? else { return Ok(()) };
    let site = servers.site(MAPPING)?;
    let mut conn = servers.db.connect().await?;
    let of_both: &[(&str, &str, &str)] = &[
        ("binlog_format='MIXED'", "source.binlog_format", "error"),
        ("binlog_row_image='MINIMAL'", "source.binlog_row_image", "warning"),
        ("binlog_row_metadata='MINIMAL'", "source.binlog_row_metadata", "warning"),
        ("sync_binlog=0", "source.durability", "warning"),
    ];
    let of_mysql: &[(&str, &str, &str)] = &[
        ("binlog_order_commits=OFF", "source.commit_order", "warning"),
        ("binlog_expire_logs_seconds=600", "source.retention", "warning"),
    ];
    let of_mariadb: &[(&str, &str, &str)] =
        &[("binlog_expire_logs_seconds=600", "source.retention", "warning")];
    let of_flavor = if flavor == Flavor::MySql { of_mysql } else { of_mariadb };
    for (bad, code, mark) in of_both.iter().chain(of_flavor) {
        run(&mut conn, &[&format!("SET GLOBAL {bad}")]).await?;
        let checked = site.check()?;
        let line = checked.has(code, mark, "")?;
        ensure!(checked.exit == if *mark == "error" { 78 } else { 0 }, "{bad}: {:#}", checked.value);
        ensure!(site.check_with(&["--strict"])?.exit == 78, "{bad}");
        // What it says to run, up to where words begin.
        let statement = line.help.find("SET GLOBAL").map(|at| &line.help[at..]).context(line.help.clone())?;
        let end = [";", ", also", ", {", " ("].iter().filter_map(|end| statement.find(end)).min();
        run(&mut conn, &[&statement[..end.unwrap_or(statement.len())]]).await?;
        site.check()?.has(code, "ok", "")?;
    }
    if flavor == Flavor::MySql {
        run(&mut conn, &["SET GLOBAL gtid_mode=ON_PERMISSIVE"]).await?;
        let checked = site.check()?;
        checked.has("source.gtid_mode", "error", "ON_PERMISSIVE")?;
        ensure!(checked.exit == 78);
        run(&mut conn, &["SET GLOBAL gtid_mode=ON"]).await?;
        run(&mut conn, &["SET GLOBAL binlog_row_value_options='PARTIAL_JSON'"]).await?;
        site.check()?.has("source.binlog_row_value_options", "ok", "PARTIAL_JSON")?;
        run(&mut conn, &["SET GLOBAL binlog_row_image='NOBLOB'"]).await?;
        site.check()?.has("source.binlog_row_value_options", "warning", "NOBLOB")?;
    }
    drop(conn);
    // Those that need a restart.
    let restart = async |args: &[&str]| {
        servers.db.stop()?;
        servers.db.set_args(args);
        servers.db.start_again()
    };
    restart(&["--binlog-ignore-db=shop"]).await?;
    site.check()?.has("source.filters", "error", "shop.t")?;
    restart(&["--binlog-do-db=other"]).await?;
    site.check()?.has("source.filters", "error", "shop.t")?;
    restart(&["--skip-log-bin"]).await?;
    let checked = site.check()?;
    checked.has("source.binlog", "error", "log_bin=OFF")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

/// Each right by itself, with the statement that gives it; by a role, too.
async fn rights(flavor: Flavor) -> Result<()> {
    let Some(servers) = private(flavor, &[]).await? else { return Ok(()) };
    let mut conn = servers.db.connect().await?;
    let look = if flavor == Flavor::MySql { "REPLICATION CLIENT" } else { "BINLOG MONITOR" };
    let account = "'less''er'@'127.0.0.1'";
    run(&mut conn, &[&format!("CREATE USER {account} IDENTIFIED BY '{PASSWORD}'")]).await?;
    let mut site = servers.site(MAPPING)?;
    site.user = "less'er".replace('\'', "%27");

    let checked = site.check()?;
    let line = checked.has("source.grants", "error", &format!("REPLICATION SLAVE and {look}"))?;
    ensure!(line.help == format!("GRANT REPLICATION SLAVE, {look} ON *.* TO {account};"), "{line:?}");
    let seen = checked.has("tables.grants", "warning", "shop.t")?;
    run(&mut conn, &[&line.help, &seen.help]).await?;
    let checked = site.check()?;
    checked.has("source.grants", "ok", "")?;
    checked.has("tables.mapping", "ok", "shop.t")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);

    for right in ["REPLICATION SLAVE", look] {
        run(&mut conn, &[&format!("REVOKE {right} ON *.* FROM {account}")]).await?;
        let checked = site.check()?;
        let line = checked.has("source.grants", "error", right)?;
        ensure!(checked.exit == 78 && line.help == format!("GRANT {right} ON *.* TO {account};"), "{line:?}");
        run(&mut conn, &[&line.help]).await?;
        ensure!(site.check()?.exit == 0, "{right}");
    }
    // Where the binlog doesn't name the columns, they must be readable.
    run(&mut conn, &["SET GLOBAL binlog_row_metadata='MINIMAL'"]).await?;
    run(&mut conn, &[&format!("REVOKE SELECT ON shop.t FROM {account}")]).await?;
    let checked = site.check()?;
    let line = checked.has("tables.grants", "error", "shop.t")?;
    run(&mut conn, &[&line.help, "SET GLOBAL binlog_row_metadata='FULL'"]).await?;
    site.check()?.has("tables.mapping", "ok", "shop.t")?;
    // A glob: the whole schema.
    run(&mut conn, &[&format!("REVOKE SELECT ON shop.t FROM {account}")]).await?;
    site.mappings = "  - { table: \"shop.t*\", keys: [\"t:{id}\"] }\n".into();
    let line = site.check()?.has("tables.mapping", "warning", "no table")?;
    let grant = line.help.find("GRANT").map(|at| &line.help[at..]).context("no GRANT")?;
    run(&mut conn, &[grant]).await?;
    site.check()?.has("tables.mapping", "ok", "shop.t")?;

    // By a role.
    let set = if flavor == Flavor::MySql {
        format!("SET DEFAULT ROLE follower TO {account}")
    } else {
        format!("SET DEFAULT ROLE follower FOR {account}")
    };
    run(
        &mut conn,
        &[
            &format!("REVOKE REPLICATION SLAVE, {look} ON *.* FROM {account}"),
            "CREATE ROLE follower",
            &format!("GRANT REPLICATION SLAVE, {look} ON *.* TO follower"),
            &format!("GRANT follower TO {account}"),
            &set,
        ],
    )
    .await?;
    site.check()?.has("source.grants", "ok", "")?;
    Ok(())
}

/// Two deployments with one id; a daemon that runs is known.
async fn ids(flavor: Flavor) -> Result<()> {
    let Some(servers) = private(flavor, &[]).await? else { return Ok(()) };
    let mut conn = servers.db.connect().await?;
    if flavor == Flavor::MariaDb {
        let line = servers.site(MAPPING)?.check()?.has("source.server_id", "not_tested", "may not list")?;
        let grant = line.help.find("GRANT").map(|at| &line.help[at..]).context("no GRANT")?;
        run(&mut conn, &[grant]).await?;
    }
    let mut first = servers.site(MAPPING)?;
    first.source = "  server_id: 4711\n".into();
    first.check()?.has("source.server_id", "ok", "4711 is free")?;
    first.check()?.has("source.lease", "ok", "free")?;
    let mut daemon = Daemon::start(&first.config()?, first.admin, first.path("log"), "")?;
    daemon.ready().await?;
    let checked = first.check()?;
    checked.has("source.server_id", "ok", "daemon that runs")?;
    checked.has("source.lease", "ok", "a daemon of this deployment runs")?;
    checked.has("machine.admin", "ok", "a rowbust answers")?;

    let mut second = servers.site(MAPPING)?;
    second.source = "  server_id: 4711\n".into();
    let checked = second.check()?;
    let line = checked.has("source.server_id", "error", "4711 is taken")?;
    ensure!(checked.exit == 78 && line.help.contains("server_id: 4712"), "{line:?}");
    second.source = "  server_id: 4712\n".into();
    second.check()?.has("source.server_id", "ok", "4712 is free; connected: 4711")?;
    // The server's own.
    second.source = "  server_id: 1\n".into();
    second.check()?.has("source.server_id", "error", "the server's own")?;
    Ok(())
}

/// Where reading would begin; what is gone.
async fn places(flavor: Flavor) -> Result<()> {
    let Some(servers) = private(flavor, &[]).await? else { return Ok(()) };
    let mut conn = servers.db.connect().await?;
    let mut site = servers.site(MAPPING)?;
    site.check()?.has("source.start", "ok", "no checkpoint yet")?;
    site.source = "  start: { file: binlog.000077, position: 4 }\n".into();
    site.check()?.has("source.start", "error", "binlog.000077")?;
    site.source = String::new();

    let mut daemon = Daemon::start(&site.config()?, site.admin, site.path("log"), "")?;
    daemon.ready().await?;
    run(&mut conn, &["INSERT INTO shop.t VALUES (1)"]).await?;
    daemon.sigterm(Duration::from_secs(30)).await?;
    let checked = site.check()?;
    checked.has("machine.checkpoint", "ok", "binlog.")?;
    checked.has("source.start", "ok", "goes on at the checkpoint")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);

    run(&mut conn, &["INSERT INTO shop.t VALUES (2)", "FLUSH BINARY LOGS"]).await?;
    let (newest, _) = servers.db.newest(&mut conn).await?;
    run(&mut conn, &["INSERT INTO shop.t VALUES (3)"]).await?;
    // A file that the daemon's connection still has open stays, until the server has seen that nobody is there.
    until("the file is purged", Duration::from_secs(60), async || {
        let mut conn = servers.db.connect().await?;
        run(&mut conn, &[&format!("PURGE BINARY LOGS TO '{newest}'")]).await?;
        let oldest: Option<mysql_async::Row> = conn.query_first("SHOW BINARY LOGS").await?;
        let oldest: String = oldest.and_then(|row| row.get(0)).unwrap_or_default();
        Ok(Seen::check(oldest == newest, || oldest))
    })
    .await?;
    let checked = site.check()?;
    checked.has("source.start", "error", "gap")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    site.source = "  on_gap: flush\n".into();
    site.check()?.has("source.start", "warning", "gap")?;
    // Nothing of it is left: what the retention allows is gone.
    run(&mut conn, &["SET GLOBAL binlog_expire_logs_seconds=3600"]).await?;
    site.check()?.has("source.retention", "error", "any moment")?;
    Ok(())
}

async fn heartbeat(flavor: Flavor) -> Result<()> {
    let Some(servers) = private(flavor, &[]).await? else { return Ok(()) };
    let mut conn = servers.db.connect().await?;
    let mut site = servers.site(MAPPING)?;
    site.source = "  heartbeat: shop.beat\n".into();
    // The account may not write there, whether it is there or not.
    let line = site.check()?.has("source.heartbeat", "error", "")?;
    if line.help.starts_with("GRANT") {
        run(
            &mut conn,
            &["CREATE TABLE shop.beat (id BIGINT UNSIGNED PRIMARY KEY, beat BIGINT UNSIGNED NOT NULL)"],
        )
        .await?;
    } else {
        run(&mut conn, &[&line.help]).await?;
    }
    let checked = site.check()?;
    let line = checked.has("source.heartbeat", "error", "may not write")?;
    ensure!(checked.exit == 78);
    run(&mut conn, &[&line.help]).await?;
    let checked = site.check()?;
    checked.has("source.heartbeat", "ok", "shop.beat")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    let rows: Option<u64> = conn.query_first("SELECT COUNT(*) FROM shop.beat").await?;
    ensure!(rows == Some(0), "the check wrote a row");
    run(&mut conn, &["ALTER TABLE shop.beat RENAME COLUMN beat TO b"]).await?;
    site.check()?.has("source.heartbeat", "error", "beat")?;
    Ok(())
}
