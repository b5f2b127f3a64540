//! Redis: programs and instances.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::install::{Need, at_least, ensure, find_program, output_of, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::ports::free_port;
use crate::{cache, wire};

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
        Self::start_with(options, None, None)
    }

    /// Starts a server with a TLS port and with users of an ACL file (which must let the user `default` do
    /// `SHUTDOWN` without a password, if [`Redis::shutdown_save`] is to be used).
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start_with(options: StartOptions, tls: Option<RedisTls>, acl_file: Option<&Path>) -> Result<Self> {
        let programs = ensure(&[Need::Redis])?.redis;
        Instance::start(options, || {
            let programs = programs.clone().ok_or_else(|| Need::Redis.missing())?;
            let tls = tls.clone().map(|tls| Ok::<_, anyhow::Error>((free_port()?, tls))).transpose()?;
            Ok(RedisKind { programs, tls, acl_file: acl_file.map(Into::into) })
        })
        .map(Self)
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
            option("tls-port", port);
            option("tls-cert-file", &tls.cert.display());
            option("tls-key-file", &tls.key.display());
            match &tls.client_ca {
                Some(ca) => option("tls-ca-cert-file", &ca.display()),
                // Redis wants an authority even when it asks for no client certificate.
                None => {
                    option("tls-ca-cert-file", &tls.cert.display());
                    option("tls-auth-clients", &"no");
                }
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
