//! What happened to each key in Redis, seen from outside: `MONITOR`.
//!
//! Why this is the right measure of commit → removal: MONITOR prints a command when Redis runs it, with Redis' own
//! clock in microseconds; the application takes its times from the same machine's clock. Nothing that rowbust says
//! about itself is used. The daemon removes by UNLINK and the application by DEL, so the two can't be confused.
//! After an outage this connection may come back some milliseconds later than the daemon's: a line that is missed so
//! can only make a removal look later than it was.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::shop::Key;

/// How long a read or a connection attempt may block before `stop` is looked at.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Between two attempts to connect while Redis is down.
const RETRY: Duration = Duration::from_millis(1);

/// A command that changed a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// The application filled the key with this version of the row.
    Set(u64),
    /// The application removed it.
    Del,
    /// The daemon removed it.
    Unlink,
}

/// A command and when Redis ran it, in Unix microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) micros: u64,
    pub(crate) command: Command,
}

/// Commands by key, each in the order of time.
#[derive(Debug, Default, Clone)]
pub(crate) struct History(HashMap<Key, Vec<Seen>>);

impl History {
    /// What happened to a key.
    pub(crate) fn of(&self, key: Key) -> &[Seen] {
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    /// How many keys were named by commands of this kind, each as often as it was named.
    pub(crate) fn count(&self, command: Command) -> u64 {
        self.0.values().flatten().filter(|seen| seen.command == command).count() as u64
    }

    pub(crate) fn add(&mut self, key: Key, seen: Seen) {
        self.0.entry(key).or_default().push(seen);
    }

    /// Takes a line of MONITOR: `+1700000000.123456 [0 127.0.0.1:6000] "UNLINK" "product:1" "product:2"`.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let line = std::str::from_utf8(line).ok()?;
        let (time, rest) = line.strip_prefix('+')?.split_once(' ')?;
        let (seconds, micros) = time.split_once('.')?;
        let micros = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
        let (_, command) = rest.split_once("] ")?;
        let mut words = command.trim_end().split(' ').map(|word| word.trim_matches('"'));
        let name = words.next()?;
        let command = if name.eq_ignore_ascii_case("unlink") {
            Command::Unlink
        } else if name.eq_ignore_ascii_case("del") {
            Command::Del
        } else if name.eq_ignore_ascii_case("set") {
            let key = Key::parse(words.next()?)?;
            // Quotes inside of a word are printed with a backslash.
            let version = rest.split_once("{\\\"version\\\":")?.1;
            let version = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            self.add(key, Seen { micros, command: Command::Set(version) });
            return Some(());
        } else {
            return None;
        };
        for key in words.filter_map(Key::parse) {
            self.add(key, Seen { micros, command });
        }
        Some(())
    }
}

/// A thread that listens to MONITOR, and connects again whenever Redis comes back.
#[derive(Debug)]
pub(crate) struct Monitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    listening: AtomicBool,
    history: Mutex<History>,
}

impl Monitor {
    /// Starts to listen; returns once Redis has confirmed it.
    pub(crate) fn start(port: u16) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("monitor".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.stop.load(Relaxed) {
                    // Ends with an error whenever Redis does.
                    _ = listen(port, &shared);
                    shared.listening.store(false, Relaxed);
                    std::thread::sleep(RETRY);
                }
            }
        })?;
        let monitor = Self { shared, thread: Some(thread) };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !monitor.shared.listening.load(Relaxed) {
            if std::time::Instant::now() > deadline {
                return Err(anyhow!("redis on port {port} doesn't answer MONITOR"));
            }
            std::thread::sleep(RETRY);
        }
        Ok(monitor)
    }

    /// Stops to listen; what was seen.
    pub(crate) fn finish(mut self) -> History {
        self.stop();
        std::mem::take(&mut *self.shared.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(port: u16, shared: &Shared) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LOOK_UP)?;
    stream.set_read_timeout(Some(LOOK_UP))?;
    stream.write_all(b"*1\r\n$7\r\nMONITOR\r\n")?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut line = Vec::new();
    while !shared.stop.load(Relaxed) {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(_) => return Ok(()),
            // What was read of the line so far stays in the buffer.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(e) => return Err(e),
        }
        if line == b"+OK\r\n" {
            shared.listening.store(true, Relaxed);
        } else {
            _ = shared.history.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::shop::Table;
    use super::*;

    #[test]
    fn lines_of_monitor() {
        let mut history = History::default();
        for line in [
            "+OK",
            "+1700000000.000001 [0 127.0.0.1:6000] \"GET\" \"product:1\"",
            "+1700000000.000002 [0 127.0.0.1:6000] \"SET\" \"product:1\" \"{\\\"version\\\":12,\\\"id\\\":1}\" \"EX\" \"3600\"",
            "+1700000000.000003 [0 [::1]:6000] \"DEL\" \"product:1\"",
            "+1700000001.000004 [0 127.0.0.1:6001] \"UNLINK\" \"product:1\" \"customer:2\" \"rowbust:probe\"",
            "+170000000",
            "\u{fffd}",
        ] {
            _ = history.take(format!("{line}\r\n").as_bytes());
        }
        let product = Key { table: Table::Products, id: 1 };
        let at = |micros, command| Seen { micros, command };
        assert_eq!(
            history.of(product),
            [
                at(1_700_000_000_000_002, Command::Set(12)),
                at(1_700_000_000_000_003, Command::Del),
                at(1_700_000_001_000_004, Command::Unlink),
            ]
        );
        assert_eq!(history.count(Command::Unlink), 2);
        assert_eq!(history.of(Key { table: Table::Customers, id: 3 }), []);
    }
}
