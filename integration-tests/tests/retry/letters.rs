//! `rowbust retry` on Kafka, on letters that a daemon has given up; two changes of them at once.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rowbust::telemetry;
use rowbust_integration_tests::daemon::{Daemon, binary, cli};
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Kafka, Need, StartOptions, require};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);
/// More than one step of a change.
const ORDERS: usize = 2100;

/// A command's exit code, data and words.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(out: &Output) -> Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = out.status.code().context("killed")?;
        Ok(Self { code, out: text(&out.stdout), err: text(&out.stderr) })
    }

    fn json(&self) -> Result<Value> {
        ensure!(self.code == 0, "exit {}: {}{}", self.code, self.out, self.err);
        serde_json::from_str(&self.out).with_context(|| self.out.clone())
    }

    /// The ids of records.
    fn ids(&self) -> Result<Vec<String>> {
        let records = self.json()?["records"].as_array().context("no records")?.clone();
        records.iter().map(|r| Ok(r["id"].as_str().context("no id")?.to_owned())).collect()
    }
}

fn retry(stage: &Stage, args: &[&str]) -> Result<Said> {
    let config = stage.config()?.display().to_string();
    let args = [&["-c", &config, "retry"], args].concat();
    Said::of(&tokio::task::block_in_place(|| cli(args))?)
}

/// Begins a command; it is waited for later.
fn begin(stage: &Stage, args: &[&str]) -> Result<Child> {
    let config = stage.config()?;
    let mut command = Command::new(binary()?);
    command.arg("-c").arg(config).arg("retry").args(args);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

async fn letters(daemon: &Daemon, wanted: usize) -> Result<()> {
    until("the number of dead letters", WITHIN, async || {
        let now = daemon.metric(telemetry::DEAD_LETTERS_NOW).await?;
        Ok(Seen::check((now - wanted as f64).abs() < 0.1, || format!("{now}, not {wanted}")))
    })
    .await
    .map_err(|error| daemon.explain(&error))
}

/// How many orders' numbers begin so.
fn beginning(digit: char) -> usize {
    (1..=ORDERS).filter(|id| id.to_string().starts_with(digit)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_daemon_on_kafka() -> Result<()> {
    if require(&[Need::Kafka]).is_none() {
        return Ok(());
    }
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "letters").await? else { return Ok(()) };
    let dir = stage.dir().join("kafka");
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(StartOptions::new(dir))).await??;
    let brokers = kafka.brokers();
    stage.settings.retry =
        Some(format!("{{ kafka: {{ brokers: [\"{brokers}\"], prefix: cli }}, delay: 1s, attempts: 1 }}"));
    let allow = |stage: &Stage, rules: &[&str]| -> Result<()> {
        let args = [&["ACL", "SETUSER", "limited"], rules].concat();
        let said = tokio::task::block_in_place(|| stage.redis.cli(&args))?;
        ensure!(said.trim() == "OK", "{said}");
        Ok(())
    };
    // Orders aren't its own.
    allow(&stage, &["on", ">choose-one", "+@all", "~product:*", "~category:*", "~ver:*", "~rowbust:*"])?;
    stage.settings.redis = Some(format!(
        "{{ url: \"redis://127.0.0.1:{}/0\", username: limited, password: choose-one }}",
        stage.redis.port()
    ));
    stage.open_shop(5).await?;
    let daemon = stage.start().await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut fill = redis::cmd("MSET");
    (1..=ORDERS).for_each(|id| _ = fill.arg(format!("order:{id}")).arg("old"));
    fill.exec_async(&mut cache).await?;
    let rows: Vec<String> = (1..=ORDERS).map(|id| format!("({id},1,{id})")).collect();
    let mut conn = stage.sql().await?;
    run(&mut conn, &[&format!("INSERT INTO orders VALUES {}", rows.join(","))]).await?;
    letters(&daemon, ORDERS).await?;
    stage.quiet(&daemon).await?;

    // Looking.
    let none = retry(&stage, &["ls"])?;
    ensure!(none.code == 0 && none.out == "no removals are waiting\n", "{}{}", none.out, none.err);
    let dead = |args: &[&str]| retry(&stage, &[&["--json", "ls", "--dead"], args].concat());
    let five = dead(&["--limit", "5"])?.ids()?;
    ensure!(five.len() == 5 && five.iter().all(|id| id.starts_with("cli.dead/")), "{five:?}");
    let seven = dead(&["--key", "order:7", "--to", "main", "--error", "NOPERM", "--younger", "1h"])?;
    let one = &seven.json()?["records"][0];
    ensure!(one["key"] == "order:7" && one["op"] == "unlink" && one["attempt"] == 1, "{one}");
    let original = &one["original"];
    ensure!(original["topic"] == "cli.retry.10s" || original[0] == "cli.retry.10s", "{one}");
    for (filter, count) in [
        (&["--key-prefix", "order:210", "--limit", "100"][..], 2),
        (&["--key", "order:20?"], 10),
        (&["--older", "1h"], 0),
        (&["--to", "other"], 0),
        (&["--error", "WRONGTYPE"], 0),
        (&["--id", &five[0], "--id", &five[1]], 2),
    ] {
        let found = dead(filter)?.ids()?;
        ensure!(found.len() == count, "{filter:?}: {found:?}");
    }
    let shown = retry(&stage, &["show", &five[0]])?;
    ensure!(shown.code == 0 && shown.out.contains("NOPERM"), "{}{}", shown.out, shown.err);
    let gone = retry(&stage, &["show", "cli.dead/0/999999"])?;
    ensure!(gone.code == 1 && gone.err.contains("there is nothing with the id"), "{}", gone.err);
    for (args, words) in [
        (&["ls", "--dead", "--key", "[", "--limit", "1"][..], "glob"),
        (&["drop"], "--yes"),
        (&["requeue", "--older", "soon"], "--older"),
    ] {
        let refused = retry(&stage, args)?;
        ensure!(
            refused.code == 2 && refused.err.contains(words),
            "{args:?}: {} {}",
            refused.code,
            refused.err
        );
    }
    for act in ["requeue", "drop"] {
        let dry = retry(&stage, &["--json", act, "--key", "order:1?", "--dry-run"])?.json()?;
        ensure!(dry["would"] == 10 && dry["records"].as_array().is_some_and(|r| r.len() == 10), "{dry}");
    }
    letters(&daemon, ORDERS).await?;

    // All of them, in steps that are shown; Redis still refuses, so they come back.
    let all = retry(&stage, &["requeue"])?;
    ensure!(
        all.code == 0 && all.out == format!("{ORDERS} dead letters sent back\n"),
        "{}{}",
        all.out,
        all.err
    );
    ensure!(all.err.contains("2000 sent back so far"), "no progress: {}", all.err);
    daemon.metric_at_least(telemetry::DEAD_LETTERS, 2.0 * ORDERS as f64, WITHIN).await?;
    letters(&daemon, ORDERS).await?;

    // One, whose cause is mended; and one that nobody wants.
    let is_cached = async |id: u32| -> Result<bool> {
        let mut cache = cache.clone();
        Ok(redis::cmd("EXISTS").arg(format!("order:{id}")).query_async(&mut cache).await?)
    };
    allow(&stage, &["~order:7"])?;
    ensure!(retry(&stage, &["--json", "requeue", "--key", "order:7"])?.json()?["requeued"] == 1);
    until("order:7 is removed", WITHIN, async || {
        Ok(Seen::check(!is_cached(7).await?, || "it is there".to_owned()))
    })
    .await?;
    let eight = dead(&["--key", "order:8"])?.ids()?;
    ensure!(retry(&stage, &["--json", "drop", "--id", &eight[0]])?.json()?["dropped"] == 1);
    ensure!(retry(&stage, &["--json", "drop", "--id", &eight[0]])?.json()?["dropped"] == 0, "only once");
    letters(&daemon, ORDERS - 2).await?;

    // Two at once, whose letters stand among each other's: each is done once, and none comes back.
    allow(&stage, &["~order:1*"])?;
    let requeue = begin(&stage, &["--json", "requeue", "--key", "order:1*"])?;
    let drop = begin(&stage, &["--json", "drop", "--key", "order:2*"])?;
    let [requeue, drop] = [requeue, drop].map(|child| Said::of(&child.wait_with_output()?));
    let (requeue, drop) = (requeue?.json()?, drop?.json()?);
    ensure!(requeue["requeued"] == beginning('1'), "{requeue}, not {}", beginning('1'));
    ensure!(drop["dropped"] == beginning('2'), "{drop}, not {}", beginning('2'));
    letters(&daemon, ORDERS - 2 - beginning('1') - beginning('2')).await?;
    stage.quiet(&daemon).await?;
    let left = dead(&["--limit", "10000"])?.json()?;
    let left = left["records"].as_array().context("no records")?;
    let mut keys: Vec<&str> = left.iter().filter_map(|record| record["key"].as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    ensure!(left.len() == keys.len(), "{} letters of {} keys", left.len(), keys.len());
    ensure!(!keys.iter().any(|key| key.starts_with("order:1") || key.starts_with("order:2")), "{keys:?}");
    ensure!(!is_cached(1).await? && !is_cached(1999).await?, "sent back, and not removed");
    ensure!(is_cached(2).await? && is_cached(2099).await?, "dropped, and removed");

    // The rest.
    let rest = retry(&stage, &["drop", "--yes"])?;
    ensure!(rest.code == 0 && rest.out == format!("{} dead letters dropped\n", keys.len()), "{}", rest.out);
    letters(&daemon, 0).await?;
    ensure!(retry(&stage, &["ls", "--dead"])?.out == "no dead letters\n");
    // A stranger's record: kept as it is, and never sent back.
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create()?;
    let stranger = FutureRecord::to("cli.retry.10s").key("who").payload("what");
    producer.send(stranger, WITHIN).await.map_err(|(error, _)| error)?;
    daemon.metric_at_least(telemetry::POISON, 1.0, WITHIN).await?;
    letters(&daemon, 1).await?;
    let poison = dead(&[])?.json()?;
    ensure!(poison["records"][0]["raw"] == "who what", "{poison}");
    ensure!(daemon.log_text().lines().any(|line| line.contains("ERROR") && line.contains("cli.retry.10s")));
    ensure!(retry(&stage, &["--json", "requeue"])?.json()?["requeued"] == 0, "there is nothing to try");
    letters(&daemon, 1).await?;
    ensure!(retry(&stage, &["--json", "drop", "--yes"])?.json()?["dropped"] == 1);
    letters(&daemon, 0).await?;

    // Nobody answers.
    tokio::task::block_in_place(|| kafka.stop())?;
    for args in [&["ls", "--dead"][..], &["requeue"], &["drop", "--yes"]] {
        let said = retry(&stage, args)?;
        ensure!(
            said.code == 69 && said.err.contains("can't be reached"),
            "{args:?}: {} {}",
            said.code,
            said.err
        );
    }
    Ok(())
}
