//! What an event's header tells: its time, its end, and of what kind it is.

use rowbust_binlog::{Header, event_type};

/// The event's time, of which there are only seconds.
pub(super) fn header_micros(header: &Header) -> u64 {
    u64::from(header.timestamp) * 1_000_000
}

/// Where the event ends. The header has 32 bits of it, which may be zero or wrapped.
pub(super) fn end_of(begins_at: u64, header: &Header) -> u64 {
    if header.is_artificial() || matches!(header.event_type, event_type::HEARTBEAT | event_type::HEARTBEAT_V2)
    {
        return begins_at;
    }
    if header.log_pos == 0 {
        // The dump thread's copy of a file's description, when the stream begins further on, has no place of its own.
        let copy = header.event_type == event_type::FORMAT_DESCRIPTION;
        return begins_at + if copy { 0 } else { u64::from(header.event_size) };
    }
    let end = (begins_at & !u64::from(u32::MAX)) | u64::from(header.log_pos);
    if end < begins_at && header.event_type != event_type::FORMAT_DESCRIPTION {
        end + (1 << 32)
    } else {
        end.max(begins_at)
    }
}

/// Where the event begins, of all places that the 32 bits of its header may mean the nearest to `near`.
pub(super) fn begins_near(near: u64, header: &Header) -> u64 {
    const SPAN: u64 = 1 << 32;
    if header.log_pos == 0 {
        return near;
    }
    let low = u64::from(header.log_pos.wrapping_sub(header.event_size));
    let window = near & !(SPAN - 1);
    let places = [window.checked_sub(SPAN), Some(window), window.checked_add(SPAN)];
    let begins = places.into_iter().flatten().filter_map(|window| window.checked_add(low));
    begins.min_by_key(|begins| begins.abs_diff(near)).unwrap_or(near)
}

/// Types of events that a stream has before what was asked for.
pub(super) fn is_head(event_type: u8) -> bool {
    use rowbust_binlog::event_type as t;
    matches!(
        event_type,
        t::FORMAT_DESCRIPTION
            | t::PREVIOUS_GTIDS
            | t::MARIA_GTID_LIST
            | t::MARIA_BINLOG_CHECKPOINT
            | t::MARIA_START_ENCRYPTION
            | t::HEARTBEAT
            | t::HEARTBEAT_V2
    )
}

/// Types of events at which a transaction may end.
pub(super) fn may_end(event_type: u8) -> bool {
    use rowbust_binlog::event_type as t;
    matches!(
        event_type,
        t::XID | t::QUERY | t::XA_PREPARE | t::TRANSACTION_PAYLOAD | t::MARIA_QUERY_COMPRESSED | t::INCIDENT
    )
}

pub(super) fn is_about_rows(event_type: u8) -> bool {
    use rowbust_binlog::event_type as t;
    matches!(
        event_type,
        t::TABLE_MAP..=t::DELETE_ROWS_V1
            | t::WRITE_ROWS_V2..=t::DELETE_ROWS_V2
            | t::PARTIAL_UPDATE_ROWS
            | t::MARIA_WRITE_ROWS_COMPRESSED_V1..=t::MARIA_DELETE_ROWS_COMPRESSED_V2
    )
}
