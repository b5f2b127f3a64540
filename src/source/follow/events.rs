//! From bytes to events: inflated, unpacked, decoded.
//!
//! Guarantees: an event that can't be decoded goes by `on_undecodable` where its checksum shows that it is what the server wrote and it is
//! about rows; every other one is read again. May depend on `rowbust-binlog`'s decoder.

use rowbust_binlog::{DecodeError, DecodeErrorKind, Header, Payload, RawEvent, event_type};

use super::{Follower, Then, end_of, is_about_rows, may_end};
use crate::{
    config::Policy,
    source::{Sink, error::SourceError, policy::Cause, position::Anchor, stream::EventStream},
};

impl Follower {
    /// One event of the stream.
    pub(super) fn event<S: Sink>(&mut self, raw: &RawEvent<'_>, sink: &mut S) -> Result<Then, SourceError> {
        let header = raw.header;
        self.stats.event(header.event_size, header.timestamp);
        let begins_at = self.begins_at(&header);
        if self.skips(raw, begins_at) {
            self.here.position = end_of(begins_at, &header);
            return Ok(Then::Nothing);
        }
        if may_end(header.event_type) {
            self.last = Anchor::of(raw);
        }
        if raw.is_compressed() {
            let mut inflater = std::mem::take(&mut self.inflater);
            let done = match inflater.inflate(raw, &self.decoder) {
                Ok(plain) => self.plain(&plain, &header, raw.crc.is_some(), sink),
                Err(e) => {
                    self.here.position = end_of(begins_at, &header);
                    self.malformed(&e, raw.crc.is_some(), &header, sink)
                }
            };
            self.inflater = inflater;
            return done;
        }
        self.plain(raw, &header, raw.crc.is_some(), sink)
    }

    /// Rows before the place to begin at aren't looked at, and their maps must be fresh to whoever sees them first.
    fn skips(&self, raw: &RawEvent<'_>, begins_at: u64) -> bool {
        self.skip.as_ref().is_some_and(|skip| begins_at < skip.to) && is_about_rows(raw.header.event_type)
    }

    /// One event of the stream, inflated if it was compressed. `header`: as it came; `checked`: it has a checksum.
    fn plain<S: Sink>(
        &mut self,
        raw: &RawEvent<'_>,
        header: &Header,
        checked: bool,
        sink: &mut S,
    ) -> Result<Then, SourceError> {
        let begins_at = self.here.position;
        let decoded = self.decoder.decode(raw);
        self.here.position = end_of(begins_at, header);
        if let Some(skip) = &self.skip
            && skip.head
            && self.open.is_none()
            && begins_at >= skip.to
            && !header.is_artificial()
        {
            self.skipped(begins_at, sink);
        }
        match decoded {
            Ok(event) => self.handle(event, header, sink),
            Err(e) => self.malformed(&e, checked, header, sink),
        }
    }

    /// The events of a transaction that came in one event. Their place is that of the event around them.
    pub(super) async fn unpack<S: Sink>(
        &mut self,
        stream: &mut EventStream,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let mut reader = std::mem::take(&mut self.payload);
        reader.open();
        let done = loop {
            let outer = stream.current();
            let then = match Payload::of(&outer).and_then(|payload| reader.next(&payload)) {
                Ok(None) => break Ok(()),
                Ok(Some(raw)) => self.inner(&raw, &outer, sink),
                Err(e) => match self.malformed(&e, outer.crc.is_some(), &outer.header, sink) {
                    // Its end is among what can't be read.
                    Ok(_) => break self.end(sink),
                    Err(e) => Err(e),
                },
            };
            let header = outer.header;
            let done = match then {
                Ok(Then::Nothing) => Ok(()),
                Ok(Then::Complete(slot)) => self.complete(slot, header, sink).await,
                Ok(Then::Unpack) => Err(SourceError::Decode {
                    at: self.begins(&header),
                    reason: "a transaction within a transaction".into(),
                }),
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                break Err(e);
            }
            if sink.wants_flush() {
                self.stats.alive();
                if let Err(e) = sink.flush().await {
                    break Err(SourceError::Sink(Box::new(e)));
                }
            }
        };
        self.payload = reader;
        done
    }

    /// One event within another, which ends `here`.
    fn inner<S: Sink>(
        &mut self,
        raw: &RawEvent<'_>,
        outer: &RawEvent<'_>,
        sink: &mut S,
    ) -> Result<Then, SourceError> {
        let begins_at = self.begins(&outer.header).position;
        if self.skips(raw, begins_at) {
            return Ok(Then::Nothing);
        }
        match self.decoder.decode(raw) {
            Ok(event) => self.handle(event, &outer.header, sink),
            Err(e) => self.malformed(&e, outer.crc.is_some(), &outer.header, sink),
        }
    }

    /// The event at hand, whose end is `here`, can't be decoded. With a good checksum it is what the server wrote, and only
    /// reading it again would change nothing: the policy decides.
    #[cold]
    fn malformed<S: Sink>(
        &mut self,
        error: &DecodeError,
        checked: bool,
        header: &Header,
        sink: &mut S,
    ) -> Result<Then, SourceError> {
        let written = checked && !matches!(error.kind, DecodeErrorKind::Checksum { .. });
        let rows = is_about_rows(error.event_type) || is_about_rows(header.event_type);
        let carries_rows = rows || header.event_type == event_type::TRANSACTION_PAYLOAD;
        if written && carries_rows && self.policies.source().on_undecodable == Policy::Flush {
            if self.skip.is_none() {
                let what = error.to_string();
                self.undecodable(Cause::Undecodable, "source.undecodable", &what, header, sink)?;
            }
            return Ok(Then::Nothing);
        }
        Err(SourceError::Decode { at: self.begins(header), reason: error.to_string() })
    }
}
