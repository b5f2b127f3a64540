//! Redis: programs and instances.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::install::{Need, at_least, ensure, find_program, output_of, run, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::ports::free_port;
use crate::{cache, fetch_sid, wire};

/// Paths of Redis' programs.
#[derive(Debug, Clone)]
pub struct RedisPrograms {
    /// `redis-server`.
    pub server: PathBuf,
    /// `redis-cli`.
    pub cli: PathBuf,
    /// Such as `7.0.15`.
    pub version: String,
}

impl RedisPrograms {
    /// Those in `PATH` or linked in the cache, if they are 7 or newer.
    #[must_use]
    pub fn find() -> Option<Self> {
        let server = find_program("redis-server").or_else(|| linked_server().ok().filter(|p| p.is_file()))?;
        let version = version_after(&output_of(&server, "--version")?, "v=")?;
        at_least(&version, 7, 0).then_some(())?;
        Some(Self { server, cli: find_program("redis-cli")?, version })
    }

    /// The same if they are 8 or newer, else the ones unpacked in the cache.
    #[must_use]
    pub fn find_8() -> Option<Self> {
        Self::find()
            .filter(|p| at_least(&p.version, 8, 0))
            .or_else(|| Self::unpacked(&fetch_sid::newest(&fetch_sid::REDIS)?, "redis"))
    }

    /// Valkey 8 or newer in `PATH`, else the one unpacked in the cache.
    #[must_use]
    pub fn find_valkey() -> Option<Self> {
        let in_path = || {
            let server = find_program("valkey-server")?;
            let version = version_after(&output_of(&server, "--version")?, "v=")?;
            at_least(&version, 8, 0).then_some(())?;
            Some(Self { server, cli: find_program("valkey-cli")?, version })
        };
        in_path().or_else(|| Self::unpacked(&fetch_sid::newest(&fetch_sid::VALKEY)?, "valkey"))
    }

    /// The programs in a folder that [`fetch_sid::fetch`] made.
    fn unpacked(dir: &Path, name: &str) -> Option<Self> {
        let program = |what: &str| Some(dir.join(format!("bin/{name}-{what}"))).filter(|p| p.is_file());
        Some(Self {
            server: program("server")?,
            cli: program("cli")?,
            version: fs::read_to_string(dir.join("version")).ok()?.trim().to_owned(),
        })
    }

    /// Those of Redis (7 or newer), Redis 8 or Valkey, installed if they are missing.
    pub(crate) fn ensure(need: Need) -> Result<Self> {
        let found = ensure(&[need])?;
        found.redis.or(found.redis8).or(found.valkey).ok_or_else(|| need.missing())
    }
}

fn linked_server() -> Result<PathBuf> {
    Ok(cache::dir()?.join("servers/redis/redis-server"))
}

/// Debian's `redis-server` is `redis-check-rdb` under another name (the program looks at `argv[0]`), but its package
/// also brings a service: so only `redis-tools` is installed, and the link is made here.
pub(crate) fn link_server() -> Result<()> {
    let (None, Some(program)) = (find_program("redis-server"), find_program("redis-check-rdb")) else {
        return Ok(());
    };
    let link = linked_server()?;
    let dir = link.parent().context("no parent")?;
    if fs::read_link(&link).is_ok_and(|to| to == program) {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    cache::fill(dir, |new| Ok(std::os::unix::fs::symlink(program, new.join("redis-server"))?))
}

/// TLS beside the plain port.
#[derive(Debug, Clone)]
pub struct RedisTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities that clients' certificates must come from, PEM. Default: clients need none.
    pub client_ca: Option<PathBuf>,
    /// Certificates of the authorities that the server trusts where it is itself a client: of a master, of its cluster's
    /// nodes. Default: its own certificate.
    pub ca: Option<PathBuf>,
}

/// A Redis server: saves nothing by itself; its data is kept over [`Redis::shutdown_save`] and [`Redis::restart`].
#[derive(Debug)]
pub struct Redis(Instance<RedisKind>);
deref_to_instance!(Redis, RedisKind);

impl Redis {
    /// Starts a server, installing Redis if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start(options: StartOptions) -> Result<Self> {
        Self::start_as(Need::Redis, options)
    }

    /// Starts Redis (7 or newer), Redis 8 or Valkey, by what is needed.
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start_as(need: Need, options: StartOptions) -> Result<Self> {
        Self::launch(need, options, None, None)
    }

    /// Starts a server with a TLS port and with users of an ACL file (which must let the user `default` do
    /// `SHUTDOWN` without a password, if [`Redis::shutdown_save`] is to be used).
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start_with(options: StartOptions, tls: Option<RedisTls>, acl_file: Option<&Path>) -> Result<Self> {
        Self::launch(Need::Redis, options, tls, acl_file)
    }

    /// [`Redis::start_with`] and [`Redis::start_as`] in one.
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn launch(
        need: Need,
        options: StartOptions,
        tls: Option<RedisTls>,
        acl_file: Option<&Path>,
    ) -> Result<Self> {
        let programs = RedisPrograms::ensure(need)?;
        Instance::start(options, || {
            let programs = programs.clone();
            let tls = tls.clone().map(|tls| Ok::<_, anyhow::Error>((free_port()?, tls))).transpose()?;
            Ok(RedisKind { programs, tls, acl_file: acl_file.map(Into::into) })
        })
        .map(Self)
    }

    /// Runs a command on it by `redis-cli`, as the user `default`, and gives what that prints.
    ///
    /// # Errors
    /// When the server doesn't answer, or answers with an error.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        cli(&self.kind.programs.cli, self.port(), args)
    }

    /// Paths of the programs.
    #[must_use]
    pub fn programs(&self) -> &RedisPrograms {
        &self.kind.programs
    }

    /// The TLS port, if TLS was asked for.
    #[must_use]
    pub fn tls_port(&self) -> Option<u16> {
        self.kind.tls.as_ref().map(|(port, _)| *port)
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// `SHUTDOWN SAVE`: the next start loads what was there.
    ///
    /// # Errors
    /// When the server refuses or doesn't end.
    pub fn shutdown_save(&self) -> Result<()> {
        self.shutdown("SAVE")
    }

    /// `SHUTDOWN NOSAVE`: the next start loads what was last saved, or nothing.
    ///
    /// # Errors
    /// When the server refuses or doesn't end.
    pub fn shutdown_nosave(&self) -> Result<()> {
        self.shutdown("NOSAVE")
    }

    fn shutdown(&self, how: &str) -> Result<()> {
        self.end_with(|process| {
            // The connection closes when it obeys; an answer is a refusal.
            let answer = ask(self.port(), &["SHUTDOWN", how]).unwrap_or_default();
            if !answer.is_empty() {
                bail!("SHUTDOWN {how}: {}", answer.trim_end());
            }
            if !process.wait(Duration::from_secs(30)) {
                bail!("still there 30 s after SHUTDOWN {how}");
            }
            Ok(())
        })
    }

    /// [`Redis::shutdown_save`] and [`Instance::start_again`]: the data is kept.
    ///
    /// # Errors
    /// As those two.
    pub fn restart(&self) -> Result<()> {
        self.shutdown_save()?;
        self.start_again()
    }
}

/// `redis-cli` on this port.
pub(crate) fn cli(program: &Path, port: u16, args: &[&str]) -> Result<String> {
    let mut command = process::Command::new(program);
    // -e: the answer -ERR is an error.
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-e"]).args(args);
    Ok(run(&mut command)?.trim_end().to_owned())
}

/// Options that give an encrypted port beside the plain one.
pub(crate) fn tls_options(port: u16, tls: &RedisTls) -> Vec<(&'static str, String)> {
    let mut options = vec![
        ("tls-port", port.to_string()),
        ("tls-cert-file", tls.cert.display().to_string()),
        ("tls-key-file", tls.key.display().to_string()),
    ];
    match (&tls.client_ca, &tls.ca) {
        (Some(ca), _) => options.push(("tls-ca-cert-file", ca.display().to_string())),
        // Redis wants an authority even when it asks for no client certificate, and trusts it where it is itself a client.
        (None, ca) => {
            let ca = ca.as_ref().unwrap_or(&tls.cert);
            options.push(("tls-ca-cert-file", ca.display().to_string()));
            options.push(("tls-auth-clients", "no".into()));
        }
    }
    options
}

/// Sends one command and returns the beginning of what comes back; empty if the server closes the connection.
fn ask(port: u16, command: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", command.len());
    for part in command {
        request.push_str(&format!("${}\r\n{part}\r\n", part.len()));
    }
    let mut stream = wire::connect(port)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 512];
    let n = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
}

#[derive(Debug)]
#[doc(hidden)]
pub struct RedisKind {
    programs: RedisPrograms,
    tls: Option<(u16, RedisTls)>,
    acl_file: Option<PathBuf>,
}

impl Kind for RedisKind {
    const NAME: &'static str = "redis";

    fn version(&self) -> &str {
        &self.programs.version
    }

    fn prepare(&self, place: &Place, _args: &[String]) -> Result<()> {
        fs::create_dir_all(place.data()).context("cannot create the data folder")
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = Vec::new();
        let mut option = |name: &str, value: &dyn std::fmt::Display| {
            args.extend([format!("--{name}"), value.to_string()]);
        };
        option("bind", &"127.0.0.1");
        option("port", &place.port);
        option("dir", &place.data().display());
        option("unixsocket", &place.socket().display());
        option("save", &"");
        option("appendonly", &"no");
        option("daemonize", &"no");
        if let Some((port, tls)) = &self.tls {
            for (name, value) in tls_options(*port, tls) {
                option(name, &value);
            }
        }
        if let Some(acl) = &self.acl_file {
            option("aclfile", &acl.display());
        }
        args.extend_from_slice(extra);
        Command { program: self.programs.server.clone(), args, env: Vec::new() }
    }

    fn answers(&self, place: &Place) -> bool {
        // -LOADING while the data is read; -NOAUTH is an answer of a server that is ready.
        ask(place.port, &["PING"]).is_ok_and(|a| a.starts_with("+PONG") || a.starts_with("-NOAUTH"))
    }

    fn url(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}")
    }
}
