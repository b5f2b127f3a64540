//! The events that open a transaction, and the list of GTIDs that opens a MariaDB file.

use super::{Gtid, MariaGtid, MariaGtidPos, Tag, Tsid, Uuid, set};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::event::{GtidEvent, XaPhase};
use crate::reader::Reader;
use crate::varlen;
use crate::xid::Xid;

/// MySQL's GTID event.
pub(crate) fn mysql(mut r: Reader<'_>) -> Result<GtidEvent<'_>, DecodeError> {
    let flags = r.u8("GTID flags")?;
    let tsid = Uuid(r.array("server UUID")?).into();
    let number = r.u64("transaction number")?;
    let gno = gno(&r, number)?;
    let mut event = GtidEvent::new(Gtid::MySql { tsid, gno }, flags);
    behind_the_gtid(&mut r, &mut event);
    Ok(event)
}

fn gno(r: &Reader<'_>, gno: u64) -> Result<u64, DecodeError> {
    if (1..=set::MAX_GNO).contains(&gno) {
        return Ok(gno);
    }
    Err(r.error(DecodeErrorKind::Invalid { what: "transaction number", got: gno }))
}

/// What follows the GTID since MySQL 8.0: logical clock, commit times, then the length. Nothing depends on it, so
/// that older and shorter forms are no error.
fn behind_the_gtid(r: &mut Reader<'_>, event: &mut GtidEvent<'_>) -> Option<()> {
    const CLOCK: u8 = 2;
    if r.u8("clock type").ok()? != CLOCK {
        return None;
    }
    r.take(16, "logical clock").ok()?;
    // 55 bits of time. The highest bit says that the original commit time follows.
    let [a, b, c, d, e, f, g] = r.array::<7>("commit time").ok()?;
    let micros = u64::from_le_bytes([a, b, c, d, e, f, g & 0x7f, 0]);
    event.commit_micros = known_micros(micros);
    if g & 0x80 != 0 {
        r.take(7, "original commit time").ok()?;
    }
    event.transaction_length = Some(r.lenenc("transaction length").ok()?);
    Some(())
}

/// 0 and the highest value stand for "not known": a replica of an older server.
fn known_micros(micros: u64) -> Option<u64> {
    (1..(1 << 55) - 1).contains(&micros).then_some(micros)
}

/// MySQL 8.3's event for a GTID with a tag: a message of its serialization library, which has a version, its size, the
/// last field that must be understood, and then fields, each behind its number. `Gtid_event::define_fields` in
/// `control_events.h`, `libs/mysql/serialization/readme.md`.
pub(crate) fn tagged(mut r: Reader<'_>) -> Result<GtidEvent<'_>, DecodeError> {
    const VERSION: u64 = 1;
    const LAST_KNOWN: u64 = 11;
    let whole = r.left();
    let version = varlen::unsigned(&mut r, "serialization version")?;
    if version != VERSION {
        return Err(r.error(DecodeErrorKind::Invalid { what: "serialization version", got: version }));
    }
    let size = varlen::unsigned(&mut r, "message size")?;
    if size != whole as u64 {
        return Err(r.error(DecodeErrorKind::Invalid { what: "message size", got: size }));
    }
    let needed = varlen::unsigned(&mut r, "last field that can't be ignored")?;
    if needed > LAST_KNOWN {
        return Err(r.error(DecodeErrorKind::Invalid { what: "field that can't be ignored", got: needed }));
    }
    let (mut flags, mut uuid, mut number, mut tag) = (0, None, None, Tag::NONE);
    let (mut commit_micros, mut transaction_length) = (None, None);
    let mut next = 0;
    while !r.is_empty() {
        let field = varlen::unsigned(&mut r, "field number")?;
        if field < next {
            return Err(r.error(DecodeErrorKind::Invalid { what: "field number", got: field }));
        }
        next = field.saturating_add(1);
        match field {
            0 => flags = varlen::unsigned(&mut r, "GTID flags")?.to_le_bytes()[0],
            1 => {
                let mut bytes = [0; 16];
                for byte in &mut bytes {
                    let n = varlen::unsigned(&mut r, "server UUID")?;
                    let invalid = DecodeErrorKind::Invalid { what: "byte of the server UUID", got: n };
                    *byte = u8::try_from(n).map_err(|_| r.error(invalid))?;
                }
                uuid = Some(Uuid(bytes));
            }
            2 => {
                let n = varlen::signed(&mut r, "transaction number")?;
                number = Some(gno(&r, n.cast_unsigned())?);
            }
            3 => {
                let len = varlen::unsigned(&mut r, "length of the tag")?;
                let invalid = DecodeErrorKind::Invalid { what: "length of the tag", got: len };
                let len = usize::try_from(len).map_err(|_| r.error(invalid))?;
                let text = r.take(len, "tag")?;
                tag = set::tag_of(text).ok_or_else(|| r.error(DecodeErrorKind::BadTag))?;
            }
            4 | 5 => drop(varlen::signed(&mut r, "logical clock")?),
            6 => commit_micros = known_micros(varlen::unsigned(&mut r, "commit time")?),
            7 => drop(varlen::unsigned(&mut r, "original commit time")?),
            8 => transaction_length = Some(varlen::unsigned(&mut r, "transaction length")?),
            9 | 10 => drop(varlen::unsigned(&mut r, "server version")?),
            11 => drop(varlen::unsigned(&mut r, "commit group ticket")?),
            // Of a newer server, which says that it may be ignored; its length isn't known.
            _ => break,
        }
    }
    let (Some(uuid), Some(gno)) = (uuid, number) else {
        return Err(r.error(DecodeErrorKind::Truncated { what: "GTID", needed: 1, left: 0 }));
    };
    let gtid = Gtid::MySql { tsid: Tsid { uuid, tag }, gno };
    Ok(GtidEvent { transaction_length, commit_micros, ..GtidEvent::new(gtid, flags) })
}

/// MariaDB's GTID event: `Gtid_log_event` in `sql/log_event.cc`.
pub(crate) fn maria(mut r: Reader<'_>, server: u32) -> Result<GtidEvent<'_>, DecodeError> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    let seq = r.u64("sequence number")?;
    let domain = r.u32("domain")?;
    let flags = r.u8("GTID flags")?;
    let mut event = GtidEvent::new(Gtid::MariaDb(MariaGtid { domain, server, seq }), flags);
    event.standalone = flags & STANDALONE != 0;
    event.xa = match flags & (PREPARED_XA | COMPLETED_XA) {
        0 => return Ok(event),
        PREPARED_XA => Some(XaPhase::Prepared),
        COMPLETED_XA => Some(XaPhase::Completed),
        both => return Err(r.error(DecodeErrorKind::Invalid { what: "GTID flags", got: both.into() })),
    };
    if flags & GROUP_COMMIT_ID != 0 {
        r.u64("commit id")?;
    }
    let format_id = r.u32("format of the XID")?.cast_signed();
    let [gtrid, bqual] = r.array("lengths of the XID")?;
    event.xid = Some(Xid::parse(&mut r, format_id, gtrid.into(), bqual.into())?);
    Ok(event)
}

/// MariaDB's list of GTIDs at the head of a file.
pub(crate) fn maria_list(mut r: Reader<'_>) -> Result<MariaGtidPos, DecodeError> {
    let count = r.u32("number of GTIDs")? & 0x0fff_ffff;
    let mut pos = MariaGtidPos::new();
    for _ in 0..count {
        // A domain may come with several servers: its last GTID is the last in the list.
        let (domain, server) = (r.u32("domain")?, r.u32("server")?);
        pos.update(MariaGtid { domain, server, seq: r.u64("sequence number")? });
    }
    Ok(pos)
}
