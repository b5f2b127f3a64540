//! What to do where the binlog doesn't tell which keys a change makes wrong: the config's `on_…`, by table.
//!
//! Guarantees: of several mappings of a table the one that does the most decides. May depend on `config` and `statement`.

use super::{Scope, statement::companion_of};
use crate::config::{Config, DdlPolicy, Mapping, OnDdl, Policies, Policy};

/// Why keys are removed that no row image names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// A change that was logged as a statement.
    Statement,
    /// An event that can't be decoded.
    Undecodable,
    /// The server lost events.
    Incident,
    /// A row whose key no image tells.
    Row,
    /// XA COMMIT whose PREPARE wasn't read, or whose keys were too many to be kept.
    Xa,
    /// The columns of a table aren't known, or a mapped one is gone.
    Schema,
    /// TRUNCATE and its like.
    Truncate,
    /// DROP and its like.
    Drop,
    /// RENAME.
    Rename,
    /// The binlog behind the checkpoint is gone.
    Gap,
    /// Redis has forgotten removals.
    Rollback,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 11] = [
        Self::Statement,
        Self::Undecodable,
        Self::Incident,
        Self::Row,
        Self::Xa,
        Self::Schema,
        Self::Truncate,
        Self::Drop,
        Self::Rename,
        Self::Gap,
        Self::Rollback,
    ];

    /// For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Undecodable => "undecodable",
            Self::Incident => "incident",
            Self::Row => "row",
            Self::Xa => "xa",
            Self::Schema => "schema",
            Self::Truncate => "truncate",
            Self::Drop => "drop",
            Self::Rename => "rename",
            Self::Gap => "gap",
            Self::Rollback => "rollback",
        }
    }
}

/// The config's policies, asked by table.
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    source: Policies,
    mappings: Vec<Mapping>,
}

impl PolicyTable {
    /// Of this config.
    pub fn new(config: &Config) -> Self {
        Self { source: config.source.policies, mappings: config.mappings.clone() }
    }

    /// Those of the source.
    pub fn source(&self) -> Policies {
        self.source
    }

    /// What `on_ddl` says for the mappings of a scope; `which` takes one of its fields. A helper table of an online schema
    /// change that only a glob names counts for nothing: its rows are the real table's.
    pub fn ddl(&self, scope: &Scope, which: impl Fn(&OnDdl) -> DdlPolicy) -> DdlPolicy {
        if let Scope::Table { schema, table } = scope
            && self.is_helper(schema, table)
        {
            return DdlPolicy::Keep;
        }
        let default = which(&OnDdl::default());
        self.mappings(scope).map(|mapping| which(&mapping.on_ddl)).max().unwrap_or(default)
    }

    /// What `on_schema` says for a table.
    pub fn schema(&self, schema: &str, table: &str) -> Policy {
        let scope = Scope::Table { schema: schema.to_owned(), table: table.to_owned() };
        let mut mappings = self.mappings(&scope);
        let halts = mappings.next().is_none_or(|first| first.on_schema == Policy::Halt)
            || mappings.any(|mapping| mapping.on_schema == Policy::Halt);
        if halts { Policy::Halt } else { Policy::Flush }
    }

    fn is_helper(&self, schema: &str, table: &str) -> bool {
        let Some((base, _)) = companion_of(table) else { return false };
        let exact = format!("{schema}.{table}");
        let mappings = || self.mappings.iter().filter(|m| m.schema_glob.is_match(schema));
        mappings().all(|m| m.table != exact) && mappings().any(|m| m.table_glob.is_match(base))
    }

    fn mappings(&self, scope: &Scope) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| match scope {
            Scope::All => true,
            Scope::Schema(schema) => mapping.schema_glob.is_match(schema),
            Scope::Table { schema, table } => {
                mapping.schema_glob.is_match(schema) && mapping.table_glob.is_match(table)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;

    fn policies(mappings: &str) -> PolicyTable {
        let text = format!(
            "source: {{ url: \"mysql://r@db\" }}\nredis: {{ main: \"redis://c\" }}\nmappings: [{mappings}]\n"
        );
        PolicyTable::new(&config::parse(&text, "t.yaml".as_ref(), &|_| None).unwrap())
    }

    fn table(name: &str) -> Scope {
        Scope::Table { schema: "shop".into(), table: name.into() }
    }

    #[test]
    fn the_mapping_that_does_the_most_decides() {
        let policies = policies(
            "{ table: shop.p, keys: [a], on_ddl: { truncate: keep }, on_schema: flush }, \
             { table: \"shop.*\", keys: [b], on_ddl: { truncate: halt, rename: flush }, on_schema: flush }, \
             { table: shop.o, keys: [c], on_schema: halt }",
        );
        assert_eq!(policies.ddl(&table("p"), |on| on.truncate), DdlPolicy::Halt);
        assert_eq!(policies.ddl(&table("q"), |on| on.rename), DdlPolicy::Flush);
        assert_eq!(policies.ddl(&table("q"), |on| on.drop), DdlPolicy::Flush);
        assert_eq!(policies.ddl(&Scope::All, |on| on.truncate), DdlPolicy::Halt);
        assert_eq!(policies.ddl(&Scope::Schema("other".into()), |on| on.rename), DdlPolicy::Keep);
        assert_eq!(policies.schema("shop", "p"), Policy::Flush);
        assert_eq!(policies.schema("shop", "o"), Policy::Halt);
        assert_eq!(policies.schema("other", "x"), Policy::Halt);
    }

    #[test]
    fn helpers_of_an_online_schema_change_count_only_by_name() {
        let policies = policies("{ table: \"shop.*\", keys: [a] }, { table: shop._named_old, keys: [b] }");
        assert_eq!(policies.ddl(&table("_p_del"), |on| on.drop), DdlPolicy::Keep);
        assert_eq!(policies.ddl(&table("p_del"), |on| on.drop), DdlPolicy::Flush);
        assert_eq!(policies.ddl(&table("_named_old"), |on| on.drop), DdlPolicy::Flush);
    }
}
