//! How a life ends: the first failure, and the drain.
//!
//! Guarantees: the error that is named is the cause, not what it took along; a drain ends within its deadline and says what it left.
//! May depend on `config`, `invalidate`, `pipeline`, `standby` and `supervisor`.

use std::time::Duration;

use crate::{
    config::{Config, SecondRemoval},
    invalidate,
    pipeline::{Done, frontier::Frontier},
    standby,
    supervisor::{Shutdown, Supervisor},
};

/// How long a drain may take beyond the longest fill grace or fixed delay of the config, which the second removals that are owed have to
/// wait for.
pub const DRAIN: Duration = Duration::from_secs(15);

/// The most of it: nobody waits longer for a daemon to end. What isn't finished then is repeated at the next start.
const DRAIN_GRACE: Duration = Duration::from_secs(30);

pub(super) fn drain_deadline(config: &Config) -> Duration {
    let longest = config.mappings.iter().map(|mapping| match mapping.second_removal {
        SecondRemoval::Never => Duration::ZERO,
        SecondRemoval::After(delay) => delay,
        SecondRemoval::WhenVisible => mapping.fill_grace,
    });
    DRAIN + longest.max().unwrap_or_default().min(DRAIN_GRACE)
}

/// A task that fails takes others along, whose ends may be noticed before its own: so long its error is waited for.
const CAUSE_WITHIN: Duration = Duration::from_secs(2);

/// The first task that fails, or ends before it was asked to.
pub(super) async fn first_failure(supervisor: &mut Supervisor) -> anyhow::Error {
    let mut ended = None;
    loop {
        let next = match ended {
            None => supervisor.next().await,
            Some(_) => tokio::time::timeout(CAUSE_WITHIN, supervisor.next()).await.unwrap_or(None),
        };
        match next {
            Some(Err(failure)) => {
                if standby::ends_turn(&failure.error) {
                    return failure.error;
                }
                tracing::error!(
                    task = failure.task,
                    error = format!("{:#}", failure.error),
                    "task failed, ending"
                );
                return failure.error;
            }
            Some(Ok(task)) => _ = ended.get_or_insert(task),
            None => {
                return anyhow::anyhow!("{} ended without being asked to", ended.unwrap_or("every task"));
            }
        }
    }
}

/// Tasks that end when reading has, and all that they had is settled.
fn is_owed(task: &str) -> bool {
    ["source", "refused rows"].contains(&task) || invalidate::TASKS.contains(&task)
}

/// Stops reading, waits until the rest is settled, then stops the rest. Says whether all finished.
pub(super) async fn drain(
    supervisor: &mut Supervisor,
    shutdown: &Shutdown,
    frontier: &Frontier<Done>,
    failed: bool,
    deadline: Duration,
) -> bool {
    let until = tokio::time::Instant::now() + deadline;
    shutdown.reading.cancel();
    let settled = async {
        // A source that failed has read all that it will, too: what it read is finished in the same way.
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut workers_and_source = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                ended = supervisor.next() => match ended {
                    Some(Ok(name)) if is_owed(name) => workers_and_source += 1,
                    Some(Ok(_)) => {}
                    Some(Err(failure)) => tracing::error!(task = failure.task, error = format!("{:#}", failure.error), "task failed"),
                    None => return,
                },
            }
            let reading_ended = workers_and_source > 0 || failed;
            if reading_ended && frontier.stats().open == 0 {
                return;
            }
        }
    };
    let settled = tokio::time::timeout_at(until, settled).await.is_ok();
    shutdown.all.cancel();
    let rest = until.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(2));
    let (unfinished, failures) = supervisor.drain(rest).await;
    for failure in &failures {
        tracing::error!(task = failure.task, error = format!("{:#}", failure.error), "task failed");
    }
    if !unfinished.is_empty() || !settled {
        tracing::warn!(
            ?unfinished,
            segments = frontier.stats().open,
            "not drained: the rest is repeated at the next start"
        );
    }
    settled && unfinished.is_empty() && failures.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cause_is_named_and_not_what_it_took_along() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("worker", async { Ok(()) });
        supervisor.spawn("source", async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            anyhow::bail!("refused")
        });
        assert_eq!(first_failure(&mut supervisor).await.to_string(), "refused");
        let mut supervisor = Supervisor::default();
        supervisor.spawn("worker", async { Ok(()) });
        assert_eq!(first_failure(&mut supervisor).await.to_string(), "worker ended without being asked to");
    }
}
