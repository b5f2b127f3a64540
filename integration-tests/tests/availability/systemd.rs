//! What systemd is told, by a socket in its place; and the unit, by systemd's own tools where they are.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rowbust_integration_tests::compose::root;
use rowbust_integration_tests::daemon::binary;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Need, require};

const WITHIN: Duration = Duration::from_secs(40);
/// `WatchdogSec`.
const WATCHDOG: Duration = Duration::from_secs(1);

type Told = Arc<Mutex<Vec<(Instant, String)>>>;

/// A daemon, and what it told.
struct Service {
    child: Child,
    told: Told,
    log: std::path::PathBuf,
}

impl Service {
    fn start(config: &Path, name: &str, failpoints: &str) -> Result<Self> {
        let dir = config.parent().context("no folder")?;
        let (path, log) = (dir.join(format!("{name}.sock")), dir.join(format!("{name}.log")));
        let socket = UnixDatagram::bind(&path)?;
        let told = Told::default();
        let notes = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
            }
        });
        let child = Command::new(binary()?)
            .args(["run", "-c"])
            .arg(config)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env("FAILPOINTS", failpoints)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        Ok(Self { child, told, log })
    }

    fn lines(&self) -> Vec<(Instant, String)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lines that begin so since then.
    fn count(&self, begin: &str, since: Instant) -> usize {
        self.lines().iter().filter(|(at, line)| *at > since && line.starts_with(begin)).count()
    }

    async fn hears(&self, begin: &str, since: Instant, times: usize) -> Result<()> {
        until(&format!("{times} times {begin}"), WITHIN, async || {
            let found = self.count(begin, since);
            Ok(Seen::check(found >= times, || {
                format!("{:?}\n{}", self.lines(), fs::read_to_string(&self.log).unwrap_or_default())
            }))
        })
        .await
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_told_of_each_turn_of_a_life() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MySql, "notified").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let config = stage.config()?;
    let begun = Instant::now();
    let mut service = Service::start(&config, "first", "")?;
    service.hears("READY=1", begun, 1).await?;
    service.hears("STATUS=following", begun, 1).await?;
    service.hears("WATCHDOG=1", begun, 4).await?;

    // Another one waits for its turn: that is ready, too.
    let (port, since) = (free_port()?, Instant::now());
    let text = fs::read_to_string(&config)?.replace(&format!(":{}", stage.admin()), &format!(":{port}"));
    let other = stage.dir().join("other.yaml");
    fs::write(&other, text)?;
    let standby = Service::start(&other, "second", "")?;
    standby.hears("READY=1", since, 1).await?;
    standby.hears("STATUS=standing by", since, 1).await?;
    standby.hears("WATCHDOG=1", since, 3).await?;
    drop(standby);

    // Redis fails: work waits, and rightly so. Longer than a part without leave may stand.
    let mut conn = stage.sql().await?;
    stage.proxy.cut().await;
    conn.query_drop("UPDATE products SET ver = 1001").await?;
    let since = Instant::now();
    service.hears("STATUS=following; redis fails: main", since, 1).await?;
    service.hears("WATCHDOG=1", since, 22).await?;
    stage.proxy.open().await?;

    // A new config; then one with a mistake.
    for (text, reloads, failures) in [("limits: { memory: 47MiB }", 1, 0), ("limits: { memory: 1MB }", 1, 1)]
    {
        let since = Instant::now();
        let old = fs::read_to_string(&config)?;
        let begin = old.find("limits: {").context("no limits")?;
        let end = begin + old[begin..].find('\n').context("no line")?;
        fs::write(&config, format!("{}{text}{}", &old[..begin], &old[end..]))?;
        service.signal(Signal::SIGHUP)?;
        service.hears("RELOADING=1", since, 1).await?;
        service.hears("MONOTONIC_USEC=", since, 1).await?;
        service.hears("READY=1", since, 1).await?;
        // Of the second one the daemon says so, and goes on with the old one: ready, fed, removing.
        let status = http::json(stage.admin(), "/status").await?;
        let counted = (&status["config"]["reloads"], &status["config"]["reload_failures"]);
        ensure!(counted == (&reloads.into(), &failures.into()), "{}", status["config"]);
        ensure!(fs::read_to_string(&service.log)?.contains("the old one stays") == (failures == 1));
        service.hears("WATCHDOG=1", since, 2).await?;
        let removed = stage.removals.of("product:1").len();
        conn.query_drop("UPDATE products SET ver = ver + 1 WHERE id = 1").await?;
        until("a removal", WITHIN, async || {
            Ok(Seen::check(stage.removals.of("product:1").len() > removed, String::new))
        })
        .await?;
    }

    // What doesn't run feeds nothing.
    service.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(Duration::from_millis(300)).await; // what was sent is heard
    let since = Instant::now();
    tokio::time::sleep(3 * WATCHDOG).await; // that nothing comes takes time
    ensure!(service.count("", since) == 0, "{:?}", service.lines());
    service.signal(Signal::SIGCONT)?;
    service.hears("WATCHDOG=1", since, 2).await?;

    let since = Instant::now();
    service.signal(Signal::SIGTERM)?;
    service.hears("STOPPING=1", since, 1).await?;
    let status = loop {
        if let Some(status) = service.child.try_wait()? {
            break status;
        }
        ensure!(since.elapsed() < WITHIN, "it doesn't end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_hangs_starves_the_watchdog() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MySql, "hanging").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let begun = Instant::now();
    // The worker's thread stops at this point; the others go on.
    let service = Service::start(&stage.config()?, "hanging", "before_first_removal=1*pause->off")?;
    service.hears("WATCHDOG=1", begun, 2).await?;
    stage.sql().await?.query_drop("UPDATE products SET ver = 1001").await?;
    until("a watchdog that isn't fed", WITHIN, async || {
        let last =
            service.lines().iter().rev().find(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| at.elapsed());
        Ok(Seen::check(last.is_some_and(|quiet| quiet > 2 * WATCHDOG), || format!("{last:?}")))
    })
    .await?;
    let log = fs::read_to_string(&service.log)?;
    ensure!(log.contains("no progress though there is something to do") && log.contains("removing"), "{log}");
    // The process itself is alive, as anybody who asks it is told.
    ensure!(http::get(stage.admin(), "/livez").await?.0 == 200);
    Ok(())
}

#[test]
fn the_unit_is_taken_and_hardened() -> Result<()> {
    let unit = fs::read_to_string(root().join("deploy/systemd/rowbust.service"))?;
    for line in [
        "Type=notify",
        "WatchdogSec=60s",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LimitCORE=0",
        "DynamicUser=yes",
    ] {
        ensure!(unit.lines().any(|l| l == line), "no line {line}");
    }
    let Some(analyze) = require(&[Need::Systemd]).and_then(|found| found.systemd_analyze) else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rowbust.service");
    // A program that exists.
    fs::write(&path, unit.replace("/usr/bin/rowbust", "/bin/true"))?;
    let run = |args: &[&str]| -> Result<String> {
        let out = Command::new(&analyze).args(args).arg(&path).output()?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        ensure!(out.status.success(), "systemd-analyze {args:?}: {text}");
        Ok(text)
    };
    let said = run(&["verify", "--man=no"])?;
    // Of systemd 254: older ones restart at an even pace.
    let newer = ["RestartSteps", "RestartMaxDelaySec"].map(|key| format!("Unknown key '{key}'"));
    let complaint =
        |line: &&str| line.contains("rowbust.service:") && !newer.iter().any(|key| line.contains(key));
    ensure!(said.lines().find(complaint).is_none(), "{said}");
    // 0 is best, 10 worst; in tenths.
    let said = run(&["security", "--offline=true", "--threshold=15", "--no-pager"])?;
    eprintln!("{}", said.lines().last().unwrap_or_default());
    Ok(())
}
