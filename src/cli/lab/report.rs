//! `rowbust lab report`

use std::path::PathBuf;

use rowbust_lab::{live::LiveError, report};
use serde_json::json;

use super::{
    super::{Exit, Global, out},
    compare::summary_at,
};

/// Arguments of `rowbust lab report`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "`rowbust lab run` and `compare` write the report too; this makes it anew, from summary.json.

Example:
  rowbust lab report rowbust-lab/1"
)]
pub struct ReportArgs {
    /// Folder of results, or a summary.json
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Folder for the report [default: where summary.json is]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub(super) fn execute(global: &Global, args: &ReportArgs) -> Exit {
    let written = || {
        let summary = summary_at(&args.path)?;
        let beside = if args.path.is_dir() { Some(args.path.as_path()) } else { args.path.parent() };
        let dir = args.out.clone().or_else(|| beside.map(PathBuf::from)).unwrap_or_default();
        Ok::<_, LiveError>(report::write(&summary, &dir)?)
    };
    match written() {
        Ok(files) if global.json => {
            out::json(&json!({ "schema_version": 1, "report": files.first(), "files": files }));
            Exit::Ok
        }
        Ok(files) => {
            if let Some(page) = files.first() {
                out::stdout(&format!("{}\n", page.display()));
            }
            Exit::Ok
        }
        Err(error) => {
            out::complain(&error.to_string());
            if matches!(error, LiveError::Usage(_)) { Exit::Usage } else { Exit::Failure }
        }
    }
}
