//! Read and write locks beside a key: owner tokens, a watchdog, a fence.
//!
//! Guarantees: a lock is renewed for as long as its guard lives and its process runs, and no longer; giving back takes only one's own. The
//! fence that a guard tells is another one whenever a writer has taken the lock or removed the key in between, or Redis has lost the lock's
//! memory. Times are
//! the server's. *Not* guaranteed, as no lock with an expiry can: that the holder still has it at the moment at which it acts. That is
//! what the fence is for. May depend on `commands` and `stats`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rowbust_protocol::lease::Token;
use tokio::task::AbortHandle;

use crate::{
    Error, Step,
    change::Change,
    commands::{beside, token},
    context::{Context, jittered_pause},
    stats::count,
};

/// How long a lock remembers its fence without being touched. A reader that was held up for longer finds it gone, and isn't let fill.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// How locks are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Locks {
    /// Until a lock whose watchdog no longer renews it is free.
    pub(crate) hold: Duration,
    /// How long to try.
    pub(crate) wait: Duration,
}

impl Default for Locks {
    fn default() -> Self {
        Self { hold: Duration::from_secs(10), wait: Duration::from_secs(5) }
    }
}

/// A lock that is held. Dropped without [`Guard::release`], it stops renewing itself and is given back in the background.
#[derive(Debug)]
pub(crate) struct Guard {
    redis: crate::Redis,
    name: String,
    token: Token,
    fence: u64,
    lost: Arc<AtomicBool>,
    watchdog: AbortHandle,
    released: bool,
}

impl Locks {
    /// Takes the lock of `key`.
    ///
    /// # Errors
    /// When it isn't free in time, or Redis fails.
    pub(crate) async fn take(&self, cx: &Context, key: &str, write: bool) -> Result<Guard, Error> {
        let name = beside("lock", key)?;
        let token = token();
        let begun = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let left = match cx.redis.lock(&name, write, token, self.hold, KEEP).await? {
                Ok(fence) => return Ok(self.guard(cx, name, token, fence)),
                Err(left) => left,
            };
            let remaining = self.wait.saturating_sub(begun.elapsed());
            if remaining.is_zero() {
                return Err(Error::LockBusy { key: key.to_owned(), waited: self.wait });
            }
            let longest = left.min(remaining).max(Duration::from_millis(1));
            tokio::time::sleep(jittered_pause(pause).min(longest)).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn guard(&self, cx: &Context, name: String, token: Token, fence: u64) -> Guard {
        let lost = Arc::new(AtomicBool::new(false));
        let watchdog = tokio::spawn(watch(cx.redis.clone(), name.clone(), token, self.hold, lost.clone()));
        Guard {
            redis: cx.redis.clone(),
            name,
            token,
            fence,
            lost,
            watchdog: watchdog.abort_handle(),
            released: false,
        }
    }
}

/// The write locks of all keys of a change, in the keys' order: two changes never wait for each other in a circle.
///
/// # Errors
/// When one isn't free in time; those taken are given back.
pub(crate) async fn take_all(locks: Locks, cx: &Context, change: &Change) -> Result<Vec<Guard>, Error> {
    let mut keys: Vec<&str> = change.keys().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut taken = Vec::with_capacity(keys.len());
    for key in keys {
        cx.before(Step::Lock, key).await;
        taken.push(locks.take(cx, key, true).await?);
    }
    Ok(taken)
}

/// Removes the keys of a change; who took their locks before may no longer fill. That counts where the writer's own lock has expired, and
/// a reader has read the old row since.
pub(crate) async fn remove_all_fenced(cx: &Context, change: &Change) -> Result<(), Error> {
    let remove = async |key| {
        cx.before(Step::Delete, key).await;
        (key, async { cx.redis.remove_fenced(key, &beside("lock", key)?, KEEP).await }.await)
    };
    cx.removed(futures_util::future::join_all(change.keys().map(remove)).await)
}

/// Gives back what [`take_all`] took.
pub(crate) async fn release_all(cx: &Context, change: &Change, locks: Vec<Guard>) {
    for key in change.keys().take(1) {
        cx.before(Step::Unlock, key).await;
    }
    futures_util::future::join_all(locks.into_iter().map(|lock| lock.release_counted(cx))).await;
}

/// Renews three times per term. An error is tried again at the next turn; the lock then lasts for the rest of the term.
async fn watch(redis: crate::Redis, name: String, token: Token, hold: Duration, lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(hold / 3).await;
        if let Ok(false) = redis.renew(&name, token, hold, KEEP).await {
            lost.store(true, Relaxed);
            tracing::warn!(lock = name, "lock lost while it was held: the process stood still for too long");
            return;
        }
    }
}

impl Guard {
    /// The lock's key.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the lock's fence was when it was taken.
    pub(crate) fn fence(&self) -> u64 {
        self.fence
    }

    /// Gives it back. One that can't be given back expires.
    pub(crate) async fn release(mut self) {
        self.watchdog.abort();
        self.released = true;
        if let Ok(false) = self.redis.unlock(&self.name, self.token).await {
            self.lost.store(true, Relaxed);
        }
    }

    /// The same, counting whether it was lost.
    pub(crate) async fn release_counted(self, cx: &Context) {
        let lost = self.lost.clone();
        self.release().await;
        if lost.load(Relaxed) {
            count(&cx.counters.locks_lost);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.watchdog.abort();
        if self.released {
            return;
        }
        // The caller was cancelled. Outside a runtime the lock expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (redis, name, token) = (self.redis.clone(), std::mem::take(&mut self.name), self.token);
            runtime.spawn(async move { drop(redis.unlock(&name, token).await) });
        }
    }
}
