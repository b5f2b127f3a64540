//! `rowbust schema`

use super::{Exit, Global, out};
use crate::config;

/// Arguments of `rowbust schema`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "The schema (draft 2020-12) lets an editor complete and check the config while you write. Name it in the
config's first line:
  # yaml-language-server: $schema=rowbust.schema.json

Example:
  rowbust schema > rowbust.schema.json"
)]
pub struct SchemaArgs {}

pub(super) fn execute(_global: &Global, _args: &SchemaArgs) -> Exit {
    out::json(&config::schema());
    Exit::Ok
}
