//! Partial updates: the differences that `binlog_row_value_options=PARTIAL_JSON` logs (`sql/json_diff.cc`), and their
//! application to the document before.
//!
//! Only the containers on the way to a change are taken apart; everything else stays a slice of the event.

use std::borrow::Cow;

use super::{
    Found, Leg, MAX_DEPTH, Path,
    binary::{Node, index, order},
    print::Writer,
};

const REPLACE: u8 = 0;
const INSERT: u8 = 1;
const REMOVE: u8 = 2;

/// A document with changes.
pub(super) enum Tree<'a> {
    Stored(Node<'a>),
    Array(Vec<Tree<'a>>),
    /// In the order of keys.
    Object(Vec<(Cow<'a, [u8]>, Tree<'a>)>),
}

/// Members that may be moved for each byte of the document and of the differences: an update that takes a hundred elements off the front
/// of an array of a million bytes passes, as does one of any size whose changes are at the end, where an array grows.
const MOVES_PER_BYTE: usize = 32;
/// Members that may be moved whatever the size.
const MOVES: usize = 1 << 20;

/// Bounds the work: a change within a container moves what stands behind it, so that a few bytes of differences could cost any
/// time. The server logs differences only where they are shorter than the document.
struct Budget {
    /// Members that may be taken apart: each takes three bytes of its container at least, and is taken apart once.
    members: usize,
    moves: usize,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        Self { members: bytes / 3, moves: bytes.saturating_mul(MOVES_PER_BYTE).saturating_add(MOVES) }
    }

    fn take_apart(&mut self, members: usize) -> Option<()> {
        self.members = self.members.checked_sub(members)?;
        Some(())
    }

    fn shift(&mut self, members: usize) -> Option<()> {
        self.moves = self.moves.checked_sub(members)?;
        Some(())
    }
}

/// The document after the differences; `None` if they don't apply to it, or applying them would take too much work.
pub(super) fn apply<'a>(stored: &'a [u8], diffs: &'a [u8]) -> Option<Tree<'a>> {
    let mut tree = Tree::Stored(Node::root(stored)?);
    let mut budget = Budget::new(stored.len() + diffs.len());
    let mut rest = diffs;
    while let Some((&operation, after)) = rest.split_first() {
        let path;
        (path, rest) = sized(after)?;
        let path = Path::parse(std::str::from_utf8(path).ok()?)?;
        let mut value = None;
        if operation != REMOVE {
            let bytes;
            (bytes, rest) = sized(rest)?;
            value = Some(Tree::Stored(Node::root(bytes)?));
        }
        let Some((last, legs)) = path.legs().split_last() else {
            // The whole document.
            tree = value.filter(|_| operation == REPLACE)?;
            continue;
        };
        let mut parent = &mut tree;
        for leg in legs {
            parent = parent.child(leg, &mut budget)?;
        }
        parent.expand(&mut budget)?;
        parent.change(operation, last, value, &mut budget)?;
    }
    Some(tree)
}

/// A length-encoded number (`net_field_length_ll`) and that many bytes; what is behind them.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (len, rest) = match first {
        0..=250 => (u64::from(first), rest),
        252 => rest.split_first_chunk().map(|(n, rest)| (u16::from_le_bytes(*n).into(), rest))?,
        253 => rest
            .split_first_chunk::<3>()
            .map(|(n, rest)| (u32::from_le_bytes([n[0], n[1], n[2], 0]).into(), rest))?,
        254 => rest.split_first_chunk().map(|(n, rest)| (u64::from_le_bytes(*n), rest))?,
        _ => return None,
    };
    rest.split_at_checked(usize::try_from(len).ok()?)
}

impl<'a> Tree<'a> {
    /// Takes a stored container apart, by one level.
    fn expand(&mut self, budget: &mut Budget) -> Option<()> {
        let Self::Stored(node) = self else { return Some(()) };
        *self = match *node {
            Node::Array(members) => {
                budget.take_apart(members.len())?;
                Self::Array(
                    (0..members.len()).map(|i| members.value(i).map(Self::Stored)).collect::<Option<_>>()?,
                )
            }
            Node::Object(members) => {
                budget.take_apart(members.len())?;
                let member = |i| Some((Cow::Borrowed(members.key(i)?), Self::Stored(members.value(i)?)));
                Self::Object((0..members.len()).map(member).collect::<Option<_>>()?)
            }
            scalar => Self::Stored(scalar),
        };
        Some(())
    }

    fn child(&mut self, leg: &Leg, budget: &mut Budget) -> Option<&mut Self> {
        self.expand(budget)?;
        match (self, leg) {
            (Self::Object(members), Leg::Key(key)) => {
                let i = members.binary_search_by(|(k, _)| order(k, key.as_bytes())).ok()?;
                members.get_mut(i).map(|(_, value)| value)
            }
            (Self::Array(members), leg) => {
                let i = index(leg, members.len())?;
                members.get_mut(i)
            }
            _ => None,
        }
    }

    fn change(
        &mut self,
        operation: u8,
        leg: &Leg,
        value: Option<Tree<'a>>,
        budget: &mut Budget,
    ) -> Option<()> {
        match (self, leg) {
            (Self::Object(members), Leg::Key(key)) => {
                let found = members.binary_search_by(|(k, _)| order(k, key.as_bytes()));
                if operation != REPLACE {
                    let (Ok(at) | Err(at)) = found;
                    budget.shift(members.len() - at)?;
                }
                match (operation, found, value) {
                    (REPLACE, Ok(i), Some(value)) => members.get_mut(i)?.1 = value,
                    (INSERT, Err(i), Some(value)) => {
                        members.insert(i, (Cow::Owned(key.as_bytes().to_vec()), value));
                    }
                    (REMOVE, Ok(i), None) => drop(members.remove(i)),
                    _ => return None,
                }
            }
            (Self::Array(members), Leg::Index(at)) => {
                let at = *at as usize;
                if operation != REPLACE {
                    budget.shift(members.len().saturating_sub(at))?;
                }
                match (operation, value) {
                    (REPLACE, Some(value)) => *members.get_mut(at)? = value,
                    // Behind the end: at the end.
                    (INSERT, Some(value)) => members.insert(at.min(members.len()), value),
                    (REMOVE, None) if at < members.len() => drop(members.remove(at)),
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// As [`Node::find`] and [`Writer::node`].
    pub(super) fn write(&self, legs: &[Leg], unquote: bool, writer: &mut Writer<'_>) -> Option<Found> {
        let mut tree = self;
        for (i, leg) in legs.iter().enumerate() {
            let found = match (tree, leg) {
                (Self::Stored(node), _) => {
                    return match node.find(legs.get(i..)?)? {
                        Some(node) => writer.node(node, !unquote).map(|()| super::found(node)),
                        None => Some(Found::Missing),
                    };
                }
                (Self::Object(members), Leg::Key(key)) => {
                    let found = members.binary_search_by(|(k, _)| order(k, key.as_bytes())).ok();
                    found.and_then(|i| members.get(i)).map(|(_, value)| value)
                }
                (Self::Object(_), Leg::Index(0) | Leg::Last(0)) => Some(tree),
                (Self::Array(members), leg) => index(leg, members.len()).and_then(|i| members.get(i)),
                (Self::Object(_), _) => None,
            };
            match found {
                Some(found) => tree = found,
                None => return Some(Found::Missing),
            }
        }
        tree.print(!unquote, writer)?;
        Some(if let Self::Stored(node) = tree { super::found(*node) } else { Found::Text })
    }

    fn print(&self, quoted: bool, writer: &mut Writer<'_>) -> Option<()> {
        match self {
            Self::Stored(node) => writer.node(*node, quoted),
            Self::Array(members) => writer.nested(|w| {
                w.out.push(b'[');
                for (i, member) in members.iter().enumerate() {
                    w.separator(i);
                    member.print(true, w)?;
                }
                w.out.push(b']');
                Some(())
            }),
            Self::Object(members) => writer.nested(|w| {
                w.out.push(b'{');
                for (i, (key, member)) in members.iter().enumerate() {
                    w.key(i, key)?;
                    member.print(true, w)?;
                }
                w.out.push(b'}');
                Some(())
            }),
        }
    }
}

/// A tree is as deep as the longest path that changed it, so that dropping it can't overflow the stack.
const _: () = assert!(MAX_DEPTH <= 100);
