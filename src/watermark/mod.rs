//! Stub to be replaced.
#![allow(missing_docs)]
use crate::source::position::CommitSpan;
use std::time::Instant;
#[derive(Debug, Clone)]
pub struct Watermark;
pub struct Witness;
impl std::fmt::Display for Witness { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("stub") } }
impl Witness { pub fn is_delay(&self) -> bool { true } }
impl Watermark {
    pub fn new(_c: &crate::config::Config, _s: &crate::source::Preflight) -> Self { Self }
    pub fn visible_since(&self, _span: &CommitSpan) -> Option<Instant> { Some(Instant::now()) }
    pub fn changed(&self) -> impl Future<Output = ()> { tokio::time::sleep(std::time::Duration::from_millis(100)) }
    pub fn demand(&self) {}
    pub fn witness(&self) -> Witness { Witness }
    pub async fn run(self, stop: tokio_util::sync::CancellationToken) -> Result<(), std::io::Error> { stop.cancelled().await; Ok(()) }
}
