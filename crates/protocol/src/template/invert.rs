//! From a key back to the values that it was made of.
//!
//! Guarantees: where it gives values, rendering them gives the key again (letter case and `default` aside). Time is linear in the key.

use super::{Filter, Placeholder, Segment, Template, escape::unescape};

impl Template {
    /// The values of the columns that make this key, by slot; `None`: no row makes it, or the key doesn't tell where one value ends
    /// (see [`Template::ambiguity`]). A value that came through a filter is what the filter left; one that stands in for NULL is
    /// given as it stands there. A slot whose two places differ gives `None`, too.
    ///
    /// ```
    /// use rowbust_protocol::template::Template;
    /// let template = Template::parse("product:{id}:{lang}")?;
    /// let values = template.values_of(b"product:7:en").unwrap();
    /// assert_eq!(values, [Some(b"7".to_vec()), Some(b"en".to_vec())]);
    /// assert_eq!(template.values_of(b"order:7"), None);
    /// # Ok::<(), rowbust_protocol::template::TemplateError>(())
    /// ```
    pub fn values_of(&self, key: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
        if !self.could_make(key) || self.ambiguity().is_some() {
            return None;
        }
        let mut values = vec![None; self.columns.len()];
        let mut rest = key;
        let mut segments = self.segments.iter().peekable();
        while let Some(segment) = segments.next() {
            match segment {
                Segment::Literal(text) => rest = rest.strip_prefix(&**text)?,
                Segment::Value(value) => {
                    let end = match segments.peek() {
                        None => rest.len(),
                        Some(Segment::Literal(text)) => {
                            value.end(text, rest, segments.clone().nth(1).is_none())?
                        }
                        Some(Segment::Value(_)) => return None,
                    };
                    let (text, behind) = rest.split_at_checked(end)?;
                    rest = behind;
                    let text = value.invert(text);
                    let slot = values.get_mut(value.slot)?;
                    if slot.as_ref().is_some_and(|before| *before != text) {
                        return None;
                    }
                    *slot = Some(text);
                }
            }
        }
        rest.is_empty().then_some(values)
    }
}

impl Placeholder {
    /// Where the value ends that stands at the beginning of `rest`, with `literal` behind it.
    fn end(&self, literal: &[u8], rest: &[u8], is_last: bool) -> Option<usize> {
        if is_last {
            return rest.len().checked_sub(literal.len());
        }
        // The first byte of the literal that no value holds tells where the literal is.
        let offset = literal.iter().position(|byte| !self.can_write(*byte))?;
        let at = rest.iter().position(|byte| *byte == literal[offset])?;
        at.checked_sub(offset)
    }

    fn invert(&self, text: &[u8]) -> Vec<u8> {
        let mut value = if self.raw { text.to_vec() } else { unescape(text) };
        if self.filters.contains(&Filter::Hex) {
            let digits: Option<Vec<u8>> = value
                .chunks(2)
                .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
                .collect();
            if let Some(bytes) = digits {
                value = bytes;
            }
        }
        value
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::template::SlotValue;

    fn values(template: &str, key: &str) -> Option<Vec<Option<String>>> {
        let template = Template::parse(template).unwrap();
        let values = template.values_of(key.as_bytes())?;
        Some(values.into_iter().map(|v| v.map(|v| String::from_utf8(v).unwrap())).collect())
    }

    #[test]
    fn gives_the_row_back() {
        let some = |all: &[&str]| Some(all.iter().map(|v| Some((*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(values("product:{id}", "product:42"), some(&["42"]));
        assert_eq!(values("product:{id}", "product:"), some(&[""]));
        assert_eq!(values("p:{a}:{b}:x", "p:1%3A:2:x"), some(&["1:", "2"]));
        assert_eq!(values("p:{a}-:{b}", "p:1--:2"), some(&["1-", "2"]));
        assert_eq!(values("{{u:{id}}}:{id}", "{u:7}:7"), some(&["7"]));
        assert_eq!(values("{{u:{id}}}:{id}", "{u:7}:8"), None);
        assert_eq!(values("k:{id|hex}", "k:6162"), some(&["ab"]));
        assert_eq!(values("k:{id}tail", "k:1tailtail"), some(&["1tail"]));
        assert_eq!(values("k:{a}{b}", "k:12"), None);
        assert_eq!(values("k:{a}", "l:12"), None);
        assert_eq!(values("constant", "constant"), Some(vec![]));
    }

    proptest::proptest! {
        /// What a row makes, it is found in.
        #[test]
        fn inverts_rendering(a in "\\PC{0,6}", b in "[-a-z:%{} ]{0,6}") {
            for source in ["x:{a}:{b}", "{{h:{a}}}:{b}", "x:{a}:{b|hex}:y", "x:{a}-:{b}-"] {
                let template = Template::parse(source).unwrap();
                let (mut key, mut scratch) = (Vec::new(), Vec::new());
                template.render::<()>(&mut key, &mut scratch, |slot, out| {
                    out.extend_from_slice([&a, &b][slot].as_bytes());
                    Ok(SlotValue::Text)
                }).unwrap();
                let values = template.values_of(&key).unwrap();
                proptest::prop_assert_eq!(values, vec![Some(a.clone().into_bytes()), Some(b.clone().into_bytes())]);
            }
        }
    }
}
