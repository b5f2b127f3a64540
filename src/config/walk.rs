//! Reading typed values from the tree, collecting every mistake on the way.

use std::{collections::HashMap, ops::Range, path::PathBuf, time::Duration};

use super::{
    codes::Code,
    diag::Mistake,
    fields::{Default, SECTIONS, Section},
    mask,
    node::{Node, Scalar, Value},
    units,
};

/// Looks up an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The state of one validation.
pub(super) struct Walk<'a> {
    pub(super) text: &'a str,
    pub(super) env: &'a Env<'a>,
    /// Folder that relative paths start from.
    pub(super) base: PathBuf,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) secrets: Vec<Range<usize>>,
}

/// A mapping whose fields are known.
pub(super) struct Object<'n> {
    /// Where to point when a field is missing.
    pub(super) span: Range<usize>,
    fields: HashMap<&'static str, (&'n Node, &'n Node)>,
}

impl<'n> Object<'n> {
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        self.fields.get(name).map(|(_, value)| *value)
    }

    /// Where the field's name stands.
    pub(super) fn key_span(&self, name: &str) -> Range<usize> {
        self.fields.get(name).map_or(self.span.clone(), |(key, _)| key.span.clone())
    }
}

/// A scalar with the environment filled in.
pub(super) struct Text<'n> {
    pub(super) value: String,
    pub(super) node: &'n Node,
    plain: bool,
    interpolated: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn report(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.mistakes.push(Mistake { code, message: message.into(), span, help: help.into() });
    }

    /// A text of the file as messages may show it: short, printable, the environment not filled in.
    pub(super) fn shown(&self, span: &Range<usize>) -> String {
        if self.secrets.iter().any(|s| s.start < span.end && span.start < s.end) {
            return "****".into();
        }
        let masked = mask::Masked::new(self.text, &self.secrets);
        let (start, end) = (masked.map(span.start), masked.map(span.end));
        let text = masked.text.get(start..end).unwrap_or("").trim();
        let quoted = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q));
        let text = mask::printable(quoted.unwrap_or(text)).replace('\n', " ");
        if text.chars().count() > 60 { text.chars().take(57).chain("...".chars()).collect() } else { text }
    }

    /// A mapping of a section; `at` is where to point for what is missing.
    pub(super) fn object<'n>(
        &mut self,
        node: &'n Node,
        at: Range<usize>,
        section: &'static Section,
    ) -> Option<Object<'n>> {
        let Value::Map(entries) = &node.value else {
            let names: Vec<_> = section.fields.iter().map(|f| format!("`{}`", f.name)).collect();
            let what =
                if section.path.is_empty() { "the file".into() } else { format!("`{}`", section.path) };
            let span = if node.span.is_empty() { at } else { first_line(self.text, &node.span) };
            self.report(
                Code::WrongType,
                span,
                format!("{what} is a mapping, but here is {}", node.kind()),
                format!("write a mapping with {}", names.join(", ")),
            );
            return None;
        };
        let mut object = Object { span: at, fields: HashMap::new() };
        for (key, value) in entries {
            let Value::Scalar(Scalar { text: name, .. }) = &key.value else {
                self.report(
                    Code::WrongType,
                    key.span.clone(),
                    "a field's name is a single word",
                    "write `name: value`",
                );
                continue;
            };
            let Some(field) = section.fields.iter().find(|f| f.name == name) else {
                self.unknown_field(section, name, key);
                continue;
            };
            if object.fields.contains_key(field.name) {
                self.duplicate(name, key, object.key_span(field.name));
                continue;
            }
            object.fields.insert(field.name, (key, value));
        }
        for field in section.fields.iter().filter(|f| f.default == Default::Required) {
            if !object.fields.contains_key(field.name) {
                let place =
                    if section.path.is_empty() { "the file".into() } else { format!("`{}`", section.path) };
                self.report(
                    Code::MissingField,
                    object.span.clone(),
                    format!("`{}` is missing in {place}", field.name),
                    format!("add `{}`: {}. {}", field.name, field.takes, field.about),
                );
            }
        }
        Some(object)
    }

    /// Entries of a mapping with free names, without duplicates.
    pub(super) fn entries<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
    ) -> Option<Vec<(&'n str, &'n Node, &'n Node)>> {
        let Value::Map(entries) = &node.value else {
            let span = first_line(self.text, &node.span);
            let message = format!("{what} is a mapping, but here is {}", node.kind());
            self.report(Code::WrongType, span, message, "write `NAME: VALUE` entries, one per line");
            return None;
        };
        let mut out: Vec<(&str, &Node, &Node)> = Vec::new();
        for (key, value) in entries {
            let Value::Scalar(Scalar { text: name, .. }) = &key.value else {
                self.report(
                    Code::WrongType,
                    key.span.clone(),
                    "a name is a single word",
                    "write `name: value`",
                );
                continue;
            };
            match out.iter().find(|(n, ..)| n == name).map(|(_, k, _)| k.span.clone()) {
                Some(first) => self.duplicate(name, key, first),
                None => out.push((name, key, value)),
            }
        }
        Some(out)
    }

    fn duplicate(&mut self, name: &str, key: &Node, first: Range<usize>) {
        let (line, _) = super::diag::position(self.text, first.start);
        let help = format!("keep one of them; the first stands in line {line}");
        let name = mask::printable(name);
        self.report(Code::DuplicateKey, key.span.clone(), format!("`{name}` stands here twice"), help);
    }

    fn unknown_field(&mut self, section: &'static Section, name: &str, key: &Node) {
        let hint = section.hints.iter().find(|(n, _)| *n == name).map(|(_, help)| (*help).to_owned());
        let near =
            || nearest(name, section.fields.iter().map(|f| f.name)).map(|n| format!("did you mean `{n}`?"));
        let elsewhere = || {
            let found = SECTIONS.iter().find(|s| s.fields.iter().any(|f| f.name == name))?;
            let place =
                if found.path.is_empty() { "the top level".into() } else { format!("`{}`", found.path) };
            Some(format!("`{name}` is a field of {place}"))
        };
        let list = || {
            let names: Vec<_> = section.fields.iter().map(|f| format!("`{}`", f.name)).collect();
            format!("fields here: {}", names.join(", "))
        };
        let help = hint.or_else(near).or_else(elsewhere).unwrap_or_else(list);
        let place = if section.path.is_empty() { String::new() } else { format!(" in `{}`", section.path) };
        let name: String = mask::printable(name).chars().take(60).collect();
        self.report(Code::UnknownField, key.span.clone(), format!("unknown field `{name}`{place}"), help);
    }

    /// Items of a list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str, example: &str) -> Option<&'n [Node]> {
        let Value::Seq(items) = &node.value else {
            let message = format!("{what} is a list, but here is {}", node.kind());
            self.report(
                Code::WrongType,
                first_line(self.text, &node.span),
                message,
                format!("write {example}"),
            );
            return None;
        };
        if items.is_empty() {
            let message = format!("{what} is empty");
            self.report(Code::MissingField, node.span.clone(), message, format!("write {example}"));
            return None;
        }
        Some(items)
    }

    /// A scalar with `${NAME}` filled in.
    pub(super) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<Text<'n>> {
        let scalar = match &node.value {
            Value::Scalar(scalar) => scalar,
            Value::Null => {
                let help = format!("write {what}, or remove the field");
                self.report(
                    Code::WrongType,
                    node.span.clone(),
                    format!("expected {what}, found nothing"),
                    help,
                );
                return None;
            }
            Value::Map(entries) if is_unquoted_template(entries) => {
                let span = first_line(self.text, &node.span);
                let name = match entries.first().map(|(k, _)| &k.value) {
                    Some(Value::Scalar(s)) => s.text.clone(),
                    _ => "id".into(),
                };
                self.report(
                    Code::UnquotedTemplate,
                    span,
                    format!("expected {what}: YAML reads an unquoted `{{{name}}}` as a mapping"),
                    format!("quote it: \"{{{name}}}\""),
                );
                return None;
            }
            _ => {
                let message = format!("expected {what}, found {}", node.kind());
                let help = format!("write {what} directly behind the field's name");
                self.report(Code::WrongType, first_line(self.text, &node.span), message, help);
                return None;
            }
        };
        let (value, interpolated) = self.interpolate(scalar, node)?;
        Some(Text { value, node, plain: scalar.plain, interpolated })
    }

    /// A scalar where a text is meant: words that other YAML readers take for booleans have to be quoted.
    pub(super) fn quoted_text<'n>(&mut self, node: &'n Node, what: &str) -> Option<Text<'n>> {
        let ambiguous = match &node.value {
            Value::Null => Some("null"),
            Value::Scalar(s) if s.plain && is_boolean_word(&s.text) => Some(s.text.as_str()),
            _ => None,
        };
        if let Some(word) = ambiguous {
            let message = format!("`{word}` is not a text for every YAML reader");
            let help = format!(
                "quote it if the text is meant: \"{word}\". MySQL's booleans have the text forms 0 and 1"
            );
            self.report(Code::AmbiguousText, node.span.clone(), message, help);
            return None;
        }
        self.text(node, what)
    }

    /// Fills in `${NAME}` and `${NAME:-default}`; `$${` stands for `${`.
    fn interpolate(&mut self, scalar: &Scalar, node: &Node) -> Option<(String, bool)> {
        let mut out = String::new();
        let mut rest = scalar.text.as_str();
        let mut ok = true;
        let mut any = false;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let offset = scalar.text.len() - rest.len() + at;
            let body = &rest[at + 2..];
            let end = body.find('}');
            let inside = end.map_or(body, |e| &body[..e]);
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let span = self.inside(node, scalar, offset, 2 + end.map_or(inside.len(), |e| e + 1));
            let Some(end) = end.filter(|_| valid) else {
                self.report(
                    Code::BadVariable,
                    span,
                    "`${` begins the name of an environment variable",
                    "write `${NAME}` or `${NAME:-default}`; for a literal `${` write `$${`",
                );
                return None;
            };
            match (self.env)(name).filter(|v| !v.is_empty()).or(default.map(str::to_owned)) {
                Some(value) => out.push_str(&value),
                None => {
                    ok = false;
                    let message = format!("the environment variable `{name}` is not set or empty");
                    let help = format!(
                        "set {name}, or give a default: `${{{name}:-…}}`; for a literal `${{` write `$${{`"
                    );
                    self.report(Code::MissingVariable, span, message, help);
                }
            }
            any = true;
            rest = &body[end + 1..];
        }
        out.push_str(rest);
        ok.then_some((out, any))
    }

    /// The bytes of the file that hold `len` bytes at `offset` of a scalar, or the whole scalar when quotes and
    /// escapes make that unclear.
    fn inside(&self, node: &Node, scalar: &Scalar, offset: usize, len: usize) -> Range<usize> {
        let written = self.text.get(node.span.clone()).unwrap_or("");
        let quote = usize::from(written.starts_with(['"', '\'']));
        if written.get(quote..quote + scalar.text.len()) != Some(scalar.text.as_str()) {
            return first_line(self.text, &node.span);
        }
        let start = node.span.start + quote + offset.min(scalar.text.len());
        start..(start + len).min(node.span.end)
    }

    /// The bytes of the file for an offset in a text; the whole text when it came from the environment.
    pub(super) fn offset_in(&self, text: &Text<'_>, offset: usize) -> Range<usize> {
        match &text.node.value {
            Value::Scalar(scalar) if !text.interpolated => self.inside(text.node, scalar, offset, 1),
            _ => first_line(self.text, &text.node.span),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T>(&mut self, node: &Node, what: &str, choices: Vec<(&str, T)>) -> Option<T> {
        let text = self.text(node, what)?;
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        let near = nearest(&text.value, choices.iter().map(|(name, _)| *name)).map(str::to_owned);
        if let Some((_, value)) = choices.into_iter().find(|(name, _)| *name == text.value) {
            return Some(value);
        }
        let near = near.map_or(String::new(), |n| format!("did you mean `{n}`? "));
        let boolean = if text.plain && is_boolean_word(&text.value) {
            " (unquoted, some YAML readers take this word for a boolean)"
        } else {
            ""
        };
        let message = format!("unknown {what} `{}`{boolean}", self.shown(&node.span));
        self.report(
            Code::UnknownValue,
            node.span.clone(),
            message,
            format!("{near}allowed: {}", names.join(", ")),
        );
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        node: &Node,
        what: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let text = self.text(node, what)?;
        let number = text.value.parse::<u64>().ok().filter(|n| bounds.contains(n));
        if number.is_none() {
            let message = format!("`{}` is no {what}", self.shown(&node.span));
            let help = format!("write a whole number from {} to {}", bounds.start(), bounds.end());
            self.report(Code::BadNumber, node.span.clone(), message, help);
        }
        number
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        node: &Node,
        what: &str,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let text = self.text(node, what)?;
        let shown = self.shown(&node.span);
        match units::duration(&text.value) {
            Err((why, help)) => {
                self.report(Code::BadDuration, node.span.clone(), format!("`{shown}`: {why}"), help)
            }
            Ok(d) if d < min || d > max => {
                let help = format!("write {} to {}", units::show_duration(min), units::show_duration(max));
                self.report(
                    Code::BadDuration,
                    node.span.clone(),
                    format!("`{shown}` is out of bounds for {what}"),
                    help,
                );
            }
            Ok(d) => return Some(d),
        }
        None
    }

    /// A path; a relative one starts from the config file's folder.
    pub(super) fn path(&mut self, node: &Node, what: &str) -> Option<PathBuf> {
        let text = self.text(node, what)?;
        if text.value.is_empty() || text.value.contains('\0') {
            self.report(
                Code::BadName,
                node.span.clone(),
                format!("{what} is empty or no path"),
                "write a path",
            );
            return None;
        }
        Some(self.base.join(&text.value))
    }
}

/// Words that YAML 1.1 reads as booleans, and those of YAML 1.2.
fn is_boolean_word(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false")
}

/// `{id}` without quotes: a flow mapping of names without values.
fn is_unquoted_template(entries: &[(Node, Node)]) -> bool {
    !entries.is_empty() && entries.iter().all(|(_, v)| matches!(v.value, Value::Null))
}

/// The part of a range that stands on its first line, for the caret.
pub(super) fn first_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let line = text.get(span.clone()).and_then(|s| s.lines().next()).unwrap_or("");
    span.start..span.start + line.len()
}

/// The most similar of `names`, if one is similar at all.
pub(crate) fn nearest<'s>(name: &str, names: impl Iterator<Item = &'s str>) -> Option<&'s str> {
    // Bounds the work on absurd input.
    let name: String = name.chars().take(64).collect::<String>().to_lowercase();
    names
        .map(|n| (strsim::damerau_levenshtein(&name, n), n))
        .filter(|(distance, n)| *distance <= (n.len() / 3).clamp(1, 3))
        .min()
        .map(|(_, n)| n)
}
