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

impl Targets {
    /// Whether one of them may be a table that a mapping names; `default_schema` is the Query event's. What can't be read
    /// may be. With `lower_case_table_names` other than 0 the server means the lower-case name but logs what was typed,
    /// so that one is asked for too.
    pub fn touch(
        &self,
        default_schema: &[u8],
        is_mapped: impl Fn(&str, &str) -> bool,
        is_schema_mapped: impl Fn(&str) -> bool,
    ) -> bool {
        let table_mapped = |schema: &str, table: &str| {
            is_mapped(schema, table) || is_mapped(&schema.to_lowercase(), &table.to_lowercase())
        };
        match self {
            Self::Unknown => true,
            Self::Schema(schema) => is_schema_mapped(schema) || is_schema_mapped(&schema.to_lowercase()),
            Self::Tables(tables) => tables.iter().any(|(schema, table)| match schema {
                Some(schema) => table_mapped(schema, table),
                None => match std::str::from_utf8(default_schema) {
                    Ok(schema) if !schema.is_empty() => table_mapped(schema, table),
                    _ => true,
                },
            }),
        }
    }
}

/// Reads the statement of a Query event.
pub fn classify(sql: &[u8]) -> Statement {
    // Names in another character set than UTF-8 become unreadable, not wrong: see `name`.
    let text = String::from_utf8_lossy(sql);
    let Tokens { list, end } = tokenize(&text);
    match end {
        End::Unterminated => Statement::Unknown,
        End::Reached => classify_tokens(&list, false),
        End::TooLong => classify_tokens(&list, true),
    }
}

/// `cut`: there were more tokens than these.
fn classify_tokens(tokens: &[Token<'_>], cut: bool) -> Statement {
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
        "TRUNCATE" => Statement::Wipe(one_name(tokens, if word(1) == "TABLE" { 2 } else { 1 })),
        "DROP" | "RENAME" | "ALTER" if cut => Statement::Wipe(Targets::Unknown),
        "DROP" => drop_statement(tokens, &word),
        "RENAME" if matches!(word(1).as_str(), "TABLE" | "TABLES") => Statement::Wipe(renamed(tokens)),
        "ALTER" => alter_statement(tokens, &word),
        "CREATE" => create_statement(tokens, &word, cut),
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
        "RENAME" | "GRANT" | "REVOKE" | "SET" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "FLUSH"
        | "INSTALL" | "UNINSTALL" | "PURGE" | "RESET" | "CACHE" => Statement::Ddl,
        _ => Statement::Unknown,
    }
}

/// CREATE TABLE that replaces a table, or is filled by a query. In row format the server logs a definition without the
/// query, and the rows as row events.
fn create_statement(tokens: &[Token<'_>], word: &dyn Fn(usize) -> String, cut: bool) -> Statement {
    let replaces = word(1) == "OR" && word(2) == "REPLACE";
    let table = if replaces { 3 } else { 1 };
    if word(table) != "TABLE" {
        return Statement::Ddl;
    }
    if cut {
        return Statement::Unknown;
    }
    let targets = one_name(tokens, table + 1);
    // Behind a dot a reserved word is a name; VALUES LESS THAN and VALUES IN describe a partition.
    let query = (name_behind_if(tokens, table + 1) + 1..tokens.len()).any(|i| {
        !matches!(tokens.get(i - 1), Some(Token::Symbol('.')))
            && match word(i).as_str() {
                "SELECT" | "TABLE" => true,
                "VALUES" => !matches!(word(i + 1).as_str(), "LESS" | "IN"),
                _ => false,
            }
    });
    match (query, replaces) {
        (true, _) => Statement::Dml,
        (false, true) => Statement::Wipe(targets),
        (false, false) => Statement::Ddl,
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
    // MariaDB: rows that a new unique key forbids are deleted, without row events.
    let mut deletes = false;
    while matches!(word(i).as_str(), "ONLINE" | "OFFLINE" | "IGNORE") {
        deletes |= word(i) == "IGNORE";
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
    if !renames && !moves && !deletes {
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
    name(tokens, name_behind_if(tokens, at)).map_or(Targets::Unknown, |(name, _)| Targets::Tables(vec![name]))
}

/// Behind IF [NOT] EXISTS, if it stands there.
fn name_behind_if(tokens: &[Token<'_>], at: usize) -> usize {
    let is =
        |i: usize, word: &str| matches!(tokens.get(i), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
    if is(at, "IF") { at + 2 + usize::from(is(at + 1, "NOT")) } else { at }
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

/// More tokens than this are not looked at. DROP TABLE of some ten thousand tables fits.
const MAX_TOKENS: usize = 1 << 16;

/// What a statement is made of.
struct Tokens<'a> {
    list: Vec<Token<'a>>,
    end: End,
}

/// Why the tokens end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the text.
    Reached,
    /// At [`MAX_TOKENS`].
    TooLong,
    /// Within a quote or comment: what was taken for its inside may have been the statement.
    Unterminated,
}

/// Words, quoted names and symbols; comments are left out but for the text of executable ones (`/*!40101 … */`).
fn tokenize(text: &str) -> Tokens<'_> {
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0' || c == ';');
        let Some(c) = rest.chars().next() else { return Tokens { list, end: End::Reached } };
        if list.len() == MAX_TOKENS {
            return Tokens { list, end: End::TooLong };
        }
        if let Some(comment) = rest.strip_prefix("/*") {
            let executable = ["!", "M!"].iter().find_map(|p| comment.strip_prefix(p));
            rest = match (executable, comment.split_once("*/")) {
                (Some(inside), _) => inside.trim_start_matches(|c: char| c.is_ascii_digit()),
                (None, Some((_, after))) => after,
                (None, None) => return Tokens { list, end: End::Unterminated },
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if rest.starts_with('#') || is_dash_comment(rest) {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if matches!(c, '`' | '"' | '\'') {
            let Some((quoted, after)) = quoted(rest, c) else {
                return Tokens { list, end: End::Unterminated };
            };
            list.push(Token::Quoted(quoted));
            rest = after;
        } else if is_word(c) {
            let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
            list.push(Token::Word(word));
            rest = after;
        } else {
            list.push(Token::Symbol(c));
            rest = rest.get(c.len_utf8()..).unwrap_or("");
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '@' | char::REPLACEMENT_CHARACTER)
}

/// Two dashes are a comment only with a blank or control character behind them.
fn is_dash_comment(text: &str) -> bool {
    text.strip_prefix("--")
        .is_some_and(|after| after.chars().next().is_none_or(|c| c.is_whitespace() || c.is_control()))
}

/// The inside of the quote that `text` begins with, and what is behind it; `None`: it doesn't end.
///
/// Whether a backslash escapes depends on `sql_mode`, and whether `"` holds a name. It is taken for an escape in `"` and
/// `'`: a name or string that ends in a real one seems not to end then, and the caller stops.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|&(_, next)| next == quote).is_none() {
                return Some((inside, text.get(i + 1..).unwrap_or("")));
            }
            inside.push(quote);
        } else if c == '\\' && quote != '`' {
            chars.next();
        } else {
            inside.push(c);
        }
    }
    None
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
            // MariaDB: with other settings.
            (
                "SET STATEMENT lock_wait_timeout=5 FOR TRUNCATE TABLE shop.products",
                wipe(&[(Some("shop"), "products")]),
            ),
            ("set statement a=1, b='for' for ALTER TABLE a RENAME TO b", wipe(&[(None, "a"), (None, "b")])),
            ("SET STATEMENT a=1 FOR UPDATE t SET a=1", S::Dml),
            ("SET STATEMENT a=1 FOR CREATE TABLE t (a INT)", S::Ddl),
            ("SET STATEMENT a=1", S::Unknown),
            ("SET STATEMENT a=1 FOR", S::Unknown),
            ("SET STATEMENT a=SUBSTRING('x' FROM 1 FOR 1) FOR TRUNCATE t", S::Unknown),
            // MariaDB: deletes duplicates.
            ("ALTER IGNORE TABLE t ADD UNIQUE (a)", wipe(&[(None, "t")])),
            ("ALTER ONLINE IGNORE TABLE IF EXISTS s.t ADD UNIQUE (a)", wipe(&[(Some("s"), "t")])),
            // Filled by a query.
            ("CREATE TABLE shop.products SELECT 1", S::Dml),
            ("CREATE TABLE IF NOT EXISTS t (a INT) ENGINE=InnoDB AS SELECT * FROM b", S::Dml),
            ("CREATE TABLE t (WITH x AS (SELECT 1) SELECT * FROM x)", S::Dml),
            ("CREATE TABLE t TABLE b", S::Dml),
            ("CREATE TABLE t VALUES ROW(1)", S::Dml),
            ("CREATE OR REPLACE TABLE t SELECT 1", S::Dml),
            ("CREATE TABLE shop.select (a INT REFERENCES s.table (b))", S::Ddl),
            ("CREATE TABLE t (a INT COMMENT 'SELECT', `select` INT) SELECT_LIMIT=1", S::Ddl),
            ("CREATE TABLE t (a INT) PARTITION BY RANGE (a) (PARTITION p VALUES LESS THAN (9))", S::Ddl),
            ("CREATE TABLE t (a INT) PARTITION BY LIST (a) (PARTITION p VALUES IN (9))", S::Ddl),
            ("CREATE TABLE `copy` (\n  `id` int NOT NULL\n) START TRANSACTION", S::Ddl),
            ("CREATE TABLE t LIKE b", S::Ddl),
            ("CREATE VIEW v AS SELECT 1", S::Ddl),
            ("CREATE TEMPORARY TABLE t SELECT 1", S::Ddl),
            // MariaDB: runs the statement.
            ("ANALYZE UPDATE t SET a=1", S::Dml),
            ("ANALYZE FORMAT=JSON DELETE FROM t", S::Dml),
            ("ANALYZE TABLE t", S::Ddl),
            ("ANALYZE LOCAL TABLE t", S::Ddl),
            ("ANALYZE NO_WRITE_TO_BINLOG TABLE t", S::Ddl),
            // Quotes.
            (r#"ALTER TABLE a COMMENT "\"", RENAME TO b"#, wipe(&[(None, "a"), (None, "b")])),
            (r#"ALTER TABLE a COMMENT '\'', RENAME TO b"#, wipe(&[(None, "a"), (None, "b")])),
            (r#"ALTER TABLE a COMMENT "x, RENAME TO b"#, S::Unknown),
            ("DROP TABLE `a", S::Unknown),
            ("ALTER TABLE a /* RENAME TO b", S::Unknown),
            ("ALTER TABLE a --\tx\n RENAME TO b", wipe(&[(None, "a"), (None, "b")])),
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

    #[test]
    fn long_statements_are_read_or_not_trusted() {
        let list = |n: usize| {
            let names: Vec<String> = (0..n).map(|i| format!("s.t{i}")).collect();
            format!("DROP TABLE {}", names.join(","))
        };
        let Statement::Wipe(Targets::Tables(tables)) = classify(list(2_000).as_bytes()) else { panic!() };
        assert_eq!(tables.len(), 2_000);
        let unknown = Statement::Wipe(Targets::Unknown);
        assert_eq!(classify(list(20_000).as_bytes()), unknown);
        let columns = ", ADD COLUMN c INT".repeat(MAX_TOKENS / 4);
        assert_eq!(classify(format!("ALTER TABLE t{columns} RENAME TO b").as_bytes()), unknown);
        let pairs = ", a TO b".repeat(MAX_TOKENS / 4);
        assert_eq!(classify(format!("RENAME TABLE a TO b{pairs}").as_bytes()), unknown);
        let columns = ", c INT".repeat(MAX_TOKENS / 3);
        assert_eq!(
            classify(format!("CREATE TABLE t (a INT{columns}) SELECT 1").as_bytes()),
            Statement::Unknown
        );
    }

    #[test]
    fn names_as_typed_are_found() {
        let touch = |sql: &str, default: &[u8]| {
            let Statement::Wipe(targets) = classify(sql.as_bytes()) else { panic!("{sql}") };
            targets.touch(default, |s, t| (s, t) == ("shop", "products"), |s| s == "shop")
        };
        for sql in ["TRUNCATE TABLE Shop.PRODUCTS", "TRUNCATE shop.products", "DROP DATABASE SHOP"] {
            assert!(touch(sql, b""), "{sql}");
        }
        assert!(touch("TRUNCATE Products", b"Shop"));
        assert!(touch("TRUNCATE x", b"") && touch("TRUNCATE x", b"\xff"));
        assert!(!touch("TRUNCATE x", b"shop") && !touch("DROP DATABASE other", b"shop"));
    }
}
