//! The retry queue's way to Redis.
//!
//! Guarantees: `Done` only for a removal that Redis acknowledged after the record's commits were visible at every read source and the
//! fill grace had passed. One target's trouble doesn't hold up another's. May depend on `retry`, `watermark` and `source::position`.
//!
//! An HDEL that Redis answers with WRONGTYPE becomes an UNLINK: the mapping says that the key is a cache of ours, so removing
//! whatever stands there costs a miss, while keeping it would serve a value that nobody knows the age of. It is logged and counted.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{
    classify::{Class, Failure},
    sweep::Sweeper,
    target::Target,
    wide::Wide,
};
use crate::{
    journal::Journal,
    pipeline::batch::Removal,
    retry::{Clock, Handler, Record, Verdict},
    source::position::{CommitSpan, Coordinates},
    telemetry::{self, target_counter},
    watermark::Watermark,
};

/// A commit that isn't seen visible for so long never will be: the server's log began anew, or lost its tail.
const NEVER_VISIBLE: Duration = Duration::from_secs(3600);

/// By then every server that can be asked what is visible there was.
const ALL_ASKED: Duration = Duration::from_secs(60);

/// Removes what the queue hands over.
#[derive(Debug)]
pub struct RetryRemover {
    targets: Vec<Arc<Target>>,
    /// By target: what counts for visibility differs.
    watermarks: Vec<Watermark>,
    /// By target.
    wide: Vec<Arc<Wide>>,
    /// The server that is followed: coordinates of another one can't be compared.
    source: String,
    /// As the queue's own: a clock that is set must not end a wait.
    clock: Clock,
    journal: Arc<Journal>,
}

impl RetryRemover {
    /// `sweepers` and `watermarks`: by target. `source`: as in [`crate::retry::Origin::source`].
    pub fn new(sweepers: &[Arc<Sweeper>], watermarks: Vec<Watermark>, source: String) -> Self {
        let targets = sweepers.iter().map(|sweeper| Arc::clone(&sweeper.target)).collect();
        let wide = sweepers.iter().map(|sweeper| Wide::new(Arc::clone(sweeper))).collect();
        Self { targets, wide, watermarks, source, clock: Clock::system(), journal: Arc::default() }
    }

    /// What is removed is noted there.
    #[must_use]
    pub fn journal(self, journal: Arc<Journal>) -> Self {
        Self { journal, ..self }
    }

    fn watermark(&self, target: &Target) -> Option<&Watermark> {
        let at = self.targets.iter().position(|known| known.name() == target.name())?;
        self.watermarks.get(at)
    }

    /// Whether a removal that is sent now is the last one owed.
    fn is_final(&self, record: &Record, watermark: &Watermark, now: Instant) -> bool {
        let origin = &record.origin;
        let age = Duration::from_millis(self.clock.now_ms().saturating_sub(record.first_failed_ms));
        let grace = Duration::from_millis(record.fill_grace_ms);
        if !record.when_visible {
            return age >= grace;
        }
        let at = Coordinates { file: origin.visible_file.as_str().into(), position: origin.visible_position };
        let Some(span) = CommitSpan::parse(&origin.gtid, at) else {
            tracing::warn!(gtid = %origin.gtid, "record with an unreadable gtid: its delay stands for visibility");
            return true;
        };
        if origin.source != self.source {
            // A tier's delay is all there is where nobody can be asked by GTID.
            return span.is_anonymous()
                || age >= NEVER_VISIBLE
                || watermark.is_seen_by_gtid(&span, grace, now, age >= ALL_ASKED);
        }
        // What the primary shows, a replica that lags will show too.
        if age >= NEVER_VISIBLE && !watermark.has(0, &span) {
            tracing::warn!(gtid = %origin.gtid, file = %origin.file, position = origin.position,
                "a removal's commit was not seen visible for an hour: its delay stands for visibility");
            return true;
        }
        watermark.visible_since(&span).is_some_and(|since| since + grace <= now)
    }

    async fn remove_of_target(
        &self,
        target: &Target,
        wide_retries: &Arc<Wide>,
        records: &[(usize, &Record)],
    ) -> Vec<(usize, Verdict)> {
        let now = Instant::now();
        let Some(watermark) = self.watermark(target) else { return Vec::new() };
        let is_final: Vec<bool> =
            records.iter().map(|(_, record)| self.is_final(record, watermark, now)).collect();
        if is_final.contains(&false) {
            watermark.demand();
        }
        let mut results: Vec<Option<Result<(), Failure>>> = records.iter().map(|_| None).collect();
        let (wide, exact): (Vec<usize>, Vec<usize>) =
            (0..records.len()).partition(|at| records[*at].1.op.is_wide());
        let exact_records: Vec<&Record> = exact.iter().map(|at| records[*at].1).collect();
        for (at, result) in exact.into_iter().zip(remove_exact(target, &exact_records).await) {
            results[at] = Some(result);
        }
        // They are costly: once, when it is the last one that is owed. Others of the target don't wait for them.
        for at in wide.into_iter().filter(|at| is_final[*at]) {
            results[at] = wide_retries.ask(records[at].1);
        }
        let verdict = |(result, is_final): (Option<Result<(), Failure>>, bool)| match result {
            Some(Ok(())) if is_final => Verdict::Done,
            Some(Ok(())) | None => Verdict::NotYet,
            Some(Err(Failure { class: Class::Key, code, .. })) => Verdict::KeyError(code),
            Some(Err(Failure { class: Class::Target, code, .. })) => Verdict::TargetError(code),
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

/// Removals that name their keys; one result each.
async fn remove_exact(target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>> {
    if records.is_empty() {
        return Vec::new();
    }
    let removals: Vec<Removal<'_>> =
        records.iter().map(|record| Removal { key: &record.key, field: record.op.field() }).collect();
    let mut results = remove_all(target, &removals).await;
    let is_wrong_type = |at: &usize| {
        records[*at].op.field().is_some()
            && matches!(&results[*at], Err(failure) if failure.code == "WRONGTYPE")
    };
    let wrong: Vec<usize> = (0..results.len()).filter(is_wrong_type).collect();
    if wrong.is_empty() {
        return results;
    }
    let whole: Vec<Removal<'_>> =
        wrong.iter().map(|at| Removal { key: &records[*at].key, field: None }).collect();
    for (at, result) in wrong.into_iter().zip(remove_all(target, &whole).await) {
        if result.is_ok() {
            target_counter(telemetry::WRONG_TYPE, target.name()).increment(1);
            tracing::warn!(target = target.name(), key = %records[at].key.escape_ascii(),
                "key is no hash, HDEL removed it whole");
        }
        results[at] = result;
    }
    results
}

async fn remove_all(target: &Target, removals: &[Removal<'_>]) -> Vec<Result<(), Failure>> {
    match target.remove_each(removals).await {
        Ok(results) => results,
        Err(failure) => removals.iter().map(|_| Err(failure.clone())).collect(),
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
            let of_target = |(target, wide): (&Arc<Target>, &Arc<Wide>)| {
                let (target, wide) = (Arc::clone(target), Arc::clone(wide));
                let own: Vec<_> =
                    records.iter().enumerate().filter(|(_, record)| record.target == target.name()).collect();
                async move {
                    if own.is_empty() {
                        Vec::new()
                    } else {
                        self.remove_of_target(&target, &wide, &own).await
                    }
                }
            };
            for (at, verdict) in
                join_all(self.targets.iter().zip(&self.wide).map(of_target)).await.into_iter().flatten()
            {
                verdicts[at] = verdict;
            }
            verdicts
        })
    }

    fn ready<'a>(&'a self, target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Some(target) = self.targets.iter().find(|known| known.name() == target) {
                target.breaker.closed().await;
            }
        })
    }

    fn targets(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name().to_owned()).collect()
    }
}
