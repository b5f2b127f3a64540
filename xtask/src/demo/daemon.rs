//! The daemon as its user has it: built, configured, started, asked over HTTP, killed, drained.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::live::Live;
use crate::demo::tail;

/// From start to ready, and from SIGTERM to the end. Generous: a loaded machine.
const WITHIN: Duration = Duration::from_secs(60);
/// From the end of all writes until everything is done. Retries come 10 s after a failure; and Kafka gives the
/// partitions of a consumer that was killed to its successor when that one's session has timed out, after 45 s.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// For one answer. Listing Kafka's topics takes some questions to the brokers.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Builds the daemon; the path of the program.
pub(crate) fn build(workspace: &Path, kafka: bool) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.current_dir(workspace).args(["build", "--release", "-p", "rowbust", "--bin", "rowbust"]);
    command.arg("--no-default-features");
    if kafka {
        command.args(["--features", "kafka"]);
    }
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the build of rowbust failed");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "rowbust")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no program `rowbust`")
}

/// What the config file says.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) database_port: u16,
    pub(crate) redis_port: u16,
    pub(crate) brokers: Option<&'a str>,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
}

/// The daemon's process.
#[derive(Debug)]
pub(crate) struct Daemon {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    child: Child,
    peak_rss: u64,
}

impl Daemon {
    /// Writes the config into `dir`, starts the daemon and waits until it is ready.
    pub(crate) async fn start(program: &Path, dir: &Path, settings: &Settings<'_>) -> Result<Self> {
        let port = rowbust_servers::ports::free_port()?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        fs::write(dir.join("password"), settings.password)?;
        fs::write(dir.join("rowbust.yaml"), config(dir, port, settings))?;
        let child = spawn(program, dir)?;
        let mut daemon = Self { program: program.into(), dir: dir.into(), port, child, peak_rss: 0 };
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            self.still_runs()?;
            if matches!(self.get("/readyz").await, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("rowbust isn't ready after {} s; {}", WITHIN.as_secs(), self.log());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error if it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("rowbust ended by itself: {status}; {}", self.log())),
        }
    }

    fn log(&self) -> String {
        tail(&self.dir.join("log"))
    }

    /// kill -9, and started again at once; returns when it is ready again.
    pub(crate) async fn kill9_and_start(&mut self) -> Result<()> {
        self.note_memory();
        self.child.kill().await.context("cannot kill rowbust")?;
        self.child = spawn(&self.program, &self.dir)?;
        self.wait_until_ready().await
    }

    /// Waits until the daemon says that nothing is left to do: the source has nothing newer, everything read is
    /// settled, the retry queue is empty.
    pub(crate) async fn wait_until_quiet(&mut self, live: &mut Live) -> Result<()> {
        let start = Instant::now();
        let mut last = String::from("no answer yet");
        loop {
            self.still_runs()?;
            if let Ok((200, body)) = self.get("/status").await {
                let status: Value = serde_json::from_str(&body).context("/status is no JSON")?;
                let field = |path: &str| {
                    status.pointer(path).cloned().with_context(|| format!("/status lacks {path}: {body}"))
                };
                let caught_up = field("/caught_up")?;
                let (mut pending, dead) = (field("/queue/pending")?, field("/queue/dead")?);
                let open = field("/frontier/open_segments")?;
                if caught_up == true && pending == 0 && open == 0 {
                    if dead != 0 || !self.is_retry_list_empty(true).await? {
                        bail!("rowbust has dead letters; {}", self.log());
                    }
                    // Counted from the records: a consumer that has no partitions yet doesn't know what is pending.
                    if self.is_retry_list_empty(false).await? {
                        return Ok(());
                    }
                    pending = Value::Null;
                }
                let pending = if pending.is_null() { "not empty".into() } else { pending.to_string() };
                last = format!("caught up: {caught_up}, open segments: {open}, retry queue: {pending}");
            }
            live.show(|| format!("waiting until rowbust has nothing left to do ({last})"));
            if start.elapsed() > QUIET_WITHIN {
                bail!(
                    "rowbust isn't done {} s after the last write ({last}); {}",
                    QUIET_WITHIN.as_secs(),
                    self.log()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_retry_list_empty(&self, dead: bool) -> Result<bool> {
        let (status, body) = self.get(&format!("/retry?dead={dead}&limit=1")).await?;
        let list: Value =
            serde_json::from_str(&body).with_context(|| format!("/retry says {status}: {body}"))?;
        Ok(list["records"]
            .as_array()
            .with_context(|| format!("/retry lacks its records: {body}"))?
            .is_empty())
    }

    /// SIGTERM: it must drain and exit with 0. Gives its peak memory in bytes.
    pub(crate) async fn stop(mut self) -> Result<u64> {
        self.note_memory();
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("rowbust has ended")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let ended = tokio::time::timeout(WITHIN, self.child.wait()).await;
        let status =
            ended.with_context(|| format!("rowbust doesn't end after SIGTERM; {}", self.log()))??;
        if !status.success() {
            bail!("rowbust ended with {status} after SIGTERM; {}", self.log());
        }
        Ok(self.peak_rss)
    }

    /// `VmHWM` is the peak of the process' whole life: proc_pid_status(5).
    fn note_memory(&mut self) {
        let read = || {
            let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        self.peak_rss = self.peak_rss.max(read().unwrap_or(0) * 1024);
    }

    /// Status and body of a GET. HTTP/1.0, so that the answer ends with the connection.
    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut text = String::new();
        tokio::time::timeout(ANSWER_WITHIN, async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
            stream.read_to_string(&mut text).await
        })
        .await??;
        parse_response(&text).with_context(|| format!("no HTTP response: {text:?}"))
    }
}

fn parse_response(text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn spawn(program: &Path, dir: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    // Where util-linux is there, the daemon doesn't outlive the demo, even if that is killed by kill -9.
    let mut command = match rowbust_servers::install::find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .args(["run", "-c"])
        .arg(dir.join("rowbust.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

fn config(dir: &Path, admin: u16, settings: &Settings<'_>) -> String {
    let quoted = |name: &str| format!("\"{}\"", dir.join(name).display());
    let Settings { database_port, redis_port, brokers, user, .. } = settings;
    let retry = match brokers {
        Some(brokers) => format!("kafka: {{ brokers: [\"{brokers}\"], prefix: rowbust.demo }}"),
        None => format!("disk: {{ path: {} }}", quoted("retry")),
    };
    format!(
        "version: 1\n\
         source:\n  \
           url: mysql://{user}@127.0.0.1:{database_port}\n  \
           password_file: {password}\n  \
           tls: disabled\n  \
           start: latest\n\
         redis:\n  \
           main: {{ url: \"redis://127.0.0.1:{redis_port}/0\" }}\n\
         retry:\n  \
           {retry}\n\
         checkpoint: {{ path: {checkpoint} }}\n\
         admin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
         mappings:\n  \
           - {{ table: shop.products, keys: [\"product:{{id}}\"] }}\n  \
           - {{ table: shop.customers, keys: [\"customer:{{id}}\"] }}\n",
        password = quoted("password"),
        checkpoint = quoted("checkpoint"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn responses() {
        let (status, body) = parse_response("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nno").unwrap();
        assert_eq!((status, body.as_str()), (503, "no"));
        assert_eq!(parse_response("HTTP/1.0 200 OK"), None);
    }

    #[test]
    fn the_config_names_what_was_asked_for() {
        let mut settings =
            Settings { database_port: 1, redis_port: 2, brokers: None, user: "u", password: "secret" };
        let text = config(Path::new("/d"), 3, &settings);
        assert!(text.contains("disk: { path: \"/d/retry\" }") && text.contains("\"product:{id}\""), "{text}");
        assert!(!text.contains("secret"));
        settings.brokers = Some("127.0.0.1:9");
        assert!(config(Path::new("/d"), 3, &settings).contains("brokers: [\"127.0.0.1:9\"]"));
    }
}
