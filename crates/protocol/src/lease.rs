//! What stands at a guarded key: the application's value, the note that there is none, or a lease.
//!
//! A lease has 64 bytes: [`MAGIC`] (16), the token as 32 lower-case hex digits, and the deadline by Redis' clock, in milliseconds since
//! 1970, as 16 decimal digits. Value and lease share the key, so that eviction and `UNLINK` take the lease with them.
//!
//! While a value is loaded anew before its time, its reader's lease stands before it: [`EARLY`] (16) and the token, then what was there.
//!
//! A value is kept as the application's bytes. Whatever begins with [`RESERVED`] is ours: such a value is refused when it is to be
//! written ([`check_value`]), not escaped, so that programs which read the key without this library find what they expect. (It begins
//! with a zero byte: no JSON, XML or other text does.)
//!
//! Example: see [`Held`].
//!
//! Guarantees: any bytes are told apart without a panic; no byte string is both a value and something of ours.

use std::{fmt, str::FromStr};

/// What begins with this is no application's value.
///
/// ```
/// use rowbust_protocol::lease::{MAGIC, NULL, RESERVED};
/// assert!(MAGIC.starts_with(RESERVED) && NULL.starts_with(RESERVED));
/// ```
pub const RESERVED: &[u8] = b"\0rowbust:";
/// What a lease begins with; its last byte is the version of the format.
///
/// Example: see [`RESERVED`].
pub const MAGIC: &[u8; 16] = b"\0rowbust:lease:1";
/// What stands before a value, with a token behind it, while who has the token loads it anew. Its last byte is the version of the format.
///
/// Example: see [`Held`].
pub const EARLY: &[u8; 16] = b"\0rowbust:early:1";
/// A key with this is cached as *absent*: the database has no such row.
///
/// Example: see [`Held`].
pub const NULL: &[u8] = b"\0rowbust:null:1";
/// Bytes of a lease.
///
/// ```
/// use rowbust_protocol::lease::{LEN, Lease, Token};
/// assert_eq!(Lease::new(Token::from_bytes([0; 16]), 0).encode().len(), LEN);
/// ```
pub const LEN: usize = 64;
/// The largest deadline that can be written.
const MAX_DEADLINE: u64 = 9_999_999_999_999_999;
/// Where the token ends, and the deadline begins.
const TOKEN_END: usize = 48;

/// 128 random bits: who may fill.
///
/// ```
/// use rowbust_protocol::lease::Token;
/// let token: Token = "000102030405060708090a0b0c0d0e0f".parse()?;
/// assert_eq!(token.as_bytes()[15], 0x0f);
/// assert_eq!(token.to_string().as_bytes(), token.to_hex());
/// # Ok::<(), rowbust_protocol::lease::NoToken>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

impl Token {
    /// Of these bytes, which must come from a source of randomness: two alike would let one caller fill with the other's lease.
    ///
    /// ```
    /// use rowbust_protocol::lease::Token;
    /// # let random = || [7; 16];
    /// let token = Token::from_bytes(random());
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    ///
    /// Example: see [`Token`].
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// As it is written: 32 lower-case hex digits.
    ///
    /// Example: see [`Token`].
    #[must_use]
    pub fn to_hex(self) -> [u8; 32] {
        let mut hex = [b'0'; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            for (digit, value) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
            }
        }
        hex
    }

    /// What a key's value begins with while it holds a lease with this token.
    ///
    /// ```
    /// use rowbust_protocol::lease::{Lease, Token};
    /// let token = Token::from_bytes([0xab; 16]);
    /// // Whatever its deadline.
    /// assert!(Lease::new(token, 1_795_331_626_000).encode().starts_with(&token.lease_prefix()));
    /// ```
    #[must_use]
    pub fn lease_prefix(self) -> [u8; TOKEN_END] {
        self.behind(MAGIC)
    }

    /// What a key's value begins with while this token's lease stands before a value.
    ///
    /// Example: see [`Held`].
    #[must_use]
    pub fn early_prefix(self) -> [u8; TOKEN_END] {
        self.behind(EARLY)
    }

    fn behind(self, magic: &[u8; 16]) -> [u8; TOKEN_END] {
        let mut prefix = [0; TOKEN_END];
        let parts = magic.iter().copied().chain(self.to_hex());
        for (to, from) in prefix.iter_mut().zip(parts) {
            *to = from;
        }
        prefix
    }

    fn from_hex(hex: &[u8]) -> Option<Self> {
        let hex: &[u8; 32] = hex.try_into().ok()?;
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let &[high, low] = <&[u8; 2]>::try_from(pair).ok()?;
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// Text that is no token.
///
/// ```
/// use rowbust_protocol::lease::{NoToken, Token};
/// assert_eq!("ABCD".parse::<Token>(), Err(NoToken));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 32 lower-case hex digits")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        Self::from_hex(text.as_bytes()).ok_or(NoToken)
    }
}

/// The right to fill a key, as it stands in Redis.
///
/// ```
/// use rowbust_protocol::lease::{Held, Lease, Token};
/// let lease = Lease::new(Token::from_bytes([0xab; 16]), 1_795_331_626_000);
/// assert_eq!(Held::parse(&lease.encode()), Held::Lease(lease));
/// assert_eq!(Held::parse(b"{\"id\":1}"), Held::Value(b"{\"id\":1}"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    token: Token,
    deadline: u64,
}

impl Lease {
    /// `deadline`: milliseconds since 1970 by Redis' clock, at most sixteen digits of them (later ones are cut to that).
    ///
    /// Example: see [`Lease`].
    #[must_use]
    pub fn new(token: Token, deadline: u64) -> Self {
        Self { token, deadline: deadline.min(MAX_DEADLINE) }
    }

    /// Who may fill.
    ///
    /// ```
    /// use rowbust_protocol::lease::{Lease, Token};
    /// let mine = Token::from_bytes([0xab; 16]);
    /// assert_eq!(Lease::new(mine, 1_795_331_626_000).token(), mine);
    /// ```
    #[must_use]
    pub const fn token(&self) -> Token {
        self.token
    }

    /// Until when, in milliseconds since 1970 by Redis' clock. Only who else wants to fill looks at it: a fill under this token is
    /// accepted for as long as the lease stands.
    ///
    /// ```
    /// use rowbust_protocol::lease::{Lease, Token};
    /// let lease = Lease::new(Token::from_bytes([0xab; 16]), u64::MAX);
    /// assert_eq!(lease.deadline(), 9_999_999_999_999_999);
    /// ```
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Its bytes.
    ///
    /// Example: see [`Lease`].
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [b'0'; LEN];
        let (head, tail) = bytes.split_at_mut(TOKEN_END);
        head.copy_from_slice(&self.token.lease_prefix());
        let mut rest = self.deadline;
        for digit in tail.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        bytes
    }

    /// From bytes of exactly this form; `None` for any others.
    ///
    /// ```
    /// use rowbust_protocol::lease::{Lease, Token};
    /// let lease = Lease::new(Token::from_bytes([0xab; 16]), 1_795_331_626_000);
    /// let bytes = lease.encode();
    /// assert_eq!(Lease::decode(&bytes), Some(lease));
    /// assert_eq!(Lease::decode(&bytes[..63]), None);
    /// ```
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let (token, deadline) =
            bytes.strip_prefix(MAGIC.as_slice())?.split_at_checked(TOKEN_END - MAGIC.len())?;
        let token = Token::from_hex(token)?;
        let deadline = deadline
            .iter()
            .try_fold(0u64, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u64::from(digit - b'0')))?;
        Some(Self { token, deadline })
    }
}

/// What stands at a key.
///
/// ```
/// use rowbust_protocol::lease::{EARLY, Held, NULL, Token};
/// /// What a reader hands out; `None`: a miss.
/// fn value(bytes: &[u8]) -> Option<Option<&[u8]>> {
///     match Held::parse(bytes) {
///         Held::Value(value) | Held::Early { value: Some(value), .. } => Some(Some(value)),
///         Held::Null | Held::Early { value: None, .. } => Some(None),
///         Held::Lease(_) | Held::Unknown => None,
///     }
/// }
/// assert_eq!(value(b"{}"), Some(Some(b"{}".as_slice())));
/// assert_eq!(value(NULL), Some(None));
/// let token = Token::from_bytes([7; 16]);
/// assert!(token.early_prefix().starts_with(EARLY));
/// assert_eq!(value(&[token.early_prefix().as_slice(), b"{}"].concat()), Some(Some(b"{}".as_slice())));
/// assert_eq!(value(b"\0rowbust:lease:2..."), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<'a> {
    /// The application's bytes.
    Value(&'a [u8]),
    /// The note that the database has no such row.
    Null,
    /// A value that somebody is loading anew; it may be handed out meanwhile.
    Early {
        /// Who may fill.
        token: Token,
        /// The application's bytes; `None`: the note that the database has no such row.
        value: Option<&'a [u8]>,
    },
    /// Somebody may fill it: a miss.
    Lease(Lease),
    /// Something of ours that this version doesn't know: a miss, too.
    Unknown,
}

impl<'a> Held<'a> {
    /// Tells them apart.
    ///
    /// Example: see [`Held`].
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        if let Some(plain) = Self::parse_plain(bytes) {
            return plain;
        }
        Lease::decode(bytes).map(Self::Lease).or_else(|| Self::early(bytes)).unwrap_or(Self::Unknown)
    }

    fn early(bytes: &'a [u8]) -> Option<Self> {
        let (token, behind) =
            bytes.strip_prefix(EARLY.as_slice())?.split_at_checked(TOKEN_END - EARLY.len())?;
        let token = Token::from_hex(token)?;
        match Self::parse_plain(behind)? {
            Self::Null => Some(Self::Early { token, value: None }),
            _ => Some(Self::Early { token, value: Some(behind) }),
        }
    }

    /// A value, or the note that there is none.
    fn parse_plain(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            NULL => Some(Self::Null),
            _ => (!bytes.starts_with(RESERVED)).then_some(Self::Value(bytes)),
        }
    }
}

/// A value that would be taken for one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value begins with \"\\0rowbust:\", which marks rowbust's own entries: encode it otherwise, for example with a first byte that isn't zero"
)]
///
/// ```
/// use rowbust_protocol::lease::{ReservedValue, check_value};
/// assert_eq!(check_value(b"\0rowbust:null:1"), Err(ReservedValue));
/// assert!(ReservedValue.to_string().contains("encode it otherwise"));
/// ```
pub struct ReservedValue;

/// Whether these bytes may be cached as a value.
///
/// # Errors
/// When they begin with [`RESERVED`].
///
/// ```
/// use rowbust_protocol::lease;
/// assert!(lease::check_value(b"").is_ok());
/// assert!(lease::check_value(b"\0rowbust:lease:1").is_err());
/// ```
pub fn check_value(bytes: &[u8]) -> Result<(), ReservedValue> {
    if bytes.starts_with(RESERVED) { Err(ReservedValue) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_as_documented() {
        let token: Token = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let lease = Lease::new(token, 1_795_331_626_000);
        let text = b"\0rowbust:lease:1000102030405060708090a0b0c0d0e0f0001795331626000";
        assert_eq!(lease.encode(), *text);
        assert_eq!(Held::parse(text), Held::Lease(lease));
        assert_eq!(text.get(..48).unwrap(), token.lease_prefix());
        assert_eq!(format!("{token:?}"), "Token(000102030405060708090a0b0c0d0e0f)");
    }

    #[test]
    fn what_is_ours_and_no_lease_is_no_value_either() {
        let good = Lease::new(Token::from_bytes([7; 16]), 5).encode();
        assert_eq!(Held::parse(NULL), Held::Null);
        for at in 9..LEN {
            // A digit may be another one; a letter or sign in its place is none of them.
            let mut bad = good;
            *bad.get_mut(at).unwrap() = b'X';
            assert_eq!(Held::parse(&bad), Held::Unknown, "{at}");
        }
        let longer = [good.as_slice(), b"0"].concat();
        for bad in [good.get(..63).unwrap(), &longer, RESERVED, b"\0rowbust:null:2"] {
            assert_eq!(Held::parse(bad), Held::Unknown);
            assert_eq!(check_value(bad), Err(ReservedValue));
        }
        for value in [b"".as_slice(), b"\0", b"\0rowbust", b"\0rowbusT:lease:1"] {
            assert_eq!(Held::parse(value), Held::Value(value));
            assert_eq!(check_value(value), Ok(()));
        }
    }

    #[test]
    fn a_value_with_a_lease_before_it_is_still_the_value() {
        let token = Token::from_bytes([0xab; 16]);
        let early = |behind: &[u8]| [token.early_prefix().as_slice(), behind].concat();
        for value in [b"".as_slice(), b"{}", b"\0rowbust"] {
            assert_eq!(Held::parse(&early(value)), Held::Early { token, value: Some(value) });
        }
        assert_eq!(Held::parse(&early(NULL)), Held::Early { token, value: None });
        // Nothing of ours but that note can stand behind one.
        let lease = Lease::new(token, 5).encode();
        for behind in [lease.as_slice(), &early(b"{}"), RESERVED] {
            assert_eq!(Held::parse(&early(behind)), Held::Unknown);
        }
        for bad in [early(b"").get(..47).unwrap(), EARLY, b"\0rowbust:early:2"] {
            assert_eq!(Held::parse(bad), Held::Unknown);
        }
        assert_eq!(check_value(&early(b"{}")), Err(ReservedValue));
    }

    #[test]
    fn tokens_are_lower_case_hex_only() {
        let repeated = [("A", 32), ("g", 32), ("0", 31), ("0", 33), ("é", 16), ("0", 2), ("", 0)];
        for bad in repeated.map(|(text, n)| text.repeat(n)) {
            assert_eq!(bad.parse::<Token>(), Err(NoToken));
        }
    }

    proptest! {
        #[test]
        fn a_lease_comes_back(token: [u8; 16], deadline: u64) {
            let lease = Lease::new(Token::from_bytes(token), deadline);
            prop_assert_eq!(lease.deadline(), deadline.min(MAX_DEADLINE));
            prop_assert_eq!(Lease::decode(&lease.encode()), Some(lease));
            prop_assert_eq!(lease.token().to_string().parse::<Token>(), Ok(lease.token()));
            prop_assert!(lease.encode().starts_with(&lease.token().lease_prefix()));
        }

        #[test]
        fn any_bytes_are_a_value_or_ours_never_both(mut bytes: Vec<u8>, ours: bool) {
            if ours {
                bytes.splice(0..0, RESERVED.iter().copied());
            }
            let is_value = check_value(&bytes).is_ok();
            prop_assert_eq!(matches!(Held::parse(&bytes), Held::Value(_)), is_value);
            if let Some(lease) = Lease::decode(&bytes) {
                prop_assert_eq!(lease.encode().to_vec(), bytes);
            }
        }

        #[test]
        fn a_lease_with_any_byte_changed_is_another_or_none(token: [u8; 16], deadline: u64, at in 0..LEN, to: u8) {
            let mut bytes = Lease::new(Token::from_bytes(token), deadline).encode();
            *bytes.get_mut(at).unwrap() = to;
            match Lease::decode(&bytes) {
                Some(lease) => prop_assert_eq!(lease.encode(), bytes),
                None => prop_assert!(!matches!(Held::parse(&bytes), Held::Lease(_))),
            }
        }
    }
}
