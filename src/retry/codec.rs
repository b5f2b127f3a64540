//! The bytes of a record in the disk store.
//!
//! Guarantees: decoding never panics and allocates no more than its input holds; a byte that changed is found (CRC-32);
//! a layout that a newer version wrote is refused, not misread. May depend on [`super::record`] only.
//!
//! Layout: version byte, fields in order (integers little-endian, bytes and strings with a u32 length before them), CRC-32
//! of all before it. A record is written in the oldest version that can say it, so that an older rowbust still reads what it
//! can carry out.

use super::record::{Op, Origin, Record};

/// Version of the layout, the first byte.
const VERSION: u8 = 1;
/// Adds operations other than UNLINK and HDEL.
const VERSION_OPS: u8 = 2;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A newer version wrote it.
    #[error("layout version {0} is not known")]
    Version(u8),
    /// Fewer bytes than it says.
    #[error("cut off at byte {0}")]
    CutOff(usize),
    /// A byte changed.
    #[error("checksum differs")]
    Checksum,
    /// A text that is none.
    #[error("text at byte {0} is not UTF-8")]
    Utf8(usize),
    /// An operation of another kind.
    #[error("operation {0} is not known")]
    Op(u8),
    /// A flag of another kind.
    #[error("flag {0} is neither 0 nor 1")]
    Flag(u8),
    /// More bytes than it says.
    #[error("{0} bytes too many")]
    TooLong(usize),
}

/// A dead letter as the disk store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) died_ms: u64,
    pub(super) reason: String,
    /// Encoded record, or the bytes that couldn't be decoded.
    pub(super) payload: Vec<u8>,
}

/// The bytes of a record.
pub fn encode(record: &Record) -> Vec<u8> {
    let version = match record.op {
        Op::Unlink | Op::Hdel { .. } => VERSION,
        Op::Prefix | Op::MembersOf | Op::Row { .. } => VERSION_OPS,
    };
    let mut out = Writer::new(version, 160 + record.key.len() + record.origin.gtid.len());
    out.bytes(record.target.as_bytes());
    out.bytes(&record.key);
    match &record.op {
        Op::Unlink => out.0.push(0),
        Op::Hdel { field } => {
            out.0.push(1);
            out.bytes(field);
        }
        Op::Prefix => out.0.push(2),
        Op::MembersOf => out.0.push(3),
        Op::Row { table } => {
            out.0.push(4);
            out.bytes(table.as_bytes());
        }
    }
    let origin = &record.origin;
    out.bytes(origin.source.as_bytes());
    out.bytes(origin.gtid.as_bytes());
    out.bytes(origin.file.as_bytes());
    out.u64(origin.position);
    out.0.extend_from_slice(&origin.row.to_le_bytes());
    out.u32(origin.commit_time);
    out.u64(origin.epoch);
    out.bytes(origin.visible_file.as_bytes());
    out.u64(origin.visible_position);
    out.0.push(u8::from(record.when_visible));
    out.u64(record.fill_grace_ms);
    out.u32(record.attempt);
    out.u64(record.not_before_ms);
    out.u64(record.first_failed_ms);
    out.bytes(record.error_code.as_bytes());
    out.seal()
}

/// The record of these bytes.
///
/// # Errors
/// They are none of this layout.
pub fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
    let mut input = Reader::open(bytes, VERSION_OPS)?;
    let target = input.text()?;
    let key = input.bytes()?.to_vec();
    let op = match (input.array::<1>()?, bytes[0]) {
        // Each operation in one version alone, so that a record has one form.
        ([0], VERSION) => Op::Unlink,
        ([1], VERSION) => Op::Hdel { field: input.bytes()?.to_vec() },
        ([2], VERSION_OPS) => Op::Prefix,
        ([3], VERSION_OPS) => Op::MembersOf,
        ([4], VERSION_OPS) => Op::Row { table: input.text()? },
        ([other], _) => return Err(CodecError::Op(other)),
    };
    let origin = Origin {
        source: input.text()?,
        gtid: input.text()?,
        file: input.text()?,
        position: input.u64()?,
        row: u16::from_le_bytes(input.array()?),
        commit_time: input.u32()?,
        epoch: input.u64()?,
        visible_file: input.text()?,
        visible_position: input.u64()?,
    };
    let record = Record {
        target,
        key,
        op,
        origin,
        when_visible: input.flag()?,
        fill_grace_ms: input.u64()?,
        attempt: input.u32()?,
        not_before_ms: input.u64()?,
        first_failed_ms: input.u64()?,
        error_code: input.text()?,
    };
    input.end()?;
    Ok(record)
}

pub(super) fn encode_letter(letter: &Letter) -> Vec<u8> {
    let mut out = Writer::new(VERSION, 32 + letter.reason.len() + letter.payload.len());
    out.u64(letter.died_ms);
    out.bytes(letter.reason.as_bytes());
    out.bytes(&letter.payload);
    out.seal()
}

pub(super) fn decode_letter(bytes: &[u8]) -> Result<Letter, CodecError> {
    let mut input = Reader::open(bytes, VERSION)?;
    let letter = Letter { died_ms: input.u64()?, reason: input.text()?, payload: input.bytes()?.to_vec() };
    input.end()?;
    Ok(letter)
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(version: u8, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(version);
        Self(out)
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Redis keys end at 512 MiB, so a length always fits; a longer one is cut rather than written with a wrong length.
    fn bytes(&mut self, value: &[u8]) {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(len);
        self.0.extend_from_slice(&value[..(len as usize).min(value.len())]);
    }

    fn seal(mut self) -> Vec<u8> {
        let crc = crc32fast::hash(&self.0);
        self.u32(crc);
        self.0
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8], newest: u8) -> Result<Self, CodecError> {
        let version = *bytes.first().ok_or(CodecError::CutOff(0))?;
        if !(VERSION..=newest).contains(&version) {
            return Err(CodecError::Version(version));
        }
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(CodecError::CutOff(bytes.len()))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(CodecError::Checksum);
        }
        Ok(Self { bytes: body, at: 1 })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let chunk = *rest.first_chunk::<N>().ok_or(CodecError::CutOff(self.at))?;
        self.at += N;
        Ok(chunk)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, CodecError> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(CodecError::Flag(other)),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()? as usize;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let value = rest.get(..len).ok_or(CodecError::CutOff(self.at))?;
        self.at += len;
        Ok(value)
    }

    fn text(&mut self) -> Result<String, CodecError> {
        let at = self.at;
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Utf8(at))
    }

    fn end(&self) -> Result<(), CodecError> {
        match self.bytes.len().saturating_sub(self.at) {
            0 => Ok(()),
            more => Err(CodecError::TooLong(more)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_origin()(
            source in ".{0,40}", gtid in ".{0,60}", file in ".{0,20}", position: u64, row: u16, commit_time: u32, epoch: u64,
            visible_file in ".{0,20}", visible_position: u64,
        ) -> Origin {
            Origin { source, gtid, file, position, row, commit_time, epoch, visible_file, visible_position }
        }
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Unlink),
            any::<Vec<u8>>().prop_map(|field| Op::Hdel { field }),
            Just(Op::Prefix),
            Just(Op::MembersOf),
            ".{0,20}".prop_map(|table| Op::Row { table }),
        ]
    }

    prop_compose! {
        /// Any record at all.
        pub(in super::super) fn any_record()(
            target in "[a-z:-]{0,12}", key in any::<Vec<u8>>(), op in any_op(), origin in any_origin(),
            when_visible: bool, fill_grace_ms: u64, attempt: u32, not_before_ms: u64, first_failed_ms: u64, error_code in ".{0,20}",
        ) -> Record {
            Record {
                target, key, op, origin, when_visible, fill_grace_ms, attempt, not_before_ms, first_failed_ms, error_code,
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(record in any_record()) {
            prop_assert_eq!(decode(&encode(&record)).unwrap(), record);
        }

        #[test]
        fn letter_round_trip(died_ms: u64, reason in ".{0,60}", payload: Vec<u8>) {
            let letter = Letter { died_ms, reason, payload };
            prop_assert_eq!(decode_letter(&encode_letter(&letter)).unwrap(), letter);
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            // And past the checksum.
            for version in [VERSION, VERSION_OPS] {
                let mut sealed = Writer(std::iter::once(version).chain(bytes.iter().copied()).collect()).seal();
                let _ = decode(&sealed);
                let _ = decode_letter(&sealed);
                sealed.pop();
                prop_assert!(decode(&sealed).is_err());
            }
        }

        #[test]
        fn one_changed_byte_is_found(record in any_record(), at: prop::sample::Index, by in 1u8..) {
            let mut bytes = encode(&record);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(decode(&bytes).is_err());
        }
    }

    /// As the first release wrote them: UNLINK and HDEL are still written so.
    #[test]
    fn the_first_layout_stays() {
        let unlink = super::super::policy::tests::record("k");
        let hdel = Record { op: Op::Hdel { field: b"f".to_vec() }, ..unlink.clone() };
        for (record, op) in [(&unlink, &[0][..]), (&hdel, &[1, 1, 0, 0, 0, b'f'])] {
            let bytes = encode(record);
            // Version, target with its length, key with its length, operation.
            let head =
                [&[1, 4, 0, 0, 0][..], b"main", &[1, 0, 0, 0], b"k", op, &[4, 0, 0, 0], b"8c1f"].concat();
            assert_eq!(bytes[..head.len()], head);
            assert_eq!(decode(&bytes).as_ref(), Ok(record));
        }
        let prefix = Record { op: Op::Prefix, ..unlink };
        let mut bytes = encode(&prefix);
        assert_eq!(bytes[0], VERSION_OPS);
        // An operation that this version of the layout doesn't have.
        bytes[0] = VERSION;
        let body = bytes.len() - 4;
        bytes.truncate(body);
        assert_eq!(decode(&Writer(bytes).seal()), Err(CodecError::Op(2)));
        assert_eq!(decode(&Writer(vec![3]).seal()), Err(CodecError::Version(3)));
    }
}
