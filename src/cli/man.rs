//! `rowbust man`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust man`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct ManArgs {}

pub(super) fn execute(_global: &Global, _args: &ManArgs) -> Exit {
    not_built_yet("man")
}
