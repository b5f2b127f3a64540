//! Config mistakes with their place, and how they are shown.
//!
//! Guarantees: no secret of the file survives in a [`Report`]: values of password fields and passwords in URLs are
//! masked in the only copy of the text that it holds.

use std::{
    error::Error,
    fmt::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};

use super::{codes::Code, mask};

/// One mistake, at bytes of the file.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) span: Range<usize>,
    pub(super) help: String,
}

/// All mistakes of one config file, in the order of the file.
#[derive(Debug, Clone)]
pub struct Report {
    file: PathBuf,
    masked: String,
    diagnostics: Vec<Diagnostic>,
    /// Mistakes behind the last of them.
    omitted: usize,
}

/// So many mistakes are shown: each looks for its line in the whole file, and a file can have one in every few bytes.
const MAX_SHOWN: usize = 100;

/// One mistake, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text, secrets masked, control characters replaced.
    pub source_line: String,
    /// First character to underline in `source_line`, from 0, and how many.
    caret: (usize, usize),
    /// The same place in the masked text.
    span: Range<usize>,
}

/// How a report is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `file:line:column: error[code]: message`, source line, caret, help: for pipes and logs.
    Plain,
    /// Frames and colours, for a terminal.
    Graphical {
        /// Whether colours are wanted (`NO_COLOR`).
        color: bool,
    },
}

/// Lines longer than this are cut around the mistake.
const MAX_LINE: usize = 140;

impl Report {
    pub(super) fn new(file: &Path, text: &str, mut mistakes: Vec<Mistake>, secrets: &[Range<usize>]) -> Self {
        mistakes.sort_by_key(|m| (m.span.start, m.span.end));
        let omitted = mistakes.len().saturating_sub(MAX_SHOWN);
        mistakes.truncate(MAX_SHOWN);
        let masked = mask::Masked::new(text, secrets);
        let diagnostics = mistakes.into_iter().map(|m| place(text, &masked, m)).collect();
        Self { file: file.to_owned(), masked: masked.text, diagnostics, omitted }
    }

    /// A report of one mistake about the file as a whole.
    pub(super) fn of_file(file: &Path, message: String, help: &str) -> Self {
        let code = Code::Unreadable;
        Self::new(file, "", vec![Mistake { code, message, span: 0..0, help: help.into() }], &[])
    }

    /// The first hundred mistakes, in the order of the file. Never empty.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// As text.
    pub fn render(&self, style: Style) -> String {
        let mut out = String::new();
        for d in &self.diagnostics {
            match style {
                Style::Plain => self.plain(&mut out, d),
                Style::Graphical { color } => self.graphical(&mut out, d, color),
            }
            out.push('\n');
        }
        let n = self.diagnostics.len() + self.omitted;
        let _ = writeln!(out, "{n} mistake{} in {}", if n == 1 { "" } else { "s" }, self.file.display());
        if self.omitted > 0 {
            let _ = writeln!(out, "the first {} are shown", self.diagnostics.len());
        }
        out
    }

    /// As JSON, with a `schema_version`.
    pub fn to_json(&self) -> serde_json::Value {
        let errors: Vec<_> = self
            .diagnostics
            .iter()
            .map(|d| {
                serde_json::json!({
                    "code": d.code.name(), "message": d.message, "help": d.help,
                    "line": d.line, "column": d.column, "source_line": d.source_line,
                })
            })
            .collect();
        let mut json = serde_json::json!({
            "schema_version": 1, "ok": false, "file": self.file.display().to_string(), "errors": errors,
        });
        if self.omitted > 0 {
            json["omitted"] = self.omitted.into();
        }
        json
    }

    fn plain(&self, out: &mut String, d: &Diagnostic) {
        let file = self.file.display();
        let code = d.code.name();
        let _ = writeln!(out, "{file}:{}:{}: error[{code}]: {}", d.line, d.column, d.message);
        if !d.source_line.is_empty() {
            let number = d.line.to_string();
            let margin = " ".repeat(number.len());
            let (start, width) = d.caret;
            let _ = writeln!(out, "{margin} |\n{number} | {}", d.source_line);
            let _ = writeln!(out, "{margin} | {}{}", " ".repeat(start), "^".repeat(width));
        }
        for (i, line) in d.help.lines().enumerate() {
            let _ = writeln!(out, "  {} {line}", if i == 0 { "= help:" } else { "       " });
        }
    }

    fn graphical(&self, out: &mut String, d: &Diagnostic, color: bool) {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let source = (!self.masked.is_empty())
            .then(|| NamedSource::new(self.file.display().to_string(), mask::printable(&self.masked)));
        let shown = Shown { diagnostic: d, source };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_context_lines(1);
        if handler.render_report(out, &shown).is_err() {
            self.plain(out, d);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl Error for Report {}

/// The mistake for a text that serde-saphyr refuses. Its own snippets and values are left out: they could show a
/// secret.
pub(super) fn of_yaml(error: &serde_saphyr::Error, text: &str) -> Mistake {
    use serde_saphyr::Error as E;
    let error = match error.without_snippet() {
        E::AliasError { error, .. } => error.without_snippet(),
        error => error,
    };
    let at = error.location().map_or(0..0, |l| super::node::range(l, text));
    let line_start = text[..at.start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[line_start..].lines().next().unwrap_or("");
    if let Some(braces) = unquoted_template(line) {
        let span = line_start + braces.start..line_start + braces.end;
        let help = format!("quote the whole text, e.g. \"product:{}\"", &line[braces]);
        let message = "not YAML: unquoted `{…}` begins a mapping".into();
        return Mistake { code: Code::UnquotedTemplate, message, span, help };
    }
    let (code, message, help) = match error {
        E::Budget { .. }
        | E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. }
        | E::AliasReplayCounterOverflow { .. } => (
            Code::Budget,
            "the file is too large, too deeply nested, or its anchors multiply".to_owned(),
            "split it up, or write out what the anchors stand for",
        ),
        E::MultipleDocuments { .. } => {
            (Code::Syntax, "a second document begins here".into(), "keep one document: remove the `---`")
        }
        E::UnknownAnchor { .. } => (
            Code::Syntax,
            "`*` refers to an anchor that isn't there".into(),
            "quote the text if `*` is meant literally",
        ),
        E::UnsupportedTag { .. } => {
            (Code::Syntax, "unknown tag".into(), "quote the text if `!` is meant literally")
        }
        _ if unquoted_variable(line) => (
            Code::Syntax,
            "not YAML: an unquoted `${…}` inside `{ }` or `[ ]`".into(),
            "quote the whole text: \"${NAME}\"",
        ),
        E::Message { msg, .. } | E::ExternalMessage { msg, .. } => (
            Code::Syntax,
            format!("not YAML: {msg}"),
            "look at indentation, quotes and brackets here and just before",
        ),
        _ => {
            (Code::Syntax, "not YAML".into(), "look at indentation, quotes and brackets here and just before")
        }
    };
    Mistake { code, message, span: at, help: help.into() }
}

/// Whether a flow collection holds an unquoted `${`.
fn unquoted_variable(line: &str) -> bool {
    let mut quote = None;
    let mut flow = false;
    for (i, c) in line.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if flow && line[i..].starts_with("${") => return true,
            None => flow |= matches!(c, '{' | '['),
        }
    }
    false
}

/// Finds `{name}` outside of quotes, directly behind other text or doubled, as in `{ key: product:{id} }`.
fn unquoted_template(line: &str) -> Option<Range<usize>> {
    let mut quote = None;
    let mut before = ' ';
    for (i, c) in line.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == '{' && before != '$' => {
                let len =
                    line[i + 1..].find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '|')))?;
                if len > 0 && line[i + 1 + len..].starts_with('}') {
                    return Some(i..i + len + 2);
                }
            }
            None => {}
        }
        before = c;
    }
    None
}

/// Finds line, column and caret of a mistake.
fn place(text: &str, masked: &mask::Masked, m: Mistake) -> Diagnostic {
    let (line, column) = position(text, m.span.start);
    let span = masked.map(m.span.start)..masked.map(m.span.end);
    let line_start = masked.text[..span.start].rfind('\n').map_or(0, |i| i + 1);
    let line_text = masked.text[line_start..].lines().next().unwrap_or("");
    let chars: Vec<char> = mask::printable(line_text).chars().collect();
    let at = masked.text[line_start..span.start].chars().count();
    let on_line = masked.text[span.clone()].lines().next().unwrap_or("").trim_end().chars().count();
    let width = on_line.clamp(1, chars.len().saturating_sub(at).max(1));
    let from = if chars.len() > MAX_LINE { at.saturating_sub(MAX_LINE / 2) } else { 0 };
    let to = chars.len().min(from + MAX_LINE);
    let source_line: String = chars.get(from..to).unwrap_or_default().iter().collect();
    let caret = (at - from, width.min(MAX_LINE - MAX_LINE / 2));
    Diagnostic { code: m.code, message: m.message, help: m.help, line, column, source_line, caret, span }
}

/// Line and column, both from 1, the column in characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What stands in a line, from 1, behind the dashes of lists.
pub(super) fn entry(text: &str, line: usize) -> Range<usize> {
    let Some(found) = text.lines().nth(line.saturating_sub(1)) else { return 0..0 };
    let entry = found.trim_start_matches([' ', '-']);
    let end = found.as_ptr().addr() - text.as_ptr().addr() + found.len();
    end - entry.len()..end
}

/// What miette needs to know of a mistake.
#[derive(Debug)]
struct Shown<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<NamedSource<String>>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code.name()))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.diagnostic.help.is_empty()).then(|| Box::new(&self.diagnostic.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|s| s as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = SourceSpan::from(self.diagnostic.span.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some("here".into()), span))))
    }
}
