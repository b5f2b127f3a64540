//! Servers that were there before: the lab leaves them as it found them, at its end and behind a signal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::AsyncCommands as _;
use rowbust_integration_tests::db::{Db, Flavor};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_servers::{Need, Redis, StartOptions, require};

use super::{ORDERLY, WITHIN, lab, run, text};

on_both!(runs_leave_nothing_behind, a_signal_leaves_nothing_behind);

const PASSWORD: &str = "canary-31f8";

/// All files below a folder.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else {
            all.push((path.clone(), std::fs::read(&path)?));
        }
    }
    Ok(all)
}

/// A database and a Redis, with something of their own.
struct Servers {
    db: Db,
    redis: Redis,
    dir: tempfile::TempDir,
}

/// What a run could leave behind: schemas, accounts, variables, keys, settings, a line each.
#[derive(Debug, PartialEq)]
struct Traces(BTreeSet<String>);

impl Traces {
    /// What one has and the other hasn't.
    fn differ(&self, other: &Self) -> Vec<String> {
        self.0.symmetric_difference(&other.0).cloned().collect()
    }
}

impl Servers {
    async fn start(flavor: Flavor) -> Result<Option<Self>> {
        if require(&[flavor.need(), Need::Redis]).is_none() {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let db = Db::start(flavor, &[]).await?;
        let options = StartOptions::new(dir.path().join("redis"));
        let redis = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
        let mut conn = db.connect().await?;
        conn.query_drop("CREATE DATABASE rowbust_labour").await?;
        conn.query_drop("CREATE TABLE rowbust_labour.own (id INT PRIMARY KEY)").await?;
        let mut cache = shop::redis(redis.port()).await?;
        let _: () = cache.set("rowbust-laboratory", "own").await?;
        for key in ["product:1", "rowbust-lab:own", "x:rowbust-lab"] {
            let _: () = cache.set(key, "own").await?;
        }
        let _: () = cache.set(&b"\xffrowbust-lab\xff"[..], "own").await?;
        Ok(Some(Self { db, redis, dir }))
    }

    fn mysql(&self) -> String {
        format!("mysql://root@127.0.0.1:{}", self.db.port())
    }

    fn cache(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis.port())
    }

    /// Addresses with accounts and passwords.
    async fn accounts(&self) -> Result<(String, String)> {
        let mut conn = self.db.connect().await?;
        conn.query_drop(format!("CREATE USER lab@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
        conn.query_drop("GRANT ALL ON *.* TO lab@'%'").await?;
        let mut cache = shop::redis(self.redis.port()).await?;
        let mut account = redis::cmd("ACL");
        account.arg("SETUSER").arg("lab").arg("on").arg(format!(">{PASSWORD}"));
        account.arg(&["~*", "&*", "+@all"]).exec_async(&mut cache).await?;
        let address = |scheme, port| format!("{scheme}://lab:{PASSWORD}@127.0.0.1:{port}");
        Ok((address("mysql", self.db.port()), address("redis", self.redis.port())))
    }

    async fn traces(&self) -> Result<Traces> {
        let mut conn = self.db.connect().await?;
        let variables: Vec<(String, String)> = conn.query("SHOW GLOBAL VARIABLES").await?;
        // What every commit changes.
        let moves = |name: &str| name.starts_with("gtid") || name.contains("gtid_executed");
        let schemas: Vec<String> = conn.query("SHOW DATABASES").await?;
        let users: Vec<String> = conn.query("SELECT CONCAT(user, '@', host) FROM mysql.user").await?;
        let mut lines: BTreeSet<String> = schemas.into_iter().chain(users).collect();
        let variables = variables.into_iter().filter(|(name, _)| !moves(name));
        lines.extend(variables.map(|(name, value)| format!("{name}={value}")));
        let mut cache = shop::redis(self.redis.port()).await?;
        for key in cache.keys::<_, Vec<Vec<u8>>>("*").await? {
            let value: Option<String> = cache.get(&key).await?;
            lines.insert(format!("{}: {value:?}", key.escape_ascii()));
        }
        let config: BTreeMap<String, String> =
            redis::cmd("CONFIG").arg("GET").arg("*").query_async(&mut cache).await?;
        lines.extend(config.into_iter().map(|(name, value)| format!("{name} {value}")));
        Ok(Traces(lines))
    }
}

async fn runs_leave_nothing_behind(flavor: Flavor) -> Result<()> {
    let Some(servers) = Servers::start(flavor).await? else { return Ok(()) };
    let (mysql, redis) = servers.accounts().await?;
    let before = servers.traces().await?;
    let lab_run = |strategy: &'static str, fault: &'static str, code: i32| {
        let args = ["run", "--strategy", strategy, "--fault", fault, "--seconds", "2", "--out", strategy];
        run(servers.dir.path(), &[&args[..], &["--mysql", &mysql, "--redis", &redis]].concat(), code)
    };
    let shown = tokio::task::block_in_place(|| lab_run("guarded", "daemon-kill", 0))?;
    let ran = &shown["runs"][0];
    ensure!(ran["void"].is_null() && ran["struck"]["daemon-kill"].as_u64() > Some(0), "{ran:#}");
    let left = servers.traces().await?.differ(&before);
    ensure!(left.is_empty(), "guarded left {left:#?}");
    // Passwords are in nothing that is kept, the daemon's config and log among it.
    let kept = files(&servers.dir.path().join("guarded"))?;
    for (path, bytes) in &kept {
        let text = String::from_utf8_lossy(bytes);
        ensure!(!text.contains(PASSWORD), "{} has a password", path.display());
        if path.ends_with("rowbust.yaml") {
            ensure!(text.matches("password: \"****\"").count() == 2, "{text}");
        }
    }
    ensure!(kept.iter().any(|(path, _)| path.ends_with("rowbust.yaml")), "no config is kept");
    ensure!(!shown.to_string().contains(PASSWORD), "{shown:#}");

    // Stale for good, and still removed behind the run.
    let shown = tokio::task::block_in_place(|| lab_run("cache-aside", "slow-reader", 99))?;
    let stale = shown["runs"][0]["report"]["permanently_stale"].as_array();
    ensure!(stale.is_some_and(|stale| !stale.is_empty()), "{shown:#}");
    let left = servers.traces().await?.differ(&before);
    ensure!(left.is_empty(), "cache-aside left {left:#?}");

    // What needs the lab's own servers is refused, and nothing was touched.
    let args = ["run", "--fault", "redis-restart", "--mysql", &mysql, "--redis", &redis, "--out", "no"];
    let out = lab(servers.dir.path(), &args)?.output()?;
    ensure!(out.status.code() == Some(2) && text(&out).contains("own servers"), "{}", text(&out));
    ensure!(servers.traces().await? == before);

    // Another lab is at it: what is its stays.
    servers.db.connect().await?.query_drop("CREATE DATABASE rowbust_lab_1_1").await?;
    let _: () = shop::redis(servers.redis.port()).await?.set("rowbust-lab:1_1:item:7:0", "its").await?;
    let before = servers.traces().await?;
    let args = ["run", "--seconds", "1", "--mysql", &mysql, "--redis", &redis, "--out", "second"];
    let out = lab(servers.dir.path(), &args)?.output()?;
    ensure!(out.status.code() == Some(1) && text(&out).contains("rowbust_lab_1_1"), "{}", text(&out));
    let touched = servers.traces().await?.differ(&before);
    ensure!(touched.is_empty(), "{touched:#?}");
    Ok(())
}

async fn a_signal_leaves_nothing_behind(flavor: Flavor) -> Result<()> {
    let Some(servers) = Servers::start(flavor).await? else { return Ok(()) };
    let before = servers.traces().await?;
    let (mysql, redis) = (servers.mysql(), servers.cache());
    let args = ["run", "--seconds", "600", "--mysql", &mysql, "--redis", &redis, "--out", "o"];
    let child = lab(servers.dir.path(), &args)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let begun = Instant::now();
    let mut cache = shop::redis(servers.redis.port()).await?;
    // Readers fill, and the daemon has left its mark.
    let is_running = async |cache: &mut redis::aio::MultiplexedConnection| {
        let cached: Vec<Vec<u8>> = cache.keys("*rowbust-lab:1*").await?;
        let marks: Vec<Vec<u8>> = cache.keys("rowbust:mark:*").await?;
        anyhow::Ok(cached.len() > 10 && !marks.is_empty())
    };
    while !is_running(&mut cache).await? {
        if begun.elapsed() > WITHIN {
            kill(pid, Signal::SIGKILL)?;
            anyhow::bail!("no run within {} s: {}", WITHIN.as_secs(), text(&child.wait_with_output()?));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(servers.traces().await? != before, "void: there is nothing to clean up");
    kill(pid, Signal::SIGINT)?;
    let begun = Instant::now();
    let out = tokio::task::block_in_place(|| child.wait_with_output())?;
    ensure!(out.status.code() == Some(130) && text(&out).contains("interrupted"), "{}", text(&out));
    ensure!(begun.elapsed() < ORDERLY, "it was cut off after {:?}", begun.elapsed());
    let left = servers.traces().await?.differ(&before);
    ensure!(left.is_empty(), "left {left:#?}");
    let left: Vec<_> = std::fs::read_dir(Path::new(servers.dir.path()).join("tmp"))?.collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}
