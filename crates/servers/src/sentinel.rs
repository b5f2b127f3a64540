//! A Redis master with replicas, and the sentinels that watch it.
//!
//! Guarantees: when `start` returns every sentinel knows the master, its replicas and all other sentinels.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::install::Need;
use crate::instance::{Command, Instance, Kind, Place, StartOptions};
use crate::ports::free_port;
use crate::process::poll;
use crate::redis::{Redis, RedisPrograms, RedisTls, cli, tls_options};
use crate::wire;

/// What the sentinels call their master.
pub const MASTER: &str = "shop";
/// Until all have found each other, or one is promoted.
const WITHIN: Duration = Duration::from_secs(60);

/// What a group consists of.
#[derive(Debug, Clone)]
pub struct SentinelOptions {
    /// Redis, Redis 8 or Valkey.
    pub need: Need,
    /// Folder of all servers.
    pub dir: PathBuf,
    /// Replicas of the master.
    pub replicas: usize,
    /// Servers and sentinels talk to each other by TLS; the sentinels then name TLS ports.
    pub tls: Option<RedisTls>,
    /// As for [`Redis::start_with`], for the servers; the user `default` must be allowed everything, without a password.
    pub acl_file: Option<PathBuf>,
    /// The same for the sentinels.
    pub sentinel_acl_file: Option<PathBuf>,
}

impl SentinelOptions {
    /// One replica, without TLS or ACL.
    #[must_use]
    pub fn new(need: Need, dir: impl Into<PathBuf>) -> Self {
        Self { need, dir: dir.into(), replicas: 1, tls: None, acl_file: None, sentinel_acl_file: None }
    }
}

/// Servers and three sentinels. Stopped when dropped.
#[derive(Debug)]
pub struct Sentinels {
    /// The sentinels.
    pub sentinels: Vec<Sentinel>,
    /// The master as started, then its replicas.
    pub servers: Vec<Redis>,
    tls: bool,
}

impl Sentinels {
    /// Starts all of them.
    ///
    /// # Errors
    /// When the server can't be installed, or they don't find each other within a minute.
    pub fn start(options: &SentinelOptions) -> Result<Self> {
        let server = |n: usize, of: Option<&Redis>| {
            let mut start = StartOptions::new(options.dir.join(format!("redis{n}")));
            let mut set = |name: &str, values: &[&str]| {
                start.args.push(format!("--{name}"));
                start.args.extend(values.iter().map(|v| (*v).to_owned()));
            };
            set("repl-diskless-sync", &["yes"]);
            set("repl-diskless-sync-delay", &["0"]);
            set("repl-ping-replica-period", &["1"]);
            if options.tls.is_some() {
                set("tls-replication", &["yes"]);
            }
            if let Some(master) = of {
                let port = master.tls_port().unwrap_or(master.port()).to_string();
                set("replicaof", &["127.0.0.1", &port]);
            }
            Redis::launch(options.need, start, options.tls.clone(), options.acl_file.as_deref())
        };
        let master = server(0, None)?;
        let mut servers = vec![];
        for n in 1..=options.replicas {
            servers.push(server(n, Some(&master))?);
        }
        servers.insert(0, master);
        let master = servers.first().context("no master")?;
        let online = |info: &str| info.matches("state=online").count() == options.replicas;
        if !poll(WITHIN, || master.cli(&["INFO", "replication"]).is_ok_and(|info| online(&info))) {
            bail!("the replicas don't come up");
        }
        let watched = master.tls_port().unwrap_or(master.port());
        let sentinels = (0..3).map(|n| Sentinel::start(options, n, watched)).collect::<Result<Vec<_>>>()?;
        let group = Self { sentinels, servers, tls: options.tls.is_some() };
        group.ready(options.replicas)?;
        Ok(group)
    }

    /// The sentinels' ports for clients: TLS ports if there are any.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Sentinel::client_port).collect()
    }

    /// The server that most sentinels name as the master; `None` while they don't agree.
    #[must_use]
    pub fn master(&self) -> Option<usize> {
        let ports: Vec<u16> = self.sentinels.iter().filter_map(|s| s.master_port().ok()).collect();
        let port_of = |server: &Redis| if self.tls { server.tls_port() } else { Some(server.port()) };
        let votes = |server: &Redis| ports.iter().filter(|port| Some(**port) == port_of(server)).count();
        self.servers.iter().position(|server| votes(server) >= 2)
    }

    /// Returns when another server than this one is the master and says so itself; gives its place.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn promoted(&self, old: usize) -> Result<usize> {
        let is_master = |n: &usize| {
            let server = self.servers.get(*n);
            server.is_some_and(|s| s.cli(&["ROLE"]).is_ok_and(|role| role.starts_with("master")))
        };
        let mut found = None;
        poll(WITHIN, || {
            found = self.master().filter(|n| *n != old).filter(is_master);
            found.is_some()
        });
        found.context("nobody is promoted")
    }

    /// Returns when each sentinel knows this many replicas, and both others.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn ready(&self, replicas: usize) -> Result<()> {
        let knows = |sentinel: &Sentinel| {
            sentinel.fields().is_ok_and(|text| {
                let field = |name: &str| {
                    let mut lines = text.lines().skip_while(|line| *line != name);
                    lines.nth(1).and_then(|n| n.parse::<usize>().ok())
                };
                field("num-slaves") == Some(replicas)
                    && field("num-other-sentinels") == Some(2)
                    && text.lines().any(|line| line == "master")
            })
        };
        if poll(WITHIN, || self.sentinels.iter().all(knows)) {
            return Ok(());
        }
        bail!("the sentinels don't find each other")
    }
}

/// One sentinel.
#[derive(Debug)]
pub struct Sentinel(Instance<SentinelKind>);
crate::instance::deref_to_instance!(Sentinel, SentinelKind);

impl Sentinel {
    fn start(options: &SentinelOptions, n: usize, master: u16) -> Result<Self> {
        let programs = RedisPrograms::ensure(options.need)?;
        let start = StartOptions::new(options.dir.join(format!("sentinel{n}")));
        Instance::start(start, || {
            let tls =
                options.tls.clone().map(|tls| Ok::<_, anyhow::Error>((free_port()?, tls))).transpose()?;
            let acl_file = options.sentinel_acl_file.clone();
            Ok(SentinelKind { programs: programs.clone(), tls, acl_file, master })
        })
        .map(Self)
    }

    /// The port for clients: the TLS port if there is one.
    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.kind.tls.as_ref().map_or(self.port(), |(port, _)| *port)
    }

    /// Runs a command on it by `redis-cli`.
    ///
    /// # Errors
    /// When it doesn't answer, or answers with an error.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        cli(&self.kind.programs.cli, self.port(), args)
    }

    fn fields(&self) -> Result<String> {
        self.cli(&["SENTINEL", "MASTER", MASTER])
    }

    fn master_port(&self) -> Result<u16> {
        let said = self.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?;
        said.lines().nth(1).context("no port")?.parse().context("no port")
    }
}

#[derive(Debug)]
#[doc(hidden)]
pub struct SentinelKind {
    programs: RedisPrograms,
    tls: Option<(u16, RedisTls)>,
    acl_file: Option<PathBuf>,
    master: u16,
}

impl SentinelKind {
    fn file(place: &Place) -> PathBuf {
        place.data().join("sentinel.conf")
    }
}

impl Kind for SentinelKind {
    const NAME: &'static str = "sentinel";

    fn version(&self) -> &str {
        &self.programs.version
    }

    /// Sentinel keeps its state in its configuration file.
    fn prepare(&self, place: &Place, _args: &[String]) -> Result<()> {
        let file = Self::file(place);
        fs::create_dir_all(place.data()).context("cannot create the data folder")?;
        if file.is_file() {
            return Ok(());
        }
        let mut text = String::new();
        writeln!(text, "bind 127.0.0.1\nport {}\ndir {}", place.port, place.data().display())?;
        if let Some((port, tls)) = &self.tls {
            writeln!(text, "tls-replication yes")?;
            for (name, value) in tls_options(*port, tls) {
                writeln!(text, "{name} {value}")?;
            }
        }
        if let Some(acl) = &self.acl_file {
            writeln!(text, "aclfile {}", acl.display())?;
        }
        writeln!(
            text,
            "sentinel monitor {MASTER} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 5000\nsentinel parallel-syncs {MASTER} 1",
            self.master
        )?;
        fs::write(&file, text).context("cannot write the sentinel's file")
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = vec![Self::file(place).display().to_string(), "--sentinel".into()];
        args.extend_from_slice(extra);
        Command { program: self.programs.server.clone(), args, env: Vec::new() }
    }

    fn answers(&self, place: &Place) -> bool {
        wire::connect(place.port).is_ok()
    }

    fn url(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}")
    }
}
