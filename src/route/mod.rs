//! Row images to cache keys, by the mappings of the config.
//!
//! Guarantees: every mapping whose pattern matches a table is applied; a key is made from the row before and from
//! the row after a change; what can't be known of a row (a column that `binlog_row_image` left out) is treated as
//! the wider case, or is a [`RouteErrorKind::Undecodable`] that stops the daemon or widens; nothing is left out in silence ([`Counts`]). No
//! allocation per row once the buffers have grown. May depend on `config`, `source`'s seam, `rowbust-binlog`
//! and `rowbust-protocol`.
//!
//! The way of a row: [`Router::plan`] compiles, once per version of a table, the mappings that match it into a
//! [`Plan`]; its [`Plan::columns`] are the only ones that are decoded; [`Plan::route`] gives each row's keys to a
//! [`Sink`]. [`explain()`] takes the same way with rows written as JSON.
//!
//! Names of schemas and tables are compared as the binlog writes them, letter case included (the server has folded
//! them already if `lower_case_table_names` says so); names of columns without letter case, as the server does.

mod compile;
mod error;
mod explain;
mod plan;
mod plans;
mod values;

#[cfg(test)]
mod json_tests;
#[cfg(test)]
mod rows_tests;
#[cfg(test)]
mod tests;

use rowbust_binlog::TableMap;

use crate::{
    config::{Config, KeyOp, Mapping},
    source::Scope,
};

pub(crate) use compile::column_uses;
pub use error::{RouteError, RouteErrorKind, Undecodable};
pub use explain::{ExplainError, Explained, ExplainedKey, ExplainedRule, explain};
pub use plan::{Counts, Plan, RoutedKey, Scratch, Sink, SkipReason, Skipped};
pub use plans::{Plans, unreadable_rows};
pub use values::RowImage;

/// What a routed key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// This key, or a field of it.
    Exact,
    /// Every key that begins so.
    Prefix,
    /// The members of this set, which are keys.
    MembersOf,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Prefix, Self::MembersOf];
}

impl From<&KeyOp> for Kind {
    fn from(op: &KeyOp) -> Self {
        match op {
            KeyOp::Unlink | KeyOp::Hdel { .. } => Self::Exact,
            KeyOp::Prefix { .. } => Self::Prefix,
            KeyOp::MembersOf { .. } => Self::MembersOf,
        }
    }
}

/// All mappings, ready to be matched with tables. Lives as long as the config.
#[derive(Debug, Clone)]
pub struct Router {
    mappings: Vec<Mapping>,
}

impl Router {
    /// Takes the mappings of a config.
    pub fn new(config: &Config) -> Self {
        Self { mappings: config.mappings.clone() }
    }

    /// The mappings, as indices into [`Config::mappings`], that what was changed may touch.
    pub fn touched(&self, scope: &Scope) -> Vec<usize> {
        let touches = |m: &Mapping| match scope {
            Scope::All => true,
            Scope::Schema(schema) => m.schema_glob.is_match(schema),
            Scope::Table { schema, table } => matches(m, schema, table),
        };
        self.mappings.iter().enumerate().filter(|(_, m)| touches(m)).map(|(at, _)| at).collect()
    }

    /// A mapping of the config.
    pub fn mapping(&self, at: usize) -> Option<&Mapping> {
        self.mappings.get(at)
    }

    /// Whether any mapping names this table.
    pub fn is_mapped(&self, schema: &str, table: &str) -> bool {
        self.mappings.iter().any(|m| matches(m, schema, table))
    }

    /// Whether a mapping may name a table of this schema.
    pub fn is_schema_mapped(&self, schema: &str) -> bool {
        self.mappings.iter().any(|m| m.schema_glob.is_match(schema))
    }

    /// Compiles the mappings of a table; `None` if there are none. Meant to be kept for as long as the table map
    /// is.
    ///
    /// # Errors
    /// [`RouteErrorKind::NeedsSchema`]: call [`TableMap::complete`] and try again. Anything else is a mistake of
    /// the config or something that isn't supported, and must stop the daemon.
    pub fn plan(&self, map: &TableMap) -> Result<Option<Plan>, RouteError> {
        let matching: Vec<_> =
            self.mappings.iter().enumerate().filter(|(_, m)| matches(m, &map.schema, &map.table)).collect();
        if matching.is_empty() { Ok(None) } else { Plan::new(&matching, map).map(Some) }
    }
}

fn matches(mapping: &Mapping, schema: &str, table: &str) -> bool {
    mapping.schema_glob.is_match(schema) && mapping.table_glob.is_match(table)
}
