//! Which keys a template can make: for who removes them all.
//!
//! Guarantees: every key that [`Template::render`] can make matches both [`Template::glob`] and
//! [`Template::could_make`]; of other keys `could_make` takes only those that differ from a possible one in what a
//! template alone can't know: a value's type and length, one column's value at two places, and the letter case of
//! non-ASCII text in front of `hex` or under `raw`. Time is linear in the key, memory in the template. The same holds of
//! [`Template::prefix_glob`] and [`Template::could_begin`] for templates of prefixes.

use super::{Filter, MAX_KEY_BYTES, Placeholder, Segment, Template, escape::must_escape};

impl Template {
    /// The text that every key begins with; empty when the template begins with a column.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert_eq!(Template::parse("product:{id}:name")?.literal_prefix(), b"product:");
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn literal_prefix(&self) -> &[u8] {
        match self.segments.first() {
            Some(Segment::Literal(text)) => text,
            _ => &[],
        }
    }

    /// Whether a column's value is the last of every key.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert!(Template::parse("product:{id}")?.ends_with_column());
    /// assert!(!Template::parse("product:{id}:name")?.ends_with_column());
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn ends_with_column(&self) -> bool {
        matches!(self.segments.last(), Some(Segment::Value(_)))
    }

    /// A key that the template makes of a row whose columns are all `00`, whatever their filters.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    ///
    /// let key = Template::parse("tag:{category_id}:{name|lower}")?;
    /// assert_eq!(key.sample(), b"tag:00:00");
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn sample(&self) -> Vec<u8> {
        let text = |segment: &Segment| match segment {
            Segment::Literal(text) => text.to_vec(),
            Segment::Value(_) => b"00".to_vec(),
        };
        self.segments.iter().flat_map(text).collect()
    }

    /// A pattern for `SCAN … MATCH` that takes every key of this template, and more: see [`Template::could_make`].
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert_eq!(Template::parse("product:{id}:name")?.glob(), b"product:*:name");
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn glob(&self) -> Vec<u8> {
        let mut glob = Vec::with_capacity(self.source.len());
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => escape_glob(text, &mut glob),
                // A literal never ends with a bare star: stars are escaped there.
                Segment::Value(_) if glob.ends_with(b"*") && !glob.ends_with(b"\\*") => {}
                Segment::Value(_) => glob.push(b'*'),
            }
        }
        glob
    }

    /// Whether this template can make the key from some row.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// let template = Template::parse("product:{id}")?;
    /// assert!(template.could_make(b"product:7"));
    /// // The glob takes this one, too; a value's `:` would be escaped.
    /// assert!(!template.could_make(b"product:7:name"));
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn could_make(&self, key: &[u8]) -> bool {
        key.len() <= MAX_KEY_BYTES && self.ends(key, |at| at == key.len())
    }

    /// As [`Template::glob`], for every key that begins with what the template makes.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// assert_eq!(Template::parse("product:{id}:")?.prefix_glob(), b"product:*:*");
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn prefix_glob(&self) -> Vec<u8> {
        let mut glob = self.glob();
        if !self.ends_with_column() {
            glob.push(b'*');
        }
        glob
    }

    /// Whether the key begins with what this template can make from some row.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// let template = Template::parse("product:{id}:")?;
    /// assert!(template.could_begin(b"product:7:name"));
    /// assert!(!template.could_begin(b"product:7"));
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn could_begin(&self, key: &[u8]) -> bool {
        self.ends(key.get(..MAX_KEY_BYTES).unwrap_or(key), |_| true)
    }

    /// Whether a text that the template can make ends in `key` where it may.
    fn ends(&self, key: &[u8], may: impl Fn(usize) -> bool) -> bool {
        if !key.starts_with(self.literal_prefix()) {
            return false;
        }
        let is_whole = |states: &[State]| states.iter().any(|state| state.segment == self.segments.len());
        let mut states = States { segments: &self.segments, found: Vec::new() };
        states.enter(0);
        let mut now = Vec::new();
        for (at, &byte) in key.iter().enumerate() {
            if may(at) && is_whole(&states.found) {
                return true;
            }
            std::mem::swap(&mut now, &mut states.found);
            states.found.clear();
            for state in &now {
                states.step(*state, byte);
            }
            if states.found.is_empty() {
                return false;
            }
        }
        may(key.len()) && is_whole(&states.found)
    }
}

/// Appends a literal text as a part of a glob for Redis. What is special there: `stringmatchlen` in Redis' `util.c`.
///
/// ```
/// use rowbust_protocol::template::escape_glob;
/// let mut glob = Vec::new();
/// escape_glob(b"product[7]*", &mut glob);
/// assert_eq!(glob, br"product\[7\]\*");
/// ```
pub fn escape_glob(text: &[u8], glob: &mut Vec<u8>) {
    for &byte in text {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            glob.push(b'\\');
        }
        glob.push(byte);
    }
}

/// A place in the template, between two bytes of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    segment: usize,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Behind so many bytes of the literal; also the place behind the last segment.
    Literal(usize),
    /// Behind so many bytes of what stands for NULL.
    Default(usize),
    Raw,
    /// The first digit of a pair, if it was seen.
    Hex(Option<u8>),
    Text(Text),
}

/// Within an escaped value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Text {
    escape: Escape,
    /// A character that isn't complete.
    char: Utf8,
    /// Of the escaped bytes directly before: had they been well-formed, they would stand there as they are.
    escaped: Utf8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    None,
    Percent,
    High(u8),
}

/// States that can be reached; few, so a list without duplicates.
struct States<'a> {
    segments: &'a [Segment],
    found: Vec<State>,
}

impl States<'_> {
    fn add(&mut self, segment: usize, at: At) {
        let state = State { segment, at };
        if !self.found.contains(&state) {
            self.found.push(state);
        }
    }

    /// Adds the beginning of a segment, and what can be reached from there without a byte.
    fn enter(&mut self, segment: usize) {
        match self.segments.get(segment) {
            None => self.add(segment, At::Literal(0)),
            Some(Segment::Literal(_)) => self.add(segment, At::Literal(0)),
            Some(Segment::Value(value)) => {
                let start = match value.digits() {
                    Some(_) => At::Hex(None),
                    None if value.raw => At::Raw,
                    None => At::Text(Text::default()),
                };
                self.add(segment, start);
                if value.default.as_ref().is_some_and(|text| !text.is_empty()) {
                    self.add(segment, At::Default(0));
                }
                // A value may be empty.
                self.enter(segment + 1);
            }
        }
    }

    /// The next byte of a text that stands as it is.
    fn expect(&mut self, segment: usize, text: &[u8], seen: usize, byte: u8, at: impl Fn(usize) -> At) {
        if text.get(seen) != Some(&byte) {
            return;
        }
        if seen + 1 == text.len() {
            self.enter(segment + 1);
        } else {
            self.add(segment, at(seen + 1));
        }
    }

    fn step(&mut self, State { segment, at }: State, byte: u8) {
        match (self.segments.get(segment), at) {
            (Some(Segment::Literal(text)), At::Literal(n)) => {
                self.expect(segment, text, n, byte, At::Literal)
            }
            (Some(Segment::Value(value)), At::Default(n)) => {
                let text = value.default.as_deref().unwrap_or_default();
                self.expect(segment, text, n, byte, At::Default);
            }
            (Some(Segment::Value(value)), At::Raw) if value.ascii_case_fits(byte) => {
                self.add(segment, At::Raw);
                self.enter(segment + 1);
            }
            (Some(Segment::Value(value)), At::Hex(high)) => {
                let Some(digits) = value.digits() else { return };
                let Some(digit) = hex_digit(byte, digits) else { return };
                match high {
                    None => self.add(segment, At::Hex(Some(digit))),
                    Some(high) if value.ascii_case_fits(high << 4 | digit) => {
                        self.add(segment, At::Hex(None));
                        self.enter(segment + 1);
                    }
                    Some(_) => {}
                }
            }
            (Some(Segment::Value(value)), At::Text(text)) => {
                if let Some(text) = text.step(byte, value) {
                    self.add(segment, At::Text(text));
                    if text.is_whole() {
                        self.enter(segment + 1);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Text {
    fn is_whole(self) -> bool {
        self.escape == Escape::None && self.char.need == 0
    }

    fn step(self, byte: u8, value: &Placeholder) -> Option<Self> {
        let whole = Self::default();
        match self.escape {
            Escape::None if self.char.need > 0 => match self.char.step(byte)? {
                (_, Some(c)) => value.case_fits(c).then_some(whole),
                (char, None) => Some(Self { char, ..whole }),
            },
            Escape::None if byte == b'%' => Some(Self { escape: Escape::Percent, ..self }),
            Escape::None if byte < 0x80 => {
                (!must_escape(byte) && value.ascii_case_fits(byte)).then_some(whole)
            }
            Escape::None => Some(Self { char: Utf8::default().step(byte)?.0, ..whole }),
            Escape::Percent => {
                let escape = Escape::High(hex_digit(byte, Case::Upper)?);
                Some(Self { escape, ..self })
            }
            Escape::High(high) => match high << 4 | hex_digit(byte, Case::Upper)? {
                byte if byte < 0x80 => must_escape(byte).then_some(whole),
                byte => match self.escaped.step(byte).or_else(|| Utf8::default().step(byte)) {
                    // A whole character isn't escaped.
                    Some((_, Some(_))) => None,
                    Some((escaped, None)) => Some(Self { escaped, ..whole }),
                    None => Some(whole),
                },
            },
        }
    }
}

/// What a filter leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

fn hex_digit(byte: u8, case: Case) -> Option<u8> {
    match (byte, case) {
        (b'0'..=b'9', _) => Some(byte - b'0'),
        (b'a'..=b'f', Case::Lower) => Some(byte - b'a' + 10),
        (b'A'..=b'F', Case::Upper) => Some(byte - b'A' + 10),
        _ => None,
    }
}

impl Placeholder {
    /// The letter case of the value's text: before `hex`, if there is one.
    fn case(&self) -> Option<Case> {
        self.filters.iter().take_while(|filter| **filter != Filter::Hex).find_map(|filter| match filter {
            Filter::Lower => Some(Case::Lower),
            Filter::Upper => Some(Case::Upper),
            Filter::Hex => None,
        })
    }

    /// The letter case of the digits, if the value is written as such.
    fn digits(&self) -> Option<Case> {
        let hex = self.filters.iter().position(|filter| *filter == Filter::Hex)?;
        let upper = self.filters.get(hex..).is_some_and(|behind| behind.contains(&Filter::Upper));
        Some(if upper { Case::Upper } else { Case::Lower })
    }

    fn ascii_case_fits(&self, byte: u8) -> bool {
        match self.case() {
            None => true,
            Some(Case::Lower) => !byte.is_ascii_uppercase(),
            Some(Case::Upper) => !byte.is_ascii_lowercase(),
        }
    }

    /// Both conversions leave alone what they have made, so that is what they can make.
    fn case_fits(&self, c: char) -> bool {
        match self.case() {
            None => true,
            Some(Case::Lower) => c.to_lowercase().eq([c]),
            Some(Case::Upper) => c.to_uppercase().eq([c]),
        }
    }
}

/// The rest of a character that is being read. Table 3-7 of the Unicode standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Utf8 {
    /// Bytes to come.
    need: u8,
    /// Bounds of the next.
    low: u8,
    high: u8,
    code: u32,
}

impl Utf8 {
    /// `None`: not well-formed.
    fn step(self, byte: u8) -> Option<(Self, Option<char>)> {
        if self.need == 0 {
            let (need, low, high, bits) = match byte {
                0xc2..=0xdf => (1, 0x80, 0xbf, byte & 0x1f),
                0xe0 => (2, 0xa0, 0xbf, byte & 0x0f),
                0xed => (2, 0x80, 0x9f, byte & 0x0f),
                0xe1..=0xef => (2, 0x80, 0xbf, byte & 0x0f),
                0xf0 => (3, 0x90, 0xbf, byte & 0x07),
                0xf1..=0xf3 => (3, 0x80, 0xbf, byte & 0x07),
                0xf4 => (3, 0x80, 0x8f, byte & 0x07),
                _ => return None,
            };
            return Some((Self { need, low, high, code: u32::from(bits) }, None));
        }
        if !(self.low..=self.high).contains(&byte) {
            return None;
        }
        let (need, code) = (self.need - 1, self.code << 6 | u32::from(byte & 0x3f));
        if need == 0 {
            return Some((Self::default(), Some(char::from_u32(code)?)));
        }
        Some((Self { need, low: 0x80, high: 0xbf, code }, None))
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
