//! `rowbust reload`

use std::time::Duration;

use serde_json::json;

use super::{
    Exit, Global,
    admin::{Admin, Refused},
    load, out,
};

/// A drain may come before the answer.
const WITHIN: Duration = Duration::from_secs(120);

/// Arguments of `rowbust reload`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "All of the new file or nothing: with a mistake, or a change that a running daemon can't make, the old config stays and
the exit code is 78. SIGHUP does the same without an answer. What was read is finished with the old config first.

Examples:
  rowbust check && rowbust reload
  rowbust reload --flush-new"
)]
pub struct ReloadArgs {
    /// Remove the keyspaces of mappings that are new: what was cached before may be stale
    #[arg(long)]
    pub flush_new: bool,
}

pub(super) fn execute(global: &Global, args: &ReloadArgs) -> Exit {
    // The file names the address: with mistakes in it there is nobody to ask, and nothing that the daemon would take.
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::with_timeout(&config, WITHIN);
    match admin.post("/reload", &json!({ "flush_new": args.flush_new })) {
        Ok(answer) if global.json => {
            out::json(&answer);
            Exit::Ok
        }
        Ok(answer) => {
            out::stdout(if answer["changed"] == true {
                "the daemon runs with the new config\n"
            } else {
                "the file says what it said before\n"
            });
            Exit::Ok
        }
        Err(refused) => {
            let exit = admin.complain(global, &refused);
            if matches!(refused, Refused::Said { status: 422, .. }) { Exit::Config } else { exit }
        }
    }
}
