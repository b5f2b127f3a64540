//! Is the log still the one that was read? After RESET MASTER files, positions and GTIDs come again, with other transactions.
//!
//! Guarantees: a log whose event at the checkpoint's place is another one is a [`SourceError::Gap`]. What was purged can't be
//! looked at, and is no gap by itself: [`super::start`] decides that by GTIDs. May depend on `stream` and `position`.

use tracing::{debug, info};

use super::{
    error::SourceError,
    follow::stream_error,
    position::{Anchor, Coordinates},
    start::Request,
    stream::{EventStream, READ_DEADLINE},
};
use rowbust_binlog::{event_type, header::Header};

/// What `SHOW BINARY LOGS` and the position tell without looking at the event. `Ok(None)`: there is nothing to look at.
pub(super) fn request(
    logs: &[(String, u64)],
    at: &Coordinates,
    anchor: Option<Anchor>,
) -> Result<Option<Request>, SourceError> {
    if at.file.is_empty() {
        return Ok(None);
    }
    let place =
        |(name, position): &(String, u64)| Coordinates { file: name.as_str().into(), position: *position };
    let Some(file) = logs.iter().find(|(name, _)| **name == *at.file) else {
        let oldest = logs.first().map(|log| place(log).is_behind(at));
        // Files of another name, or only older ones: not the log that was read.
        if oldest != Some(Some(true)) {
            return Err(SourceError::gap(format!(
                "the server's log no longer has the file {}: it began anew",
                at.file
            )));
        }
        info!(%at, "file was purged, can't compare its last event");
        return Ok(None);
    };
    if at.position > file.1 {
        return Err(SourceError::gap(format!(
            "{} ends at {}, but was read up to {}",
            at.file, file.1, at.position
        )));
    }
    let start = anchor.and_then(|anchor| at.position.checked_sub(anchor.size.into()));
    // The packet has no more bits.
    Ok(start
        .and_then(|start| u32::try_from(start).ok())
        .map(|position| Request::At { file: at.file.clone(), position }))
}

/// Compares the event that `stream` begins with. `closed`: newer files follow, so there is an event behind it. Then this tells whether
/// that is the next file's first: the server crashed where it was read up to.
pub(super) async fn compare(
    mut stream: EventStream,
    at: &Coordinates,
    anchor: Anchor,
    closed: bool,
) -> Result<bool, SourceError> {
    let mut compared = false;
    let another = |found: &str| {
        SourceError::gap(format!(
            "the event that ends at {at} is another one than the one that was read ({found}): the server's log began anew"
        ))
    };
    loop {
        match stream.advance(READ_DEADLINE).await {
            Ok(()) => {}
            // No event begins there.
            Err(super::stream::StreamError::Malformed(why)) => return Err(another(&why)),
            Err(error) => {
                let error = stream_error(error, at.clone());
                return Err(match error {
                    SourceError::Gap { what, .. } => another(&what),
                    SourceError::Refused(refusal) if refusal.code == "source.dump" => another(&refusal.what),
                    error => error,
                });
            }
        }
        let event = stream.current();
        if compared {
            return Ok(event.header.event_type == event_type::ROTATE && event.header.is_artificial());
        }
        if is_preamble(&event.header) {
            continue;
        }
        let found = Anchor::of(&event);
        debug!(?found, ?anchor, "last event read again");
        if found != Some(anchor) {
            return Err(another("its time or checksum differs"));
        }
        if !closed {
            return Ok(false);
        }
        compared = true;
    }
}

/// What a dump thread sends before the first event that was asked for.
fn is_preamble(header: &Header) -> bool {
    header.is_artificial()
        || matches!(
            header.event_type,
            event_type::FORMAT_DESCRIPTION
                | event_type::ROTATE
                | event_type::HEARTBEAT
                | event_type::HEARTBEAT_V2
                | event_type::MARIA_START_ENCRYPTION
        )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(file: &str, position: u64) -> Coordinates {
        Coordinates { file: file.into(), position }
    }

    #[test]
    fn what_the_list_of_files_tells() {
        let logs: Vec<(String, u64)> = vec![("b.000003".into(), 900), ("b.000004".into(), 500)];
        let anchor = Some(Anchor { size: 31, event_type: 16, timestamp: 1, crc: 2 });
        let is_gap = |at: &Coordinates| matches!(request(&logs, at, anchor), Err(SourceError::Gap { .. }));
        assert_eq!(
            request(&logs, &at("b.000004", 400), anchor).unwrap(),
            Some(Request::At { file: "b.000004".into(), position: 369 })
        );
        assert_eq!(request(&logs, &at("b.000004", 400), None).unwrap(), None);
        assert_eq!(request(&logs, &at("b.000003", 1 << 33), None).err().map(|_| ()), Some(()));
        // Purged.
        assert_eq!(request(&logs, &at("b.000002", 400), anchor).unwrap(), None);
        assert_eq!(request(&logs, &at("", 4), anchor).unwrap(), None);
        // Truncated; begun anew; another base name.
        assert!(is_gap(&at("b.000004", 501)));
        assert!(is_gap(&at("b.000005", 4)));
        assert!(is_gap(&at("c.000002", 4)));
    }
}
