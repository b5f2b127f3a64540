//! Slots of a Redis cluster.
//!
//! Example: see [`slot`].
//!
//! Guarantees: a key's slot is what the cluster specification says (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>,
//! "Hash tags", appendix A).

/// Slots of a cluster.
///
/// Example: see [`slot`].
pub const SLOTS: u16 = 16384;

/// The slot of a key.
///
/// ```
/// use rowbust_protocol::slots::{SLOTS, slot};
/// assert_eq!(slot(b"product:{7}"), slot(b"rowbust:lock:{7}"));
/// assert!(slot(b"product:7") < SLOTS);
/// ```
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hashed(key)) % SLOTS
}

/// What of the key is hashed: what stands between the first `{` and the first `}` behind it, if that is anything; else all.
fn hashed(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else { return key };
    let inner = &key[open + 1..];
    match inner.iter().position(|b| *b == b'}') {
        None | Some(0) => key,
        Some(close) => &inner[..close],
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc: u16, byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ TABLE[usize::from(high ^ byte)]
    })
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut i: u16 = 0;
    while i < 256 {
        let mut crc = i << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[i as usize] = crc;
        i += 1;
    }
    table
}

/// Numbers, as text, that hash to slots for which `is_own` holds, at most `count`; the least ones, so that they stay the same.
///
/// ```
/// use rowbust_protocol::slots::{slot, tags};
/// // Of a master that serves the slots from 0 to 5460.
/// let found = tags(|slot| slot <= 5460, 2);
/// assert_eq!(found.len(), 2);
/// assert!(slot(format!("rowbust:frontier:{{{}}}:main", found[0]).as_bytes()) <= 5460);
/// ```
pub fn tags(is_own: impl Fn(u16) -> bool, count: usize) -> Vec<String> {
    // Every slot is met within the first 200,000 numbers (a test says so).
    (0..200_000u32).map(|n| n.to_string()).filter(|text| is_own(slot(text.as_bytes()))).take(count).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slots_as_redis_computes_them() {
        // CLUSTER KEYSLOT on Redis 7.0.15.
        let known: [(&[u8], u16); 8] = [
            (b"123456789", 12739),
            (b"foo", 12182),
            (b"{foo}bar", 12182),
            (b"a{foo}bar{zap}", 12182),
            (b"foo{}{bar}", 8363),
            (b"foo{{bar}}zap", 4015),
            (b"", 0),
            (b"{user1000}.following", 3443),
        ];
        for (key, expected) in known {
            assert_eq!(slot(key), expected, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn every_slot_has_a_tag() {
        let mut seen = vec![false; usize::from(SLOTS)];
        for n in 0..200_000u32 {
            seen[usize::from(slot(n.to_string().as_bytes()))] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        let found = tags(|slot| slot == 12182, 2);
        assert!(!found.is_empty());
        assert!(found.iter().all(|tag| slot(format!("rowbust:{{{tag}}}").as_bytes()) == 12182));
    }
}
