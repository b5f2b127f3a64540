//! How a test asks for servers.

use crate::install::{Installed, Need, ensure};

/// The servers that a test needs; `None`, with a message on stderr, where one can't be had, and then the test should
/// return. The environment variable `ROWBUST_REQUIRE` (names with commas between, such as `mariadb,kafka`) turns that
/// into a failure, and lets missing servers be installed; without it nothing is installed.
///
/// ```no_run
/// use rowbust_servers::{MySql, Need, StartOptions, require};
/// # fn test() -> anyhow::Result<()> {
/// let Some(_) = require(&[Need::MySql]) else { return Ok(()) };
/// let mysql = MySql::start(StartOptions::new("/tmp/somewhere"))?;
/// # Ok(()) }
/// ```
///
/// # Panics
/// When `ROWBUST_REQUIRE` names a server that can't be had, or something that is no server.
#[must_use]
#[allow(clippy::panic, reason = "fails the test that asks")]
pub fn require(needs: &[Need]) -> Option<Installed> {
    let value = std::env::var("ROWBUST_REQUIRE").unwrap_or_default();
    let required: Vec<Need> = value
        .split(',')
        .filter(|n| !n.is_empty())
        .map(|n| n.trim().parse().unwrap_or_else(|e| panic!("ROWBUST_REQUIRE: {e}")))
        .collect();
    let found = Installed::find(needs);
    let missing: Vec<Need> = needs.iter().copied().filter(|n| !found.has(*n)).collect();
    if missing.is_empty() {
        return Some(found);
    }
    if missing.iter().all(|n| required.contains(n)) {
        return Some(ensure(needs).unwrap_or_else(|e| panic!("{e:#}")));
    }
    let names: Vec<&str> = missing.iter().map(|n| n.name()).collect();
    eprintln!("skipped: no {}; install with `cargo xtask servers install`", names.join(", "));
    None
}
