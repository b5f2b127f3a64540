//! Which daemon's turn it is: taking the lease, waiting for it, going back to waiting.
//!
//! Guarantees: a daemon that waits opens no checkpoint and no retry queue and reads no binlog; it answers at the admin address, not ready. Ends
//! at a signal. May depend on `source::lease`, `admin`, `reload` and `telemetry`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, standby::Standby},
    checkpoint::CheckpointError,
    config::Config,
    daemon::RunError,
    reload::Next,
    source::{
        SourceError,
        lease::{Candidate, Lease, LeaseLost},
    },
    supervisor::Signals,
    systemd::Notifier,
    telemetry as t,
};

/// Two daemons whose leases don't exclude each other take the checkpoint from one another: the pauses in between grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A turn that lasted so long wasn't cut off by a quarrel.
const QUIET: Duration = Duration::from_secs(60);
/// What the admin server's last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The turns of this process.
#[derive(Debug)]
pub(crate) struct Turns {
    config: Arc<Config>,
    metrics: PrometheusHandle,
    systemd: Notifier,
    candidate: Arc<Candidate>,
    started: Instant,
    began: Option<Instant>,
    fenced: u32,
    /// Before the lease is asked for again.
    pause: Duration,
    waited: bool,
    /// A config that was taken while waiting, and whether the keyspaces of its new mappings are to be flushed.
    taken: Option<(Arc<Config>, bool)>,
}

/// What ended a wait.
enum Woke {
    Turn(Lease),
    Signal,
    Config(Next),
}

/// Another daemon is the active one now: this one's turn is over, its process is not.
pub(crate) fn is_over(error: &RunError) -> bool {
    matches!(error, RunError::Lease(_) | RunError::Checkpoint(CheckpointError::Fenced { .. }))
}

/// The same, of a task's failure.
pub(crate) fn ends_turn(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SourceError::Anew { .. }))
        || error.is::<LeaseLost>()
        || matches!(error.downcast_ref(), Some(CheckpointError::Fenced { .. }))
}

impl Turns {
    pub(crate) fn new(config: Arc<Config>, metrics: PrometheusHandle, systemd: Notifier) -> Self {
        t::set_gauge(t::ACTIVE, 0.0);
        t::set_counter(t::TAKEOVERS, 0);
        t::set_counter(t::CHECKPOINT_FENCED, 0);
        let candidate = Arc::new(Candidate::new(&config));
        Self {
            config,
            metrics,
            systemd,
            candidate,
            started: Instant::now(),
            began: None,
            fenced: 0,
            pause: Duration::ZERO,
            waited: false,
            taken: None,
        }
    }

    /// Waits for this daemon's turn. `None`: a signal came. A config that comes meanwhile is in force at once: see [`Turns::taken`].
    ///
    /// # Errors
    /// At the first time: the source can't be reached. Later that is waited for.
    pub(crate) async fn next(
        &mut self,
        signals: &mut Signals,
        configs: &mut mpsc::Receiver<Next>,
    ) -> Result<Option<Lease>, RunError> {
        let first = self.began.is_none();
        let lease = if self.pause.is_zero() {
            match self.candidate.try_acquire().await {
                Ok(Some(lease)) => Some(lease),
                Err(error) if first => return Err(error.into()),
                Ok(None) | Err(_) => self.wait(signals, configs).await?,
            }
        } else {
            self.wait(signals, configs).await?
        };
        if lease.is_some() {
            self.began = Some(Instant::now());
            t::set_gauge(t::ACTIVE, 1.0);
            metrics::counter!(t::TAKEOVERS).increment(1);
        }
        Ok(lease)
    }

    async fn wait(
        &mut self,
        signals: &mut Signals,
        configs: &mut mpsc::Receiver<Next>,
    ) -> Result<Option<Lease>, RunError> {
        self.waited = true;
        let since = Instant::now();
        let (lock, holder) = (self.candidate.name(), self.candidate.waiting().holder);
        tracing::info!(
            lock,
            holder,
            pause_ms = self.pause.as_millis(),
            "another daemon is active, standing by"
        );
        self.systemd.standing_by();
        loop {
            match self.wait_as_configured(since, signals, configs).await? {
                Woke::Turn(lease) => return Ok(Some(lease)),
                Woke::Signal => return Ok(None),
                Woke::Config(Next { config, flush_new, begun }) => {
                    tracing::info!("new config, still standing by");
                    self.reloaded(Arc::clone(&config));
                    let flush_before = self.taken.take().is_some_and(|(_, flush_new)| flush_new);
                    self.taken = Some((config, flush_new || flush_before));
                    // Who asked may have gone.
                    let _ = begun.send(Ok(()));
                }
            }
        }
    }

    async fn wait_as_configured(
        &self,
        since: Instant,
        signals: &mut Signals,
        configs: &mut mpsc::Receiver<Next>,
    ) -> Result<Woke, RunError> {
        let listener = admin::standby::bind(self.config.admin.listen).await?;
        let standby = Standby {
            config: Arc::clone(&self.config),
            started: self.started,
            since,
            candidate: Arc::clone(&self.candidate),
            metrics: self.metrics.clone(),
        };
        let stop = CancellationToken::new();
        let mut server = tokio::spawn(admin::standby::serve(listener, Arc::new(standby), stop.clone()));
        let woke = tokio::select! {
            lease = async {
                tokio::time::sleep(self.pause).await;
                self.candidate.acquire().await
            } => {
                tracing::info!(after_ms = since.elapsed().as_millis(), "lease acquired, taking over");
                Woke::Turn(lease)
            }
            signal = signals.next() => {
                tracing::info!(signal, "ending, another daemon is active");
                Woke::Signal
            }
            Some(next) = configs.recv() => Woke::Config(next),
        };
        stop.cancel();
        if tokio::time::timeout(LAST_ANSWERS, &mut server).await.is_err() {
            server.abort();
            let _ = server.await;
        }
        Ok(woke)
    }

    /// The config that was taken while waiting, and whether the keyspaces of its new mappings are to be flushed.
    pub(crate) fn taken(&mut self) -> Option<(Arc<Config>, bool)> {
        self.taken.take()
    }

    /// The config was taken anew. The lease is the same one; the account's password may not be.
    pub(crate) fn reloaded(&mut self, config: Arc<Config>) {
        self.candidate = Arc::new(Candidate::new(&config));
        self.config = config;
    }

    /// Whether this process has waited for its turn: what doesn't answer then is waited for too.
    pub(crate) fn has_waited(&self) -> bool {
        self.waited
    }

    /// Another daemon has ended this one's turn.
    pub(crate) async fn ended(&mut self, why: &RunError, lease: &mut Lease) {
        t::set_gauge(t::ACTIVE, 0.0);
        tracing::warn!(%why, "no longer the active daemon, going back to waiting");
        self.pause = Duration::ZERO;
        if !matches!(why, RunError::Checkpoint(_)) {
            return;
        }
        metrics::counter!(t::CHECKPOINT_FENCED).increment(1);
        if !lease.is_confirmed().await {
            // It was the other one's turn.
            return;
        }
        if self.began.is_some_and(|began| began.elapsed() > QUIET) {
            self.fenced = 0;
        }
        self.fenced += 1;
        if self.fenced > 2 {
            tracing::error!(
                lock = self.candidate.name(),
                times = self.fenced,
                "the checkpoint is taken over by another daemon though this one has the lease: they don't see each other's lock \
                 (a proxy, several servers behind one address), or two deployments share one checkpoint.name"
            );
        }
        self.pause = Duration::from_millis(250).saturating_mul(1 << self.fenced.min(10)).min(LONGEST_PAUSE);
    }
}
