//! `rowbust pause|resume`

use serde_json::json;

use super::{Exit, Global, admin::Admin, load, out};

/// Arguments of `rowbust pause`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Reading stops at the end of a transaction; what was read is finished and checkpointed. /readyz says `paused`. A restart
reads on. Keep an eye on the binlog's retention: what is purged meanwhile is a gap.

Example:
  rowbust pause && … && rowbust resume"
)]
pub struct PauseArgs {}

/// Arguments of `rowbust resume`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  rowbust resume")]
pub struct ResumeArgs {}

pub(super) fn pause(global: &Global, _args: &PauseArgs) -> Exit {
    ask(global, "/pause", |changed, _| if changed { "paused".into() } else { "it was paused already".into() })
}

pub(super) fn resume(global: &Global, _args: &ResumeArgs) -> Exit {
    ask(global, "/resume", |changed, _| if changed { "resumed".into() } else { "it wasn't paused".into() })
}

fn ask(global: &Global, path: &str, say: impl FnOnce(bool, &serde_json::Value) -> String) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::new(&config);
    match admin.post(path, &json!({})) {
        Ok(answer) if global.json => {
            out::json(&answer);
            Exit::Ok
        }
        Ok(answer) => {
            out::stdout(&format!("{}\n", say(answer["changed"] == true, &answer)));
            Exit::Ok
        }
        Err(refused) => admin.complain(global, &refused),
    }
}
