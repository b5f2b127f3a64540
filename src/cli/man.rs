//! `rowbust man`

use std::path::PathBuf;

use clap::CommandFactory as _;

use super::{Args, Exit, Global, out};

/// Arguments of `rowbust man`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  rowbust man | man -l -
  rowbust man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages of all commands into this folder, which is made
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

pub(super) fn execute(_global: &Global, args: &ManArgs) -> Exit {
    let written = match &args.dir {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Args::command(), dir))
            .map_err(|error| format!("can't write the pages to {}: {error}", dir.display())),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command())
                .render(&mut page)
                .map(|()| out::stdout(&String::from_utf8_lossy(&page)))
                .map_err(|error| format!("can't make the page: {error}"))
        }
    };
    match written {
        Ok(()) => Exit::Ok,
        Err(message) => {
            out::complain(&message);
            Exit::Failure
        }
    }
}
