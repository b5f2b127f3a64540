//! Named tasks, and their end.
//!
//! Guarantees: a task that ends with an error, or panics, ends the daemon by name: no part dies alone. A drain waits until its deadline and
//! then names the tasks that didn't finish. May depend on `systemd`, which is told of the end.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::systemd;

/// Why a task ended the daemon.
#[derive(Debug)]
pub struct TaskFailure {
    /// The task's name.
    pub task: &'static str,
    /// What it said, or how it panicked.
    pub error: anyhow::Error,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.task, self.error)
    }
}

/// Tasks that live and die together.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: BTreeMap<Id, (&'static str, AbortHandle)>,
}

impl Supervisor {
    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), (name, handle));
    }

    /// Starts a task that can't fail.
    pub fn spawn_sure(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async move {
            task.await;
            Ok(())
        });
    }

    /// Waits for the next task that ends, in order or not. `None`: all have.
    pub async fn next(&mut self) -> Option<Result<&'static str, TaskFailure>> {
        let ended = self.tasks.join_next_with_id().await?;
        Some(self.named(ended))
    }

    fn named(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> Result<&'static str, TaskFailure> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).map_or("unnamed task", |(name, _)| name);
        let error = match ended {
            Ok((_, Ok(()))) => return Ok(task),
            Ok((_, Err(error))) => error,
            Err(error) if error.is_cancelled() => return Ok(task),
            Err(error) => anyhow::anyhow!("{error}"),
        };
        Err(TaskFailure { task, error })
    }

    /// Ends the tasks of this name where they stand.
    pub fn abort(&mut self, task: &str) {
        self.names.values().filter(|(name, _)| *name == task).for_each(|(_, handle)| handle.abort());
    }

    /// Waits until all tasks have ended, `deadline` at most. Those that haven't are aborted; their names come back.
    pub async fn drain(&mut self, deadline: Duration) -> (Vec<&'static str>, Vec<TaskFailure>) {
        let until = Instant::now() + deadline;
        let mut failures = Vec::new();
        while let Ok(Some(ended)) = tokio::time::timeout_at(until, self.next()).await {
            failures.extend(ended.err());
        }
        let unfinished = self.names.values().map(|(name, _)| *name).collect();
        self.tasks.abort_all();
        // What they hold (a port) is free once they are gone, which needs no more than their next wait.
        let gone = async { while self.next().await.is_some() {} };
        _ = tokio::time::timeout(GONE_WITHIN, gone).await;
        (unfinished, failures)
    }
}

/// How long aborted tasks are waited for.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Completes at the first SIGTERM or SIGINT.
///
/// # Errors
/// When the process may not listen for signals.
pub fn signals() -> std::io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
}

/// SIGHUP: the config is to be read anew.
///
/// # Errors
/// When the process may not listen for signals.
pub fn hangups() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

/// The signals that end the daemon.
#[derive(Debug)]
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// Waits for the next one.
    pub async fn next(&mut self) -> &'static str {
        let signal = tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        };
        systemd::stopping();
        signal
    }
}

/// Two stages of an orderly end: first nothing more is read, then nothing more is retried or served.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Reading stops; what was read is finished.
    pub reading: CancellationToken,
    /// Everything stops.
    pub all: CancellationToken,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_the_task_that_fails_and_the_one_that_does_not_finish() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("good", async { Ok(()) });
        assert_eq!(supervisor.next().await.unwrap().unwrap(), "good");
        supervisor.spawn("bad", async { anyhow::bail!("out of luck") });
        assert_eq!(supervisor.next().await.unwrap().unwrap_err().to_string(), "bad: out of luck");
        supervisor.spawn("panics", async { panic!("oh no") });
        let failure = supervisor.next().await.unwrap().unwrap_err();
        assert!(failure.to_string().contains("panics") && failure.to_string().contains("oh no"), "{failure}");
        supervisor.spawn("slow", std::future::pending());
        supervisor.spawn("quick", async { Ok(()) });
        let (unfinished, failures) = supervisor.drain(Duration::from_secs(1)).await;
        assert_eq!(unfinished, ["slow"]);
        assert!(failures.is_empty());
    }
}
