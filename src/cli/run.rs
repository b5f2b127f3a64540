//! `rowbust run`

use std::time::Duration;

use super::{Exit, Global, load, out};
use crate::{
    config::Config,
    daemon::{self, End, Options},
    telemetry,
};

/// Arguments of `rowbust run`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  rowbust run
  rowbust -c /etc/rowbust/rowbust.yaml run
  rowbust run --dry-run --json | head
  rowbust run --flush-new

SIGHUP reads the config again; a file with mistakes leaves the old one in place.
SIGTERM and SIGINT drain: what was read is removed, the checkpoint saved, exit 0. A second signal exits at once with
130; nothing is lost, the next run begins at the checkpoint.")]
pub struct RunArgs {
    /// Remove the keyspaces of mappings that are new since the last run: what was cached before may be stale
    #[arg(long, conflicts_with = "dry_run")]
    pub flush_new: bool,
    /// Follow and decide as ever, but remove nothing and save nothing: print what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) fn execute(global: &Global, args: &RunArgs) -> Exit {
    match load(global) {
        Ok(config) if args.dry_run => super::watch::dry_run(global, &config),
        Ok(config) => follow(config, Options { path: global.config.clone(), flush_new: args.flush_new }),
        Err(exit) => exit,
    }
}

/// Follows the binlog until a signal or a failure.
fn follow(config: Config, options: Options) -> Exit {
    telemetry::install_log();
    #[cfg(feature = "failpoints")]
    let _armed = crate::failpoint::arm();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::complain(&format!("no runtime: {error}"));
            return Exit::Failure;
        }
    };
    let ended = runtime.block_on(daemon::run(config, options));
    // A thread that hangs in a driver must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match ended {
        Ok(End::Drained) => Exit::Ok,
        Ok(End::Unfinished) => Exit::Failure,
        Ok(End::Interrupted) => Exit::Interrupted,
        Err(error) => {
            out::complain(&error.to_string());
            error.exit()
        }
    }
}
