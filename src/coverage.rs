//! Which mappings the checkpoint covers.
//!
//! A key that was cached before its mapping was followed may be stale, and no later row change tells. So the checkpoint says which
//! mappings it stands for; the ones that it doesn't name are new. `run --flush-new` removes their keyspaces once the place where
//! reading begins is visible everywhere, and names them in the checkpoint only when that is done; without it the daemon says once
//! that it wasn't done.
//!
//! Guarantees: a digest changes with everything that decides which keys a rule makes of which row (the target's name, table, filters,
//! template, operation, events), and with nothing else. May depend on `config`.

use crate::config::{Config, Events, Image, KeyOp, KeyRule, Mapping};

/// What is new in a config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Mappings with a rule that isn't covered: indices into [`Config::mappings`].
    pub new: Vec<usize>,
    /// Digests of the rules of the new mappings.
    pub new_digests: Vec<String>,
    /// Digests of the config's other rules.
    pub known: Vec<String>,
}

impl Coverage {
    /// `covered`: the checkpoint's digests; `None`: of a version that had none, when nothing is taken for new.
    pub fn new(config: &Config, covered: Option<&[String]>) -> Self {
        let mut found = Self::default();
        for (at, mapping) in config.mappings.iter().enumerate() {
            let digests = digests(config, mapping);
            if covered.is_none_or(|covered| digests.iter().all(|digest| covered.contains(digest))) {
                found.known.extend(digests);
            } else {
                found.new.push(at);
                found.new_digests.extend(digests);
            }
        }
        for list in [&mut found.known, &mut found.new_digests] {
            list.sort_unstable();
            list.dedup();
        }
        found
    }

    /// Digests of all rules.
    pub fn all(&self) -> Vec<String> {
        let mut all = [self.known.as_slice(), &self.new_digests].concat();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// One digest per rule of a mapping.
fn digests(config: &Config, mapping: &Mapping) -> Vec<String> {
    let target = config.redis.get(mapping.target).map_or("", |target| target.name.as_str());
    let mut columns = mapping.when_changed.clone();
    if let Some(columns) = &mut columns {
        columns.sort_unstable();
    }
    let when = mapping.when.as_ref().map(|when| {
        let image = match when.image {
            Image::Before => "before",
            Image::After => "after",
            Image::Any => "any",
        };
        (when.column.as_str(), when.any_of.as_slice(), image)
    });
    let shared = format!("{target:?} {:?} {columns:?} {when:?}", mapping.table);
    mapping.keys.iter().map(|rule| digest(&format!("{shared} {}", described(rule)))).collect()
}

fn described(rule: &KeyRule) -> String {
    let Events { insert, update, delete } = rule.events;
    let op = match &rule.op {
        KeyOp::Unlink => "unlink".to_owned(),
        KeyOp::Prefix { .. } => "prefix".to_owned(),
        KeyOp::MembersOf { members_prefix } => format!("members_of {members_prefix:?}"),
        KeyOp::Hdel { field } => format!("hdel {:?}", field.source()),
    };
    format!("{:?} {op} {insert} {update} {delete}", rule.key.source())
}

/// FNV-1a, 64 bits: stable across versions and machines.
fn digest(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn config(mappings: &str) -> Config {
        let text = format!(
            "source: {{ url: \"mysql://u@h\" }}\nredis: {{ main: \"redis://h\", other: \"redis://h\" }}\nmappings:\n{mappings}"
        );
        parse(&text, Path::new("/x/y.yaml"), &|_| None).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn what_changes_the_keys_is_new_and_nothing_else() {
        let before = config("  - { table: a.b, to: main, keys: [\"k:{id}\"], when_changed: [x, v] }\n");
        let covered = Coverage::new(&before, Some(&[])).all();
        assert_eq!(Coverage::new(&before, Some(&[])).new, [0]);
        assert_eq!(Coverage::new(&before, None).new, [] as [usize; 0]);
        assert_eq!(covered.len(), 1);
        for (mappings, new) in [
            (
                "  - { table: a.b, to: main, keys: [\"k:{id}\"], when_changed: [v, x], fill_grace: 5s }\n",
                vec![],
            ),
            ("  - { table: a.b, to: other, keys: [\"k:{id}\"], when_changed: [x, v] }\n", vec![0]),
            ("  - { table: a.b, to: main, keys: [\"k:{id}\"], when_changed: [x, v, z] }\n", vec![0]),
            ("  - { table: a.b, to: main, keys: [\"k:{id}\"] }\n", vec![0]),
            ("  - { table: a.c, to: main, keys: [\"k:{id}\"], when_changed: [x, v] }\n", vec![0]),
            ("  - { table: a.b, to: main, keys: [\"k:{id}\", \"l:{id}\"], when_changed: [x, v] }\n", vec![0]),
            (
                "  - { table: a.b, to: main, keys: [{ key: \"k:{id}\", events: [update] }], when_changed: [x, v] }\n",
                vec![0],
            ),
            (
                "  - { table: a.b, to: main, keys: [{ key: \"k:{id}\", op: hdel, field: f }], when_changed: [x, v] }\n",
                vec![0],
            ),
            (
                "  - { table: n.n, to: main, keys: [\"n\"] }\n  - { table: a.b, to: main, keys: [\"k:{id}\"], when_changed: [x, v] }\n",
                vec![0],
            ),
        ] {
            let found = Coverage::new(&config(mappings), Some(&covered));
            assert_eq!(found.new, new, "{mappings}");
            assert_eq!(found.new_digests.is_empty(), new.is_empty());
        }
    }
}
