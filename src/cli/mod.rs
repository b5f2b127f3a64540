//! The command line: arguments, what each command prints, exit codes.
//!
//! Guarantees: data goes to stdout and everything else to stderr; with `--json` the data is one JSON object with a
//! `schema_version`; `NO_COLOR` and non-terminals are honoured. Commands of the contract that aren't built yet exit
//! with 2 and say so. May depend on every part.

mod admin;
mod check;
mod checkpoint;
mod completions;
mod config_show;
mod explain;
mod flush;
mod golden;
mod healthcheck;
mod init;
mod lab;
mod man;
mod out;
mod pause;
mod reload;
mod retry;
mod run;
mod schema;
mod status;
mod watch;
mod why;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

pub use self::{
    check::CheckArgs,
    checkpoint::SetArgs,
    completions::CompletionsArgs,
    config_show::ConfigCommand,
    explain::ExplainArgs,
    flush::FlushArgs,
    golden::TestArgs,
    healthcheck::HealthcheckArgs,
    init::InitArgs,
    lab::{CompareArgs, LabCommand, LiveArgs, ModelArgs, ReportArgs, RunArgs as LabRunArgs},
    man::ManArgs,
    pause::{PauseArgs, ResumeArgs},
    reload::ReloadArgs,
    retry::{DropArgs, LsArgs, RequeueArgs, ShowArgs},
    run::RunArgs,
    schema::SchemaArgs,
    status::StatusArgs,
    watch::WatchArgs,
    why::WhyArgs,
};
use crate::config::{self, Config};

/// Exit codes, the same for all commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; a drained SIGTERM too.
    Ok,
    /// 1: anything that none of the others says: the daemon gave up, a store is damaged or in use.
    Failure,
    /// 2: wrong arguments, or a command that isn't built yet. (clap exits so by itself.)
    Usage,
    /// 69 (`EX_UNAVAILABLE`): MySQL, Redis or Kafka can't be reached by a command that needs it.
    Unavailable,
    /// 78 (`EX_CONFIG`): the config has mistakes, or a server contradicts it (binlog off, grants missing).
    Config,
    /// 99: a threshold or consistency check failed: `lab model` found a trace.
    Threshold,
    /// 130: a second signal cut the drain short.
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 69,
            Exit::Config => 78,
            Exit::Threshold => 99,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Keeps caches true: follows the MySQL/MariaDB binlog and removes the Redis keys that each row change makes wrong.
#[derive(Debug, Parser)]
#[command(name = "rowbust", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  rowbust check                      is ./rowbust.yaml right, and what does it say?
  rowbust check --live               are the servers as it needs them?
  rowbust explain --table shop.products --after '{\"id\": \"1\"}'
  rowbust -c /etc/rowbust.yaml run   follow the binlog until SIGTERM

Exit codes: 0 ok, 1 failure, 2 usage, 69 a server can't be reached, 78 bad config, 99 a check failed, 130 a second signal.")]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Config file
    #[arg(short, long, global = true, value_name = "FILE", default_value = "./rowbust.yaml")]
    pub config: PathBuf,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the binlog and remove keys, until SIGTERM or SIGINT
    Run(RunArgs),
    /// Check the config file, and with --live the servers
    Check(CheckArgs),
    /// Show which keys a row change removes, and why not others
    Explain(ExplainArgs),
    /// Show why a key was removed: its mappings, its last removals, what is owed
    Why(WhyArgs),
    /// Show row changes and the keys that they make wrong, live; changes nothing
    Watch(WatchArgs),
    /// Show the state of a running daemon
    Status(StatusArgs),
    /// Exit with 0 if the daemon is well, else with 1; for containers
    Healthcheck(HealthcheckArgs),
    /// Remove the keys that a table's mappings can make, or one key
    Flush(FlushArgs),
    /// Stop reading at the end of a transaction; the checkpoint is kept
    Pause(PauseArgs),
    /// Go on reading
    Resume(ResumeArgs),
    /// Let the daemon take the config file anew
    Reload(ReloadArgs),
    /// Run the golden cases of a config: row in, keys out
    Test(TestArgs),
    /// Print the JSON Schema of the config
    Schema(SchemaArgs),
    /// Print the config as it was understood
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a first config from a live database
    Init(InitArgs),
    /// Compare cache strategies
    #[command(subcommand)]
    Lab(LabCommand),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man(ManArgs),
    /// Look at the position to resume from, or change it
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Look at removals that failed, and send dead letters back
    #[command(subcommand)]
    Retry(RetryCommand),
}

/// `rowbust checkpoint`
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Print the saved position
    #[command(after_help = "Example:\n  rowbust checkpoint show --json")]
    Show,
    /// Put another position in its place
    Set(SetArgs),
}

/// `rowbust retry`
#[derive(Debug, Subcommand)]
pub enum RetryCommand {
    /// List removals that wait, or dead letters
    Ls(LsArgs),
    /// Show removals or dead letters with all that is known of them
    Show(ShowArgs),
    /// Send dead letters back to the queue
    Requeue(RequeueArgs),
    /// Drop dead letters for good
    Drop(DropArgs),
}

/// Commands and flags of the contract that come later.
const LATER: &[&str] = &["audit", "top", "--role"];

/// Parses the arguments.
///
/// # Errors
/// The exit code, after the message was printed: 0 for `--help` and `--version`, else 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, Exit> {
    Args::try_parse_from(args).map_err(|error| {
        let context = match error.kind() {
            ErrorKind::InvalidSubcommand => error.get(ContextKind::InvalidSubcommand),
            ErrorKind::UnknownArgument => error.get(ContextKind::InvalidArg),
            _ => None,
        };
        if let Some(ContextValue::String(what)) = context
            && LATER.contains(&what.split('=').next().unwrap_or(what))
        {
            out::complain(&format!("`{what}` is not built yet"));
            return Exit::Usage;
        }
        // Nothing is left to do if the terminal is gone.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Ok }
    })
}

/// Runs a command to its end.
pub fn execute(args: &Args) -> Exit {
    let global = &args.global;
    match &args.command {
        Command::Run(run) => run::execute(global, run),
        Command::Check(check) => check::execute(global, check),
        Command::Explain(explain) => explain::execute(global, explain),
        Command::Why(why) => why::execute(global, why),
        Command::Watch(watch) => watch::execute(global, watch),
        Command::Status(status) => status::execute(global, status),
        Command::Healthcheck(check) => healthcheck::execute(global, check),
        Command::Flush(flush) => flush::execute(global, flush),
        Command::Pause(pause) => pause::pause(global, pause),
        Command::Resume(resume) => pause::resume(global, resume),
        Command::Reload(reload) => reload::execute(global, reload),
        Command::Test(test) => golden::execute(global, test),
        Command::Schema(schema) => schema::execute(global, schema),
        Command::Config(command) => config_show::execute(global, command),
        Command::Init(init) => init::execute(global, init),
        Command::Lab(command) => lab::execute(global, command),
        Command::Completions(completions) => completions::execute(global, completions),
        Command::Man(man) => man::execute(global, man),
        Command::Checkpoint(CheckpointCommand::Show) => checkpoint::show(global),
        Command::Checkpoint(CheckpointCommand::Set(set)) => checkpoint::set(global, set),
        Command::Retry(RetryCommand::Ls(ls)) => retry::ls(global, ls),
        Command::Retry(RetryCommand::Show(show)) => retry::show(global, show),
        Command::Retry(RetryCommand::Drop(drop)) => retry::drop_letters(global, drop),
        Command::Retry(RetryCommand::Requeue(requeue)) => retry::requeue(global, requeue),
    }
}

/// Loads the config, or prints its mistakes.
fn load(global: &Global) -> Result<Config, Exit> {
    config::load(&global.config).map_err(|report| {
        if global.json {
            out::json(&report.to_json());
        } else {
            out::stderr(&report.render(out::stderr_style()));
        }
        Exit::Config
    })
}

/// A runtime for commands that wait for something.
fn block_on<F: Future>(future: F) -> Result<F::Output, Exit> {
    match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => Ok(runtime.block_on(future)),
        Err(error) => {
            out::complain(&format!("no runtime: {error}"));
            Err(Exit::Failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_comes_later_is_a_usage_error() {
        for args in ["check --strict", "checkpoint set", "lab", "audit", "nonsense", ""] {
            let args = std::iter::once("rowbust").chain(args.split_whitespace()).map(OsString::from);
            assert_eq!(parse(args).err(), Some(Exit::Usage));
        }
        assert_eq!(parse(["rowbust", "--help"].map(OsString::from)).err(), Some(Exit::Ok));
    }
}
