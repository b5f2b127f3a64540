//! The checker over 1 and 10 million operations, spread over 100,000 keys and all on one: seconds, peak memory of the process, and how
//! the time grows. Fails above a minute or 2 GiB, when the memory can't be told, or when ten times the operations take more than 20 times
//! as long.
//!
//! `cargo bench -p rowbust-lab --bench checker [OPERATIONS]`; one line of JSON per size.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use rowbust_lab::{
    checker::{self, Settings},
    history::{Kind, Op, Outcome},
};

const LIMIT_SECONDS: f64 = 60.0;
const LIMIT_BYTES: u64 = 2 << 30;
const LIMIT_GROWTH: f64 = 20.0;

/// A run of 64 clients in turn, 10 % writes; of the reads one in a hundred is a version late.
fn history(operations: u64, keys: u64) -> Vec<Op> {
    let mut newest = vec![1_u64; usize::try_from(keys).unwrap_or(1)];
    let mut random = 42_u64;
    let op = |n: u64| {
        // Knuth's linear congruential generator (MMIX).
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = random >> 33;
        let key = draw % keys;
        let version = newest.get_mut(usize::try_from(key).unwrap_or(0));
        let (kind, version) = match (n % 10, version) {
            (0, Some(version)) => {
                *version += 1;
                (Kind::Write, *version)
            }
            (_, version) => {
                let version = version.map_or(1_u64, |v| *v);
                let late = u64::from(draw.is_multiple_of(100));
                (if n % 7 == 1 { Kind::Load } else { Kind::Hit }, version.saturating_sub(late).max(1))
            }
        };
        // A write is over before the next operation begins, so that a load may give what it made.
        let start = n * 1000;
        Op {
            start,
            end: start + 900,
            version,
            key: u32::try_from(key).unwrap_or(0),
            process: u32::try_from(n % 64).unwrap_or(0),
            kind,
            outcome: Outcome::Ok,
        }
    };
    (0..operations).map(op).collect()
}

/// The most memory that the process has held, in bytes (proc_pid_status(5), VmHWM); `None` where the system doesn't say.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kb: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kb.checked_mul(1024).filter(|bytes| *bytes > 0)
}

fn main() {
    let most = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000_000);
    let mut failed = false;
    for keys in [100_000, 1] {
        let mut seconds = Vec::new();
        for operations in [most / 10, most] {
            let mut ops = history(operations, keys);
            let start = Instant::now();
            let report = checker::check(&mut ops, &[], &Settings::default());
            let took = start.elapsed().as_secs_f64();
            let stale = report.map_or_else(|e| panic!("{e}"), |report| report.stale_reads);
            let line = serde_json::json!({
                "operations": operations, "keys": keys, "seconds": took, "peak_bytes": peak(), "stale_reads": stale,
            });
            println!("{line}");
            // What can't be measured isn't within a limit.
            failed |= took > LIMIT_SECONDS || peak().is_none_or(|bytes| bytes > LIMIT_BYTES) || stale == 0;
            seconds.push(took);
        }
        let growth = seconds.last().zip(seconds.first()).map_or(0.0, |(last, first)| last / first);
        println!("{}", serde_json::json!({ "keys": keys, "growth_for_ten_times": growth }));
        failed |= growth > LIMIT_GROWTH;
    }
    std::process::exit(i32::from(failed));
}
