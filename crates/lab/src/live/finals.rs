//! What cache and database hold.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use rowbust_protocol::lease::Held;

use super::{LiveError, actor::Item, db::Link, error::LiveError as Error, stage::Stage};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// Nothing that a reader would be given: nothing at all, or a lease.
    Absent,
    /// The note that there is no row.
    Null,
    /// This value.
    Value(u64),
    /// Something else.
    Foreign,
}

impl Cached {
    pub(super) fn parse(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else { return Self::Absent };
        match Held::parse(bytes) {
            Held::Null | Held::Early { value: None, .. } => Self::Null,
            Held::Lease(_) | Held::Unknown => Self::Absent,
            Held::Value(bytes) | Held::Early { value: Some(bytes), .. } => {
                serde_json::from_slice::<Item>(bytes).map_or(Self::Foreign, |item| Self::Value(item.val))
            }
        }
    }
}

/// Version and value by cell.
pub(super) type State = HashMap<u32, (u64, u64)>;

/// What the database holds, as this connection sees it.
pub(super) async fn database(stage: &Stage, link: &Link) -> Result<State, LiveError> {
    let reading = Error::database("reading all rows");
    let rows: Vec<(u32, u64, u64)> = link.all(&stage.workload.state(&stage.schema)).await.map_err(reading)?;
    let cells = rows.into_iter().flat_map(|(item, version, val)| {
        stage.workload.cells_of(item).map(move |cell| (cell, (version, val)))
    });
    Ok(cells.collect())
}

/// What Redis holds, by cell.
pub(super) async fn cached(stage: &Stage, raw: &mut MultiplexedConnection) -> Result<Vec<Cached>, LiveError> {
    let all = stage.cached(raw).await.map_err(Error::redis("reading all keys"))?;
    Ok(all.iter().map(|bytes| Cached::parse(bytes.as_deref())).collect())
}
