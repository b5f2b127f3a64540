//! What the daemon leaves in each Redis, and what finding it again tells.
//!
//! Guarantees: [`judge`] says [`Verdict::Keep`] only where every removal that Redis has acknowledged up to the checkpoint is still part of
//! its history, or can't be told apart from that for want of `INFO`. May depend on `checkpoint` and `source::position`.

use rowbust_binlog::{Flavor, GtidState};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::file::{Published, Saved},
    source::position::{Anchor, Coordinates, Position},
};

/// A frontier: everything before it is removed, for the second time, by acknowledgement of Redis itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Version of this form: 1.
    pub v: u32,
    /// Tells two marks of one checkpoint apart.
    pub id: String,
    /// `mysql` or `mariadb`.
    pub flavor: String,
    /// The server that file and position belong to, as in the checkpoint.
    pub source: String,
    /// Executed set (MySQL) or last GTID of each domain (MariaDB).
    pub gtids: String,
    /// Binlog file.
    pub file: String,
    /// Offset in it.
    pub position: u64,
    /// The event that ends there.
    pub anchor: Option<Anchor>,
    /// Unix time in seconds, by the source's clock, of the newest commit before it; 0: unknown.
    pub time: u32,
}

/// The one form that is understood.
const VERSION: u32 = 1;
/// Stands for the id of what isn't one.
const UNREADABLE: &str = "?";

impl Mark {
    /// The frontier that a checkpoint stands for, if nothing of it is owed by the queue.
    pub fn of(saved: &Saved) -> Self {
        Self {
            v: VERSION,
            id: format!("{}-{}", saved.epoch, saved.generation),
            flavor: saved.flavor.clone(),
            source: saved.source.clone(),
            gtids: saved.gtids.clone(),
            file: saved.file.clone(),
            position: saved.position,
            anchor: saved.anchor,
            time: saved.commit_time,
        }
    }

    /// Whether both are the same place.
    pub fn is_at(&self, other: &Self) -> bool {
        (&self.source, &self.gtids, &self.file, self.position)
            == (&other.source, &other.gtids, &other.file, other.position)
    }

    /// As it is written.
    pub fn text(&self) -> String {
        // Strings and numbers only: this can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The inverse of [`Mark::text`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mark: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if mark.v != VERSION {
            return Err(format!("its version is {}, {VERSION} is understood", mark.v));
        }
        Ok(mark)
    }

    /// The place.
    ///
    /// # Errors
    /// What can't be read in it.
    pub fn place(&self) -> Result<Position, String> {
        let flavor = match self.flavor.as_str() {
            "mysql" => Flavor::MySql,
            "mariadb" => Flavor::MariaDb,
            other => return Err(format!("unknown flavor {other}")),
        };
        let gtids = GtidState::parse(flavor, &self.gtids).map_err(|error| error.to_string())?;
        Ok(Position { gtids, at: Coordinates { file: self.file.as_str().into(), position: self.position } })
    }
}

/// Whether everything before `a` is before `b` too. `None`: they can't be compared.
pub(super) fn is_at_or_before(a: &Position, b: &Position) -> Option<bool> {
    if a.gtids.flavor() != b.gtids.flavor() {
        return None;
    }
    if a.gtids.is_empty() && b.gtids.is_empty() {
        return a.at.is_behind(&b.at).map(|behind| !behind);
    }
    match (b.gtids.includes(&a.gtids), a.gtids.includes(&b.gtids)) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// What one look at a Redis server gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// What stands at the mark's key.
    pub found: Option<String>,
    /// `run_id/master_replid` of `INFO`: changes with each start, and with each promotion. Empty: the account may not ask.
    pub run: String,
    /// Keys that were evicted since its start.
    pub evicted: u64,
    /// It started without any data, and was never a replica.
    pub began_empty: bool,
}

impl Look {
    /// From the value and the text of `INFO`.
    pub fn new(found: Option<String>, info: &str) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
        };
        let run = match (field("run_id"), field("master_replid")) {
            ("", _) => String::new(),
            (run, replication) => format!("{run}/{replication}"),
        };
        // Redis 7.0 and newer, Valkey. A promoted replica may have got stale values by replication, so it must have been none.
        let began_empty = field("rdb_last_load_keys_loaded") == "0"
            && field("aof_enabled") == "0"
            && !field("master_replid2").is_empty()
            && field("master_replid2").bytes().all(|b| b == b'0');
        Self { found, run, evicted: field("evicted_keys").parse().unwrap_or(0), began_empty }
    }

    /// What to compare the next look with.
    pub fn as_published(&self) -> Published {
        let id = match self.found.as_deref().map(Mark::parse) {
            None => String::new(),
            Some(Ok(mark)) => mark.id,
            Some(Err(_)) => UNREADABLE.to_owned(),
        };
        Published { before: id.clone(), id, run: self.run.clone(), evicted: self.evicted }
    }
}

/// What a look tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is lost.
    Keep,
    /// The mark was evicted, nothing else is lost: it is written again.
    Evicted,
    /// Redis has forgotten what lies behind this.
    Rewind(Box<Mark>, &'static str),
    /// Redis has forgotten nobody knows how much.
    Lost(String),
}

/// Compares a look with what was published there; `None`: nothing ever was.
///
/// Within one run (process and replication id) a history only grows: there only another value than the last ones, or none, tells of a
/// loss. In another run the mark found may be the last one, and yet removals behind it be lost, as they were acknowledged after it
/// was written.
pub fn judge(published: Option<&Published>, look: &Look) -> Verdict {
    let found = match look.found.as_deref().map(Mark::parse).transpose() {
        Ok(found) => found,
        // Found at the start, and dealt with: it is overwritten with the next mark.
        Err(_) if published.is_some_and(|published| published.id == UNREADABLE) => return Verdict::Keep,
        Err(why) => return Verdict::Lost(format!("what stands at the mark's key can't be read: {why}")),
    };
    let Some(published) = published else {
        return match found {
            Some(mark) => Verdict::Rewind(Box::new(mark), "a mark was found where none was published"),
            None => Verdict::Keep,
        };
    };
    let same_run = look.run == published.run;
    match found {
        Some(mark) if mark.id == published.id || mark.id == published.before => {
            if same_run || look.run.is_empty() || published.run.is_empty() {
                Verdict::Keep
            } else {
                Verdict::Rewind(Box::new(mark), "redis was restarted, or another one took its place")
            }
        }
        Some(mark) => Verdict::Rewind(Box::new(mark), "an older mark than the last one was found"),
        // None was there, and none is known to have been written since.
        None if published.before.is_empty() => {
            let is_told = !look.run.is_empty() && !published.run.is_empty();
            if is_told && !same_run && !look.began_empty {
                Verdict::Lost(
                    "redis was restarted, or another one took its place, before it had a mark".to_owned(),
                )
            } else {
                Verdict::Keep
            }
        }
        None if same_run && !look.run.is_empty() && look.evicted != published.evicted => Verdict::Evicted,
        None if !same_run && look.began_empty => Verdict::Keep,
        None => Verdict::Lost("the mark is gone".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mark(id: &str, gtids: &str) -> Mark {
        Mark {
            v: 1,
            id: id.into(),
            flavor: "mariadb".into(),
            source: "1".into(),
            gtids: gtids.into(),
            file: "b.000001".into(),
            position: 100,
            anchor: None,
            time: 0,
        }
    }

    fn look(found: Option<&str>, run: &str) -> Look {
        let found = found.map(|id| mark(id, "0-1-5").text());
        Look { found, run: run.into(), evicted: 7, began_empty: false }
    }

    fn published(id: &str, before: &str, run: &str) -> Published {
        Published { id: id.into(), before: before.into(), run: run.into(), evicted: 7 }
    }

    #[test]
    fn what_a_look_tells() {
        let judge_ = |published: Option<&Published>, look: &Look| match judge(published, look) {
            Verdict::Keep => "keep".to_owned(),
            Verdict::Evicted => "evicted".to_owned(),
            Verdict::Rewind(mark, _) => format!("rewind {}", mark.id),
            Verdict::Lost(_) => "lost".to_owned(),
        };
        let last = published("1-9", "1-8", "a/r");
        let cases = [
            (Some(&last), look(Some("1-9"), "a/r"), "keep"),
            // Published, and not known to be.
            (Some(&last), look(Some("1-8"), "a/r"), "keep"),
            (Some(&last), look(Some("1-7"), "a/r"), "rewind 1-7"),
            // The last mark, but what was acknowledged behind it may be gone.
            (Some(&last), look(Some("1-9"), "b/r"), "rewind 1-9"),
            (Some(&last), look(Some("1-9"), "a/s"), "rewind 1-9"),
            (Some(&last), look(Some("1-3"), "b/r"), "rewind 1-3"),
            // The account may not ask for the run.
            (Some(&last), look(Some("1-9"), ""), "keep"),
            (Some(&last), look(Some("1-3"), ""), "rewind 1-3"),
            (Some(&last), look(None, "a/r"), "lost"),
            (Some(&last), look(None, "b/r"), "lost"),
            (Some(&last), look(None, ""), "lost"),
            (Some(&last), Look { evicted: 8, ..look(None, "a/r") }, "evicted"),
            (Some(&last), Look { evicted: 8, ..look(None, "b/r") }, "lost"),
            (Some(&last), Look { began_empty: true, ..look(None, "b/r") }, "keep"),
            (Some(&last), Look { began_empty: true, ..look(None, "a/r") }, "lost"),
            (None, look(None, "a/r"), "keep"),
            (None, look(Some("1-3"), "a/r"), "rewind 1-3"),
            // Before the first mark, or while it isn't known to be written.
            (Some(&published("", "", "a/r")), look(None, "a/r"), "keep"),
            (Some(&published("", "", "a/r")), look(None, "b/r"), "lost"),
            (Some(&published("", "", "a/r")), look(None, ""), "keep"),
            (Some(&published("", "", "")), look(None, "b/r"), "keep"),
            (Some(&published("", "", "a/r")), Look { began_empty: true, ..look(None, "b/r") }, "keep"),
            (Some(&published("1-1", "", "a/r")), look(None, "a/r"), "keep"),
            (Some(&published("1-1", "", "a/r")), look(None, "b/r"), "lost"),
            (Some(&published("1-1", "", "a/r")), look(Some("1-1"), "a/r"), "keep"),
            (Some(&last), Look { found: Some("{}".into()), ..look(None, "a/r") }, "lost"),
        ];
        for (published, look, expected) in cases {
            assert_eq!(judge_(published, &look), expected, "{published:?} {look:?}");
        }
    }

    #[test]
    fn places_are_compared_by_gtids_and_without_them_by_coordinates() {
        let place = |gtids: &str, position| Mark { position, ..mark("1-1", gtids) }.place().unwrap();
        assert_eq!(is_at_or_before(&place("0-1-5", 9), &place("0-1-6", 1)), Some(true));
        assert_eq!(is_at_or_before(&place("0-1-7", 1), &place("0-1-6", 9)), Some(false));
        assert_eq!(is_at_or_before(&place("0-1-5,1-1-9", 1), &place("0-1-6,1-1-8", 9)), None);
        assert_eq!(is_at_or_before(&place("", 1), &place("", 9)), Some(true));
        assert_eq!(is_at_or_before(&place("", 9), &place("", 1)), Some(false));
    }

    #[test]
    fn the_text_can_be_read_again_and_info_is_understood() {
        let one = mark("2-77", "0-1-5");
        assert_eq!(
            one.text(),
            r#"{"v":1,"id":"2-77","flavor":"mariadb","source":"1","gtids":"0-1-5","file":"b.000001","position":100,"anchor":null,"time":0}"#
        );
        assert!(include_str!("../../docs/wire-format.md").contains(&one.text()));
        assert_eq!(Mark::parse(&one.text()).unwrap(), one);
        assert!(Mark::parse(&one.text().replace("\"v\":1", "\"v\":2")).unwrap_err().contains("version is 2"));
        let info = "# Server\r\nrun_id:abc\r\n# Persistence\r\nrdb_last_load_keys_loaded:0\r\naof_enabled:0\r\n\
                    # Stats\r\nevicted_keys:12\r\n# Replication\r\nmaster_replid:def\r\nmaster_replid2:0000\r\n";
        let look = Look::new(None, info);
        assert_eq!((look.run.as_str(), look.evicted, look.began_empty), ("abc/def", 12, true));
        assert!(!Look::new(None, &info.replace("loaded:0", "loaded:3")).began_empty);
        assert!(!Look::new(None, &info.replace("replid2:0000", "replid2:12ab")).began_empty);
        assert_eq!(Look::new(None, "").run, "");
    }
}
