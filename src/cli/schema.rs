//! `rowbust schema`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust schema`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct SchemaArgs {}

pub(super) fn execute(_global: &Global, _args: &SchemaArgs) -> Exit {
    not_built_yet("schema")
}
