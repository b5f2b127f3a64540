//! `rowbust lab`

mod compare;
mod model;
mod report;
mod run;

pub use self::{
    compare::CompareArgs,
    model::ModelArgs,
    report::ReportArgs,
    run::{LiveArgs, RunArgs},
};
use super::{Exit, Global};

/// `rowbust lab`
#[derive(Debug, clap::Subcommand)]
pub enum LabCommand {
    /// Explore every interleaving of a strategy's steps: the shortest way to a stale value, or none
    Model(ModelArgs),
    /// Run a strategy on real servers, under load and a fault, and judge what its readers were given
    Run(RunArgs),
    /// Run many, and print one table: what each strategy really gives
    Compare(CompareArgs),
    /// Make the report of a folder of results anew
    Report(ReportArgs),
}

pub(super) fn execute(global: &Global, command: &LabCommand) -> Exit {
    match command {
        LabCommand::Model(args) => model::execute(global, args),
        LabCommand::Run(args) => run::execute(global, args),
        LabCommand::Compare(args) => compare::execute(global, args),
        LabCommand::Report(args) => report::execute(global, args),
    }
}

/// That a name isn't known, with the nearest one and all others.
fn unknown<'a>(what: &str, name: &str, all: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = all.collect();
    let near = names.iter().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    let near = near
        .filter(|near| strsim::jaro(near, name) > 0.8)
        .map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
    format!("there is no {what} `{name}`{near}. There are: {}", names.join(", "))
}
