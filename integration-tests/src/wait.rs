//! Polling with a deadline: the only way in which the tests wait.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks.
pub const POLL: Duration = Duration::from_millis(10);

/// Asks until `look` gives something, and returns that.
///
/// # Errors
/// When `limit` has passed (naming `what` and the last thing seen), or `look` fails.
pub async fn until<T, F: Future<Output = Result<Seen<T>>>>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look().await? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(state) if start.elapsed() > limit => {
                bail!("{what}: not within {} s, last seen: {state}", limit.as_secs())
            }
            Seen::NotYet(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// What one look gave.
#[derive(Debug)]
pub enum Seen<T> {
    /// The awaited.
    Done(T),
    /// Something else, for the message at the deadline.
    NotYet(String),
}

impl Seen<()> {
    /// Done if `done`, else the state for the message.
    pub fn check(done: bool, state: impl FnOnce() -> String) -> Self {
        if done { Self::Done(()) } else { Self::NotYet(state()) }
    }
}
