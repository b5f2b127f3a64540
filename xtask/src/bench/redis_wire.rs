//! Redis over a plain socket: many commands in flight, nothing but the sending and the counting of replies.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// Keys of one UNLINK, as in the daemon.
const UNLINK_KEYS: usize = 512;

/// The key of a row.
pub(super) fn key(id: u32) -> String {
    format!("product:{id}")
}

fn push_command(buffer: &mut Vec<u8>, name: &str, args: &[&str]) {
    buffer.extend_from_slice(format!("*{}\r\n", args.len() + 1).as_bytes());
    for arg in std::iter::once(&name).chain(args) {
        buffer.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
}

/// Puts a value of 100 bytes under the key of each id, in an order that has nothing to do with that of the ids: readers fill a
/// cache in another order than writers change rows, and keys that lie in memory as they are removed would flatter Redis.
pub(super) fn fill(port: u16, ids: &[u32]) -> Result<()> {
    let mut ids = ids.to_vec();
    ids.shuffle(&mut StdRng::seed_from_u64(1));
    fill_in_order(port, &ids)
}

/// The same in the order of the ids.
pub(super) fn fill_in_order(port: u16, ids: &[u32]) -> Result<()> {
    let value = "v".repeat(100);
    let mut commands = Vec::new();
    for id in ids {
        push_command(&mut commands, "SET", &[&key(*id), &value]);
    }
    exchange(port, &commands, ids.len()).map(drop)
}

/// UNLINKs of 512 keys, ready to be sent.
pub(super) fn unlinks(ids: &[u32]) -> Vec<u8> {
    let mut commands = Vec::new();
    for ids in ids.chunks(UNLINK_KEYS) {
        let keys: Vec<String> = ids.iter().map(|id| key(*id)).collect();
        push_command(&mut commands, "UNLINK", &keys.iter().map(String::as_str).collect::<Vec<_>>());
    }
    commands
}

/// Sends [`unlinks`] for `keys` keys over one connection, and says how long it took from the first byte to the last reply.
pub(super) fn remove(port: u16, commands: &[u8], keys: usize) -> Result<Duration> {
    let (took, removed) = exchange(port, commands, keys.div_ceil(UNLINK_KEYS))?;
    if removed != keys {
        bail!("{removed} keys removed of {keys}");
    }
    Ok(took)
}

/// Sends all, from a thread of its own, and reads as many replies of one line; gives the time and the sum of the numbers.
fn exchange(port: u16, commands: &[u8], replies: usize) -> Result<(Duration, usize)> {
    let mut reader = TcpStream::connect(("127.0.0.1", port))?;
    reader.set_nodelay(true)?;
    reader.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut writer = reader.try_clone()?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || writer.write_all(commands));
        let (mut left, mut sum) = (replies, 0);
        let mut buffer = vec![0; 64 << 10];
        let mut number = 0;
        while left > 0 {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                bail!("Redis closed the connection");
            }
            for &byte in &buffer[..n] {
                match byte {
                    b'-' => bail!("Redis: {}", String::from_utf8_lossy(&buffer[..n.min(200)])),
                    b'0'..=b'9' => number = number * 10 + usize::from(byte - b'0'),
                    b'\n' => {
                        left -= 1;
                        sum += std::mem::take(&mut number);
                    }
                    _ => {}
                }
            }
        }
        let took = begun.elapsed();
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok((took, sum))
    })
}

/// Empties it.
pub(super) fn flush(port: u16) -> Result<()> {
    let mut command = Vec::new();
    push_command(&mut command, "FLUSHALL", &["SYNC"]);
    exchange(port, &command, 1).map(drop).context("FLUSHALL")
}
