//! Secrets taken out of text that is shown.
//!
//! Guarantees: what [`Masked`] holds has `****` in place of every given range. Where the file isn't YAML, [`guess`]
//! finds what looks like the value of a password field or a password in a URL; it rather takes too much than too
//! little. A value that is only `${NAME}` stays: it is no secret.

use std::ops::Range;

const MASK: &str = "****";

/// A text without its secrets.
pub(super) struct Masked {
    pub(super) text: String,
    /// Ranges of the original that were replaced, in order, apart from each other.
    replaced: Vec<Range<usize>>,
}

impl Masked {
    pub(super) fn new(original: &str, secrets: &[Range<usize>]) -> Self {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for range in secrets.iter().filter_map(|r| original.get(r.clone()).map(|s| (r.start, s))) {
            // Line by line, so that line numbers stay.
            let mut at = range.0;
            for line in range.1.split_inclusive('\n') {
                let body = line.trim();
                let start = at + (line.len() - line.trim_start().len());
                if !body.is_empty() && !is_reference(body) {
                    ranges.push(start..start + body.len());
                }
                at += line.len();
            }
        }
        ranges.sort_by_key(|r| (r.start, r.end));
        let mut replaced: Vec<Range<usize>> = Vec::new();
        for r in ranges {
            match replaced.last_mut() {
                Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                _ => replaced.push(r),
            }
        }
        let mut text = String::with_capacity(original.len());
        let mut at = 0;
        for r in &replaced {
            text.push_str(&original[at..r.start]);
            text.push_str(MASK);
            at = r.end;
        }
        text.push_str(&original[at..]);
        Self { text, replaced }
    }

    /// Where a byte of the original stands now; one inside a secret maps to the start of the mask.
    pub(super) fn map(&self, at: usize) -> usize {
        let mut grown = 0;
        let mut shrunk = 0;
        for r in self.replaced.iter().take_while(|r| r.start < at) {
            if at < r.end {
                return r.start + grown - shrunk;
            }
            grown += MASK.len();
            shrunk += r.len();
        }
        (at + grown - shrunk).min(self.text.len())
    }
}

/// Whether a value is only a reference to the environment, quoted or not.
fn is_reference(value: &str) -> bool {
    let inner = value.trim_matches(['"', '\'']);
    inner
        .strip_prefix("${")
        .and_then(|v| v.strip_suffix('}'))
        .is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// Whether a field's name says that its value is a secret.
pub(super) fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let about_a_file = ["_file", "file", ".location", "path"].iter().any(|end| name.ends_with(end));
    let secret = ["password", "passwd", "passphrase", "secret", "token", "jaas", "credential"];
    // Names that were meant to be `password`.
    let last = name.rsplit('.').next().unwrap_or(&name);
    let misspelt =
        strsim::damerau_levenshtein(last, "password") <= 2 || matches!(last, "pass" | "pw" | "pwd");
    let key = name.ends_with(".pem") || name.ends_with(".key");
    !about_a_file && (key || misspelt || secret.iter().any(|s| name.contains(s)))
}

/// Adds the password of the URL that begins in `span`, if there is one. A password may hold any character: the last
/// `@` counts.
pub(super) fn password_in_url(text: &str, span: Range<usize>, ranges: &mut Vec<Range<usize>>) {
    let Some(body) = text.get(span.clone()) else { return };
    let Some(start) = body.find("://").map(|i| i + 3) else { return };
    let Some(at) = body[start..].rfind('@').map(|i| start + i) else { return };
    let Some(colon) = body[start..at].find(':').map(|i| start + i + 1) else { return };
    if !body[colon..at].is_empty() && !is_reference(&body[colon..at]) {
        ranges.push(span.start + colon..span.start + at);
    }
}

/// Finds secrets by their look, line by line: works on text that isn't YAML too.
pub(super) fn guess(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    // Indentation of a password field whose value follows on deeper lines.
    let mut block: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end();
        let indent = body.len() - body.trim_start().len();
        if let Some(outer) = block {
            if body.is_empty() || indent > outer {
                if !body.is_empty() && !is_reference(body.trim()) {
                    ranges.push(at + indent..at + body.len());
                }
                at += line.len();
                continue;
            }
            block = None;
        }
        for (i, _) in body.match_indices(':') {
            let name_end = body[..i].trim_end_matches(['"', '\'', ' ', '?']);
            let name_start = name_end
                .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-'))
                .map_or(0, |p| p + name_end[p..].chars().next().map_or(1, char::len_utf8));
            if !is_secret_field(&name_end[name_start..]) {
                continue;
            }
            let value = body[i + 1..].trim_start();
            let start = body.len() - value.len();
            let len = value_len(value);
            if value.is_empty() || value.starts_with(['|', '>', '#']) {
                block = Some(indent);
            } else if !is_reference(&value[..len]) {
                // A quoted value may go on in the next lines.
                if len == value.len() && value.starts_with(['"', '\'']) && !value[1..].ends_with(['"', '\''])
                {
                    block = Some(indent);
                }
                ranges.push(at + start..at + start + len);
            }
        }
        // One URL at a time where a line holds several.
        let starts: Vec<usize> = body.match_indices("://").map(|(i, _)| i).collect();
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(body.len());
            password_in_url(text, at + start..at + end, &mut ranges);
        }
        at += line.len();
    }
    ranges
}

/// Length of a scalar's text at the start of `value`: to its closing quote, or to what ends a plain one.
fn value_len(value: &str) -> usize {
    if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return value[1..].find(quote).map_or(value.len(), |i| i + 2);
    }
    if value.starts_with("${")
        && let Some(close) = value.find('}')
        && value[close + 1..].trim_start().starts_with(['}', ',', '#'])
    {
        return close + 1;
    }
    // Not to `,` or `}`: they may be part of a password. Too much is masked rather than too little.
    value.find(" #").unwrap_or(value.len())
}

/// Control characters replaced, so that text of the file can't steer the terminal. Keeps the number of characters
/// and, for tabs and line breaks, of bytes.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => '\n',
            '\t' | '\r' => ' ',
            c if c.is_control() && c.len_utf8() == 1 => '?',
            c if c.is_control() => '\u{b7}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Masked::new(text, &guess(text)).text
    }

    #[test]
    fn by_look() {
        assert_eq!(masked("password: hunter2 # x"), "password: **** # x");
        assert_eq!(masked("{ password: \"hun,ter2\", a: 1 }"), "{ password: ****, a: 1 }");
        assert_eq!(masked("password: ${MYSQL_PASSWORD}"), "password: ${MYSQL_PASSWORD}");
        assert_eq!(masked("password_file: /run/x"), "password_file: /run/x");
        assert_eq!(masked("password: |\n  hunter\n  two\nb: 1"), "password: |\n  ****\n  ****\nb: 1");
        assert_eq!(masked("url: redis://:p:w@h:1/0"), "url: redis://:****@h:1/0");
        assert_eq!(masked("url: redis://u:p/w@h:1/0"), "url: redis://u:****@h:1/0");
        assert_eq!(masked("sasl.password: x"), "sasl.password: ****");
        assert_eq!(masked("ssl.ca.location: /x"), "ssl.ca.location: /x");
    }

    #[test]
    fn places_move_with_the_text() {
        let m = Masked::new("password: hunter2 # x\nb: 1", std::slice::from_ref(&(10..17)));
        assert_eq!(&m.text[m.map(22)..], "b: 1");
        assert_eq!(m.map(12), 10);
        assert_eq!(m.map(0), 0);
    }
}
