//! How long the server still keeps the binlog behind the checkpoint: the alarm that comes before a gap does.
//!
//! While Redis and the queue are both down, the binlog is where owed removals wait, and the server purges a file once it was last
//! written so long ago (`binlog_expire_logs_seconds`, `expire_logs_days`; the active file never). When that was isn't told by any
//! statement, but it can't be before the checkpoint's own transaction: what is reported is never more than what is left.
//! Guarantees: reads only, by a connection of its own. May depend on `connect`, `preflight` and `telemetry`.

use std::time::Duration;

use mysql_async::{Conn, Row, prelude::Queryable as _};
use tokio_util::sync::CancellationToken;

use super::{SourceError, connect::Connector, in_time, preflight::global_variables};
use crate::telemetry;

/// The pause between two samples is a hundredth of the retention, within these.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(60);
/// Parts of the retention, in percent, below which what is left is an error.
const ALARMS: [u32; 3] = [50, 25, 10];

/// Where the checkpoint stands while there is something newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its binlog file.
    pub file: String,
    /// Unix time in seconds of its newest transaction, by the server's clock.
    pub commit_time: u64,
}

/// What the server keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// How long; `None`: until somebody purges it.
    pub retention: Option<Duration>,
    /// The files that are there, oldest first; the last is being written.
    pub files: Vec<String>,
    /// Unix time in seconds, by its clock.
    pub now: u64,
}

/// Asks the server. Needs REPLICATION CLIENT (MariaDB: BINLOG MONITOR), as following does.
///
/// # Errors
/// It can't be reached or refuses.
pub async fn sample(connector: &Connector) -> Result<Kept, SourceError> {
    in_time(async {
        let mut conn = connector.primary().await?;
        let kept = ask(&mut conn).await?;
        conn.disconnect().await.ok();
        Ok(kept)
    })
    .await
}

async fn ask(conn: &mut Conn) -> Result<Kept, mysql_async::Error> {
    let vars = global_variables(conn, &["binlog_expire_logs_seconds", "expire_logs_days"]).await?;
    let number = |name: &str| vars.get(name).and_then(|text| text.parse::<f64>().ok()).filter(|n| *n > 0.0);
    // MySQL: the days count only where the seconds are 0. MariaDB keeps both in step.
    let seconds = number("binlog_expire_logs_seconds").or(number("expire_logs_days").map(|d| d * 86_400.0));
    let files: Vec<Row> = conn.query("SHOW BINARY LOGS").await?;
    let name = |row: Row| row.get_opt::<String, _>(0).and_then(Result::ok);
    let now: Option<u64> = conn.query_first("SELECT UNIX_TIMESTAMP()").await?;
    Ok(Kept {
        retention: seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()),
        files: files.into_iter().filter_map(name).collect(),
        now: now.unwrap_or(0),
    })
}

impl Kept {
    /// How long what is behind the mark is kept at least; `None`: for ever. `mark` is `None` when nothing is behind it.
    pub fn left(&self, mark: Option<&Mark>) -> Option<Duration> {
        let retention = self.retention?;
        let Some(mark) = mark else { return Some(retention) };
        if self.files.last() == Some(&mark.file) {
            return Some(retention);
        }
        if !self.files.contains(&mark.file) {
            return Some(Duration::ZERO);
        }
        let age = Duration::from_secs(self.now.saturating_sub(mark.commit_time));
        Some(retention.saturating_sub(age))
    }
}

/// Samples until `shutdown`: sets the metric, and logs an error each time that less is left than another part of the retention.
pub async fn watch(
    connector: Connector,
    mark: impl Fn() -> Option<Mark> + Send,
    shutdown: CancellationToken,
) {
    let mut alarm = Alarm::default();
    let mut pause = LEAST_PAUSE;
    loop {
        match sample(&connector).await {
            Ok(kept) => {
                let mark = mark();
                let left = kept.left(mark.as_ref());
                let seconds = left.map_or(f64::INFINITY, |left| left.as_secs_f64());
                let all = kept.retention.map_or(f64::INFINITY, |all| all.as_secs_f64());
                telemetry::set_gauge(telemetry::RETENTION_LEFT, seconds);
                telemetry::set_gauge(telemetry::RETENTION, all);
                let retention = kept.retention.unwrap_or(MOST_PAUSE * 100);
                pause = (retention / 100).clamp(LEAST_PAUSE, MOST_PAUSE);
                if let Some(left) = left
                    && let Some(percent) = alarm.raise(left, retention)
                {
                    tracing::error!(
                        left_s = left.as_secs(),
                        retention_s = retention.as_secs(),
                        file = mark.map(|mark| mark.file).unwrap_or_default(),
                        "less than {percent} % of the binlog's retention is left behind the checkpoint: bring redis or the retry queue back, \
                         or raise binlog_expire_logs_seconds; what is purged before it was read is a gap"
                    );
                }
            }
            // The follower says so itself, louder.
            Err(error) => {
                tracing::debug!(%error, "the binlog's retention can't be asked for");
                pause = MOST_PAUSE.min(pause * 2);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Which part was undercut already.
#[derive(Debug, Default)]
struct Alarm(Option<u32>);

impl Alarm {
    /// The part that is undercut and wasn't before.
    fn raise(&mut self, left: Duration, retention: Duration) -> Option<u32> {
        let lowest = ALARMS.into_iter().filter(|percent| left < retention * *percent / 100).min();
        let raised = lowest.filter(|lowest| self.0.is_none_or(|before| *lowest < before));
        self.0 = lowest;
        raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(retention: Option<u64>) -> Kept {
        let files = ["b.2", "b.3", "b.4"].map(String::from).to_vec();
        Kept { retention: retention.map(Duration::from_secs), files, now: 1000 }
    }

    #[test]
    fn never_more_than_is_left() {
        let mark = |file: &str, commit_time| Some(Mark { file: file.into(), commit_time });
        for (retention, mark, left) in [
            (None, mark("b.1", 1), None),
            (Some(600), None, Some(600)),
            // The active file isn't purged, however old the checkpoint is.
            (Some(600), mark("b.4", 1), Some(600)),
            (Some(600), mark("b.3", 900), Some(500)),
            (Some(600), mark("b.2", 100), Some(0)),
            // Gone already.
            (Some(600), mark("b.1", 999), Some(0)),
            // The clock was set back.
            (Some(600), mark("b.3", 5000), Some(600)),
        ] {
            assert_eq!(kept(retention).left(mark.as_ref()), left.map(Duration::from_secs), "{mark:?}");
        }
    }

    #[test]
    fn each_part_alarms_once_until_it_is_left_again() {
        let mut alarm = Alarm::default();
        let raised: Vec<_> = [100, 50, 49, 40, 24, 26, 24, 9, 5, 100, 9]
            .map(|left| alarm.raise(Duration::from_secs(left), Duration::from_secs(100)))
            .into();
        assert_eq!(
            raised,
            [None, None, Some(50), None, Some(25), None, Some(25), Some(10), None, None, Some(10)]
        );
    }
}
