//! Stub to be replaced.
#![allow(missing_docs)]
use crate::source::position::CommitSpan;
use std::time::Instant;
#[derive(Debug, Clone)]
pub struct Watermark;
impl Watermark {
    pub fn visible_since(&self, _span: &CommitSpan) -> Option<Instant> {
        None
    }
    pub fn changed(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }
    pub fn demand(&self) {}
}
