//! What a statement in the binlog does, as far as a follower of rows must know.
//!
//! Guarantees: what isn't understood is [`Statement::Unknown`]; tables that can't be read from the text are
//! [`Targets::Unknown`], which stands for any. No SQL is parsed beyond that. May depend on `rowbust-binlog`'s character sets only.

mod ddl;
mod tokens;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use rowbust_binlog::{Query, charset::Charset};

use tokens::{Token, tokenize};

/// A statement by its effect on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Opens a transaction.
    Begin,
    /// Ends a transaction.
    Commit,
    /// Ends a transaction (of an engine without transactions, else nothing would have been logged).
    Rollback,
    /// Within a transaction, changes nothing by itself: SAVEPOINT, ROLLBACK TO, RELEASE.
    Savepoint,
    /// XA of any kind.
    Xa(XaVerb),
    /// Rows changed, but only the statement was logged.
    Dml,
    /// Changes definitions; of some kinds rows go without row events.
    Ddl(Ddl),
    /// Only a comment.
    Comment,
    /// Something else.
    Unknown,
}

/// The second word of an XA statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XaVerb {
    /// `XA START`, `XA BEGIN`: rows follow.
    Start,
    /// `XA END`: no more rows.
    End,
    /// `XA COMMIT` of what was prepared.
    Commit,
    /// `XA ROLLBACK` of what was prepared.
    Rollback,
    /// Anything else.
    Other,
}

/// A table as a statement names it; the schema is `None` where the default one is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// Its schema.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
}

/// A statement that changes definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddl {
    /// The tables that it is about, under each name that they had or get.
    pub tables: Targets,
    /// Their columns may be others afterwards.
    pub defines: bool,
    /// Their rows go, or others come, without row events.
    pub wipes: Option<Wipe>,
    /// New names, in order.
    pub renames: Vec<(Name, Name)>,
}

impl Ddl {
    /// Changes no table.
    fn nothing() -> Self {
        Self { tables: Targets::Tables(Vec::new()), defines: false, wipes: None, renames: Vec::new() }
    }

    /// Changes what a table's columns are.
    fn define(tables: Targets) -> Self {
        Self { tables, defines: true, ..Self::nothing() }
    }

    fn wipe(tables: Targets, wipes: Wipe) -> Self {
        Self { tables, defines: wipes == Wipe::Drop, wipes: Some(wipes), renames: Vec::new() }
    }
}

/// How rows go without row events: by the policies of `on_ddl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wipe {
    /// The table stays: TRUNCATE, partitions and tablespaces that come or go, duplicates that ALTER IGNORE deletes.
    Truncate,
    /// The table or a partition goes.
    Drop,
}

/// The tables of a [`Ddl`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// These.
    Tables(Vec<Name>),
    /// A whole schema.
    Schema(String),
    /// Not readable from the text.
    Unknown,
}

impl Targets {
    fn one(name: Option<Name>) -> Self {
        name.map_or(Self::Unknown, |name| Self::Tables(vec![name]))
    }
}

/// Reads the statement of a Query event.
pub fn classify(query: &Query<'_>) -> Statement {
    read(query.sql, query.sql_mode, query.client_collation)
}

/// `sql_mode` and `collation` of the client, as far as the event tells them.
fn read(sql: &[u8], sql_mode: Option<u64>, collation: Option<u16>) -> Statement {
    let text = text(sql, collation);
    let tokens = tokenize(&text, sql_mode);
    classify_tokens(&tokens.list, tokens.cut)
}

/// The statement as UTF-8. What its character set doesn't have becomes unreadable, not wrong: see [`tokens::name`].
fn text(sql: &[u8], collation: Option<u16>) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(sql) {
        return Cow::Borrowed(text);
    }
    let decoded = collation
        .and_then(Charset::from_collation)
        .and_then(|charset| charset.decode(sql).ok())
        .and_then(|text| String::from_utf8(text.into_owned()).ok());
    decoded.map_or_else(|| String::from_utf8_lossy(sql), Cow::Owned)
}

/// `cut`: these are not all, what follows can't be read.
fn classify_tokens(tokens: &[Token<'_>], cut: bool) -> Statement {
    let word = |i: usize| match tokens.get(i) {
        Some(Token::Word(w)) => w.to_ascii_uppercase(),
        _ => String::new(),
    };
    match word(0).as_str() {
        "" if tokens.is_empty() && !cut => Statement::Comment,
        // A query in brackets may call a function.
        "" if tokens.first() == Some(&Token::Symbol('(')) => Statement::Dml,
        "BEGIN" => Statement::Begin,
        "START" if word(1) == "TRANSACTION" => Statement::Begin,
        "COMMIT" => Statement::Commit,
        "ROLLBACK" if (1..4).any(|i| word(i) == "TO") => Statement::Savepoint,
        "ROLLBACK" => Statement::Rollback,
        "SAVEPOINT" | "RELEASE" => Statement::Savepoint,
        "XA" => Statement::Xa(match word(1).as_str() {
            "START" | "BEGIN" => XaVerb::Start,
            "END" => XaVerb::End,
            "COMMIT" => XaVerb::Commit,
            "ROLLBACK" => XaVerb::Rollback,
            _ => XaVerb::Other,
        }),
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "DO" | "SELECT" | "TABLE"
        | "VALUES" | "MERGE" | "IMPORT" | "EXECUTE" => Statement::Dml,
        // MariaDB: the statement behind FOR, run with other settings.
        "SET" if word(1) == "STATEMENT" => {
            match tokens.iter().position(|t| matches!(t, Token::Word(w) if w.eq_ignore_ascii_case("FOR"))) {
                Some(at) if at + 1 < tokens.len() => {
                    classify_tokens(tokens.get(at + 1..).unwrap_or_default(), cut)
                }
                _ => Statement::Unknown,
            }
        }
        // MariaDB: runs the statement and shows its plan.
        "ANALYZE" if !matches!(word(1).as_str(), "TABLE" | "TABLES" | "LOCAL" | "NO_WRITE_TO_BINLOG") => {
            Statement::Dml
        }
        "TRUNCATE" => {
            let table = tokens::name_of_one(tokens, if word(1) == "TABLE" { 2 } else { 1 });
            Statement::Ddl(Ddl::wipe(Targets::one(table), Wipe::Truncate))
        }
        "DROP" => Statement::Ddl(ddl::drop(tokens, &word, cut)),
        "RENAME" if matches!(word(1).as_str(), "TABLE" | "TABLES") => {
            Statement::Ddl(ddl::rename(tokens, cut))
        }
        "ALTER" => Statement::Ddl(ddl::alter(tokens, &word, cut)),
        "CREATE" => ddl::create(tokens, &word, cut),
        "RENAME" | "GRANT" | "REVOKE" | "SET" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "FLUSH"
        | "INSTALL" | "UNINSTALL" | "PURGE" | "RESET" | "CACHE" => Statement::Ddl(Ddl::nothing()),
        _ => Statement::Unknown,
    }
}

/// A name that holds another table after a statement, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The name.
    pub name: Name,
    /// Where its table went; `None`: there was none.
    went: Option<Name>,
    /// Where the table came from that it names now; `None`: it names none.
    came: Option<Name>,
}

impl Moved {
    /// The swap of gh-ost (`t` to `_t_del`, `_t_gho` to `t`) or pt-online-schema-change (`_t_old`, `_t_new`): the new table
    /// has the old one's rows. A swap under other names may bring in other rows.
    pub fn is_online_schema_change(&self) -> bool {
        let role = |name: &Option<Name>, suffixes: [&str; 2]| {
            let companion = name.as_ref().and_then(|name| companion_of(&name.table));
            companion.is_some_and(|(base, suffix)| {
                // gh-ost may put the time behind the old table's name.
                let rest = base.strip_prefix(self.name.table.as_str());
                suffixes.contains(&suffix)
                    && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            })
        };
        role(&self.came, ["_gho", "_new"]) && role(&self.went, ["_del", "_old"])
    }
}

/// The table that an online schema change's helper belongs to, by its name (`_t_gho` gives `t`), and what kind it is.
pub fn companion_of(table: &str) -> Option<(&str, &str)> {
    let name = table.strip_prefix('_')?.trim_start_matches('_');
    ["_gho", "_ghc", "_del", "_new", "_old"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix).map(|base| (base, suffix)))
        .filter(|(base, _)| !base.is_empty())
}

impl Ddl {
    /// With the default schema filled in. Where it isn't readable, a name without a schema may mean any table.
    #[must_use]
    pub fn in_schema(mut self, default: &[u8]) -> Self {
        let default = std::str::from_utf8(default).ok().filter(|schema| !schema.is_empty());
        let complete = |name: &mut Name| {
            if name.schema.is_none() {
                name.schema = default.map(str::to_owned);
            }
            name.schema.is_some()
        };
        let readable = match &mut self.tables {
            Targets::Tables(tables) => tables.iter_mut().all(complete),
            Targets::Schema(_) | Targets::Unknown => true,
        };
        if !readable {
            return Self { tables: Targets::Unknown, renames: Vec::new(), ..self };
        }
        for (from, to) in &mut self.renames {
            complete(from);
            complete(to);
        }
        self
    }

    /// The names that hold another table afterwards, or none any more.
    pub fn moved(&self) -> Vec<Moved> {
        // By name: the table that it held before, and the one that it holds now, each by its name before.
        let mut now: Vec<(&Name, Option<&Name>, Option<&Name>)> = Vec::new();
        for (from, to) in &self.renames {
            let mut at = |name, own| {
                now.iter().position(|known| known.0 == name).unwrap_or_else(|| {
                    now.push((name, own, own));
                    now.len() - 1
                })
            };
            let (from, to) = (at(from, Some(from)), at(to, None));
            let table = now[from].2.take();
            now[to].2 = table;
        }
        let went = |name: &Name| now.iter().find(|known| known.2 == Some(name)).map(|known| known.0.clone());
        now.iter()
            .filter(|(_, before, after)| before != after)
            .map(|(name, _, came)| Moved { name: (*name).clone(), went: went(name), came: came.cloned() })
            .collect()
    }
}
