//! `rowbust config show`

use serde_json::json;

use super::{Exit, Global, load, out};

/// `rowbust config`
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print it, normalised and with all defaults, without secrets
    #[command(
        after_help = "Secrets are shown as ****. Fields without a value of their own (a password that isn't there, a server_id
that is derived) are left out.

Examples:
  rowbust config show
  rowbust -c shop.yaml config show --json"
    )]
    Show,
}

pub(super) fn execute(global: &Global, command: &ConfigCommand) -> Exit {
    let ConfigCommand::Show = command;
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if global.json {
        let file = global.config.display().to_string();
        out::json(&json!({ "schema_version": 1, "file": file, "config": config.shown().to_json() }));
    } else {
        out::stdout(&config.shown().to_yaml());
    }
    Exit::Ok
}
