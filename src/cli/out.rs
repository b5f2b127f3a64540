//! Printing: data to stdout, the rest to stderr, columns as plain text.

use std::io::{self, IsTerminal as _, Write as _};

use crate::config::Style;

/// Writes data. A reader that went away (`| head`) is no failure.
pub(super) fn stdout(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes data; says whether anybody still reads it.
pub(super) fn try_stdout(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes messages.
pub(super) fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// One line about what went wrong.
pub(super) fn complain(message: &str) {
    stderr(&format!("rowbust: {message}\n"));
}

/// Writes one JSON value and a line break.
pub(super) fn json(value: &serde_json::Value) {
    stdout(&format!("{value:#}\n"));
}

/// How mistakes are drawn on stderr.
pub(super) fn stderr_style() -> Style {
    if !io::stderr().is_terminal() {
        return Style::Plain;
    }
    // https://no-color.org: set and not empty.
    let color = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    Style::Graphical { color }
}

/// Columns, two blanks apart, each as wide as its widest cell; nothing behind the last.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Bytes of a key as text: what isn't printable is escaped, so that no key can steer the terminal.
pub(super) fn key(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// How long ago a Unix time in seconds is, roughly.
pub(super) fn ago(seconds: u64) -> String {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    match now.saturating_sub(seconds) {
        s if s < 120 => format!("{s} s ago"),
        s if s < 7200 => format!("{} min ago", s / 60),
        s if s < 172_800 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "bé".into(), "c".into()], vec!["aaa".into(), "b".into()]];
        assert_eq!(table(&rows), "a    bé  c\naaa  b\n");
    }

    #[test]
    fn keys_are_printable() {
        assert_eq!(key(b"a\x1b[1m\xff\xc3\xa9"), "a\\u{1b}[1m\\xffé");
    }
}
