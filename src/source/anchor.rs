//! Before a stream goes on behind a place: is the log still the one that was read, and did the server crash there?
//!
//! After RESET MASTER files, positions and GTIDs come again, with other transactions: the last event that was read is looked at again.
//! And a stream that is asked for by GTIDs begins with the file of the first transaction that is missing, so that it doesn't show how the
//! files before ended: from the place on, everything up to the next transaction is looked at.
//!
//! Guarantees: a log whose event at the place is another one, and a crash that may have lost commits, is a [`SourceError::Gap`]. What was
//! purged can't be looked at, and is no gap by itself: [`super::start`] decides that by GTIDs. May depend on `stream`, `tail` and
//! `position`.

use rowbust_binlog::{Decoder, Event, Flavor, Header, event_type};
use tracing::{debug, info};

use super::{
    error::SourceError,
    follow::stream_error,
    position::{Anchor, Coordinates},
    start::{FIRST_EVENT, Request},
    stream::{EventStream, READ_DEADLINE, StreamError},
    tail::Tail,
};

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    /// The stream to look at.
    pub(super) request: Request,
    /// The event that it begins with.
    anchor: Option<Anchor>,
    /// Where it begins, or the last event ends.
    at: Coordinates,
    /// How the file before ended, where the stream begins with the next one.
    before: Option<End>,
    /// The newest file, which can't have ended.
    newest: String,
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a STOP or ROTATE.
    Closed,
    /// Where the last transaction ends.
    Cut,
}

/// What `SHOW BINARY LOGS` and the position tell by themselves. `Ok(None)`: there is nothing to look at.
pub(super) fn look(
    flavor: Flavor,
    logs: &[(String, u64)],
    at: &Coordinates,
    anchor: Option<Anchor>,
) -> Result<Option<Look>, SourceError> {
    if at.file.is_empty() {
        return Ok(None);
    }
    let place =
        |(name, position): &(String, u64)| Coordinates { file: name.as_str().into(), position: *position };
    let Some(index) = logs.iter().position(|(name, _)| **name == *at.file) else {
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
    let (files, next) = (&logs[index..], logs.get(index + 1));
    let (Some((_, size)), Some((newest, _))) = (files.first(), files.last()) else { return Ok(None) };
    if at.position > *size {
        return Err(SourceError::gap(format!(
            "{} ends at {size}, but was read up to {}",
            at.file, at.position
        )));
    }
    let look = |file: &str, position, anchor, before| {
        let request = Request::At { file: file.into(), position };
        Some(Look { request, anchor, at: at.clone(), before, newest: newest.clone() })
    };
    let start = anchor.and_then(|anchor| at.position.checked_sub(anchor.size.into()));
    if let (Some(start), Some(_)) = (start, anchor)
        && Request::can_begin_at(flavor, start)
    {
        return Ok(look(&at.file, start, anchor, None));
    }
    let Some((next, _)) = next else { return Ok(None) };
    if Request::can_begin_at(flavor, at.position) {
        return Ok(look(&at.file, at.position.max(FIRST_EVENT), None, None));
    }
    // What is behind the place can only be told by its length.
    Ok(end_by_length(size - at.position, next).and_then(|end| look(next, FIRST_EVENT, None, Some(end))))
}

/// How a file ends, of which so many bytes weren't read. `None`: with transactions, which the stream will show.
fn end_by_length(rest: u64, next: &str) -> Option<End> {
    const CRC: u64 = 4;
    let stop = Header::LEN as u64;
    let rotate = stop + 8 + next.len() as u64;
    match rest {
        0 => Some(End::Cut),
        _ if [stop, stop + CRC, rotate, rotate + CRC].contains(&rest) => Some(End::Closed),
        _ => None,
    }
}

impl Look {
    /// Whether the event at the place is looked at, so that it is known to be the one that was read.
    pub(super) fn verifies(&self) -> bool {
        self.anchor.is_some()
    }

    /// Reads `stream` up to the next transaction or to the newest file. `tail`: what it knows of crashes counts.
    pub(super) async fn read(self, mut stream: EventStream, mut tail: Tail) -> Result<(), SourceError> {
        let at = &self.at;
        let mut decoder = Decoder::new();
        let mut here = at.clone();
        let mut anchor = self.anchor;
        let mut described = false;
        tail.begins();
        // The file of the place, which the stream may not name.
        tail.enters(&at.file, &here);
        tail.within();
        if self.before == Some(End::Closed) {
            tail.closed();
        }
        loop {
            if let Err(error) = stream.advance(READ_DEADLINE).await {
                if anchor.is_none() {
                    return Err(stream_error(error, here));
                }
                return Err(match error {
                    // No event begins there.
                    StreamError::Malformed(why) => another(at, &why),
                    error => match stream_error(error, here) {
                        SourceError::Gap { what, .. } => another(at, &what),
                        error if error.is_unreadable() => another(at, &error.to_string()),
                        error => error,
                    },
                });
            }
            let event = stream.current();
            if let Some(wanted) = anchor
                && !is_preamble(&event.header)
            {
                let found = Anchor::of(&event);
                debug!(?found, ?wanted, "last event read again");
                if found != Some(wanted) {
                    return Err(another(at, "its time or checksum differs"));
                }
                if *here.file == *self.newest {
                    return Ok(());
                }
                anchor = None;
                continue;
            }
            let decoded = match decoder.decode(&event) {
                Ok(decoded) => decoded,
                // Whoever follows it will say so.
                Err(_) => return Ok(()),
            };
            match decoded {
                Event::Rotate { file, artificial: true, .. } => {
                    let file = String::from_utf8_lossy(file);
                    // The first one says where the stream begins.
                    if described || *file != *here.file {
                        tail.enters(&file, &here);
                        here = Coordinates { file: file.as_ref().into(), position: FIRST_EVENT };
                    }
                }
                Event::FormatDescription(description) => {
                    described = true;
                    let created = description.created;
                    tail.described(if created != 0 { created } else { event.header.timestamp })?;
                    if *here.file == *self.newest && anchor.is_none() {
                        return Ok(());
                    }
                }
                Event::Rotate { file, .. } => {
                    tail.closed();
                    let file = String::from_utf8_lossy(file);
                    here = Coordinates { file: file.as_ref().into(), position: FIRST_EVENT };
                }
                Event::Stop => tail.closed(),
                // The newest file has nothing more.
                Event::Heartbeat { .. } if anchor.is_none() => return Ok(()),
                Event::Gtid(_)
                | Event::AnonymousGtid
                | Event::Query(_)
                | Event::TransactionPayload(_)
                | Event::TableMap { .. }
                | Event::Rows(_)
                | Event::Xid(_)
                | Event::XaPrepare(_) => return Ok(()),
                _ => {
                    let end = u64::from(event.header.log_pos);
                    here.position = here.position.max(end);
                }
            }
        }
    }
}

fn another(at: &Coordinates, found: &str) -> SourceError {
    SourceError::gap(format!(
        "the event that ends at {at} is another one than the one that was read ({found}): the server's log began anew"
    ))
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

    const ANCHOR: Option<Anchor> = Some(Anchor { size: 31, event_type: 16, timestamp: 1, crc: 2 });

    fn logs(sizes: &[u64]) -> Vec<(String, u64)> {
        (3..).zip(sizes).map(|(n, size)| (format!("b.{n:06}"), *size)).collect()
    }

    /// File and position that are asked for, whether an event is compared there, and how the file before is known to have ended.
    fn asked(
        flavor: Flavor,
        logs: &[(String, u64)],
        at: &Coordinates,
        anchor: Option<Anchor>,
    ) -> Option<(String, u64, bool, Option<End>)> {
        let look = look(flavor, logs, at, anchor).unwrap()?;
        let Request::At { file, position } = &look.request else { panic!("{look:?}") };
        Some((file.to_string(), *position, look.verifies(), look.before))
    }

    #[test]
    fn what_the_list_of_files_tells() {
        let logs = logs(&[900, 500]);
        let maria = |at: &Coordinates, anchor| asked(Flavor::MariaDb, &logs, at, anchor);
        assert_eq!(maria(&at("b.000004", 400), ANCHOR), Some(("b.000004".into(), 369, true, None)));
        // The newest file has no end, and there is no event to compare.
        assert_eq!(maria(&at("b.000004", 400), None), None);
        assert_eq!(maria(&at("b.000003", 900), None), Some(("b.000003".into(), 900, false, None)));
        // Purged.
        assert_eq!(maria(&at("b.000002", 400), ANCHOR), None);
        assert_eq!(maria(&at("", 4), ANCHOR), None);
        // Truncated; begun anew; another base name.
        for at in [at("b.000004", 501), at("b.000003", 1 << 33), at("b.000005", 4), at("c.000002", 4)] {
            let gap = look(Flavor::MySql, &logs, &at, ANCHOR);
            assert!(matches!(gap, Err(SourceError::Gap { .. })), "{at}");
        }
    }

    /// MariaDB can't be asked for an event there: the length of what follows tells how the file ends.
    #[test]
    fn ends_beyond_4_gib() {
        const FAR: u64 = 5 << 30;
        let place = at("b.000003", FAR);
        for (rest, end) in [
            (0, Some(End::Cut)),
            (19, Some(End::Closed)),
            (23, Some(End::Closed)),
            (19 + 8 + 8, Some(End::Closed)),
            (19 + 8 + 8 + 4, Some(End::Closed)),
            (70, None),
        ] {
            let logs = logs(&[FAR + rest, 500, 500]);
            let expected = end.map(|end| ("b.000004".into(), 4, false, Some(end)));
            assert_eq!(asked(Flavor::MariaDb, &logs, &place, ANCHOR), expected, "{rest}");
            let mysql = Some(("b.000003".into(), FAR - 31, true, None));
            assert_eq!(asked(Flavor::MySql, &logs, &place, ANCHOR), mysql, "{rest}");
        }
    }
}
