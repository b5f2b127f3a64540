//! When a record is due, and what follows from a verdict: one place for both queues.
//!
//! Guarantees: nothing is early by this process' clock, nothing waits longer than the delay and [`MARGIN`] however the wall clock
//! jumps. May depend on `config` (the policy) and [`super::record`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{Record, Verdict};
use crate::config::RetryPolicy;

/// How far other machines' clocks may be ahead before a not-before is no longer believed.
pub(super) const MARGIN: Duration = Duration::from_secs(5);
/// Pause before a commit's visibility is asked again.
const NOT_YET_PAUSE: Duration = Duration::from_millis(200);

/// Unix time that doesn't jump: the wall clock is read once, then monotonic time is added.
#[derive(Debug, Clone)]
pub struct Clock {
    base_ms: u64,
    start: Instant,
}

impl Clock {
    /// Begins at the wall clock's time.
    pub fn system() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(millis(since))
    }

    /// Begins at `unix_ms`: for tests of clocks that are wrong.
    pub fn starting_at(unix_ms: u64) -> Self {
        Self { base_ms: unix_ms, start: Instant::now() }
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.base_ms.saturating_add(millis(self.start.elapsed()))
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When a record is due that asks for `not_before_ms`: a time that no correct clock can have meant is clamped to a full
/// delay from now, so that it is neither early nor stuck.
#[cfg(any(feature = "kafka", test))]
pub(super) fn due_at(not_before_ms: u64, now_ms: u64, delay: Duration) -> u64 {
    let delay = millis(delay);
    if not_before_ms > now_ms.saturating_add(delay).saturating_add(millis(MARGIN)) {
        now_ms.saturating_add(delay)
    } else {
        not_before_ms
    }
}

/// What the consumer does with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// It leaves the queue.
    Done,
    /// It stays in memory for this long.
    Again(Duration),
    /// It stays in memory until its target is ready.
    AwaitTarget,
    /// It is filed again.
    Forward(Box<Record>),
    /// It becomes a dead letter.
    Dead(Box<Record>, String),
}

/// `held_ms`: since when the record is in memory, as Unix time.
pub(super) fn next(
    record: &Record,
    verdict: &Verdict,
    policy: RetryPolicy,
    now_ms: u64,
    held_ms: u64,
) -> Next {
    let delay = |attempt| millis(policy.tier(attempt).delay);
    let again =
        |attempt| Record { attempt, not_before_ms: now_ms.saturating_add(delay(attempt)), ..record.clone() };
    match verdict {
        Verdict::Done => Next::Done,
        Verdict::TargetError(_) => Next::AwaitTarget,
        // A read source that lags for long must not keep later records from their turn.
        Verdict::NotYet if now_ms.saturating_sub(held_ms) >= delay(record.attempt) => {
            Next::Forward(Box::new(again(record.attempt)))
        }
        Verdict::NotYet => Next::Again(NOT_YET_PAUSE),
        Verdict::KeyError(error) => {
            let mut next = again(record.attempt.saturating_add(1));
            next.error_code = error.split_whitespace().next().unwrap_or_default().to_owned();
            if next.attempt >= policy.attempts() {
                Next::Dead(Box::new(next), format!("{error} after {} attempts", policy.attempts()))
            } else {
                Next::Forward(Box::new(next))
            }
        }
    }
}

/// Growing pause while a target or the queue itself fails: 200 ms doubling to 5 s.
#[derive(Debug, Default)]
pub(super) struct Pause(u32);

impl Pause {
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }

    pub(super) fn grow(&mut self) -> Duration {
        let pause = Duration::from_millis(200 << self.0.min(5)).min(Duration::from_secs(5));
        self.0 = self.0.saturating_add(1);
        pause
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::{Op, Origin},
        *,
    };
    use crate::config::Tier;

    pub(in super::super) fn record(key: &str) -> Record {
        Record {
            target: "main".into(),
            key: key.into(),
            op: Op::Unlink,
            origin: Origin {
                source: "8c1f".into(),
                gtid: "8c1f:7".into(),
                file: "binlog.000002".into(),
                position: 1234,
                row: 3,
                commit_time: 1_700_000_000,
                epoch: 1,
                visible_file: "binlog.000002".into(),
                visible_position: 2345,
            },
            when_visible: true,
            fill_grace_ms: 1000,
            attempt: 0,
            not_before_ms: 0,
            first_failed_ms: 0,
            error_code: "IO".into(),
        }
    }

    pub(in super::super) const POLICY: RetryPolicy = RetryPolicy::one(Duration::from_secs(10), 5);

    #[test]
    fn times_that_no_clock_can_have_meant_are_clamped() {
        let delay = POLICY.first.delay;
        assert_eq!(due_at(500, 1000, delay), 500);
        assert_eq!(due_at(11_000, 1000, delay), 11_000);
        assert_eq!(due_at(16_000, 1000, delay), 16_000);
        assert_eq!(due_at(16_001, 1000, delay), 11_000);
        assert_eq!(due_at(u64::MAX, u64::MAX, delay), u64::MAX);
    }

    #[test]
    fn only_errors_of_the_key_use_up_attempts() {
        let mut now = 1_000_000;
        let mut record = record("k");
        assert_eq!(next(&record, &Verdict::Done, POLICY, now, now), Next::Done);
        assert_eq!(next(&record, &Verdict::TargetError("LOADING".into()), POLICY, now, 0), Next::AwaitTarget);
        assert_eq!(next(&record, &Verdict::NotYet, POLICY, now, now), Next::Again(NOT_YET_PAUSE));
        let Next::Forward(waiting) = next(&record, &Verdict::NotYet, POLICY, now, now - 10_000) else {
            panic!("a record that waits for long is forwarded")
        };
        assert_eq!((waiting.attempt, waiting.not_before_ms), (0, now + 10_000));
        for attempt in 1..5 {
            let Next::Forward(forwarded) =
                next(&record, &Verdict::KeyError("WRONGTYPE Operation".into()), POLICY, now, now)
            else {
                panic!("attempt {attempt} is no dead letter")
            };
            assert_eq!((forwarded.attempt, forwarded.not_before_ms), (attempt, now + 10_000));
            assert_eq!(forwarded.error_code, "WRONGTYPE");
            record = *forwarded;
            now += 10_000;
        }
        let Next::Dead(dead, _) = next(&record, &Verdict::KeyError("WRONGTYPE".into()), POLICY, now, now)
        else {
            panic!("the fifth is one")
        };
        assert_eq!(dead.attempt, 5);
    }

    #[test]
    fn the_second_tier_takes_over_where_the_first_ends() {
        let second = Tier { delay: Duration::from_secs(300), attempts: 12 };
        let policy = RetryPolicy { second: Some(second), ..POLICY };
        assert_eq!(policy, RetryPolicy::default());
        let mut record = record("k");
        let mut dues = Vec::new();
        let dead = loop {
            match next(&record, &Verdict::KeyError("WRONGTYPE".into()), policy, 0, 0) {
                Next::Forward(next) => {
                    dues.push((next.attempt, next.not_before_ms, policy.is_second(next.attempt)));
                    record = *next;
                }
                Next::Dead(dead, reason) => break (dead.attempt, reason),
                other => panic!("{other:?}"),
            }
        };
        let first = (1..5).map(|attempt| (attempt, 10_000, false));
        let then = (5..17).map(|attempt| (attempt, 300_000, true));
        assert_eq!(dues, first.chain(then).collect::<Vec<_>>());
        assert_eq!(dead, (17, "WRONGTYPE after 17 attempts".into()));
        // What waits for visibility for long is filed again in its own tier, with no attempt used.
        let Next::Forward(waiting) = next(&record, &Verdict::NotYet, policy, 400_000, 0) else {
            panic!("a record that waits for long is forwarded")
        };
        assert_eq!((waiting.attempt, waiting.not_before_ms), (16, 700_000));
        assert!(matches!(next(&record, &Verdict::NotYet, policy, 200_000, 0), Next::Again(_)));
    }
}
