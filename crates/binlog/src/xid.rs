//! XA: the global id of a transaction that is prepared in one group of the binlog and finished in another.

use std::fmt;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::Reader;

/// Most bytes of each part (`MAXGTRIDSIZE`, `MAXBQUALSIZE` of the X/Open XA specification).
const MAX_PART: usize = 64;

/// A transaction's global id, as an event has it.
///
/// ```
/// use rowbust_binlog::Xid;
/// let xid = Xid { format_id: 1, gtrid: b"one", bqual: b"" };
/// assert_eq!(xid.to_string(), "X'6f6e65',X'',1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Xid<'a> {
    /// Who gave the other parts; 1 unless the application said otherwise.
    pub format_id: i32,
    /// Global transaction id, at most 64 bytes.
    pub gtrid: &'a [u8],
    /// Branch qualifier, at most 64 bytes.
    pub bqual: &'a [u8],
}

impl<'a> Xid<'a> {
    /// Reads the two parts, of lengths that came before.
    pub(crate) fn parse(
        r: &mut Reader<'a>,
        format_id: i32,
        gtrid: u32,
        bqual: u32,
    ) -> Result<Self, DecodeError> {
        let mut part = |len: u32, what: &'static str| match usize::try_from(len) {
            Ok(len) if len <= MAX_PART => r.take(len, what),
            _ => Err(r.error(DecodeErrorKind::Invalid { what, got: len.into() })),
        };
        Ok(Self {
            format_id,
            gtrid: part(gtrid, "global transaction id")?,
            bqual: part(bqual, "branch qualifier")?,
        })
    }

    /// Different for different ids, and for nothing else: for a map.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(5 + self.gtrid.len() + self.bqual.len());
        key.extend(self.format_id.to_le_bytes());
        // At most 64.
        key.push(u8::try_from(self.gtrid.len()).unwrap_or(u8::MAX));
        key.extend(self.gtrid);
        key.extend(self.bqual);
        key
    }
}

impl fmt::Display for Xid<'_> {
    /// As the servers log it: `X'6f6e65',X'',1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.gtrid, self.bqual] {
            f.write_str("X'")?;
            for byte in part {
                write!(f, "{byte:02x}")?;
            }
            f.write_str("',")?;
        }
        write!(f, "{}", self.format_id)
    }
}

/// A [`Xid`] that owns its bytes: one that was read from a statement.
///
/// ```
/// use rowbust_binlog::{Xid, XidBuf};
/// let xid = XidBuf::in_statement(b"XA COMMIT X'6f6e65',X'',1").unwrap();
/// assert_eq!(xid.as_xid(), Xid { format_id: 1, gtrid: b"one", bqual: b"" });
/// assert_eq!(XidBuf::in_statement(b"COMMIT"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct XidBuf {
    format_id: i32,
    gtrid: Vec<u8>,
    bqual: Vec<u8>,
}

impl XidBuf {
    /// Reads the id in the form in which servers log it, `X'6f6e65',X'',1`, at the start of `text`; gives it and
    /// what follows. Letter case and space between the parts don't matter; as in SQL, branch and format may be
    /// missing. `None`: no such id, or one that is too long.
    pub fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let (gtrid, mut rest) = hex_literal(text)?;
        let mut xid = Self { format_id: 1, gtrid, bqual: Vec::new() };
        if let Some(behind) = comma(rest) {
            (xid.bqual, rest) = hex_literal(behind)?;
            if let Some(behind) = comma(rest) {
                (xid.format_id, rest) = number(behind)?;
            }
        }
        Some((xid, rest))
    }

    /// Reads the id of a logged statement: `XA START X'6f6e65',X'',1`, and END, PREPARE, COMMIT, ROLLBACK alike.
    /// `None`: another statement, or its id isn't in the form in which servers log it.
    pub fn in_statement(sql: &[u8]) -> Option<Self> {
        let mut rest = sql.trim_ascii_start();
        for word in 0..2 {
            let end = rest.iter().position(u8::is_ascii_whitespace)?;
            let (found, behind) = rest.split_at_checked(end)?;
            if word == 0 && !found.eq_ignore_ascii_case(b"XA") {
                return None;
            }
            rest = behind.trim_ascii_start();
        }
        Self::parse(rest).map(|(xid, _)| xid)
    }

    /// The id.
    pub fn as_xid(&self) -> Xid<'_> {
        Xid { format_id: self.format_id, gtrid: &self.gtrid, bqual: &self.bqual }
    }

    /// As [`Xid::key`].
    pub fn key(&self) -> Vec<u8> {
        self.as_xid().key()
    }
}

impl From<Xid<'_>> for XidBuf {
    fn from(xid: Xid<'_>) -> Self {
        Self { format_id: xid.format_id, gtrid: xid.gtrid.to_vec(), bqual: xid.bqual.to_vec() }
    }
}

/// Behind a comma.
fn comma(text: &[u8]) -> Option<&[u8]> {
    text.trim_ascii_start().strip_prefix(b",")
}

/// `X'…'`, and what is behind it.
fn hex_literal(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"X'").or_else(|| text.strip_prefix(b"x'"))?;
    let end = text.iter().position(|&b| b == b'\'')?;
    let (digits, rest) = text.split_at_checked(end)?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    if pairs.len() > MAX_PART {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<_>>()?;
    Some((bytes, rest.strip_prefix(b"'")?))
}

/// A decimal number, which may be negative.
fn number(text: &[u8]) -> Option<(i32, &[u8])> {
    let text = text.trim_ascii_start();
    let sign = usize::from(text.first() == Some(&b'-'));
    let digits = text.iter().skip(sign).take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = text.split_at_checked(sign + digits)?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_events_give_the_same_key() {
        let logged = XidBuf::in_statement(b"XA START X'6f6e65',X'6272616e6368',7").unwrap();
        let xid = Xid { format_id: 7, gtrid: b"one", bqual: b"branch" };
        assert_eq!(logged.as_xid(), xid);
        assert_eq!((logged.key(), XidBuf::from(xid)), (xid.key(), logged));
        assert_eq!(xid.to_string(), "X'6f6e65',X'6272616e6368',7");
        for sql in
            ["xa  commit x'6F6E65' , X'6272616E6368' , 7 ONE PHASE", "XA END X'6f6e65',X'6272616e6368',7"]
        {
            assert_eq!(XidBuf::in_statement(sql.as_bytes()).unwrap().key(), xid.key(), "{sql}");
        }
        let short = XidBuf::in_statement(b"XA PREPARE X'6f6e65'").unwrap();
        assert_eq!(short.to_owned().as_xid(), Xid { format_id: 1, gtrid: b"one", bqual: b"" });
        assert_eq!(XidBuf::parse(b"X'',X'',-1 rest").unwrap().0.as_xid().format_id, -1);
        // Parts that join to the same bytes are different ids.
        let other = Xid { format_id: 7, gtrid: b"oneb", bqual: b"ranch" };
        assert_ne!(other.key(), xid.key());
    }

    #[test]
    fn what_is_no_id_is_none() {
        let long = format!("XA START X'{}'", "00".repeat(65));
        for sql in [
            "",
            "XA",
            "XA START",
            "XA START 'one'",
            "XA START X'6f6",
            "XA START X'6f6'",
            "XA START X'zz'",
            "XA START X'6f',",
            "XA START X'6f',X'',",
            "XA START X'6f',X'',99999999999",
            "BEGIN",
            "COMMIT X'6f'",
            &long,
        ] {
            assert_eq!(XidBuf::in_statement(sql.as_bytes()), None, "{sql}");
        }
    }
}
