//! CRC32 (IEEE) of an event. `crc32fast` is fast from 128 bytes on, but goes byte by byte below: most events of
//! small transactions are that short, so these are done here by sixteen bytes a step ("slicing-by-16", Kounavis and
//! Berry, Intel 2006).

/// From this length on `crc32fast` uses the processor's carry-less multiplication.
const LONG: usize = 128;

/// `TABLES[k][b]`: the CRC of byte `b` with `k` zero bytes behind it.
static TABLES: [[u32; 256]; 16] = tables();

const fn tables() -> [[u32; 256]; 16] {
    let mut tables = [[0; 256]; 16];
    let mut b = 0;
    while b < 256 {
        // The reflected polynomial.
        #[allow(clippy::cast_possible_truncation)]
        let (mut crc, mut bit) = (b as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xedb8_8320 };
            bit += 1;
        }
        tables[0][b] = crc;
        b += 1;
    }
    let mut k = 1;
    while k < 16 {
        let mut b = 0;
        while b < 256 {
            let crc = tables[k - 1][b];
            tables[k][b] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            b += 1;
        }
        k += 1;
    }
    tables
}

/// The CRC32 of some bytes, whose CRC32 is `crc` (0 if they are none), and of `bytes` behind them.
#[inline]
pub(crate) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    if bytes.len() < LONG {
        return short(crc, bytes);
    }
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

fn short(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let mut block = *block;
        for (byte, start) in block.iter_mut().zip(crc.to_le_bytes()) {
            *byte ^= start;
        }
        crc = 0;
        for (k, &byte) in block.iter().enumerate() {
            crc ^= TABLES[15 - k][usize::from(byte)];
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        let [a, b, c, d] = (u32::from_le_bytes(*word) ^ crc).to_le_bytes();
        crc = TABLES[3][usize::from(a)]
            ^ TABLES[2][usize::from(b)]
            ^ TABLES[1][usize::from(c)]
            ^ TABLES[0][usize::from(d)];
    }
    for &byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ TABLES[0][usize::from(low ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn agrees_with_crc32fast_at_every_length() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for len in 0..bytes.len() {
            assert_eq!(super::crc32(0, &bytes[..len]), crc32fast::hash(&bytes[..len]), "{len}");
            let (head, tail) = bytes.split_at(len);
            assert_eq!(super::crc32(super::crc32(0, head), tail), crc32fast::hash(&bytes), "{len}");
        }
    }
}
