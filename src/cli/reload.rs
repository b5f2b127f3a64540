//! `rowbust reload`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust reload`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct ReloadArgs {}

pub(super) fn execute(_global: &Global, _args: &ReloadArgs) -> Exit {
    not_built_yet("reload")
}
