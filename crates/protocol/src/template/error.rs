//! What can be wrong with a template.

use std::fmt;

use super::{MAX_KEY_BYTES, path};

/// Why a template can't be used, and where.
///
/// ```
/// use rowbust_protocol::template::{Template, TemplateError, TemplateErrorKind};
/// let TemplateError { offset, kind, help } = Template::parse("product:{id").unwrap_err();
/// assert_eq!((offset, kind), (8, TemplateErrorKind::Unclosed));
/// assert!(!help.is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset into the template, on a character's boundary; at most its length.
    pub offset: usize,
    /// What is wrong.
    pub kind: TemplateErrorKind,
    /// What to write instead.
    pub help: String,
}

/// What is wrong with a template.
///
/// Example: see [`TemplateError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateErrorKind {
    /// The template is empty.
    Empty,
    /// A `{` without its `}`.
    Unclosed,
    /// A single `}` in the text.
    StrayClose,
    /// `{}` or `{|lower}`: no column.
    NoColumn,
    /// A column's name with a character that needs backticks, or broken backticks.
    ColumnName,
    /// A JSON path that can't be read, or that can mean several values.
    Path(path::PathMistake),
    /// `{x.col}` where x is neither `old` nor `new`.
    UnknownImage(String),
    /// A filter that doesn't exist.
    UnknownFilter(String),
    /// The same filter twice, or both `lower` and `upper`.
    ConflictingFilters(String),
    /// `default` without its text.
    MissingArgument(String),
    /// An argument to a filter that takes none.
    UnexpectedArgument(String),
    /// A control character (a line break of a YAML block, for instance) in the text.
    ControlCharacter,
    /// The literal text alone is longer than [`MAX_KEY_BYTES`].
    TooLong,
}

impl TemplateError {
    /// A stable name of the mistake, for people and tools.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert_eq!(Template::parse("product:{}").unwrap_err().code(), "template_no_column");
    /// ```
    pub fn code(&self) -> &'static str {
        match self.kind {
            TemplateErrorKind::Empty => "template_empty",
            TemplateErrorKind::Unclosed => "template_unclosed_brace",
            TemplateErrorKind::StrayClose => "template_stray_brace",
            TemplateErrorKind::NoColumn => "template_no_column",
            TemplateErrorKind::ColumnName => "template_column_name",
            TemplateErrorKind::Path(_) => "template_json_path",
            TemplateErrorKind::UnknownImage(_) => "template_unknown_image",
            TemplateErrorKind::UnknownFilter(_) => "template_unknown_filter",
            TemplateErrorKind::ConflictingFilters(_) => "template_conflicting_filters",
            TemplateErrorKind::MissingArgument(_) => "template_missing_argument",
            TemplateErrorKind::UnexpectedArgument(_) => "template_unexpected_argument",
            TemplateErrorKind::ControlCharacter => "template_control_character",
            TemplateErrorKind::TooLong => "template_too_long",
        }
    }
}

/// What is wrong, in a few words, without the help.
impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TemplateErrorKind::Empty => f.write_str("the template is empty"),
            TemplateErrorKind::Unclosed => f.write_str("`{` is never closed"),
            TemplateErrorKind::StrayClose => f.write_str("`}` closes nothing"),
            TemplateErrorKind::NoColumn => f.write_str("no column stands between the braces"),
            TemplateErrorKind::ColumnName => f.write_str("not a column's name"),
            TemplateErrorKind::Path(mistake) => mistake.fmt(f),
            TemplateErrorKind::UnknownImage(name) => write!(f, "`{name}.` is no row image"),
            TemplateErrorKind::UnknownFilter(name) => write!(f, "unknown filter `{name}`"),
            TemplateErrorKind::ConflictingFilters(name) => {
                write!(f, "filter `{name}` contradicts or repeats an earlier one")
            }
            TemplateErrorKind::MissingArgument(name) => write!(f, "filter `{name}` needs an argument"),
            TemplateErrorKind::UnexpectedArgument(name) => write!(f, "filter `{name}` takes no argument"),
            TemplateErrorKind::ControlCharacter => f.write_str("a control character in the template"),
            TemplateErrorKind::TooLong => write!(f, "the template is longer than {MAX_KEY_BYTES} bytes"),
        }
    }
}

impl std::error::Error for TemplateError {}
