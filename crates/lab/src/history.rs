//! What was done in a run: every operation of every client, with its times and its outcome.
//!
//! ```
//! use rowbust_lab::history::{self, Kind, Op, Outcome, Writer};
//! let update = Op { start: 10, end: 25, version: 2, key: 7, process: 1, kind: Kind::Write, outcome: Outcome::Ok };
//! let mut file = Writer::new(Vec::new())?;
//! file.add(&update)?;
//! let bytes = file.finish()?;
//! assert_eq!(history::read(&*bytes)?, [update]);
//! # Ok::<(), history::ReadError>(())
//! ```
//!
//! Guarantees: what [`Writer`] has written is read back as it was, or refused with the record's number; a file that was cut short is
//! an error, never a shorter history. Depends on nothing of ours.

use std::io::{self, Read, Write};

/// A run's time in nanoseconds, of one monotonic clock.
///
/// ```
/// use rowbust_lab::history::Nanos;
/// const SECOND: Nanos = 1_000_000_000;
/// ```
pub type Nanos = u64;

/// The version of a row: increases by one with each write of its key, in the order of the database's commits. 0: there is no row.
///
/// ```
/// use rowbust_lab::history::Version;
/// let (first, second): (Version, Version) = (1, 2);
/// assert!(first < second);
/// ```
pub type Version = u64;

/// One operation of a client.
///
/// ```
/// use rowbust_lab::history::{Kind, Op, Outcome};
/// let op = Op { start: 10, end: 25, version: 2, key: 7, process: 1, kind: Kind::Load, outcome: Outcome::Ok };
/// assert_eq!(op.end - op.start, 15);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// When the client asked.
    pub start: Nanos,
    /// When it had its answer.
    pub end: Nanos,
    /// What it wrote or was given.
    pub version: Version,
    /// The row, by number.
    pub key: u32,
    /// The client. Its operations follow one another.
    pub process: u32,
    /// What was asked.
    pub kind: Kind,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client asked for.
///
/// ```
/// use rowbust_lab::history::Kind;
/// assert!(Kind::Hit.is_read() && Kind::Load.is_read() && !Kind::Write.is_read());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value, which the cache had.
    Hit,
    /// A value, which was read from the database.
    Load,
    /// A new version of the row.
    Write,
}

impl Kind {
    /// Not a write.
    ///
    /// Example: see [`Kind`].
    pub fn is_read(self) -> bool {
        self != Self::Write
    }
}

/// What came of an operation.
///
/// ```
/// use rowbust_lab::history::Outcome;
/// /// What an update's error says of its effect.
/// fn outcome(connection_lost: bool) -> Outcome {
///     if connection_lost { Outcome::Unknown } else { Outcome::Failed }
/// }
/// assert_eq!(outcome(true), Outcome::Unknown);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A read has its value; a write is committed, and was at [`Op::end`].
    Ok,
    /// A read has no value; a write has certainly no effect.
    Failed,
    /// Of a write: the connection was lost before the answer.
    Unknown,
}

/// First bytes of a file; the last one is the format's version.
const MAGIC: [u8; 8] = *b"rowbust\x01";
const RECORD: usize = 34;

/// Why a history can't be read.
///
/// ```
/// use rowbust_lab::history::{ReadError, read};
/// assert!(matches!(read(b"something else".as_slice()), Err(ReadError::Magic)));
/// assert!(matches!(read(b"rowbust\x01cut".as_slice()), Err(ReadError::CutShort(0))));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream fails.
    #[error("history: {0}")]
    Io(#[from] io::Error),
    /// Something else than a history, or of another version.
    #[error("not a history of this version: it doesn't begin with {MAGIC:?}")]
    Magic,
    /// It ends within a record.
    #[error("history: record {0} is cut short; the run didn't end in order")]
    CutShort(u64),
    /// No such kind or outcome.
    #[error("history: record {0} makes no sense")]
    Record(u64),
}

/// Writes operations one by one.
///
/// ```
/// use rowbust_lab::history::Writer;
/// let file = Writer::new(Vec::new())?;
/// assert_eq!(file.finish()?, b"rowbust\x01");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Begins a history.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// Example: see [`Writer`].
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        Ok(Self(to))
    }

    /// Adds an operation.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// Example: see [`read`].
    pub fn add(&mut self, op: &Op) -> io::Result<()> {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&op.start.to_le_bytes());
        record[8..16].copy_from_slice(&op.end.to_le_bytes());
        record[16..24].copy_from_slice(&op.version.to_le_bytes());
        record[24..28].copy_from_slice(&op.key.to_le_bytes());
        record[28..32].copy_from_slice(&op.process.to_le_bytes());
        record[32] = match op.kind {
            Kind::Hit => 0,
            Kind::Load => 1,
            Kind::Write => 2,
        };
        record[33] = match op.outcome {
            Outcome::Ok => 0,
            Outcome::Failed => 1,
            Outcome::Unknown => 2,
        };
        self.0.write_all(&record)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// Example: see [`Writer`].
    pub fn finish(mut self) -> io::Result<W> {
        self.0.flush()?;
        Ok(self.0)
    }
}

/// Reads a whole history. `from` should be buffered.
///
/// # Errors
/// See [`ReadError`].
///
/// ```
/// use rowbust_lab::history::{Kind, Op, Outcome, Writer, read};
/// let op = Op { start: 10, end: 25, version: 2, key: 7, process: 1, kind: Kind::Write, outcome: Outcome::Ok };
/// let mut file = Writer::new(Vec::new())?;
/// file.add(&op)?;
/// assert_eq!(read(&*file.finish()?)?, [op]);
/// # Ok::<(), rowbust_lab::history::ReadError>(())
/// ```
pub fn read(mut from: impl Read) -> Result<Vec<Op>, ReadError> {
    let mut magic = [0; MAGIC.len()];
    match from.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Err(ReadError::Magic),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Magic),
        Err(e) => return Err(e.into()),
    }
    let mut ops = Vec::new();
    let mut record = [0; RECORD];
    for number in 0.. {
        match fill(&mut from, &mut record)? {
            0 => break,
            RECORD => ops.push(decode(&record).ok_or(ReadError::Record(number))?),
            _ => return Err(ReadError::CutShort(number)),
        }
    }
    Ok(ops)
}

/// How much there was of it.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < to.len() {
        match from.read(&mut to[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn decode(record: &[u8; RECORD]) -> Option<Op> {
    let (start, rest) = record.split_first_chunk()?;
    let (end, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (process, rest) = rest.split_first_chunk()?;
    Some(Op {
        start: u64::from_le_bytes(*start),
        end: u64::from_le_bytes(*end),
        version: u64::from_le_bytes(*version),
        key: u32::from_le_bytes(*key),
        process: u32::from_le_bytes(*process),
        kind: match rest.first()? {
            0 => Kind::Hit,
            1 => Kind::Load,
            2 => Kind::Write,
            _ => return None,
        },
        outcome: match rest.get(1)? {
            0 => Outcome::Ok,
            1 => Outcome::Failed,
            2 => Outcome::Unknown,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let kind = prop_oneof![Just(Kind::Hit), Just(Kind::Load), Just(Kind::Write)];
        let outcome = prop_oneof![Just(Outcome::Ok), Just(Outcome::Failed), Just(Outcome::Unknown)];
        (any::<(u64, u64, u64, u32, u32)>(), kind, outcome).prop_map(
            |((start, end, version, key, process), kind, outcome)| Op {
                start,
                end,
                version,
                key,
                process,
                kind,
                outcome,
            },
        )
    }

    fn written(ops: &[Op]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for op in ops {
            writer.add(op).unwrap();
        }
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(ops in prop::collection::vec(op(), 0..20)) {
            prop_assert_eq!(read(&written(&ops)[..]).unwrap(), ops);
        }

        #[test]
        fn a_short_file_is_refused(ops in prop::collection::vec(op(), 1..5), cut in 1..RECORD) {
            let bytes = written(&ops);
            let short = read(&bytes[..bytes.len() - cut]);
            prop_assert!(matches!(short, Err(ReadError::CutShort(n)) if n == ops.len() as u64 - 1));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes[..]);
            let _ = read(&[&MAGIC[..], &bytes].concat()[..]);
        }
    }

    #[test]
    fn something_else_is_refused() {
        for bytes in [&b""[..], b"rowb", b"rowbust\x02", b"PK\x03\x04 and more of it"] {
            assert!(matches!(read(bytes), Err(ReadError::Magic)), "{bytes:?}");
        }
    }
}
