//! What a start finds in Redis, compared with the checkpoint.
//!
//! Guarantees: nothing is read before every server that can be asked was; the earliest place that one of them remembers counts for all.
//! May depend on `checkpoint`, `invalidate`'s targets and `source`'s positions.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    Stats, judge_all, look_at_all,
    mark::{Mark, Verdict, is_at_or_before},
    oldest,
};
use crate::{
    checkpoint::{
        self,
        file::{Published, Saved},
    },
    invalidate::target::Target,
    source::Forgotten,
};

/// What a start finds.
#[derive(Debug, Default)]
pub struct Survey {
    /// What stands in each server that could be asked, and what may in the others.
    pub expected: BTreeMap<String, Published>,
    /// Where to go back to.
    pub rewind: Option<Mark>,
    /// Where going back doesn't help.
    pub forgotten: Option<Forgotten>,
}

/// Looks at every server before anything is read, and compares with the checkpoint. `out_of_reach`: the binlog doesn't go back as far as
/// was found to be needed.
pub async fn survey(
    targets: &[Arc<Target>],
    saved: Option<&Saved>,
    lineage: &str,
    out_of_reach: Option<String>,
    stats: &Stats,
) -> Survey {
    let seen = look_at_all(targets, lineage, stats).await;
    let mut survey = Survey::default();
    if let Some(saved) = saved {
        survey.expected = saved.published.clone();
        let verdicts = judge_all(&saved.published, targets, &seen);
        let mut marks = Vec::new();
        for (one, verdict) in seen.iter().zip(verdicts) {
            match verdict {
                Verdict::Keep => {}
                Verdict::Evicted => stats.note_evicted(one.master.address()),
                Verdict::Lost(why) => survey.forget(one.target, format!("{}: {why}", one.master.address())),
                Verdict::Rewind(mark, why) => {
                    let why = format!("{}: {why}", one.master.address());
                    match (needed(&mark, saved), &out_of_reach) {
                        (Some(false), _) => {}
                        (Some(true), None) => {
                            tracing::warn!(
                                target = targets.get(one.target).map(|target| target.name()),
                                why,
                                mark_file = mark.file,
                                mark_position = mark.position,
                                mark_gtids = mark.gtids,
                                checkpoint_file = saved.file,
                                checkpoint_position = saved.position,
                                "redis may have forgotten removals"
                            );
                            marks.push((one.target, *mark));
                        }
                        (Some(true), Some(reach)) => survey.forget(one.target, format!("{why}; {reach}")),
                        (None, _) => survey.forget(one.target, format!("{why}, of another server's binlog")),
                    }
                }
            }
        }
        match oldest(marks.iter().map(|(_, mark)| mark.clone())) {
            Some(None) => {
                for (target, _) in marks {
                    survey.forget(target, "marks that can't be compared were found".to_owned());
                }
            }
            found => survey.rewind = found.flatten(),
        }
    }
    for one in seen {
        survey.expected.insert(one.place, one.look.as_published());
    }
    stats.rewinds.fetch_add(u64::from(survey.rewind.is_some()), Relaxed);
    stats.flushes.fetch_add(u64::from(survey.forgotten.is_some()), Relaxed);
    if let (Some(mark), Some(saved)) = (&survey.rewind, saved) {
        tracing::warn!(
            from_gtids = saved.gtids,
            from_file = saved.file,
            from_position = saved.position,
            to_gtids = mark.gtids,
            to_file = mark.file,
            to_position = mark.position,
            seconds = saved.commit_time.saturating_sub(mark.time),
            "rewinding the binlog to repeat removals"
        );
    }
    survey
}

impl Survey {
    fn forget(&mut self, target: usize, why: String) {
        let forgotten =
            self.forgotten.get_or_insert_with(|| Forgotten { targets: Vec::new(), why: String::new() });
        if !forgotten.targets.contains(&target) {
            forgotten.targets.push(target);
        }
        if !forgotten.why.is_empty() {
            forgotten.why.push_str("; ");
        }
        forgotten.why.push_str(&why);
    }
}

/// Whether a mark lies before the checkpoint. `None`: that can't be said.
fn needed(mark: &Mark, saved: &Saved) -> Option<bool> {
    if mark.source != saved.source {
        return None;
    }
    let (mark, checkpoint) = (mark.place().ok()?, checkpoint::position(saved).ok()?);
    is_at_or_before(&checkpoint, &mark).map(|reached| !reached)
}
