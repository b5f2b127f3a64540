//! Text to [`Template`].

use super::{
    ColumnRef, Filter, ImageRef, JsonPath, MAX_KEY_BYTES, Placeholder, Segment, Template, TemplateError,
    TemplateErrorKind, path,
};

const FILTERS: [&str; 5] = ["lower", "upper", "hex", "default", "raw"];

fn error(offset: usize, kind: TemplateErrorKind, help: impl Into<String>) -> TemplateError {
    TemplateError { offset, kind, help: help.into() }
}

pub(super) fn parse(source: &str) -> Result<Template, TemplateError> {
    if source.is_empty() {
        return Err(error(0, TemplateErrorKind::Empty, "write a key such as \"product:{id}\""));
    }
    if source.len() > MAX_KEY_BYTES {
        return Err(error(0, TemplateErrorKind::TooLong, "write a shorter template"));
    }
    if let Some((offset, _)) = source.char_indices().find(|(_, c)| c.is_control()) {
        let help =
            "write the template on one line, in double quotes; a YAML block (`|`, `>`) adds a line break";
        return Err(error(offset, TemplateErrorKind::ControlCharacter, help));
    }

    let mut parser = Parser { source, segments: Vec::new(), columns: Vec::new() };
    let mut literal = String::new();
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let doubled = source[at + c.len_utf8()..].starts_with(c);
        match c {
            '{' | '}' if doubled => {
                literal.push(c);
                at += 2;
            }
            '{' => {
                if !literal.is_empty() {
                    let text = std::mem::take(&mut literal).into_bytes().into_boxed_slice();
                    parser.segments.push(Segment::Literal(text));
                }
                at = parser.placeholder(at)?;
            }
            '}' => {
                let help = "write `}}` for a literal brace, or open a column with `{`";
                return Err(error(at, TemplateErrorKind::StrayClose, help));
            }
            _ => {
                literal.push(c);
                at += c.len_utf8();
            }
        }
    }
    if !literal.is_empty() {
        parser.segments.push(Segment::Literal(literal.into_bytes().into_boxed_slice()));
    }
    Ok(Template {
        source: source.into(),
        segments: parser.segments.into_boxed_slice(),
        columns: parser.columns.into_boxed_slice(),
    })
}

struct Parser<'a> {
    source: &'a str,
    segments: Vec<Segment>,
    columns: Vec<ColumnRef>,
}

impl Parser<'_> {
    /// Reads the placeholder whose `{` stands at `open`; returns the offset behind its `}`.
    fn placeholder(&mut self, open: usize) -> Result<usize, TemplateError> {
        let (image, at) = self.image(open)?;
        let (name, at) = self.name(open, at)?;
        let (path, mut at) = self.path(open, at)?;
        let slot = self.slot(name, image, path);
        let mut placeholder = Placeholder { slot, filters: Box::default(), default: None, raw: false };
        let mut filters = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        loop {
            match self.source[at..].chars().next() {
                Some('}') => break,
                Some('|') => at = self.filter(open, at + 1, &mut placeholder, &mut filters, &mut seen)?,
                None => return Err(unclosed(open)),
                Some(_) => {
                    let help =
                        "write `}`, `|` and a filter, or `->>` and a JSON path behind the column's name";
                    return Err(error(at, TemplateErrorKind::ColumnName, help));
                }
            }
        }
        placeholder.filters = filters.into_boxed_slice();
        self.segments.push(Segment::Value(placeholder));
        Ok(at + 1)
    }

    /// `old.` or `new.` behind the brace at `open`; the image and the offset of the column's name.
    fn image(&self, open: usize) -> Result<(ImageRef, usize), TemplateError> {
        let at = open + 1;
        let rest = &self.source[at..];
        let word = &rest[..rest.find(|c| !is_name_char(c)).unwrap_or(rest.len())];
        if !rest[word.len()..].starts_with('.') {
            return Ok((ImageRef::Both, at));
        }
        let behind = at + word.len() + 1;
        match word {
            "old" => Ok((ImageRef::Old, behind)),
            "new" => Ok((ImageRef::New, behind)),
            _ => {
                let help = "write `{old.column}`, `{new.column}` or `{column}`; a name with a dot in it goes into \
                            backticks";
                Err(error(at, TemplateErrorKind::UnknownImage(word.to_owned()), help))
            }
        }
    }

    /// The column's name at `at`, and the offset behind it.
    fn name(&self, open: usize, at: usize) -> Result<(String, usize), TemplateError> {
        let rest = &self.source[at..];
        if rest.starts_with('`') {
            return self.quoted_name(at);
        }
        let length = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        if length > 0 {
            return Ok((rest[..length].to_owned(), at + length));
        }
        match rest.chars().next() {
            None => Err(unclosed(open)),
            Some('}' | '|') => {
                let help = "write a column's name, such as `{id}`; for literal braces write `{{` and `}}`";
                Err(error(at, TemplateErrorKind::NoColumn, help))
            }
            Some(_) => {
                let help = "letters, digits, `_` and `$` can be written as they are, without spaces around them; \
                            other names go into backticks";
                Err(error(at, TemplateErrorKind::ColumnName, help))
            }
        }
    }

    fn quoted_name(&self, at: usize) -> Result<(String, usize), TemplateError> {
        let mut name = String::new();
        let mut rest = self.source[at + 1..].char_indices().peekable();
        while let Some((offset, c)) = rest.next() {
            if c != '`' {
                name.push(c);
            } else if rest.next_if(|(_, next)| *next == '`').is_some() {
                name.push('`');
            } else if name.is_empty() {
                break;
            } else {
                return Ok((name, at + 1 + offset + 1));
            }
        }
        let help = "close the name with a backtick; a backtick within it is doubled";
        Err(error(at, TemplateErrorKind::ColumnName, help))
    }

    /// `->>` or `->` and a path at `at`, behind the column's name, and the offset behind it.
    fn path(&self, open: usize, at: usize) -> Result<(Option<JsonPath>, usize), TemplateError> {
        let rest = &self.source[at..];
        let (unquote, start) = match rest {
            _ if rest.starts_with("->>") => (true, at + 3),
            _ if rest.starts_with("->") => (false, at + 2),
            _ => return Ok((None, at)),
        };
        match path::parse(&self.source[start..], unquote) {
            Ok((path, length)) => Ok((Some(path), start + length)),
            Err((_, path::PathMistake::Ends)) => Err(unclosed(open)),
            Err((offset, mistake)) => {
                let help = mistake.help();
                Err(error(start + offset, TemplateErrorKind::Path(mistake), help))
            }
        }
    }

    fn slot(&mut self, name: String, image: ImageRef, path: Option<JsonPath>) -> usize {
        let same = |c: &ColumnRef| *c.name == *name && c.image == image && c.path == path;
        let found = self.columns.iter().position(same);
        found.unwrap_or_else(|| {
            self.columns.push(ColumnRef { name: name.into_boxed_str(), image, path });
            self.columns.len() - 1
        })
    }

    /// Reads the filter at `at`, behind its `|`; returns the offset behind it.
    fn filter<'a>(
        &'a self,
        open: usize,
        at: usize,
        placeholder: &mut Placeholder,
        filters: &mut Vec<Filter>,
        seen: &mut Vec<&'a str>,
    ) -> Result<usize, TemplateError> {
        let rest = &self.source[at..];
        let text = &rest[..rest.find(['|', '{', '}']).ok_or_else(|| unclosed(open))?];
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        if !FILTERS.contains(&name) {
            let help = format!("the filters are {}", FILTERS.map(|f| format!("`{f}`")).join(", "));
            return Err(error(at, TemplateErrorKind::UnknownFilter(name.to_owned()), help));
        }
        let conflict = match name {
            "lower" => seen.contains(&"upper"),
            "upper" => seen.contains(&"lower"),
            _ => false,
        };
        if conflict || seen.contains(&name) {
            let help = "write each filter once, and one of `lower` and `upper`";
            return Err(error(at, TemplateErrorKind::ConflictingFilters(name.to_owned()), help));
        }
        seen.push(name);
        match (name, argument) {
            ("default", None) => {
                let help = "write the text that stands for NULL behind a colon: `{col|default:none}`";
                return Err(error(at, TemplateErrorKind::MissingArgument(name.to_owned()), help));
            }
            ("default", Some(argument)) => placeholder.default = Some(argument.as_bytes().into()),
            (_, Some(_)) => {
                let help = format!("write `{name}` alone");
                return Err(error(at, TemplateErrorKind::UnexpectedArgument(name.to_owned()), help));
            }
            ("raw", None) => placeholder.raw = true,
            (_, None) => {
                let filter = match name {
                    "lower" => Filter::Lower,
                    "upper" => Filter::Upper,
                    _ => Filter::Hex,
                };
                filters.push(filter);
                if let Some(default) = &mut placeholder.default {
                    let mut text = std::mem::take(default).into_vec();
                    filter.apply(0, &mut text, &mut Vec::new());
                    *default = text.into_boxed_slice();
                }
            }
        }
        let end = at + text.len();
        if self.source[end..].starts_with('{') {
            let help = "a filter's argument can't hold a brace";
            return Err(error(end, TemplateErrorKind::Unclosed, help));
        }
        Ok(end)
    }
}

fn unclosed(open: usize) -> TemplateError {
    let help = "close the column with `}`, or write `{{` for a literal brace";
    error(open, TemplateErrorKind::Unclosed, help)
}

/// What MySQL takes as an identifier without quotes, and any other non-ASCII character.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}
