//! Key templates: `product:{id}`, `product:sku:{old.sku}`, `user:{email|lower}`.

use std::fmt;

/// A compiled key template.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    columns: Vec<String>,
}

/// Why a text is no template.
#[derive(Debug, Clone)]
pub struct TemplateError {
    /// Byte in the text.
    pub offset: usize,
    /// What to write instead.
    pub help: String,
}

impl TemplateError {
    /// Stable name.
    pub fn code(&self) -> &'static str {
        "template::syntax"
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unclosed `{`")
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Parses.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut columns = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find('{').map(|i| at + i) {
            let Some(close) = text[open..].find('}').map(|i| open + i) else {
                return Err(TemplateError { offset: open, help: "close it with `}`".into() });
            };
            columns.push(text[open + 1..close].to_owned());
            at = close + 1;
        }
        Ok(Self { text: text.to_owned(), columns })
    }

    /// Columns used.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// No columns.
    pub fn is_constant(&self) -> bool {
        self.columns.is_empty()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
