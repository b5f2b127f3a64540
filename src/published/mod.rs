//! What is left in Redis, so that it is noticed when Redis loses its memory: after a restart from an older snapshot, or a failover to a
//! replica that lacked the last writes, removed values are back.
//!
//! A [`mark::Mark`] is the frontier F: the end of the longest prefix of the binlog whose second removals Redis itself has acknowledged.
//! The [`Keeper`] looks at each Redis server's mark about each second, and writes the newest one by compare-and-set. What it finds is
//! judged ([`mark::judge`]) against what the checkpoint says may stand there; at a start, [`survey`] does the same. A loss ends the daemon's
//! life at once ([`crate::source::SourceError::Anew`]); the next one begins at the mark that was found, or flushes where there is none.
//!
//! F is known without counting removals: the checkpoint moves when Redis *or the queue* has acknowledged. A checkpoint that was read
//! before the queue was seen empty has nothing left in the queue: it is an F. Dead letters don't hold it; they are listed as owed.
//!
//! Guarantees: before a mark is written, the checkpoint says that it may be; so a daemon that is killed at any moment finds one of two
//! marks that it knows, and a third one is Redis' doing. No mark is written while a flush for a loss isn't done. Costs Redis one or two
//! commands a second, and nothing on the way of a removal. May depend on `checkpoint`, `invalidate`'s targets, `retry`'s counts and
//! `source`'s positions and errors.

mod keeper;
pub mod mark;
pub mod pool;
mod redis;
mod stats;
mod survey;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use self::mark::{Look, Mark, Verdict, is_at_or_before, judge};
pub use self::{
    keeper::Keeper,
    stats::{Stats, TargetState},
    survey::{Survey, survey},
};
use crate::{
    checkpoint::file::Published,
    invalidate::{
        classify::Failure,
        target::{Master, Target},
    },
};

/// A name for a new checkpoint, which no other one has.
pub fn new_lineage() -> String {
    // Its keys come from the system's random numbers.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}

/// One server, looked at.
#[derive(Debug)]
struct Seen {
    target: usize,
    master: Master,
    key: String,
    /// In [`Saved::published`].
    place: String,
    look: Look,
}

/// Looks at every server of each target, or, where one of them can't be asked, at none.
async fn look_at_all(targets: &[Arc<Target>], lineage: &str, stats: &Stats) -> Vec<Seen> {
    let one = async |(index, target): (usize, &Arc<Target>)| {
        if target.breaker.is_open() {
            return Vec::new();
        }
        match look_at(index, target, lineage).await {
            Ok(seen) => {
                stats.works(target.name(), seen.iter().any(|seen| seen.look.run.is_empty()));
                seen
            }
            Err(failure) => {
                stats.failed(target.name(), &failure);
                Vec::new()
            }
        }
    };
    futures_util::future::join_all(targets.iter().enumerate().map(one)).await.into_iter().flatten().collect()
}

async fn look_at(index: usize, target: &Target, lineage: &str) -> Result<Vec<Seen>, Failure> {
    let mut seen = Vec::new();
    for mut master in target.masters().await? {
        let key = redis::mark_key(master.tag(), lineage);
        let look = redis::look(&mut master, &key).await?;
        let place = place(target.name(), master.tag());
        seen.push(Seen { target: index, master, key, place, look });
    }
    Ok(seen)
}

fn place(target: &str, tag: Option<&str>) -> String {
    format!("{target}/{}", tag.unwrap_or_default())
}

fn is_of(place: &str, target: &str) -> bool {
    place.rsplit_once('/').is_some_and(|(name, _)| name == target)
}

/// Judges each look by what was published. A server that appears where others are known, in a run that nobody has seen, may be an old one
/// under another tag: then what the others remember is repeated.
fn judge_all(
    published: &BTreeMap<String, Published>,
    targets: &[Arc<Target>],
    seen: &[Seen],
) -> Vec<Verdict> {
    let verdict = |one: &Seen| {
        let verdict = judge(published.get(&one.place), &one.look);
        let Some(target) = targets.get(one.target) else { return verdict };
        let known = || published.iter().filter(|(place, _)| is_of(place, target.name()));
        if verdict != Verdict::Keep
            || published.contains_key(&one.place)
            || known().next().is_none()
            || known().any(|(_, known)| known.run == one.look.run && !one.look.run.is_empty())
        {
            return verdict;
        }
        let others = seen.iter().filter(|other| other.target == one.target && other.place != one.place);
        let marks = others.filter_map(|other| Mark::parse(other.look.found.as_deref()?).ok());
        match oldest(marks) {
            Some(Some(mark)) => Verdict::Rewind(Box::new(mark), "a redis server appeared that has no mark"),
            Some(None) => Verdict::Lost("a redis server appeared that has no mark".to_owned()),
            None => verdict,
        }
    };
    seen.iter().map(verdict).collect()
}

/// `None`: there is none. `Some(None)`: they can't be compared.
fn oldest(marks: impl Iterator<Item = Mark>) -> Option<Option<Mark>> {
    let mut oldest: Option<Mark> = None;
    for mark in marks {
        let Some(before) = &oldest else {
            oldest = Some(mark);
            continue;
        };
        let places = mark.place().ok().zip(before.place().ok());
        match places.and_then(|(a, b)| is_at_or_before(&a, &b)) {
            Some(true) => oldest = Some(mark),
            Some(false) => {}
            None => return Some(None),
        }
    }
    oldest.map(Some)
}
