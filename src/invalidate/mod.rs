//! Removing keys from Redis: the first and the second removal, classes of errors, the breaker.
//!
//! Guarantees: see [`worker`] (tickets), [`second`] (when), [`flush`] (keyspaces), [`slices`] (prefixes and sets), [`classify`] (whose fault). The only part, with `watermark` and
//! `checkpoint`, that may name redis; may depend on `pipeline`, `watermark`, `retry`, `flush` and `config`.

pub mod breaker;
pub mod classify;
pub mod flush;
mod prefixes;
pub mod refused;
pub mod retrying;
pub mod second;
pub mod slices;
pub mod sweep;
pub mod target;
mod wide;
pub mod worker;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::mpsc;

use self::{flush::Flusher, slices::Slices, sweep::Sweeper, target::Target, worker::Shared};
use crate::{
    config::Config,
    flush::FlushStats,
    pipeline::{
        Lanes, PacedQueues, TargetQueues, WORKER_QUEUE,
        pace::{Pace, Paces},
    },
};

/// Workers of each target. They share its connection; two, so that commands are made on both cores.
const WORKERS: usize = 2;

/// The longest pause between two tries where nothing else is said.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses between tries of what has to work one day: from 50 ms up to `most`, with jitter.
fn backoff(most: Duration) -> Pauses {
    let builder =
        ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).with_max_delay(most);
    Pauses { pauses: builder.with_jitter().without_max_times().build(), most }
}

/// See [`backoff`].
#[derive(Debug)]
struct Pauses {
    pauses: ExponentialBackoff,
    most: Duration,
}

impl Pauses {
    /// Waits for the next.
    async fn wait(&mut self) {
        tokio::time::sleep(self.pauses.next().unwrap_or(self.most)).await;
    }
}

/// Something that runs until its queue is closed and everything is settled.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What removes of one target.
#[derive(Debug)]
pub struct Started {
    /// The ways to it.
    pub queues: TargetQueues,
    /// What its flushes do.
    pub flush: Arc<FlushStats>,
    /// Its sweeps.
    pub sweeper: Arc<Sweeper>,
}

/// Names of the tasks that end only when everything is settled.
pub const TASKS: [&str; 4] = ["redis worker", "bulk", "sweep", "flush"];

/// Starts the tasks of a target, the one at `at` in the config. `spawn` is told the name of each, one of [`TASKS`].
pub fn start(
    target: &Arc<Target>,
    at: usize,
    config: &Config,
    lanes: &Lanes,
    shared: &Arc<Shared>,
    mut spawn: impl FnMut(&'static str, Task),
) -> Started {
    let [worker, bulk, sweep, flush] = TASKS;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (sender, batches) = mpsc::channel(WORKER_QUEUE);
        spawn(worker, Box::pin(worker::run(Arc::clone(target), Arc::clone(shared), batches)));
        workers.push(sender);
    }
    let sweeper = Sweeper::new(Arc::clone(target), at, config);
    let of_target = Arc::new(Pace::new(config.limits.keys_per_second));
    let mut paced = Vec::new();
    for rate in lanes.rates(at) {
        let own = Arc::new(Pace::new(*rate));
        let (bulk_sender, batches) = mpsc::unbounded_channel();
        let both = Paces::new([Arc::clone(&of_target), Arc::clone(&own)]);
        spawn(bulk, Box::pin(worker::run_bulk(Arc::clone(target), Arc::clone(shared), batches, both)));
        let mut slices = || {
            let (sender, requests) = mpsc::unbounded_channel();
            let own = Paces::new([Arc::clone(&own)]);
            spawn(sweep, Box::pin(Slices::new(Arc::clone(&sweeper), Arc::clone(shared), own).run(requests)));
            sender
        };
        paced.push(PacedQueues { prefixes: slices(), members: slices(), bulk: bulk_sender });
    }
    let (flush_sender, requests) = mpsc::unbounded_channel();
    let stats = Arc::new(FlushStats::default());
    let flusher = Flusher::new(
        Arc::clone(target),
        config.mappings.clone(),
        shared.watermark.clone(),
        config.limits.flush_keys_per_second,
        Arc::clone(&stats),
        Arc::clone(&sweeper),
    );
    spawn(flush, Box::pin(flusher.run(requests)));
    Started { queues: TargetQueues { workers, paced, flush: flush_sender }, flush: stats, sweeper }
}
