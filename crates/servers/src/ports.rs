//! Free TCP ports on 127.0.0.1.
//!
//! Ports are taken *below* the kernel's ephemeral range. A client that keeps reconnecting to an ephemeral port whose
//! server is down can connect to itself (TCP simultaneous open) or be given the port for another connection; the
//! server could then not come back on it. A port is free when it was asked for; a clash at start is retried by the
//! caller ([`crate::instance`]).

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

/// Lowest port handed out; below it live well-known services.
const LOWEST: u16 = 15_000;
/// Used when the kernel does not tell its range; Linux's default lower bound.
const EPHEMERAL_LOW: u16 = 32_768;

/// Ports given out by this process: two servers starting at once must not get the same one.
static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A TCP port of 127.0.0.1 that nothing listens on and that this process was not given before.
///
/// # Errors
/// When no port is free after some hundred tries.
pub fn free_port() -> Result<u16> {
    let (low, high) = range();
    let width = u64::from(high - low);
    for _ in 0..500 {
        let port = low + u16::try_from(random() % width).context("port out of range")?;
        if !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            continue;
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port between {low} and {high} on 127.0.0.1")
}

/// `[low, high)`: below the ephemeral range where that leaves room, else the upper half of all ports.
fn range() -> (u16, u16) {
    let low = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|s| s.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_LOW);
    if low >= LOWEST + 1000 { (LOWEST, low) } else { (EPHEMERAL_LOW, u16::MAX) }
}

/// A random number from the standard library's per-instance hash keys: enough to spread ports.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_distinct_and_bindable() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|p| *p >= LOWEST));
    }
}
