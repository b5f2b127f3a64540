//! Names as they stand in the config.
//!
//! Guarantees: [`quoted`] reads back as what it was given, by the config's reader; a [`comment`] is one line. May depend on the templates.

use std::path::Path;

use rowbust_protocol::template::{ImageRef, Template};

/// A scalar in double quotes. `${` would be an environment variable.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            // YAML 1.2, 5.1: what may stand there as it is; the byte order mark and line breaks of Unicode are better escaped.
            '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..
                if !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') =>
            {
                out.push(c);
            }
            _ if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            _ => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Absolute, since relative ones start from the config's folder.
pub(super) fn path(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&absolute.to_string_lossy())
}

/// Text of a comment: one line, printable.
pub(super) fn comment(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A table's `schema.table` as globs that mean it, and whether they mean others too: a dot, a backtick or a control character in a name can only
/// be written as "any character".
pub(super) fn table(schema: &str, table: &str) -> (String, bool) {
    let mut wide = false;
    let mut part = |name: &str| -> String {
        name.chars()
            .map(|c| match c {
                '*' | '?' | '[' | ']' | '{' | '}' => format!("[{c}]"),
                '.' | '`' => {
                    wide = true;
                    "?".to_owned()
                }
                c if c.is_control() => {
                    wide = true;
                    "?".to_owned()
                }
                c => c.to_string(),
            })
            .collect()
    };
    let text = format!("{}.{}", part(schema), part(table));
    (text, wide)
}

/// A literal text of a template.
pub(super) fn literal(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// `{column}` with a filter, or `None` where no template can name it.
pub(super) fn placeholder(column: &str, filter: &str) -> Option<String> {
    let plain = format!("{{{column}{filter}}}");
    let in_backticks = format!("{{`{}`{filter}}}", column.replace('`', "``"));
    [plain, in_backticks].into_iter().find(|text| {
        Template::parse(text).is_ok_and(|template| match template.columns() {
            [only] => {
                *only.name == *column
                    && only.image == ImageRef::Both
                    && only.path.is_none()
                    && template.literal_prefix().is_empty()
            }
            _ => false,
        })
    })
}
