//! Integers of variable length in MySQL's serialization library: the ones at the low end of the first byte count the
//! bytes behind it (`libs/mysql/serialization/variable_length_integers.h`).

use crate::error::DecodeError;
use crate::reader::Reader;

/// Reads one without a sign.
pub(crate) fn unsigned(r: &mut Reader<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let first = r.u8(what)?;
    let more = first.trailing_ones();
    let behind = r.take(more as usize, what)?;
    let high = behind.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    if more >= 7 {
        // None of the first byte's bits are left.
        return Ok(high);
    }
    Ok(high << (7 - more) | u64::from(first >> (more + 1)))
}

/// Reads one with a sign, which is the lowest bit.
pub(crate) fn signed(r: &mut Reader<'_>, what: &'static str) -> Result<i64, DecodeError> {
    let n = unsigned(r, what)?;
    let magnitude = (n >> 1).cast_signed();
    Ok(if n & 1 == 0 { magnitude } else { !magnitude })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As the library writes it, from its comment.
    pub(crate) fn encode(n: u64) -> Vec<u8> {
        let bits = 64 - n.leading_zeros();
        let more = bits.saturating_sub(1) / 7;
        match more {
            0..=7 => {
                let word = u128::from(n) << (more + 1) | ((1 << more) - 1);
                word.to_le_bytes()[..=more as usize].to_vec()
            }
            _ => [&[0xff][..], &n.to_le_bytes()].concat(),
        }
    }

    #[test]
    fn there_and_back() {
        let mut n = 1_u64;
        for shift in 0..64 {
            for n in [n.wrapping_sub(1), n, n | 1, u64::MAX >> shift] {
                let bytes = encode(n);
                let mut r = Reader::body(&bytes, 42);
                assert_eq!(unsigned(&mut r, "n").unwrap(), n, "{bytes:?}");
                assert!(r.is_empty());
                assert!(unsigned(&mut Reader::body(&bytes[1..], 42), "n").is_err() || bytes.len() > 1);
                let value = (n >> 1).cast_signed();
                for (value, coded) in [(value, n >> 1 << 1), (!value, n >> 1 << 1 | 1)] {
                    assert_eq!(signed(&mut Reader::body(&encode(coded), 42), "n").unwrap(), value);
                }
            }
            n <<= 1;
        }
    }

    #[test]
    fn what_mysql_9_writes() {
        // The fields of a real event: 318 bytes, version 90704, GNO 4000000000.
        for (bytes, n) in [(&[0xf9, 0x04][..], 318), (&[0x83, 0x12, 0x0b], 90_704)] {
            assert_eq!(unsigned(&mut Reader::body(bytes, 42), "n").unwrap(), n);
        }
        let gno = signed(&mut Reader::body(&[0x0f, 0x00, 0xca, 0x9a, 0x3b], 42), "gno").unwrap();
        assert_eq!(gno, 4_000_000_000);
    }
}
