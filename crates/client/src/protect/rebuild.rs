//! One process at a time loads a key: a lock in Redis, and a second look at the key by who has it.

use std::time::{Duration, Instant};

use crate::{
    Error, RebuildLock, Step,
    commands::{beside, token},
    context::{Context, jittered_pause},
    strategy::{Acquired, Found, Right, Ticket},
};

/// The lock, or another's value, or after [`RebuildLock::wait`] the right to load without either.
pub(crate) async fn acquire(
    cx: &Context,
    lock: RebuildLock,
    key: &str,
    wait: bool,
) -> Result<Acquired, Error> {
    let name = beside("rebuild", key)?;
    let token = token();
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        cx.before(Step::Lock, key).await;
        let is_ours = cx.redis.set_new(&name, &token.to_hex(), lock.hold).await?;
        // Whoever had it before us may have filled. (Who only refreshes an entry finds that entry here.)
        if wait {
            cx.before(Step::Get, key).await;
            if let Some(cached) = cx.redis.get(key).await? {
                if is_ours {
                    cx.redis.release(&name, &token.to_hex()).await?;
                }
                return Ok(Acquired::Hit(Found(cached)));
            }
        }
        if is_ours {
            return Ok(Acquired::Turn(Ticket::new(Right::Rebuild(name, token))));
        }
        let remaining = lock.wait.saturating_sub(begun.elapsed());
        if !wait {
            return Ok(Acquired::Busy);
        }
        if remaining.is_zero() {
            return Ok(Acquired::Turn(Ticket::plain()));
        }
        tokio::time::sleep(jittered_pause(pause).min(remaining.max(Duration::from_millis(1)))).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
