//! Bytes of a value to bytes of a key.

/// Whether an ASCII byte of a value is written as `%XX`. Bytes from 0x80 are judged by UTF-8, not here.
pub(super) fn must_escape(byte: u8) -> bool {
    matches!(byte, 0x00..=0x20 | 0x7f | b'%' | b':' | b'{' | b'}')
}

/// Whether nothing has to be escaped and no filter could find more than ASCII: the usual case, in one pass.
pub(super) fn is_plain(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte < 0x80 && !must_escape(byte))
}

/// Two hexadecimal digits.
pub(super) fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

/// Appends a value as templates escape it (see the [module](super)); whether a byte had to be escaped. For clients
/// that build keys without a template.
///
/// ```
/// use rowbust_protocol::template::escape_into;
/// let mut key = b"product:sku:".to_vec();
/// assert!(escape_into(b"A:1", &mut key));
/// assert_eq!(key, b"product:sku:A%3A1");
/// ```
pub fn escape_into(value: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    for chunk in value.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            if must_escape(byte) {
                percent(byte, out);
            } else {
                out.push(byte);
            }
        }
        for &byte in chunk.invalid() {
            percent(byte, out);
        }
    }
    out.len() - before != value.len()
}

/// The inverse: `%XX` becomes its byte, anything else stays.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(escaped) => {
                out.push(escaped);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

fn percent(byte: u8, out: &mut Vec<u8>) {
    out.push(b'%');
    out.extend_from_slice(&hex(byte, b"0123456789ABCDEF"));
}

/// Appends the lower case of a text.
pub(super) fn lower_into(text: &str, out: &mut Vec<u8>) {
    if text.contains('Σ') {
        // The only character whose lower case depends on its neighbours.
        out.extend_from_slice(text.to_lowercase().as_bytes());
    } else {
        text.chars().flat_map(char::to_lowercase).for_each(|c| push_char(c, out));
    }
}

/// Appends the upper case of a text.
pub(super) fn upper_into(text: &str, out: &mut Vec<u8>) {
    text.chars().flat_map(char::to_uppercase).for_each(|c| push_char(c, out));
}

fn push_char(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
