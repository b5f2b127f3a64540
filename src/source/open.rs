//! From a connection to a stream that begins where it should.
//!
//! Guarantees: a stream begins behind the place of a [`Resume`] only if everything behind it is still there and the server can't have lost
//! what readers saw, or it is a [`SourceError::Gap`]. May depend on the other parts of `source`.

use tracing::info;

#[cfg(feature = "mysql-cdc")]
use super::cdc;
use super::{
    Preflight, Resume, Source, anchor,
    error::SourceError,
    follow,
    position::Position,
    preflight, start,
    stream::{self, EventStream, StreamError},
    tail,
};
#[cfg(feature = "mysql-cdc")]
use crate::config::Driver;
use crate::config::{Policy, Start};

/// How reading goes on somewhere else than it ended.
pub(super) enum Change {
    /// Another server that has everything.
    Moved,
    /// This is lost.
    Gap(String),
}

/// A stream, and what is known of it before its first event.
pub(super) struct Opened {
    pub(super) server: Preflight,
    pub(super) begin: start::Begin,
    pub(super) stream: EventStream,
    pub(super) change: Option<Change>,
}

impl Source {
    /// `first`: nothing was read yet. Later another server, or a gap, is a reason to begin anew.
    pub(super) async fn open(&self, place: Option<&Resume>, first: bool) -> Result<Opened, SourceError> {
        let mut conn = self.connector.primary().await?;
        let server = preflight::preflight(&mut conn, &self.config, self.connector.uses_tls()).await?;
        let Some(place) = place else {
            let begin = start::first_start(&mut conn, &server, &self.config.source.start).await?;
            let by_gtid = matches!(self.config.source.start, Start::Gtid(_));
            let begin = self.tried(&mut conn, &server, begin, by_gtid).await?;
            conn.disconnect().await.ok();
            let stream = self.followed(&server, &begin.request).await?;
            return Ok(Opened { server, begin, stream, change: None });
        };
        let moved = place.identity != server.identity;
        let (begin, change) = match self.go_on(&mut conn, &server, place, moved).await {
            Ok(_) if moved && !first => {
                let why =
                    format!("another server answers: {}, before it was {}", server.identity, place.identity);
                return Err(SourceError::Anew { why, gap: false });
            }
            Ok(begin) => (begin, moved.then_some(Change::Moved)),
            // The position is taken before anything is removed: what changes meanwhile is read.
            Err(SourceError::Gap { what, .. })
                if first && !place.rewound && self.config.source.policies.on_gap == Policy::Flush =>
            {
                (start::latest(&mut conn, &server).await?, Some(Change::Gap(what)))
            }
            Err(error) => return Err(error),
        };
        let begin = self.tried(&mut conn, &server, begin, false).await?;
        conn.disconnect().await.ok();
        let stream = self.followed(&server, &begin.request).await?;
        Ok(Opened { server, begin, stream, change })
    }

    /// A beginning from which positions can be counted. The server says nothing of what it skips on the way to a GTID, and events have
    /// only 32 bits for their place: in a file beyond 4 GiB it is asked for all of it, unless the place is known. `always`: the server is
    /// to show first that it has what is asked for, before anything counts as begun.
    async fn tried(
        &self,
        conn: &mut mysql_async::Conn,
        server: &Preflight,
        begin: start::Begin,
        always: bool,
    ) -> Result<start::Begin, SourceError> {
        let start::Request::Gtid(gtids) = &begin.request else { return Ok(begin) };
        if begin.position.at.position > start::FIRST_EVENT {
            return Ok(begin);
        }
        let mut logs = start::binary_logs(conn).await?;
        logs.retain(|(_, size)| u32::try_from(*size).is_err());
        if logs.is_empty() && !always {
            return Ok(begin);
        }
        // Only the server knows with which file it begins.
        let mut stream = self.stream(server, &begin.request).await?;
        let first = stream.advance(stream::READ_DEADLINE).await;
        first.map_err(|error| follow::stream_error(error, start::nowhere()))?;
        let event = stream.current();
        let file = match rowbust_binlog::Decoder::new().decode(&event) {
            Ok(rowbust_binlog::Event::Rotate { file, .. }) => String::from_utf8_lossy(file).into_owned(),
            _ => return Ok(begin),
        };
        if !logs.iter().any(|(name, _)| *name == file) {
            return Ok(begin);
        }
        info!(file, "begins in a file beyond 4 GiB, which is read from its first event");
        let request = start::Request::Behind { file: file.into(), gtids: gtids.clone() };
        Ok(start::Begin { request, position: begin.position })
    }

    /// Whether everything behind `place` is still there, and how it is asked for.
    async fn go_on(
        &self,
        conn: &mut mysql_async::Conn,
        server: &Preflight,
        place: &Resume,
        moved: bool,
    ) -> Result<start::Begin, SourceError> {
        if let Some(what) = &place.gap {
            return Err(SourceError::gap(what.clone()));
        }
        let position = &place.position;
        if moved {
            // Its files are others.
            let elsewhere = Position { gtids: position.gtids.clone(), at: start::nowhere() };
            if position.gtids.is_empty() {
                return Err(SourceError::gap(format!(
                    "another server answers: {}, and without GTIDs nothing tells what it has",
                    server.identity
                )));
            }
            let begin = start::resume(conn, server, &elsewhere, false).await?;
            if !self.config.source.policies.lossless {
                return Err(SourceError::gap(format!(
                    "another server answers: {}, before it was {}. It has everything that was read, but the old one may have lost \
                     commits that readers saw (`source.lossless: true` says that it can't)",
                    server.identity, place.identity
                )));
            }
            return Ok(begin);
        }
        let mut logs = start::binary_logs(conn).await?;
        // MariaDB says so only when it is to send the events: too late, the place would be the checkpoint's by then.
        if place.rewound
            && server.flavor == rowbust_binlog::Flavor::MariaDb
            && !logs.iter().any(|(name, _)| **name == *position.at.file)
        {
            return Err(SourceError::gap(format!("the file {} is gone", position.at.file)));
        }
        let verified = loop {
            let error = match self.look(server, place, &logs).await {
                Err(error @ SourceError::Gap { .. }) => error,
                looked => break looked?,
            };
            // What was listed may have been purged before it was looked at.
            let now = start::binary_logs(conn).await?;
            if now.first().map(|(name, _)| name) == logs.first().map(|(name, _)| name) {
                return Err(error);
            }
            logs = now;
        };
        start::resume(conn, server, position, verified).await
    }

    /// Looks at what is at the place and behind it. Says whether the last event that was read is still there, as far as that can be known.
    async fn look(
        &self,
        server: &Preflight,
        place: &Resume,
        logs: &[(String, u64)],
    ) -> Result<bool, SourceError> {
        let Some(look) = anchor::look(server.flavor, logs, &place.position.at, place.anchor)? else {
            return Ok(false);
        };
        let verified = look.verifies();
        let mut tail = tail::Tail::default();
        tail.connected(server.durable);
        tail.covers_from(place.since);
        let stream = self.stream(server, &look.request).await?;
        look.read(stream, tail).await?;
        Ok(verified)
    }

    /// The stream that is followed, by the driver of the config.
    async fn followed(
        &self,
        server: &Preflight,
        request: &start::Request,
    ) -> Result<EventStream, SourceError> {
        #[cfg(feature = "mysql-cdc")]
        if self.config.source.driver == Driver::MysqlCdc {
            let account = self.connector.plain_account().await?;
            let (flavor, server_id) = (server.flavor, server.server_id);
            let dump = cdc::Dump { flavor, server_id, request, heartbeat: stream::HEARTBEAT };
            return match cdc::open(account, dump).await {
                Ok(stream) => Ok(stream),
                Err(cdc::OpenError::Refused(refusal)) => Err(refusal.into()),
                Err(cdc::OpenError::Stream(error)) => Err(self.explain(error, server).await),
            };
        }
        self.stream(server, request).await
    }

    /// Refuses settings that the driver of the config can't follow, and gives the columns that it can't decode.
    #[cfg(feature = "mysql-cdc")]
    pub(super) async fn undecodable_columns(
        &self,
    ) -> Result<Vec<cdc::limits::UndecodableColumn>, SourceError> {
        if self.config.source.driver != Driver::MysqlCdc {
            return Ok(Vec::new());
        }
        let mut conn = self.connector.primary().await?;
        cdc::limits::refuse_settings(&mut conn).await?;
        let columns = cdc::limits::undecodable_columns(&mut conn).await?;
        conn.disconnect().await.ok();
        Ok(columns)
    }

    async fn stream(&self, server: &Preflight, request: &start::Request) -> Result<EventStream, SourceError> {
        match EventStream::open(self.connector.stream().await?, server, request).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(self.explain(error, server).await),
        }
    }

    /// The dump itself tells that the account may not (MariaDB with roles): say which GRANT is missing.
    async fn explain(&self, error: StreamError, server: &Preflight) -> SourceError {
        if let StreamError::Server { code: 1227 | 1045, .. } = error
            && let Ok(mut conn) = self.connector.primary().await
            && let Ok(refusal) = preflight::grants_refusal(&mut conn, server.flavor).await
        {
            return refusal.into();
        }
        follow::stream_error(error, start::nowhere())
    }
}
