//! Servers, processor time and memory of processes, and statistics. No figure comes from here alone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rowbust_servers::{MariaDb, MySql, Need, Redis, StartOptions, install};
use tokio::runtime::Runtime;

/// What all measurements share.
pub(super) struct Bench {
    pub(super) mysql: bool,
    pub(super) quick: bool,
    pub(super) fresh: bool,
    /// `target/bench`.
    pub(super) home: PathBuf,
    /// The workspace.
    pub(super) root: PathBuf,
}

impl Bench {
    pub(super) fn new(mysql: bool, quick: bool, fresh: bool) -> Result<Self> {
        let root = crate::workspace()?;
        let home = target_dir(&root)?.join("bench");
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        install::ensure(&[if mysql { Need::MySql } else { Need::MariaDb }, Need::Redis])?;
        Ok(Self { mysql, quick, fresh, home, root })
    }

    pub(super) fn flavor_name(&self) -> &'static str {
        if self.mysql { "mysql" } else { "mariadb" }
    }

    /// `full`, or with `--quick` a tenth of it.
    pub(super) fn scaled(&self, full: u32) -> u32 {
        if self.quick { full / 10 } else { full }
    }

    /// Rounds of runs that take turns.
    pub(super) fn rounds(&self) -> u32 {
        if self.quick { 1 } else { 5 }
    }

    /// An empty folder that goes with the value.
    pub(super) fn scratch(&self, name: &str) -> Result<Scratch> {
        let dir = self.home.join(format!("{name}-{}", std::process::id()));
        remove(&dir)?;
        fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    pub(super) fn redis(&self, dir: &Path) -> Result<Redis> {
        Redis::start(StartOptions::new(dir.join("redis")))
    }
}

/// A folder, removed with the value.
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn target_dir(root: &Path) -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir)?,
        None => root.join("target"),
    })
}

/// MariaDB or MySQL, set up to commit as fast as it can: no sync at commit, no doublewrite.
pub(super) enum Db {
    Maria(MariaDb),
    MySql(MySql),
}

macro_rules! each {
    ($self:ident, $s:ident => $e:expr) => {
        match $self {
            Db::Maria($s) => $e,
            Db::MySql($s) => $e,
        }
    };
}

impl Db {
    pub(super) fn start(bench: &Bench, dir: &Path) -> Result<Self> {
        let mut options = StartOptions::new(dir);
        let common = [
            "--innodb-flush-log-at-trx-commit=0",
            "--sync-binlog=0",
            "--innodb-doublewrite=0",
            "--innodb-buffer-pool-size=512M",
            "--binlog-cache-size=1M",
        ];
        let log = if bench.mysql { "--innodb-redo-log-capacity=1G" } else { "--innodb-log-file-size=512M" };
        for arg in common.into_iter().chain([log]) {
            options = options.arg(arg);
        }
        Ok(if bench.mysql {
            Self::MySql(MySql::start(options)?)
        } else {
            Self::Maria(MariaDb::start(options)?)
        })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Maria(s) => format!("MariaDB {}", s.version()),
            Self::MySql(s) => format!("MySQL {}", s.version()),
        }
    }

    pub(super) fn port(&self) -> u16 {
        each!(self, s => s.port())
    }

    pub(super) fn pid(&self) -> Result<u32> {
        each!(self, s => s.pid()).context("the database has ended")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        each!(self, s => s.data_dir())
    }

    pub(super) fn stop(&self) -> Result<()> {
        each!(self, s => s.stop())
    }

    pub(super) fn is_mysql(&self) -> bool {
        matches!(self, Self::MySql(_))
    }

    /// Runs statements one after the other on a connection of their own.
    pub(super) fn run(&self, statements: &[&str]) -> Result<()> {
        runtime()?.block_on(async {
            let mut conn = connect(self.port()).await?;
            for statement in statements {
                conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
            }
            Ok(conn.disconnect().await?)
        })
    }

    /// Switches to a new binlog file and gives its name.
    pub(super) fn new_binlog(&self) -> Result<String> {
        self.run(&["FLUSH BINARY LOGS"])?;
        let statement = if self.is_mysql() { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
        runtime()?.block_on(async {
            let mut conn = connect(self.port()).await?;
            let row: Option<mysql_async::Row> = conn.query_first(statement).await?;
            conn.disconnect().await?;
            row.and_then(|row| row.get(0)).context("no binlog")
        })
    }
}

/// A connection to the database, over TCP like the daemon's.
pub(super) async fn connect(port: u16) -> Result<Conn> {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        .prefer_socket(false)
        .tcp_nodelay(true)
        .max_allowed_packet(Some(1 << 30))
        .wait_timeout(Some(28_800));
    Ok(Conn::new(opts).await?)
}

/// One thread: its processor time is the caller's.
pub(super) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Processor time of a process, user and system: fields 14 and 15 of `/proc/PID/stat`, proc_pid_stat(5), in ticks of
/// 1/100 s (USER_HZ, the same on every architecture that Linux tells it to programs).
pub(super) fn process_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let fields = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(Duration::from_millis((user + system) * 10)),
        _ => anyhow::bail!("/proc/{pid}/stat has no times"),
    }
}

/// Peak resident memory in MiB: `VmHWM` of `/proc/PID/status`, proc_pid_status(5).
pub(super) fn peak_memory(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u32 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(f64::from(kib) / 1024.0)
}

/// Processor time of this process.
pub(super) fn own_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

pub(super) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|f| f.parse().ok()).unwrap_or(0.0)
}

/// The middle one.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    quantile(&mut figures, 0.5)
}

/// By rank; sorts.
pub(super) fn quantile(figures: &mut [f64], q: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (q * figures.len().saturating_sub(1) as f64).round() as usize;
    figures.get(at).copied().unwrap_or(f64::NAN)
}

/// `total` shared by `n`, in microseconds.
pub(super) fn micros_per(total: Duration, n: u32) -> f64 {
    total.as_secs_f64() * 1e6 / f64::from(n.max(1))
}
