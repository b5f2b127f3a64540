//! The mapped keyspace, as what a flush looks for and removes.
//!
//! Guarantees (I7): of each page that Redis returns only those keys (and fields) are taken that a template of the mappings can make, to
//! the letter (see [`Template::could_make`]); a template that begins with a column is never flushed, for its keyspace is bounded by
//! nothing that the application has reserved. Keys of anything else survive, however much alike under the glob. May depend on
//! `config` and `rowbust-protocol`.
//!
//! How a pass runs is in [`crate::invalidate::flush`], who asks for one in [`crate::pipeline`].

mod stats;

use rowbust_protocol::template::{Template, escape_glob};

pub use self::stats::{FlushStats, Running, Snapshot};
use crate::config::{KeyOp, KeyRule, Mapping};

/// The rule of a mapping that can't be flushed, if there is one: its template begins with a column, so every key of the database
/// might be its.
pub fn unflushable(mapping: &Mapping) -> Option<&KeyRule> {
    mapping.keys.iter().find(|rule| rule.key.literal_prefix().is_empty())
}

/// What one pass over a target does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Keys that are known without looking.
    pub keys: Vec<Vec<u8>>,
    /// Sets that are known without looking: their members go.
    pub sets: Vec<Vec<u8>>,
    /// Hashes that are known without looking, and which of their fields go.
    pub hashes: Vec<(Vec<u8>, Fields)>,
    /// Iterations over all keys.
    pub scans: Vec<Scan>,
}

/// One iteration over all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// For `MATCH`: takes all that the rules take, and more.
    pub glob: Vec<u8>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    key: Template,
    what: What,
}

/// What goes of a key that a rule makes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Key,
    Field(Template),
    /// Of every key that begins so.
    Prefix,
    Members,
}

impl Rule {
    fn takes(&self, key: &[u8]) -> bool {
        if self.what == What::Prefix { self.key.could_begin(key) } else { self.key.could_make(key) }
    }

    fn glob(&self) -> Vec<u8> {
        if self.what == What::Prefix { self.key.prefix_glob() } else { self.key.glob() }
    }
}

/// What is to be removed of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owed {
    /// Nothing: it isn't ours.
    Nothing,
    /// All of it.
    Key,
    /// Fields of it.
    Fields(Fields),
    /// The keys that are its members, with their entries.
    Members {
        /// And then what is left of it.
        whole: bool,
    },
}

/// Fields of a hash: one or more templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<Template>);

impl Fields {
    /// For `MATCH`.
    pub fn glob(&self) -> Vec<u8> {
        match &self.0[..] {
            [one] => one.glob(),
            many => common_glob(many.iter().map(Template::literal_prefix)),
        }
    }

    /// Whether the field goes.
    pub fn takes(&self, field: &[u8]) -> bool {
        self.0.iter().any(|template| template.could_make(field))
    }

    /// The only field, if it is known without looking.
    pub fn only(&self) -> Option<&[u8]> {
        match &self.0[..] {
            [one] if one.is_constant() => Some(one.literal_prefix()),
            _ => None,
        }
    }
}

impl Plan {
    /// Everything that these mappings name.
    pub fn new<'a>(mappings: impl IntoIterator<Item = &'a Mapping>) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for rule in mappings.into_iter().flat_map(|mapping| &mapping.keys) {
            let what = match &rule.op {
                KeyOp::Unlink => What::Key,
                KeyOp::Hdel { field } => What::Field(field.clone()),
                KeyOp::Prefix { .. } => What::Prefix,
                KeyOp::MembersOf { .. } => What::Members,
            };
            let rule = Rule { key: rule.key.clone(), what };
            if !rule.key.literal_prefix().is_empty() && !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let (constant, mut rest): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| rule.key.is_constant() && rule.what != What::Prefix);
        let mut plan = Self { keys: Vec::new(), sets: Vec::new(), hashes: Vec::new(), scans: Vec::new() };
        for rule in constant {
            let key = rule.key.literal_prefix().to_vec();
            match rule.what {
                What::Key | What::Prefix => plan.keys.push(key),
                What::Members => plan.sets.push(key),
                What::Field(field) => match plan.hashes.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, fields)) => fields.0.push(field),
                    None => plan.hashes.push((key, Fields(vec![field]))),
                },
            }
        }
        // A prefix of another is directly before it, or before others that begin like it: one iteration serves them all.
        rest.sort_by(|a, b| a.key.literal_prefix().cmp(b.key.literal_prefix()));
        for rule in rest {
            match plan.scans.last_mut() {
                Some(scan) if rule.key.literal_prefix().starts_with(scan.prefix()) => scan.rules.push(rule),
                _ => plan.scans.push(Scan { glob: Vec::new(), rules: vec![rule] }),
            }
        }
        for scan in &mut plan.scans {
            scan.glob = match &scan.rules[..] {
                [one] => one.glob(),
                many if many.iter().all(|rule| rule.key == many[0].key && rule.what != What::Prefix) => {
                    many[0].glob()
                }
                many => common_glob(many.iter().map(|rule| rule.key.literal_prefix())),
            };
        }
        plan
    }
}

impl Scan {
    /// The shortest: rules are added by prefix, in order.
    fn prefix(&self) -> &[u8] {
        self.rules.first().map_or(&[], |rule| rule.key.literal_prefix())
    }

    /// What goes of a key; of several rules for fields the fields of all.
    pub fn owed(&self, key: &[u8]) -> Owed {
        let mut fields = Vec::new();
        let (mut whole, mut members) = (false, false);
        for rule in self.rules.iter().filter(|rule| rule.takes(key)) {
            match &rule.what {
                What::Key | What::Prefix => whole = true,
                What::Members => members = true,
                What::Field(field) => fields.push(field.clone()),
            }
        }
        match (members, whole) {
            (true, whole) => Owed::Members { whole },
            (false, true) => Owed::Key,
            (false, false) if fields.is_empty() => Owed::Nothing,
            (false, false) => Owed::Fields(Fields(fields)),
        }
    }
}

/// For `MATCH`: takes whatever begins with what all prefixes have in common.
pub(crate) fn common_glob<'a>(mut prefixes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let first = prefixes.next().unwrap_or_default();
    let common = prefixes.fold(first, |common, prefix| {
        let same = common.iter().zip(prefix).take_while(|(a, b)| a == b).count();
        common.get(..same).unwrap_or_default()
    });
    let mut glob = Vec::new();
    escape_glob(common, &mut glob);
    glob.push(b'*');
    glob
}

#[cfg(test)]
mod tests;
