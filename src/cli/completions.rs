//! `rowbust completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Args, Exit, Global, out};

/// Arguments of `rowbust completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  rowbust completions bash > /etc/bash_completion.d/rowbust
  rowbust completions fish > ~/.config/fish/completions/rowbust.fish")]
pub struct CompletionsArgs {
    /// The shell that reads them
    #[arg(value_enum)]
    pub shell: Shell,
}

pub(super) fn execute(_global: &Global, args: &CompletionsArgs) -> Exit {
    // Into memory first: a reader that went away (`| head`) is no failure.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "rowbust", &mut text);
    out::stdout(&String::from_utf8_lossy(&text));
    Exit::Ok
}
