//! `rowbust run`: wires the parts together, lets them live, and ends them in order.
//!
//! Here: the turns of a process, from its start to its end. One of them (`life`) begins at the checkpoint and ends with a signal, a
//! failure, a new config, or what can only be dealt with by beginning anew there.
//!
//! Guarantees: nothing is read before Redis, the queue and the checkpoint are there; at SIGTERM reading stops first, what was read is
//! finished within a deadline ([`DRAIN`]), and the checkpoint is saved last. May depend on everything.

mod begin;
mod drain;
mod life;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::begin::connect_targets;
pub use self::drain::DRAIN;
use self::life::life;
use crate::{
    admin::{self, Control},
    checkpoint::CheckpointError,
    cli::Exit,
    config::Config,
    invalidate::target::ConnectError,
    journal::Journal,
    published,
    reload::{Next, Reloader},
    retry::{Queue, RetryError},
    source::{Pause, SourceError, SourceStats, lease::LeaseLost},
    standby::{self, Turns},
    supervisor::{Signals, hangups, signals},
    systemd::Notifier,
    telemetry,
};

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Drained: nothing will be read again.
    Drained,
    /// Stopped by a signal, but not all was finished: the rest is repeated at the next start.
    Unfinished,
    /// A second signal.
    Interrupted,
}

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// A Redis target.
    #[error("{0}")]
    Redis(#[from] ConnectError),
    /// The checkpoint.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Another daemon has the lease. The command line never sees it: the daemon goes back to waiting.
    #[error("{0}")]
    Lease(#[from] LeaseLost),
    /// The retry queue.
    #[error("{0}")]
    Retry(#[from] RetryError),
    /// Anything else; the text says what to do.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl RunError {
    /// What the command line exits with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Source(error) => match error.exit_code() {
                69 => Exit::Unavailable,
                78 => Exit::Config,
                _ => Exit::Failure,
            },
            // An outage doesn't keep the daemon from starting: this is the login.
            Self::Redis(_) | Self::Retry(RetryError::Refused(_)) => Exit::Config,
            Self::Retry(RetryError::Unreachable { .. })
            | Self::Checkpoint(CheckpointError::Unavailable { .. }) => Exit::Unavailable,
            Self::Checkpoint(_) | Self::Lease(_) | Self::Retry(_) | Self::Other(_) => Exit::Failure,
        }
    }
}

/// How a daemon is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The config's file, which a reload reads again.
    pub path: PathBuf,
    /// Remove the keyspaces of mappings that the checkpoint doesn't cover: see [`crate::coverage`].
    pub flush_new: bool,
}

/// Follows, removes and serves until a signal or an error.
///
/// # Errors
/// See [`RunError`]; each says what to do.
pub async fn run(config: Config, options: Options) -> Result<End, RunError> {
    let mut config = Arc::new(config);
    let (next_sender, next) = mpsc::channel(1);
    let (reloader, reloads) = Reloader::new(&options.path, Arc::clone(&config), next_sender);
    let mut hangup = hangups().context("signals can't be listened for")?;
    let on_hangup = reloads.clone();
    // Both end with the runtime.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            on_hangup.ask();
        }
    });
    tokio::spawn(reloader.run());
    let control = Control { pause: Pause::default(), journal: Arc::new(Journal::default()), reloads };
    let mut process = Process {
        metrics: telemetry::install_metrics().context("metrics can't be set up")?,
        signals: signals().context("signals can't be listened for")?,
        stats: Arc::default(),
        published: Arc::default(),
        queue: None,
        fence: 0,
        admin: None,
        control: Arc::new(control),
        next,
        flush_new: options.flush_new,
        begun: None,
        running: false,
        epoch: 0,
        gap: None,
        out_of_reach: None,
        systemd: Notifier::start(),
    };
    // What is gone back to if a new config can't begin.
    let mut before: Option<Arc<Config>> = None;
    let mut turns = Turns::new(Arc::clone(&config), process.metrics.clone(), process.systemd.clone());
    let mut kept = None;
    // A flush of new mappings that the old config's life didn't come to the end of.
    let mut flush_goes_on = false;
    loop {
        let mut lease = match kept.take() {
            Some(lease) => lease,
            None => match turns.next(&mut process.signals, &mut process.next).await? {
                Some(lease) => lease,
                None => return Ok(End::Drained),
            },
        };
        if let Some((new, flush_new)) = turns.taken() {
            config = new;
            process.flush_new |= flush_new;
        }
        process.running |= turns.has_waited();
        process.systemd.beginning();
        let ended = life(Arc::clone(&config), &mut process, &mut lease).await;
        let began = process.begun.take();
        let old = before.take();
        match ended {
            Err(over) if standby::is_over(&over) => {
                // The new config is in force, or begins with the next turn.
                if let Some(began) = began {
                    let _ = began.send(Ok(()));
                }
                process.close_queue().await;
                turns.ended(&over, &mut lease).await;
                lease.release().await;
                continue;
            }
            // It failed before it began: nothing was read with it. The reloader says it.
            Err(error) if began.is_some() => {
                kept = Some(lease);
                if let (Some(began), Some(old)) = (began, old) {
                    let _ = began.send(Err(error.to_string()));
                    config = old;
                    turns.reloaded(Arc::clone(&config));
                }
                process.flush_new = flush_goes_on;
                continue;
            }
            Ok(Ended::Reload { next: Next { config: new, flush_new, begun }, drained }) => {
                kept = Some(lease);
                tracing::info!("beginning anew at the checkpoint with the new config");
                before = Some(std::mem::replace(&mut config, new));
                turns.reloaded(Arc::clone(&config));
                process.running = true;
                // What was asked for once is done once, also with mappings that come later.
                flush_goes_on = process.flush_new && !drained;
                process.flush_new = flush_new || flush_goes_on;
                process.begun = Some(begun);
                continue;
            }
            Err(RunError::Source(SourceError::OutOfReach(why))) => {
                kept = Some(lease);
                tracing::warn!(
                    why,
                    "the binlog no longer reaches back to what redis remembers: flushing instead"
                );
                process.running = true;
                process.out_of_reach = Some(why);
            }
            Err(RunError::Source(SourceError::Anew { why, gap })) => {
                kept = Some(lease);
                tracing::warn!(why, "beginning anew at the checkpoint");
                process.running = true;
                if gap {
                    process.gap = Some(Gap { what: why, epoch: process.epoch });
                }
            }
            Ok(Ended::End(End::Drained)) => {
                process.close_queue().await;
                // Only now: whoever takes over finds everything saved and free.
                lease.release().await;
                return Ok(End::Drained);
            }
            Ok(Ended::End(end)) => return Ok(end),
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = process.signals.next() => return Ok(End::Unfinished),
            () = tokio::time::sleep(ANEW_PAUSE) => {}
        }
    }
}

/// How a life ended.
enum Ended {
    End(End),
    /// For this.
    Reload {
        next: Next,
        /// Everything was finished.
        drained: bool,
    },
}

/// Between two lives.
const ANEW_PAUSE: Duration = Duration::from_millis(500);

/// What outlives a new beginning.
struct Process {
    metrics: PrometheusHandle,
    signals: Signals,
    stats: Arc<SourceStats>,
    published: Arc<published::Stats>,
    queue: Option<Arc<Queue>>,
    /// The highest that it has had.
    fence: u64,
    /// Serves from the first life of a turn on.
    admin: Option<admin::Server>,
    control: Arc<Control>,
    /// Configs to go on with.
    next: mpsc::Receiver<Next>,
    flush_new: bool,
    /// Waits for this life's beginning.
    begun: Option<oneshot::Sender<Result<(), String>>>,
    /// It is not the first beginning: what doesn't answer is waited for.
    running: bool,
    /// Of the checkpoint at the last beginning.
    epoch: u64,
    gap: Option<Gap>,
    /// The binlog doesn't reach back to the mark that was found in Redis.
    out_of_reach: Option<String>,
    systemd: Notifier,
}

/// How long the tasks of a life may go on using the queue that they were ended with.
const QUEUE_CLOSES_WITHIN: Duration = Duration::from_secs(5);

impl Process {
    /// By a signal, while nothing is being read.
    fn ended(&self) -> End {
        if self.running { End::Unfinished } else { End::Drained }
    }

    /// Another daemon of this host may open it next.
    async fn close_queue(&mut self) {
        self.admin = None;
        self.systemd.ending();
        let Some(mut queue) = self.queue.take() else { return };
        let until = tokio::time::Instant::now() + QUEUE_CLOSES_WITHIN;
        loop {
            match Arc::try_unwrap(queue) {
                Ok(queue) => return queue.close().await,
                Err(_) if tokio::time::Instant::now() > until => {
                    return tracing::warn!("the retry queue is still in use, it closes later");
                }
                Err(shared) => queue = shared,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What is known to be lost behind the checkpoint of an epoch. The next epoch has it behind itself.
struct Gap {
    what: String,
    epoch: u64,
}
