//! DECIMAL's binary form (`decimal2bin` in the servers' `strings/decimal.c`): groups of nine digits in four bytes,
//! the rest in fewer, big-endian, with the sign bit turned over and all bits turned over below zero.

/// Bytes for a rest of 0 to 9 digits.
const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// 10⁰ to 10⁹.
const POW10: [u32; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Bytes that a DECIMAL(precision, scale) takes; `None` if there is no such type.
pub(crate) fn size(precision: u8, scale: u8) -> Option<usize> {
    // DECIMAL_MAX_PRECISION 65, DECIMAL_MAX_SCALE 30 (38 on MariaDB); DECIMAL_MAX_POSSIBLE_PRECISION 81.
    if precision == 0 || precision > 81 || scale > precision {
        return None;
    }
    let (int, frac) = (usize::from(precision - scale), usize::from(scale));
    Some(int / 9 * 4 + BYTES[int % 9] + frac / 9 * 4 + BYTES[frac % 9])
}

/// Appends the decimal's text with all `scale` digits; false, and nothing is appended, if the bytes are none.
pub(crate) fn write(bytes: &[u8], precision: u8, scale: u8, out: &mut Vec<u8>) -> bool {
    let (Some(len), Some(&first)) = (size(precision, scale), bytes.first()) else { return false };
    if len != bytes.len() {
        return false;
    }
    let negative = first & 0x80 == 0;
    let mask = if negative { 0xff } else { 0 };
    let at = out.len();
    let mut pos = 0;
    let mut group = |digits: usize, out: &mut Vec<u8>| -> bool {
        let mut value: u32 = 0;
        for _ in 0..BYTES[digits] {
            let sign_bit = if pos == 0 { 0x80 } else { 0 };
            let Some(byte) = bytes.get(pos) else { return false };
            value = value << 8 | u32::from(byte ^ mask ^ sign_bit);
            pos += 1;
        }
        if value >= POW10[digits] {
            return false;
        }
        for place in POW10[..digits].iter().rev() {
            out.push(b'0' + (value / place % 10) as u8);
        }
        true
    };
    let (int, frac) = (usize::from(precision - scale), usize::from(scale));
    let mut ok = int % 9 == 0 || group(int % 9, out);
    for _ in 0..int / 9 {
        ok = ok && group(9, out);
    }
    // No leading zeros, but one before the point.
    let zeros = out[at..].iter().take_while(|&&d| d == b'0').count();
    out.drain(at..at + zeros);
    if out.len() == at {
        out.push(b'0');
    }
    if negative {
        out.insert(at, b'-');
    }
    if frac > 0 {
        out.push(b'.');
    }
    for _ in 0..frac / 9 {
        ok = ok && group(9, out);
    }
    ok = ok && (frac % 9 == 0 || group(frac % 9, out));
    if !ok {
        out.truncate(at);
    }
    ok
}
