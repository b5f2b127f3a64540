//! What a statement in the binlog does, as far as a follower of rows must know.
//!
//! Guarantees: what isn't understood is [`Statement::Unknown`], and a table that can't be read from the text makes a
//! statement's targets [`Targets::Unknown`]: the caller stops rather than skip. No SQL is parsed beyond that.
//! May depend on nothing of ours.

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
    Xa,
    /// Rows changed, but only the statement was logged.
    Dml,
    /// Changes definitions, no rows.
    Ddl,
    /// Takes away or swaps the rows of whole tables, without row events.
    Wipe(Targets),
    /// Only a comment.
    Comment,
    /// Something else.
    Unknown,
}

/// The tables of a [`Statement::Wipe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// These: (schema, table); the schema is `None` where the default one is meant.
    Tables(Vec<(Option<String>, String)>),
    /// A whole schema.
    Schema(String),
    /// Not readable from the text.
    Unknown,
}

/// Reads the statement of a Query event.
pub fn classify(sql: &[u8]) -> Statement {
    // Names in another character set than UTF-8 become unreadable, not wrong: see `name`.
    let text = String::from_utf8_lossy(sql);
    let tokens = tokenize(&text);
    let word = |i: usize| match tokens.get(i) {
        Some(Token::Word(w)) => w.to_ascii_uppercase(),
        _ => String::new(),
    };
    let first = word(0);
    match first.as_str() {
        "" if tokens.is_empty() => Statement::Comment,
        "BEGIN" => Statement::Begin,
        "START" if word(1) == "TRANSACTION" => Statement::Begin,
        "COMMIT" => Statement::Commit,
        "ROLLBACK" if (1..4).any(|i| word(i) == "TO") => Statement::Savepoint,
        "ROLLBACK" => Statement::Rollback,
        "SAVEPOINT" | "RELEASE" => Statement::Savepoint,
        "XA" => Statement::Xa,
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "DO" | "SELECT" | "TABLE"
        | "VALUES" => Statement::Dml,
        "TRUNCATE" => Statement::Wipe(one_name(&tokens, if word(1) == "TABLE" { 2 } else { 1 })),
        "DROP" => drop_statement(&tokens, &word),
        "RENAME" if matches!(word(1).as_str(), "TABLE" | "TABLES") => Statement::Wipe(renamed(&tokens)),
        "CREATE" if word(1) == "OR" && word(2) == "REPLACE" && word(3) == "TABLE" => {
            Statement::Wipe(one_name(&tokens, 4))
        }
        "ALTER" => alter_statement(&tokens, &word),
        "CREATE" | "RENAME" | "GRANT" | "REVOKE" | "SET" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK"
        | "FLUSH" | "INSTALL" | "UNINSTALL" | "PURGE" | "RESET" | "CACHE" => Statement::Ddl,
        _ => Statement::Unknown,
    }
}

fn drop_statement(tokens: &[Token<'_>], word: &dyn Fn(usize) -> String) -> Statement {
    let kind = word(1);
    match kind.as_str() {
        "TEMPORARY" => Statement::Ddl,
        "TABLE" | "TABLES" => {
            let mut i = 2;
            if word(i) == "IF" {
                i += 2;
            }
            let mut tables = Vec::new();
            loop {
                let Some((name, next)) = name(tokens, i) else { return Statement::Wipe(Targets::Unknown) };
                tables.push(name);
                match tokens.get(next) {
                    Some(Token::Symbol(',')) => i = next + 1,
                    _ => return Statement::Wipe(Targets::Tables(tables)),
                }
            }
        }
        "DATABASE" | "SCHEMA" => {
            let i = if word(2) == "IF" { 4 } else { 2 };
            match name(tokens, i) {
                Some(((None, schema), _)) => Statement::Wipe(Targets::Schema(schema)),
                _ => Statement::Wipe(Targets::Unknown),
            }
        }
        "TABLESPACE" => Statement::Wipe(Targets::Unknown),
        _ => Statement::Ddl,
    }
}

/// `RENAME TABLE a TO b, c TO d`: all four.
fn renamed(tokens: &[Token<'_>]) -> Targets {
    let mut tables = Vec::new();
    let mut i = 2;
    if matches!(tokens.get(i), Some(Token::Word(w)) if w.eq_ignore_ascii_case("IF")) {
        i += 2;
    }
    while i < tokens.len() {
        let Some((name, next)) = name(tokens, i) else { return Targets::Unknown };
        tables.push(name);
        match tokens.get(next) {
            Some(Token::Word(w)) if w.eq_ignore_ascii_case("TO") => i = next + 1,
            Some(Token::Symbol(',')) => i = next + 1,
            None => i = next,
            // WAIT and NOWAIT of MariaDB, or anything else: not worth guessing.
            _ => return Targets::Unknown,
        }
    }
    Targets::Tables(tables)
}

/// ALTER TABLE that renames the table, or moves rows in or out of it by partition or tablespace.
fn alter_statement(tokens: &[Token<'_>], word: &dyn Fn(usize) -> String) -> Statement {
    let mut i = 1;
    while matches!(word(i).as_str(), "ONLINE" | "OFFLINE" | "IGNORE") {
        i += 1;
    }
    if word(i) != "TABLE" {
        return Statement::Ddl;
    }
    i += 1;
    if word(i) == "IF" {
        i += 2;
    }
    let words: Vec<String> = (i..tokens.len()).map(word).collect();
    let pair = |a: &str, b: &str| words.windows(2).any(|w| w[0] == a && w[1] == b);
    // RENAME COLUMN and RENAME INDEX/KEY leave the table's name alone.
    let renames =
        words.windows(2).any(|w| w[0] == "RENAME" && !matches!(w[1].as_str(), "COLUMN" | "INDEX" | "KEY"))
            || words.last().is_some_and(|w| w == "RENAME");
    let moves = ["EXCHANGE", "TRUNCATE", "DROP", "CONVERT"].iter().any(|verb| pair(verb, "PARTITION"))
        || pair("CONVERT", "TABLE")
        || pair("IMPORT", "TABLESPACE")
        || pair("DISCARD", "TABLESPACE")
        || pair("IMPORT", "PARTITION")
        || pair("DISCARD", "PARTITION");
    if !renames && !moves {
        return Statement::Ddl;
    }
    // A second table is named further on: EXCHANGE … WITH TABLE x, RENAME TO x.
    let Some((table, _)) = name(tokens, i) else { return Statement::Wipe(Targets::Unknown) };
    let mut tables = vec![table];
    for (at, w) in words.iter().enumerate() {
        let second = match w.as_str() {
            "RENAME" => {
                let skip = usize::from(words.get(at + 1).is_some_and(|w| matches!(w.as_str(), "TO" | "AS")));
                (!words.get(at + 1).is_some_and(|w| matches!(w.as_str(), "COLUMN" | "INDEX" | "KEY")))
                    .then_some(i + at + 1 + skip)
            }
            "TABLE" => Some(i + at + 1),
            _ => None,
        };
        if let Some(second) = second {
            match name(tokens, second) {
                Some((name, _)) => tables.push(name),
                None => return Statement::Wipe(Targets::Unknown),
            }
        }
    }
    Statement::Wipe(Targets::Tables(tables))
}

fn one_name(tokens: &[Token<'_>], at: usize) -> Targets {
    let at = if matches!(tokens.get(at), Some(Token::Word(w)) if w.eq_ignore_ascii_case("IF")) {
        // IF [NOT] EXISTS
        let not = matches!(tokens.get(at + 1), Some(Token::Word(w)) if w.eq_ignore_ascii_case("NOT"));
        at + 2 + usize::from(not)
    } else {
        at
    };
    name(tokens, at).map_or(Targets::Unknown, |(name, _)| Targets::Tables(vec![name]))
}

/// `[schema.]table`, and the index behind it.
fn name(tokens: &[Token<'_>], at: usize) -> Option<((Option<String>, String), usize)> {
    let part = |i: usize| match tokens.get(i) {
        Some(Token::Word(w)) => Some((*w).to_owned()),
        Some(Token::Quoted(q)) => Some(q.clone()),
        _ => None,
    };
    let readable = |s: &str| !s.contains(char::REPLACEMENT_CHARACTER);
    let first = part(at).filter(|s| readable(s))?;
    if matches!(tokens.get(at + 1), Some(Token::Symbol('.'))) {
        let second = part(at + 2).filter(|s| readable(s))?;
        return Some(((Some(first), second), at + 3));
    }
    Some(((None, first), at + 1))
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A bare word: keyword or name.
    Word(&'a str),
    /// A name in backticks or double quotes (`ANSI_QUOTES`), or a string.
    Quoted(String),
    Symbol(char),
}

/// More tokens than this are not looked at; a DDL statement names its tables early.
const MAX_TOKENS: usize = 4096;

/// Words, quoted names and symbols; comments are left out but for the text of executable ones (`/*!40101 … */`).
fn tokenize(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while tokens.len() < MAX_TOKENS {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0' || c == ';');
        let Some(c) = rest.chars().next() else { break };
        if let Some(comment) = rest.strip_prefix("/*") {
            let executable = ["!", "M!"].iter().find_map(|p| comment.strip_prefix(p));
            rest = match executable {
                Some(inside) => inside.trim_start_matches(|c: char| c.is_ascii_digit()),
                None => comment.split_once("*/").map_or("", |(_, after)| after),
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if rest.starts_with('#') || rest.starts_with("-- ") || rest.starts_with("--\n") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if matches!(c, '`' | '"' | '\'') {
            let mut quoted = String::new();
            let mut chars = rest.char_indices().skip(1).peekable();
            let mut end = rest.len();
            while let Some((i, q)) = chars.next() {
                if q == c {
                    if chars.next_if(|&(_, next)| next == c).is_none() {
                        end = i + 1;
                        break;
                    }
                    quoted.push(c);
                } else if q == '\\' && c == '\'' {
                    chars.next();
                } else {
                    quoted.push(q);
                }
            }
            tokens.push(Token::Quoted(quoted));
            rest = rest.get(end..).unwrap_or("");
        } else if c.is_alphanumeric() || matches!(c, '_' | '$' | '@' | char::REPLACEMENT_CHARACTER) {
            let end = rest
                .find(|c: char| {
                    !(c.is_alphanumeric() || matches!(c, '_' | '$' | '@' | char::REPLACEMENT_CHARACTER))
                })
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word));
            rest = after;
        } else {
            tokens.push(Token::Symbol(c));
            rest = rest.get(c.len_utf8()..).unwrap_or("");
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wipe(tables: &[(Option<&str>, &str)]) -> Statement {
        Statement::Wipe(Targets::Tables(
            tables.iter().map(|(s, t)| (s.map(str::to_owned), (*t).to_owned())).collect(),
        ))
    }

    #[test]
    fn statements_by_effect() {
        use Statement as S;
        let unknown = || S::Wipe(Targets::Unknown);
        let cases: Vec<(&str, Statement)> = vec![
            ("BEGIN", S::Begin),
            ("COMMIT", S::Commit),
            ("ROLLBACK", S::Rollback),
            ("ROLLBACK TO `a`", S::Savepoint),
            ("ROLLBACK WORK TO SAVEPOINT a", S::Savepoint),
            ("SAVEPOINT `begin`", S::Savepoint),
            ("XA START X'31',X'',1", S::Xa),
            ("insert into t values (1)", S::Dml),
            ("/* hint */ UPDATE t SET a=1", S::Dml),
            ("# Dummy event replacing event type 160 that slave cannot handle.", S::Comment),
            ("CREATE TABLE t (a INT)", S::Ddl),
            ("CREATE TABLE t (a INT) START TRANSACTION", S::Ddl),
            ("ALTER TABLE t ADD COLUMN b INT", S::Ddl),
            ("ALTER TABLE t RENAME COLUMN a TO b", S::Ddl),
            ("ALTER TABLE t DROP COLUMN b", S::Ddl),
            ("GRANT ALL ON *.* TO x", S::Ddl),
            ("SET PASSWORD FOR x = '…'", S::Ddl),
            ("DROP TEMPORARY TABLE IF EXISTS t", S::Ddl),
            ("DROP VIEW v", S::Ddl),
            ("TRUNCATE t", wipe(&[(None, "t")])),
            ("truncate table `shop`.`pro``ducts`", wipe(&[(Some("shop"), "pro`ducts")])),
            (
                "DROP TABLE IF EXISTS `a`,`s`.`b` /* generated by server */",
                wipe(&[(None, "a"), (Some("s"), "b")]),
            ),
            ("DROP TABLE a", wipe(&[(None, "a")])),
            ("DROP DATABASE IF EXISTS shop", S::Wipe(Targets::Schema("shop".into()))),
            ("DROP DATABASE shop", S::Wipe(Targets::Schema("shop".into()))),
            (
                "RENAME TABLE a TO b, s.c TO d",
                wipe(&[(None, "a"), (None, "b"), (Some("s"), "c"), (None, "d")]),
            ),
            ("RENAME USER a TO b", S::Ddl),
            ("ALTER TABLE a RENAME TO s.b", wipe(&[(None, "a"), (Some("s"), "b")])),
            ("ALTER TABLE a RENAME b", wipe(&[(None, "a"), (None, "b")])),
            ("ALTER TABLE a TRUNCATE PARTITION p1", wipe(&[(None, "a")])),
            ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b", wipe(&[(None, "a"), (None, "b")])),
            ("CREATE OR REPLACE TABLE `t` (a INT)", wipe(&[(None, "t")])),
            ("DROP TABLE `\u{fffd}`", unknown()),
            ("RENAME TABLE a WAIT 3 TO b", unknown()),
            ("/*!40000 DROP TABLE a */", wipe(&[(None, "a")])),
            ("HANDLER t OPEN", S::Unknown),
        ];
        for (sql, expected) in cases {
            assert_eq!(classify(sql.as_bytes()), expected, "{sql}");
        }
    }

    #[test]
    fn any_bytes_give_an_answer() {
        for sql in [
            &b"\xff\xfe"[..],
            b"`",
            b"'\\",
            b"/*",
            b"/*!",
            b"DROP TABLE",
            b"ALTER TABLE",
            b"RENAME TABLE a TO",
            b"",
        ] {
            let _ = classify(sql);
        }
    }
}
