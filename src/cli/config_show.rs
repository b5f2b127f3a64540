//! `rowbust config show`

use super::{Exit, Global, not_built_yet};

/// `rowbust config`
#[derive(Debug, clap::Subcommand)]
#[command(hide = true)]
pub enum ConfigCommand {
    /// Print it, normalised, without secrets
    Show,
}

pub(super) fn execute(_global: &Global, command: &ConfigCommand) -> Exit {
    match command {
        ConfigCommand::Show => not_built_yet("config show"),
    }
}
