//! The daemon as a process: built in release, started with a config of its own, asked over its admin port.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rowbust_servers::ports::free_port;
use serde_json::Value;

use super::env::{Bench, target_dir};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Builds the daemon without Kafka: nothing here fails into a queue.
pub(super) fn build(bench: &Bench) -> Result<PathBuf> {
    eprintln!("building the daemon");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--package", "rowbust", "--no-default-features"])
        .current_dir(&bench.root)
        .env_remove("CARGO_MANIFEST_DIR")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo build: {status}");
    }
    Ok(target_dir(&bench.root)?.join("release/rowbust"))
}

/// A running daemon; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    admin: u16,
    log: Receiver<(Instant, String)>,
}

/// What differs between the runs.
pub(super) struct Setup<'a> {
    pub(super) database: u16,
    pub(super) redis: u16,
    /// The value of `source.start`.
    pub(super) start: &'a str,
    /// Added to the mapping.
    pub(super) mapping: &'a str,
}

impl Daemon {
    /// Starts it in `dir`, where nothing of an earlier run is left. One mapping: `bench.products` to `product:{id}`.
    pub(super) fn start(program: &Path, dir: &Path, setup: &Setup<'_>) -> Result<Self> {
        let dir = dir.join("daemon");
        super::env::remove(&dir)?;
        fs::create_dir_all(&dir)?;
        let admin = free_port()?;
        let Setup { database, redis, start, mapping } = setup;
        let config = format!(
            "source: {{ url: \"mysql://root@127.0.0.1:{database}\", start: {start} }}\n\
             redis: {{ main: \"redis://127.0.0.1:{redis}/0\" }}\n\
             admin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
             mappings:\n  - table: bench.products\n    keys: [\"product:{{id}}\"]\n    {mapping}\n"
        );
        let file = dir.join("rowbust.yaml");
        fs::write(&file, config)?;
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, admin, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it logged this.
    pub(super) fn logged(&mut self, text: &str) -> Result<Instant> {
        let mut seen = String::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok((at, line)) if line.contains(text) => return Ok(at),
                Ok((_, line)) => {
                    seen.push_str(&line);
                    seen.push('\n');
                }
                Err(_) => bail!("the daemon has not logged {text:?}, but:\n{seen}"),
            }
        }
    }

    /// `GET /status`.
    pub(super) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/status")?)?)
    }

    /// The sum of a metric's series.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?;
        let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(body.to_owned())
    }

    /// Asks again and again until `condition` holds.
    pub(super) fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let status = self.status();
            match status {
                Ok(status) if condition(&status) => return Ok(status),
                Ok(status) if begun.elapsed() > PATIENCE => bail!("waited in vain until {what}: {status:#}"),
                Err(e) if begun.elapsed() > PATIENCE => {
                    return Err(e.context(format!("waited in vain until {what}")));
                }
                _ => {}
            }
            if let Some(ended) = self.child.try_wait()? {
                let log: Vec<String> = self.log.try_iter().map(|(_, line)| line).collect();
                bail!("the daemon ended ({ended}):\n{}", log.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM; what was read is finished first.
    pub(super) fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(40) {
                bail!("the daemon does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number in `/status`, by path.
pub(super) fn number(status: &Value, path: &str) -> f64 {
    status.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// All that the server has is read, removed as often as is owed, and checkpointed.
pub(super) fn caught_up(status: &Value) -> bool {
    status["caught_up"] == Value::Bool(true)
}
