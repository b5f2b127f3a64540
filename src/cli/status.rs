//! `rowbust status`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust status`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct StatusArgs {}

pub(super) fn execute(_global: &Global, _args: &StatusArgs) -> Exit {
    not_built_yet("status")
}
