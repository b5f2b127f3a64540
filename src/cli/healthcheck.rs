//! `rowbust healthcheck`

use std::time::Duration;

use serde_json::json;

use super::{
    Exit, Global,
    admin::{Admin, Refused},
    load, out,
};

/// Arguments of `rowbust healthcheck`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Asks /livez, or /readyz, at the config's `admin.listen`. Exits with 0 or 1, as containers want it; 78 if the
config itself is wrong.

Examples:
  rowbust healthcheck
  rowbust healthcheck --ready --timeout 1"
)]
pub struct HealthcheckArgs {
    /// Whether it does its work, not only whether it lives
    #[arg(long)]
    pub ready: bool,
    /// Longest wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
}

pub(super) fn execute(global: &Global, args: &HealthcheckArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::with_timeout(&config, Duration::from_secs(args.timeout));
    let path = if args.ready { "/readyz" } else { "/livez" };
    let (ok, why) = match admin.text(path) {
        Ok((200, said)) => (true, said.trim_end().to_owned()),
        Ok((_, said)) => (false, said.trim_end().to_owned()),
        Err(refused @ (Refused::NoAnswer(_) | Refused::Said { .. })) => {
            (false, format!("no daemon answers at {}: {refused}", config.admin.listen))
        }
    };
    if global.json {
        out::json(&json!({ "schema_version": 1, "ok": ok, "path": path, "said": why }));
    } else if ok {
        out::stdout(&format!("{why}\n"));
    } else {
        out::complain(&why);
    }
    if ok { Exit::Ok } else { Exit::Failure }
}
