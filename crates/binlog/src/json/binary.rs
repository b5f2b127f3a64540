//! MySQL's binary JSON: a type byte and a value; containers hold offsets to their members (`sql-common/json_binary.cc`).

use super::{Leg, MAX_DEPTH};

/// A value, read as far as its own bytes tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Node<'a> {
    Object(Container<'a>),
    Array(Container<'a>),
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Str(&'a [u8]),
    /// A value of another SQL type: the field's type code and its bytes.
    Opaque(u8, &'a [u8]),
}

/// An array or object: number of members and size, entries of keys and values, keys, values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Container<'a> {
    /// From the number of members on, to its end; offsets count from here.
    bytes: &'a [u8],
    count: usize,
    is_object: bool,
    /// Numbers and offsets have four bytes, not two.
    is_large: bool,
}

const SMALL_OBJECT: u8 = 0x00;
const LARGE_OBJECT: u8 = 0x01;
const SMALL_ARRAY: u8 = 0x02;
const LARGE_ARRAY: u8 = 0x03;
const LITERAL: u8 = 0x04;
const INT16: u8 = 0x05;
const UINT16: u8 = 0x06;
const INT32: u8 = 0x07;
const UINT32: u8 = 0x08;
const INT64: u8 = 0x09;
const UINT64: u8 = 0x0a;
const DOUBLE: u8 = 0x0b;
const STRING: u8 = 0x0c;
const OPAQUE: u8 = 0x0f;

impl<'a> Node<'a> {
    /// The value of a column; `None` if it is none. No bytes at all are null (`Field_json::val_json`).
    pub(super) fn root(document: &'a [u8]) -> Option<Self> {
        match document.split_first() {
            None => Some(Self::Null),
            Some((&code, rest)) => Self::read(code, rest),
        }
    }

    fn read(code: u8, bytes: &'a [u8]) -> Option<Self> {
        Some(match code {
            SMALL_OBJECT | LARGE_OBJECT => Self::Object(Container::read(bytes, true, code == LARGE_OBJECT)?),
            SMALL_ARRAY | LARGE_ARRAY => Self::Array(Container::read(bytes, false, code == LARGE_ARRAY)?),
            LITERAL => match bytes.first()? {
                0 => Self::Null,
                1 => Self::Bool(true),
                2 => Self::Bool(false),
                _ => return None,
            },
            INT16 => Self::Int(i16::from_le_bytes(*bytes.first_chunk()?).into()),
            UINT16 => Self::UInt(u16::from_le_bytes(*bytes.first_chunk()?).into()),
            INT32 => Self::Int(i32::from_le_bytes(*bytes.first_chunk()?).into()),
            UINT32 => Self::UInt(u32::from_le_bytes(*bytes.first_chunk()?).into()),
            INT64 => Self::Int(i64::from_le_bytes(*bytes.first_chunk()?)),
            UINT64 => Self::UInt(u64::from_le_bytes(*bytes.first_chunk()?)),
            DOUBLE => Self::Double(f64::from_le_bytes(*bytes.first_chunk()?)),
            STRING => Self::Str(prefixed(bytes)?),
            OPAQUE => {
                let (&field_type, rest) = bytes.split_first()?;
                Self::Opaque(field_type, prefixed(rest)?)
            }
            _ => return None,
        })
    }

    /// Bytes that the value takes up by itself, without its members: see [`super::print::Writer`].
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Str(text) | Self::Opaque(_, text) => text.len(),
            _ => 0,
        }
    }

    /// What stands at a path: `None` on broken bytes, `Some(None)` if there is nothing.
    pub(super) fn find(self, legs: &[Leg]) -> Option<Option<Self>> {
        let mut node = self;
        if legs.len() > MAX_DEPTH {
            return Some(None);
        }
        for leg in legs {
            let found = match (leg, node) {
                (Leg::Key(key), Self::Object(object)) => object.member(key.as_bytes())?,
                (Leg::Key(_), _) => None,
                (Leg::Index(_) | Leg::Last(_), Self::Array(array)) => match index(leg, array.len()) {
                    Some(i) => Some(array.value(i)?),
                    None => None,
                },
                // What is no array counts as an array of itself.
                (Leg::Index(0) | Leg::Last(0), other) => Some(other),
                (Leg::Index(_) | Leg::Last(_), _) => None,
            };
            match found {
                Some(found) => node = found,
                None => return Some(None),
            }
        }
        Some(Some(node))
    }
}

/// The element that a leg means in an array of this length.
pub(super) fn index(leg: &Leg, len: usize) -> Option<usize> {
    let i = match *leg {
        Leg::Index(i) => i as usize,
        Leg::Last(back) => len.checked_sub(1)?.checked_sub(back as usize)?,
        Leg::Key(_) => return None,
    };
    (i < len).then_some(i)
}

/// A length of seven bits per byte, lowest first, and that many bytes.
fn prefixed(bytes: &[u8]) -> Option<&[u8]> {
    let mut len: u64 = 0;
    for (i, &byte) in bytes.iter().take(5).enumerate() {
        len |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return bytes.get(i + 1..)?.get(..usize::try_from(len).ok()?);
        }
    }
    None
}

impl<'a> Container<'a> {
    fn read(bytes: &'a [u8], is_object: bool, is_large: bool) -> Option<Self> {
        let mut container = Self { bytes, count: 0, is_object, is_large };
        let (count, size) = (container.number(0)?, container.number(container.width())?);
        container.bytes = bytes.get(..size)?;
        container.count = count;
        // The entries of all members are there: their number is checked before anything is sized by it.
        (container.value_entry(count)? <= size).then_some(container)
    }

    /// Number of members.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn width(&self) -> usize {
        if self.is_large { 4 } else { 2 }
    }

    fn number(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..)?;
        if self.is_large {
            usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()
        } else {
            Some(u16::from_le_bytes(*bytes.first_chunk()?).into())
        }
    }

    /// Where the entry of a member's key begins.
    fn key_entry(&self, i: usize) -> Option<usize> {
        i.checked_mul(self.width() + 2)?.checked_add(2 * self.width())
    }

    fn value_entry(&self, i: usize) -> Option<usize> {
        let keys = if self.is_object { self.key_entry(self.count)? } else { 2 * self.width() };
        i.checked_mul(self.width() + 1)?.checked_add(keys)
    }

    pub(super) fn key(&self, i: usize) -> Option<&'a [u8]> {
        let at = self.key_entry(i).filter(|_| self.is_object && i < self.count)?;
        let len = u16::from_le_bytes(*self.bytes.get(at + self.width()..)?.first_chunk()?);
        self.bytes.get(self.number(at)?..)?.get(..len.into())
    }

    pub(super) fn value(&self, i: usize) -> Option<Node<'a>> {
        let at = self.value_entry(i).filter(|_| i < self.count)?;
        let code = *self.bytes.get(at)?;
        let inlined = match code {
            LITERAL | INT16 | UINT16 => true,
            INT32 | UINT32 => self.is_large,
            _ => false,
        };
        let from = if inlined { at + 1 } else { self.number(at + 1)? };
        Node::read(code, self.bytes.get(from..)?)
    }

    /// The member with this key: keys are in the order of length, then of bytes.
    fn member(&self, key: &[u8]) -> Option<Option<Node<'a>>> {
        let (mut from, mut to) = (0, self.count);
        while from < to {
            let middle = from + (to - from) / 2;
            match order(self.key(middle)?, key) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
                std::cmp::Ordering::Equal => return Some(Some(self.value(middle)?)),
            }
        }
        Some(None)
    }
}

/// The order of keys in an object (`Json_key_comparator`).
pub(super) fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
