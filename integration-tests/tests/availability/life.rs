//! Starting, refusing and ending, as a user meets them: exit codes, preflight, TLS and ACL, the drain.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::Signal;
use rowbust_integration_tests::daemon::{Daemon, cli};
use rowbust_integration_tests::db::{Db, Flavor, PASSWORD, USER, run};
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::monitor::{Monitor, Removals};
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{on_both, oracle, shop};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Need, Redis, RedisTls, StartOptions, require};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_both!(sigterm_drains, second_signal, server_id_clash, refused_by_preflight, redis_with_tls_and_acl);

const WITHIN: Duration = Duration::from_secs(30);

/// Runs `rowbust run` to its end, which must come by itself: exit code and what it said.
async fn ends(stage: &Stage) -> Result<(i32, String)> {
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    Ok((status.code().with_context(|| format!("{status}"))?, daemon.log_text()))
}

async fn sigterm_drains(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "drains").await? else { return Ok(()) };
    stage.open_shop(50).await?;
    let mut daemon = stage.start().await?;
    let pause = Duration::from_millis(2);
    let plan = Plan { writers: 2, readers: 0, pause, hot: 50, seed: seed("sigterm_drains") };
    let load = stage.load(plan);
    // Ended in the middle of the load: second removals are owed at that moment.
    until("the load", WITHIN, async || Ok(Seen::check(load.transactions() > 200, String::new))).await?;
    let status = daemon.sigterm(WITHIN).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    let ended = load.transactions();
    until("writes behind its end", WITHIN, async || {
        Ok(Seen::check(load.transactions() > ended + 10, String::new))
    })
    .await?;
    let history = load.stop().await?;
    let snapshot = stage.snapshot("SIGTERM").await?;
    ensure!(snapshot.queued.is_empty(), "{:?}", snapshot.queued);

    // Everything that it had touched is behind the checkpoint: the next run begins after it.
    let at = (snapshot.checkpoint.file.clone(), snapshot.checkpoint.position);
    let binlog = oracle::read(&stage.db, &stage.schema)?;
    let versions = |done: bool| {
        let rows = binlog.iter().filter(|t| (t.end <= at) == done).flat_map(|t| &t.rows);
        rows.flat_map(|r| shop::keys(r, "")).filter(|k| k.starts_with("ver:")).collect::<Vec<_>>()
    };
    let (before, after) = (versions(true), versions(false));
    ensure!(before.len() > 50 && !after.is_empty(), "void: {} before, {} after", before.len(), after.len());
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let again = stage.removals.since(snapshot.removals);
    // The rows that made the shop come before the daemon's first position.
    let replayed: Vec<_> = before.iter().filter(|key| again.contains_key(*key)).collect();
    ensure!(replayed.is_empty(), "replayed: {replayed:?}");
    ensure!(after.iter().all(|key| again.contains_key(key)), "not removed after the restart");
    stage.judge(&history, &[snapshot], 50, 50).await.map_err(|e| daemon.explain(&e))?;
    Ok(())
}

/// Who looks at the daemon doesn't hold up its end: a page that is open, a scraper that keeps its connection, one that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_doesnt_hold_up_the_end() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MariaDb, "looked_at").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let mut daemon = stage.start().await?;
    let mut clients = Vec::new();
    for path in ["/events", "/metrics", ""] {
        let mut client = TcpStream::connect(("127.0.0.1", stage.admin())).await?;
        if !path.is_empty() {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.write_all(request.as_bytes()).await?;
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await?;
            ensure!(answer == *b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&answer));
        }
        clients.push(client);
    }
    // It fails if the queue couldn't be closed.
    let status = daemon.sigterm(WITHIN).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    Ok(())
}

async fn second_signal(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "second_signal").await? else { return Ok(()) };
    stage.open_shop(2).await?;
    // A drain that takes its time: the second removal is owed for a while.
    stage.settings.mappings = Some(format!(
        "\n  - table: {}.products\n    fill_grace: 10s\n    keys: [\"product:{{id}}\"]\n",
        stage.schema
    ));
    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=1001 WHERE id=1"]).await?;
    until("the first removal", WITHIN, async || {
        stage.fence()?;
        Ok(Seen::check(!stage.removals.of("product:1").is_empty(), || daemon.log_tail()))
    })
    .await?;
    daemon.signal(Signal::SIGTERM)?;
    until("the drain", WITHIN, async || {
        Ok(Seen::check(daemon.log_text().contains("draining"), || daemon.log_tail()))
    })
    .await?;
    let status = daemon.sigterm(Duration::from_secs(5)).await?;
    ensure!(status.code() == Some(130), "{status}\n{}", daemon.log_tail());

    // Nothing is lost by it: the next run repeats both removals.
    let from = stage.removals.total();
    stage.settings.mappings = None;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.removals.since(from).contains_key("product:1"), "{}", daemon.log_tail());
    Ok(())
}

/// Two daemons with one `server_id` (FAULTS: each kicks the other out): one of them ends and names the cause, the other goes on.
async fn server_id_clash(flavor: Flavor) -> Result<()> {
    let Some(mut first) = Stage::new(flavor, "clash_a").await? else { return Ok(()) };
    let mut second = Stage::on(Arc::clone(&first.db), "clash_b").await?;
    for stage in [&mut first, &mut second] {
        stage.open_shop(2).await?;
        stage.settings.source = "server_id: 7007".into();
    }
    let mut a = first.start().await?;
    let mut b = second.launch("")?;
    let within = Duration::from_secs(60);
    let ended = tokio::select! {
        status = a.exited(within) => status.map(|status| (status, true)),
        status = b.exited(within) => status.map(|status| (status, false)),
    };
    let (ended, is_first) = ended.with_context(|| format!("{}\n{}", a.log_tail(), b.log_tail()))?;
    let (log, other, stage) = if is_first { (a.log_text(), &b, &second) } else { (b.log_text(), &a, &first) };
    ensure!(ended.code() == Some(78), "{ended}\n{log}");
    for word in ["source.server_id_clash", "give each daemon and replica its own `source.server_id`"] {
        ensure!(log.contains(word), "{word:?} is missing: {log}");
    }
    // What it had read is removed all the same, and the other one loses nothing.
    ensure!(log.matches("server_id clash").count() >= 5, "{log}");
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=1001 WHERE id=1"]).await?;
    stage.quiet(other).await?;
    ensure!(!stage.removals.of("product:1").is_empty(), "{}", other.log_tail());
    ensure!(stage.stale().await?.is_empty(), "{}", other.log_tail());
    Ok(())
}

async fn refused_by_preflight(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Arc::new(Db::start(flavor, &[]).await?);
    let stage = Stage::on(db, "refused").await?;
    let mut conn = stage.db.connect().await?;
    run(&mut conn, &["CREATE DATABASE refused"]).await?;
    let refused = async |code: i32, words: &[&str]| {
        let (exit, said) = ends(&stage).await?;
        ensure!(exit == code, "exit {exit}, not {code}: {said}");
        for word in words {
            ensure!(said.contains(word), "{word:?} is missing: {said}");
        }
        ensure!(!said.contains(PASSWORD), "the password is in the log: {said}");
        Ok(())
    };

    // A right is missing: says which statement gives it.
    let revoked = match flavor {
        Flavor::MariaDb => ["REPLICATION SLAVE", "BINLOG MONITOR"],
        Flavor::MySql => ["REPLICATION SLAVE", "REPLICATION CLIENT"],
    };
    for right in revoked {
        run(&mut conn, &[&format!("REVOKE {right} ON *.* FROM '{USER}'@'127.0.0.1'")]).await?;
        let grant = format!("GRANT {} ON *.* TO '{USER}'@'127.0.0.1'", revoked.join(", "));
        refused(78, &["source.grants", &grant]).await?;
        run(&mut conn, &[&grant]).await?;
    }

    // A wrong password.
    let password = stage.dir().join("password");
    fs::write(&password, "wrong")?;
    refused(78, &[USER]).await?;
    fs::write(&password, PASSWORD)?;

    run(&mut conn, &["SET GLOBAL binlog_format='MIXED'"]).await?;
    refused(78, &["source.binlog_format", "SET GLOBAL binlog_format=ROW"]).await?;
    run(&mut conn, &["SET GLOBAL binlog_format='ROW'"]).await?;

    // Nothing on the port of Redis keeps it from nothing, nothing on the port of the source does.
    drop(conn);
    tokio::task::block_in_place(|| stage.db.stop())?;
    refused(69, &["127.0.0.1"]).await?;

    stage.db.set_args(&["--skip-log-bin"]);
    tokio::task::block_in_place(|| stage.db.start_again())?;
    refused(78, &["source.binlog_off", "log_bin"]).await?;

    if flavor == Flavor::MySql {
        stage.db.set_args(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
        tokio::task::block_in_place(|| stage.db.stop().and_then(|()| stage.db.start_again()))?;
        refused(78, &["source.gtid_off", "gtid_mode"]).await?;
    }
    stage.db.set_args(&[]);
    tokio::task::block_in_place(|| stage.db.stop().and_then(|()| stage.db.start_again()))?;
    stage.start().await?;
    Ok(())
}

/// A certificate for `localhost` and its key, in `dir`.
fn certificate(dir: &Path) -> Result<RedisTls> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&cert, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    Ok(RedisTls { cert, key, client_ca: None, ca: None })
}

async fn redis_with_tls_and_acl(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "acl").await? else { return Ok(()) };
    stage.open_shop(3).await?;
    let tls = certificate(stage.dir())?;
    let acl = stage.dir().join("users.acl");
    // The commands that the documentation names, and no others.
    fs::write(
        &acl,
        "user default on nopass ~* +@all\nuser rowbust on >canary-77aa ~app:* -@all +ping +unlink +hdel\n",
    )?;
    fs::write(stage.dir().join("redis-password"), "canary-77aa\n")?;
    let (options, ca) = (StartOptions::new(stage.dir().join("tls")), tls.cert.clone());
    let redis =
        tokio::task::spawn_blocking(move || Redis::start_with(options, Some(tls), Some(&acl))).await??;
    let port = redis.tls_port().context("no TLS port")?;
    let removals = Arc::new(Removals::default());
    let monitor = Monitor::start(redis.port(), Arc::clone(&removals))?;
    let target = |host: &str, ca: &str| {
        format!(
            "{{ url: \"rediss://{host}:{port}/0\", username: rowbust, password_file: {}/redis-password, \
             tls: {{ mode: verify_identity, ca_file: {ca} }} }}",
            stage.dir().display()
        )
    };
    let good = target("localhost", &ca.display().to_string());
    stage.settings.redis = Some(good.clone());
    stage.settings.mappings = Some(shop::mappings("acl", "app:"));
    let mut cache = shop::redis(redis.port()).await?;
    let seed = redis::pipe()
        .set("app:product:1", 1)
        .set("product:1", 1)
        .hset("app:category:1:products", 1, 1)
        .to_owned();
    seed.query_async::<()>(&mut cache).await?;

    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    conn.query_drop("UPDATE products SET ver=1001 WHERE id=1").await?;
    until("both removals", WITHIN, async || {
        let twice = ["app:product:1", "app:ver:1001"].iter().all(|key| removals.of(key).len() >= 2);
        Ok(Seen::check(twice, || daemon.log_tail()))
    })
    .await?;
    let left = shop::cached(&mut cache).await?;
    ensure!(left == ["product:1"], "{left:?}");
    let status = daemon.status().await?;
    ensure!(
        status["queue"]["pending"].as_u64() == Some(0) && status["targets"][0]["breaker"] == "closed",
        "{status}"
    );
    daemon.sigterm(WITHIN).await?;
    drop(daemon);

    // A password that Redis doesn't know keeps it from starting, and is in no log.
    fs::write(stage.dir().join("redis-password"), "canary-77ab")?;
    let (exit, said) = ends(&stage).await?;
    ensure!(exit == 78 && said.contains("WRONGPASS") && !said.contains("canary-77"), "exit {exit}: {said}");
    fs::write(stage.dir().join("redis-password"), "canary-77aa")?;

    // A right that is missing: queued, visible, and removed once it is given.
    let acl = |rights: &str| {
        redis::cmd("ACL").arg("SETUSER").arg("rowbust").arg(rights.split(' ').collect::<Vec<_>>()).to_owned()
    };
    let daemon = stage.start().await?;
    acl("-unlink").query_async::<()>(&mut cache).await?;
    let from = removals.total();
    conn.query_drop("UPDATE products SET ver=1002 WHERE id=2").await?;
    daemon.metric_at_least(rowbust::telemetry::KEYS_QUEUED, 1.0, WITHIN).await?;
    acl("+unlink").query_async::<()>(&mut cache).await?;
    until("the queued removals", WITHIN, async || {
        monitor.fence()?;
        let done = removals.since(from).contains_key("app:product:2");
        Ok(Seen::check(done, || daemon.log_tail()))
    })
    .await?;

    // A server that answers PING and can't write: the breaker stays open until it can.
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(1).query_async::<()>(&mut cache).await?;
    conn.query_drop("UPDATE products SET ver=1003 WHERE id=3").await?;
    until("an open breaker that stays open", WITHIN, async || {
        let target = daemon.status().await?["targets"][0].clone();
        let stays =
            target["error"] == "NOREPLICAS" && target["open_seconds"].as_f64().is_some_and(|s| s >= 1.5);
        Ok(Seen::check(stays, || format!("{target}; {}", daemon.log_tail())))
    })
    .await?;
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(0).query_async::<()>(&mut cache).await?;
    until("a closed breaker", WITHIN, async || {
        let target = daemon.status().await?["targets"][0].clone();
        Ok(Seen::check(target["breaker"] == "closed", || format!("{target}; {}", daemon.log_tail())))
    })
    .await?;
    Ok(())
}

/// What needs no server: the usage, the config file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rowbust.yaml");
    let path = file.to_str().context("odd path")?;
    let exit = |args: &[&str]| {
        let out = cli(args)?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok::<_, anyhow::Error>((out.status.code(), said))
    };
    for args in [&["no-such-command"][..], &["run", "--no-such-flag"], &[]] {
        ensure!(exit(args)?.0 == Some(2), "{args:?}");
    }
    ensure!(exit(&["--version"])?.0 == Some(0));
    for command in ["run", "check"] {
        let (code, said) = exit(&[command, "-c", path])?;
        ensure!(code == Some(78) && said.contains("rowbust.yaml"), "no file: {code:?} {said}");
    }
    fs::write(
        &file,
        "version: 1\nsource: { url: nonsense }\nredis: { main: { url: \"redis://h/0\" } }\nmappngs: []\n",
    )?;
    for command in ["run", "check"] {
        let (code, said) = exit(&[command, "-c", path])?;
        ensure!(code == Some(78), "{code:?} {said}");
        // Every mistake in one run.
        ensure!(said.contains("mappngs") && said.contains("nonsense"), "{said}");
    }

    // A source that isn't there.
    let config = format!(
        "version: 1\nsource: {{ url: \"mysql://u@127.0.0.1:{}\", tls: disabled }}\nredis: {{ main: {{ url: \"redis://127.0.0.1:{}/0\" }} }}\n\
         checkpoint: {{ path: {2}/checkpoint }}\nretry: {{ disk: {{ path: {2}/retry }} }}\nadmin: {{ listen: \"127.0.0.1:{3}\" }}\n\
         mappings: [ {{ table: a.b, keys: [\"k:{{id}}\"] }} ]\n",
        free_port()?,
        free_port()?,
        dir.path().display(),
        free_port()?
    );
    fs::write(&file, config)?;
    ensure!(exit(&["check", "-c", path])?.0 == Some(0));
    let mut daemon = Daemon::start(&file, 0, dir.path().join("log"), "")?;
    let status = daemon.exited(WITHIN).await?;
    ensure!(status.code() == Some(69) && status.signal().is_none(), "{status}\n{}", daemon.log_tail());
    Ok(())
}
