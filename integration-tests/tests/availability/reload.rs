//! The config taken anew while the daemon runs: nothing is lost under load, and a bad file changes nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::Signal;
use rowbust_integration_tests::daemon::cli;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::http;
use rowbust_integration_tests::load::Plan;
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{on_both, shop};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;

on_both!(ten_reloads_under_load, a_bad_file_changes_nothing);

const WITHIN: Duration = Duration::from_secs(30);
const RELOADS: u64 = 10;

async fn ten_reloads_under_load(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "reloads").await? else { return Ok(()) };
    stage.open_shop(60).await?;
    let mut daemon = stage.start().await?;
    let pause = Duration::from_millis(3);
    let plan = Plan { writers: 2, readers: 2, pause, hot: 40, seed: seed("ten_reloads_under_load") };
    let load = stage.load(plan);
    for n in 1..=RELOADS {
        let before = load.transactions();
        until("more load", WITHIN, async || Ok(Seen::check(load.transactions() > before + 30, String::new)))
            .await?;
        // With one more mapping each time, and without them in the end.
        let mut mappings = shop::mappings("reloads", "");
        for more in 1..=n % RELOADS {
            mappings
                .push_str(&format!("  - {{ table: reloads.more{more}, keys: [\"more{more}:{{id}}\"] }}\n"));
        }
        stage.settings.mappings = Some(mappings);
        let config = stage.config()?;
        if n % 2 == 0 {
            daemon.signal(Signal::SIGHUP)?;
            until("the reload", WITHIN, async || {
                let config = daemon.status().await?["config"].clone();
                Ok(Seen::check(config["reloads"] == n, || format!("{config}; {}", daemon.log_tail())))
            })
            .await?;
        } else {
            let args = ["-c", config.to_str().unwrap_or_default(), "reload", "--json"];
            let out = tokio::task::block_in_place(|| cli(args))?;
            let said = String::from_utf8_lossy(&out.stdout);
            let answer: Value = serde_json::from_str(&said).unwrap_or_default();
            ensure!(
                out.status.code() == Some(0) && answer["changed"] == true,
                "{said}\n{}",
                daemon.log_tail()
            );
        }
    }
    let history = load.stop().await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.metric("rowbust_reload_total").await? == RELOADS as f64);
    ensure!(daemon.metric("rowbust_reload_failed_total").await? == 0.0);
    ensure!(history.transactions.len() > 300 && history.fills > 0, "void: too little load");
    stage.judge(&history, &[], 60, 40).await.map_err(|e| daemon.explain(&e))?;
    Ok(())
}

async fn a_bad_file_changes_nothing(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "badfile").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    let reload = async || {
        let (status, body) = http::post(stage.admin(), "/reload", &json!({})).await?;
        anyhow::Ok((status, serde_json::from_str::<Value>(&body)?))
    };
    let path = stage.config()?;
    let good = fs::read_to_string(&path)?;
    let refused = async |text: &str, code: &str, word: &str| {
        fs::write(&path, text)?;
        let (status, body) = reload().await?;
        ensure!(status == 422 && body["error"]["code"] == code, "{status} {body}");
        ensure!(body.to_string().contains(word), "{word:?} is missing: {body}");
        anyhow::Ok(())
    };
    let (status, body) = reload().await?;
    ensure!(status == 200 && body["changed"] == false, "{status} {body}");

    // A mistake, with its place; nothing to parse at all; what can't change; a Redis that isn't what it should be.
    refused(&good.replace("mappings:", "mappngs:"), "reload.config", "mappngs").await?;
    refused("\t{", "reload.config", "rowbust.yaml").await?;
    let elsewhere = good.replace("checkpoint: { path: ", "checkpoint: { path: /elsewhere");
    refused(&elsewhere, "reload.fixed", "checkpoint").await?;
    let other = good
        .replace("version: 1\n", "version: 1\nlimits: { memory: 64MiB }\n")
        .replace("limits: { memory: 48MiB }\n", "");
    let other = other.replace("  tls: disabled\n", "  tls: required\n");
    if flavor == Flavor::MariaDb {
        // This server has no TLS: found before the old config is left.
        refused(&other, "reload.refused", "TLS").await?;
    }
    fs::write(&path, good.replace("version: 1", "version: 2"))?;
    daemon.signal(Signal::SIGHUP)?;
    let failures = if flavor == Flavor::MariaDb { 5 } else { 4 };
    until("the refusal", WITHIN, async || {
        let config = daemon.status().await?["config"].clone();
        Ok(Seen::check(config["reload_failures"] == failures, || config.to_string()))
    })
    .await?;
    let status = daemon.status().await?;
    let last = &status["config"]["last_reload"]["outcome"];
    ensure!(last["ok"] == false && last["error"]["errors"][0]["code"] == "config::bad_version", "{last}");
    ensure!(status["config"]["reloads"] == 0);
    ensure!(daemon.metric("rowbust_reload_failed_total").await? == failures as f64);
    ensure!(daemon.log_text().contains("the old one stays"), "{}", daemon.log_tail());

    // It goes on as before.
    conn.query_drop("UPDATE products SET ver=1001 WHERE id=1").await?;
    stage.quiet(&daemon).await?;
    ensure!(!stage.removals.of("product:1").is_empty(), "{}", daemon.log_tail());

    // A good one, with a mapping that is new and to be flushed.
    stage.settings.mappings = Some(format!(
        "{}  - {{ table: badfile.txlog, keys: [\"tx:{{n}}\"] }}\n",
        shop::mappings("badfile", "")
    ));
    let path = stage.config()?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    redis::cmd("SET").arg("tx:1").arg("old").query_async::<()>(&mut cache).await?;
    let args = ["-c", path.to_str().unwrap_or_default(), "reload", "--flush-new"];
    let out = tokio::task::block_in_place(|| cli(args))?;
    ensure!(out.status.code() == Some(0), "{out:?}\n{}", daemon.log_tail());
    until("the flush of the new mapping", WITHIN, async || {
        let there: bool = redis::cmd("EXISTS").arg("tx:1").query_async(&mut cache.clone()).await?;
        Ok(Seen::check(!there, || daemon.log_tail()))
    })
    .await?;
    conn.query_drop("INSERT INTO txlog VALUES (7)").await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.removals.of("tx:7").len() >= 2, "{}", daemon.log_tail());
    let status = daemon.sigterm(WITHIN).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    Ok(())
}

/// The events of a stream, with the lines as they come.
struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    async fn open(stage: &Stage, token: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.admin())).await?;
        let header =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut events = Self(BufReader::new(stream).lines());
        ensure!(events.next().await?.is_some_and(|(kind, _)| kind == "hello"));
        Ok(events)
    }

    /// The next event and its data; `None`: the stream has ended.
    async fn next(&mut self) -> Result<Option<(String, String)>> {
        let read = async {
            let mut kind = String::new();
            while let Some(line) = self.0.next_line().await? {
                if let Some(name) = line.strip_prefix("event: ") {
                    kind = name.to_owned();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    return Ok(Some((kind, data.to_owned())));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(WITHIN, read).await.context("no event, and no end")?
    }

    /// The events up to its end.
    async fn end(&mut self) -> Result<Vec<(String, String)>> {
        let all = async {
            let mut seen = Vec::new();
            while let Some(event) = self.next().await? {
                seen.push(event);
            }
            Ok(seen)
        };
        tokio::time::timeout(WITHIN, all).await.context("it goes on")?
    }

    /// Returns when a removal of this key was shown.
    async fn shows(&mut self, key: &str) -> Result<()> {
        while let Some((kind, data)) = self.next().await? {
            if kind == "removal" && data.contains(key) {
                return Ok(());
            }
        }
        anyhow::bail!("it ended before {key}")
    }
}

/// A stream that was opened with a token ends with the token: at a reload before anything more is shown, and where a file has another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_ends_streams() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "streams").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let tokens = ["the-first-token-of-three", "the-second-token-of-three", "the-third-token-of-three"];
    stage.settings.admin = format!(", token: {}", tokens[0]);
    let mut daemon = stage.start().await?;
    let (mut old, mut local) = (Events::open(&stage, tokens[0]).await?, Events::open(&stage, "").await?);
    let mut conn = stage.sql().await?;
    conn.query_drop("UPDATE products SET ver=1001 WHERE id=1").await?;
    for stream in [&mut old, &mut local] {
        stream.shows("ver:1001").await?;
    }

    let file = stage.dir().join("token");
    fs::write(&file, tokens[1])?;
    stage.settings.admin = format!(", token_file: {}", file.display());
    stage.config()?;
    daemon.signal(Signal::SIGHUP)?;
    until("the reload", WITHIN, async || {
        let config = daemon.status().await?["config"].clone();
        Ok(Seen::check(config["reloads"] == 1, || format!("{config}; {}", daemon.log_tail())))
    })
    .await?;
    let mut new = Events::open(&stage, tokens[1]).await?;
    conn.query_drop("UPDATE products SET ver=1002 WHERE id=1").await?;
    // One that may see keys by its address goes on.
    for stream in [&mut new, &mut local] {
        stream.shows("ver:1002").await?;
    }
    let seen = old.end().await?;
    ensure!(
        !seen.iter().any(|(_, data)| data.contains("1002")),
        "keys were shown to the old token: {seen:?}"
    );

    fs::write(&file, tokens[2])?;
    new.end().await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    Ok(())
}
