//! What the servers have in common: starting, readiness, signals, restart, stop.
//!
//! Guarantees: `start` returns when the server answers on its port, or with the last lines of its log; a dropped
//! instance is stopped unless it is detached; whatever the instance signals is its own process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::ports::free_port;
use crate::process::{Identity, POLL, Process, Spec, poll, tail};

/// The file in a server's folder that names its process.
pub const RECORD_FILE: &str = "server.json";

/// How to start a server.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The server's own folder: data, log, socket, record. Made if missing; data found in it is used again.
    pub dir: PathBuf,
    /// TCP port on 127.0.0.1; default: a free one.
    pub port: Option<u16>,
    /// Added after the defaults, so that the last one wins: options for MariaDB, MySQL and Redis (`--name=value`, or
    /// name and value in two items), `name=value` lines of `server.properties` for Kafka.
    pub args: Vec<String>,
    /// Goes on living after this process, in its own process group, and is not stopped when dropped. Default: false.
    pub detached: bool,
}

impl StartOptions {
    /// Defaults, in this folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), port: None, args: Vec::new(), detached: false }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Asks for this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Lets the server outlive this process.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}

/// A running server as written to [`RECORD_FILE`]: enough to use it and to end it, and only it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `mariadb`, `mysql`, `redis` or `kafka`.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// Its process.
    #[serde(flatten)]
    pub process: Identity,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// How a client reaches it.
    pub url: String,
    /// Its folder.
    pub dir: PathBuf,
}

impl Record {
    /// The record of a server's folder; `None` if there is none or it can't be read.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(RECORD_FILE)).ok()?).ok()
    }

    /// Ends the process, if it still is the recorded one, and returns when it is gone.
    ///
    /// # Errors
    /// When the process can't be ended.
    pub fn end(&self) -> Result<()> {
        self.process.end(GRACE).with_context(|| format!("cannot end {}", self.name))
    }
}

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(30);
/// From start to the first answer. Generous: a loaded machine, crash recovery, a JVM.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What is particular to one kind of server.
pub(crate) trait Kind: Send + Sync + std::fmt::Debug {
    const NAME: &'static str;
    fn version(&self) -> &str;
    /// Makes the data directory if there is none, and whatever files the command needs.
    fn prepare(&self, place: &Place, args: &[String]) -> Result<()>;
    /// Program, arguments and environment; [`Instance`] adds folder, log and the rest.
    fn command(&self, place: &Place, args: &[String]) -> Command;
    /// Whether the server answers on the port.
    fn answers(&self, place: &Place) -> bool;
    fn url(&self, port: u16) -> String;
}

/// A program with its arguments and environment.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, std::ffi::OsString)>,
}

/// Where a server lives.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
}

impl Place {
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join(RECORD_FILE)
    }

    /// The Unix socket: in the folder, or in the system's temporary one where the path would be too long
    /// (`sun_path` has 108 bytes, unix(7)).
    pub(crate) fn socket(&self) -> PathBuf {
        let near = self.dir.join("sock");
        // MySQL makes a lock file beside it, with `.lock` added.
        if near.as_os_str().len() < 95 {
            near
        } else {
            std::env::temp_dir().join(format!("rowbust-{}.sock", self.port))
        }
    }
}

/// One server. Shared by [`crate::MariaDb`], [`crate::MySql`], [`crate::Redis`], [`crate::Kafka`] and [`crate::Prometheus`], which
/// dereference to it. All methods take `&self`, so that an instance can be shared between threads.
#[derive(Debug)]
pub struct Instance<K> {
    pub(crate) kind: K,
    pub(crate) place: Place,
    detached: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    args: Vec<String>,
    process: Option<Process>,
}

#[allow(private_bounds, reason = "the kinds are ours alone")]
impl<K: Kind> Instance<K> {
    /// Starts a server; `make` gives its kind, anew for each try, as more than one port may have to be chosen.
    pub(crate) fn start(options: StartOptions, make: impl Fn() -> Result<K>) -> Result<Self> {
        let StartOptions { dir, port, args, detached } = options;
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = fs::canonicalize(&dir).with_context(|| format!("cannot use {}", dir.display()))?;
        if let Some(left_over) = Record::read(&dir) {
            left_over.end()?;
        }
        let mut tries = if port.is_some() { 1 } else { 5 };
        loop {
            let place = Place { dir: dir.clone(), port: port.map_or_else(free_port, Ok)? };
            let state = Mutex::new(State { args: args.clone(), process: None });
            let instance = Self { kind: make()?, place, detached, state };
            tries -= 1;
            let launched = instance.launch(&mut instance.state());
            match launched {
                Ok(()) => return Ok(instance),
                Err(e) if tries > 0 && format!("{e:#}").to_lowercase().contains("in use") => {
                    eprintln!(
                        "{}: port {} was taken in the meantime, trying another",
                        K::NAME,
                        instance.port()
                    );
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process and waits until it answers.
    fn launch(&self, state: &mut State) -> Result<()> {
        let place = &self.place;
        let failed = || format!("cannot start {} in {}", K::NAME, place.dir.display());
        self.kind.prepare(place, &state.args).with_context(failed)?;
        let log = place.log();
        let log_start = fs::metadata(&log).map_or(0, |m| m.len());
        let Command { program, args, env } = self.kind.command(place, &state.args);
        let mut process = Process::spawn(&Spec {
            program,
            args: args.into_iter().map(Into::into).collect(),
            env,
            dir: place.dir.clone(),
            log: log.clone(),
            detached: self.detached,
        })
        .with_context(failed)?;
        let written = self.write_record(process.identity());
        if let Err(e) = written.and_then(|()| self.wait_until_ready(&mut process)) {
            _ = process.end(Duration::ZERO);
            _ = fs::remove_file(place.record());
            let said = tail(&log, log_start, 20);
            return Err(e.context(format!("{}; its log {} ends with:\n{said}", failed(), log.display())));
        }
        state.process = Some(process);
        Ok(())
    }

    fn wait_until_ready(&self, process: &mut Process) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = process.exited()? {
                bail!("it ended: {status}");
            }
            if self.kind.answers(&self.place) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no answer on port {} within {} s", self.port(), READY_WITHIN.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    fn write_record(&self, process: Identity) -> Result<()> {
        let path = self.place.record();
        fs::write(&path, serde_json::to_vec_pretty(&self.record_of(process))?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn record_of(&self, process: Identity) -> Record {
        Record {
            name: K::NAME.into(),
            version: self.kind.version().into(),
            process,
            port: self.port(),
            url: self.url(),
            dir: self.place.dir.clone(),
        }
    }

    /// Name, version, process, port, URL, folder; `None` while it is stopped.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        self.state().process.as_ref().map(|p| self.record_of(p.identity()))
    }

    /// TCP port on 127.0.0.1; stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// How a client reaches it: `mysql://root@127.0.0.1:PORT` (no password), `redis://127.0.0.1:PORT`, or
    /// `127.0.0.1:PORT` for Kafka.
    #[must_use]
    pub fn url(&self) -> String {
        self.kind.url(self.port())
    }

    /// The server's version, such as `10.11.19`.
    #[must_use]
    pub fn version(&self) -> &str {
        self.kind.version()
    }

    /// The folder given at start.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The server's data, with the binlog files of MariaDB and MySQL (`binlog.000001` and on).
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.place.data()
    }

    /// What the server wrote to stdout and stderr; MariaDB's and MySQL's error log too.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.place.log()
    }

    /// The process, while it is not stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.state().process.as_ref().map(|p| p.identity().pid)
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state().process.as_ref().is_some_and(|p| p.identity().is_alive())
    }

    /// Ends it in good order: SIGTERM, after 30 s SIGKILL; returns when it is gone. Stopped already: nothing to do.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn stop(&self) -> Result<()> {
        self.end_with(|p| p.end(GRACE))
    }

    /// `kill -9`; returns when it is gone.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn kill9(&self) -> Result<()> {
        self.end_with(|p| {
            p.identity().signal(Signal::SIGKILL)?;
            p.end(Duration::ZERO)
        })
    }

    pub(crate) fn end_with(&self, end: impl FnOnce(&mut Process) -> Result<()>) -> Result<()> {
        let mut state = self.state();
        if let Some(process) = state.process.as_mut() {
            end(process).with_context(|| format!("cannot end {}", K::NAME))?;
            state.process = None;
            _ = fs::remove_file(self.place.record());
        }
        Ok(())
    }

    /// SIGSTOP: its connections stay open and get no answer. Returns when all its threads stand still.
    ///
    /// # Errors
    /// When it does not run or can't be signalled.
    pub fn freeze(&self) -> Result<()> {
        let process = self.signal(Signal::SIGSTOP)?;
        if poll(Duration::from_secs(10), || process.is_stopped()) {
            return Ok(());
        }
        bail!("{} goes on 10 s after SIGSTOP", K::NAME)
    }

    /// SIGCONT after [`Instance::freeze`].
    ///
    /// # Errors
    /// When it does not run or can't be signalled.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT).map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<Identity> {
        let state = self.state();
        let process = state.process.as_ref().ok_or_else(|| anyhow!("{} is not running", K::NAME))?.identity();
        process.signal(signal)?;
        Ok(process)
    }

    /// Starts it again on the same port and data, after `stop`, `kill9` or its own end; returns when it answers.
    /// While it runs: nothing to do.
    ///
    /// # Errors
    /// When it doesn't come up; the text holds the end of its log.
    pub fn start_again(&self) -> Result<()> {
        let mut state = self.state();
        if let Some(process) = state.process.as_mut() {
            if process.exited()?.is_none() {
                return Ok(());
            }
            state.process = None;
        }
        self.launch(&mut state)
    }

    /// Replaces the extra arguments of [`StartOptions::args`]; they count from the next start on.
    pub fn set_args<I: IntoIterator<Item = S>, S: Into<String>>(&self, args: I) {
        self.state().args = args.into_iter().map(Into::into).collect();
    }

    /// `stop`, then `start_again`. Redis keeps its data only by way of [`crate::Redis::restart`].
    ///
    /// # Errors
    /// As those two.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }
}

impl<K> Drop for Instance<K> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut process) = state.process.take().filter(|_| !self.detached) {
            if let Err(e) = process.end(GRACE) {
                eprintln!("{e:#}");
            }
            _ = fs::remove_file(self.place.record());
        }
    }
}

/// Makes `$outer` an [`Instance`] of `$kind` to its users.
macro_rules! deref_to_instance {
    ($outer:ty, $kind:ty) => {
        impl std::ops::Deref for $outer {
            type Target = crate::instance::Instance<$kind>;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    };
}
pub(crate) use deref_to_instance;
