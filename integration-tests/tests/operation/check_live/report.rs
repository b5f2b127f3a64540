//! The whole report, good and bad; the queue and this machine.

use std::net::TcpListener;
use std::time::Duration;

use rowbust_integration_tests::on_both;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::Kafka;

use super::*;

on_both!(all_is_well, all_is_wrong);

const TABLES: [&str; 1] =
    ["CREATE TABLE products (id INT PRIMARY KEY, sku VARCHAR(40) NOT NULL, category_id INT)"];

/// What differs from run to run.
fn normalised(text: &str, site: &Site, servers: &Servers) -> String {
    let mut out = text
        .replace(&site.dir.path().display().to_string(), "DIR")
        .replace(&format!(":{}", site.db_port), ":DB")
        .replace(&format!(":{}", site.redis_port), ":REDIS")
        .replace(&format!(":{}", site.admin), ":ADMIN");
    for version in [format!("{}-", servers.db.version()), servers.db.version().to_owned()] {
        while let Some(at) = out.find(&version) {
            let end = out[at..].find(['\n', ',']).map_or(out.len(), |end| at + end);
            out.replace_range(at..end, "VERSION");
        }
    }
    let lines = out.lines().map(|line| {
        let cut = ["begins at ", "Redis ", "whether "];
        let mut line = line.to_owned();
        for word in cut {
            if let Some(at) = line.find(word) {
                let from = at + word.len();
                let end = line[from..].find([' ', ';', ',']).map_or(line.len(), |end| from + end);
                line.replace_range(from..end, "…");
            }
        }
        // `1234 is free`, `1234 open files`
        for word in [" is free; ", " open files"] {
            if let Some(at) = line.find(word) {
                let from = line[..at].rfind(' ').map_or(0, |from| from + 1);
                line.replace_range(from..at, "N");
            }
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn all_is_well(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Db::start(flavor, &["--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1"]).await?;
    let servers = Servers::with(std::sync::Arc::new(db), &[]).await?;
    let mut conn = servers.db.connect().await?;
    schema(&mut conn, "well", &TABLES).await?;
    let site =
        servers.site("  - { table: well.products, keys: [\"product:{id}\", \"product:sku:{sku}\"] }\n")?;
    let checked = site.check_with(&["--strict"])?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    ensure!(checked.codes("warning").is_empty() && checked.codes("error").is_empty(), "{:#}", checked.value);
    let text = normalised(&site.text()?, &site, &servers);
    insta::assert_snapshot!(format!("well_{}", flavor.name()), text);

    // Nothing was left behind on Redis or on this machine.
    let empty = until("an empty Redis", Duration::from_secs(10), async || {
        let size = tokio::task::block_in_place(|| servers.redis.cli(&["DBSIZE"]))?;
        Ok(Seen::check(size == "0", || size.clone()))
    });
    empty.await?;
    ensure!(!site.path("rowbust-data").exists());
    Ok(())
}

async fn all_is_wrong(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let args = [
        "--binlog-format=MIXED",
        "--binlog-row-image=MINIMAL",
        "--binlog-row-metadata=MINIMAL",
        "--binlog-ignore-db=wrong",
    ];
    let extra: &[&str] = match flavor {
        Flavor::MySql => &[
            "--gtid-mode=OFF_PERMISSIVE",
            "--binlog-row-value-options=PARTIAL_JSON",
            "--binlog-order-commits=OFF",
            "--binlog-expire-logs-seconds=600",
        ],
        Flavor::MariaDb => &["--binlog-optimize-thread-scheduling=OFF", "--expire-logs-days=0.01"],
    };
    let db = Db::start(flavor, &[&args, extra].concat()).await?;
    let servers = Servers::with(
        std::sync::Arc::new(db),
        &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
    )
    .await?;
    let mut conn = servers.db.connect().await?;
    schema(
        &mut conn,
        "wrong",
        &[
            "CREATE TABLE products (id INT PRIMARY KEY, doc JSON, price DOUBLE)",
            "CREATE VIEW seen AS SELECT id FROM products",
        ],
    )
    .await?;
    let revoked = if flavor == Flavor::MySql { "REPLICATION SLAVE" } else { "BINLOG MONITOR" };
    run(&mut conn, &[&format!("REVOKE {revoked} ON *.* FROM '{USER}'@'127.0.0.1'")]).await?;
    let mut site = servers.site(
        "  - { table: wrong.product, keys: [\"product:{id}\"], to: main }\n  \
         - { table: wrong.seen, keys: [\"seen:{id}\"], to: main }\n  \
         - { table: wrong.products, keys: [\"p:{ids}\", \"d:{doc}\", \"m:{price}\", \"j:{id->>$.a}\"], to: main }\n  \
         - { table: wrong.products, keys: [{ members_of: \"tag:{id}\" }, \"home\"], to: main }\n  \
         - { table: \"nowhere_*.x\", keys: [\"x:{id}\"], to: away }\n",
    )?;
    site.source = "  heartbeat: wrong.beat\n  replicas: [\"127.0.0.1:1\"]\n".into();
    let taken = TcpListener::bind(("127.0.0.1", site.admin))?;
    let closed = free_port()?;
    site.redis = format!(
        "{{ url: \"redis://127.0.0.1:{}/0\", durability: {{ wait_replicas: 1 }} }}\n  away: \"redis://127.0.0.1:{closed}\"",
        site.redis_port
    );
    site.config()?;
    let text = site.text()?.replace(&format!(":{closed}"), ":AWAY");
    drop(taken);
    insta::assert_snapshot!(format!("wrong_{}", flavor.name()), normalised(&text, &site, &servers));
    let checked = site.check()?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_away_hides_nothing_else() -> Result<()> {
    let Some(servers) = Servers::shared(Flavor::MariaDb).await? else { return Ok(()) };
    let mappings = "  - { table: away.t, keys: [\"t:{id}\"] }\n";
    // The database: Redis is looked at all the same.
    let mut site = servers.site(mappings)?;
    site.db_port = free_port()?;
    let checked = site.check()?;
    checked.has("source.connect", "error", "refused")?;
    checked.has("tables.answer", "not_tested", "")?;
    checked.has("redis.connect", "ok", "")?;
    ensure!(checked.exit == 69, "{:#}", checked.value);

    // Redis, and then Kafka: the database is looked at all the same.
    let mut conn = servers.db.connect().await?;
    schema(&mut conn, "away", &["CREATE TABLE t (id INT PRIMARY KEY)"]).await?;
    let mut site = servers.site(mappings)?;
    site.redis_port = free_port()?;
    let checked = site.check()?;
    checked.has("redis.connect", "error", "refused")?;
    checked.has("tables.mapping", "ok", "away.t")?;
    ensure!(checked.exit == 69, "{:#}", checked.value);

    let mut site = servers.site(mappings)?;
    site.more =
        format!("retry: {{ kafka: {{ brokers: [\"127.0.0.1:{}\"], prefix: away }} }}\n", free_port()?);
    let checked = site.check()?;
    checked.has("retry.brokers", "error", "")?;
    checked.has("redis.connect", "ok", "")?;
    ensure!(checked.exit == 69, "{:#}", checked.value);

    // What is wrong counts more than what is away.
    site.password = "nonsense".into();
    let checked = site.check()?;
    checked.has("source.connect", "error", "login refused")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine() -> Result<()> {
    let tables = ["CREATE TABLE t (id INT PRIMARY KEY)"];
    let Some((servers, _)) = Servers::schema(Flavor::MariaDb, "machine", &tables).await? else {
        return Ok(());
    };
    let mut site = servers.site("  - { table: machine.t, keys: [\"t:{id}\"] }\n")?;

    let config = site.config()?;
    set_mode(&site.path("password"), 0o644)?;
    let out =
        tokio::task::block_in_place(|| cli(["-c", config.to_str().unwrap_or_default(), "check", "--live"]))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(text.contains("can be read by every user") && text.contains("chmod 600"), "{text}");

    let taken = TcpListener::bind(("127.0.0.1", site.admin))?;
    let checked = site.check()?;
    checked.has("machine.admin", "error", "taken by another program")?;
    ensure!(checked.exit == 78);
    drop(taken);
    let checked = site.check()?;
    checked.has("machine.admin", "ok", "free")?;
    checked.has("machine.clock", "ok", "redis main")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);

    // A folder that nobody can write to, not even root.
    site.more = "checkpoint: { path: /dev/null/checkpoint }\nretry: { disk: { path: retry } }\n".into();
    let checked = site.check()?;
    ensure!(!checked.of("machine.files", "error").is_empty(), "{:#}", checked.value);

    // A checkpoint that can't be read.
    site.more = "checkpoint: { path: checkpoint }\n".into();
    fs::write(site.path("checkpoint"), "torn")?;
    fs::write(site.path("checkpoint.prev"), "torn")?;
    let checked = site.check()?;
    checked.has("machine.checkpoint", "error", "checkpoint")?;
    checked.has("source.start", "not_tested", "")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let tables = ["CREATE TABLE t (id INT PRIMARY KEY)"];
    let Some((servers, _)) = Servers::schema(Flavor::MariaDb, "topics", &tables).await? else {
        return Ok(());
    };
    let dir = tempfile::Builder::new().prefix("rowbust-check-kafka-").tempdir()?;
    let options = StartOptions::new(dir.path());
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(options)).await??;
    let mut site = servers.site("  - { table: topics.t, keys: [\"t:{id}\"] }\n")?;
    site.more = format!("retry: {{ kafka: {{ brokers: [\"{}\"], prefix: checked }} }}\n", kafka.brokers());
    let checked = site.check()?;
    for topic in ["checked.retry.10s", "checked.retry.5m", "checked.dead"] {
        let line = checked.has("retry.topic", "warning", topic)?;
        ensure!(line.help.contains("retention.ms="), "{line:?}");
    }
    ensure!(checked.exit == 0, "{:#}", checked.value);

    // The daemon makes them.
    let mut daemon = Daemon::start(&site.config()?, site.admin, site.path("log"), "")?;
    daemon.ready().await?;
    // A topic that was just made has no leader for a moment.
    let checked = until("the topics", Duration::from_secs(30), async || {
        let checked = site.check()?;
        let missing = ["checked.retry.10s", "checked.retry.5m", "checked.dead"]
            .iter()
            .find_map(|topic| checked.has("retry.topic", "ok", &format!("{topic}: 12 partitions")).err());
        Ok(match missing {
            None => Seen::Done(checked),
            Some(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    checked.has("retry.group", "ok", "checked.rowbust")?;
    // And is seen.
    checked.has("machine.admin", "ok", "a rowbust answers")?;
    checked.has("source.lease", "ok", "a daemon of this deployment runs")?;
    checked.has("source.start", "ok", "goes on at the checkpoint")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    Ok(())
}
