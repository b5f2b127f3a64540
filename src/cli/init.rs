//! `rowbust init`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust init`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct InitArgs {}

pub(super) fn execute(_global: &Global, _args: &InitArgs) -> Exit {
    not_built_yet("init")
}
