//! Which records a command means.
//!
//! May depend on [`super::record`].

use std::collections::HashSet;

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::{Listed, Op, Record};

/// Which records or dead letters are meant: all that every field which is set takes. The default takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only of this target.
    pub target: Option<String>,
    /// Only keys that begin so.
    pub key_prefix: Option<String>,
    /// Only keys like this glob (`*`, `?`, `[…]`, `{a,b}`).
    pub key_glob: Option<String>,
    /// Only with this code of the newest error.
    pub error_code: Option<String>,
    /// Only these places: [`Listed::id`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Only what failed first at least so many seconds ago; what can't be decoded: what became a dead letter then.
    pub older_seconds: Option<u64>,
    /// Only what failed first less than so many seconds ago.
    pub younger_seconds: Option<u64>,
    /// Only what became a dead letter before this Unix time in milliseconds: what is sent back in steps and comes back meanwhile isn't meant
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_before_ms: Option<u64>,
}

impl Filter {
    /// Whether it takes everything.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Ready to be asked. Ages count from `now_ms`, Unix time in milliseconds.
    ///
    /// # Errors
    /// The glob can't be parsed; says why.
    pub fn matcher(&self, now_ms: u64) -> Result<Matcher, String> {
        let glob = |glob: &String| Glob::new(glob).map(|glob| glob.compile_matcher());
        let ago = |seconds: u64| now_ms.saturating_sub(seconds.saturating_mul(1000));
        Ok(Matcher {
            key_glob: self.key_glob.as_ref().map(glob).transpose().map_err(|error| error.to_string())?,
            ids: self.ids.iter().cloned().collect(),
            not_after_ms: self.older_seconds.map(ago),
            not_before_ms: self.younger_seconds.map(ago),
            filter: self.clone(),
        })
    }
}

/// A [`Filter`] that is ready to be asked.
#[derive(Debug, Clone)]
pub struct Matcher {
    filter: Filter,
    key_glob: Option<GlobMatcher>,
    ids: HashSet<String>,
    not_after_ms: Option<u64>,
    not_before_ms: Option<u64>,
}

impl Matcher {
    /// Whether this line is meant. What can't be decoded has neither target nor key nor error.
    pub fn takes(&self, line: &Listed) -> bool {
        let of_record = |record: &Record| {
            let filter = &self.filter;
            filter.target.as_ref().is_none_or(|target| *target == record.target)
                && filter.key_prefix.as_ref().is_none_or(|p| record.key.starts_with(p.as_bytes()))
                && filter.error_code.as_ref().is_none_or(|code| *code == record.error_code)
                && self.key_glob.as_ref().is_none_or(|glob| {
                    use std::os::unix::ffi::OsStrExt as _;
                    glob.is_match(std::ffi::OsStr::from_bytes(&record.key))
                })
        };
        let about_records = self.filter.target.is_some()
            || self.filter.key_prefix.is_some()
            || self.filter.error_code.is_some()
            || self.key_glob.is_some();
        let since = line.record.as_ref().map(|record| record.first_failed_ms).or(line.died_ms);
        line.record.as_ref().map_or(!about_records, of_record)
            && (self.ids.is_empty() || self.ids.contains(&line.id))
            && self.not_after_ms.is_none_or(|at| since.is_none_or(|since| since <= at))
            && self.not_before_ms.is_none_or(|at| since.is_some_and(|since| since > at))
            && self.filter.died_before_ms.is_none_or(|at| line.died_ms.is_none_or(|died| died < at))
    }
}

impl Listed {
    /// Whether there is something to try again: it can be decoded, and isn't just the place of a row.
    pub fn can_be_requeued(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !matches!(record.op, Op::Row { .. }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::policy::tests::record, *};

    fn line(record: Option<Record>) -> Listed {
        let raw = if record.is_some() { Vec::new() } else { b"?".to_vec() };
        Listed { id: "7".into(), record, raw, reason: String::new(), died_ms: Some(50_000), original: None }
    }

    #[test]
    fn every_field_narrows() {
        let good = line(Some(Record { first_failed_ms: 40_000, ..record("product:7/a") }));
        let poison = line(None);
        let takes = |filter: Filter, line: &Listed| filter.matcher(100_000).unwrap().takes(line);
        let some = |text: &str| Some(text.to_owned());
        let all = Filter::default();
        assert!(takes(all.clone(), &good) && takes(all.clone(), &poison) && all.is_all());
        for (filter, good_too, poison_too) in [
            (Filter { target: some("main"), ..all.clone() }, true, false),
            (Filter { target: some("other"), ..all.clone() }, false, false),
            (Filter { key_prefix: some("product:"), ..all.clone() }, true, false),
            (Filter { key_prefix: some("roduct:"), ..all.clone() }, false, false),
            (Filter { key_glob: some("product:*"), ..all.clone() }, true, false),
            (Filter { key_glob: some("product:?"), ..all.clone() }, false, false),
            (Filter { error_code: some("IO"), ..all.clone() }, true, false),
            (Filter { error_code: some("WRONGTYPE"), ..all.clone() }, false, false),
            (Filter { ids: vec!["7".into()], ..all.clone() }, true, true),
            (Filter { ids: vec!["8".into()], ..all.clone() }, false, false),
            (Filter { older_seconds: Some(55), ..all.clone() }, true, false),
            (Filter { older_seconds: Some(50), ..all.clone() }, true, true),
            (Filter { older_seconds: Some(61), ..all.clone() }, false, false),
            (Filter { younger_seconds: Some(61), ..all.clone() }, true, true),
            (Filter { younger_seconds: Some(60), ..all.clone() }, false, true),
            (Filter { died_before_ms: Some(50_000), ..all.clone() }, false, false),
            (Filter { died_before_ms: Some(50_001), ..all.clone() }, true, true),
        ] {
            assert_eq!(takes(filter.clone(), &good), good_too, "{filter:?}");
            assert_eq!(takes(filter.clone(), &poison), poison_too, "{filter:?}");
        }
        assert!(Filter { key_glob: some("["), ..all }.matcher(0).is_err());
    }
}
