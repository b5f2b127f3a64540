//! The bytes that keys in flight may take.
//!
//! Guarantees: what is taken never exceeds the limit, but for one segment that is larger than it; bulk never takes more than half.
//! May depend on nothing of ours.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Closed;

/// The bytes that keys in flight may take.
#[derive(Debug, Clone)]
pub struct Budget {
    all: Arc<Semaphore>,
    /// Of `all`, what bulk may take.
    bulk: Arc<Semaphore>,
    total: u32,
}

/// Bytes of the budget, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    all: Option<OwnedSemaphorePermit>,
    bulk: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// At most so many of its bytes as a permit of their own. What it took of bulk's share goes with it, or stays with the rest.
    pub(super) fn split(&mut self, bytes: usize, with_bulk: bool) -> Self {
        let part = |of: &mut OwnedSemaphorePermit| of.split(of.num_permits().min(bytes));
        let bulk = self.bulk.as_mut().filter(|_| with_bulk).and_then(part);
        Self { all: self.all.as_mut().and_then(part), bulk }
    }
}

impl Budget {
    /// `limit` is `limits.memory`. Half of it is for keys: the rest is for what they are copied into on their way, the retry queue's
    /// buffers and the allocator's slack.
    pub fn new(limit: u64) -> Self {
        let total = u32::try_from((limit / 2).max(1 << 20)).unwrap_or(u32::MAX);
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self { all: semaphore(total), bulk: semaphore(total / 2), total }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.total().saturating_sub(self.all.available_permits())
    }

    /// Bytes there are.
    pub fn total(&self) -> usize {
        self.total as usize
    }

    /// Waits until so many are free.
    pub(super) async fn take(&self, bytes: usize, bulk: bool) -> Result<Permit, Closed> {
        let most = if bulk { self.total / 2 } else { self.total };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(most);
        let bulk = match bulk {
            true => Some(acquire(&self.bulk, bytes).await?),
            false => None,
        };
        Ok(Permit { all: Some(acquire(&self.all, bytes).await?), bulk })
    }
}

async fn acquire(of: &Arc<Semaphore>, bytes: u32) -> Result<OwnedSemaphorePermit, Closed> {
    Arc::clone(of).acquire_many_owned(bytes).await.map_err(|_| Closed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bulk_leaves_half_to_others() {
        let budget = Budget::new(2 << 20);
        let soon = Duration::from_secs(1);
        let half = budget.total() / 2;
        let mut bulk = vec![budget.take(half - 10, true).await.unwrap()];
        assert!(tokio::time::timeout(soon, budget.take(20, true)).await.is_err());
        assert_eq!(budget.used(), half - 10, "a wait that was given up holds nothing");
        let small = tokio::time::timeout(soon, budget.take(half, false)).await.unwrap().unwrap();
        assert!(tokio::time::timeout(soon, budget.take(20, false)).await.is_err());
        bulk.clear();
        // Larger than its half: alone it passes.
        bulk.push(tokio::time::timeout(soon, budget.take(half * 3, true)).await.unwrap().unwrap());
        drop((bulk, small));
        assert_eq!(budget.used(), 0);
    }
}
