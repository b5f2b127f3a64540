//! Removing what only Redis can name: the keys that begin with a text, the members of a set of keys.
//!
//! Guarantees: what is removed begins with the prefix, byte for byte, or was a member of the set when the command ran; nothing else
//! (I7). A sweep that says `Ok` has removed every key that began so, or was a member, from its beginning to its end. Each command is
//! short (`SCAN_COUNT`, `SLICE`) and paced: nobody waits for more than one of them. Memory is that of one page. May depend
//! on `config`, `pipeline::pace` and the rest of `invalidate`.
//!
//! Complete, because `SCAN` and `SSCAN` return every element that is there from the beginning of the iteration to its end
//! (<https://redis.io/docs/latest/commands/scan/>, "Scan guarantees").
//!
//! **A set and its members.** The application writes the value and its entry in one `MULTI`, or the value first and the entry then (if it isn't
//! cut off in between, which leaves a value that no set names). A slice of members is removed with their entries in one `MULTI`: whatever of a fill comes before it is gone with it, and whatever comes behind it leaves value *and*
//! entry, or an entry alone. So there is never a value for longer than between these two commands that no set names, and the set is
//! never removed as a whole: it is gone with its last entry. Were the entries removed first, or apart, a fill in between would leave
//! a value that the next change of the row doesn't find. On a cluster that holds for members in the set's own slot; others are removed
//! as `Target::remove_members` says.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rowbust_protocol::template::Template;

use super::{
    classify::Failure,
    flush::WRONG_TYPE,
    prefixes::Prefixes,
    target::{Master, Rounds, Target},
};
use crate::{
    config::{ALARM_ABOVE, Config, KeyOp},
    pipeline::pace::{Pace, Paces},
};

/// Buckets that one SCAN looks at: a tenth of a millisecond of Redis' time, in which nobody else is served.
const SCAN_COUNT: usize = 500;
/// Members that one SSCAN asks for, and keys that one UNLINK takes.
const SLICE: usize = 128;
/// What rowbust itself keeps in Redis begins so: no set and no prefix of the application means it.
const OWN: &[u8] = rowbust_protocol::OWN.as_bytes();
/// Between two lines of the log about members that stay.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A key that is only looked at costs Redis a fraction of a removal.
const LOOKS_PER_REMOVAL: usize = 10;

/// What sweeps of one target have done.
#[derive(Debug, Default)]
pub struct SweepStats {
    /// Keys removed.
    pub removed: AtomicU64,
    /// Keys and members looked at, as Redis was asked to.
    pub scanned: AtomicU64,
    /// Iterations over all keys.
    pub passes: AtomicU64,
    /// Sets that were gone through.
    pub sets: AtomicU64,
    /// Times that more keys than `alarm_above` began with one prefix.
    pub alarms: AtomicU64,
    /// Members that stayed, as they begin with none of `members_prefix`.
    pub left: AtomicU64,
    /// Keys of `members_of` that were no sets, and were removed as they are.
    pub no_sets: AtomicU64,
    /// Sweeps that run.
    pub running: AtomicUsize,
    /// Prefixes and sets that wait for their first or second removal.
    pub waiting: AtomicUsize,
}

/// Sweeps one target.
#[derive(Debug)]
pub struct Sweeper {
    pub(super) target: Arc<Target>,
    /// What prefixes begin with, as the config writes them: those of one are found by one iteration.
    beginnings: Prefixes,
    alarms: Vec<(Template, u64)>,
    sets: Vec<(Template, Vec<String>)>,
    pace: Arc<Pace>,
    left_told: Mutex<Option<Instant>>,
    /// What it has done.
    pub stats: Arc<SweepStats>,
}

/// Keys that were removed together, each with the place of its prefix among those wanted; a set's members with 0.
pub type Swept<'a> = &'a [(usize, &'a [u8])];

/// What somebody wants to hear of a sweep.
#[derive(Clone, Copy)]
pub struct Tell<'a> {
    /// The place in the binlog that a prefix, by its place among those wanted, comes from.
    pub at: &'a (dyn Fn(usize) -> String + Sync),
    /// These are removed.
    pub removed: &'a (dyn Fn(Swept<'_>) + Sync),
}

impl fmt::Debug for Tell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tell").finish_non_exhaustive()
    }
}

impl Tell<'_> {
    /// Nobody wants to.
    pub const NOBODY: Self = Self { at: &|_| String::new(), removed: &|_| {} };
}

/// A sweep that runs, for the gauge.
struct Running<'a>(&'a SweepStats);

impl<'a> Running<'a> {
    fn new(stats: &'a SweepStats) -> Self {
        stats.running.fetch_add(1, Relaxed);
        Self(stats)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

impl Sweeper {
    /// `at`: index into [`Config::redis`].
    pub fn new(target: Arc<Target>, at: usize, config: &Config) -> Arc<Self> {
        let rules = || config.mappings.iter().filter(|m| m.target == at).flat_map(|m| &m.keys);
        let alarms: Vec<(Template, u64)> = rules()
            .filter_map(|rule| match rule.op {
                KeyOp::Prefix { alarm_above } => Some((rule.key.clone(), alarm_above)),
                _ => None,
            })
            .collect();
        let sets = rules().filter_map(|rule| match &rule.op {
            KeyOp::MembersOf { members_prefix } => Some((rule.key.clone(), members_prefix.clone())),
            _ => None,
        });
        Arc::new(Self {
            target,
            beginnings: Prefixes::new(alarms.iter().map(|(template, _)| template.literal_prefix())),
            sets: sets.collect(),
            alarms,
            pace: Arc::new(Pace::new(config.limits.sweep_keys_per_second)),
            left_told: Mutex::default(),
            stats: Arc::default(),
        })
    }

    async fn wait(&self, paces: &Paces, keys: usize) {
        self.pace.take(keys).await;
        paces.take(keys).await;
    }

    /// The smallest `alarm_above` of the rules that make this prefix.
    fn alarm_above(&self, prefix: &[u8]) -> u64 {
        let of = self.alarms.iter().filter(|(template, _)| template.could_make(prefix));
        of.map(|(_, above)| *above).min().unwrap_or(ALARM_ABOVE)
    }

    /// Whether a member of this set may be removed, by one of the rules that make its key.
    fn takes(&self, set: &[u8]) -> impl Fn(&[u8]) -> bool {
        let of = || self.sets.iter().filter(|(template, _)| template.could_make(set));
        let all = of().any(|(_, prefixes)| prefixes.is_empty());
        let prefixes = Prefixes::new(of().flat_map(|(_, prefixes)| prefixes.iter().map(String::as_bytes)));
        move |member| !member.starts_with(OWN) && (all || prefixes.of(member).is_some())
    }

    /// Removes every key that begins with one of these, by one iteration for each beginning that the config has. How many, by the
    /// prefix' place.
    pub async fn prefixes(
        &self,
        wanted: &Prefixes,
        paces: &Paces,
        tell: Tell<'_>,
    ) -> Vec<Result<u64, Failure>> {
        let _running = Running::new(&self.stats);
        let mut groups: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for place in 0..wanted.len() {
            groups.entry(self.beginnings.of(wanted.get(place))).or_default().push(place);
        }
        let mut results: Vec<Result<u64, Failure>> = (0..wanted.len()).map(|_| Ok(0)).collect();
        for places in groups.into_values() {
            let mut found = Found {
                removed: vec![0; wanted.len()],
                alarm_above: (0..wanted.len()).map(|place| self.alarm_above(wanted.get(place))).collect(),
            };
            let done = self.iterate(wanted, &wanted.glob(&places), paces, &mut found, tell).await;
            for place in places {
                results[place] = done.clone().map(|()| found.removed[place]);
            }
        }
        results
    }

    /// As [`Sweeper::prefixes`], of one.
    pub async fn prefix(&self, prefix: &[u8], paces: &Paces) -> Result<u64, Failure> {
        let wanted = Prefixes::new([prefix]);
        self.prefixes(&wanted, paces, Tell::NOBODY).await.pop().unwrap_or(Ok(0))
    }

    /// One iteration over all keys of all servers; two if slots moved.
    async fn iterate(
        &self,
        wanted: &Prefixes,
        glob: &[u8],
        paces: &Paces,
        found: &mut Found,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let mut rounds = Rounds::of(&self.target);
        while let Some(masters) = rounds.next().await? {
            self.stats.passes.fetch_add(1, Relaxed);
            for master in masters {
                self.keys_of(master, wanted, glob, paces, found, tell).await?;
            }
        }
        Ok(())
    }

    async fn keys_of(
        &self,
        mut master: Master,
        wanted: &Prefixes,
        glob: &[u8],
        paces: &Paces,
        found: &mut Found,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            self.wait(paces, SCAN_COUNT / LOOKS_PER_REMOVAL).await;
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): Page = master.ask(&command).await?;
            self.stats.scanned.fetch_add(SCAN_COUNT.max(keys.len()) as u64, Relaxed);
            let taken = keys.iter().filter(|key| !key.starts_with(OWN));
            let taken: Vec<(usize, &[u8])> =
                taken.filter_map(|key| Some((wanted.of(key)?, &key[..]))).collect();
            for slice in taken.chunks(SLICE) {
                self.wait(paces, slice.len()).await;
                self.unlink(slice.iter().map(|(_, key)| *key)).await?;
                (tell.removed)(slice);
                for (place, _) in slice {
                    self.count(wanted, found, *place, tell);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn unlink(&self, keys: impl Iterator<Item = &[u8]> + Clone) -> Result<(), Failure> {
        let count = keys.clone().count();
        if let Some((_, failure)) = self.target.unlink(keys).await?.into_iter().next() {
            return Err(failure);
        }
        self.stats.removed.fetch_add(count as u64, Relaxed);
        Ok(())
    }

    fn count(&self, wanted: &Prefixes, found: &mut Found, place: usize, tell: Tell<'_>) {
        let (removed, above) = (&mut found.removed[place], found.alarm_above[place]);
        *removed += 1;
        if *removed == above.saturating_add(1) {
            self.stats.alarms.fetch_add(1, Relaxed);
            tracing::error!(
                target = self.target.name(),
                prefix = %wanted.get(place).escape_ascii(),
                alarm_above = above,
                at = (tell.at)(place),
                "more keys begin with a prefix than expected, all are removed"
            );
        }
    }

    /// Removes the members of a set, with their entries. How many. `last`: no further removal is owed.
    pub async fn members(
        &self,
        set: &[u8],
        last: bool,
        paces: &Paces,
        tell: Tell<'_>,
    ) -> Result<u64, Failure> {
        let _running = Running::new(&self.stats);
        self.stats.sets.fetch_add(1, Relaxed);
        let takes = self.takes(set);
        let (mut removed, mut left) = (0, 0);
        // Who has the set's slot; one that moves meanwhile makes the next page fail.
        let mut master: Option<Master> = None;
        let mut cursor = 0;
        loop {
            self.wait(paces, SLICE / LOOKS_PER_REMOVAL).await;
            let mut command = redis::cmd("SSCAN");
            command.arg(set).arg(cursor).arg("COUNT").arg(SLICE);
            let page: Result<Page, Failure> = match &mut master {
                Some(master) => master.ask(&command).await,
                None => self.target.master_of(set, &command).await.map(|(found, page)| {
                    master = Some(found);
                    page
                }),
            };
            let (next, members) = match page {
                Err(failure) if failure.code == WRONG_TYPE => {
                    let removed = self.no_set(set).await?;
                    (tell.removed)(&[(0, set)]);
                    return Ok(removed);
                }
                page => page?,
            };
            self.stats.scanned.fetch_add(members.len() as u64, Relaxed);
            let (taken, others): (Vec<&[u8]>, Vec<&[u8]>) =
                members.iter().map(Vec::as_slice).partition(|member| takes(member));
            left += others.len() as u64;
            for slice in taken.chunks(SLICE) {
                self.wait(paces, slice.len()).await;
                self.target.remove_members(set, slice, last).await?;
                let told: Vec<(usize, &[u8])> = slice.iter().map(|member| (0, *member)).collect();
                (tell.removed)(&told);
                self.stats.removed.fetch_add(slice.len() as u64, Relaxed);
                removed += slice.len() as u64;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        if left > 0 {
            self.stats.left.fetch_add(left, Relaxed);
            self.tell_left(set, left);
        }
        Ok(removed)
    }

    /// At most once a minute: a set that has such members is met at every change.
    fn tell_left(&self, set: &[u8], left: u64) {
        let mut told = self.left_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(target = self.target.name(), set = %set.escape_ascii(), members = left,
                "members of a set begin with none of members_prefix, they stay");
        }
    }

    /// A plain value in place of a set: the key is the mapping's, so it is removed as it is.
    async fn no_set(&self, key: &[u8]) -> Result<u64, Failure> {
        self.unlink(std::iter::once(key)).await?;
        self.stats.no_sets.fetch_add(1, Relaxed);
        tracing::warn!(target = self.target.name(), key = %key.escape_ascii(),
            "key of members_of is no set, it is removed as it is");
        Ok(1)
    }
}

/// A cursor, and what was found.
type Page = (u64, Vec<Vec<u8>>);

/// By prefix.
struct Found {
    removed: Vec<u64>,
    alarm_above: Vec<u64>,
}
