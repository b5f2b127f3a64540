//! A server's UUID: 16 bytes, printed the canonical way.

use std::fmt;
use std::str::FromStr;

use super::GtidParseError;

/// A MySQL server's `server_uuid`.
///
/// ```
/// use rowbust_binlog::Uuid;
/// let server: Uuid = "3E11FA47-71CA-11E1-9E33-C80AA9429562".parse()?;
/// assert_eq!(server.to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562");
/// # Ok::<(), rowbust_binlog::GtidParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = GtidParseError;

    /// 32 hex digits of either case, with the hyphens of the canonical form or with none (as MySQL accepts).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || GtidParseError::malformed(text, "a UUID");
        let bytes = text.as_bytes();
        let hyphens: &[usize] = match bytes.len() {
            36 => &[8, 13, 18, 23],
            32 => &[],
            _ => return Err(malformed()),
        };
        if hyphens.iter().any(|&i| bytes[i] != b'-') {
            return Err(malformed());
        }
        let mut digits = bytes.iter().enumerate().filter(|(i, _)| !hyphens.contains(i)).map(|(_, &b)| b);
        let mut out = [0; 16];
        for byte in &mut out {
            let (Some(high), Some(low)) = (digits.next().and_then(hex), digits.next().and_then(hex)) else {
                return Err(malformed());
            };
            *byte = high << 4 | low;
        }
        Ok(Self(out))
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
