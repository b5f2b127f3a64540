//! The retry queue's way to Redis.
//!
//! Guarantees: `Done` only for a removal that Redis acknowledged after the record's commits were visible at every read source and the
//! fill grace had passed. May depend on `retry`, `watermark` and `source::position`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    classify::{Class, Failure},
    target::Target,
};
use crate::{
    journal::Journal,
    pipeline::batch::Removal,
    retry::{Clock, Handler, Record, Verdict},
    source::position::{CommitSpan, Coordinates},
    watermark::Watermark,
};

/// A commit that isn't seen visible for so long never will be: the server's log began anew, or lost its tail.
const NEVER_VISIBLE: Duration = Duration::from_secs(3600);

/// Removes what the queue hands over.
#[derive(Debug)]
pub struct RetryRemover {
    targets: Vec<Arc<Target>>,
    watermark: Watermark,
    /// The server that is followed: coordinates of another one can't be compared.
    source: String,
    /// As the queue's own: a clock that is set must not end a wait.
    clock: Clock,
    journal: Arc<Journal>,
}

impl RetryRemover {
    /// `source`: as in [`crate::retry::Origin::source`].
    pub fn new(targets: Vec<Arc<Target>>, watermark: Watermark, source: String) -> Self {
        Self { targets, watermark, source, clock: Clock::system(), journal: Arc::default() }
    }

    /// What is removed is noted there.
    pub fn journal(mut self, journal: Arc<Journal>) -> Self {
        self.journal = journal;
        self
    }

    /// Whether a removal that is sent now is the last one owed.
    fn is_final(&self, record: &Record, now: Instant) -> bool {
        let origin = &record.origin;
        let age = Duration::from_millis(self.clock.now_ms().saturating_sub(record.first_failed_ms));
        let grace = Duration::from_millis(record.fill_grace_ms);
        if !record.when_visible {
            return age >= grace;
        }
        // A record of another server has waited for a tier at least: that delay is all there is.
        if origin.source != self.source {
            return true;
        }
        if age >= NEVER_VISIBLE {
            tracing::warn!(gtid = %origin.gtid, file = %origin.file, position = origin.position,
                "a removal's commit was not seen visible for an hour: its delay stands for visibility");
            return true;
        }
        let at = Coordinates { file: origin.visible_file.as_str().into(), position: origin.visible_position };
        let Some(span) = CommitSpan::parse(&origin.gtid, at) else {
            tracing::warn!(gtid = %origin.gtid, "record with an unreadable gtid: its delay stands for visibility");
            return true;
        };
        self.watermark.visible_since(&span).is_some_and(|since| since + grace <= now)
    }

    async fn remove_of_target(&self, target: &Target, records: &[(usize, &Record)]) -> Vec<(usize, Verdict)> {
        let now = Instant::now();
        let is_final: Vec<bool> = records.iter().map(|(_, record)| self.is_final(record, now)).collect();
        if is_final.contains(&false) {
            self.watermark.demand();
        }
        let removals: Vec<Removal<'_>> = records
            .iter()
            .map(|(_, record)| Removal { key: &record.key, field: record.field.as_deref() })
            .collect();
        let results: Vec<Result<(), Failure>> = match target.remove_each(&removals).await {
            Ok(results) => results,
            Err(failure) => removals.iter().map(|_| Err(failure.clone())).collect(),
        };
        let verdict = |(result, is_final): (Result<(), Failure>, bool)| match result {
            Ok(()) if is_final => Verdict::Done,
            Ok(()) => Verdict::NotYet,
            Err(Failure { class: Class::Key, code, .. }) => Verdict::KeyError(code),
            Err(Failure { class: Class::Target, code, .. }) => Verdict::TargetError(code),
        };
        let verdicts: Vec<_> =
            records.iter().map(|(at, _)| *at).zip(results.into_iter().zip(is_final).map(verdict)).collect();
        let journal = self.journal.target(target.name());
        for ((_, record), (_, verdict)) in records.iter().zip(&verdicts) {
            if matches!(verdict, Verdict::Done) {
                journal.retried(record);
            }
        }
        verdicts
    }
}

impl Handler for RetryRemover {
    fn remove<'a>(
        &'a self,
        records: &'a [Record],
    ) -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>> {
        Box::pin(async move {
            // A record whose target left the config can't be removed: it uses up its attempts and becomes a dead letter.
            let mut verdicts = vec![Verdict::KeyError("NOTARGET".into()); records.len()];
            for target in &self.targets {
                let own: Vec<_> =
                    records.iter().enumerate().filter(|(_, record)| record.target == target.name()).collect();
                if own.is_empty() {
                    continue;
                }
                for (at, verdict) in self.remove_of_target(target, &own).await {
                    verdicts[at] = verdict;
                }
            }
            verdicts
        })
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            for target in &self.targets {
                target.breaker.closed().await;
            }
        })
    }
}
