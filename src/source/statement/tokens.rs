//! Words, quoted names and symbols of a statement. May depend on nothing.

use super::Name;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A bare word: keyword or name.
    Word(&'a str),
    /// A name in backticks or double quotes (`ANSI_QUOTES`), or a string.
    Quoted(String),
    Symbol(char),
}

impl Token<'_> {
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if w.eq_ignore_ascii_case(word))
    }
}

/// More tokens than this are not looked at. DROP TABLE of some ten thousand tables fits.
pub(super) const MAX_TOKENS: usize = 1 << 16;

/// What a statement is made of.
pub(super) struct Tokens<'a> {
    pub(super) list: Vec<Token<'a>>,
    /// There were more than [`MAX_TOKENS`], or a quote or comment doesn't end: what was taken for its inside may have been
    /// the statement.
    pub(super) cut: bool,
}

/// `sql_mode` bits that change what a quote is (`sql/sql_class.h` of both servers).
const ANSI_QUOTES: u64 = 4;
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// Comments are left out but for the text of executable ones (`/*!40101 … */`). `sql_mode` as the event tells it.
///
/// Where it doesn't tell, a backslash is taken for an escape in `"` and `'`: a name or string that ends in a real one seems
/// not to end then, and the tokens are cut there.
pub(super) fn tokenize(text: &str, sql_mode: Option<u64>) -> Tokens<'_> {
    let mode = sql_mode.unwrap_or(0);
    let escapes = |quote: char| match quote {
        '`' => false,
        '"' if mode & ANSI_QUOTES != 0 => false,
        _ => mode & NO_BACKSLASH_ESCAPES == 0,
    };
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0' || c == ';');
        let Some(c) = rest.chars().next() else { return Tokens { list, cut: false } };
        if list.len() == MAX_TOKENS {
            return Tokens { list, cut: true };
        }
        if let Some(comment) = rest.strip_prefix("/*") {
            let executable = ["!", "M!"].iter().find_map(|p| comment.strip_prefix(p));
            rest = match (executable, comment.split_once("*/")) {
                (Some(inside), _) => inside.trim_start_matches(|c: char| c.is_ascii_digit()),
                (None, Some((_, after))) => after,
                (None, None) => return Tokens { list, cut: true },
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if rest.starts_with('#') || is_dash_comment(rest) {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if matches!(c, '`' | '"' | '\'') {
            let Some((quoted, after)) = quoted(rest, c, escapes(c)) else {
                return Tokens { list, cut: true };
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
fn quoted(text: &str, quote: char, escapes: bool) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|&(_, next)| next == quote).is_none() {
                return Some((inside, text.get(i + 1..).unwrap_or("")));
            }
            inside.push(quote);
        } else if c == '\\' && escapes {
            chars.next();
        } else {
            inside.push(c);
        }
    }
    None
}

/// `[schema.]table`, and the index behind it. `None`: unreadable.
pub(super) fn name(tokens: &[Token<'_>], at: usize) -> Option<(Name, usize)> {
    let part = |i: usize| match tokens.get(i) {
        Some(Token::Word(w)) => Some((*w).to_owned()),
        Some(Token::Quoted(q)) => Some(q.clone()),
        _ => None,
    };
    let readable = |s: &str| !s.contains(char::REPLACEMENT_CHARACTER);
    let first = part(at).filter(|s| readable(s))?;
    if matches!(tokens.get(at + 1), Some(Token::Symbol('.'))) {
        let second = part(at + 2).filter(|s| readable(s))?;
        return Some((Name { schema: Some(first), table: second }, at + 3));
    }
    Some((Name { schema: None, table: first }, at + 1))
}

/// The name behind IF [NOT] EXISTS, if that stands there.
pub(super) fn name_of_one(tokens: &[Token<'_>], at: usize) -> Option<Name> {
    name(tokens, behind_if(tokens, at)).map(|(name, _)| name)
}

/// Behind IF [NOT] EXISTS, if it stands there.
pub(super) fn behind_if(tokens: &[Token<'_>], at: usize) -> usize {
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|token| token.is(word));
    // A table may have the name `if`.
    if !is(at, "IF") {
        return at;
    }
    match (is(at + 1, "NOT"), is(at + 1, "EXISTS"), is(at + 2, "EXISTS")) {
        (true, _, true) => at + 3,
        (_, true, _) => at + 2,
        _ => at,
    }
}
