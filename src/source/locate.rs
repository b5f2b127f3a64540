//! Where a place in the binlog is, with all that a checkpoint says of it: for `rowbust checkpoint set`.
//!
//! Guarantees: a stream was opened there, so the server still has what lies behind; nothing is handed on. May depend on the parent.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use rowbust_binlog::{Rows, TableMap};
use tokio_util::sync::CancellationToken;

use super::{
    Preflight, Scope, Sink, Source,
    error::{Refusal, SourceError},
    position::{Anchor, Coordinates, Position},
    seam::Transaction,
};
use crate::config::{Checkpoint, Config, Start};

/// The file may have to be read up to the place.
const WITHIN: Duration = Duration::from_secs(120);

/// The server, and the position that `start` means there.
///
/// # Errors
/// The server can't be reached or followed, or no longer has what lies behind the place.
pub async fn locate(config: &Config, start: Start) -> Result<(Preflight, Position), SourceError> {
    let mut config = config.clone();
    config.source.start = start;
    // No schema history is opened.
    config.checkpoint = Checkpoint::file(PathBuf::new());
    let source = Source::new(Arc::new(config));
    let server = source.preflight().await?;
    let found = CancellationToken::new();
    let mut place = Place { found: found.clone(), position: None };
    let ended = tokio::time::timeout(WITHIN, source.run(None, &mut place, &found, |_| {})).await;
    match (place.position, ended) {
        (Some(position), _) => Ok((server, position)),
        (None, Ok(Err(error))) => Err(error),
        _ => Err(SourceError::Lost(format!("the place isn't found within {} s", WITHIN.as_secs()))),
    }
}

/// Ends the reading where it begins.
struct Place {
    found: CancellationToken,
    position: Option<Position>,
}

impl Sink for Place {
    type Error = Infallible;

    fn started(&mut self, position: &Position) {
        self.position = Some(position.clone());
        self.found.cancel();
    }

    fn begin(&mut self, _: Transaction<'_>) {}

    fn is_mapped(&self, _: &str, _: &str) -> bool {
        false
    }

    fn is_schema_mapped(&self, _: &str) -> bool {
        false
    }

    fn table(&mut self, _: usize, _: &TableMap) -> Result<(), Refusal> {
        Ok(())
    }

    fn rows(&mut self, _: &Rows<'_>, _: &TableMap, _: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn widen(&mut self, _: &Scope, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn commit(&mut self, _: &Coordinates, _: Option<Anchor>) {}

    fn moved(&mut self, _: &Position, _: &str) {}

    fn gap(&mut self, _: &Position, _: &str, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn abandon(&mut self) {}

    fn wants_flush(&self) -> bool {
        false
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
