//! `rowbust test`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust test`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct TestArgs {}

pub(super) fn execute(_global: &Global, _args: &TestArgs) -> Exit {
    not_built_yet("test")
}
