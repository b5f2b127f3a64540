//! Every removal that Redis ran, in its order, by `MONITOR`.
//!
//! `MONITOR` shows a command after it ran (server.c, `call()`); one that was refused isn't shown. A [`Monitor::fence`] is
//! a command of our own: once it is seen, so is everything that ran before it. What scripts do is left out: the daemon uses
//! none, and the tests undo a late fill by one.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The removals seen so far. Goes on over restarts of Redis, with one [`Monitor`] after the other.
#[derive(Debug, Default)]
pub struct Removals {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    /// By key (`key`, or `key` NUL `field` for a field): when, in microseconds since 1970, and the place among all.
    by_key: HashMap<String, Vec<Removal>>,
    total: usize,
    fence: u64,
}

/// One removal that Redis ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Microseconds since 1970, by Redis' clock, which is this machine's.
    pub micros: u64,
    /// Its place among all.
    pub place: usize,
}

impl Removals {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().total
    }

    /// Those of one key, oldest first.
    #[must_use]
    pub fn of(&self, key: &str) -> Vec<Removal> {
        self.lock().by_key.get(key).cloned().unwrap_or_default()
    }

    /// Every key that was removed at place `from` or later, with how often.
    #[must_use]
    pub fn since(&self, from: usize) -> HashMap<String, usize> {
        let seen = self.lock();
        let count = |r: &[Removal]| r.iter().filter(|r| r.place >= from).count();
        seen.by_key.iter().map(|(k, r)| (k.clone(), count(r))).filter(|(_, n)| *n > 0).collect()
    }

    pub(crate) fn note(&self, line: &str) {
        let Some((micros, words)) = parse(line) else { return };
        let Some((command, arguments)) = words.split_first() else { return };
        let mut seen = self.lock();
        let keys: Vec<String> = match (command.to_ascii_uppercase().as_str(), arguments) {
            ("UNLINK", keys) => keys.to_vec(),
            ("HDEL", [key, fields @ ..]) => fields.iter().map(|f| field(key, f)).collect(),
            ("ECHO", [text]) => {
                if let Some(n) = text.strip_prefix("fence ").and_then(|n| n.parse().ok()) {
                    seen.fence = n;
                    self.changed.notify_all();
                }
                return;
            }
            _ => return,
        };
        for key in keys {
            let place = seen.total;
            seen.total += 1;
            seen.by_key.entry(key).or_default().push(Removal { micros, place });
        }
    }
}

/// How a removed field of a hash is named here.
#[must_use]
pub fn field(key: &str, field: &str) -> String {
    format!("{key}\0{field}")
}

/// `+1700000000.123456 [0 127.0.0.1:5000] "UNLINK" "a" "b"`
fn parse(line: &str) -> Option<(u64, Vec<String>)> {
    let (time, rest) = line.strip_prefix('+')?.split_once(' ')?;
    let (seconds, micros) = time.split_once('.')?;
    let micros = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    let (client, quoted) = rest.split_once("] ")?;
    if client.ends_with(" lua") {
        return None;
    }
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match (c, &mut word) {
            ('"', None) => word = Some(Vec::new()),
            ('"', Some(w)) => {
                words.push(String::from_utf8_lossy(w).into_owned());
                word = None;
            }
            // `sdscatrepr`: what isn't printable ASCII comes as `\xff`.
            ('\\', Some(w)) => match chars.next()? {
                'x' => {
                    let (high, low) = (chars.next()?.to_digit(16)?, chars.next()?.to_digit(16)?);
                    w.push(u8::try_from(high << 4 | low).ok()?);
                }
                c => w.push(u8::try_from(c).ok()?),
            },
            (c, Some(w)) => w.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            (_, None) => {}
        }
    }
    Some((micros, words))
}

/// A connection that watches one run of a Redis server.
#[derive(Debug)]
pub struct Monitor {
    port: u16,
    stream: TcpStream,
    removals: Arc<Removals>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Watches the server on `port`; every removal after the return is noted in `removals`.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn start(port: u16, removals: Arc<Removals>) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect to redis")?;
        stream.write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        if first.trim_end() != "+OK" {
            bail!("MONITOR: {first}");
        }
        let noted = Arc::clone(&removals);
        let thread = std::thread::spawn(move || {
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                noted.note(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Ok(Self { port, stream, removals, thread: Some(thread) })
    }

    /// Whether Redis has closed the connection: it ended, or a sentinel made it somebody else's replica or master.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Returns when everything that Redis ran until now is noted.
    ///
    /// # Errors
    /// When that takes more than 30 s, or Redis doesn't answer.
    pub fn fence(&self) -> Result<()> {
        let number = {
            let mut seen = self.removals.lock();
            seen.fence = 0;
            // The count of removals is as good a number as any; never 0.
            seen.total as u64 + 1
        };
        let mut client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let _: String = redis::cmd("ECHO").arg(format!("fence {number}")).query(&mut client)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut seen = self.removals.lock();
        while seen.fence != number {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("MONITOR is more than 30 s behind");
            }
            seen = self.removals.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_monitor() {
        let seen = Removals::default();
        seen.note("+1700000000.000007 [0 127.0.0.1:5] \"UNLINK\" \"a b\" \"c\\\"d\"\r\n");
        seen.note("+1700000001.000000 [0 127.0.0.1:5] \"hdel\" \"h\" \"1\"\r\n");
        seen.note("+1700000001.000001 [0 127.0.0.1:5] \"DEL\" \"a b\"\r\n");
        seen.note("+1700000001.000001 [0 lua] \"UNLINK\" \"a b\"\r\n");
        assert_eq!(seen.of("a b"), [Removal { micros: 1_700_000_000_000_007, place: 0 }]);
        assert_eq!(seen.of("c\"d").len(), 1);
        assert_eq!(seen.since(2), HashMap::from([(field("h", "1"), 1)]));
    }
}
