//! `rowbust pause|resume`

use super::{Exit, Global, not_built_yet};

/// Arguments of `rowbust pause`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct PauseArgs {}

pub(super) fn pause(_global: &Global, _args: &PauseArgs) -> Exit {
    not_built_yet("pause")
}

/// Arguments of `rowbust resume`.
#[derive(Debug, Clone, clap::Args)]
#[command(hide = true)]
pub struct ResumeArgs {}

pub(super) fn resume(_global: &Global, _args: &ResumeArgs) -> Exit {
    not_built_yet("resume")
}
