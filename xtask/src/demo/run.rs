//! One run: the application under its faults, then quiescence, then the comparison.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mysql_async::Conn;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::app::{Totals, now_micros};
use super::commits::{Commit, Window, read_journal};
use super::compare::{Compared, compare};
use super::daemon::{Daemon, Settings};
use super::live::{Live, grouped};
use super::monitor::{History, Monitor};
use super::tail;
use super::world::World;

/// How long Redis is down.
const OUTAGE: Duration = Duration::from_secs(2);
/// Between two looks at the running processes.
const LOOK: Duration = Duration::from_millis(100);
/// The application finishes what it has begun; loaded machine.
const APP_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What happens in a run, at fractions of its length.
const REDIS_DOWN: f64 = 0.25;
const DAEMON_KILLED: f64 = 0.55;
const APP_KILLED: f64 = 0.75;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) totals: Totals,
    pub(crate) commits: Vec<Commit>,
    pub(crate) history: History,
    /// When Redis was down.
    pub(crate) outage: Window,
    /// When the daemon was down.
    pub(crate) restart: Option<Window>,
    /// From the end of the application until nothing was left to do.
    pub(crate) quiet_after: Duration,
    pub(crate) compared: Compared,
    /// Of the daemon, bytes.
    pub(crate) peak_rss: Option<u64>,
}

impl Outcome {
    pub(crate) fn windows(&self) -> Vec<Window> {
        std::iter::once(self.outage).chain(self.restart).collect()
    }
}

/// Runs the application, with the daemon where its program is given.
pub(crate) async fn run(world: &World, program: Option<&Path>, live: &mut Live) -> Result<Outcome> {
    let name = if program.is_some() { "with" } else { "without" };
    let dir = world.dir.join(name);
    fs::create_dir_all(&dir)?;
    let redis = redis::Client::open(world.redis.url())?;
    let mut cache = redis.get_multiplexed_async_connection().await.context("no connection to redis")?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut cache).await?;
    drop(cache);

    let mut daemon = match program {
        Some(program) => Some(Daemon::start(program, &dir.join("rowbust"), &settings(world)).await?),
        None => None,
    };
    let monitor = Monitor::start(world.redis.port())?;
    let mut app = App::start(world, &dir, 0)?;
    let mut stage = Stage { start: Instant::now(), name, length: world.length, before: Totals::default() };
    live.say(&format!("run {name} rowbust, {} s:", world.length.as_secs()));

    stage.play_until(REDIS_DOWN, &mut app, &mut daemon, live).await?;
    stage.say(live, "redis: SHUTDOWN SAVE");
    let from = now_micros();
    world.redis.shutdown_save()?;
    stage.play(OUTAGE, &mut app, &mut daemon, live).await?;
    world.redis.start_again()?;
    let outage = Window { from, to: now_micros() };
    stage.say(live, "redis: started again with its data");

    let mut restart = None;
    stage.play_until(DAEMON_KILLED, &mut app, &mut daemon, live).await?;
    if let Some(daemon) = daemon.as_mut() {
        stage.say(live, "rowbust: kill -9, and started again at once");
        let from = now_micros();
        daemon.kill9_and_start().await?;
        restart = Some(Window { from, to: now_micros() });
        stage.say(live, "rowbust: follows the binlog again");
    }
    stage.play_until(APP_KILLED, &mut app, &mut daemon, live).await?;
    stage.say(live, "application: kill -9, and started again at once");
    stage.before = app.kill9().await?;
    app = App::start(world, &dir, 1)?;
    stage.play_until(1.0, &mut app, &mut daemon, live).await?;
    let totals = stage.before.plus(app.stop().await?);

    let stopped = Instant::now();
    if let Some(daemon) = daemon.as_mut() {
        daemon.wait_until_quiet(live).await?;
    }
    let quiet_after = stopped.elapsed();
    let history = monitor.finish();
    live.show(|| "comparing every cached key with the database".into());
    let mut cache = redis.get_multiplexed_async_connection().await.context("no connection to redis")?;
    let mut db = Conn::from_url(world.database.url()).await?;
    let compared = compare(&mut db, &mut cache, world.size).await?;
    db.disconnect().await?;
    let peak_rss = match daemon {
        Some(daemon) => Some(daemon.stop().await?),
        None => None,
    };
    let commits = [read_journal(&journal(&dir, 0))?, read_journal(&journal(&dir, 1))?].concat();
    if !commits.iter().any(|commit| commit.deleted == Some(false)) {
        bail!("void run: no DEL failed while redis was down");
    }
    Ok(Outcome { totals, commits, history, outage, restart, quiet_after, compared, peak_rss })
}

fn settings(world: &World) -> Settings<'_> {
    Settings {
        database_port: world.database.port(),
        redis_port: world.redis.port(),
        brokers: world.brokers.as_deref(),
        user: &world.user,
        password: &world.password,
    }
}

/// Time and live line of a run.
struct Stage {
    start: Instant,
    name: &'static str,
    length: Duration,
    /// Of the application's process that was killed.
    before: Totals,
}

impl Stage {
    fn say(&self, live: &mut Live, text: &str) {
        live.say(&format!("  {:5.1} s  {text}", self.start.elapsed().as_secs_f64()));
    }

    /// Lets the run go on to a fraction of its length.
    async fn play_until(
        &self,
        to: f64,
        app: &mut App,
        daemon: &mut Option<Daemon>,
        live: &mut Live,
    ) -> Result<()> {
        let left = self.length.mul_f64(to).saturating_sub(self.start.elapsed());
        self.play(left, app, daemon, live).await
    }

    async fn play(
        &self,
        time: Duration,
        app: &mut App,
        daemon: &mut Option<Daemon>,
        live: &mut Live,
    ) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            app.still_runs()?;
            if let Some(daemon) = daemon {
                daemon.still_runs()?;
            }
            live.show(|| {
                let t = self.before.plus(app.totals());
                format!(
                    "  {:5.1} s  {} rowbust: {} reads, {} % hits, {} writes, {} DELs failed",
                    self.start.elapsed().as_secs_f64(),
                    self.name,
                    grouped(t.reads),
                    t.hits * 100 / t.reads.max(1),
                    grouped(t.writes),
                    grouped(t.dels_failed),
                )
            });
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// The application's process.
struct App {
    child: Child,
    totals: Arc<Mutex<Totals>>,
    reader: JoinHandle<()>,
    log: PathBuf,
}

fn journal(dir: &Path, life: u64) -> PathBuf {
    dir.join(format!("journal-{life}"))
}

impl App {
    /// `life` counts its starts in a run: the second life makes other choices than the first.
    fn start(world: &World, dir: &Path, life: u64) -> Result<Self> {
        let log = dir.join("app.log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-app")
            .arg("--mysql")
            .arg(world.database.url())
            .arg("--redis")
            .arg(world.redis.url())
            .arg("--seed")
            .arg(world.seed.wrapping_mul(2).wrapping_add(life).to_string())
            .arg("--products")
            .arg(world.size.products.to_string())
            .arg("--customers")
            .arg(world.size.customers.to_string())
            .arg("--rate")
            .arg(world.rate.to_string())
            .arg("--connections")
            .arg(world.connections.to_string())
            .arg("--journal")
            .arg(journal(dir, life))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the application")?;
        let totals = Arc::new(Mutex::new(Totals::default()));
        let stdout = child.stdout.take().context("no stdout")?;
        let reader = tokio::spawn({
            let totals = Arc::clone(&totals);
            async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(read) = serde_json::from_str(&line) {
                        *totals.lock().unwrap_or_else(PoisonError::into_inner) = read;
                    }
                }
            }
        });
        Ok(Self { child, totals, reader, log })
    }

    fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the application ended by itself: {status}; {}", tail(&self.log)),
        }
    }

    async fn kill9(mut self) -> Result<Totals> {
        self.child.kill().await.context("cannot kill the application")?;
        (&mut self.reader).await?;
        Ok(self.totals())
    }

    /// Closes its stdin: it finishes what it has begun.
    async fn stop(mut self) -> Result<Totals> {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(APP_ENDS_WITHIN, self.child.wait()).await;
        let status = ended.context("the application doesn't end")??;
        if !status.success() {
            bail!("the application ended with {status}; {}", tail(&self.log));
        }
        (&mut self.reader).await?;
        Ok(self.totals())
    }
}
