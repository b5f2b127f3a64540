//! The tables of CREATE, ALTER, DROP and RENAME. May depend on `tokens`.

use super::{
    Ddl, Statement, Targets, Wipe,
    tokens::{Token, behind_if, name, name_of_one},
};

type Word<'a> = &'a dyn Fn(usize) -> String;

/// CREATE. A table that is filled by a query is DML: in row format the server logs a definition without the query, and the
/// rows as row events.
pub(super) fn create(tokens: &[Token<'_>], word: Word<'_>, cut: bool) -> Statement {
    let replaces = word(1) == "OR" && word(2) == "REPLACE";
    let kind = if replaces { 3 } else { 1 };
    if word(kind) != "TABLE" {
        return Statement::Ddl(Ddl::nothing());
    }
    let targets = Targets::one(name_of_one(tokens, kind + 1));
    // Behind a dot a reserved word is a name; VALUES LESS THAN and VALUES IN describe a partition.
    let query = (behind_if(tokens, kind + 1) + 1..tokens.len()).any(|i| {
        !matches!(tokens.get(i - 1), Some(Token::Symbol('.')))
            && match word(i).as_str() {
                "SELECT" | "TABLE" => true,
                "VALUES" => !matches!(word(i + 1).as_str(), "LESS" | "IN"),
                _ => false,
            }
    });
    match (query, replaces || cut) {
        (true, _) => Statement::Dml,
        // What can't be read may be a query: it fills this table, and no other.
        (false, true) => Statement::Ddl(Ddl::wipe(targets, Wipe::Drop)),
        (false, false) => Statement::Ddl(Ddl::define(targets)),
    }
}

pub(super) fn drop(tokens: &[Token<'_>], word: Word<'_>, cut: bool) -> Ddl {
    match word(1).as_str() {
        "TABLE" | "TABLES" if cut => Ddl::wipe(Targets::Unknown, Wipe::Drop),
        "TABLE" | "TABLES" => {
            let mut i = behind_if(tokens, 2);
            let mut tables = Vec::new();
            loop {
                let Some((name, next)) = name(tokens, i) else {
                    return Ddl::wipe(Targets::Unknown, Wipe::Drop);
                };
                tables.push(name);
                match tokens.get(next) {
                    Some(Token::Symbol(',')) => i = next + 1,
                    _ => return Ddl::wipe(Targets::Tables(tables), Wipe::Drop),
                }
            }
        }
        "DATABASE" | "SCHEMA" => match name_of_one(tokens, 2) {
            Some(name) if name.schema.is_none() => Ddl::wipe(Targets::Schema(name.table), Wipe::Drop),
            _ => Ddl::wipe(Targets::Unknown, Wipe::Drop),
        },
        _ => Ddl::nothing(),
    }
}

/// `RENAME TABLE a TO b, c TO d`
pub(super) fn rename(tokens: &[Token<'_>], cut: bool) -> Ddl {
    renames(tokens).filter(|_| !cut).map_or_else(
        || Ddl::define(Targets::Unknown),
        |renames| {
            let tables = renames.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
            Ddl { tables: Targets::Tables(tables), defines: true, wipes: None, renames }
        },
    )
}

fn renames(tokens: &[Token<'_>]) -> Option<Vec<(super::Name, super::Name)>> {
    let mut renames = Vec::new();
    let mut i = behind_if(tokens, 2);
    loop {
        let (from, mut next) = name(tokens, i)?;
        // MariaDB: how long to wait for the lock.
        if tokens.get(next)?.is("WAIT") {
            next += 2;
        } else if tokens.get(next)?.is("NOWAIT") {
            next += 1;
        }
        if !tokens.get(next)?.is("TO") {
            return None;
        }
        let (to, next) = name(tokens, next + 1)?;
        renames.push((from, to));
        match tokens.get(next) {
            Some(Token::Symbol(',')) => i = next + 1,
            None => return Some(renames),
            Some(_) => return None,
        }
    }
}

/// ALTER TABLE, which may rename the table, or move rows in or out of it by partition or tablespace.
pub(super) fn alter(tokens: &[Token<'_>], word: Word<'_>, cut: bool) -> Ddl {
    let mut i = 1;
    // MariaDB: rows that a new unique key forbids are deleted, without row events.
    let mut deletes = false;
    while matches!(word(i).as_str(), "ONLINE" | "OFFLINE" | "IGNORE") {
        deletes |= word(i) == "IGNORE";
        i += 1;
    }
    if word(i) != "TABLE" {
        return Ddl::nothing();
    }
    let Some((table, behind)) = name(tokens, behind_if(tokens, i + 1)) else {
        return Ddl::wipe(Targets::Unknown, Wipe::Truncate);
    };
    let words: Vec<String> = (behind..tokens.len()).map(word).collect();
    let pair = |a: &str, b: &str| words.windows(2).any(|w| w[0] == a && w[1] == b);
    let truncates =
        ["EXCHANGE", "TRUNCATE", "CONVERT", "IMPORT", "DISCARD"].iter().any(|verb| pair(verb, "PARTITION"))
            || pair("CONVERT", "TABLE")
            || pair("IMPORT", "TABLESPACE")
            || pair("DISCARD", "TABLESPACE");
    let wipes = match (pair("DROP", "PARTITION"), truncates || deletes || cut) {
        (true, _) => Some(Wipe::Drop),
        (false, true) => Some(Wipe::Truncate),
        (false, false) => None,
    };
    // A second table is named further on: EXCHANGE … WITH TABLE x, CONVERT TABLE x, RENAME TO x.
    let mut tables = vec![table.clone()];
    let mut renames = Vec::new();
    for (at, w) in words.iter().enumerate() {
        let next = words.get(at + 1).map_or("", String::as_str);
        let second = match w.as_str() {
            // RENAME COLUMN and RENAME INDEX/KEY leave the table's name alone.
            "RENAME" if !matches!(next, "COLUMN" | "INDEX" | "KEY") => {
                at + 1 + usize::from(matches!(next, "TO" | "AS"))
            }
            "TABLE" if wipes.is_some() => at + 1,
            _ => continue,
        };
        match name(tokens, behind + second) {
            Some((name, _)) => {
                if w == "RENAME" {
                    renames.push((table.clone(), name.clone()));
                }
                tables.push(name);
            }
            None => return Ddl { tables: Targets::Unknown, defines: true, wipes, renames: Vec::new() },
        }
    }
    let defines = cut || !renames.is_empty() || changes_columns(&words);
    Ddl { tables: Targets::Tables(tables), defines, wipes, renames }
}

/// Whether an ALTER TABLE may change a column's name, type or place; `words`: behind the table's name. Indexes, constraints,
/// partitions and the table's options don't.
fn changes_columns(words: &[String]) -> bool {
    const NO_COLUMN: [&str; 14] = [
        "INDEX",
        "KEY",
        "KEYS",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "VECTOR",
        "PRIMARY",
        "FOREIGN",
        "CONSTRAINT",
        "CHECK",
        "PARTITION",
        "PERIOD",
        "SYSTEM",
    ];
    words.iter().enumerate().any(|(at, word)| {
        let next = words.get(at + 1).map_or("", String::as_str);
        match word.as_str() {
            "CHANGE" | "MODIFY" | "CHARSET" => true,
            "CHARACTER" => next == "SET",
            "RENAME" => next == "COLUMN",
            "ADD" | "DROP" => !NO_COLUMN.contains(&next),
            _ => false,
        }
    })
}
