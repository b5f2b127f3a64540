//! Finds the servers' programs, and installs what is missing.
//!
//! Guarantees: what is usable already is used as it is; nothing here starts a system service ([`Need::Systemd`] is only asked for where
//! systemd doesn't run, the other packages hold none); downloads are kept in the [`crate::cache`]. Where packages can't be
//! installed, the error says which ones are wanted.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::geteuid;

use crate::fetch_sid;
use crate::kafka::KafkaPrograms;
use crate::mariadb::MariaDbPrograms;
use crate::mysql::MySqlPrograms;
use crate::prometheus::PrometheusPrograms;
use crate::redis::RedisPrograms;

/// Something that can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// MariaDB 10.11 or newer, with `mariadb-binlog`.
    MariaDb,
    /// MariaDB 11.8 or newer, with `mariadb-binlog`, beside an older one.
    MariaDb118,
    /// MySQL 9, with `mysqlbinlog`.
    MySql,
    /// Redis 7 or newer.
    Redis,
    /// Redis 8 or newer, beside an older one.
    Redis8,
    /// Valkey 8 or newer.
    Valkey,
    /// Apache Kafka 4 and a Java runtime for it.
    Kafka,
    /// sysbench, a load generator.
    Sysbench,
    /// Prometheus 3 or newer, with promtool.
    Prometheus,
    /// Docker Compose 2.20 or newer, for what needs no engine.
    Compose,
    /// Helm 3.12 or newer.
    Helm,
    /// Chromium, for the admin page.
    Chromium,
    /// systemd-analyze 252 or newer, for the unit.
    Systemd,
    /// libfaketime, for clocks that jump.
    Faketime,
}

impl Need {
    /// The servers.
    pub const SERVERS: [Self; 7] =
        [Self::MariaDb, Self::MariaDb118, Self::MySql, Self::Redis, Self::Redis8, Self::Valkey, Self::Kafka];

    /// What isn't a server of the daemon's.
    pub const TOOLS: [Self; 7] = [
        Self::Sysbench,
        Self::Chromium,
        Self::Prometheus,
        Self::Compose,
        Self::Helm,
        Self::Systemd,
        Self::Faketime,
    ];

    /// Those that speak Redis' protocol.
    pub const CACHES: [Self; 3] = [Self::Redis, Self::Redis8, Self::Valkey];

    /// Lower-case name, as in `ROWBUST_REQUIRE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::MariaDb118 => "mariadb118",
            Self::MySql => "mysql",
            Self::Redis => "redis",
            Self::Redis8 => "redis8",
            Self::Valkey => "valkey",
            Self::Kafka => "kafka",
            Self::Sysbench => "sysbench",
            Self::Prometheus => "prometheus",
            Self::Compose => "compose",
            Self::Helm => "helm",
            Self::Chromium => "chromium",
            Self::Systemd => "systemd",
            Self::Faketime => "faketime",
        }
    }

    /// Debian's packages for it. None of them starts a service: that of systemd is asked for only where systemd isn't there, and so
    /// isn't the one that would start its units.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::MariaDb => &["mariadb-server-core", "mariadb-client-core", "mariadb-client"],
            Self::MariaDb118
            | Self::MySql
            | Self::Redis8
            | Self::Valkey
            | Self::Prometheus
            | Self::Compose
            | Self::Helm => &[],
            Self::Redis => &["redis-tools"],
            Self::Kafka => &["default-jre-headless", "maven"],
            Self::Sysbench => &["sysbench"],
            Self::Chromium => &["chromium", "fonts-dejavu-core"],
            Self::Systemd => &["systemd"],
            Self::Faketime => &["libfaketime"],
        }
    }

    /// Whether Debian's packages for it still have to be installed. What is fetched otherwise does not count.
    fn lacks_packages(self) -> bool {
        match self {
            Self::MariaDb => MariaDbPrograms::find().is_none(),
            Self::MariaDb118
            | Self::MySql
            | Self::Redis8
            | Self::Valkey
            | Self::Prometheus
            | Self::Compose
            | Self::Helm => false,
            Self::Redis => RedisPrograms::find().is_none(),
            Self::Kafka => {
                find_program("java").is_none()
                    || (KafkaPrograms::find().is_none() && find_program("mvn").is_none())
            }
            Self::Sysbench => find_program("sysbench").is_none(),
            Self::Chromium => find_chromium().is_none(),
            Self::Systemd => find_systemd_analyze().is_none(),
            Self::Faketime => find_faketime().is_none(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Need {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::SERVERS.into_iter().chain(Self::TOOLS).find(|n| n.name() == s).ok_or_else(|| {
            let names: Vec<&str> = Self::SERVERS.iter().chain(&Self::TOOLS).map(|n| n.name()).collect();
            anyhow!("unknown server {s:?}; known: {}", names.join(", "))
        })
    }
}

/// Programs that were found or installed; `None` for what was not asked for.
#[derive(Debug, Clone, Default)]
pub struct Installed {
    /// MariaDB's programs.
    pub mariadb: Option<MariaDbPrograms>,
    /// Those of MariaDB 11.8.
    pub mariadb118: Option<MariaDbPrograms>,
    /// MySQL's programs.
    pub mysql: Option<MySqlPrograms>,
    /// Redis' programs.
    pub redis: Option<RedisPrograms>,
    /// Those of Redis 8.
    pub redis8: Option<RedisPrograms>,
    /// Valkey's programs.
    pub valkey: Option<RedisPrograms>,
    /// Kafka's class path and the Java runtime.
    pub kafka: Option<KafkaPrograms>,
    /// The program `sysbench`.
    pub sysbench: Option<PathBuf>,
    /// Prometheus' programs.
    pub prometheus: Option<PrometheusPrograms>,
    /// The program `docker-compose`.
    pub compose: Option<PathBuf>,
    /// The program `helm`.
    pub helm: Option<PathBuf>,
    /// Chromium, or Chrome.
    pub chromium: Option<PathBuf>,
    /// The program `systemd-analyze`.
    pub systemd_analyze: Option<PathBuf>,
    /// The library to preload.
    pub faketime: Option<PathBuf>,
}

impl Installed {
    /// What can be used right now; installs nothing.
    #[must_use]
    pub fn find(needs: &[Need]) -> Self {
        let wanted = |n| needs.contains(&n);
        Self {
            mariadb: wanted(Need::MariaDb).then(MariaDbPrograms::find).flatten(),
            mariadb118: wanted(Need::MariaDb118).then(MariaDbPrograms::find_11_8).flatten(),
            mysql: wanted(Need::MySql).then(MySqlPrograms::find).flatten(),
            redis: wanted(Need::Redis).then(RedisPrograms::find).flatten(),
            redis8: wanted(Need::Redis8).then(RedisPrograms::find_8).flatten(),
            valkey: wanted(Need::Valkey).then(RedisPrograms::find_valkey).flatten(),
            kafka: wanted(Need::Kafka).then(KafkaPrograms::find).flatten(),
            sysbench: wanted(Need::Sysbench).then(|| find_program("sysbench")).flatten(),
            prometheus: wanted(Need::Prometheus).then(PrometheusPrograms::find).flatten(),
            compose: wanted(Need::Compose).then(find_compose).flatten(),
            helm: wanted(Need::Helm).then(crate::helm::find).flatten(),
            chromium: wanted(Need::Chromium).then(find_chromium).flatten(),
            systemd_analyze: wanted(Need::Systemd).then(find_systemd_analyze).flatten(),
            faketime: wanted(Need::Faketime).then(find_faketime).flatten(),
        }
    }

    /// Whether this can be used.
    #[must_use]
    pub fn has(&self, need: Need) -> bool {
        match need {
            Need::MariaDb => self.mariadb.is_some(),
            Need::MariaDb118 => self.mariadb118.is_some(),
            Need::MySql => self.mysql.is_some(),
            Need::Redis => self.redis.is_some(),
            Need::Redis8 => self.redis8.is_some(),
            Need::Valkey => self.valkey.is_some(),
            Need::Kafka => self.kafka.is_some(),
            Need::Sysbench => self.sysbench.is_some(),
            Need::Prometheus => self.prometheus.is_some(),
            Need::Compose => self.compose.is_some(),
            Need::Helm => self.helm.is_some(),
            Need::Chromium => self.chromium.is_some(),
            Need::Systemd => self.systemd_analyze.is_some(),
            Need::Faketime => self.faketime.is_some(),
        }
    }
}

/// Finds all of `needs`, installing what is missing: Debian packages as root or with `sudo -n`; MySQL, MariaDB 11.8,
/// Redis 8, Valkey, Kafka, Prometheus and Docker Compose into the cache. Says on stderr what it does.
///
/// # Errors
/// When something can't be installed; the text says what to install by hand.
pub fn ensure(needs: &[Need]) -> Result<Installed> {
    let found = Installed::find(needs);
    if needs.iter().all(|n| found.has(*n)) {
        return Ok(found);
    }
    let _lock = crate::cache::lock("install")?;
    let packages: Vec<&str> =
        needs.iter().filter(|n| n.lacks_packages()).flat_map(|n| n.packages()).copied().collect();
    apt_install(&packages)?;
    if needs.contains(&Need::Redis) {
        crate::redis::link_server()?;
    }
    if needs.contains(&Need::MySql) && MySqlPrograms::find().is_none() {
        fetch_sid::fetch(&fetch_sid::MYSQL)?;
    }
    if needs.contains(&Need::MariaDb118) && MariaDbPrograms::find_11_8().is_none() {
        fetch_sid::fetch(&fetch_sid::MARIADB)?;
    }
    if needs.contains(&Need::Redis8) && RedisPrograms::find_8().is_none() {
        fetch_sid::fetch(&fetch_sid::REDIS)?;
    }
    if needs.contains(&Need::Valkey) && RedisPrograms::find_valkey().is_none() {
        fetch_sid::fetch(&fetch_sid::VALKEY)?;
    }
    if needs.contains(&Need::Kafka) && KafkaPrograms::find().is_none() {
        crate::kafka::fetch()?;
    }
    if needs.contains(&Need::Prometheus) && PrometheusPrograms::find().is_none() {
        fetch_sid::fetch(&fetch_sid::PROMETHEUS)?;
    }
    if needs.contains(&Need::Compose) && find_compose().is_none() {
        fetch_sid::fetch(&fetch_sid::COMPOSE)?;
    }
    if needs.contains(&Need::Helm) && crate::helm::find().is_none() {
        crate::helm::build()?;
    }
    let found = Installed::find(needs);
    match needs.iter().find(|n| !found.has(**n)) {
        Some(missing) => Err(missing.missing()),
        None => Ok(found),
    }
}

impl Need {
    pub(crate) fn missing(self) -> anyhow::Error {
        anyhow!("no {self}: {}", self.hint())
    }

    fn hint(self) -> &'static str {
        match self {
            Self::MariaDb => "`mariadbd --version` must say 10.11 or newer, and mariadb-binlog be in PATH",
            Self::MariaDb118 => "`mariadbd --version` must say 11.8 or newer, and mariadb-binlog be in PATH",
            Self::MySql => "`mysqld --version` must say 9.x",
            Self::Redis => "`redis-server --version` must say 7 or newer",
            Self::Redis8 => "`redis-server --version` must say 8 or newer",
            Self::Valkey => "`valkey-server --version` must say 8 or newer",
            Self::Kafka => "`java -version` must say 17 or newer",
            Self::Sysbench => "sysbench must be in PATH",
            Self::Prometheus => "`prometheus --version` must say 3.x, and promtool be in PATH",
            Self::Compose => "`docker-compose --version` must say 2.20 or newer",
            Self::Helm => "`helm version` must say 3.12 or newer",
            Self::Chromium => "chromium or google-chrome must be in PATH, and not be a snap",
            Self::Systemd => "`systemd-analyze --version` must say 252 or newer",
            Self::Faketime => {
                "faketime/libfaketime.so.1 must be in a library folder, as Debian's package has it"
            }
        }
    }
}

/// Installs Debian packages without recommended ones, as root or with `sudo -n`. An empty list is nothing to do.
///
/// # Errors
/// Where there is no apt-get or no right to use it (the text names the packages), or when apt-get fails.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let apt = |args: &[&str]| -> Result<Command> {
        if find_program("apt-get").is_none() {
            bail!(
                "not a Debian or Ubuntu system: please install what these packages hold, then try again: {list}"
            );
        }
        let mut command = if geteuid().is_root() {
            Command::new("env")
        } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
            let mut c = Command::new("sudo");
            c.args(["-n", "env"]);
            c
        } else {
            bail!(
                "not root, and sudo wants a password: please run `sudo apt-get install {list}`, then try again"
            )
        };
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"])
            .args(args);
        Ok(command)
    };
    let start = Instant::now();
    eprintln!("installing with apt-get: {list}");
    // Fails when one of several mirrors does; whether that matters, the installation shows.
    if let Err(e) = run(&mut apt(&["update"])?) {
        eprintln!("apt-get update: {e:#}");
    }
    let mut install = apt(&["install", "-y", "--no-install-recommends"])?;
    run(install.args(packages)).with_context(|| format!("please run `apt-get install {list}` and see"))?;
    eprintln!("installed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A program in `PATH`, or in the folders for system programs that a user's `PATH` often lacks.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// Docker Compose 2 in `PATH`, else the one unpacked in the cache.
fn find_compose() -> Option<PathBuf> {
    let in_path = || {
        let program = find_program("docker-compose")?;
        let version = version_after(&output_of(&program, "--version")?, "version")?;
        at_least(&version, 2, 20).then_some(program)
    };
    in_path().or_else(|| {
        let unpacked = fetch_sid::newest(&fetch_sid::COMPOSE)?.join("bin/docker-compose");
        unpacked.is_file().then_some(unpacked)
    })
}

fn find_faketime() -> Option<PathBuf> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [Path::new("/usr/lib").join(multiarch), "/usr/lib64".into(), "/usr/lib".into()];
    folders
        .into_iter()
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|library| library.is_file())
}

/// The tests ask it to judge a unit that isn't loaded (`security --offline`).
fn find_systemd_analyze() -> Option<PathBuf> {
    let program = find_program("systemd-analyze")?;
    let version = version_after(&output_of(&program, "--version")?, "systemd")?;
    at_least(&version, 252, 0).then_some(program)
}

/// Ubuntu's package holds a script that asks for a snap; where that is all, Chrome may be there.
fn find_chromium() -> Option<PathBuf> {
    let is_snap = |program: &Path| {
        let mut begin = Vec::new();
        let read = std::fs::File::open(program).and_then(|file| file.take(4096).read_to_end(&mut begin));
        program.starts_with("/snap")
            || read.is_ok() && String::from_utf8_lossy(&begin).contains("snap install")
    };
    let names = ["chromium", "google-chrome", "google-chrome-stable", "chromium-browser"];
    names.into_iter().filter_map(find_program).find(|program| !is_snap(program))
}

/// Runs a command to its end with its output kept; an error holds the command and what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    run_with(command, Stdio::null())
}

/// As [`run`], with something to read.
pub(crate) fn run_with(command: &mut Command, stdin: Stdio) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(stdin).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&text).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// What a program prints for `arg`, on stdout and stderr; `None` when it can't be run or fails.
pub(crate) fn output_of(program: &Path, arg: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg(arg).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    output.status.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The first `N.N[.N]` that follows `marker` in a program's version line.
pub(crate) fn version_after(text: &str, marker: &str) -> Option<String> {
    let rest = &text[text.find(marker)? + marker.len()..];
    let start = rest.find(|c: char| c.is_ascii_digit())?;
    let rest = &rest[start..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.').to_owned())
}

/// Whether `version` is at least `major.minor`.
pub(crate) fn at_least(version: &str, major: u32, minor: u32) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions() {
        let mariadb = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        assert_eq!(version_after(mariadb, "Ver").unwrap(), "10.11.19");
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1";
        assert_eq!(version_after(redis, "v=").unwrap(), "7.0.15");
        assert_eq!(version_after("openjdk version \"17.0.15\" 2025-04-15", "version").unwrap(), "17.0.15");
        assert_eq!(version_after("no digits", "no"), None);
        assert!(at_least("10.11.19", 10, 11) && at_least("11.0", 10, 11) && !at_least("10.6.1", 10, 11));
    }

    #[test]
    fn names_go_both_ways() {
        for need in Need::SERVERS.into_iter().chain(Need::TOOLS) {
            assert_eq!(need.name().parse::<Need>().unwrap(), need);
        }
        assert!("oracle".parse::<Need>().is_err());
    }

    #[test]
    fn a_failed_command_says_what_it_printed() {
        let e = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(e.contains("why") && e.contains('3'), "{e}");
    }
}
