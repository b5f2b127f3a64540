//! `rowbust watch`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust watch`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct WatchArgs {}

pub(super) fn execute(_global: &Global, _args: &WatchArgs) -> Exit {
    not_built_yet("watch")
}
