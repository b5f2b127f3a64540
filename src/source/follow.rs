//! From events to transactions.
//!
//! Guarantees: the position moves only at XID, COMMIT, ROLLBACK or a standalone statement; an event that may carry rows
//! and isn't understood is a [`Halt`](super::Halt), never passed over. Positions are counted in 64 bits, whatever the header has.
//! May depend on the other parts of `source`.

use std::{collections::BTreeSet, sync::Arc};

use rowbust_binlog::{Decoder, Event, Gtid, GtidState, Header, Inflater, PayloadReader, event_name};
use tokio_util::sync::CancellationToken;
use tracing::info;

mod effects;
mod events;
mod group;
mod halts;
mod headers;
#[cfg(test)]
mod replay_tests;
mod xa;

use super::{
    Scope, Sink, SourceStats,
    error::SourceError,
    pause::Pause,
    policy::{Cause, PolicyTable},
    position::{Anchor, Coordinates, Position},
    schema::SchemaCache,
    start::{Begin, Request},
    stream::{EventStream, Patience, StreamError},
    tail::Tail,
};
use crate::kill_point;
pub(super) use halts::BUG;
use headers::{begins_near, end_of, header_micros, is_about_rows, is_head, may_end};

/// Why [`Follower::follow`] returned.
#[derive(Debug)]
pub enum Ended {
    /// As asked.
    Shutdown,
    /// At a transaction's end, as reading is held.
    Held,
    /// By this.
    Error(SourceError),
}

/// What a stream's error means; `at`: the event that was to be read.
pub(super) fn stream_error(error: StreamError, at: Coordinates) -> SourceError {
    match error {
        StreamError::Lost(_) | StreamError::Silent(_) => SourceError::Lost(error.to_string()),
        StreamError::Server { code, message } => SourceError::from_server(code, &message),
        StreamError::Malformed(reason) => SourceError::Decode { at, reason },
    }
}

/// A transaction that is being read.
#[derive(Debug)]
struct Open {
    gtid: Option<Gtid>,
    /// A COMMIT or XID will end it; otherwise the next statement does.
    block: bool,
    /// It had table maps or rows.
    rows: bool,
    /// What no row image told was removed for these already.
    widened: Vec<Scope>,
}

/// What is done with the rows of a decoder's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// No mapping names the table.
    Unmapped,
    /// They are handed on.
    Mapped,
    /// The table doesn't fit its mappings: all keys of it are removed.
    Wide,
}

/// What an event needs that can't be done on the spot.
enum Then {
    Nothing,
    /// The slot's columns aren't known well enough.
    Complete(usize),
    /// The event at hand holds a whole transaction.
    Unpack,
}

/// Reads streams of one server, one after the other, and remembers how far it came.
#[derive(Debug)]
pub struct Follower {
    decoder: Decoder,
    inflater: Inflater,
    payload: PayloadReader,
    schema: SchemaCache,
    stats: Arc<SourceStats>,
    /// The end of the last transaction, once the stream has begun.
    position: Option<Position>,
    /// Where the GTIDs are counted while a file is read up to the place to begin at; afterwards `None`.
    skip: Option<Skip>,
    /// End of the last event in the file.
    here: Coordinates,
    open: Option<Open>,
    slots: Vec<Slot>,
    policies: PolicyTable,
    /// The event at hand, if one of its type may end a transaction.
    last: Option<Anchor>,
    /// The event that ended the newest transaction.
    anchor: Option<Anchor>,
    patience: Patience,
    tail: Tail,
    /// About where the server goes on in the file that a stream by GTIDs begins with: what it skips before isn't seen.
    floor: Option<Coordinates>,
    pause: Pause,
    /// Unknown types that were ignored, and said so.
    ignored_types: BTreeSet<u8>,
}

#[derive(Debug)]
struct Skip {
    /// The first byte that counts.
    to: u64,
    /// Or the first transaction that these lack.
    done: Option<GtidState>,
    gtids: GtidState,
    /// The file's head has told which transactions lie before it.
    head: bool,
}

/// A stream that never pauses is left after so many events, when it should be.
const SHUTDOWN_LOOK: u32 = 1024;

impl Follower {
    /// Before the first stream.
    pub fn new(schema: SchemaCache, policies: PolicyTable, stats: Arc<SourceStats>) -> Self {
        Self {
            decoder: Decoder::new(),
            inflater: Inflater::new(),
            payload: PayloadReader::new(),
            schema,
            stats,
            position: None,
            skip: None,
            here: super::start::nowhere(),
            open: None,
            slots: Vec::new(),
            policies,
            last: None,
            anchor: None,
            patience: Patience::default(),
            tail: Tail::default(),
            floor: None,
            pause: Pause::default(),
            ignored_types: BTreeSet::new(),
        }
    }

    /// A stream ends at a transaction's end while this holds it.
    pub fn pausing(mut self, pause: Pause) -> Self {
        self.pause = pause;
        self
    }

    /// The end of the last transaction that was read to its end; `None` while the stream hasn't begun.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The event that ended it.
    pub fn anchor(&self) -> Option<Anchor> {
        self.anchor
    }

    /// The stream will begin at `position`, which the sink has been told. `fresh`: of a log that isn't the one from before.
    pub fn adopt(&mut self, position: Position, fresh: bool) -> Result<(), SourceError> {
        if fresh {
            self.schema.clear()?;
        }
        self.schema.begins(&position.gtids);
        self.position = Some(position);
        self.anchor = None;
        Ok(())
    }

    /// This server answers now.
    pub fn connected(&mut self, server: &super::Preflight) {
        self.schema.connected(server);
        self.tail.connected(server.durable);
    }

    /// What was lost before `time` (Unix seconds) concerns nobody: nothing was followed then.
    pub fn covers_from(&mut self, time: u32) {
        self.tail.covers_from(time);
    }

    /// Where the event at hand begins. What the server skips on the way to it isn't seen, and its header has 32 bits for its end: the
    /// place nearest to the floor is meant. It may lie before it, for commits are logged before the GTIDs have them.
    fn begins_at(&mut self, header: &Header) -> u64 {
        if !header.is_artificial()
            && !is_head(header.event_type)
            && let Some(floor) = self.floor.take_if(|floor| floor.file == self.here.file)
        {
            self.here.position = self.here.position.max(begins_near(floor.position, header));
        }
        self.here.position
    }

    /// Reads a stream to its end.
    pub async fn follow<S: Sink>(
        &mut self,
        begin: &Begin,
        mut stream: EventStream,
        sink: &mut S,
        shutdown: &CancellationToken,
    ) -> Ended {
        self.decoder.reset();
        self.slots.clear();
        self.tail.begins();
        self.here = begin.position.at.clone();
        self.floor = None;
        let gtids = begin.position.gtids.clone();
        self.skip = match &begin.request {
            Request::At { .. } => None,
            Request::Gtid(_) => {
                self.floor = (!self.here.file.is_empty()).then(|| self.here.clone());
                None
            }
            Request::File { skip_to, .. } => Some(Skip { to: *skip_to, done: None, gtids, head: false }),
            Request::Behind { gtids: done, .. } => {
                Some(Skip { to: u64::MAX, done: Some(done.clone()), gtids, head: false })
            }
        };
        if self.skip.is_none() && self.position.is_none() {
            self.start(begin.position.clone(), sink);
        }
        let ended = self.events(&mut stream, sink, shutdown).await;
        if self.open.take().is_some() && self.skip.is_none() {
            sink.abandon();
        }
        ended
    }

    fn start<S: Sink>(&mut self, position: Position, sink: &mut S) {
        info!(%position, "stream begins");
        self.schema.begins(&position.gtids);
        sink.started(&position);
        self.position = Some(position);
    }

    async fn events<S: Sink>(
        &mut self,
        stream: &mut EventStream,
        sink: &mut S,
        shutdown: &CancellationToken,
    ) -> Ended {
        let mut since_look = 0;
        let mut held = self.pause.listen();
        loop {
            let between = self.open.is_none() && self.skip.is_none() && self.position.is_some();
            if between && self.pause.is_held() {
                return Ended::Held;
            }
            since_look += 1;
            if since_look >= SHUTDOWN_LOOK {
                since_look = 0;
                if shutdown.is_cancelled() {
                    return Ended::Shutdown;
                }
            }
            match stream.try_advance() {
                Ok(true) => {}
                Ok(false) => {
                    self.stats.alive();
                    // A place at the end of a quiet log is reached without an event behind it.
                    if self.skip.as_ref().is_some_and(|skip| skip.head && self.here.position >= skip.to)
                        && self.open.is_none()
                    {
                        self.skipped(self.here.position, sink);
                    }
                    if let Err(e) = sink.flush().await {
                        return Ended::Error(SourceError::Sink(Box::new(e)));
                    }
                    self.stats.idle(true);
                    let waited = tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ended::Shutdown,
                        _ = held.wait_for(Option::is_some), if between => return Ended::Held,
                        waited = stream.advance(self.patience.deadline(&self.here)) => waited,
                    };
                    self.stats.alive();
                    self.stats.idle(false);
                    if let Err(e) = waited {
                        if matches!(e, StreamError::Silent(_)) {
                            self.patience.silent(&self.here);
                        }
                        return Ended::Error(stream_error(e, self.here.clone()));
                    }
                }
                Err(e) => return Ended::Error(stream_error(e, self.here.clone())),
            }
            let done = match self.event(&stream.current(), sink) {
                Ok(Then::Nothing) => Ok(()),
                Ok(Then::Complete(slot)) => self.complete(slot, stream.current().header, sink).await,
                Ok(Then::Unpack) => self.unpack(stream, sink).await,
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                return Ended::Error(e);
            }
            if sink.wants_flush() {
                self.stats.alive();
                // Not cut off by a shutdown: a flush that was begun is finished, or its keys would be read again.
                if let Err(e) = sink.flush().await {
                    return Ended::Error(SourceError::Sink(Box::new(e)));
                }
            }
        }
    }

    /// What an event means. `header`: of the event of the stream in which it came.
    fn handle<S: Sink>(
        &mut self,
        event: Event<'_>,
        header: &Header,
        sink: &mut S,
    ) -> Result<Then, SourceError> {
        match event {
            Event::Rotate { position, file, artificial } => self.rotate(position, file, artificial, sink),
            Event::FormatDescription(fd) => {
                // The server crashed in the middle of a transaction: what it logged of it is rolled back.
                if fd.created != 0 || self.tail.is_cut() {
                    self.cut_off(sink);
                }
                self.tail.described(if fd.created != 0 { fd.created } else { header.timestamp })?;
            }
            Event::PreviousGtids(set) if !header.is_artificial() => self.head(&GtidState::MySql(set)),
            Event::GtidList(list) if !header.is_artificial() => self.head(&GtidState::MariaDb(list)),
            Event::Gtid(gtid) => self.gtid(&gtid, header, sink)?,
            Event::AnonymousGtid => self.begin(None, false, header_micros(header), header, sink)?,
            Event::Query(query) => self.query(&query, header, sink)?,
            Event::Xid(_) => self.end(sink)?,
            Event::TableMap { slot, fresh } => return self.table_map(slot, fresh, header, sink),
            Event::Rows(rows) => {
                self.stats.row_event();
                kill_point!("after_read");
                let Some(open) = &mut self.open else {
                    return Err(self
                        .halt(header, "source.no_transaction", "rows outside a transaction", BUG)
                        .into());
                };
                open.rows = true;
                match self.slots.get(rows.slot) {
                    Some(Slot::Mapped) if self.skip.is_none() => {
                        let table = self.decoder.table(rows.slot);
                        if let Err(refusal) = sink.rows(&rows, table, self.here.position) {
                            self.refused_rows(rows.slot, refusal, header, sink)?;
                        }
                    }
                    Some(Slot::Wide) if self.skip.is_none() => self.wide_rows(rows.slot, header, sink)?,
                    _ => {}
                }
            }
            Event::Stop => self.tail.closed(),
            Event::Heartbeat { .. } => {
                self.stats.heartbeat();
                self.patience.heartbeat();
                // The server has nothing more: all of it is done.
                if self.skip.as_ref().is_some_and(|skip| skip.done.is_some()) && self.open.is_none() {
                    self.skipped(self.here.position, sink);
                }
            }
            Event::TransactionPayload(_) => return Ok(Then::Unpack),
            Event::XaPrepare(prepare) => self.xa_prepare(&prepare, sink)?,
            Event::Incident { number, message } => {
                if self.skip.is_none() {
                    let message = String::from_utf8_lossy(message);
                    let what = format!(
                        "the server says that it may have lost events: {message} (incident {number})"
                    );
                    self.undecodable(Cause::Incident, "source.incident", &what, header, sink)?;
                }
                // Alone in its group, it is its end.
                if self.open.as_ref().is_some_and(|open| !open.block && !open.rows) {
                    self.end(sink)?;
                }
            }
            Event::Unsupported { event_type, name, may_carry_rows: true } if self.skip.is_none() => {
                self.unsupported(event_type, name, header, sink)?;
            }
            Event::PreviousGtids(_) | Event::GtidList(_) | Event::RowsQuery(_) | Event::Ignored(_) => {}
            Event::Unsupported { event_type, may_carry_rows, .. } => {
                // Otherwise it lies before the place to begin at.
                if !may_carry_rows {
                    self.ignored(event_type, header);
                }
            }
            _ => {
                let event_type = header.event_type;
                self.unsupported(event_type, event_name(event_type), header, sink)?;
            }
        }
        Ok(Then::Nothing)
    }

    /// An unknown event that says that it may be ignored; each type is named once.
    fn ignored(&mut self, event_type: u8, header: &Header) {
        self.stats.ignored_event();
        if self.ignored_types.insert(event_type) {
            info!(event_type, at = %self.begins(header), "unknown event that may be ignored");
        }
    }

    fn rotate<S: Sink>(&mut self, position: u64, file: &[u8], artificial: bool, sink: &mut S) {
        let name = String::from_utf8_lossy(file);
        // MariaDB sends the name with four bytes of checksum behind it before the stream has told that it has checksums.
        let name = name.as_ref();
        match artificial {
            true => self.tail.enters(name, &self.here),
            false => self.tail.closed(),
        }
        if !artificial && self.open.is_some() {
            self.cut_off(sink);
        }
        if !artificial && self.skip.is_some() {
            // The place to begin at was the end of the file.
            let end = self.here.position;
            self.skipped(end, sink);
        }
        if *self.here.file != *name {
            self.here.file = name.into();
        }
        self.here.position = position;
        if let Some(known) = &mut self.position
            && known.at.file.is_empty()
        {
            known.at = self.here.clone();
        }
    }

    /// The file's head tells what lies before it.
    fn head(&mut self, before: &GtidState) {
        let Some(skip) = &mut self.skip else { return };
        match (&mut skip.gtids, before) {
            (GtidState::MySql(set), GtidState::MySql(before)) => set.union(before),
            (GtidState::MariaDb(pos), GtidState::MariaDb(before)) => {
                before.iter().for_each(|g| pos.update(g))
            }
            _ => {}
        }
        skip.head = true;
    }

    /// The place to begin at is reached.
    fn skipped<S: Sink>(&mut self, at: u64, sink: &mut S) {
        let Some(skip) = self.skip.take() else { return };
        if self.position.is_none() {
            let at = Coordinates { file: self.here.file.clone(), position: at };
            self.start(Position { gtids: skip.done.unwrap_or(skip.gtids), at }, sink);
        }
    }
}

#[cfg(test)]
mod tests;
