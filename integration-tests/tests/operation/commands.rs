//! The commands that talk to a running daemon, and the admin server behind them, as a user meets them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::{binary, cli};
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{on_both, shop};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_both!(asks_a_running_daemon, why_of_what_redis_names, looks_without_touching, new_mappings);

const WITHIN: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-of-twenty-six-chars";

/// Exit code, stdout, stderr.
fn rowbust(stage: &Stage, args: &[&str]) -> Result<(i32, String, String)> {
    let config = stage.config()?;
    let config = config.to_str().context("odd path")?;
    let out = tokio::task::block_in_place(|| cli([&["-c", config], args].concat()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    ensure!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "{args:?} shows the token");
    Ok((out.status.code().context("killed")?, stdout, stderr))
}

/// The JSON that a command prints, which must succeed.
fn json_of(stage: &Stage, args: &[&str]) -> Result<Value> {
    let (code, stdout, stderr) = rowbust(stage, &[args, &["--json"]].concat())?;
    ensure!(code == 0, "{args:?}: exit {code}: {stdout}{stderr}");
    let value: Value = serde_json::from_str(&stdout).with_context(|| format!("{args:?}: {stdout}"))?;
    ensure!(value["schema_version"] == 1, "{args:?}: {value}");
    Ok(value)
}

/// Keys that a prefix or a set names were removed by a row change, too.
async fn why_of_what_redis_names(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "named").await? else { return Ok(()) };
    stage.settings.mappings = Some(
        "\n  - table: named.products\n    fill_grace: 50ms\n    keys:\n      - { prefix: \"feed:{id}:\" }\n      \
         - { members_of: \"tag:{id}\" }\n"
            .into(),
    );
    stage.open_shop(10).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut all = redis::pipe();
    all.set("feed:1:a", "old").ignore().set("feed:2:a", "old").ignore();
    all.set("page:x", "old").ignore().sadd("tag:1", "page:x").ignore();
    all.exec_async(&mut cache).await?;
    let mut conn = stage.sql().await?;
    conn.query_drop("UPDATE products SET ver=1001 WHERE id=1").await?;
    stage.quiet(&daemon).await?;
    let end = stage.db.newest(&mut conn).await?;
    for key in ["feed:1:a", "page:x"] {
        ensure!(!cache.exists::<_, bool>(key).await?, "void: {key} is there");
        let why = json_of(&stage, &["why", key])?;
        let removal = &why["removals"][0];
        let place = (removal["file"].as_str().unwrap_or_default(), removal["position"].as_u64());
        ensure!(place.0 == end.0 && (Some(5)..Some(end.1)).contains(&place.1), "{key}: {why:#}, end {end:?}");
        ensure!(removal["gtid"].is_string() && removal["at_ms"].as_u64() > Some(0), "{key}: {why:#}");
    }
    ensure!(json_of(&stage, &["why", "feed:2:a"])?["removals"] == json!([]));
    Ok(())
}

async fn asks_a_running_daemon(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "asked").await? else { return Ok(()) };
    stage.open_shop(20).await?;
    std::fs::write(stage.dir().join("token"), format!("{TOKEN}\n"))?;
    stage.settings.admin = format!(", token_file: {}", stage.dir().join("token").display());

    // Nobody is there: which address was asked, and what to do.
    let (code, _, said) = rowbust(&stage, &["status"])?;
    let address = format!("127.0.0.1:{}", stage.admin());
    ensure!(code == 69 && said.contains(&address) && said.contains(" run"), "exit {code}: {said}");
    ensure!(rowbust(&stage, &["healthcheck"])?.0 == 1);
    let (code, shown, said) = rowbust(&stage, &["why", "product:7"])?;
    ensure!(code == 0 && shown.contains("id=7") && said.contains("no daemon"), "exit {code}: {shown}{said}");

    let daemon = stage.start().await?;
    ensure!(rowbust(&stage, &["healthcheck"])?.0 == 0);
    ensure!(rowbust(&stage, &["healthcheck", "--ready"])?.0 == 0);
    let (code, shown, _) = rowbust(&stage, &["status"])?;
    ensure!(code == 0 && shown.contains("ready") && shown.contains("redis main"), "{shown}");
    ensure!(json_of(&stage, &["status"])?["checkpoint"]["position"].is_u64());

    // Who may do what.
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        let (status, body) = http::ask(stage.admin(), "POST", path, &headers, "{}").await?;
        let body: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        anyhow::Ok((status, body["error"]["code"].as_str().unwrap_or_default().to_owned()))
    };
    for path in ["/pause", "/resume", "/reload", "/flush", "/flush/cancel", "/retry/requeue", "/retry/drop"] {
        for (headers, status, code) in [
            (&[("X-Rowbust", "1")][..], 401, "admin.token_required"),
            (&[("Authorization", "Bearer a-token-of-twenty-six-charZ")], 401, "admin.bad_token"),
            (&[("X-Rowbust", "1"), ("Host", "rebound.example")], 403, "admin.host"),
        ] {
            let answer = post(path, headers).await?;
            ensure!(answer == (status, code.to_owned()), "{path} {headers:?}: {answer:?}");
        }
    }
    let (status, body) =
        http::ask(stage.admin(), "GET", "/status", &[("Host", "rebound.example")], "").await?;
    ensure!(status == 403 && body.contains("admin.host"), "{status} {body}");
    ensure!(http::get(stage.admin(), "/nothing").await?.0 == 404);
    for (method, path, body, status, code) in [
        ("GET", "/pause", "", 405, "admin.method"),
        ("POST", "/flush", "no json", 400, "admin.body"),
        ("POST", "/flush", "{\"tabel\": \"a.b\"}", 422, "admin.body"),
        ("GET", "/why", "", 400, "admin.query"),
    ] {
        let headers = [("Content-Type", "application/json"), ("Authorization", &format!("Bearer {TOKEN}"))];
        let (got, said) = http::ask(stage.admin(), method, path, &headers, body).await?;
        let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(got == status && said["error"]["code"] == code, "{method} {path} {body}: {got} {said}");
    }

    // Why: by which commit, exactly.
    let mut conn = stage.sql().await?;
    let update = "UPDATE products SET ver=1001 WHERE id=1";
    let expected = match flavor {
        Flavor::MariaDb => {
            conn.query_drop(update).await?;
            conn.query_first::<String, _>("SELECT @@last_gtid").await?.context("no GTID")?
        }
        Flavor::MySql => {
            let gtid = "aaaaaaaa-0000-0000-0000-aaaaaaaaaaaa:7";
            run(&mut conn, &[&format!("SET gtid_next='{gtid}'"), update, "SET gtid_next='AUTOMATIC'"])
                .await?;
            gtid.to_owned()
        }
    };
    stage.quiet(&daemon).await?;
    let why = json_of(&stage, &["why", "product:1"])?;
    let removal = &why["removals"][0];
    ensure!(why["mappings"][0]["row"] == json!({ "id": "1" }), "{why:#}");
    ensure!(removal["gtid"] == json!(expected), "not {expected}: {why:#}");
    ensure!(removal["removal"] == "last" && removal["position"].as_u64() > Some(4), "{why:#}");
    ensure!(why["owed"] == json!([]) && why["dead"] == json!([]), "{why:#}");
    let (_, shown, _) = rowbust(&stage, &["why", "product:1"])?;
    ensure!(shown.contains(&expected) && shown.contains("id=1"), "{shown}");
    let (_, shown, _) = rowbust(&stage, &["why", "control:1"])?;
    ensure!(shown.contains("no mapping") && shown.contains("no removal"), "{shown}");

    // Paused at a transaction's end, and on from there.
    let (code, shown, said) = rowbust(&stage, &["pause"])?;
    ensure!(code == 0 && shown == "paused\n", "exit {code}: {shown}{said}");
    ensure!(json_of(&stage, &["pause"])?["changed"] == false);
    until("the stream's end", WITHIN, async || {
        let status = daemon.status().await?;
        Ok(Seen::check(status["source"]["connected"] == false, || status.to_string()))
    })
    .await?;
    let (status, body) = http::get(stage.admin(), "/readyz").await?;
    ensure!(status == 503 && body.contains("paused"), "{status} {body}");
    ensure!(
        rowbust(&stage, &["healthcheck"])?.0 == 0 && rowbust(&stage, &["healthcheck", "--ready"])?.0 == 1
    );
    conn.query_drop("UPDATE products SET ver=1002 WHERE id=2").await?;
    stage.fence()?;
    ensure!(stage.removals.of("product:2").is_empty(), "removed while paused");
    ensure!(daemon.metric("rowbust_paused").await? == 1.0);
    ensure!(json_of(&stage, &["resume"])?["changed"] == true);
    stage.quiet(&daemon).await?;
    ensure!(!stage.removals.of("product:2").is_empty(), "{}", daemon.log_tail());
    ensure!(stage.status_number(&daemon, "reconnects").await? == 0);

    events(&mut stage, &mut conn).await?;
    Ok(())
}

/// Rates each second, removals as they come, and that the breaker opens.
async fn events(stage: &mut Stage, conn: &mut mysql_async::Conn) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", stage.admin())).await?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut lines = tokio::io::BufReader::new(stream).lines();
    let mut seen: Vec<(String, Value)> = Vec::new();
    let mut kind = String::new();
    let mut ver = 2000;
    let all = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(name) = line.strip_prefix("event: ") {
                kind = name.to_owned();
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            seen.push((kind.clone(), serde_json::from_str(data)?));
            let has = |kind: &str| seen.iter().any(|(k, _)| k == kind);
            if seen.len() == 1 {
                ensure!(kind == "hello" && seen[0].1["keys"] == true, "{seen:?}");
            }
            if kind == "rates" && !has("removal") {
                ver += 1;
                conn.query_drop(format!("UPDATE products SET ver={ver} WHERE id=3")).await?;
            } else if has("removal") && !has("breaker") {
                stage.proxy.cut().await;
                ver += 1;
                conn.query_drop(format!("UPDATE products SET ver={ver} WHERE id=3")).await?;
            } else if has("breaker") && has("log") && has("rates") {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the events ended")
    };
    tokio::time::timeout(WITHIN, all).await.with_context(|| format!("not all events came: {seen:#?}"))??;
    stage.proxy.open().await?;
    let of =
        |kind: &str| seen.iter().find(|(k, _)| k == kind).map(|(_, data)| data.clone()).unwrap_or_default();
    let removed = of("removal");
    ensure!(
        removed["target"] == "main" && removed["key"].is_string() && removed["position"].is_u64(),
        "{removed}"
    );
    ensure!(of("breaker")["breaker"] == "open", "{seen:?}");
    ensure!(of("rates")["targets"][0]["per_second"]["first"].is_number(), "{seen:?}");
    Ok(())
}

/// A command that runs until it is told to end, and its lines.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(stage: &Stage, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?)
            .arg("-c")
            .arg(stage.config()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn next(&self, within: Duration) -> Option<Value> {
        let line = tokio::task::block_in_place(|| self.lines.recv_timeout(within)).ok()?;
        Some(serde_json::from_str(&line).unwrap_or(Value::String(line)))
    }

    /// SIGINT; its exit code and what it still said.
    fn end(mut self) -> Result<(Option<i32>, Vec<Value>)> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let status = tokio::task::block_in_place(|| self.child.wait())?;
        let mut rest = Vec::new();
        while let Some(value) = self.next(Duration::from_secs(1)) {
            rest.push(value);
        }
        Ok((status.code(), rest))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

async fn looks_without_touching(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "looks").await? else { return Ok(()) };
    stage.open_shop(20).await?;
    let mut conn = stage.sql().await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let keys = async || anyhow::Ok(redis::cmd("DBSIZE").query_async::<u64>(&mut cache.clone()).await?);
    let before = keys().await?;

    // watch: no daemon runs, nothing is there afterwards.
    let watch = Running::start(&stage, &["watch", "--json", "--table", "looks.*", "--key", "product:*"])?;
    let mut ver = 1000;
    let change = loop {
        ver += 1;
        run(
            &mut conn,
            &[&format!("UPDATE products SET ver={ver} WHERE id=1"), "REPLACE INTO orders VALUES (1,1,1)"],
        )
        .await?;
        match watch.next(Duration::from_millis(500)) {
            Some(change) => break change,
            None => ensure!(ver < 1100, "watch shows nothing"),
        }
    };
    ensure!(change["table"] == "looks.products" && change["change"] == "update", "{change}");
    let has = |change: &Value, key: &str| {
        change["keys"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|k| k["key"] == key && k["target"] == "main"))
    };
    ensure!(
        has(&change, "product:1") && change["gtid"].is_string() && change["position"].is_u64(),
        "{change}"
    );
    let (code, rest) = watch.end()?;
    ensure!(
        code == Some(0) && rest.iter().all(|change| change["table"] == "looks.products"),
        "{code:?} {rest:?}"
    );
    ensure!(!stage.checkpoint_path().exists() && stage.removals.total() == 0 && keys().await? == before);

    // A dry run from the checkpoint on: what a run would remove, and the checkpoint where it was.
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    daemon.sigterm(WITHIN).await?;
    let (checkpoint, removals) = (stage.checkpoint()?, stage.removals.total());
    conn.query_drop("UPDATE products SET ver=5001, sku='new' WHERE id=2").await?;
    let dry = Running::start(&stage, &["run", "--dry-run", "--json"])?;
    let change = dry.next(WITHIN).context("the dry run shows nothing")?;
    ensure!(
        has(&change, "product:2") && has(&change, "product:sku:s2") && has(&change, "product:sku:new"),
        "{change}"
    );
    let (code, rest) = dry.end()?;
    let summary = rest.last().context("no summary")?;
    ensure!(code == Some(0) && summary["type"] == "summary", "{code:?} {rest:?}");
    ensure!(
        summary["tables"]["looks.products"]["rows"] == 1 && summary["targets"]["main"].as_u64() > Some(3),
        "{summary}"
    );
    stage.fence()?;
    ensure!(stage.checkpoint()? == checkpoint && stage.removals.total() == removals);

    // flush: counted, then gone; first without a daemon.
    let table = ["flush", "--table", "looks.products"];
    let counted = json_of(&stage, &[&table[..], &["--dry-run"]].concat())?;
    // Three copies of each product.
    ensure!(counted["by_daemon"] == false && counted["flush"]["targets"][0]["removed"] == 60, "{counted}");
    ensure!(keys().await? == before);
    let removed = json_of(&stage, &table)?;
    ensure!(removed["flush"]["targets"][0]["removed"] == 60, "{removed}");
    let left: Vec<String> = cache.keys("*").await?;
    ensure!(left.len() == 20 && left.iter().all(|key| key.starts_with("control:")), "{left:?}");

    let daemon = stage.start().await?;
    // What changed while it was down is removed first.
    stage.quiet(&daemon).await?;
    let _: () = cache.mset(&[("product:1", "x"), ("product:sku:a", "x"), ("product:2", "x")]).await?;
    let (code, _, said) = rowbust(&stage, &["flush", "--key", "control:1"])?;
    ensure!(code == 2 && said.contains("no mapping"), "exit {code}: {said}");
    ensure!(rowbust(&stage, &["flush"])?.0 == 2);
    let one = json_of(&stage, &["flush", "--key", "product:1"])?;
    ensure!(one["by_daemon"] == true && one["flush"]["state"] == "done", "{one}");
    ensure!(!cache.exists::<_, bool>("product:1").await? && cache.exists::<_, bool>("product:2").await?);
    let counted = json_of(&stage, &["flush", "--all", "--dry-run"])?;
    ensure!(counted["flush"]["targets"][0]["removed"] == 2, "{counted}");
    let (code, shown, said) = rowbust(&stage, &table)?;
    ensure!(code == 0 && shown.contains("main: "), "exit {code}: {shown}{said}\n{}", daemon.log_tail());
    let left: Vec<String> = cache.keys("product:*").await?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A mapping that the last run didn't know: said without --flush-new, flushed with it, and known from then on.
async fn new_mappings(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "newmaps").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let orders = "\n  - { table: newmaps.orders, fill_grace: 100ms, keys: [\"order:{id}\"] }\n".to_owned();
    stage.settings.mappings = Some(orders.clone());
    let uncovered = async |daemon: &rowbust_integration_tests::daemon::Daemon| {
        anyhow::Ok(daemon.status().await?["config"]["uncovered"].clone())
    };
    let mut daemon = stage.start().await?;
    // The first start of all has nothing behind it.
    ensure!(uncovered(&daemon).await? == json!(["newmaps.orders"]));
    ensure!(daemon.log_text().contains("never covered"), "{}", daemon.log_tail());
    daemon.sigterm(WITHIN).await?;
    drop(daemon);

    let mut daemon = stage.start().await?;
    ensure!(uncovered(&daemon).await? == json!([]) && !daemon.log_text().contains("never covered"));
    daemon.sigterm(WITHIN).await?;
    drop(daemon);

    // The products come, with copies that nobody has followed.
    stage.settings.mappings = Some(shop::mappings("newmaps", ""));
    stage.settings.args = vec!["--flush-new".into()];
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut daemon = stage.start().await?;
    until("the flush", WITHIN, async || {
        let left: Vec<String> = cache.clone().keys("product:*").await?;
        Ok(Seen::check(left.is_empty(), || format!("{left:?}; {}", daemon.log_tail())))
    })
    .await?;
    ensure!(cache.exists::<_, bool>("control:1").await?);
    stage.quiet(&daemon).await?;
    let covered = stage.checkpoint()?.covered.context("nothing covered")?;
    ensure!(covered.len() == 5, "{covered:?}");
    daemon.sigterm(WITHIN).await?;
    drop(daemon);

    // Once.
    let _: () = cache.set("product:1", "x").await?;
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(cache.exists::<_, bool>("product:1").await? && !daemon.log_text().contains("new mappings"));
    daemon.sigterm(WITHIN).await?;
    Ok(())
}
