//! `rowbust flush`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust flush`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct FlushArgs {}

pub(super) fn execute(_global: &Global, _args: &FlushArgs) -> Exit {
    not_built_yet("flush")
}
