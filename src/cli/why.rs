//! `rowbust why`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust why`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct WhyArgs {}

pub(super) fn execute(_global: &Global, _args: &WhyArgs) -> Exit {
    not_built_yet("why")
}
