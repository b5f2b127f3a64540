//! MariaDB's COMPRESSED columns (`compress_zlib` in `sql/field_comp.cc`): a byte that tells the method, the length of the
//! original, and a deflate stream.

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags as flags},
};

use crate::text::TextError;

/// The longest original that is inflated, in bytes: what is longer stands in no key.
const MAX_LEN: usize = 16 << 20;

/// What is inflated at first; more only as the stream goes on, whatever length it states.
const STEP: usize = 64 << 10;

/// Appends the original; on an error what was appended is the caller's to remove.
pub(crate) fn inflate(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TextError> {
    const MALFORMED: TextError = TextError::Malformed("COMPRESSED");
    let Some((&header, rest)) = bytes.split_first() else { return Ok(()) };
    match header >> 4 {
        // As it is: compressed it would be longer.
        0 => {
            out.extend_from_slice(rest);
            return Ok(());
        }
        8 => {}
        _ => return Err(MALFORMED),
    }
    let (len, stream) = rest.split_at_checked((header & 7).into()).ok_or(MALFORMED)?;
    let len = len.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let len = match usize::try_from(len) {
        Ok(len) if len <= MAX_LEN => len,
        _ => return Err(TextError::OutOfRange { what: "length of a COMPRESSED value", value: len }),
    };
    let wrapped = if header & 8 == 0 { flags::TINFL_FLAG_PARSE_ZLIB_HEADER } else { 0 };
    let options = flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | wrapped;
    let mut state = DecompressorOxide::new();
    let (start, mut stream, mut done) = (out.len(), stream, 0);
    loop {
        let room = len.min(done + STEP.max(done));
        out.resize(start + room, 0);
        let window = out.get_mut(start..).unwrap_or_default();
        let (status, read, written) = decompress(&mut state, stream, window, done, options);
        stream = stream.get(read..).unwrap_or_default();
        done += written;
        match status {
            TINFLStatus::Done if done == len => return Ok(()),
            TINFLStatus::HasMoreOutput if done < len => {}
            _ => return Err(MALFORMED),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<Vec<u8>, TextError> {
        let mut out = b"kept".to_vec();
        inflate(bytes, &mut out)?;
        Ok(out.split_off(4))
    }

    #[test]
    fn reads_what_mariadb_writes() {
        assert_eq!(text(b"").unwrap(), b"");
        assert_eq!(text(b"\0short").unwrap(), b"short");
        // repeat('ab', 140); repeat('cd', 140) with column_compression_zlib_wrap; 300 é of latin1; 60000 x.
        assert_eq!(
            text(b"\x8a\x01\x18\x4b\x4c\x4a\x1c\x85\x58\x20\x00").unwrap(),
            "ab".repeat(140).as_bytes()
        );
        let wrapped = b"\x82\x01\x18\x78\x9c\x4b\x4e\x49\x1e\x85\x58\x20\x00\xbe\xa1\x6c\xd5";
        assert_eq!(text(wrapped).unwrap(), "cd".repeat(140).as_bytes());
        assert_eq!(text(b"\x8a\x01\x2c\x7b\xf9\x72\x14\x10\x0b\x00").unwrap(), [0xe9; 300]);
        let mut long = b"\x8a\xea\x60\xed\xc1\x31\x01\x00\x00\x00\xc2\xa0\xda\x8b\x6f\x0d\x0f\xa0".to_vec();
        long.resize(76, 0);
        long.extend(b"\xbe\x0c");
        assert_eq!(text(&long).unwrap(), [b'x'; 60_000]);
    }

    #[test]
    fn refuses_what_it_does_not_write() {
        for bytes in [
            &b"\x8a\x01"[..],
            b"\x8a\x01\x18",
            b"\x8a\x01\x18\x4b\x4c",
            b"\x90\x01",
            // Another length than the stream's.
            b"\x8a\x01\x19\x4b\x4c\x4a\x1c\x85\x58\x20\x00",
            b"\x8a\x01\x17\x4b\x4c\x4a\x1c\x85\x58\x20\x00",
            b"\x8f\0\0\0\0\0\xff\xff",
        ] {
            assert_eq!(text(bytes), Err(TextError::Malformed("COMPRESSED")), "{bytes:x?}");
        }
        assert!(matches!(text(b"\x8f\xff\0\0\0\0\0\0\0"), Err(TextError::OutOfRange { .. })));
    }
}
