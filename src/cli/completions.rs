//! `rowbust completions`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct CompletionsArgs {}

pub(super) fn execute(_global: &Global, _args: &CompletionsArgs) -> Exit {
    not_built_yet("completions")
}
