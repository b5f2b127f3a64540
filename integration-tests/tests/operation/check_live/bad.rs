//! Bad forms that need a server, a broker or a machine brought to them.

use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rowbust_integration_tests::caches::certificates;
use rowbust_integration_tests::daemon;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Kafka, Resource, Right, Security};

use super::*;

on_both!(drivers, chains);

const TABLES: [&str; 1] = ["CREATE TABLE t (id INT PRIMARY KEY)"];

fn mapping(schema: &str) -> String {
    format!("  - {{ table: {schema}.t, keys: [\"t:{{id}}\"] }}\n")
}

/// On the shared server, with a schema of this name.
async fn site(flavor: Flavor, name: &str) -> Result<Option<(Servers, Site)>> {
    let Some((servers, _)) = Servers::schema(flavor, name, &TABLES).await? else { return Ok(None) };
    let site = servers.site(&mapping(name))?;
    Ok(Some((servers, site)))
}

/// On a server of its own.
async fn own(flavor: Flavor, args: &[&str]) -> Result<Option<(Servers, Conn, Site)>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let servers = Servers::with(std::sync::Arc::new(Db::start(flavor, args).await?), &[]).await?;
    let mut conn = servers.db.connect().await?;
    schema(&mut conn, "own", &TABLES).await?;
    let site = servers.site(&mapping("own"))?;
    Ok(Some((servers, conn, site)))
}

/// An address of this machine that isn't known as one: nothing there is encrypted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_on_the_network() -> Result<()> {
    let Some((_servers, mut site)) = site(Flavor::MariaDb, "plain").await? else { return Ok(()) };
    site.check()?.has("source.tls", "ok", "on this machine")?;
    site.host = "0.0.0.0".into();
    site.source = "  tls: disabled\n".into();
    let checked = site.check()?;
    checked.has("source.tls", "warning", "plain text")?;
    checked.has("redis.connect", "warning", "cross the network readable")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    Ok(())
}

/// A server that says that it is an old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_version() -> Result<()> {
    let Some((_servers, _, site)) = own(Flavor::MariaDb, &["--version=5.5.68-MariaDB"]).await? else {
        return Ok(());
    };
    let checked = site.check()?;
    checked.has("source.version", "error", "5.5.68")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

/// A replica that doesn't log what it applies.
async fn chains(flavor: Flavor) -> Result<()> {
    let args = match flavor {
        Flavor::MySql => "--log-replica-updates=OFF",
        Flavor::MariaDb => "--log-slave-updates=OFF",
    };
    let Some((servers, mut conn, site)) = own(flavor, &[args]).await? else { return Ok(()) };
    // Of itself: it needn't run.
    ensure!(site.check()?.of("source.chain", "error").is_empty(), "no replica yet");
    let port = servers.db.port();
    let made = match flavor {
        Flavor::MySql => {
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root'"
            )
        }
        Flavor::MariaDb => "SET GLOBAL gtid_slave_pos='7-7-7'".into(),
    };
    run(&mut conn, &[&made]).await?;
    let checked = site.check()?;
    checked.has("source.chain", "error", "does not log what it applies")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_replication() -> Result<()> {
    let Some((_servers, mut conn, site)) = own(Flavor::MySql, &[]).await? else { return Ok(()) };
    ensure!(!site.check()?.lines().iter().any(|line| line.code == "source.group"), "it is in none");
    // Part of the server's package.
    conn.query_drop("INSTALL PLUGIN group_replication SONAME 'group_replication.so'").await?;
    run(&mut conn, &["SET GLOBAL group_replication_group_name='3e11fa47-71ca-11e1-9e33-c80aa9429562'"])
        .await?;
    let checked = site.check()?;
    checked.has("source.group", "warning", "Group Replication")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    Ok(())
}

/// The other driver, and a setting that it can't read.
async fn drivers(flavor: Flavor) -> Result<()> {
    let Some((_servers, mut conn, mut site)) = own(flavor, &[]).await? else { return Ok(()) };
    site.source = "  driver: mysql_cdc\n".into();
    let checked = site.check()?;
    checked.has("source.driver", "warning", "limits")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    let name = match flavor {
        Flavor::MySql => "binlog_transaction_compression",
        Flavor::MariaDb => "log_bin_compress",
    };
    run(&mut conn, &[&format!("SET GLOBAL {name}=ON")]).await?;
    let checked = site.check()?;
    checked.has("source.driver", "error", name)?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    Ok(())
}

/// A snapshot that can't be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_snapshot() -> Result<()> {
    if require(&[Need::MariaDb, Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Db::shared(Flavor::MariaDb).await?;
    let servers = Servers::with(db, &["--enable-protected-configs", "yes"]).await?;
    let mut conn = servers.db.connect().await?;
    schema(&mut conn, "snapshots", &TABLES).await?;
    let site = servers.site(&mapping("snapshots"))?;
    site.check()?.has("redis.persistence", "ok", "")?;
    servers.redis.cli(&["CONFIG", "SET", "dir", "/proc"])?;
    // Nobody can make a file there.
    ensure!(servers.redis.cli(&["SAVE"]).is_err(), "void: it was saved");
    servers.redis.cli(&["BGSAVE"])?;
    let failed = until("the failure", Duration::from_secs(30), async || {
        let info = servers.redis.cli(&["INFO", "persistence"])?;
        Ok(Seen::check(info.contains("rdb_last_bgsave_status:err"), || info))
    });
    failed.await?;
    let checked = site.check()?;
    checked.has("redis.persistence", "warning", "the last write to its disk failed")?;
    Ok(())
}

/// Files, limits and the clock of this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_machine() -> Result<()> {
    let Some((servers, mut conn, mut site)) = own(Flavor::MariaDb, &[]).await? else { return Ok(()) };
    // The account's sessions live in 2001.
    run(&mut conn, &["SET GLOBAL init_connect='SET timestamp=1000000000'"]).await?;
    let checked = site.check()?;
    checked.has("machine.clock", "warning", "behind this machine's")?;
    checked.has("machine.clock", "ok", "redis main")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    run(&mut conn, &["SET GLOBAL init_connect=''"]).await?;
    site.check()?.has("machine.clock", "ok", "the database")?;

    // A file where the queue's folder should be; a secret that is nowhere.
    fs::write(site.path("taken"), "")?;
    site.more = "retry: { disk: { path: taken } }\n".into();
    let checked = site.check()?;
    checked.has("retry.queue", "error", "taken")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    site.more = String::new();
    site.redis = format!("{{ url: \"redis://127.0.0.1:{}/0\", password_file: nowhere }}", site.redis_port);
    let checked = site.check()?;
    checked.has("machine.secrets", "error", "nowhere")?;
    checked.has("redis.connect", "error", "nowhere")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    site.redis = String::new();

    for (files, mark) in [(500, "warning"), (100, "error")] {
        let config = site.config()?;
        let limited = format!("ulimit -n {files}; exec \"$0\" -c \"$1\" check --live --json");
        let out = Command::new("sh")
            .args(["-c", &limited])
            .args([daemon::binary()?, &config])
            .stdin(Stdio::null())
            .output()?;
        let value: Value = serde_json::from_slice(&out.stdout)
            .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?;
        let checked = Checked { exit: out.status.code().context("killed")?, value };
        checked.has("machine.open_files", mark, &format!("{files} open files"))?;
        ensure!(checked.exit == if mark == "error" { 78 } else { 0 }, "{:#}", checked.value);
    }

    // A newest checkpoint that is torn: the one before it counts.
    let mut daemon = Daemon::start(&site.config()?, site.admin, site.path("log"), "")?;
    daemon.ready().await?;
    let path = site.path("rowbust-data/checkpoint");
    let before = site.path("rowbust-data/checkpoint.prev");
    until("two generations", Duration::from_secs(30), async || {
        let mut conn = servers.db.connect().await?;
        run(&mut conn, &["CREATE OR REPLACE TABLE own.other (id INT)"]).await?;
        Ok(Seen::check(path.exists() && before.exists(), String::new))
    })
    .await?;
    daemon.sigterm(Duration::from_secs(30)).await?;
    fs::write(&path, "torn")?;
    let checked = site.check()?;
    checked.has("machine.checkpoint", "warning", "the newest is missing or torn")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    Ok(())
}

/// A broker that asks for a login and gives no rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some((_servers, mut site)) = site(Flavor::MariaDb, "refusing").await? else { return Ok(()) };
    let dir = site.dir.path();
    let tls = certificates(dir)?;
    let pem = dir.join("broker.pem");
    fs::write(&pem, fs::read_to_string(&tls.key)? + &fs::read_to_string(&tls.cert)?)?;
    let users = vec![("alice".to_owned(), "secret4711".to_owned())];
    let security = Security { pem_file: pem, users, authorize: true };
    let options = StartOptions::new(dir.join("kafka"));
    let kafka = tokio::task::spawn_blocking(move || Kafka::start_secured(options, &security)).await??;
    let queue = |password: &str| {
        format!(
            "retry:\n  kafka:\n    brokers: [\"{}\"]\n    prefix: refused\n    properties:\n      \
             security.protocol: sasl_ssl\n      sasl.mechanism: PLAIN\n      sasl.username: alice\n      \
             sasl.password: {password}\n      ssl.ca.location: {}/ca.pem\n",
            kafka.brokers(),
            dir.display()
        )
    };
    let (wrong, right) = (queue("guessed4711"), queue("secret4711"));
    site.more = wrong;
    let checked = site.check()?;
    checked.has("retry.brokers", "error", "")?;
    ensure!(!checked.value.to_string().contains("guessed4711"), "{:#}", checked.value);

    site.more = right;
    let checked = site.check()?;
    checked.has("retry.brokers", "ok", "in the cluster")?;
    checked.has("retry.topic", "error", "refused.dead")?;
    checked.has("retry.group", "not_tested", "refused.rowbust")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);
    let rights = [Right::Read, Right::Write, Right::Create, Right::Describe, Right::DescribeConfigs];
    for topic in ["refused.retry.10s", "refused.retry.5m", "refused.dead"] {
        kafka.allow("alice", Resource::Topic(topic), &rights)?;
    }
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("security.protocol", "sasl_ssl")
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", "alice")
        .set("sasl.password", "secret4711")
        .set("ssl.ca.location", dir.join("ca.pem").display().to_string())
        .create()?;
    let topic = NewTopic::new("refused.retry.10s", 12, TopicReplication::Fixed(1));
    until("the topic is made", Duration::from_secs(30), async || {
        // The rights come into force after a moment.
        let made = admin.create_topics([&topic], &AdminOptions::new()).await?;
        Ok(Seen::check(made.iter().all(Result::is_ok), || format!("{made:?}")))
    })
    .await?;
    until("the group's lack of rights", Duration::from_secs(30), async || {
        let checked = site.check()?;
        Ok(match checked.has("retry.group", "error", "refused.rowbust") {
            Ok(line) => {
                ensure!(line.help.contains("READ"), "{line:?}");
                Seen::Done(())
            }
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    for group in ["refused.rowbust", "refused.rowbust.requeue"] {
        kafka.allow("alice", Resource::Group(group), &[Right::Read])?;
    }
    until("the rights", Duration::from_secs(30), async || {
        let checked = site.check()?;
        let is_ok = checked.has("retry.group", "ok", "refused.rowbust").is_ok();
        Ok(Seen::check(is_ok && checked.exit == 0, || format!("{:#}", checked.value)))
    })
    .await?;
    Ok(())
}
