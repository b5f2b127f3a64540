//! `rowbust run`

use super::{Exit, Global, load, out};
use crate::config::Config;

/// Arguments of `rowbust run`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  rowbust run
  rowbust -c /etc/rowbust/rowbust.yaml run

SIGTERM and SIGINT drain: what was read is removed, the checkpoint saved, exit 0. A second signal exits at once with
130; nothing is lost, the next run begins at the checkpoint.")]
pub struct RunArgs {}

pub(super) fn execute(global: &Global, _args: &RunArgs) -> Exit {
    match load(global) {
        Ok(config) => follow(config),
        Err(exit) => exit,
    }
}

/// Follows the binlog until a signal or a failure.
fn follow(_config: Config) -> Exit {
    out::complain("`run` is not built yet");
    Exit::Usage
}
