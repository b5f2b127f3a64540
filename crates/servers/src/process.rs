//! Child processes that are ended by pid and never outlive their owner.
//!
//! Guarantees: a process that this crate signals is the one it started (pid *and* kernel start time are compared);
//! an attached child dies with this process, even under `kill -9` (`setpriv --pdeathsig`, where util-linux is there);
//! a detached one is in its own process group and goes on living.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::install::find_program;

/// How often a condition on a process is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// A process beyond doubt: pids are used again, the pair of pid and start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`, proc_pid_stat(5).
    pub start_time: u64,
}

impl Identity {
    /// The process that has this pid now; `None` if there is none, or only its zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat)
            .filter(|(state, _)| !matches!(state, 'Z' | 'X'))
            .map(|(_, start_time)| Self { pid, start_time })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }

    /// Whether SIGSTOP has taken hold of every thread. It does so some time after it was sent.
    pub(crate) fn is_stopped(&self) -> bool {
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // A thread that has ended in the meantime runs no more.
            parse_stat(&stat).is_none_or(|(state, _)| state == 'T')
        };
        std::fs::read_dir(format!("/proc/{}/task", self.pid))
            .is_ok_and(|mut tasks| tasks.all(|t| t.is_ok_and(stopped)))
    }

    /// Sends a signal, if this very process still runs.
    ///
    /// # Errors
    /// When the kernel refuses, e.g. for another user's process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).context("pid out of range")?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("cannot send {signal} to process {pid}")),
        }
    }

    /// Sends SIGKILL, if this very process still runs; doesn't wait.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// SIGTERM, then SIGKILL after `grace`; returns when the process is gone.
    ///
    /// # Errors
    /// When it can't be signalled, or is still there 10 s after SIGKILL.
    pub fn end(&self, grace: Duration) -> Result<()> {
        self.end_with(grace, || !self.is_alive())
    }

    fn end_with(&self, grace: Duration, mut gone: impl FnMut() -> bool) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.signal(Signal::SIGCONT)?; // a frozen process takes no SIGTERM
        if poll(grace, &mut gone) {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;
        if poll(Duration::from_secs(10), gone) {
            return Ok(());
        }
        bail!("process {} is still there 10 s after SIGKILL", self.pid)
    }
}

/// State and start time out of `/proc/PID/stat`. The command name (field 2) may hold blanks and parentheses, so
/// fields are counted from the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Looks at `done` until it holds; false when `limit` has passed.
pub(crate) fn poll(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Which program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to this process' environment.
    pub env: Vec<(String, OsString)>,
    /// Its working folder.
    pub dir: PathBuf,
    /// Takes stdout and stderr, appended.
    pub log: PathBuf,
    /// Survives this process, in its own process group.
    pub detached: bool,
}

/// A child process with its identity. Its owner ends it; one that isn't detached ends with this process, however that ends.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    child: Child,
}

impl Process {
    /// Starts the program.
    ///
    /// # Errors
    /// When it can't be started, or ends at once.
    pub fn spawn(spec: &Spec) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot write {}", spec.log.display()))?;
        let mut command = command(spec, log)?;
        let child = on_lasting_thread(move || command.spawn())?
            .with_context(|| format!("cannot start {}", spec.program.display()))?;
        match Identity::of(child.id()) {
            Some(identity) => Ok(Self { identity, child }),
            None => bail!("{} ended at once, see {}", spec.program.display(), spec.log.display()),
        }
    }

    /// Which process it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The exit status, if it has ended; reaps it.
    ///
    /// # Errors
    /// When it can't be asked for.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGTERM, SIGKILL after `grace`; returns when it is reaped.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn end(&mut self, grace: Duration) -> Result<()> {
        let Self { identity, child } = self;
        identity.end_with(grace, || !matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for it to end by itself; false when `limit` has passed.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        poll(limit, || !matches!(self.child.try_wait(), Ok(None)))
    }
}

fn command(spec: &Spec, log: File) -> Result<Command> {
    let mut command = match find_program("setpriv") {
        Some(setpriv) if !spec.detached => {
            let mut c = Command::new(setpriv);
            c.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program);
            c
        }
        _ => Command::new(&spec.program),
    };
    if spec.detached {
        command.process_group(0);
    }
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}

type Job = Box<dyn FnOnce() + Send>;
static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Runs `work` on a thread that lives as long as this process: the kernel sends the parent-death signal when the
/// *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and test threads end early.
fn on_lasting_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (reply, answer) = channel();
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if spawner.is_none() {
        let (jobs, inbox) = channel::<Job>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || inbox.into_iter().for_each(|job| job()))?;
        *spawner = Some(jobs);
    }
    if let Some(jobs) = spawner.as_ref() {
        jobs.send(Box::new(move || _ = reply.send(work())))
            .map_err(|_| anyhow!("the spawner thread is gone"))?;
    }
    drop(spawner);
    answer.recv().context("the spawner thread gave no answer")
}

/// The last lines of a log file, of what was written after byte `from`; for error messages.
pub(crate) fn tail(log: &Path, from: u64, lines: usize) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => {
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => format!("(cannot read {}: {e})", log.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sleeper(dir: &Path, detached: bool) -> Process {
        Process::spawn(&Spec {
            program: "/bin/sleep".into(),
            args: vec!["600".into()],
            env: vec![],
            dir: dir.into(),
            log: dir.join("log"),
            detached,
        })
        .unwrap()
    }

    #[test]
    fn stat_with_odd_command_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
        assert_eq!(parse_stat("42 (x"), None);
    }

    #[test]
    fn ended_by_pid_even_when_frozen() {
        let dir = tempfile::tempdir().unwrap();
        for detached in [false, true] {
            let mut p = sleeper(dir.path(), detached);
            let id = p.identity();
            assert!(id.is_alive());
            id.signal(Signal::SIGSTOP).unwrap();
            p.end(Duration::from_secs(5)).unwrap();
            assert!(!id.is_alive());
        }
    }

    #[test]
    fn another_process_with_the_same_pid_is_left_alone() {
        let me = Identity::of(std::process::id()).unwrap();
        let before = Identity { start_time: me.start_time - 1, ..me };
        assert!(!before.is_alive());
        before.end(Duration::ZERO).unwrap(); // would end this test otherwise
    }

    #[test]
    fn attached_child_outlives_the_thread_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let mut p = thread::spawn(move || sleeper(&path, false)).join().unwrap();
        assert!(!p.wait(Duration::from_millis(200)));
        p.end(Duration::from_secs(5)).unwrap();
    }
}
