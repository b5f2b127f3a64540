//! A replica that does nothing but receive: mysql_async's binlog stream, as the daemon's transport uses it.

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use mysql_async::{BinlogStream, BinlogStreamRequest, prelude::Queryable};
use rowbust_binlog::{Header, RawEvent, event_type};

use super::env::connect;

/// An open stream.
pub(super) struct Replica {
    stream: BinlogStream,
    /// The driver cuts the checksum algorithm off the format description.
    description: Vec<u8>,
}

impl Replica {
    /// From the head of a file.
    pub(super) async fn open(port: u16, mysql: bool, server_id: u32, file: &str) -> Result<Self> {
        let mut conn = connect(port).await?;
        conn.query_drop("SET @master_heartbeat_period=2000000000, @source_heartbeat_period=2000000000")
            .await?;
        if !mysql {
            conn.query_drop("SET @mariadb_slave_capability=4").await?;
        }
        let request = BinlogStreamRequest::new(server_id).with_filename(file.as_bytes()).with_pos(4_u64);
        let stream = conn.get_binlog_stream(request).await?;
        Ok(Self { stream, description: Vec::new() })
    }

    /// Reads events until `each` says no.
    pub(super) async fn read(&mut self, mut each: impl FnMut(&RawEvent<'_>) -> Result<bool>) -> Result<()> {
        loop {
            let event = self.stream.next().await.context("the server ended the stream")??;
            let h = event.header();
            let header = Header {
                timestamp: h.timestamp(),
                event_type: h.event_type_raw(),
                server_id: h.server_id(),
                event_size: h.event_size(),
                log_pos: h.log_pos(),
                flags: h.flags_raw(),
            };
            let mut body = event.data();
            if header.event_type == event_type::FORMAT_DESCRIPTION {
                self.description = body.to_vec();
                if let Ok(Some(algorithm)) = event.footer().get_checksum_alg() {
                    self.description.push(algorithm as u8);
                }
                body = &self.description;
            }
            let raw = RawEvent::from_parts(header, body, event.checksum().map(u32::from_le_bytes));
            if !each(&raw)? {
                return Ok(());
            }
        }
    }
}
