//! The text of JSON values, as `Json_wrapper::to_string` in MySQL's `json_dom.cc` prints them.

use super::{
    MAX_DEPTH,
    binary::{Container, Node},
};
use crate::{decimal, text};

/// Appends text, and takes care that no document makes more of it than its length allows: members can refer to the same bytes
/// again and again, which the server never writes.
pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
    /// Bytes of the document that may still be read.
    budget: usize,
    depth: usize,
}

impl<'o> Writer<'o> {
    /// `len`: bytes of the document.
    pub(super) fn new(len: usize, out: &'o mut Vec<u8>) -> Self {
        // An empty document is one literal.
        Self { out, budget: len.saturating_add(3), depth: 0 }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Option<()> {
        self.budget = self.budget.checked_sub(bytes)?;
        Some(())
    }

    /// Goes one level down and calls `members`.
    pub(super) fn nested(&mut self, members: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        members(self)?;
        self.depth -= 1;
        Some(())
    }

    /// Appends a value; strings, dates and the like in quotes if `quoted` or if they are within another value.
    pub(super) fn node(&mut self, node: Node<'_>, quoted: bool) -> Option<()> {
        // Its type, and at least two bytes of value or offset.
        self.spend(node.cost().saturating_add(3))?;
        match node {
            Node::Object(members) => self.nested(|w| w.object(members))?,
            Node::Array(members) => self.nested(|w| w.array(members))?,
            Node::Null => self.out.extend_from_slice(b"null"),
            Node::Bool(value) => self.out.extend_from_slice(if value { b"true" } else { b"false" }),
            Node::Int(n) => text::put(self.out, format_args!("{n}")),
            Node::UInt(n) => text::put(self.out, format_args!("{n}")),
            Node::Double(n) => self.double(n),
            Node::Str(bytes) => self.string(bytes, quoted)?,
            Node::Opaque(field_type, bytes) => self.opaque(field_type, bytes, quoted)?,
        }
        Some(())
    }

    fn object(&mut self, members: Container<'_>) -> Option<()> {
        self.out.push(b'{');
        for i in 0..members.len() {
            self.key(i, members.key(i)?)?;
            self.node(members.value(i)?, true)?;
        }
        self.out.push(b'}');
        Some(())
    }

    fn array(&mut self, members: Container<'_>) -> Option<()> {
        self.out.push(b'[');
        for i in 0..members.len() {
            self.separator(i);
            self.node(members.value(i)?, true)?;
        }
        self.out.push(b']');
        Some(())
    }

    pub(super) fn separator(&mut self, i: usize) {
        if i > 0 {
            self.out.extend_from_slice(b", ");
        }
    }

    /// The key of an object's `i`th member, and what stands around it.
    pub(super) fn key(&mut self, i: usize, key: &[u8]) -> Option<()> {
        self.separator(i);
        self.spend(key.len())?;
        self.string(key, true)?;
        self.out.extend_from_slice(b": ");
        Some(())
    }

    fn double(&mut self, n: f64) {
        let at = self.out.len();
        text::double(n, self.out);
        // Or it would read as an integer.
        if !self.out.iter().skip(at).any(|b| matches!(b, b'.' | b'e')) {
            self.out.extend_from_slice(b".0");
        }
    }

    fn string(&mut self, bytes: &[u8], quoted: bool) -> Option<()> {
        std::str::from_utf8(bytes).ok()?;
        if !quoted {
            self.out.extend_from_slice(bytes);
            return Some(());
        }
        self.out.push(b'"');
        for &byte in bytes {
            let escape = match byte {
                b'"' | b'\\' => byte,
                0x08 => b'b',
                0x0c => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0..=0x1f => {
                    text::put(self.out, format_args!("\\u{byte:04x}"));
                    continue;
                }
                _ => {
                    self.out.push(byte);
                    continue;
                }
            };
            self.out.extend_from_slice(&[b'\\', escape]);
        }
        self.out.push(b'"');
        Some(())
    }

    /// DECIMAL, dates and times have a text of their own; anything else is `base64:type15:…`.
    fn opaque(&mut self, field_type: u8, bytes: &[u8], quoted: bool) -> Option<()> {
        const DECIMAL: u8 = 246;
        if field_type == DECIMAL {
            let (&[precision, scale], digits) = bytes.split_first_chunk::<2>()?;
            return decimal::write(digits, precision, scale, self.out).then_some(());
        }
        let quote = |out: &mut Vec<u8>| out.extend(quoted.then_some(b'"'));
        quote(self.out);
        match field_type {
            7 | 10 | 11 | 12 => self.temporal(field_type, i64::from_le_bytes(*bytes.first_chunk()?)),
            _ => {
                text::put(self.out, format_args!("base64:type{field_type}:"));
                self.base64(bytes, quoted);
            }
        }
        quote(self.out);
        Some(())
    }

    /// `TIME_from_longlong_…_packed` in `my_time.cc`: 24 bits of microseconds, 6 of seconds, 6 of minutes, 5 (TIME: 10) of
    /// hours, 5 of the day, then year × 13 + month.
    fn temporal(&mut self, field_type: u8, packed: i64) {
        let bits = packed.unsigned_abs();
        let (micros, hms) = (bits & 0xff_ffff, bits >> 24);
        let (minute, second) = (hms >> 6 & 63, hms & 63);
        if field_type == 11 {
            let sign = if packed < 0 { "-" } else { "" };
            let hour = hms >> 12 & 0x3ff;
            return text::put(self.out, format_args!("{sign}{hour:02}:{minute:02}:{second:02}.{micros:06}"));
        }
        let (hour, day, months) = (hms >> 12 & 31, hms >> 17 & 31, hms >> 22);
        let (year, month) = (months / 13, months % 13);
        text::put(self.out, format_args!("{year:04}-{month:02}-{day:02}"));
        if field_type != 10 {
            text::put(self.out, format_args!(" {hour:02}:{minute:02}:{second:02}.{micros:06}"));
        }
    }

    /// With a line break after each 76 characters, as `base64_encode` of the server makes.
    fn base64(&mut self, bytes: &[u8], quoted: bool) {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (i, chunk) in bytes.chunks(3).enumerate() {
            if i > 0 && i % 19 == 0 {
                self.out.extend_from_slice(if quoted { b"\\n" } else { b"\n" });
            }
            let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for place in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
                self.out.push(if place > chunk.len() { b'=' } else { digit });
            }
        }
    }
}
